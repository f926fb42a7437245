use std::collections::HashMap;

use candle_core::IndexOp;
use serde_json::{Value, json};

use super::*;
use crate::{
    pair::Weights,
    testing::{copy_of_fixture, fixture, fixture_json},
};

mod gguf;
mod stories;

const MODELS: [&str; 4] = ["decoder-llama", "decoder-mistral", "decoder-qwen2", "decoder-qwen3"];

fn load(path: &Path, depth: Depth) -> Result<Decoder> {
    Decoder::load(path, &Options { depth, device: crate::Device::Cpu, dtype: None })
}

/// As [`load`] leaves it, and with candle's operations in every block.
fn load_both_ways(model: &'static str, depth: Depth) -> [(&'static str, Decoder); 2] {
    let (config, store) = open(&fixture(model)).unwrap();
    let from = Source { store: &store, device: &Device::Cpu, dtype: DType::F32 };
    let flat = load(&fixture(model), depth).unwrap();
    assert!(flat.blocks.iter().all(|block| matches!(block, Block::Cpu(_))));
    let block = |i| Block::Operations(Box::new(block::Block::load(&from, i, &config).unwrap()));
    let blocks = (0..flat.n_blocks()).map(block);
    let operations = Decoder { blocks: blocks.collect(), ..load(&fixture(model), depth).unwrap() };
    [(model, flat), (model, operations)]
}

fn expected(model: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture(&format!("{model}/expected.safetensors")), &Device::Cpu).unwrap()
}

fn u32s(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::U32).unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let difference = (a.to_dtype(DType::F32).unwrap() - b).unwrap().abs().unwrap();
    difference.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

fn causal(length: usize) -> Tensor {
    mask((1, length, length), &Device::Cpu, |_, row, column| column <= row).unwrap()
}

fn row_of(ids: impl IntoIterator<Item = u32>) -> Tensor {
    let ids: Vec<u32> = ids.into_iter().collect();
    let n = ids.len();
    Tensor::from_vec(ids, (1, n), &Device::Cpu).unwrap()
}

#[test]
fn states_equal_transformers_after_every_block() {
    for (model, decoder) in MODELS.into_iter().flat_map(|model| load_both_ways(model, Depth::Head)) {
        let expected = expected(model);
        let n_blocks = decoder.n_blocks();
        let pass = Pass {
            ids: &u32s(&expected["ids"]),
            positions: &u32s(&expected["positions"]),
            mask: Some(&expected["mask"]),
        };
        let after: Vec<usize> = (0..=n_blocks).collect();
        let states = decoder.states(&pass, &after, None).unwrap();
        for (n, states) in states.iter().enumerate() {
            let difference = largest_difference(states, &expected[&format!("state.{n}")]);
            assert!(difference <= 1e-5, "{model}, after {n} blocks: {difference}");
        }
        let difference = largest_difference(&decoder.normed(&states[n_blocks]).unwrap(), &expected["normed"]);
        assert!(difference <= 1e-5, "{model}, normed: {difference}");
        let last = states[n_blocks].narrow(1, pass.ids.dim(1).unwrap() - 1, 1).unwrap();
        let logits = decoder.logits(&last).unwrap().squeeze(1).unwrap();
        let difference = largest_difference(&logits, &expected["logits"]);
        assert!(difference <= 1e-4, "{model}, logits: {difference}");
    }
}

#[test]
fn what_is_asked_for_is_what_the_files_hold() {
    for model in MODELS {
        let config = Config::read(&fixture(model).join(CONFIG_FILE)).unwrap();
        let weights = Weights::open(&fixture(model)).unwrap();
        let tensors = tensors(&config, Depth::Head).unwrap();
        assert!(tensors.iter().all(|(name, shape)| weights.fault(name, shape).is_none()), "{model}");
        assert!(weights.unread(&tensors).is_empty(), "{model}");
        let n_parameters = |depth| load(&fixture(model), depth).unwrap().n_parameters();
        assert_eq!(n_parameters(Depth::Head), tensors.iter().map(n_numbers).sum::<u64>());
        assert!(n_parameters(Depth::BlocksBut(1)) < n_parameters(Depth::Norm));
    }
}

/// Refused by what the config says, before a tensor is missed.
#[cfg(target_os = "linux")]
#[test]
fn a_decoder_larger_than_the_memory_is_refused() {
    let copy = copy_of_fixture("decoder-mistral");
    change_config(copy.path(), |config| {
        config["hidden_size"] = json!(1 << 17);
        config["num_hidden_layers"] = json!(1 << 10);
    });
    let error = load(copy.path(), Depth::BlocksBut(1)).err().unwrap();
    let Error::TooLittleMemory { file, needed_bytes, available_bytes } = &error else { panic!("{error}") };
    assert_eq!((file.as_path(), *needed_bytes), (copy.path(), 4 * (370 * (1 << 17) + 1023 * block_numbers(1 << 17))));
    assert!(available_bytes < needed_bytes);
}

