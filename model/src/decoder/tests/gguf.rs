//! GGUF files of random weights, judged by candle's own decoders for such files.

use std::{fs::File, io::BufReader};

use candle_core::quantized::{
    GgmlDType, QTensor,
    gguf_file::{self, Content, Value},
};
use candle_transformers::models::{quantized_llama, quantized_qwen3};
use rand::{Rng, SeedableRng};

use super::*;
use crate::facets::{self, FacetEncoder, Template};

const DIM: usize = 256;
const WIDE: usize = 512;
const VOCAB: usize = 370;
const N_HEADS: usize = 4;
const N_KV_HEADS: usize = 2;

/// Two blocks; `head_dim` is 64 with 4 heads in the space of 256.
fn write(path: &Path, architecture: &str, kind: GgmlDType) {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(5);
    let mut tensor = |shape: &[usize], kind: GgmlDType| {
        let spread = if shape.len() == 1 { 0.2 } else { 2.0 / (shape[1] as f32).sqrt() };
        let middle = if shape.len() == 1 { 1.0 } else { 0.0 };
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| middle + spread * random.random_range(-1.0..1.0)).collect();
        QTensor::quantize(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap(), kind).unwrap()
    };
    let kv_dim = DIM / N_HEADS * N_KV_HEADS;
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), tensor(&[VOCAB, DIM], kind)),
        ("output.weight".to_owned(), tensor(&[VOCAB, DIM], kind)),
        ("output_norm.weight".to_owned(), tensor(&[DIM], GgmlDType::F32)),
    ];
    for block in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            let kind = if shape.len() == 1 { GgmlDType::F32 } else { kind };
            tensors.push((format!("blk.{block}.{name}.weight"), tensor(shape, kind)));
        };
        add("attn_norm", &[DIM]);
        add("attn_q", &[DIM, DIM]);
        add("attn_k", &[kv_dim, DIM]);
        add("attn_v", &[kv_dim, DIM]);
        add("attn_output", &[DIM, DIM]);
        add("ffn_norm", &[DIM]);
        add("ffn_gate", &[WIDE, DIM]);
        add("ffn_up", &[WIDE, DIM]);
        add("ffn_down", &[DIM, WIDE]);
        if architecture == "qwen3" {
            add("attn_q_norm", &[DIM / N_HEADS]);
            add("attn_k_norm", &[DIM / N_HEADS]);
        }
    }
    let count = |n: usize| Value::U32(n as u32);
    let named = [
        ("block_count", count(2)),
        ("embedding_length", count(DIM)),
        ("feed_forward_length", count(WIDE)),
        ("context_length", count(128)),
        ("attention.head_count", count(N_HEADS)),
        ("attention.head_count_kv", count(N_KV_HEADS)),
        ("attention.key_length", count(DIM / N_HEADS)),
        ("rope.dimension_count", count(DIM / N_HEADS)),
        ("rope.freq_base", Value::F32(5e5)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let mut values = vec![
        ("general.architecture".to_owned(), Value::String(architecture.to_owned())),
        // Has the judge compute in f32.
        ("general.dtype".to_owned(), count(0)),
    ];
    values.extend(named.map(|(key, value)| (format!("{architecture}.{key}"), value)));
    let values: Vec<(&str, &Value)> = values.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &values, &tensors).unwrap();
}

/// Logits of the last token, by candle's decoder.
fn judged(path: &Path, architecture: &str, ids: &Tensor) -> Tensor {
    let mut file = BufReader::new(File::open(path).unwrap());
    let content = Content::read(&mut file).unwrap();
    match architecture {
        "llama" => {
            quantized_llama::ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap().forward(ids, 0).unwrap()
        }
        _ => {
            quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap().forward(ids, 0).unwrap()
        }
    }
}

