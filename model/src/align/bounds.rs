//! Bounds of the sizes in a plan, which a flag or a damaged file may name: nothing is allocated for what is past them.

use std::{fmt::Display, ops::RangeInclusive};

/// `Err` names the size, its bounds and what was received.
pub(super) fn within<T: PartialOrd + Display>(name: &str, value: T, bounds: RangeInclusive<T>) -> Result<(), String> {
    match bounds.contains(&value) {
        true => Ok(()),
        false => Err(format!("{name}: expected {} to {}, received {value}", bounds.start(), bounds.end())),
    }
}

/// Numbers of a linear map with a bias.
pub(super) fn n_linear(n_in: usize, n_out: usize) -> u64 {
    (n_in as u64 + 1) * n_out as u64
}

/// Numbers of so many blocks of a transformer of this width.
pub(super) fn n_of_blocks(n_blocks: usize, dim: usize) -> u64 {
    let norms = 4 * dim as u64;
    n_blocks as u64
        * (n_linear(dim, 3 * dim) + n_linear(dim, dim) + n_linear(dim, 4 * dim) + n_linear(4 * dim, dim) + norms)
}
