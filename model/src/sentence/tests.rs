use std::collections::HashMap;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::xlm_roberta;
use serde_json::{Value, json};

use super::*;
use crate::{
    Embedding, Error, Grid,
    testing::{copy_of_fixture, fixture, fixture_json},
};

const MODELS: [&str; 4] = ["sentence-xlm-roberta", "sentence-distilbert", "sentence-bert", "sentence-roberta"];

fn load(folder: &Path) -> Result<Sentences> {
    Sentences::load(folder, &Device::Cpu)
}

fn texts(model: &str) -> Vec<String> {
    serde_json::from_value(fixture_json(&format!("{model}/expected.json"))["texts"].clone()).unwrap()
}

fn expected(model: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture(&format!("{model}/expected.safetensors")), &Device::Cpu).unwrap()
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn largest_difference(received: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(received.len(), expected.len());
    received.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The transformer as candle's operations compute it.
fn card(model: &str) -> (Config, tower::Tower) {
    let layout = Layout::read(&fixture(model)).unwrap();
    let config = Config::read(&layout.transformer().join(CONFIG_FILE)).unwrap();
    let weights = Weights::open(&layout.transformer()).unwrap();
    let tower = tower::Tower::load(&weights, &config, &Device::Cpu).unwrap();
    (config, tower)
}

#[test]
fn embeddings_equal_sentence_transformers() {
    for model in MODELS {
        let side = load(&fixture(model)).unwrap();
        let answers = side.embed(&strs(&texts(model)), Keep::Nothing).unwrap();
        let counts = fixture_json(&format!("{model}/expected.json"));
        assert_eq!(json!(answers.iter().map(|a| a.tokens_used).collect::<Vec<_>>()), counts["tokens_used"], "{model}");
        assert_eq!(json!(answers.iter().map(|a| a.tokens_cut).collect::<Vec<_>>()), counts["tokens_cut"], "{model}");
        assert_eq!(json!(side.info().max_tokens), counts["max_tokens"], "{model}");
        let embeddings: Vec<f32> = answers.into_iter().flat_map(|a| a.embedding).collect();
        let expected = expected(model)["embeddings"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let difference = largest_difference(&embeddings, &expected);
        println!("{model}: {difference:e}");
        assert!(difference <= 1e-6, "{model}: {difference:e}");
    }
}

#[test]
fn token_ids_equal_the_reference() {
    for model in MODELS {
        let (side, expected) = (load(&fixture(model)).unwrap(), expected(model));
        let ids = expected["input_ids"].to_vec2::<i64>().unwrap();
        let seen = expected["attention_mask"].to_vec2::<i64>().unwrap();
        for ((text, ids), seen) in texts(model).iter().zip(ids).zip(seen) {
            let n_tokens = seen.iter().sum::<i64>() as usize;
            let received: Vec<i64> = side.tokenizer.encode(text).unwrap().ids.into_iter().map(i64::from).collect();
            assert_eq!(received, ids[..n_tokens], "{model}: {text:?}");
        }
    }
}

/// Both kinds of towers after every block.
#[test]
fn states_equal_transformers() {
    for model in MODELS {
        let (side, expected) = (load(&fixture(model)).unwrap(), expected(model));
        let Tower::Cpu(flat) = &side.tower else { panic!("loaded on the CPU") };
        let (_, card) = card(model);
        let tokens: Vec<Tokens> = texts(model).iter().map(|text| side.tokenizer.encode(text).unwrap()).collect();
        let tokens: Vec<&Tokens> = tokens.iter().collect();
        for n in 0..=flat.n_blocks() {
            let wanted = expected[&format!("state.{n}")].to_vec3::<f32>().unwrap();
            let wanted = wanted.iter().zip(&tokens).map(|(rows, tokens)| rows[..tokens.ids.len()].concat());
            let wanted: Vec<Vec<f32>> = wanted.collect();
            let of_card = card.states(&tokens, n, &Device::Cpu).unwrap();
            for (name, received) in [("flat", flat.states(&tokens, n, Rows::All, 1)), ("candle's operations", of_card)]
            {
                let difference = largest_difference(&received.concat(), &wanted.concat());
                println!("{model}, {name}, after {n} blocks: {difference:e}");
                assert!(difference <= 1e-5, "{model}, {name}, after {n} blocks: {difference:e}");
            }
            let first = flat.states(&tokens, n, Rows::First, 2).concat();
            let wanted: Vec<f32> = wanted.iter().flat_map(|rows| &rows[..side.info.tokens.dim]).copied().collect();
            assert!(largest_difference(&first, &wanted) <= 1e-5, "{model}, first rows after {n} blocks");
        }
    }
}

#[test]
fn states_equal_those_of_candle_transformers() {
    let model = "sentence-xlm-roberta";
    let (config, _) = card(model);
    let judge = xlm_roberta::Config {
        hidden_size: config.tower.hidden_size,
        layer_norm_eps: config.tower.layer_norm_eps,
        attention_probs_dropout_prob: 0.0,
        hidden_dropout_prob: 0.0,
        num_attention_heads: config.tower.n_heads,
        position_embedding_type: "absolute".to_owned(),
        intermediate_size: config.tower.intermediate_size,
        hidden_act: candle_nn::Activation::Gelu,
        num_hidden_layers: config.tower.n_layers,
        vocab_size: config.vocab_size,
        max_position_embeddings: config.n_places,
        type_vocab_size: config.n_types,
        pad_token_id: config.pad.unwrap(),
    };
    let file = fixture(model).join("model.safetensors");
    // SAFETY: nobody writes to the fixtures.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &Device::Cpu).unwrap() };
    let judge = xlm_roberta::XLMRobertaModel::new(&judge, weights).unwrap();
    let side = load(&fixture(model)).unwrap();
    let Tower::Cpu(flat) = &side.tower else { panic!("loaded on the CPU") };
    for text in texts(model) {
        let tokens = side.tokenizer.encode(&text).unwrap();
        let ids = Tensor::new(vec![tokens.ids.clone()], &Device::Cpu).unwrap();
        let (ones, zeros) = (ids.ones_like().unwrap(), ids.zeros_like().unwrap());
        let expected = judge.forward(&ids, &ones, &zeros, None, None, None).unwrap();
        let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let received = flat.states(&[&tokens], flat.n_blocks(), Rows::All, 1).concat();
        let difference = largest_difference(&received, &expected);
        println!("{text:?}: {difference:e}");
        assert!(difference <= 1e-5, "{text:?}: {difference:e}");
    }
}

#[test]
fn a_batch_equals_single_calls_whatever_the_padding() {
    for model in MODELS {
        let side = load(&fixture(model)).unwrap();
        let texts: Vec<String> = (0..45).map(|i| format!("cat {}", "snow ".repeat(i * 7 % 19))).collect();
        let keep = Keep::Tokens(Grid::Four);
        for (together, text) in side.embed(&strs(&texts), keep).unwrap().iter().zip(&texts) {
            let alone = side.embed(&[text], Keep::Nothing).unwrap().remove(0);
            assert_eq!((together.tokens_used, together.tokens_cut), (alone.tokens_used, alone.tokens_cut));
            assert!(largest_difference(&together.embedding, &alone.embedding) <= 1e-6, "{model}");
            let norm: f32 = together.embedding.iter().map(|x| x * x).sum();
            assert!((norm - 1.0).abs() < 1e-5, "{norm}");
        }
        // On a card, a short text is padded to the longest.
        let (_, card) = card(model);
        let tokens: Vec<Tokens> = texts.iter().map(|text| side.tokenizer.encode(text).unwrap()).collect();
        let together = card.states(&tokens.iter().collect::<Vec<_>>(), card.blocks.len(), &Device::Cpu).unwrap();
        for (together, tokens) in together.iter().zip(&tokens) {
            let alone = card.states(&[tokens], card.blocks.len(), &Device::Cpu).unwrap().remove(0);
            let difference = largest_difference(together, &alone);
            assert!(difference <= 1e-5, "{model}: {difference:e}");
        }
        assert!(side.embed(&[], keep).unwrap().is_empty());
    }
}

#[test]
fn tokens_for_fusion_are_the_states_pooled_to_eight() {
    for model in MODELS {
        let (side, expected) = (load(&fixture(model)).unwrap(), expected(model));
        let Tower::Cpu(flat) = &side.tower else { panic!("loaded on the CPU") };
        let states = expected[&format!("state.{}", flat.n_blocks())].to_vec3::<f32>().unwrap();
        let answers = side.embed(&strs(&texts(model)), Keep::Tokens(Grid::Seven)).unwrap();
        for (answer, states) in answers.iter().zip(states) {
            let tokens = answer.fusion_tokens.as_ref().unwrap();
            assert_eq!(tokens.shape(), side.info().tokens);
            let expected = pool_rows(&states[..answer.tokens_used].concat(), tokens.dim, TEXT_TOKENS);
            let received: Vec<f32> = tokens.values.iter().map(|x| x.to_f32()).collect();
            assert!(largest_difference(&received, &expected) <= 2e-3, "{model}: half precision");
        }
    }
}

#[test]
fn what_cannot_be_embedded_is_named() {
    for model in MODELS {
        let side = load(&fixture(model)).unwrap();
        for text in ["", "  \n\t", "\u{3000}"] {
            assert!(matches!(side.embed(&["fine", text], Keep::Nothing), Err(Error::EmptyText)), "{model}: {text:?}");
        }
    }
    let side = load(&fixture(MODELS[0])).unwrap();
    let error = side.embed(&[&"a".repeat((1 << 20) + 1)], Keep::Nothing).unwrap_err();
    assert_eq!(error.to_string(), "the text has 1048577 bytes: at most 1048576");
}

#[test]
fn what_is_said_of_the_model() {
    let encoder = open(&fixture(MODELS[0]), &Device::Cpu).unwrap().joined("test", &Device::Cpu).unwrap();
    let info = encoder.info().clone();
    assert_eq!((info.family.as_str(), info.dim, info.image_side_px, info.max_text_tokens), ("xlm-roberta", 24, 0, 24));
    assert_eq!(info.text_tokens, Some(TokenShape { n: 8, dim: 32 }));
    assert_eq!(info.device, "cpu");
    let error = encoder.embed_images(&[], Keep::Nothing).unwrap_err().to_string();
    assert_eq!(error, "model test takes no images");

    // The hash follows what shapes an embedding, wherever it stands.
    let copy = copy_of_fixture(MODELS[0]);
    let hash = || open(copy.path(), &Device::Cpu).unwrap().hash;
    assert_eq!(hash(), info.hash);
    std::fs::write(copy.path().join("README.md"), "words").unwrap();
    assert_eq!(hash(), info.hash);
    change(copy.path(), "config_sentence_transformers.json", &|json| json["prompts"]["query"] = json!("find: "));
    assert_ne!(hash(), info.hash);
}

fn change(folder: &Path, file: &str, change: &dyn Fn(&mut Value)) {
    let path = folder.join(file);
    let mut json = folder::read_json(&path).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

/// Changes one file of a copy and says what loading answers.
fn error_with(model: &str, file: &str, with: impl Fn(&mut Value)) -> String {
    let copy = copy_of_fixture(model);
    change(copy.path(), file, &with);
    let error = load(copy.path()).err().expect("an error").to_string();
    error.replace(&copy.path().display().to_string(), "FOLDER")
}

#[test]
fn what_does_not_fit_is_named() {
    let check = |file: &str, with: &dyn Fn(&mut Value), expected: &str| {
        assert_eq!(error_with("sentence-xlm-roberta", file, with), format!("FOLDER/{expected}"));
    };
    check(
        "config.json",
        &|c| c["hidden_act"] = json!("swish"),
        "config.json: hidden_act: expected quick_gelu, gelu or gelu_pytorch_tanh, received \"swish\"",
    );
    check(
        "config.json",
        &|c| c["position_embedding_type"] = json!("relative_key"),
        "config.json: position_embedding_type: expected absolute, received \"relative_key\"",
    );
    check(
        "config.json",
        &|c| c["pad_token_id"] = json!(60),
        "config.json: max_position_embeddings: 40 places leave none after pad_token_id",
    );
    check(
        "config.json",
        &|c| c["num_hidden_layers"] = json!(3),
        "model.safetensors: tensor encoder.layer.2.attention.self.query.weight: expected [32, 32] of f32, f16 or bf16, received no such tensor",
    );
    check(
        "modules.json",
        &|m| m[1]["type"] = json!("x.WeightedLayerPooling"),
        "modules.json: expected a Transformer, then a Pooling; received Transformer, WeightedLayerPooling, Dense, Normalize",
    );
    check(
        "modules.json",
        &|m| m[2]["type"] = json!("x.LSTM"),
        "modules.json: after the Pooling: expected Dense or Normalize, received LSTM",
    );
    check(
        "modules.json",
        &|m| m[2]["path"] = json!("../2_Dense"),
        "modules.json: path: expected a folder within this one, received \"../2_Dense\"",
    );
    check(
        "1_Pooling/config.json",
        &|p| p["pooling_mode"] = json!("lasttoken"),
        "1_Pooling/config.json: pooling_mode: expected cls, mean or max, received \"lasttoken\"",
    );
    check(
        "1_Pooling/config.json",
        &|p| p["embedding_dimension"] = json!(31),
        "1_Pooling/config.json: embedding_dimension: expected 32, as the transformer has; received 31",
    );
    check(
        "2_Dense/config.json",
        &|d| d["activation_function"] = json!("torch.nn.modules.activation.SiLU"),
        "2_Dense/config.json: activation_function: expected Identity, Tanh, ReLU or GELU, received \"SiLU\"",
    );
    check(
        "2_Dense/config.json",
        &|d| d["in_features"] = json!(64),
        "2_Dense/config.json: in_features: expected 32, received 64",
    );
    check(
        "2_Dense/config.json",
        &|d| d["out_features"] = json!(25),
        "2_Dense/model.safetensors: tensor linear.weight: expected [25, 32] of f32, f16 or bf16, received [24, 32] of f32",
    );
    assert_eq!(
        error_with("sentence-bert", "config.json", |c| c["model_type"] = json!("mpnet")),
        "FOLDER/config.json: model family \"mpnet\" is not known: expected one of xlm-roberta, roberta, bert, distilbert"
    );
    assert_eq!(
        error_with("sentence-roberta", "1_Pooling/config.json", |p| p["include_prompt"] = json!(false)),
        "FOLDER/1_Pooling/config.json: include_prompt: expected true, since a prompt is set; received false"
    );
}

#[test]
fn a_tokenizer_without_start_or_end_is_refused() {
    for (model, file) in [
        ("sentence-xlm-roberta", "tokenizer.json"),
        ("sentence-roberta", "tokenizer.json"),
        ("sentence-bert", "tokenizer.json"),
        ("sentence-distilbert", "0_Transformer/tokenizer.json"),
    ] {
        let error = error_with(model, file, |json| json["post_processor"] = Value::Null);
        let expected = "post_processor: expected a start token before each text and an end token behind it, received ";
        assert!(error.starts_with(&format!("FOLDER/{file}: {expected}")), "{error}");
    }
}

#[test]
fn a_folder_with_a_missing_file_is_named() {
    for (model, name) in [
        ("sentence-distilbert", "0_Transformer/config.json"),
        ("sentence-distilbert", "0_Transformer/tokenizer.json"),
        ("sentence-distilbert", "0_Transformer/model.safetensors"),
        ("sentence-distilbert", "1_Pooling/config.json"),
        ("sentence-distilbert", "2_Dense/model.safetensors"),
        ("sentence-bert", "tokenizer.json"),
    ] {
        let copy = copy_of_fixture(model);
        std::fs::remove_file(copy.path().join(name)).unwrap();
        let error = load(copy.path()).err().unwrap().to_string();
        let (within, file) = name.rsplit_once('/').unwrap_or(("", name));
        let folder = copy.path().join(within).display().to_string();
        assert_eq!(error, format!("{}: {file} is missing", folder.trim_end_matches('/')), "{name}");
    }
}

/// As files say it that were saved with a head for another task.
#[test]
fn names_may_stand_under_the_family() {
    let copy = copy_of_fixture("sentence-bert");
    let path = copy.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let tensors: HashMap<String, Tensor> = tensors.into_iter().map(|(name, t)| (format!("bert.{name}"), t)).collect();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let embed = |folder: &Path| -> Embedding {
        load(folder).unwrap().embed(&["a cat"], Keep::Nothing).unwrap().remove(0).embedding
    };
    assert_eq!(embed(copy.path()), embed(&fixture("sentence-bert")));
}

#[test]
fn several_ways_of_pooling_stand_side_by_side() {
    let copy = copy_of_fixture("sentence-bert");
    change(copy.path(), "1_Pooling/config.json", &|p| p["pooling_mode"] = json!(["cls", "mean"]));
    let side = load(copy.path()).unwrap();
    assert_eq!(side.info().dim, 48);
    let both = side.embed(&["a cat"], Keep::Nothing).unwrap().remove(0).embedding;
    let cls = load(&fixture("sentence-bert")).unwrap().embed(&["a cat"], Keep::Nothing).unwrap().remove(0).embedding;
    let scale = both[0] / cls[0];
    assert!(cls.iter().zip(&both).all(|(a, b)| (a * scale - b).abs() < 1e-5));
}
