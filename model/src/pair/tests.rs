use std::{collections::HashMap, path::Path};

use candle_core::DType;
use candle_nn::VarBuilder;
use candle_transformers::models::clip::{
    ClipConfig, ClipModel,
    text_model::{self, ClipTextConfig},
    vision_model::ClipVisionConfig,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::*;
use crate::{
    Encoder, Grid,
    testing::{copy_of_fixture, fixture, fixture_json, formula_picture},
};

const MODELS: [&str; 2] = ["clip-quick", "clip-gelu"];

fn load(folder: &Path) -> Result<Arc<dyn Encoder>> {
    open(folder, Want::Both, None, &Device::Cpu)?.joined("test", &Device::Cpu)
}

fn embed_images(encoder: &dyn Encoder, pixels: &[Pixels]) -> Vec<Embedding> {
    encoder.embed_images(pixels, Keep::Nothing).unwrap().into_iter().map(|image| image.embedding).collect()
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
        let answers = clip.embed_texts(&texts, Keep::Nothing).unwrap();
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
        let pixels: Vec<Pixels> =
            sizes.iter().map(|&(w, h)| clip.preprocess(&formula_picture(w, h)).unwrap()).collect();
        let values: Vec<f32> = pixels.iter().flat_map(|p| p.values.clone()).collect();
        let wanted = expected(model, "pixel_values").flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values.len(), wanted.len());
        let difference = values.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference <= 1e-6, "{model}: {difference}");
        let difference = largest_difference(&embed_images(&*clip, &pixels), &expected(model, "image_features"));
        assert!(difference <= 1e-5, "{model}: {difference}");
    }
}

#[test]
fn token_ids_equal_the_reference() {
    for model in MODELS {
        let config = Config::read(&fixture(model).join(CONFIG_FILE), Family::Clip).unwrap();
        let tokenizer = Tokenizer::read(&fixture(model).join(TOKENIZER_FILE), &config.text).unwrap();
        for (i, text) in texts(model).iter().enumerate() {
            let ids: Vec<i64> = tokenizer.encode(text).unwrap().ids.into_iter().map(i64::from).collect();
            let wanted = expected(model, &format!("input_ids.{i}")).to_vec1::<i64>().unwrap();
            assert_eq!(ids, wanted, "{model}: {text:?}");
        }
    }
}

/// candle-transformers knows one activation, one epsilon and one pooling, so that `clip-gelu` is judged as if its config
/// had these; what its own config says is judged by the reference's answers above.
fn judged_config(model: &str) -> Config {
    let mut config = Config::read(&fixture(model).join(CONFIG_FILE), Family::Clip).unwrap();
    for tower in [&mut config.text.tower, &mut config.vision.tower] {
        tower.activation = config::Activation::QuickGelu;
        tower.layer_norm_eps = 1e-5;
    }
    config.text.pooling = config::Pooling::LargestId;
    config
}

fn judge(model: &str, config: &Config) -> ClipModel {
    let (text, vision) = (&config.text, &config.vision);
    let config = ClipConfig {
        text_config: ClipTextConfig {
            vocab_size: text.vocab_size,
            embed_dim: text.tower.hidden_size,
            activation: text_model::Activation::QuickGelu,
            intermediate_size: text.tower.intermediate_size,
            max_position_embeddings: text.max_position_embeddings,
            pad_with: None,
            num_hidden_layers: text.tower.n_layers,
            num_attention_heads: text.tower.n_heads,
            projection_dim: config.projection_dim,
        },
        vision_config: ClipVisionConfig {
            embed_dim: vision.tower.hidden_size,
            activation: text_model::Activation::QuickGelu,
            intermediate_size: vision.tower.intermediate_size,
            num_hidden_layers: vision.tower.n_layers,
            num_attention_heads: vision.tower.n_heads,
            projection_dim: config.projection_dim,
            num_channels: 3,
            image_size: vision.image_size,
            patch_size: vision.patch_size,
        },
        logit_scale_init_value: 2.6592,
        image_size: vision.image_size,
    };
    let names = weights::file_names(&fixture(model), weights::CANDIDATES)
        .unwrap()
        .into_iter()
        .filter(|name| name.ends_with(".safetensors"));
    let files: Vec<_> = names.map(|name| fixture(model).join(name)).collect();
    // SAFETY: nobody writes to the fixtures.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&files, DType::F32, &Device::Cpu).unwrap() };
    ClipModel::new(weights, &config).unwrap()
}

