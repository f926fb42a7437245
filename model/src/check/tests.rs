use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::testing::{copy_folder, copy_of_fixture, fixture};

fn check_folder(folder: &Path) -> CheckReport {
    check(folder.to_str().unwrap()).unwrap()
}

#[test]
fn a_good_model_passes_with_a_trial() {
    for (model, parameters) in
        [("clip-quick", 48_128), ("clip-gelu", 28_160), ("siglip-1", 32_834), ("siglip-2", 17_322)]
    {
        let report = check_folder(&fixture(model));
        assert!(report.ok, "{report:?}");
        assert_eq!((report.parameters, report.unread_tensors.len()), (Some(parameters), 0));
        assert_eq!((report.memory[0].device, report.memory[0].weights_bytes), ("cpu", 4 * parameters));
        let loaded = load(fixture(model).to_str().unwrap(), Device::Cpu).unwrap();
        let info = (loaded.info().weights_bytes, loaded.info().batch_bytes);
        assert_eq!(info, (report.memory[0].weights_bytes, report.memory[0].batch_bytes));
        let trial = report.trial.as_ref().unwrap();
        assert_eq!(trial.text_embedding_head.len(), 4);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["ok"], true);
    }
    assert!(check("builtin").unwrap().ok);
}

#[test]
fn everything_wrong_is_named_at_once() {
    let copy = copy_of_fixture("clip-gelu");
    std::fs::remove_file(copy.path().join("tokenizer.json")).unwrap();
    std::fs::remove_file(copy.path().join("preprocessor_config.json")).unwrap();
    let config = copy.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")).unwrap();
    let report = check_folder(copy.path());
    assert!(!report.ok && report.trial.is_none());
    assert_eq!(report.missing_files, ["tokenizer.json", "preprocessor_config.json"]);
    assert_eq!(report.tensor_faults.len(), 2 * 16, "a layer of each tower");
    assert_eq!(report.tensor_faults[0].received, "no such tensor");
}

#[test]
fn a_folder_of_something_else_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let report = check_folder(dir.path());
    assert_eq!(
        report.missing_files,
        ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"]
    );
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "siglip2"}"#).unwrap();
    let report = check_folder(dir.path());
    assert_eq!(
        report.faults,
        [format!(
            "{}: model family \"siglip2\" is not known: expected one of clip, siglip, flame, xlm-roberta, roberta, bert, distilbert, llama, mistral, qwen2, qwen3, aligned, ridge",
            dir.path().join("config.json").display()
        )]
    );
    assert!(matches!(check("/no/such/folder"), Err(Error::UnknownModel { .. })));
    assert!(matches!(check("hf:no-slash"), Err(Error::UnknownModel { .. })));
}

/// Seeded damage to every file: whatever comes out, it is an answer.
#[test]
fn rubbish_is_answered() {
    const SEED: u64 = 7;
    println!("seed {SEED}");
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let files = ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"];
    for (model, name) in ["clip-quick", "siglip-1"].into_iter().flat_map(|model| files.map(|name| (model, name))) {
        let whole = std::fs::read(fixture(model).join(name)).unwrap();
        let copy = copy_of_fixture(model);
        // Headers and settings stand at the start.
        let n_sensitive = whole.len().min(6000);
        for round in 0..40 {
            let mut damaged = whole.clone();
            match round % 4 {
                0 => damaged.truncate(rng.random_range(0..whole.len())),
                _ => (0..round).for_each(|_| damaged[rng.random_range(0..n_sensitive)] = rng.random_range(32..127)),
            }
            std::fs::write(copy.path().join(name), &damaged).unwrap();
            let report = check_folder(copy.path());
            assert!(report.ok || !report.has_no_fault(), "{model} {name} {round}");
        }
    }
}

#[test]
fn texts_alone_are_whole_models() {
    for (model, family, parameters) in [
        ("sentence-xlm-roberta", "xlm-roberta", 22_008),
        ("sentence-distilbert", "distilbert", 18_480),
        ("sentence-bert", "bert", 13_320),
        ("sentence-roberta", "roberta", 18_040),
    ] {
        let report = check_folder(&fixture(model));
        assert!(report.ok && report.unread_tensors.is_empty(), "{report:?}");
        assert_eq!((report.family.as_deref(), report.parameters), (Some(family), Some(parameters)));
        assert_eq!(report.memory[0].weights_bytes, 4 * parameters);
        let loaded = load(fixture(model).to_str().unwrap(), Device::Cpu).unwrap();
        let info = (loaded.info().weights_bytes, loaded.info().batch_bytes);
        assert_eq!(info, (report.memory[0].weights_bytes, report.memory[0].batch_bytes));
        let trial = report.trial.unwrap();
        assert_eq!((trial.text_embedding_head.len(), trial.image_embedding_head.len()), (4, 0));
    }
}

