//! Files that the Rust encoders cannot write come from `fixtures/make.py`; all others are made here.

use image::{DynamicImage, ImageFormat, codecs::jpeg::JpegEncoder};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::testing::fixture;

const RED: [u8; 3] = [220, 30, 40];
const GREEN: [u8; 3] = [20, 200, 60];
const BLUE: [u8; 3] = [30, 50, 210];
const YELLOW: [u8; 3] = [240, 220, 30];

fn file(name: &str) -> Vec<u8> {
    std::fs::read(fixture("pictures").join(name)).unwrap()
}

/// 24 x 16: red, green above blue, yellow.
fn quarters() -> RgbImage {
    RgbImage::from_fn(24, 16, |x, y| match (x < 12, y < 8) {
        (true, true) => Rgb(RED),
        (false, true) => Rgb(GREEN),
        (true, false) => Rgb(BLUE),
        (false, false) => Rgb(YELLOW),
    })
}

fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn jpeg_of(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(image).unwrap();
    bytes
}

/// A JPEG file with an EXIF segment that holds nothing but an orientation.
fn jpeg_with_orientation(image: &RgbImage, orientation: u8) -> Vec<u8> {
    let jpeg = jpeg_of(image);
    let tiff =
        [b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[orientation, 0, 0, 0, 0, 0, 0]]
            .concat();
    let length = (tiff.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &tiff, &jpeg[2..]].concat()
}

fn assert_near(received: &RgbImage, expected: &RgbImage, tolerance: u8, what: &str) {
    assert_eq!(received.dimensions(), expected.dimensions(), "{what}");
    let worst = received.as_raw().iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(worst <= tolerance, "{what}: differs by {worst}");
}

/// The middle of each quarter, clockwise from the upper left.
fn middles(image: &RgbImage) -> [[u8; 3]; 4] {
    let (w, h) = image.dimensions();
    [(w / 4, h / 4), (3 * w / 4, h / 4), (3 * w / 4, 3 * h / 4), (w / 4, 3 * h / 4)]
        .map(|(x, y)| image.get_pixel(x, y).0)
}

fn assert_middles(image: &RgbImage, expected: [[u8; 3]; 4], what: &str) {
    for (received, expected) in middles(image).into_iter().zip(expected) {
        assert!(
            received.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 12),
            "{what}: {received:?}, not {expected:?}"
        );
    }
}

#[test]
fn colours_are_those_of_pillow() {
    let expected = file("expected.safetensors");
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    for name in expected.names() {
        let pixels = expected.tensor(name).unwrap().data().to_vec();
        let picture = decode(&file(name)).unwrap();
        assert_near(
            &picture.rgb,
            &RgbImage::from_raw(24, 16, pixels).unwrap(),
            if name.ends_with("gif") { 0 } else { 4 },
            name,
        );
    }
}

#[test]
fn cmyk_and_ycck_come_out_as_colours() {
    assert_middles(&decode(&file("cmyk.jpg")).unwrap().rgb, [RED, GREEN, YELLOW, BLUE], "cmyk");
    assert_eq!(decode(&file("ycck.jpg")).unwrap().format, "jpeg");
}

#[test]
fn every_exif_orientation_is_undone() {
    for orientation in 1..=8u8 {
        // Turn the picture away, as a camera held that way would store it.
        let mut stored = DynamicImage::ImageRgb8(quarters());
        stored.apply_orientation(match orientation {
            6 => Orientation::from_exif(8).unwrap(),
            8 => Orientation::from_exif(6).unwrap(),
            same => Orientation::from_exif(same).unwrap(),
        });
        let picture = decode(&jpeg_with_orientation(&stored.to_rgb8(), orientation)).unwrap();
        assert_eq!(picture.rgb.dimensions(), (24, 16), "{orientation}");
        assert_middles(&picture.rgb, [RED, GREEN, YELLOW, BLUE], &format!("orientation {orientation}"));
    }
    for name in ["rotated.webp", "rotated.png"] {
        let picture = decode(&file(name)).unwrap();
        assert_eq!(picture.rgb.dimensions(), (16, 24), "{name}");
        assert_middles(&picture.rgb, [BLUE, RED, GREEN, YELLOW], name);
    }
    let nonsense = jpeg_with_orientation(&quarters(), 77);
    assert_eq!(decode(&nonsense).unwrap().rgb.dimensions(), (24, 16));
}

