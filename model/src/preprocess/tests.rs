use serde_json::json;

use super::*;
use crate::testing::{fixture, fixture_json, formula_picture};

fn preprocessor(config: &Value, side: usize) -> Preprocessor {
    Preprocessor::from_json(config, side, &CLIP).unwrap()
}

#[test]
fn squares_equal_pillow_bit_for_bit() {
    let expected = std::fs::read(fixture("preprocess.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    let cases = fixture_json("preprocess.json");
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 20);
    for (i, case) in cases.iter().enumerate() {
        let square = expected.tensor(&i.to_string()).unwrap();
        let (width, height) = (case["width"].as_u64().unwrap() as u32, case["height"].as_u64().unwrap() as u32);
        let pixels = preprocessor(&case["config"], square.shape()[1]).apply(&formula_picture(width, height));
        let received: Vec<u8> = pixels.values.iter().map(|&v| v as u8).collect();
        assert_eq!(received, square.data(), "case {i}: {case}");
    }
}

#[test]
fn levels_are_the_references_in_f32() {
    let ours = preprocessor(&json!({}), 224);
    // (v / 255 as f32 - mean) / std, by numpy.
    let mean = [0.48145466f32, 0.4578275, 0.40821073];
    let std = [0.26862954f32, 0.261_302_6, 0.275_777_1];
    for channel in 0..3 {
        for level in 0..256 {
            let x = (level as f64 * 0.00392156862745098) as f32;
            assert_eq!(ours.levels[channel][level], (x - mean[channel]) / std[channel]);
        }
    }
}

#[test]
fn old_and_new_settings_mean_the_same() {
    let new = json!({"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}, "resample": 3});
    let old = json!({"size": 64, "crop_size": 64, "feature_extractor_type": "CLIPFeatureExtractor"});
    assert_eq!(preprocessor(&new, 64), preprocessor(&old, 64));
    assert_eq!(preprocessor(&json!({"size": 224}), 224), preprocessor(&json!({}), 224));
}

#[test]
fn what_a_file_leaves_unsaid_is_the_familys() {
    let siglip = |config: Value| Preprocessor::from_json(&config, 384, &SIGLIP).unwrap();
    let said = json!({
        "size": {"height": 384, "width": 384}, "do_center_crop": false, "image_mean": 0.5, "image_std": 0.5, "resample": 3,
    });
    assert_eq!(siglip(json!({})), preprocessor(&said, 384));
    assert_eq!(siglip(json!({"size": {"height": 384, "width": 384}})), preprocessor(&said, 384));
    assert_ne!(siglip(json!({"resample": 2})), preprocessor(&said, 384));
}

#[test]
fn settings_that_cannot_be_followed_are_named() {
    let check = |config: Value, expected: &str| {
        let error = Preprocessor::from_json(&config, 224, &CLIP).unwrap_err();
        assert!(error.contains(expected), "{config}: {error}");
    };
    check(json!([]), "expected a JSON object");
    check(
        json!({"size": 224, "crop_size": 336}),
        "expected to make pictures of 224 x 224, as config.json says; received 336 x 336",
    );
    check(json!({"do_center_crop": false}), "received pictures of no fixed size");
    check(
        json!({"crop_size": {"height": 224, "width": 200}}),
        "crop_size: expected a number, or equal height and width",
    );
    check(json!({"size": {"longest_edge": 3}}), "size: expected a number, shortest_edge, or height and width");
    check(json!({"size": {"shortest_edge": 224, "longest_edge": 300}}), "longest_edge is not known here");
    check(json!({"size": 0}), "size: expected");
    check(json!({"size": 1e9}), "size: expected");
    check(json!({"resample": 1}), "resample: expected 2 (bilinear) or 3 (bicubic), received 1");
    check(json!({"do_resize": "yes"}), "do_resize: expected true or false, received \"yes\"");
    check(json!({"image_mean": [0.1]}), "image_mean: expected three numbers, received [0.1]");
    check(json!({"image_std": [0.1, 0.0, 0.1]}), "image_std: expected numbers above 0");
    check(json!({"rescale_factor": "1/255"}), "rescale_factor: expected a number");
}

#[test]
fn strange_shapes_do_no_harm() {
    let ours = preprocessor(&json!({}), 224);
    for (width, height) in [(0, 0), (0, 5), (16_384, 1), (1, 16_384), (3, 2)] {
        let pixels = ours.apply(&image::RgbImage::from_pixel(width, height, image::Rgb([255; 3])));
        assert_eq!(pixels.values.len(), 3 * 224 * 224);
        let white = ours.levels[0][255];
        assert_eq!(pixels.values[0], if width * height == 0 { ours.levels[0][0] } else { white });
    }
}

#[test]
fn every_vector_unit_gives_the_same() {
    let picture = formula_picture(101, 67);
    let taps = |size, out| resample::Taps::new(Filter::Bicubic, size, out, 0..out);
    let (across, down) = (taps(101, 32), taps(67, 21));
    let narrow = resample::horizontal(picture.as_raw(), 101, &across);
    let plain = resample::vertical(&narrow, 96, &down, 0);
    let window = Window { width: 32, height: 21, columns: 0..32, rows: 0..21 };
    assert_eq!(resample::resize(&picture, &window, Filter::Bicubic), plain);
}
