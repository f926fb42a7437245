use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::{
    Device, Encoder, Grid, Keep, TokenShape,
    testing::{copy_folder, copy_of_fixture, fixture, formula_picture},
};

/// A folder with this file and copies of fixtures beside it.
fn folder_with(toml: &str, fixtures: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), toml).unwrap();
    for name in fixtures {
        copy_folder(&fixture(name), &dir.path().join(name));
    }
    dir
}

fn load(folder: &Path) -> Result<std::sync::Arc<dyn Encoder>> {
    crate::load(folder.to_str().unwrap(), Device::Cpu)
}

fn error_of(folder: &TempDir) -> String {
    let error = load(folder.path()).err().expect("an error").to_string();
    error.replace(&folder.path().display().to_string(), "FOLDER")
}

const CLIP_AND_SENTENCES: &str = "[image]\nmodel = \"clip-quick\"\n[text]\nmodel = \"sentence-xlm-roberta\"\n";
const FACETS: &str = "[text]\nfacets = \"decoder-mistral\"\ntemplate = \"flame-3\"\n";

#[test]
fn two_sides_become_one_model() {
    let folder = folder_with(CLIP_AND_SENTENCES, &["clip-quick", "sentence-xlm-roberta"]);
    let model = load(folder.path()).unwrap();
    let info = model.info();
    assert_eq!((info.family.as_str(), info.dim), ("clip + xlm-roberta", 24));
    assert_eq!((info.image_side_px, info.max_text_tokens), (30, 24));
    let [clip, sentences] = ["clip-quick", "sentence-xlm-roberta"].map(|name| load(&fixture(name)).unwrap());
    let pixels = [model.preprocess(&formula_picture(61, 43)).unwrap()];
    let keep = Keep::Tokens(Grid::Four);
    assert_eq!(model.embed_images(&pixels, keep).unwrap(), clip.embed_images(&pixels, keep).unwrap());
    assert_eq!(model.embed_texts(&["a cat"], keep).unwrap(), sentences.embed_texts(&["a cat"], keep).unwrap());
    assert!(
        info.parameters < clip.info().parameters + sentences.info().parameters,
        "the text tower of CLIP is left out"
    );
}

/// By the published arithmetic a batch changes its texts; a model's embeddings must not depend on who else is embedded.
#[test]
fn facets_by_the_published_arithmetic_are_the_same_in_any_company() {
    let folder = folder_with(&format!("{FACETS}mode = \"reference\"\n"), &["decoder-mistral"]);
    let model = load(folder.path()).unwrap();
    let texts = ["a cat", "two dogs play in the snow beside a red house", "x"];
    let keep = Keep::Tokens(Grid::Four);
    let together = model.embed_texts(&texts, keep).unwrap();
    let alone: Vec<_> = texts.iter().map(|text| model.embed_texts(&[text], keep).unwrap().remove(0)).collect();
    assert_eq!(together, alone);
}

#[test]
fn a_decoder_keeps_a_block_at_least() {
    let folder = folder_with(&format!("{FACETS}blocks_left_out = 3\n"), &["decoder-mistral"]);
    let error = error_of(&folder);
    assert!(error.ends_with("has 3 blocks: expected more than the 3 to leave out"), "{error}");
}

#[test]
fn one_side_may_be_missing() {
    let folder = folder_with(FACETS, &["decoder-mistral"]);
    let model = load(folder.path()).unwrap();
    let info = model.info();
    assert_eq!((info.family.as_str(), info.dim, info.image_side_px), ("facets of mistral", 32, 0));
    assert_eq!(info.text_tokens, Some(TokenShape { n: 3, dim: 32 }));
    assert!(matches!(model.embed_images(&[], Keep::Nothing), Err(Error::NoImageSide { .. })));
    assert_eq!(model.embed_texts(&["a cat"], Keep::Nothing).unwrap().len(), 1);

    // One decoder, whatever it is asked; read less deep, or with other files, it makes other facets.
    let decoder = |toml: &str, change: &str| {
        let folder = folder_with(toml, &["decoder-mistral"]);
        let config = folder.path().join("decoder-mistral/config.json");
        std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + change).unwrap();
        load(folder.path()).unwrap().decoder().map(str::to_owned)
    };
    let own = model.decoder().map(str::to_owned);
    assert!(own.is_some() && decoder(&FACETS.replace("flame-3", "flame-1"), "") == own);
    assert_ne!(decoder(&format!("{FACETS}blocks_left_out = 2\n"), ""), own);
    assert_ne!(decoder(FACETS, "\n"), own);

    let folder = folder_with("[image]\nmodel = \"siglip-1\"\n", &["siglip-1"]);
    let model = load(folder.path()).unwrap();
    assert_eq!(model.decoder(), None);
    assert_eq!((model.info().max_text_tokens, model.info().text_tokens), (0, None));
    assert!(matches!(model.embed_texts(&["a cat"], Keep::Nothing), Err(Error::NoTextSide { .. })));
}

