//! The RIFF frame around a WebP picture: every chunk must lie within the file before the decoder trusts its length.

use super::broken;
use crate::Result;

pub(super) fn check_chunks(bytes: &[u8]) -> Result<()> {
    let cut_off = || broken("webp", "it ends too early");
    let riff_bytes = le_u32(bytes, 4).ok_or_else(cut_off)?;
    let end = 8 + riff_bytes;
    if end > bytes.len() {
        return Err(cut_off());
    }
    let mut at = 12;
    while at + 8 <= end {
        let length = le_u32(bytes, at + 4).ok_or_else(cut_off)?;
        at += 8 + length;
        if at > end {
            return Err(cut_off());
        }
        at += length % 2;
    }
    Ok(())
}

fn le_u32(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
}