#[test]
fn quantised_files_give_what_candle_makes_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for (architecture, kind) in [
        ("llama", GgmlDType::F32),
        ("llama", GgmlDType::Q8_0),
        ("llama", GgmlDType::Q4K),
        ("qwen3", GgmlDType::Q8_0),
        ("qwen3", GgmlDType::Q4K),
    ] {
        write(&path, architecture, kind);
        let (ids, positions, mask) = (row_of(7..30), row_of(0..23), causal(23));
        let decoder = load(&path, Depth::Head).unwrap();
        let pass = Pass { ids: &ids, positions: &positions, mask: Some(&mask) };
        let states = decoder.states(&pass, &[2], None).unwrap().remove(0);
        let logits = decoder.logits(&states.narrow(1, 22, 1).unwrap()).unwrap().squeeze(1).unwrap();
        let judged = judged(&path, architecture, &ids).reshape((1, VOCAB)).unwrap();
        let largest: f32 = judged.abs().unwrap().max(1).unwrap().squeeze(0).unwrap().to_scalar().unwrap();
        let difference = largest_difference(&logits, &judged);
        assert!(difference <= 1e-4 * largest, "{architecture} {kind:?}: {difference} of {largest}");
    }
}

#[test]
fn what_a_file_lacks_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, "GGML no more").unwrap();
    assert!(error_of(&path, Depth::Norm).contains("not a GGUF file"));

    write(&path, "phi3", GgmlDType::F32);
    let unknown = "model family \"phi3\" is not known: expected one of llama, qwen2, qwen3 in a GGUF file";
    assert_eq!(load(&path, Depth::Norm).err().unwrap().to_string(), format!("{}: {unknown}", path.display()));

    // A Qwen2 is what is left of a Qwen3 without its norms.
    write(&path, "qwen2", GgmlDType::F32);
    load(&path, Depth::Norm).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = load(&path, Depth::Norm).err().unwrap().to_string();
    assert!(error.contains("model.gguf: tensor ") && error.contains("remaining in file"), "{error}");
}

