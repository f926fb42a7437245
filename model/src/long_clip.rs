//! Long-CLIP (arXiv 2403.15378): how a CLIP for 77 tokens gets places for 248 of them, before it is trained on long texts.
//!
//! A trained one in the Hugging Face layout needs nothing of this: it is a CLIP whose config says 248.

/// The first places are well trained, and stay as they are.
const N_KEPT: usize = 20;
/// Each of the others becomes so many.
const N_STEPS: usize = 4;

/// (n, dim) to (4 n - 60, dim), 77 to 248: straight lines between neighbours, the last one drawn on.
///
/// # Panics
///
/// If there are not more than 20 whole rows.
pub fn stretch_positions(positions: &[f32], dim: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = positions.chunks_exact(dim).collect();
    assert!(rows.len() > N_KEPT && positions.len() == rows.len() * dim, "expected more than {N_KEPT} rows of {dim}");
    let last = rows.len() - 1;
    let mut stretched = rows[..N_KEPT].concat();
    for (i, row) in rows.iter().enumerate().skip(N_KEPT) {
        let from = i.min(last - 1);
        for share in (0..N_STEPS).map(|step| step as f32 / N_STEPS as f32) {
            let slope = rows[from].iter().zip(rows[from + 1]).map(|(from, to)| to - from);
            stretched.extend(row.iter().zip(slope).map(|(x, slope)| x + share * slope));
        }
    }
    stretched
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::fixture;

    #[test]
    fn the_table_is_the_published_one() {
        let file = fixture("clip-long/expected.safetensors");
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let rows = |name: &str| tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (short, expected) = (rows("positions_77"), rows("positions_248"));
        let received = stretch_positions(&short, 8);
        assert_eq!((received.len(), expected.len()), (248 * 8, 248 * 8));
        let difference = received.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference <= 1e-6, "{difference:e}");
    }
}