#[test]
fn everything_wrong_with_sentences_is_named_at_once() {
    let copy = copy_of_fixture("sentence-distilbert");
    for name in ["0_Transformer/model.safetensors", "2_Dense/model.safetensors"] {
        std::fs::remove_file(copy.path().join(name)).unwrap();
    }
    assert_eq!(
        check_folder(copy.path()).missing_files,
        ["0_Transformer/model.safetensors", "2_Dense/model.safetensors"]
    );
    std::fs::remove_file(copy.path().join("1_Pooling/config.json")).unwrap();
    std::fs::remove_file(copy.path().join("0_Transformer/config.json")).unwrap();
    let report = check_folder(copy.path());
    assert_eq!(
        report.missing_files,
        ["0_Transformer/config.json", "1_Pooling/config.json", "0_Transformer/model.safetensors"]
    );

    let copy = copy_of_fixture("sentence-bert");
    change_config(copy.path(), "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    let report = check_folder(copy.path());
    assert_eq!((report.ok, report.tensor_faults.len(), report.faults.len()), (false, 16, 0), "a layer");
}

fn change_config(folder: &Path, from: &str, to: &str) {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_decoder_alone_is_looked_at_and_not_tried() {
    let copy = copy_of_fixture("decoder-mistral");
    let report = check_folder(copy.path());
    assert!(report.ok && report.trial.is_none() && report.unread_tensors.is_empty(), "{report:?}");
    assert_eq!(report.family.as_deref(), Some("mistral"));
    let parameters = report.parameters.unwrap();
    let bytes: Vec<_> = report.memory.iter().map(|m| (m.device, m.dtype, m.weights_bytes)).collect();
    assert_eq!(bytes, [("cpu", "f32", 4 * parameters), ("cuda", "bf16", 2 * parameters)]);

    change_config(copy.path(), "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4");
    std::fs::remove_file(copy.path().join("tokenizer.json")).unwrap();
    let report = check_folder(copy.path());
    assert_eq!((report.missing_files, report.tensor_faults.len()), (vec!["tokenizer.json".to_owned()], 9));
}

#[test]
fn a_decoder_of_damaged_numbers_or_without_a_tokenizer_is_not_whole() {
    let copy = copy_of_fixture("decoder-mistral");
    std::fs::write(copy.path().join("tokenizer.json"), "{}").unwrap();
    let report = check_folder(copy.path());
    assert!(!report.ok && report.faults.len() == 1 && report.faults[0].contains("tokenizer.json: "), "{report:?}");

    let copy = copy_of_fixture("decoder-mistral");
    let path = copy.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
    for name in ["model.norm.weight", "model.layers.1.input_layernorm.weight"] {
        let damaged = tensors[name].affine(f64::NAN, 0.0).unwrap();
        tensors.insert(name.to_owned(), damaged);
    }
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let report = check_folder(copy.path());
    assert_eq!((report.ok, report.faults.len()), (false, 2), "{report:?}");
    let expected = "tensor model.norm.weight: expected finite numbers, received NaN or infinity";
    assert!(report.faults[1].ends_with(expected), "{report:?}");
}

#[test]
fn a_decoder_of_a_broken_config_is_not_told_to_lack_what_images_need() {
    let copy = copy_of_fixture("decoder-mistral");
    for config in ["{", "{}"] {
        std::fs::write(copy.path().join("config.json"), config).unwrap();
        let report = check_folder(copy.path());
        assert_eq!((report.missing_files.len(), report.faults.len()), (0, 1), "{report:?}");
    }
}

#[test]
fn a_join_is_looked_at_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["clip-quick", "sentence-xlm-roberta", "decoder-mistral"] {
        copy_folder(&fixture(name), &dir.path().join(name));
    }
    let write = |toml: &str| std::fs::write(dir.path().join("model.toml"), toml).unwrap();
    write("[image]\nmodel = \"clip-quick\"\n[text]\nmodel = \"sentence-xlm-roberta\"\n");
    let report = check_folder(dir.path());
    assert!(report.ok, "{report:?}");
    assert_eq!(report.family.as_deref(), Some("clip + xlm-roberta"));
    assert_eq!(report.memory[0].weights_bytes, 4 * report.parameters.unwrap());

    std::fs::remove_file(dir.path().join("clip-quick/preprocessor_config.json")).unwrap();
    change_config(&dir.path().join("sentence-xlm-roberta"), "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    let report = check_folder(dir.path());
    assert_eq!(report.missing_files, ["clip-quick/preprocessor_config.json"]);
    assert_eq!(report.tensor_faults.len(), 16);

    write("[text]\nfacets = \"decoder-mistral\"\nblocks_left_out = 4\n");
    let report = check_folder(dir.path());
    assert!(report.faults[0].ends_with("has 3 blocks: expected more than the 4 to leave out"), "{report:?}");
    write("[text]\nfacets = \"decoder-mistral\"\ntemplate = \"flame-1\"\n");
    let report = check_folder(dir.path());
    assert!(report.ok && report.trial.is_some(), "{report:?}");
    write("[sound]\n");
    let report = check_folder(dir.path());
    assert!(report.faults[0].ends_with("unknown field `sound`, expected `image` or `text`"), "{report:?}");
}

#[test]
fn a_block_inside_an_image_side_is_looked_at_too() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["clip-quick", "decoder-llama"] {
        copy_folder(&fixture(name), &dir.path().join(name));
    }
    let toml = |index: usize| {
        format!(
            "[image]\nmodel = \"clip-quick\"\n[image.block]\ndecoder = \"decoder-llama\"\nindex = {index}\nmappers = \"m.pt\"\n"
        )
    };
    std::fs::write(dir.path().join("model.toml"), toml(9)).unwrap();
    let report = check_folder(dir.path());
    assert_eq!(report.missing_files, ["m.pt"]);
    assert!(report.faults[0].ends_with("decoder-llama: block 9: expected one below 2"), "{report:?}");

    std::fs::write(dir.path().join("model.toml"), toml(2)).unwrap();
    change_config(&dir.path().join("decoder-llama"), "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    let report = check_folder(dir.path());
    assert!(report.tensor_faults.iter().all(|fault| fault.tensor.starts_with("model.layers.2.")), "{report:?}");
    assert_eq!((report.faults.len(), report.tensor_faults.len() >= 9), (0, true), "{report:?}");
}

#[test]
fn a_folder_is_checked_against_a_family() {
    let against = |model: &str, family: &str| check_against(fixture(model).to_str().unwrap(), family).unwrap();
    assert!(against("clip-quick", "clip").ok);
    assert!(against("sentence-roberta", "roberta").ok);
    assert!(against("decoder-llama", "llama").missing_files == ["tokenizer.json"]);
    let report = against("clip-gelu", "siglip");
    assert!(report.faults[0].ends_with("config.json: model_type: expected siglip, received \"clip\""), "{report:?}");
    assert!(report.tensor_faults.iter().any(|fault| fault.tensor == "vision_model.head.probe"));
    let report = against("decoder-qwen2", "qwen3");
    assert!(report.tensor_faults.iter().any(|fault| fault.tensor.ends_with("q_norm.weight")), "{report:?}");
    assert_eq!(against("clip-quick", "bert").missing_files, ["modules.json"]);
    let error = check_against("builtin", "gpt2").unwrap_err().to_string();
    assert_eq!(
        error,
        "model family \"gpt2\" is not known: expected one of clip, siglip, flame, xlm-roberta, roberta, bert, distilbert, llama, \
         mistral, qwen2, qwen3, aligned, ridge"
    );
}

#[test]
fn a_family_is_compared_whatever_the_layout() {
    let flame = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("flame/flame.pt"), flame.path().join("flame.pt")).unwrap();
    let open_clip = copy_of_fixture("open-clip");
    std::fs::copy(fixture("clip-quick/tokenizer.json"), open_clip.path().join("tokenizer.json")).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let check = |folder: &Path, family: &str, expected: &str| {
        let report = check_against(folder.to_str().unwrap(), family).unwrap();
        assert_eq!((report.ok, report.faults.is_empty()), (expected.is_empty(), expected.is_empty()), "{report:?}");
        assert!(expected.is_empty() || report.faults[0].ends_with(expected), "{report:?}");
    };
    check(flame.path(), "flame", "");
    check(flame.path(), "clip", "flame.pt: model family: expected clip, received flame");
    check(open_clip.path(), "clip", "");
    check(open_clip.path(), "siglip", ": model family: expected siglip, received clip");
    check(open_clip.path(), "flame", ": model family: expected flame, received clip");
    check(&fixture("clip-quick"), "flame", "config.json: model_type: expected flame, received \"clip\"");
    check(empty.path(), "flame", ": expected a checkpoint of FLAME, received none");
    let builtin = check_against("builtin", "clip").unwrap();
    assert_eq!(builtin.faults, ["builtin: model family: expected clip, received builtin"]);
}
