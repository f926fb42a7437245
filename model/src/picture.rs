//! Bytes to pixels, safely: limits before decoding, orientation applied, everything turned into RGB.
//!
//! No input makes this panic, take more than `MAX_DECODE_BYTES`, or pass half a picture off as a whole one.

mod gif;
mod jpeg;
mod kind;
mod webp;

use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{DynamicImage, ImageDecoder, ImageError, Limits, Rgb, RgbImage, codecs, metadata::Orientation};

use self::kind::Kind;
use crate::{Error, Result};

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
///
/// 16-bit samples keep their high byte, as Pillow does; colour profiles are not applied, as in the usual training pipelines.
pub fn decode(bytes: &[u8]) -> Result<Picture> {
    if bytes.is_empty() {
        return Err(Error::EmptyImage);
    }
    let kind = Kind::of(bytes)?;
    let decoded = catch_unwind(AssertUnwindSafe(|| match kind {
        Kind::Jpeg => jpeg::decode(bytes),
        Kind::Png => decode_png(bytes),
        Kind::Webp => decode_webp(bytes),
        Kind::Gif => decode_gif(bytes),
    }));
    // A decoder that trips over its own assertion has met a broken file, and must not end a server.
    let (image, frames_ignored) = decoded.unwrap_or_else(|_| Err(broken(kind.name(), "the decoder gave up on it")))?;
    Ok(Picture { rgb: flatten(image), format: kind.name(), frames_ignored })
}

fn decode_png(bytes: &[u8]) -> Result<(DynamicImage, bool)> {
    let (Some(width), Some(height)) = (be_u32(bytes, 16), be_u32(bytes, 20)) else {
        return Err(broken("png", "it ends within its header"));
    };
    check_size(width, height)?;
    let decoder = codecs::png::PngDecoder::with_limits(Cursor::new(bytes), limits()).map_err(|e| broken("png", e))?;
    let animated = decoder.is_apng().map_err(|e| broken("png", e))?;
    Ok((read("png", decoder)?, animated))
}

fn decode_webp(bytes: &[u8]) -> Result<(DynamicImage, bool)> {
    webp::check_chunks(bytes)?;
    let decoder = codecs::webp::WebPDecoder::new(Cursor::new(bytes)).map_err(|e| broken("webp", e))?;
    let animated = decoder.has_animation();
    Ok((read("webp", decoder)?, animated))
}

fn decode_gif(bytes: &[u8]) -> Result<(DynamicImage, bool)> {
    let decoder = codecs::gif::GifDecoder::new(Cursor::new(bytes)).map_err(|e| broken("gif", e))?;
    Ok((read("gif", decoder)?, gif::has_second_frame(bytes)))
}

/// Checks size and memory, decodes, and turns the picture upright.
fn read(format: &'static str, mut decoder: impl ImageDecoder) -> Result<DynamicImage> {
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    check_memory(decoder.total_bytes())?;
    decoder.set_limits(limits()).map_err(|e| broken(format, e))?;
    let exif = decoder.exif_metadata().ok().flatten();
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| broken(format, e))?;
    image.apply_orientation(orientation(exif.as_deref()));
    Ok(image)
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE_PX);
    limits.max_image_height = Some(MAX_SIDE_PX);
    limits.max_alloc = Some(MAX_DECODE_BYTES);
    limits
}

fn check_size(width: u32, height: u32) -> Result<()> {
    if width == 0 || height == 0 {
        return Err(Error::EmptyImage);
    }
    if width > MAX_SIDE_PX || height > MAX_SIDE_PX || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(Error::ImageTooLarge { width, height, max_side: MAX_SIDE_PX, max_pixels: MAX_PIXELS });
    }
    Ok(())
}

fn check_memory(needs_bytes: u64) -> Result<()> {
    if needs_bytes > MAX_DECODE_BYTES {
        return Err(Error::ImageTooHeavy { needs_mib: needs_bytes.div_ceil(1 << 20), max_mib: MAX_DECODE_BYTES >> 20 });
    }
    Ok(())
}

/// What EXIF says about which side is up; some writers leave the JPEG prefix in place.
fn orientation(exif: Option<&[u8]>) -> Orientation {
    let tiff = exif.map(|bytes| bytes.strip_prefix(b"Exif\0\0").unwrap_or(bytes));
    tiff.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms)
}

/// Eight bits, three channels, on white.
fn flatten(image: DynamicImage) -> RgbImage {
    let high = |sample: u16| (sample >> 8) as u8;
    match image {
        DynamicImage::ImageRgb8(rgb) => rgb,
        DynamicImage::ImageLuma8(grey) => map(&grey, |p| Rgb([p[0]; 3])),
        DynamicImage::ImageLumaA8(grey) => map(&grey, |p| on_white([p[0]; 3], p[1])),
        DynamicImage::ImageRgba8(rgba) => map(&rgba, |p| on_white([p[0], p[1], p[2]], p[3])),
        DynamicImage::ImageLuma16(grey) => map(&grey, |p| Rgb([high(p[0]); 3])),
        DynamicImage::ImageLumaA16(grey) => map(&grey, |p| on_white([high(p[0]); 3], high(p[1]))),
        DynamicImage::ImageRgb16(rgb) => map(&rgb, |p| Rgb([high(p[0]), high(p[1]), high(p[2])])),
        DynamicImage::ImageRgba16(rgba) => map(&rgba, |p| on_white([high(p[0]), high(p[1]), high(p[2])], high(p[3]))),
        other => other.to_rgb8(),
    }
}

fn map<P: image::Pixel>(
    image: &image::ImageBuffer<P, Vec<P::Subpixel>>,
    to_rgb: impl Fn(&[P::Subpixel]) -> Rgb<u8>,
) -> RgbImage {
    let mut rgb = Vec::with_capacity(image.len() / usize::from(P::CHANNEL_COUNT) * 3);
    for pixel in image.as_raw().chunks_exact(usize::from(P::CHANNEL_COUNT)) {
        rgb.extend_from_slice(&to_rgb(pixel).0);
    }
    RgbImage::from_raw(image.width(), image.height(), rgb).expect("three samples were written for every pixel")
}

fn on_white(rgb: [u8; 3], alpha: u8) -> Rgb<u8> {
    let alpha = u32::from(alpha);
    Rgb(rgb.map(|c| ((u32::from(c) * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
}

/// The error for a picture that its decoder refuses.
fn broken(format: &'static str, detail: impl Into<Refusal>) -> Error {
    Error::BrokenImage { format, detail: detail.into().0 }
}

/// Why a decoder refuses, in words that fit behind "the png image is broken".
struct Refusal(String);

impl From<&str> for Refusal {
    fn from(detail: &str) -> Self {
        Refusal(detail.to_owned())
    }
}

impl From<ImageError> for Refusal {
    fn from(error: ImageError) -> Self {
        use std::error::Error as _;
        let cut_off = |e: &std::io::Error| e.kind() == std::io::ErrorKind::UnexpectedEof;
        let detail = match &error {
            ImageError::IoError(e) if cut_off(e) => "it ends too early".to_owned(),
            ImageError::Decoding(e) => e.source().map_or_else(|| e.to_string(), ToString::to_string),
            other => other.to_string(),
        };
        Refusal(detail.trim_end_matches(['.', '\n']).to_owned())
    }
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|b| u32::from_be_bytes(b.try_into().expect("four bytes were taken")))
}

#[cfg(test)]
mod tests;
