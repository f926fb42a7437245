//! JPEG: grey, YCbCr, RGB, CMYK and YCCK, baseline and progressive.
//!
//! The decoder paints the missing part of a cut-off file grey and says nothing, so the end mark is looked for first. Files
//! that are whole but odd (stray bytes between segments) get a second, lenient pass, as other readers give them.

use image::{DynamicImage, RgbImage};
use zune_jpeg::{
    JpegDecoder,
    errors::DecodeErrors,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::{broken, check_memory, check_size, orientation};
use crate::{Error, Result};

/// Usual progressive files have about ten scans; each costs a pass over the whole picture.
const MAX_SCANS: usize = 40;

pub(super) fn decode(bytes: &[u8]) -> Result<(DynamicImage, bool)> {
    let layout = Layout::of(bytes);
    if let Some(frame) = &layout.frame {
        check_size(frame.width, frame.height)?;
        check_memory(frame.decode_bytes())?;
    }
    if !layout.ends {
        return Err(broken("jpeg", "it ends too early"));
    }
    let image = match decode_with(bytes, true) {
        Err(Error::BrokenImage { .. }) => decode_with(bytes, false)?,
        other => other?,
    };
    Ok((image, false))
}

fn decode_with(bytes: &[u8], strict: bool) -> Result<DynamicImage> {
    let side = usize::from(u16::MAX);
    let options = DecoderOptions::default()
        .set_strict_mode(strict)
        .set_max_width(side)
        .set_max_height(side)
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(refused)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| broken("jpeg", "it has no size"))?;
    let (width, height) = (width as u32, height as u32);
    check_size(width, height)?;

    // CMYK and YCCK samples are taken as stored inverted, the Adobe convention that Pillow and the browsers follow as well.
    let pixels = decoder.decode().map_err(refused)?;
    let rgb = RgbImage::from_raw(width, height, pixels).ok_or_else(|| broken("jpeg", "its channels do not fit"))?;
    let mut image = DynamicImage::ImageRgb8(rgb);
    image.apply_orientation(orientation(decoder.exif().map(Vec::as_slice)));
    Ok(image)
}

fn refused(error: DecodeErrors) -> Error {
    let detail = match error {
        DecodeErrors::Format(detail) => detail,
        DecodeErrors::FormatStatic(detail) => detail.to_owned(),
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => "it ends too early".to_owned(),
        DecodeErrors::ZeroError => return Error::EmptyImage,
        other => other.to_string(),
    };
    broken("jpeg", detail.trim())
}

/// What the segments say, read without decoding: ITU-T T.81, annex B.
struct Layout {
    frame: Option<FrameHeader>,
    /// The end-of-image marker was met after a scan.
    ends: bool,
}

struct FrameHeader {
    width: u32,
    height: u32,
    progressive: bool,
    /// Horizontal and vertical sampling factor of each component.
    sampling: Vec<(u64, u64)>,
}

impl Layout {
    fn of(bytes: &[u8]) -> Layout {
        let mut layout = Layout { frame: None, ends: false };
        let (mut at, mut scanned) = (2, false);
        while let Some(marker) = next_marker(bytes, &mut at) {
            match marker {
                0xd9 if scanned => return Layout { ends: true, ..layout },
                // Stand-alone markers: restarts, start and end of image, TEM.
                0x01 | 0xd0..=0xd9 => continue,
                _ => {}
            }
            let Some(length) = be_u16(bytes, at).map(usize::from) else { break };
            if is_frame_header(marker) && layout.frame.is_none() {
                layout.frame = FrameHeader::read(marker, bytes.get(at + 2..).unwrap_or_default());
            }
            scanned |= marker == 0xda;
            at += length.max(2);
        }
        layout
    }
}

impl FrameHeader {
    fn read(marker: u8, body: &[u8]) -> Option<FrameHeader> {
        let (height, width, n_components) = (be_u16(body, 1)?, be_u16(body, 3)?, usize::from(*body.get(5)?));
        let components = body.get(6..6 + 3 * n_components)?;
        let sampling = components.chunks_exact(3).map(|c| (u64::from(c[1] >> 4), u64::from(c[1] & 15))).collect();
        Some(FrameHeader { width: width.into(), height: height.into(), progressive: marker == 0xc2, sampling })
    }

    /// RGB bytes, and for a progressive picture two bytes for every coefficient, which it keeps until the last scan.
    fn decode_bytes(&self) -> u64 {
        let pixels = u64::from(self.width) * u64::from(self.height);
        let max_h = self.sampling.iter().map(|s| s.0).max().unwrap_or(1).max(1);
        let max_v = self.sampling.iter().map(|s| s.1).max().unwrap_or(1).max(1);
        let samples: u64 = self.sampling.iter().map(|(h, v)| pixels * h * v / (max_h * max_v)).sum();
        3 * pixels + if self.progressive { 2 * samples } else { 0 }
    }
}

/// The next marker at or after `at`, which is moved behind it; entropy-coded bytes and fill bytes are passed over.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let rest = bytes.get(*at..)?;
        let offset = rest.iter().position(|&b| b == 0xff)?;
        let marker = *rest.get(offset + 1)?;
        *at += offset + if marker == 0xff { 1 } else { 2 };
        if marker != 0 && marker != 0xff {
            return Some(marker);
        }
    }
}

fn is_frame_header(marker: u8) -> bool {
    matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc)
}

fn be_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}
