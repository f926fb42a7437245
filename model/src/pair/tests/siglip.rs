use super::*;
use crate::Sigmoid;

const MODELS: [&str; 2] = ["siglip-1", "siglip-2"];
const SIZES: [(u32, u32); 2] = [(61, 43), (25, 90)];

fn config(model: &str) -> Config {
    Config::read(&fixture(model).join(CONFIG_FILE), Family::Siglip).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn check(what: &str, received: &[f32], expected: &[f32], at_most: f32) {
    assert_eq!(received.len(), expected.len(), "{what}");
    let difference = received.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{what}: {difference:e}");
    assert!(difference <= at_most, "{what}: {difference:e}");
}

#[test]
fn texts_equal_the_reference() {
    for model in MODELS {
        let siglip = load(&fixture(model)).unwrap();
        let texts = texts(model);
        let answers = siglip.embed_texts(&texts.iter().map(String::as_str).collect::<Vec<_>>(), Keep::Nothing).unwrap();
        let counts = fixture_json(&format!("{model}/expected.json"));
        assert_eq!(json!(answers.iter().map(|a| a.tokens_used).collect::<Vec<_>>()), counts["tokens_used"], "{model}");
        assert_eq!(json!(answers.iter().map(|a| a.tokens_cut).collect::<Vec<_>>()), counts["tokens_cut"], "{model}");
        assert!(answers.iter().any(|a| a.tokens_cut > 0), "{model}: no text is too long");
        let embeddings: Vec<f32> = answers.into_iter().flat_map(|a| a.embedding).collect();
        check(model, &embeddings, &numbers(&expected(model, "text_features")), 1e-5);
    }
}

#[test]
fn images_equal_the_reference_preprocessing_included() {
    for model in MODELS {
        let siglip = load(&fixture(model)).unwrap();
        let pixels: Vec<Pixels> =
            SIZES.iter().map(|&(w, h)| siglip.preprocess(&formula_picture(w, h)).unwrap()).collect();
        let values: Vec<f32> = pixels.iter().flat_map(|p| p.values.clone()).collect();
        check(&format!("{model}, pixels"), &values, &numbers(&expected(model, "pixel_values")), 1e-6);
        let embeddings = embed_images(&*siglip, &pixels).concat();
        check(&format!("{model}, images"), &embeddings, &numbers(&expected(model, "image_features")), 1e-5);
    }
}

#[test]
fn the_sigmoid_makes_the_references_probabilities() {
    for model in MODELS {
        let siglip = load(&fixture(model)).unwrap();
        let sigmoid = siglip.info().sigmoid.expect("a SigLIP has one");
        assert_eq!(sigmoid, Sigmoid { logit_scale: 2.25, logit_bias: -3.5 });
        let rows = |tensor| expected(model, tensor).to_vec2::<f32>().unwrap();
        let (images, texts) = (rows("image_features"), rows("text_features"));
        let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let probability = |image: &[f32], text: &[f32]| sigmoid.probability(cosine(image, text));
        let received: Vec<f32> =
            images.iter().flat_map(|image| texts.iter().map(|text| probability(image, text))).collect();
        check(model, &received, &numbers(&expected(model, "probabilities")), 1e-5);
        let json = serde_json::to_value(siglip.info()).unwrap();
        assert_eq!(json["sigmoid"], json!({"logit_scale": 2.25, "logit_bias": -3.5}));
    }
    let json = serde_json::to_value(load(&fixture("clip-quick")).unwrap().info()).unwrap();
    assert!(json.get("sigmoid").is_none());
}

#[test]
fn token_ids_equal_the_reference() {
    for model in MODELS {
        let tokenizer = Tokenizer::read(&fixture(model).join(TOKENIZER_FILE), &config(model).text).unwrap();
        let wanted = expected(model, "input_ids").to_vec2::<i64>().unwrap();
        for (text, wanted) in texts(model).iter().zip(wanted) {
            let ids: Vec<i64> = tokenizer.encode(text).unwrap().ids.into_iter().map(i64::from).collect();
            assert_eq!(ids, wanted, "{model}: {text:?}");
        }
    }
}

#[test]
fn both_kinds_of_towers_say_the_same() {
    const SEED: u64 = 12;
    println!("seed {SEED}");
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    for model in MODELS {
        let config = config(model);
        let weights = Weights::open(&fixture(model)).unwrap();
        let image = || towers::ImageTower::load(&weights, &config, &Device::Cpu).unwrap();
        let text = || towers::TextTower::load(&weights, &config, &Device::Cpu).unwrap();
        let (flat_image, flat_text) = (cpu::ImageTower::new(image()).unwrap(), cpu::TextTower::new(text()).unwrap());

        let side = config.vision.image_size;
        let random = |_| (0..3 * side * side).map(|_| rng.random_range(-2.0..2.0)).collect();
        let images: Vec<Pixels> = (0..5).map(random).map(|values| Pixels { side, values }).collect();
        let values: Vec<f32> = images.iter().flat_map(|image| image.values.clone()).collect();
        let pixels = Tensor::from_vec(values, (images.len(), 3, side, side), &Device::Cpu).unwrap();
        let wanted = image().encode(&pixels, Some(4)).unwrap();
        for n_threads in [1, 2] {
            let flat = flat_image.forward(&images, Some(4), n_threads);
            check(&format!("{model}, images"), &flat.embeddings, &wanted.embeddings, 1e-5);
            check(&format!("{model}, tokens of images"), &flat.tokens, &wanted.tokens, 1e-5);
        }

        let mut ids = || (0..64).map(|_| rng.random_range(0..config.text.vocab_size as u32)).collect::<Vec<_>>();
        let pads = [(64, 0), (9, 0), (9, 55), (1, 63)];
        let texts = pads.map(|(n_used, n_left)| Tokens { ids: ids(), n_used, n_cut: 0, pooled_at: 63, n_left });
        let texts: Vec<&Tokens> = texts.iter().collect();
        let wanted = text().encode(&texts, Some(8), &Device::Cpu).unwrap();
        let flat = flat_text.forward(&texts, Some(8), 1);
        check(&format!("{model}, texts"), &flat.embeddings, &wanted.embeddings, 1e-5);
        check(&format!("{model}, tokens of texts"), &flat.tokens, &wanted.tokens, 1e-5);
    }
}

#[test]
fn a_batch_equals_single_calls() {
    for model in MODELS {
        let siglip = load(&fixture(model)).unwrap();
        let texts: Vec<String> = (0..21).map(|i| format!("cat {}", "snow ".repeat(i * 7 % 19))).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for (together, text) in siglip.embed_texts(&texts, Keep::Nothing).unwrap().iter().zip(&texts) {
            let alone = &siglip.embed_texts(&[text], Keep::Nothing).unwrap()[0];
            assert_eq!((together.tokens_used, together.tokens_cut), (alone.tokens_used, alone.tokens_cut));
            assert_close(&together.embedding, &alone.embedding);
        }
        let pixels: Vec<Pixels> =
            (1..40).map(|i| siglip.preprocess(&formula_picture(20 + i, 60 - i)).unwrap()).collect();
        for (together, pixels) in embed_images(&*siglip, &pixels).iter().zip(&pixels) {
            assert_close(together, &embed_images(&*siglip, std::slice::from_ref(pixels))[0]);
        }
    }
}

#[test]
fn what_is_said_of_the_model() {
    for (model, dim, side, parameters) in [("siglip-1", 24, 30, 32_834), ("siglip-2", 16, 32, 17_322)] {
        let info = load(&fixture(model)).unwrap().info().clone();
        assert_eq!((info.family.as_str(), info.dim, info.image_side_px), ("siglip", dim, side));
        assert_eq!((info.max_text_tokens, info.parameters), (64, parameters), "{model}");
    }
}

#[test]
fn a_text_of_punctuation_alone_is_empty_where_the_tokenizer_drops_it() {
    let siglip = load(&fixture("siglip-1")).unwrap();
    assert!(matches!(siglip.embed_texts(&["?! ..."], Keep::Nothing), Err(Error::EmptyText)));
    assert_eq!(load(&fixture("siglip-2")).unwrap().embed_texts(&["?! ..."], Keep::Nothing).unwrap()[0].tokens_used, 7);
}

/// Changes a copy's tokenizer.json, and reads it.
fn read_tokenizer(model: &str, change: impl Fn(&mut Value)) -> Result<Tokenizer> {
    let copy = copy_of_fixture(model);
    let mut json = fixture_json(&format!("{model}/{TOKENIZER_FILE}"));
    change(&mut json);
    std::fs::write(copy.path().join(TOKENIZER_FILE), json.to_string()).unwrap();
    Tokenizer::read(&copy.path().join(TOKENIZER_FILE), &config(model).text)
}

#[test]
fn padding_is_that_of_the_tokenizer() {
    let check = |model, change: fn(&mut Value), first: u32, last: u32| {
        let ids = read_tokenizer(model, change).unwrap().encode("x").unwrap().ids;
        assert_eq!((ids.len(), ids[0], ids[63]), (64, first, last), "{model}: {ids:?}");
    };
    let x = |model| read_tokenizer(model, |_| ()).unwrap().encode("x").unwrap().ids[0];
    check("siglip-1", |_| (), x("siglip-1"), 1);
    check("siglip-2", |_| (), x("siglip-2"), 0);
    check("siglip-2", |json| json["padding"] = Value::Null, x("siglip-2"), 0);
    check("siglip-2", |json| json["padding"]["direction"] = json!("Left"), 0, 1);
}

#[test]
fn a_tokenizer_that_cannot_pad_is_named() {
    let error = |change: fn(&mut Value)| {
        let error = read_tokenizer("siglip-2", change).err().expect("an error");
        assert!(matches!(&error, Error::BadFile { file, .. } if file.ends_with(TOKENIZER_FILE)), "{error}");
        error.to_string()
    };
    let without = error(|json| {
        json["padding"] = Value::Null;
        json["added_tokens"] = json!([]);
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        vocab.remove("<pad>");
    });
    let expected = "expected padding, </s> at the end of each text, or a token <pad>; received none of them";
    assert!(without.ends_with(expected), "{without}");
    let endless = error(|json| json["post_processor"] = Value::Null);
    let expected = "post_processor: expected an end token behind each text, received \"a\" of the text \"a\"";
    assert!(endless.ends_with(expected), "{endless}");
    let outside = error(|json| json["padding"]["pad_id"] = json!(4000));
    assert!(outside.contains("padding token: expected an id below "), "{outside}");
    assert!(outside.ends_with(", received 4000"), "{outside}");
}

#[test]
fn a_config_that_does_not_fit_is_named() {
    assert_eq!(
        error_with("siglip-1", |c| c["vision_config"]["num_hidden_layers"] = json!(3)),
        "FOLDER/model.safetensors: tensor vision_model.encoder.layers.2.layer_norm1.weight: expected [24] of f32, f16 or \
         bf16, received no such tensor"
    );
    assert_eq!(
        error_with("siglip-1", |c| c["text_config"]["max_position_embeddings"] = json!(32)),
        "FOLDER/model.safetensors: tensor text_model.embeddings.position_embedding.weight: expected [32, 24] of f32, f16 \
         or bf16, received [64, 24] of f16"
    );
    assert_eq!(
        error_with("siglip-1", |c| c["vision_config"]["image_size"] = json!(224)),
        "FOLDER/preprocessor_config.json: expected to make pictures of 224 x 224, as config.json says; received 30 x 30"
    );
    assert_eq!(
        error_with("siglip-2", |c| c["text_config"]["projection_size"] = json!(20)),
        "FOLDER/config.json: text_config: texts become 20 numbers: expected 16, as images do"
    );
    assert_eq!(
        error_with("siglip-1", |c| c["vision_config"]["vision_use_head"] = json!(false)),
        "FOLDER/config.json: vision_config.vision_use_head: expected true, received false"
    );
}

/// `SiglipConfig()` of transformers 5.23, and the whole of `SiglipModel` counted there.
#[test]
fn defaults_are_those_of_transformers() {
    let config = Config::of_json(&json!({"model_type": "siglip"}), Family::Siglip).unwrap();
    assert_eq!(config.n_parameters(), 203_155_970);
    assert_eq!((config.projection_dim, config.text.max_position_embeddings, config.image_tokens()), (768, 64, 196));
    let tower = &config.vision.tower;
    assert_eq!((tower.activation, tower.layer_norm_eps), (config::Activation::GeluTanh, 1e-6));
    // The large one: 384 is no multiple of 14.
    let so400m =
        json!({"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16});
    let mut vision = so400m.clone();
    (vision["image_size"], vision["patch_size"]) = (json!(384), json!(14));
    let config = Config::of_json(&json!({"text_config": so400m, "vision_config": vision}), Family::Siglip).unwrap();
    assert_eq!((config.image_tokens(), config.n_parameters()), (729, 877_960_498));
}
