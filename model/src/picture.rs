//! Bytes to pixels, safely: limits before decoding, orientation applied, everything turned into RGB.

use image::RgbImage;

use crate::Result;

/// Largest picture that is decoded: 64 megapixels.
pub const MAX_PIXELS: u64 = 64_000_000;
/// Largest side that is decoded.
pub const MAX_SIDE_PX: u32 = 16_384;
/// Most memory a decoder may take.
pub const MAX_DECODE_BYTES: u64 = 256 << 20;

/// A decoded picture, upright, on white where it was transparent.
#[derive(Clone, Debug)]
pub struct Picture {
    pub rgb: RgbImage,
    /// `jpeg`, `png`, `webp` or `gif`.
    pub format: &'static str,
    /// Frames that were left out of an animation.
    pub frames_ignored: bool,
}

/// Decodes an encoded picture. The format is read from the bytes, never from a name.
pub fn decode(bytes: &[u8]) -> Result<Picture> {
    let _ = bytes;
    todo!()
}