#[test]
fn of_an_animation_the_first_frame_counts() {
    for (name, format, frames_ignored) in [
        ("animated.gif", "gif", true),
        ("animated.webp", "webp", true),
        ("animated.png", "png", true),
        ("still.gif", "gif", false),
        ("lossy.webp", "webp", false),
        ("rotated.png", "png", false),
    ] {
        let picture = decode(&file(name)).unwrap();
        assert_eq!((picture.format, picture.frames_ignored), (format, frames_ignored), "{name}");
        if name.starts_with("animated") {
            assert_middles(&picture.rgb, [RED, GREEN, YELLOW, BLUE], name);
        }
    }
}

#[test]
fn transparency_becomes_white() {
    // The red of the palette is see-through.
    assert_middles(&decode(&file("palette.png")).unwrap().rgb, [[255; 3], GREEN, YELLOW, BLUE], "palette");
    let half = image::RgbaImage::from_pixel(3, 3, image::Rgba([200, 100, 0, 128]));
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let picture = decode(&encode(&half.clone().into(), format)).unwrap();
        assert_eq!(picture.rgb.get_pixel(1, 1).0, [227, 177, 127], "{format:?}");
    }
}

#[test]
fn all_depths_become_eight_bit_rgb() {
    let check = |image: DynamicImage, expected: [u8; 3]| {
        let picture = decode(&encode(&image, ImageFormat::Png)).unwrap();
        assert_eq!(picture.rgb.get_pixel(0, 0).0, expected, "{:?}", image.color());
    };
    check(image::GrayImage::from_pixel(2, 2, image::Luma([77])).into(), [77; 3]);
    check(image::GrayAlphaImage::from_pixel(2, 2, image::LumaA([77, 0])).into(), [255; 3]);
    check(DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(2, 2, image::Luma([0x12fe]))), [0x12; 3]);
    check(DynamicImage::ImageLumaA16(image::ImageBuffer::from_pixel(2, 2, image::LumaA([0x12fe, 0xffff]))), [0x12; 3]);
    check(DynamicImage::ImageRgb16(image::ImageBuffer::from_pixel(2, 2, Rgb([0x1234, 0, 0xffff]))), [0x12, 0, 255]);
    check(DynamicImage::ImageRgba16(image::ImageBuffer::from_pixel(2, 2, image::Rgba([9, 9, 9, 0]))), [255; 3]);
}

#[test]
fn what_is_no_picture_is_told_apart() {
    let check = |bytes: &[u8], expected: &str| assert_eq!(decode(bytes).unwrap_err().to_string(), expected);
    let unknown = |detail| format!("not a picture that can be read ({detail}): expected JPEG, PNG, WebP or GIF");
    check(b"", "the image is empty");
    check("ein Text über Schnee\n".as_bytes(), &unknown("it is text"));
    check(b"<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\"/>", &unknown("it is an SVG drawing"));
    check(b"<!DOCTYPE html><html></html>", &unknown("it is a web page"));
    check(b"%PDF-1.7", &unknown("it is a PDF file"));
    check(b"BM\x00\x00\x00\x00", &unknown("it is a BMP file"));
    check(b"\0\0\0\x1cftypavif", &unknown("it is an AVIF, HEIC or MP4 file"));
    check(&[1, 2, 3, 0xfe], &unknown("it starts with [01, 02, 03, fe]"));
}

/// A PNG file of any claimed size; the data are a few rows of zeros.
fn png_claiming(width: u32, height: u32, colour_type: u8, depth: u8) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let body = [kind.as_slice(), data].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&body);
        [&(data.len() as u32).to_be_bytes(), body.as_slice(), &crc.sum().to_be_bytes()].concat()
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colour_type, 0, 0, 0]].concat();
    let mut deflate = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut deflate, &vec![0; 1 << 20]).unwrap();
    let data = deflate.finish().unwrap();
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &data), chunk(b"IEND", b"")].concat()
}