/// Of the Mistral fixture, were it so wide.
#[cfg(target_os = "linux")]
fn block_numbers(dim: u64) -> u64 {
    dim * (2 * 48 + 2 * 24 + 3 * 40 + 2)
}

#[test]
fn half_precision_is_near() {
    for (dtype, near) in [(DType::F16, 0.02), (DType::BF16, 0.15)] {
        let options = Options { depth: Depth::Blocks(2), device: crate::Device::Cpu, dtype: Some(dtype) };
        let (decoder, expected) =
            (Decoder::load(&fixture("decoder-llama"), &options).unwrap(), expected("decoder-llama"));
        let pass = Pass {
            ids: &u32s(&expected["ids"]),
            positions: &u32s(&expected["positions"]),
            mask: Some(&expected["mask"]),
        };
        let states = &decoder.states(&pass, &[2], None).unwrap()[0];
        assert_eq!(states.dtype(), dtype);
        let difference = largest_difference(states, &expected["state.2"]);
        assert!(difference > 0.0 && difference < near, "{dtype:?}: {difference}");
    }
}

#[test]
fn a_batch_equals_single_calls_whatever_the_padding() {
    for model in MODELS {
        let decoder = load(&fixture(model), Depth::Blocks(2)).unwrap();
        let texts: [Vec<u32>; 3] = [(3..12).collect(), vec![60], (20..26).collect()];
        // Pads before and after, with an id and positions of their own.
        let (width, left) = (14, [0, 9, 5]);
        let place = |row: usize, column: usize| column.checked_sub(left[row]).filter(|&at| at < texts[row].len());
        let cells = |cell: &dyn Fn(usize, usize) -> u32| {
            let cells = (0..3 * width).map(|at| cell(at / width, at % width)).collect::<Vec<u32>>();
            Tensor::from_vec(cells, (3, width), &Device::Cpu).unwrap()
        };
        let ids = cells(&|row, column| place(row, column).map_or(7, |at| texts[row][at]));
        let positions = cells(&|row, column| place(row, column).map_or(99, |at| at as u32));
        let sees = |row: usize, from: usize, to: usize| match (place(row, from), place(row, to)) {
            (Some(from), Some(to)) => to <= from,
            _ => false,
        };
        let mask = mask((3, width, width), &Device::Cpu, sees).unwrap();
        let pass = Pass { ids: &ids, positions: &positions, mask: Some(&mask) };
        let together = decoder.states(&pass, &[2], None).unwrap().remove(0);
        for (row, text) in texts.iter().enumerate() {
            let (ids, positions) = (row_of(text.iter().copied()), row_of(0..text.len() as u32));
            let mask = causal(text.len());
            let pass = Pass { ids: &ids, positions: &positions, mask: Some(&mask) };
            let alone = decoder.states(&pass, &[2], None).unwrap().remove(0);
            let together = together.i(row).unwrap().narrow(0, left[row], text.len()).unwrap().unsqueeze(0).unwrap();
            let difference = largest_difference(&together, &alone);
            assert!(difference <= 1e-5, "{model}: {difference}");
        }
    }
}

#[test]
fn cached_tokens_are_not_run_again() {
    for (model, decoder) in MODELS.into_iter().flat_map(|model| load_both_ways(model, Depth::Blocks(2))) {
        let (ids, positions, all) = (row_of(5..17), row_of(0..12), causal(12));
        let pass = Pass { ids: &ids, positions: &positions, mask: Some(&all) };
        let whole = decoder.states(&pass, &[1, 2], None).unwrap();
        assert_eq!(decoder.n_computed(), 12);

        let (mut cache, mut pieces) = (Cache::default(), Vec::new());
        for (begin, end) in [(0, 7), (7, 8), (8, 12)] {
            let slice = |t: &Tensor| t.narrow(1, begin, end - begin).unwrap().contiguous().unwrap();
            let (ids, positions) = (slice(&ids), slice(&positions));
            let mask = mask((1, end - begin, end), &Device::Cpu, |_, row, column| column <= begin + row).unwrap();
            // One token behind the others sees them all.
            let mask = (end - begin > 1).then_some(&mask);
            let pass = Pass { ids: &ids, positions: &positions, mask };
            pieces.push(decoder.states(&pass, &[2], Some(&mut cache)).unwrap().remove(0));
            assert_eq!(cache.n_tokens(), end);
        }
        assert_eq!(decoder.n_computed(), 24);
        let difference = largest_difference(&Tensor::cat(&pieces, 1).unwrap(), &whole[1]);
        assert!(difference <= 1e-5, "{model}: {difference}");
    }
}

