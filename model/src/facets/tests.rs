use std::{collections::HashMap, path::Path};

use super::*;
use crate::{
    FusionTokens, Grid, Keep,
    decoder::{Cache, mask},
    side::TextSide,
    testing::{copy_of_fixture, fixture, fixture_json},
};

const MODEL: &str = "decoder-mistral";
const TEMPLATES: [(&str, usize); 3] = [("flame-1", 1), ("flame-3", 3), ("flame-7", 7)];

fn options(template: &str, mode: Mode) -> Options {
    Options { template: Template::flame(template).unwrap(), mode, device: Device::Cpu, ..Options::flame() }
}

fn load(template: &str, mode: Mode) -> FacetEncoder {
    FacetEncoder::load(&fixture(MODEL), &options(template, mode)).unwrap()
}

fn captions() -> Vec<String> {
    let listed = fixture_json(&format!("{MODEL}/facets.json"))["captions"].clone();
    serde_json::from_value(listed).unwrap()
}

fn expected() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture(&format!("{MODEL}/facets.safetensors")), &candle_core::Device::Cpu).unwrap()
}

fn embed(encoder: &FacetEncoder) -> Vec<FacetedText> {
    let captions = captions();
    encoder.embed(&captions.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

fn prompts(encoder: &FacetEncoder) -> Vec<Prompt> {
    let prompt = |caption: &String| Prompt::new(&encoder.template, &encoder.tokenizer, caption, encoder.mode).unwrap();
    captions().iter().map(prompt).collect()
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn prompts_have_the_tokens_of_the_reference() {
    let expected = expected();
    for (template, n_facets) in TEMPLATES {
        for (i, prompt) in prompts(&load(template, Mode::Exact)).iter().enumerate() {
            let ids: Vec<i64> = prompt.ids.iter().map(|&id| i64::from(id)).collect();
            assert_eq!(
                ids,
                expected[&format!("ids.{n_facets}.{i}")].to_vec1::<i64>().unwrap(),
                "{template}, caption {i}"
            );
            assert_eq!((prompt.ends.len(), prompt.ends[n_facets]), (n_facets + 1, ids.len()));
        }
    }
}

#[test]
fn facets_equal_the_reference() {
    let expected = expected();
    for (template, n_facets) in TEMPLATES {
        for (mode, name) in [(Mode::Exact, "alone"), (Mode::Reference, "batch")] {
            let texts = embed(&load(template, mode));
            let expected = expected[&format!("{name}.{n_facets}")].to_vec3::<f32>().unwrap();
            for (text, expected) in texts.iter().zip(&expected) {
                let difference = largest_difference(&text.facets, expected);
                assert!(difference <= 1e-4, "{template} {mode:?}: {difference}");
            }
        }
    }
}

#[test]
fn the_reference_differs_only_in_batches() {
    let (exact, reference) = (load("flame-7", Mode::Exact), load("flame-7", Mode::Reference));
    for caption in captions() {
        assert_eq!(exact.embed(&[&caption]).unwrap(), reference.embed(&[&caption]).unwrap());
    }
    let (exact, reference) = (embed(&exact), embed(&reference));
    let differences = exact.iter().zip(&reference).map(|(a, b)| largest_difference(&a.facets, &b.facets));
    assert!(differences.fold(0.0, f32::max) > 1.0, "padding that is not hidden shows");
}

/// The prefix, and then one facet behind it as if there were no other.
fn alone(decoder: &Decoder, prompt: &Prompt, facet: usize) -> Vec<f32> {
    let device = decoder.device();
    let mut cache = Cache::default();
    let mut run = |begin: usize, end: usize| {
        let slice = |values: Vec<u32>| Tensor::from_vec(values, (1, end - begin), device).unwrap();
        let ids = slice(prompt.ids[begin..end].to_vec());
        let positions = slice((begin as u32..end as u32).collect());
        let cached = cache.n_tokens();
        let causal =
            mask((1, end - begin, cached + end - begin), device, |_, row, column| column <= cached + row).unwrap();
        let pass = Pass { ids: &ids, positions: &positions, mask: Some(&causal) };
        decoder.states(&pass, &[decoder.n_blocks()], Some(&mut cache)).unwrap().remove(0)
    };
    run(0, prompt.ends[0]);
    let states = run(prompt.ends[facet], prompt.ends[facet + 1]); // (1, tokens, dim)
    states.squeeze(0).unwrap().to_vec2().unwrap().pop().unwrap()
}

#[test]
fn each_facet_is_as_if_asked_alone() {
    for (template, n_facets) in TEMPLATES {
        let encoder = load(template, Mode::Exact);
        for (prompt, text) in prompts(&encoder).iter().zip(embed(&encoder)) {
            let alone: Vec<Vec<f32>> = (0..n_facets).map(|facet| alone(&encoder.decoder, prompt, facet)).collect();
            let difference = largest_difference(&text.facets, &alone);
            assert!(difference <= 1e-5, "{template}: {difference}");
        }
    }
}

#[test]
fn a_batch_equals_single_calls() {
    for (template, _) in TEMPLATES {
        let encoder = load(template, Mode::Exact);
        let (prompts, singles) = (prompts(&encoder), embed(&encoder));
        let together = encoder.embed_together(&prompts.iter().collect::<Vec<_>>()).unwrap();
        for (together, single) in together.iter().zip(&singles) {
            assert!(largest_difference(&together.facets, &single.facets) <= 1e-5);
            let embeddings = [&together.embedding, &single.embedding].map(std::slice::from_ref);
            assert!(largest_difference(embeddings[0], embeddings[1]) <= 1e-5);
        }
    }
    assert!(load("flame-7", Mode::Exact).embed(&[]).unwrap().is_empty());
}

#[test]
fn no_token_is_computed_twice() {
    let encoder = load("flame-7", Mode::Exact);
    let mut n_computed = 0;
    for (text, prompt) in embed(&encoder).iter().zip(prompts(&encoder)) {
        let prefix = prompt.ends[0];
        let facets: usize = prompt.ends.windows(2).map(|ends| ends[1] - ends[0]).sum();
        assert_eq!(text.tokens_used, prefix + facets);
        n_computed += prefix + facets;
    }
    assert_eq!(encoder.decoder().n_computed(), n_computed as u64);
}

#[test]
fn the_embedding_is_the_mean_of_raw_facets_made_unit() {
    let text = load("flame-3", Mode::Exact).embed(&["x"]).unwrap().remove(0);
    let mean: Vec<f64> = (0..32).map(|d| text.facets.iter().map(|f| f64::from(f[d])).sum::<f64>() / 3.0).collect();
    let norm = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
    for (x, mean) in text.embedding.iter().zip(mean) {
        assert!((f64::from(*x) - mean / norm).abs() < 1e-6);
    }
}

#[test]
fn a_text_side_keeps_facets_as_they_are() {
    let side = Facets::load(&fixture(MODEL), &options("flame-7", Mode::Exact)).unwrap();
    assert_eq!((side.family(), side.info().dim, side.info().max_tokens), ("mistral", 32, 1024));
    let (captions, texts) = (captions(), embed(&load("flame-7", Mode::Exact)));
    let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
    let answers = side.embed(&captions, Keep::Tokens(Grid::Four)).unwrap();
    for (answer, text) in answers.iter().zip(&texts) {
        assert_eq!((&answer.embedding, answer.tokens_used, answer.tokens_cut), (&text.embedding, text.tokens_used, 0));
        let tokens = answer.fusion_tokens.as_ref().unwrap();
        assert_eq!(tokens.shape(), side.info().tokens);
        assert_eq!(*tokens, FusionTokens::new(&text.facets.concat(), 32).unwrap());
    }
    assert!(side.embed(&captions, Keep::Nothing).unwrap().iter().all(|answer| answer.fusion_tokens.is_none()));
    let long = "x".repeat(1024);
    let error = side.embed(&["x", &long], Keep::Nothing).unwrap_err();
    assert_eq!(error.to_string(), "the text has 1025 tokens: at most 1024");
}

#[test]
fn captions_that_cannot_be_embedded_are_named() {
    let short = |mode| {
        let mut options = options("flame-7", mode);
        options.template.max_caption_tokens = 12;
        FacetEncoder::load(&fixture(MODEL), &options).unwrap()
    };
    let (long, cut) = ("x".repeat(12), "x".repeat(11));
    let error = short(Mode::Exact).embed(&["x", &long]).unwrap_err();
    assert_eq!(error.to_string(), "the text has 13 tokens: at most 12");
    let reference = short(Mode::Reference);
    assert_eq!(reference.embed(&[&long]).unwrap(), reference.embed(&[&cut]).unwrap());
    for empty in ["", " \n", "<s>", "</s> "] {
        assert!(matches!(short(Mode::Exact).embed(&[empty]), Err(Error::EmptyText)), "{empty:?}");
    }
}

fn change_tokenizer(folder: &Path, change: impl Fn(&mut serde_json::Value)) {
    let path = folder.join(TOKENIZER_FILE);
    let mut tokenizer = crate::folder::read_json(&path).unwrap();
    change(&mut tokenizer);
    std::fs::write(path, tokenizer.to_string()).unwrap();
}

#[test]
fn a_tokenizer_that_does_not_fit_is_named() {
    let copy = copy_of_fixture(MODEL);
    change_tokenizer(copy.path(), |tokenizer| tokenizer["post_processor"] = serde_json::Value::Null);
    let error = FacetEncoder::load(copy.path(), &options("flame-7", Mode::Exact)).err().unwrap().to_string();
    assert!(error.ends_with(
        "tokenizer.json: expected a start token for {bos}, received none; hint: use a template without {bos}"
    ));
    let without = FacetEncoder::load(copy.path(), &options("flame-1", Mode::Exact)).unwrap();
    assert_eq!(without.embed(&["x"]).unwrap()[0].tokens_used, 31, "one less than with a start token");

    let copy = copy_of_fixture(MODEL);
    let more = serde_json::json!({"id": 370, "content": "the", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": false});
    change_tokenizer(copy.path(), |tokenizer| tokenizer["added_tokens"].as_array_mut().unwrap().push(more.clone()));
    let error = FacetEncoder::load(copy.path(), &options("flame-7", Mode::Exact)).unwrap().embed(&["x"]).unwrap_err();
    assert_eq!(error.to_string(), "the text cannot be tokenized: token 370: expected ids below 370");

    let mut across = options("flame-1", Mode::Exact);
    across.template.prefix = "{caption} the boa".to_owned();
    across.template.facets = vec!["t is a word:".to_owned()];
    let error = FacetEncoder::load(&fixture(MODEL), &across).unwrap().embed(&["x"]).err().map(|e| e.to_string());
    let expected = "expected tokens that end where the prefix and each facet end, received one across";
    assert!(error.as_ref().is_some_and(|error| error.ends_with(expected)), "{error:?}");
}

/// In the manner of Llama 2: spaces are `▁`, one more before every text, and every letter is a token.
fn with_spaces_as_letters(tokenizer: &mut serde_json::Value) {
    let letters = ["<unk>", "<s>", "</s>", "▁"]
        .map(str::to_owned)
        .into_iter()
        .chain((b'!'..=b'~').map(|b| (b as char).to_string()));
    let vocab: serde_json::Map<String, serde_json::Value> =
        letters.enumerate().map(|(id, letter)| (letter, id.into())).collect();
    tokenizer["model"]["vocab"] = vocab.into();
    tokenizer["model"]["merges"] = serde_json::json!([]);
    tokenizer["pre_tokenizer"] = serde_json::Value::Null;
    tokenizer["post_processor"] = tokenizer["post_processor"]["processors"][1].clone();
    let spaces = serde_json::json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let first = serde_json::json!({"type": "Prepend", "prepend": "▁"});
    tokenizer["normalizer"] = serde_json::json!({"type": "Sequence", "normalizers": [first, spaces]});
    let back = serde_json::json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let strip = serde_json::json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    tokenizer["decoder"] = serde_json::json!({"type": "Sequence", "decoders": [back, {"type": "Fuse"}, strip]});
}

#[test]
fn facets_follow_their_prefix_in_a_tokenizer_that_adds_spaces() {
    let copy = copy_of_fixture(MODEL);
    change_tokenizer(copy.path(), with_spaces_as_letters);
    let encoder = FacetEncoder::load(copy.path(), &options("flame-7", Mode::Exact)).unwrap();
    let prompt = Prompt::new(&encoder.template, &encoder.tokenizer, "a \"cat\"", Mode::Exact).unwrap();
    let filled = encoder.template.fill("a 'cat'", "<s>");
    // The start token and a space stand before the text; another space is added behind the start token in it.
    let prefix = 2 + filled.ends[0];
    assert_eq!(prompt.ends[0], prefix);
    assert_eq!(prompt.ends[1] - prefix, " ".len() + 1 + " ".len() + encoder.template.facets[0].len() - " {bos}".len());
    for facet in 1..7 {
        assert_eq!(prompt.ends[facet + 1] - prompt.ends[facet], encoder.template.facets[facet].len());
    }
    assert_eq!(encoder.embed(&["a cat"]).unwrap()[0].facets.len(), 7);
}

#[test]
fn a_short_decoder_limits_the_caption() {
    let copy = copy_of_fixture(MODEL);
    let own =
        prompt::n_own_tokens(&Template::flame("flame-1").unwrap(), &load("flame-1", Mode::Exact).tokenizer).unwrap();
    let open = |max_tokens: usize| {
        let mut config = fixture_json(&format!("{MODEL}/config.json"));
        config["max_position_embeddings"] = max_tokens.into();
        std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
        Facets::load(copy.path(), &options("flame-1", Mode::Exact))
    };
    assert_eq!(open(4096).unwrap().info().max_tokens, 1024);
    let side = open(own + 5).unwrap();
    assert_eq!(side.info().max_tokens, 5);
    assert!(side.embed(&["x"], Keep::Nothing).is_ok());
    let error = side.embed(&["x y z x y z x y z"], Keep::Nothing).unwrap_err();
    assert!(matches!(error, Error::TooManyTokens { max_tokens: 5, .. }), "{error}");
    let error = open(own + 1).err().unwrap().to_string();
    let expected = format!(
        "expected room for a caption; received a template of {own} tokens that takes captions of at most 1024, and a decoder of at most {}",
        own + 1
    );
    assert!(error.ends_with(&expected), "{error}");
}
