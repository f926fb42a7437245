//! stories260K, a real Llama of 264,128 parameters, writes the text that its authors' program writes.

use std::path::PathBuf;

use super::*;

const BOS: u32 = 1;

struct Header {
    dim: usize,
    wide: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    vocab_size: usize,
    max_tokens: usize,
}

#[test]
fn a_real_llama_writes_its_known_text() {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/weights");
    if !data.join("stories260K.bin").exists() {
        println!("skipped: no {}", data.join("stories260K.bin").display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    convert(&std::fs::read(data.join("stories260K.bin")).unwrap(), folder.path());
    let decoder = load(folder.path(), Depth::Head).unwrap();
    let ids = write_greedily(&decoder, 200);
    let pieces = read_pieces(&std::fs::read(data.join("tok512.bin")).unwrap());
    let text: Vec<u8> = ids.iter().flat_map(|&id| pieces[id as usize].clone()).collect();
    let golden = std::fs::read_to_string(data.join("stories260K.golden_greedy_200.txt")).unwrap();
    // A text starts without the space that every word has.
    assert_eq!(String::from_utf8(text).unwrap().trim_start(), golden.strip_suffix('\n').unwrap_or(&golden));

    // The same, all at once and without a cache.
    let n = ids.len();
    let (read, positions, mask) =
        (row_of([BOS].into_iter().chain(ids[..n - 1].to_vec())), row_of(0..n as u32), causal(n));
    let pass = Pass { ids: &read, positions: &positions, mask: Some(&mask) };
    let states = decoder.states(&pass, &[decoder.n_blocks()], None).unwrap().remove(0);
    assert_eq!(most_likely(&decoder, &states), ids);
}

fn write_greedily(decoder: &Decoder, n: u32) -> Vec<u32> {
    let (mut cache, mut ids) = (Cache::default(), vec![BOS]);
    for position in 0..n {
        let (id, position) = (row_of(ids.last().copied()), row_of([position]));
        let pass = Pass { ids: &id, positions: &position, mask: None };
        let states = decoder.states(&pass, &[decoder.n_blocks()], Some(&mut cache)).unwrap().remove(0);
        ids.extend(most_likely(decoder, &states));
    }
    ids.split_off(1)
}

/// Of each row of one text.
fn most_likely(decoder: &Decoder, states: &Tensor) -> Vec<u32> {
    decoder.logits(states).unwrap().squeeze(0).unwrap().argmax(1).unwrap().to_vec1().unwrap()
}

/// From the format of llama2.c to a folder as Hugging Face has it.
fn convert(file: &[u8], folder: &Path) {
    let words: Vec<[u8; 4]> = file.as_chunks::<4>().0.to_vec();
    let [dim, wide, n_layers, n_heads, n_kv_heads, vocab_size, max_tokens] =
        std::array::from_fn(|i| i32::from_le_bytes(words[i]).unsigned_abs() as usize);
    let header = Header { dim, wide, n_layers, n_heads, n_kv_heads, vocab_size, max_tokens };
    let mut numbers = words[7..].iter().map(|word| f32::from_le_bytes(*word));
    let mut take = |rows: usize, columns: usize| {
        let values: Vec<f32> = numbers.by_ref().take(rows * columns).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    };
    let kv_dim = dim / n_heads * n_kv_heads;
    let mut tensors = HashMap::from([("model.embed_tokens.weight".to_owned(), take(vocab_size, dim))]);
    for (name, rows, columns) in [
        ("input_layernorm", 1, dim),
        ("self_attn.q_proj", dim, dim),
        ("self_attn.k_proj", kv_dim, dim),
        ("self_attn.v_proj", kv_dim, dim),
        ("self_attn.o_proj", dim, dim),
        ("post_attention_layernorm", 1, dim),
        ("mlp.gate_proj", wide, dim),
        ("mlp.down_proj", dim, wide),
        ("mlp.up_proj", wide, dim),
    ] {
        for layer in 0..n_layers {
            let tensor = match name {
                "self_attn.q_proj" => halves_apart(&take(rows, columns), n_heads),
                "self_attn.k_proj" => halves_apart(&take(rows, columns), n_kv_heads),
                _ if rows == 1 => take(1, columns).squeeze(0).unwrap(),
                _ => take(rows, columns),
            };
            tensors.insert(format!("model.layers.{layer}.{name}.weight"), tensor);
        }
    }
    tensors.insert("model.norm.weight".to_owned(), take(1, dim).squeeze(0).unwrap());
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join(CONFIG_FILE), header.config().to_string()).unwrap();
}

impl Header {
    fn config(&self) -> Value {
        json!({
            "model_type": "llama", "hidden_size": self.dim, "intermediate_size": self.wide,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads, "num_key_value_heads": self.n_kv_heads, "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_tokens, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        })
    }
}

/// llama2.c turns neighbours, transformers turns the halves of a head.
fn halves_apart(rows: &Tensor, n_heads: usize) -> Tensor {
    let (n, dim) = rows.dims2().unwrap();
    let pairs = rows.reshape((n_heads, n / n_heads / 2, 2, dim)).unwrap();
    pairs.transpose(1, 2).unwrap().contiguous().unwrap().reshape((n, dim)).unwrap()
}

/// Length of the longest, then of each token its score, length and bytes.
fn read_pieces(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut next = |n: usize| file.split_off(..n).map(<[u8]>::to_vec);
    next(4).unwrap();
    let mut pieces = Vec::new();
    while next(4).is_some() {
        let length = i32::from_le_bytes(next(4).unwrap().try_into().unwrap());
        let piece = next(length as usize).unwrap();
        pieces.push(as_byte(&piece).map_or(piece, |byte| vec![byte]));
    }
    pieces
}

/// `<0x0A>` is a line feed.
fn as_byte(piece: &[u8]) -> Option<u8> {
    let digits = piece.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