#[test]
fn a_text_past_the_limit_is_refused() {
    let copy = copy_of_fixture("decoder-mistral");
    change_config(copy.path(), |config| config["sliding_window"] = json!(8));
    let decoder = load(copy.path(), Depth::Blocks(1)).unwrap();
    let run = |n: u32, cache: &mut Cache| {
        let (ids, positions) = (row_of(0..n), row_of(0..n));
        decoder.states(&Pass { ids: &ids, positions: &positions, mask: None }, &[1], Some(cache))
    };
    let mut cache = Cache::default();
    run(6, &mut cache).unwrap();
    assert_eq!(run(3, &mut cache).unwrap_err().to_string(), "the text has 9 tokens: at most 8");
    run(2, &mut cache).unwrap();
}

fn change_config(folder: &Path, change: impl Fn(&mut Value)) {
    let path = folder.join(CONFIG_FILE);
    let mut config = crate::folder::read_json(&path).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

/// Changes the tensors of a copy's one file.
fn change_tensors(folder: &Path, change: impl Fn(&mut HashMap<String, Tensor>)) {
    let path = folder.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, path).unwrap();
}

fn error_of(folder: &Path, depth: Depth) -> String {
    let error = load(folder, depth).err().expect("an error").to_string();
    error.replace(&folder.display().to_string(), "FOLDER")
}

#[test]
fn only_what_is_needed_is_read_and_nothing_that_is_no_number() {
    let copy = copy_of_fixture("decoder-qwen2");
    change_tensors(copy.path(), |tensors| {
        let spoil = |tensor: &Tensor, by: f64| (tensor * by).unwrap();
        for (name, by) in [("model.layers.1.mlp.up_proj.weight", f64::NAN), ("model.norm.weight", f64::INFINITY)] {
            let spoilt = spoil(&tensors[name], by);
            tensors.insert(name.to_owned(), spoilt);
        }
        tensors.remove("lm_head.weight");
    });
    assert_eq!(load(copy.path(), Depth::Blocks(1)).unwrap().n_blocks(), 1);
    assert_eq!(load(copy.path(), Depth::BlocksBut(1)).unwrap().n_blocks(), 1);
    assert_eq!(
        error_of(copy.path(), Depth::Blocks(2)),
        "FOLDER/model.safetensors: tensor model.layers.1.mlp.up_proj.weight: expected finite numbers, received NaN or infinity"
    );
    assert_eq!(
        error_of(copy.path(), Depth::Head),
        "FOLDER/model.safetensors: tensor lm_head.weight: expected [64, 32] of f32, f16 or bf16, received no such tensor"
    );
    assert_eq!(error_of(copy.path(), Depth::Blocks(3)), "FOLDER: has 2 blocks: expected at least 3");
}

#[test]
fn what_does_not_fit_is_named() {
    let with = |model: &str, change: &dyn Fn(&mut Value)| {
        let copy = copy_of_fixture(model);
        change_config(copy.path(), change);
        error_of(copy.path(), Depth::Norm)
    };
    assert_eq!(
        with("decoder-mistral", &|config| config["model_type"] = json!("gpt_neox")),
        "FOLDER/config.json: model family \"gpt_neox\" is not known: expected one of llama, mistral, qwen2, qwen3"
    );
    assert_eq!(
        with("decoder-mistral", &|config| config["model_type"] = json!(1)),
        "FOLDER/config.json: model_type: expected a name"
    );
    assert_eq!(
        with("decoder-mistral", &|config| config["head_dim"] = json!(8)),
        "FOLDER/model.safetensors: tensor model.layers.0.self_attn.q_proj.weight: expected [32, 32] of f32, f16 or bf16, received \
         [48, 32] of bf16"
    );
    // A Qwen2 read as a Qwen3 lacks its norms.
    assert!(
        with("decoder-qwen2", &|config| {
            config["model_type"] = json!("qwen3");
            config["head_dim"] = json!(8);
        })
        .ends_with(
            "tensor model.layers.0.self_attn.q_norm.weight: expected [8] of f32, f16 or bf16, received no such tensor"
        )
    );
    let copy = copy_of_fixture("decoder-llama");
    std::fs::remove_file(copy.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert_eq!(error_of(copy.path(), Depth::Blocks(1)), "FOLDER: model-00002-of-00002.safetensors is missing");
    let error = load(&copy.path().join("none.gguf"), Depth::Norm).err().unwrap().to_string();
    assert!(error.ends_with(": none.gguf is missing"), "{error}");
}

#[test]
fn the_fixtures_are_of_the_kinds_they_stand_for() {
    let config = |model: &str| fixture_json(&format!("{model}/config.json"));
    let (llama, mistral) = (config("decoder-llama"), config("decoder-mistral"));
    assert!(llama["rope_scaling"].is_object() && llama["rope_parameters"].is_null(), "as transformers 4");
    assert!(mistral["rope_parameters"].is_object() && mistral["rope_theta"].is_null(), "as transformers 5");
    let nemo = Config::read(&fixture("decoder-mistral").join(CONFIG_FILE)).unwrap();
    assert!(nemo.head_dim * nemo.n_heads != nemo.hidden_size && nemo.n_kv_heads < nemo.n_heads);
}