#[test]
fn a_damaged_header_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let check = |alignment: u32, shape: &[u64], expected: &str| {
        let architecture = [&text("general.architecture")[..], &8u32.to_le_bytes(), &text("llama")].concat();
        let aligned = [&text("general.alignment")[..], &4u32.to_le_bytes(), &alignment.to_le_bytes()].concat();
        let sizes: Vec<u8> = shape.iter().flat_map(|n| n.to_le_bytes()).collect();
        let embedding =
            [&text("token_embd.weight")[..], &(shape.len() as u32).to_le_bytes(), &sizes, &[0; 12]].concat();
        let counts = [1u64.to_le_bytes(), 2u64.to_le_bytes()].concat();
        let head = [&b"GGUF"[..], &3u32.to_le_bytes(), &counts].concat();
        std::fs::write(&path, [head, architecture, aligned, embedding].concat()).unwrap();
        let error = load(&path, Depth::Norm).err().unwrap();
        assert!(matches!(&error, Error::BadFile { file, .. } if *file == path), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(32, &[], "token_embd.weight: expected two dimensions, received []");
    check(32, &[4], "token_embd.weight: expected two dimensions, received [4]");
    check(0, &[4, 4], "not a GGUF file: expected a header that makes sense, received one like general.alignment = 0");
}

#[test]
fn facets_are_read_from_a_quantised_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&path, "llama", GgmlDType::Q4K);
    std::fs::copy(fixture("decoder-mistral/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let template = Template { max_caption_tokens: 16, ..Template::flame("flame-1").unwrap() };
    let options = facets::Options { template, device: crate::Device::Cpu, ..facets::Options::flame() };
    let text = FacetEncoder::load(&path, &options).unwrap().embed(&["x"]).unwrap().remove(0);
    assert_eq!((text.facets.len(), text.embedding.len(), text.tokens_used), (1, DIM, 32));
}

/// The tokenizer of a fixture beside it.
fn folder_with(architecture: &str, kind: GgmlDType) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    write(&path, architecture, kind);
    std::fs::copy(fixture("decoder-mistral/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    (folder, path)
}

#[test]
fn a_file_is_looked_at_as_a_folder_is() {
    let (folder, path) = folder_with("llama", GgmlDType::Q8_0);
    let name = path.to_str().unwrap();
    let report = crate::check(name).unwrap();
    assert!(report.ok && report.trial.is_none() && report.unread_tensors.is_empty(), "{report:?}");
    let decoder = load(&path, Depth::Head).unwrap();
    assert_eq!((report.family.as_deref(), report.parameters), (Some("llama"), Some(decoder.n_parameters())));
    // Blocks of 32 numbers take 34 bytes; norms are f32.
    let (norms, parameters) = (5 * DIM as u64, decoder.n_parameters());
    let weights_bytes = (parameters - norms) / 32 * 34 + 4 * norms;
    assert_eq!(
        report.memory.iter().map(|m| (m.dtype, m.weights_bytes)).collect::<Vec<_>>(),
        [("f32", weights_bytes); 2]
    );
    assert!(crate::check_against(name, "mistral").unwrap().ok, "a Mistral is a Llama here");
    let other = crate::check_against(name, "qwen3").unwrap();
    assert!(other.faults[0].ends_with("small.gguf: model family: expected qwen3, received llama"), "{other:?}");

    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let report = crate::check(name).unwrap();
    assert!(report.missing_files[0].ends_with("tokenizer.json"), "{report:?}");
}

#[test]
fn what_is_wrong_with_a_file_is_named_at_once() {
    // Without the biases of its queries it is no Qwen2, and a Qwen3 lacks its norms.
    let (_folder, path) = folder_with("qwen3", GgmlDType::F32);
    let bytes = std::fs::read(&path).unwrap();
    let renamed = |from: &str, to: &str| {
        let at: Vec<usize> =
            (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from.as_bytes())).collect();
        let mut changed = bytes.clone();
        at.iter().for_each(|&at| changed[at..at + to.len()].copy_from_slice(to.as_bytes()));
        std::fs::write(&path, changed).unwrap();
    };
    renamed(".attn_q_norm.weight", ".attn_q_xxxx.weight");
    let report = crate::check(path.to_str().unwrap()).unwrap();
    let missing: Vec<&str> = report.tensor_faults.iter().map(|fault| fault.tensor.as_str()).collect();
    assert_eq!(missing, ["blk.0.attn_q_norm.weight", "blk.1.attn_q_norm.weight"]);
    assert_eq!(report.unread_tensors, ["blk.0.attn_q_xxxx.weight", "blk.1.attn_q_xxxx.weight"]);
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let report = crate::check(path.to_str().unwrap()).unwrap();
    assert!(!report.ok && report.faults.iter().all(|fault| fault.contains("remaining in file")), "{report:?}");
}

#[test]
fn facets_of_a_file_are_checked_before_they_are_loaded() {
    let (folder, path) = folder_with("llama", GgmlDType::Q8_0);
    let toml = "[text]\nfacets = \"small.gguf\"\ntemplate = \"flame-1\"\n";
    std::fs::write(folder.path().join("model.toml"), toml).unwrap();
    let report = crate::check(folder.path().to_str().unwrap()).unwrap();
    assert!(report.ok && report.trial.is_some(), "{report:?}");
    let info = crate::load(folder.path().to_str().unwrap(), crate::Device::Cpu).unwrap();
    let here = (info.info().weights_bytes, info.info().batch_bytes);
    assert_eq!(here, (report.memory[0].weights_bytes, report.memory[0].batch_bytes));
    write(&path, "llama", GgmlDType::F32);
    let larger = crate::check(folder.path().to_str().unwrap()).unwrap();
    assert_eq!(larger.memory[0].weights_bytes, 4 * larger.parameters.unwrap());
}

#[test]
fn a_block_of_a_file_is_checked_before_it_is_loaded() {
    let (folder, path) = folder_with("llama", GgmlDType::F32);
    crate::testing::copy_folder(&fixture("clip-quick"), &folder.path().join("clip"));
    let report = |index: usize| {
        let block = format!("[image.block]\ndecoder = \"small.gguf\"\nindex = {index}\nmappers = \"m.pt\"\n");
        std::fs::write(folder.path().join("model.toml"), "[image]\nmodel = \"clip\"\n".to_owned() + &block).unwrap();
        crate::check(folder.path().to_str().unwrap()).unwrap()
    };
    assert!(report(2).faults[0].ends_with("small.gguf: block 2: expected one below 2"));
    let whole = report(1);
    assert_eq!((whole.missing_files, whole.tensor_faults.len()), (vec!["m.pt".to_owned()], 0));
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(18).position(|bytes| bytes == b"blk.1.ffn_up.weigh").unwrap();
    std::fs::write(&path, [&bytes[..at], b"blk.1.ffn_no.weigh", &bytes[at + 18..]].concat()).unwrap();
    assert_eq!(report(1).tensor_faults[0].tensor, "blk.1.ffn_up.weight");
}
