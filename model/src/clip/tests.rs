use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::testing::{copy_of_fixture, fixture, fixture_json, formula_picture};

const MODELS: [&str; 2] = ["clip-quick", "clip-gelu"];

fn load(folder: &Path) -> Result<Arc<dyn Encoder>> {
    Clip::load("test", folder, &Device::Cpu)
}

fn texts(model: &str) -> Vec<String> {
    let expected = fixture_json(&format!("{model}/expected.json"));
    expected["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect()
}

fn expected(model: &str, tensor: &str) -> Tensor {
    let file = candle_core::safetensors::load(fixture(&format!("{model}/expected.safetensors")), &Device::Cpu).unwrap();
    file[tensor].clone()
}

fn largest_difference(received: &[Embedding], expected: &Tensor) -> f32 {
    let expected = expected.to_vec2::<f32>().unwrap();
    assert_eq!(received.len(), expected.len());
    let pairs = received.iter().flatten().zip(expected.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn texts_equal_the_reference() {
    for model in MODELS {
        let clip = load(&fixture(model)).unwrap();
        let texts = texts(model);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let answers = clip.embed_texts(&texts).unwrap();
        let cut = fixture_json(&format!("{model}/expected.json"))["tokens_cut"].clone();
        let cut_here: Vec<usize> = answers.iter().map(|a| a.tokens_cut).collect();
        assert_eq!(json!(cut_here), cut, "{model}");
        let embeddings: Vec<Embedding> = answers.into_iter().map(|a| a.embedding).collect();
        let difference = largest_difference(&embeddings, &expected(model, "text_features"));
        assert!(difference <= 1e-5, "{model}: {difference}");
    }
}

#[test]
fn images_equal_the_reference_preprocessing_included() {
    for model in MODELS {
        let clip = load(&fixture(model)).unwrap();
        let sizes = [(61, 43), (40, 90), (30, 30)];
        let pixels: Vec<Pixels> = sizes.iter().map(|&(w, h)| clip.preprocess(&formula_picture(w, h))).collect();
        let values: Vec<f32> = pixels.iter().flat_map(|p| p.values.clone()).collect();
        let wanted = expected(model, "pixel_values").flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values.len(), wanted.len());
        let difference = values.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference <= 1e-6, "{model}: {difference}");
        let difference = largest_difference(&clip.embed_images(&pixels).unwrap(), &expected(model, "image_features"));
        assert!(difference <= 1e-5, "{model}: {difference}");
    }
}

#[test]
fn token_ids_equal_the_reference() {
    for model in MODELS {
        let config = Config::read(&fixture(model).join(CONFIG_FILE)).unwrap();
        let tokenizer = Tokenizer::read(&fixture(model).join(TOKENIZER_FILE), &config.text).unwrap();
        for (i, text) in texts(model).iter().enumerate() {
            let ids: Vec<i64> = tokenizer.encode(text).unwrap().ids.into_iter().map(i64::from).collect();
            let wanted = expected(model, &format!("input_ids.{i}")).to_vec1::<i64>().unwrap();
            assert_eq!(ids, wanted, "{model}: {text:?}");
        }
    }
}

#[test]
fn a_batch_equals_single_calls() {
    for model in MODELS {
        let clip = load(&fixture(model)).unwrap();
        // More than a piece, with lengths in disorder.
        let texts: Vec<String> = (0..45).map(|i| format!("cat {}", "snow ".repeat(i * 7 % 19))).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for (together, text) in clip.embed_texts(&texts).unwrap().iter().zip(&texts) {
            let alone = &clip.embed_texts(&[text]).unwrap()[0];
            assert_eq!((together.tokens_used, together.tokens_cut), (alone.tokens_used, alone.tokens_cut));
            assert_close(&together.embedding, &alone.embedding);
        }
        let pixels: Vec<Pixels> = (1..40).map(|i| clip.preprocess(&formula_picture(20 + i, 60 - i))).collect();
        for (together, pixels) in clip.embed_images(&pixels).unwrap().iter().zip(&pixels) {
            assert_close(together, &clip.embed_images(std::slice::from_ref(pixels)).unwrap()[0]);
        }
        assert!(clip.embed_texts(&[]).unwrap().is_empty());
        assert!(clip.embed_images(&[]).unwrap().is_empty());
    }
}

fn assert_close(a: &[f32], b: &[f32]) {
    let difference = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    assert!(difference <= 1e-5, "{difference}");
    let norm: f32 = a.iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
}

#[test]
fn what_cannot_be_embedded_is_named() {
    let clip = load(&fixture("clip-quick")).unwrap();
    for text in ["", "  \n\t", "\u{3000}"] {
        assert!(matches!(clip.embed_texts(&["fine", text]), Err(Error::EmptyText)), "{text:?}");
    }
    let long = "a".repeat(tokenizer::MAX_TEXT_BYTES + 1);
    let error = clip.embed_texts(&[&long]).unwrap_err();
    assert_eq!(error.to_string(), "the text has 1048577 bytes: at most 1048576");
    let pixels = Pixels { side: 2, values: vec![0.0; 12] };
    let error = clip.embed_images(&[pixels]).unwrap_err();
    assert_eq!(error.to_string(), "pixels of 2 x 2: expected 30 x 30");
    let pixels = Pixels { side: 30, values: vec![f32::NAN; 2700] };
    assert!(matches!(clip.embed_images(&[pixels]), Err(Error::NotFinite)));
}

#[test]
fn what_is_said_of_the_model() {
    let info = load(&fixture("clip-quick")).unwrap().info().clone();
    assert_eq!((info.family.as_str(), info.dim, info.image_side_px, info.max_text_tokens), ("clip", 24, 30, 24));
    assert_eq!((info.parameters, info.device.as_str(), info.hash.len()), (48_128, "cpu", 32));

    // The hash follows content, not place.
    let copy = copy_of_fixture("clip-quick");
    assert_eq!(load(copy.path()).unwrap().info().hash, info.hash);
    std::fs::write(copy.path().join("README.md"), "words").unwrap();
    assert_eq!(load(copy.path()).unwrap().info().hash, info.hash);
    let config = std::fs::read_to_string(copy.path().join(CONFIG_FILE)).unwrap();
    std::fs::write(copy.path().join(CONFIG_FILE), config + " \n").unwrap();
    assert_ne!(load(copy.path()).unwrap().info().hash, info.hash);
}

#[test]
fn a_folder_with_a_missing_file_is_named() {
    for name in [CONFIG_FILE, TOKENIZER_FILE, PREPROCESSOR_FILES[0], "model.safetensors"] {
        let copy = copy_of_fixture("clip-quick");
        std::fs::remove_file(copy.path().join(name)).unwrap();
        let error = load(copy.path()).err().unwrap();
        assert!(matches!(&error, Error::MissingFile { file, .. } if file == name), "{name}: {error}");
    }
    let copy = copy_of_fixture("clip-gelu");
    std::fs::remove_file(copy.path().join("model-00002-of-00004.safetensors")).unwrap();
    let error = load(copy.path()).err().unwrap();
    assert!(error.to_string().ends_with("model-00002-of-00004.safetensors is missing"), "{error}");
}

/// Changes one value of a copy's config.json and says what loading answers.
fn error_with(model: &str, change: impl Fn(&mut Value)) -> String {
    let copy = copy_of_fixture(model);
    let mut config = fixture_json(&format!("{model}/config.json"));
    change(&mut config);
    std::fs::write(copy.path().join(CONFIG_FILE), config.to_string()).unwrap();
    let error = load(copy.path()).err().expect("an error").to_string();
    error.replace(&copy.path().display().to_string(), "FOLDER")
}

#[test]
fn a_config_that_does_not_fit_the_weights_is_named() {
    assert_eq!(
        error_with("clip-quick", |c| c["projection_dim"] = json!(23)),
        "FOLDER/model.safetensors: tensor visual_projection.weight: expected [23, 32] of f32, f16 or bf16, received \
         [24, 32] of f16"
    );
    assert_eq!(
        error_with("clip-quick", |c| c["vision_config"]["num_hidden_layers"] = json!(3)),
        "FOLDER/model.safetensors: tensor vision_model.encoder.layers.2.layer_norm1.weight: expected [32] of f32, f16 or \
         bf16, received no such tensor"
    );
    assert_eq!(
        error_with("clip-quick", |c| c["vision_config"]["image_size"] = json!(28)),
        "FOLDER/preprocessor_config.json: expected to make pictures of 28 x 28, as config.json says; received 30 x 30"
    );
}

#[test]
fn the_real_clip_tokenizer_gives_the_known_ids() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/weights/clip_tokenizer.json");
    if !path.exists() {
        println!("skipped: no {}", path.display());
        return;
    }
    let config = config::Config::of_json(&json!({})).unwrap();
    let tokenizer = Tokenizer::read(&path, &config.text).unwrap();
    let check = |text: &str, expected: &[u32]| assert_eq!(tokenizer.encode(text).unwrap().ids, expected, "{text:?}");
    check("a photo of a cat", &[49406, 320, 1125, 539, 320, 2368, 49407]);
    check("A Photo  of a CAT\n", &[49406, 320, 1125, 539, 320, 2368, 49407]);
    let long = tokenizer.encode(&"cat ".repeat(100)).unwrap();
    assert_eq!((long.ids.len(), long.ids[76], long.n_cut, long.pooled_at), (77, 49407, 25, 76));
}
