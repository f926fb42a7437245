//! GGUF: one file with config and weights, quantised in blocks (Q4_K, Q8_0, ..), for machines too small for the whole.
//!
//! Asked by the names of transformers, it answers in the layout of transformers.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::BTreeSet,
    fs::File,
    io::BufReader,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use candle_core::{
    Device,
    quantized::{
        QStorage, QTensor,
        gguf_file::{Content, Value},
    },
};
use serde_json::json;

use super::config::{Biases, Config, Family, Scaling};
use crate::{
    Error, Result, folder,
    pair::{TensorFault, n_numbers},
};

pub(crate) struct Gguf {
    path: PathBuf,
    file: RefCell<BufReader<File>>,
    content: Content,
}

impl Gguf {
    pub(super) fn open(path: &Path) -> Result<Gguf> {
        let file = folder::open(path)?;
        let mut file = BufReader::new(file);
        let content = read_header(&mut file)
            .map_err(|e| Error::BadFile { file: path.to_owned(), detail: format!("not a GGUF file: {e}") })?;
        Ok(Gguf { path: path.to_owned(), file: RefCell::new(file), content })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn config(&self) -> Result<Config> {
        let family = self.family()?;
        let config = self.read_config(family).map_err(|detail| self.bad(detail))?;
        self.with_divisors(config)
    }

    /// A tensor of exactly this shape.
    pub(super) fn get(&self, name: &str, shape: &[usize], device: &Device) -> Result<QTensor> {
        if let Some(fault) = self.fault(name, shape) {
            return Err(fault.into());
        }
        let known_as = gguf_name(name);
        self.read(&known_as, device).map_err(|e| self.bad(format!("tensor {known_as}: {e}")))
    }

    /// What is wrong with a tensor that should have this shape, named as the file does.
    pub(super) fn fault(&self, name: &str, shape: &[usize]) -> Option<TensorFault> {
        let tensor = gguf_name(name);
        let received = match self.content.tensor_infos.get(&tensor) {
            None => "no such tensor".to_owned(),
            Some(info) if info.shape.dims() != shape => format!("{:?}", info.shape.dims()),
            Some(_) => return None,
        };
        Some(TensorFault { file: self.path.clone(), tensor, expected: format!("{shape:?}"), received })
    }

    /// Names of tensors that are none of these, in order.
    pub(super) fn unread(&self, read: &[(String, Vec<usize>)]) -> Vec<&str> {
        let read: BTreeSet<String> = read.iter().map(|(name, _)| gguf_name(name)).collect();
        let names: BTreeSet<&str> = self.content.tensor_infos.keys().map(String::as_str).collect();
        names.into_iter().filter(|name| !read.contains(*name)).collect()
    }

    /// What it takes in memory: matrices in blocks stay as they are, all else becomes f32.
    pub(super) fn n_bytes(&self, tensor: &(String, Vec<usize>)) -> u64 {
        let (name, shape) = tensor;
        let kind = self.content.tensor_infos.get(&gguf_name(name)).map(|info| info.ggml_dtype);
        match kind.filter(|kind| shape.len() == 2 && kind.block_size() > 1) {
            Some(kind) => n_numbers(tensor) / kind.block_size() as u64 * kind.type_size() as u64,
            None => 4 * n_numbers(tensor),
        }
    }

    fn bad(&self, detail: String) -> Error {
        Error::BadFile { file: self.path.clone(), detail }
    }

    fn read(&self, name: &str, device: &Device) -> candle_core::Result<QTensor> {
        let mut file = self.file.borrow_mut();
        let n_heads = match name.rsplit('.').nth(1) {
            Some("attn_q") => self.count("attention.head_count"),
            Some("attn_k") => self.count("attention.head_count_kv").or(self.count("attention.head_count")),
            _ => None,
        };
        match n_heads.filter(|_| self.architecture() == "llama") {
            Some(n) => with_halves_apart(&self.content.tensor(&mut *file, name, &Device::Cpu)?, n as usize, device),
            None => self.content.tensor(&mut *file, name, device),
        }
    }

    fn architecture(&self) -> &str {
        match self.content.metadata.get("general.architecture") {
            Some(Value::String(name)) => name,
            _ => "",
        }
    }

    /// Mistral is a `llama` here.
    fn family(&self) -> Result<Family> {
        match self.architecture() {
            "llama" => Ok(Family::Llama),
            "qwen2" => Ok(Family::Qwen2),
            "qwen3" => Ok(Family::Qwen3),
            other => Err(Error::UnknownFamily {
                file: Some(self.path.clone()),
                expected: "llama, qwen2, qwen3 in a GGUF file".to_owned(),
                received: other.to_owned(),
            }),
        }
    }

    fn read_config(&self, family: Family) -> Result<Config, String> {
        let required =
            |key: &str| self.count(key).ok_or_else(|| format!("{}.{key}: expected a number", self.architecture()));
        if let Some(Value::String(kind)) = self.value("rope.scaling.type").filter(|v| !is_text(v, "none")) {
            return Err(format!("{}.rope.scaling.type: expected none, received {kind:?}", self.architecture()));
        }
        let embedding =
            self.content.tensor_infos.get("token_embd.weight").ok_or("token_embd.weight: no such tensor")?;
        let &[vocab_size, _] = embedding.shape.dims() else {
            return Err(format!("token_embd.weight: expected two dimensions, received {:?}", embedding.shape.dims()));
        };
        let json = json!({
            "vocab_size": vocab_size,
            "hidden_size": required("embedding_length")?,
            "intermediate_size": required("feed_forward_length")?,
            "num_hidden_layers": required("block_count")?,
            "num_attention_heads": required("attention.head_count")?,
            "num_key_value_heads": self.count("attention.head_count_kv"),
            "head_dim": self.count("attention.key_length").or(self.count("rope.dimension_count")),
            "max_position_embeddings": required("context_length")?,
            "rms_norm_eps": self.number("attention.layer_norm_rms_epsilon"),
            "rope_theta": self.number("rope.freq_base"),
            "tie_word_embeddings": !self.has("output.weight"),
        });
        let config = Config::of_json(&json, family)?;
        let biases = Biases {
            qkv: self.has("blk.0.attn_q.bias"),
            out: self.has("blk.0.attn_output.bias"),
            mlp: self.has("blk.0.ffn_gate.bias"),
        };
        Ok(Config { biases, ..config })
    }

    /// Llama 3's stretched rotations come as a tensor.
    fn with_divisors(&self, mut config: Config) -> Result<Config> {
        const NAME: &str = "rope_freqs.weight";
        if self.has(NAME) {
            let divisors = self.get(NAME, &[config.head_dim / 2], &Device::Cpu)?.dequantize(&Device::Cpu)?;
            config.rope.scaling = Some(Scaling::Divisors(divisors.to_vec1()?));
        }
        Ok(config)
    }

    fn has(&self, tensor: &str) -> bool {
        self.content.tensor_infos.contains_key(tensor)
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(&format!("{}.{key}", self.architecture()))
    }

    fn count(&self, key: &str) -> Option<u64> {
        self.value(key)?.to_u64().ok()
    }

    /// As f64 with the digits of f32, so that 1e-5 stays 1e-5.
    fn number(&self, key: &str) -> Option<f64> {
        self.value(key)?.to_f32().ok()?.to_string().parse().ok()
    }
}

/// The alignment is read before anybody could look at it, and candle divides by it.
fn read_header(file: &mut BufReader<File>) -> Result<Content, String> {
    match catch_unwind(AssertUnwindSafe(|| Content::read(file))) {
        Ok(content) => content.map_err(|e| e.to_string()),
        Err(_) => Err("expected a header that makes sense, received one like general.alignment = 0".to_owned()),
    }
}

fn is_text(value: &Value, text: &str) -> bool {
    matches!(value, Value::String(s) if s == text)
}

/// `model.layers.3.self_attn.q_proj.weight` is `blk.3.attn_q.weight` here.
fn gguf_name(name: &str) -> String {
    const PARTS: [(&str, &str); 14] = [
        ("model.layers.", "blk."),
        ("model.embed_tokens.", "token_embd."),
        ("model.norm.", "output_norm."),
        ("lm_head.", "output."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.", "ffn_"),
        ("_proj.", "."),
    ];
    PARTS.iter().fold(name.to_owned(), |name, (theirs, ours)| name.replace(theirs, ours))
}

/// llama.cpp stores queries and keys of a `llama` with the two halves of each head interleaved; here they stand apart
/// again.
fn with_halves_apart(tensor: &QTensor, n_heads: usize, device: &Device) -> candle_core::Result<QTensor> {
    let (data, n_rows) = (tensor.data()?, tensor.shape().dims()[0]);
    if n_heads == 0 || !n_rows.is_multiple_of(2 * n_heads) {
        candle_core::bail!("{n_rows} rows cannot be halves of {n_heads} heads");
    }
    let (row_bytes, half) = (data.len() / n_rows, n_rows / n_heads / 2);
    let source_of = |row: usize| {
        let (head, part, pair) = (row / (2 * half), row / half % 2, row % half);
        head * 2 * half + 2 * pair + part
    };
    let rows: Vec<u8> = (0..n_rows).flat_map(|row| &data[source_of(row) * row_bytes..][..row_bytes]).copied().collect();
    QTensor::new(QStorage::from_data(Cow::Owned(rows), device, tensor.dtype())?, tensor.shape())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_llama_cpp_has_them() {
        for (theirs, ours) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.layers.3.self_attn.q_proj.bias", "blk.3.attn_q.bias"),
            ("model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight"),
            ("model.layers.12.self_attn.k_norm.weight", "blk.12.attn_k_norm.weight"),
            ("model.layers.1.input_layernorm.weight", "blk.1.attn_norm.weight"),
            ("model.layers.1.post_attention_layernorm.weight", "blk.1.ffn_norm.weight"),
            ("model.layers.1.mlp.gate_proj.weight", "blk.1.ffn_gate.weight"),
            ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("rope_freqs.weight", "rope_freqs.weight"),
        ] {
            assert_eq!(gguf_name(theirs), ours);
        }
    }
}
