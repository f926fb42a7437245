//! The questions that went most wrong, as people see them: texts, and pictures small enough to be part of the page.

use std::io::Cursor;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, Rgb, RgbImage, codecs::jpeg::JpegEncoder};

use crate::report::content::cut;
use crate::report::html::escaped;
use crate::report::{Report, numbers};
use crate::results::{Failure, Shown};

const N_FAILURES: usize = 20;
/// Of what stands above the right answer.
const N_ABOVE: usize = 4;
const N_LETTERS: usize = 600;
const THUMBNAIL_SIDE_PX: u32 = 160;
const JPEG_QUALITY: u8 = 80;
/// A larger picture is not opened.
const PICTURE_SIDE_PX: u32 = 30_000;
const PICTURE_BYTES: u64 = 512 << 20;

/// The section of failures; empty if there are none.
pub fn section(report: &Report) -> String {
    let failures = &report.results.failures;
    if failures.is_empty() {
        return String::new();
    }
    let last = report.results.methods.last().map_or("the last method", String::as_str);
    let lead = format!("Questions that {last} answers worst, and what it puts above the right answer.");
    let shown: String = failures.iter().take(N_FAILURES).map(|failure| article(report, failure)).collect();
    format!("<section>\n<h2>Worst failures</h2>\n<p>{}</p>\n{shown}</section>\n", escaped(&lead))
}

fn article(report: &Report, failure: &Failure) -> String {
    let place = match failure.rank {
        Some(rank) => format!("right answer, place {}", numbers::count(rank as usize)),
        None => format!("right answer, not among the first {}", numbers::count(report.results.depth)),
    };
    let mut tiles = tile("right", &place, &failure.right);
    for (above, shown) in failure.above.iter().take(N_ABOVE).enumerate() {
        tiles.push_str(&tile("above", &format!("place {}", above + 1), shown));
    }
    let title = escaped(&report.title_of(failure.direction, false));
    let query = tile("query", "query", &failure.query);
    format!("<article>\n<h3>{title}</h3>\n{query}<div class=\"tiles\">\n{tiles}</div>\n</article>\n")
}

fn tile(class: &str, caption: &str, shown: &Shown) -> String {
    let id = escaped(&cut(&shown.id, N_LETTERS));
    let score = shown.score.map_or(String::new(), |score| format!(" · score {}", numbers::score(score)));
    let picture = shown.picture.as_deref().map_or(String::new(), |path| match thumbnail(path) {
        Some(data) => format!("<img src=\"data:image/jpeg;base64,{data}\" alt=\"{id}\">\n"),
        None => "<p class=\"note\">the picture cannot be read</p>\n".to_owned(),
    });
    let text = shown.text.as_deref().map_or(String::new(), |text| {
        format!("<blockquote dir=\"auto\">{}</blockquote>\n", escaped(&cut(text, N_LETTERS)))
    });
    format!(
        "<figure class=\"{class}\">\n<figcaption><b>{}</b> <code>{id}</code>{score}</figcaption>\n{picture}{text}</figure>\n",
        escaped(caption)
    )
}

/// A small JPEG of a picture in base64; none if it cannot be read.
fn thumbnail(path: &Path) -> Option<String> {
    let mut reader = ImageReader::open(path).ok()?.with_guessed_format().ok()?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(PICTURE_SIDE_PX), Some(PICTURE_SIDE_PX));
    limits.max_alloc = Some(PICTURE_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().ok()?;
    if decoder.total_bytes() > PICTURE_BYTES {
        return None;
    }
    let orientation = decoder.orientation().ok()?;
    let mut picture = DynamicImage::from_decoder(decoder).ok()?;
    if picture.width().max(picture.height()) > THUMBNAIL_SIDE_PX {
        picture = picture.thumbnail(THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX);
    }
    picture.apply_orientation(orientation);
    let mut jpeg = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY).encode_image(&on_white(&picture)).ok()?;
    Some(BASE64.encode(jpeg.into_inner()))
}

/// What is transparent shows white.
fn on_white(picture: &DynamicImage) -> RgbImage {
    let rgba = picture.to_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [red, green, blue, alpha] = rgba.get_pixel(x, y).0.map(u32::from);
        Rgb([red, green, blue].map(|colour| ((colour * alpha + 255 * (255 - alpha)) / 255) as u8))
    })
}