/// One end token, the largest id, somewhere among random ones.
fn random_tokens(rng: &mut ChaCha8Rng, n: usize, vocab_size: usize) -> Tokens {
    let mut ids: Vec<u32> = (0..n).map(|_| rng.random_range(0..vocab_size as u32 - 1)).collect();
    let pooled_at = rng.random_range(0..n);
    ids[pooled_at] = vocab_size as u32 - 1;
    Tokens { n_used: ids.len(), ids, n_cut: 0, pooled_at, n_left: 0 }
}

#[test]
fn both_kinds_of_towers_equal_those_of_candle_transformers() {
    const SEED: u64 = 11;
    for model in MODELS {
        let config = judged_config(model);
        let judge = judge(model, &config);
        let weights = Weights::open(&fixture(model)).unwrap();
        let card = || {
            let image = towers::ImageTower::load(&weights, &config, &Device::Cpu).unwrap();
            (image, towers::TextTower::load(&weights, &config, &Device::Cpu).unwrap())
        };
        let cpu = (cpu::ImageTower::new(card().0).unwrap(), cpu::TextTower::new(card().1).unwrap());
        let compare = |what: &str, received: &[f32], expected: &Tensor| {
            let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(received.len(), expected.len());
            let difference = received.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{model}, seed {SEED}, {what}: {difference:e}");
            assert!(difference <= 1e-5, "{model}, seed {SEED}, {what}: {difference:e}");
        };

        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let side = config.vision.image_size;
        let random_pixels = |_| (0..3 * side * side).map(|_| rng.random_range(-2.0..2.0)).collect();
        let images: Vec<Pixels> = (0..5).map(random_pixels).map(|values| Pixels { side, values }).collect();
        let values: Vec<f32> = images.iter().flat_map(|image| image.values.clone()).collect();
        let pixels = Tensor::from_vec(values, (images.len(), 3, side, side), &Device::Cpu).unwrap();
        let expected = judge.get_image_features(&pixels).unwrap();
        let from_card = card().0.encode(&pixels, Some(4)).unwrap();
        compare("images, candle's operations", &from_card.embeddings, &expected);
        for (n_threads, cells) in [(1, None), (2, None), (1, Some(4))] {
            let flat = cpu.0.forward(&images, cells, n_threads);
            compare("images, flat", &flat.embeddings, &expected);
            if cells.is_some() {
                let tokens = Tensor::new(from_card.tokens.as_slice(), &Device::Cpu).unwrap();
                compare("tokens of images, flat", &flat.tokens, &tokens);
            }
        }

        for n in [1, 2, 9, config.text.max_position_embeddings] {
            let texts: Vec<Tokens> = (0..4).map(|_| random_tokens(&mut rng, n, config.text.vocab_size)).collect();
            let ids: Vec<Vec<u32>> = texts.iter().map(|text| text.ids.clone()).collect();
            let expected = judge.get_text_features(&Tensor::new(ids, &Device::Cpu).unwrap()).unwrap();
            let texts: Vec<&Tokens> = texts.iter().collect();
            let from_card = card().1.encode(&texts, Some(8), &Device::Cpu).unwrap();
            compare(&format!("texts of {n}, candle's operations"), &from_card.embeddings, &expected);
            for rows in [None, Some(8)] {
                let flat = cpu.1.forward(&texts, rows, 1);
                compare(&format!("texts of {n}, flat"), &flat.embeddings, &expected);
                if rows.is_some() {
                    let tokens = Tensor::new(from_card.tokens.as_slice(), &Device::Cpu).unwrap();
                    compare(&format!("tokens of texts of {n}, flat"), &flat.tokens, &tokens);
                }
            }
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
        for (together, text) in clip.embed_texts(&texts, Keep::Nothing).unwrap().iter().zip(&texts) {
            let alone = &clip.embed_texts(&[text], Keep::Nothing).unwrap()[0];
            assert_eq!((together.tokens_used, together.tokens_cut), (alone.tokens_used, alone.tokens_cut));
            assert_close(&together.embedding, &alone.embedding);
        }
        let pixels: Vec<Pixels> = (1..40).map(|i| clip.preprocess(&formula_picture(20 + i, 60 - i)).unwrap()).collect();
        for (together, pixels) in embed_images(&*clip, &pixels).iter().zip(&pixels) {
            assert_close(together, &embed_images(&*clip, std::slice::from_ref(pixels))[0]);
        }
        assert!(clip.embed_texts(&[], Keep::Nothing).unwrap().is_empty());
        assert!(clip.embed_images(&[], Keep::Nothing).unwrap().is_empty());
    }
}

fn assert_close(a: &[f32], b: &[f32]) {
    let difference = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    assert!(difference <= 1e-5, "{difference}");
    let norm: f32 = a.iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
}

/// What is asked for comes with the embedding and does not change it.
#[test]
fn tokens_have_the_shape_that_the_model_says() {
    for model in ["clip-quick", "clip-gelu", "siglip-1", "siglip-2"] {
        let encoder = load(&fixture(model)).unwrap();
        let pixels: Vec<Pixels> =
            (1..12).map(|i| encoder.preprocess(&formula_picture(20 + i, 60 - i)).unwrap()).collect();
        let texts = ["cat", "a dog in the snow and a cat on the mountain"];
        for grid in Grid::ALL {
            let shapes = encoder.info().token_shapes(grid);
            let images = encoder.embed_images(&pixels, Keep::Tokens(grid)).unwrap();
            for (image, alone) in images.iter().zip(embed_images(&*encoder, &pixels)) {
                assert_eq!(image.fusion_tokens.as_ref().map(FusionTokens::shape), shapes.image, "{model}");
                assert_close(&image.embedding, &alone);
            }
            let kept = encoder.embed_texts(&texts, Keep::Tokens(grid)).unwrap();
            for (text, alone) in kept.iter().zip(encoder.embed_texts(&texts, Keep::Nothing).unwrap()) {
                assert_eq!(text.fusion_tokens.as_ref().map(FusionTokens::shape), shapes.text, "{model}");
                assert!(alone.fusion_tokens.is_none());
                assert_close(&text.embedding, &alone.embedding);
            }
        }
    }
}

#[test]
fn what_cannot_be_embedded_is_named() {
    let clip = load(&fixture("clip-quick")).unwrap();
    for text in ["", "  \n\t", "\u{3000}"] {
        assert!(matches!(clip.embed_texts(&["fine", text], Keep::Nothing), Err(Error::EmptyText)), "{text:?}");
    }
    let long = "a".repeat(tokenizer::MAX_TEXT_BYTES + 1);
    let error = clip.embed_texts(&[&long], Keep::Nothing).unwrap_err();
    assert_eq!(error.to_string(), "the text has 1048577 bytes: at most 1048576");
    let pixels = Pixels { side: 2, values: vec![0.0; 12] };
    let error = clip.embed_images(&[pixels], Keep::Nothing).unwrap_err();
    assert_eq!(error.to_string(), "pixels of 2 x 2: expected 30 x 30");
    let pixels = Pixels { side: 30, values: vec![f32::NAN; 2700] };
    assert!(matches!(clip.embed_images(&[pixels], Keep::Nothing), Err(Error::NotFinite)));
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
fn a_tokenizer_without_start_or_end_is_refused() {
    let check = |model: &str, post_processor: Value, expected: &str| {
        let copy = copy_of_fixture(model);
        let mut json = fixture_json(&format!("{model}/{TOKENIZER_FILE}"));
        json["post_processor"] = post_processor;
        std::fs::write(copy.path().join(TOKENIZER_FILE), json.to_string()).unwrap();
        let error = load(copy.path()).err().expect("an error");
        assert!(matches!(&error, Error::BadFile { file, .. } if file.ends_with(TOKENIZER_FILE)), "{error}");
        assert!(error.to_string().ends_with(expected), "{model}: {error}");
    };
    let largest = "post_processor: expected a start token before each text and an end token of the largest id behind it, received ";
    let bare = "\"a</w>\" of the text \"a\"";
    check("clip-quick", Value::Null, &format!("{largest}{bare}"));
    let by_id = "expected a start token before each text and the end token 573 behind it, received ";
    check("clip-gelu", Value::Null, &format!("{by_id}{bare}"));
    let end = json!({"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}});
    let ids = json!({"<|endoftext|>": {"id": "<|endoftext|>", "ids": [573], "tokens": ["<|endoftext|>"]}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let template =
        json!({"type": "TemplateProcessing", "single": [text, end], "pair": [text, end], "special_tokens": ids});
    check("clip-quick", template, &format!("{largest}\"a</w> <|endoftext|>\" of the text \"a\""));
    let other_end = error_with("clip-gelu", |c| c["text_config"]["eos_token_id"] = json!(5));
    assert!(other_end.contains("the end token 5 behind it, received \"<|startoftext|> a</w>"), "{other_end}");
}

#[test]
fn the_real_clip_tokenizer_gives_the_known_ids() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/weights/clip_tokenizer.json");
    if !path.exists() {
        println!("skipped: no {}", path.display());
        return;
    }
    let config = Config::of_json(&json!({}), Family::Clip).unwrap();
    let tokenizer = Tokenizer::read(&path, &config.text).unwrap();
    let check = |text: &str, expected: &[u32]| assert_eq!(tokenizer.encode(text).unwrap().ids, expected, "{text:?}");
    check("a photo of a cat", &[49406, 320, 1125, 539, 320, 2368, 49407]);
    check("A Photo  of a CAT\n", &[49406, 320, 1125, 539, 320, 2368, 49407]);
    let long = tokenizer.encode(&"cat ".repeat(100)).unwrap();
    assert_eq!((long.ids.len(), long.ids[76], long.n_cut, long.pooled_at), (77, 49407, 25, 76));
}

/// A trained Long-CLIP is a CLIP with more places.
#[test]
fn a_long_clip_reads_248_tokens() {
    let copy = copy_of_fixture("clip-long");
    for name in [TOKENIZER_FILE, PREPROCESSOR_FILES[0]] {
        std::fs::copy(fixture("clip-quick").join(name), copy.path().join(name)).unwrap();
    }
    let clip = load(copy.path()).unwrap();
    assert_eq!((clip.info().family.as_str(), clip.info().max_text_tokens), ("clip", 248));
    let (texts, counts) = (texts("clip-long"), fixture_json("clip-long/expected.json"));
    let answers = clip.embed_texts(&texts.iter().map(String::as_str).collect::<Vec<_>>(), Keep::Nothing).unwrap();
    assert_eq!(json!(answers.iter().map(|a| a.tokens_used).collect::<Vec<_>>()), counts["tokens_used"]);
    assert_eq!(json!(answers.iter().map(|a| a.tokens_cut).collect::<Vec<_>>()), counts["tokens_cut"]);
    let embeddings: Vec<Embedding> = answers.into_iter().map(|a| a.embedding).collect();
    let difference = largest_difference(&embeddings, &expected("clip-long", "text_features"));
    assert!(difference <= 1e-5, "{difference}");
}

mod flame;
mod frozen_block;
mod inner_states;
mod open_clip;
mod siglip;