#[test]
fn the_sigmoid_stays_where_both_sides_are_of_one_model() {
    let sigmoid = |image: &str, text: &str| {
        let toml = format!("[image]\nmodel = {image:?}\n[text]\nmodel = {text:?}\n");
        let folder = folder_with(&toml, &["siglip-1", "clip-quick"]);
        load(folder.path()).unwrap().info().sigmoid
    };
    let own = load(&fixture("siglip-1")).unwrap().info().sigmoid;
    assert!(own.is_some() && sigmoid("siglip-1", "siglip-1") == own);
    assert_eq!(sigmoid("siglip-1", "clip-quick"), None);
}

#[test]
fn templates_may_be_the_users_own() {
    let toml =
        "[text]\nfacets = \"decoder-mistral\"\ntemplate = \"snow\"\ntemplates = \"mine.toml\"\nblocks_left_out = 2\n";
    let folder = folder_with(toml, &["decoder-mistral"]);
    let mine =
        "[snow]\nprefix = \"{caption}\"\nfacets = [\" is it snow?\", \" is it old?\"]\nmax_caption_tokens = 50\n";
    std::fs::write(folder.path().join("mine.toml"), mine).unwrap();
    let info = load(folder.path()).unwrap().info().clone();
    assert_eq!((info.text_tokens, info.max_text_tokens), (Some(TokenShape { n: 2, dim: 32 }), 50));
}

#[test]
fn the_hash_follows_what_the_file_means() {
    let folder = folder_with(FACETS, &["decoder-mistral"]);
    let hash = |toml: &str| {
        std::fs::write(folder.path().join(FILE), toml).unwrap();
        load(folder.path()).unwrap().info().hash.clone()
    };
    let first = hash(FACETS);
    assert_eq!(first.len(), 32);
    assert_eq!(hash(&format!("# words\n{FACETS}blocks_left_out = 1\n")), first);
    assert_ne!(hash(&format!("{FACETS}blocks_left_out = 2\n")), first);
    assert_ne!(hash(&format!("{FACETS}mode = \"reference\"\n")), first);
    assert_ne!(hash(&FACETS.replace("flame-3", "flame-1")), first);
    let absolute = folder.path().join("decoder-mistral").display().to_string();
    assert_eq!(hash(&FACETS.replace("decoder-mistral", &absolute)), first);
    let config = folder.path().join("decoder-mistral/config.json");
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + " ").unwrap();
    assert_ne!(hash(FACETS), first);
}

#[test]
fn sides_that_do_not_fit_are_named() {
    let toml = CLIP_AND_SENTENCES.replace("clip-quick", "clip-gelu");
    let folder = folder_with(&toml, &["clip-gelu", "sentence-xlm-roberta"]);
    assert_eq!(error_of(&folder), "model FOLDER: images become 12 numbers, texts 24: expected as many");
    let toml = "[image]\nmodel = \"sentence-bert\"\n";
    assert_eq!(error_of(&folder_with(toml, &["sentence-bert"])), "model sentence-bert takes no images");
}

#[test]
fn what_cannot_be_meant_is_named() {
    let check = |toml: &str, expected: &str| {
        let error = error_of(&folder_with(toml, &[]));
        assert!(error.starts_with(&format!("FOLDER/model.toml: {expected}")), "{toml}: {error}");
    };
    check("", "expected [image], [text] or both, received neither");
    check("[sound]\n", "unknown field `sound`, expected `image` or `text`");
    check("[image]\n", "image: expected model or checkpoint, received neither");
    check("[image]\nmodel = \"a\"\ncheckpoint = \"b\"\n", "image: expected model or checkpoint, received both");
    check("[image]\nmodel = \"a\"\n[image.block]\ndecoder = \"b\"\n", "missing field `index`");
    check("[image]\nmodel = 3\n", "invalid type: integer `3`, expected a string");
    check("[image]\nmodel = \"a\"\nsize = 3\n", "unknown field `size`, expected");
    check("[text]\n", "text: expected model, checkpoint, facets or stack, received none");
    check(
        "[text]\nmodel = \"a\"\nfacets = \"b\"\n",
        "text: expected model, checkpoint, facets or stack, received several",
    );
    check(
        "[text]\nmodel = \"a\"\ntemplate = \"b\"\n",
        "text: template, templates, blocks_left_out and mode go with facets",
    );
    check("[text]\nmodel = \"builtin\"\n", "expected a folder or a hub's name, received \"builtin\"");
    check("[text]\nmodel = \".\"\n", "\".\" has a model.toml of its own: expected a model");
    let missing = error_of(&folder_with("[text]\nmodel = \"none\"\n", &[]));
    assert!(missing.starts_with("no model at \"none\""), "{missing}");
    let missing = error_of(&folder_with("[text]\nfacets = \"none.gguf\"\n", &[]));
    assert!(missing.starts_with("no model at \"none.gguf\""), "{missing}");
}