#[test]
fn bombs_are_refused_by_their_header() {
    let large =
        |width, height| format!("the image is {width} x {height} pixels: at most 16384 a side and 64000000 in all");
    let check = |bytes: &[u8], expected: &str| assert_eq!(decode(bytes).unwrap_err().to_string(), expected);
    check(&png_claiming(60_000, 60_000, 2, 8), &large(60_000, 60_000));
    check(&png_claiming(20_000, 1, 2, 8), &large(20_000, 1));
    check(&png_claiming(16_000, 16_000, 2, 8), &large(16_000, 16_000));
    check(&png_claiming(0, 9, 2, 8), "the image is empty");
    check(&png_claiming(8_000, 8_000, 6, 16), "the image needs 489 MiB to decode: at most 256");
    let mut gif = file("still.gif");
    gif[6..10].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    check(&gif, &large(65_535, 65_535));
    let mut jpeg = jpeg_of(&quarters());
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    check(&jpeg, &large(65_535, 65_535));
    let mut progressive = file("progressive.jpg");
    let frame = progressive.windows(2).position(|w| w == [0xff, 0xc2]).unwrap();
    progressive[frame + 5..frame + 9].copy_from_slice(&[7_900u16.to_be_bytes(), 8_000u16.to_be_bytes()].concat());
    check(&progressive, "the image needs 362 MiB to decode: at most 256");
    // Within the limits, but its data are missing: an error, not a black picture.
    let error = decode(&png_claiming(7_000, 7_000, 0, 8)).unwrap_err();
    assert!(matches!(error, Error::BrokenImage { format: "png", .. }), "{error}");
}

/// Small files of every kind, all of them good.
fn good_files() -> Vec<(String, Vec<u8>)> {
    let mut files = vec![
        ("baseline.jpg".to_owned(), jpeg_of(&quarters())),
        ("exif.jpg".to_owned(), jpeg_with_orientation(&quarters(), 6)),
        ("rgb.png".to_owned(), encode(&quarters().into(), ImageFormat::Png)),
        ("lossless.webp".to_owned(), encode(&quarters().into(), ImageFormat::WebP)),
    ];
    for entry in std::fs::read_dir(fixture("pictures")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".safetensors") {
            files.push((name.clone(), file(&name)));
        }
    }
    files.sort();
    files
}

#[test]
fn a_cut_off_file_is_an_error_at_every_length() {
    for (name, whole) in good_files() {
        decode(&whole).unwrap_or_else(|e| panic!("{name}: {e}"));
        let passed: Vec<usize> = (0..whole.len()).filter(|&n| decode(&whole[..n]).is_ok()).collect();
        // Only what stands behind the pixels may go missing: end marks, and the later frames of an animation.
        let n_spare = match name.rsplit('.').next() {
            _ if name.starts_with("animated") => whole.len() * 3 / 4,
            Some("jpg") => 0,
            _ => 16,
        };
        assert!(passed.iter().all(|n| n + n_spare >= whole.len()), "{name} of {}: {passed:?}", whole.len());
    }
    assert_eq!(
        decode(&jpeg_of(&quarters())[..300]).unwrap_err().to_string(),
        "the jpeg image is broken: it ends too early"
    );
}

#[test]
fn damaged_files_are_answered() {
    const SEED: u64 = 11;
    println!("seed {SEED}");
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    for (name, whole) in good_files() {
        for _ in 0..150 {
            let mut damaged = whole.clone();
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..damaged.len());
                damaged[at] ^= 1 << rng.random_range(0..8);
            }
            match decode(&damaged) {
                Ok(picture) => assert!(picture.rgb.width() > 0 && picture.rgb.height() > 0),
                Err(error) => assert!(!error.to_string().contains('\n'), "{name}: {error}"),
            }
        }
    }
}

#[test]
fn stray_bytes_between_segments_do_no_harm() {
    let jpeg = jpeg_of(&quarters());
    let stray = [&jpeg[..2], &[0u8; 9], &jpeg[2..], b"trailing"].concat();
    // The first marker must follow at once for the format to be known, so the strays stand after the first segment.
    assert!(decode(&stray).is_err());
    let first = 4 + usize::from(u16::from_be_bytes([jpeg[4], jpeg[5]])) - 2 + 2;
    let stray = [&jpeg[..first], &[0u8; 9], &jpeg[first..], b"trailing"].concat();
    assert_middles(&decode(&stray).unwrap().rgb, [RED, GREEN, YELLOW, BLUE], "stray bytes");
}