#[test]
fn names_are_found_from_the_file() {
    let folder = copy_of_fixture("sentence-bert");
    let dir = folder_with("[text]\nmodel = \"../away\"\n", &[]);
    let inner = dir.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::rename(dir.path().join(FILE), inner.join(FILE)).unwrap();
    copy_folder(folder.path(), &dir.path().join("away"));
    assert_eq!(load(&inner).unwrap().info().family, "bert");
}

const BLOCK: &str =
    "[image.block]\ndecoder = \"decoder-llama\"\nindex = 1\nmappers = \"lm-block/mappers.safetensors\"\n";

/// FLAME as it is meant: images by its checkpoint, texts by the facets of its decoder, in one space.
#[test]
fn a_checkpoint_is_an_image_side() {
    let toml = format!("[image]\ncheckpoint = \"flame/flame.pt\"\n{FACETS}");
    let folder = folder_with(&toml, &["flame", "decoder-mistral"]);
    assert!(error_of(&folder).ends_with("images become 24 numbers, texts 32: expected as many"));
    let folder = folder_with("[image]\ncheckpoint = \"flame/flame.pt\"\n", &["flame"]);
    let model = load(folder.path()).unwrap();
    assert_eq!((&*model.info().family, model.info().dim, model.info().max_text_tokens), ("flame", 24, 0));
    let report = crate::check(folder.path().to_str().unwrap()).unwrap();
    assert!(report.ok && report.unread_tensors.is_empty(), "{report:?}");
    assert_eq!(report.memory[0].weights_bytes, 4 * model.info().parameters);
    let folder = folder_with("[text]\ncheckpoint = \"flame/flame.pt\"\n", &["flame"]);
    assert_eq!(error_of(&folder), "model flame/flame.pt takes no texts");
    let folder = folder_with("[image]\ncheckpoint = \"none.pt\"\n", &[]);
    assert_eq!(error_of(&folder), "FOLDER: none.pt is missing");
}

#[test]
fn a_long_clip_checkpoint_is_either_side() {
    let side = |side: &str| format!("[{side}]\ncheckpoint = \"clip-long-original/longclip.pt\"\n");
    let folder = folder_with(&side("image"), &["clip-long-original"]);
    assert_eq!(load(folder.path()).unwrap().info().max_text_tokens, 0, "no tokenizer, no texts");
    std::fs::write(folder.path().join(FILE), side("text")).unwrap();
    assert!(error_of(&folder).ends_with("tokenizer.json is missing"));
    let tokenizer = fixture("clip-quick/tokenizer.json");
    std::fs::copy(tokenizer, folder.path().join("clip-long-original/tokenizer.json")).unwrap();
    let info = load(folder.path()).unwrap().info().clone();
    assert_eq!((info.image_side_px, info.max_text_tokens, info.dim), (0, 248, 12));
    let report = crate::check(folder.path().to_str().unwrap()).unwrap();
    assert!(report.ok && report.unread_tensors.is_empty(), "{report:?}");
}

#[test]
fn a_block_of_a_decoder_stands_inside_an_image_side() {
    let toml = format!("[image]\nmodel = \"open-clip\"\n{BLOCK}");
    let folder = folder_with(&toml, &["open-clip", "decoder-llama", "lm-block"]);
    let model = load(folder.path()).unwrap();
    let expected = candle_core::safetensors::load(fixture("lm-block/expected.safetensors"), &candle_core::Device::Cpu);
    let expected = expected.unwrap()["image_features.1.ones"].to_vec2::<f32>().unwrap();
    let pixels = model.preprocess(&formula_picture(61, 43)).unwrap();
    let received = &model.embed_images(&[pixels], Keep::Nothing).unwrap()[0].embedding;
    let difference = received.iter().zip(&expected[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference <= 1e-5, "{difference}");
    let hash = |toml: &str| {
        std::fs::write(folder.path().join(FILE), toml).unwrap();
        load(folder.path()).unwrap().info().hash.clone()
    };
    let first = hash(&toml);
    assert_eq!(hash(&format!("{toml}norm = \"ones\"\n")), first);
    assert_ne!(hash(&format!("{toml}norm = \"loaded\"\n")), first);
    assert_ne!(hash(&toml.replace("index = 1", "index = 0")), first);
    assert_ne!(hash("[image]\nmodel = \"open-clip\"\n"), first);
    std::fs::write(folder.path().join(FILE), toml.replace("index = 1", "index = 9")).unwrap();
    assert!(error_of(&folder).ends_with("decoder-llama: block 9: expected one below 2"));
}
