//! What a decoder reads of its files: the tensors that a depth needs, by the names of transformers.

use super::{Depth, config::Config};

/// Name and shape of each; an `Err` says that the decoder is not as deep.
pub(crate) fn tensors(config: &Config, depth: Depth) -> Result<Vec<(String, Vec<usize>)>, String> {
    let (dim, n_blocks) = (config.hidden_size, depth.n_blocks(config)?);
    let embedding = vec![config.vocab_size, dim];
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), embedding.clone())];
    tensors.extend((0..n_blocks).flat_map(|i| block(config, i)));
    if matches!(depth, Depth::Norm | Depth::Head) {
        tensors.push(("model.norm.weight".to_owned(), vec![dim]));
    }
    if depth == Depth::Head && !config.tied_head {
        tensors.push(("lm_head.weight".to_owned(), embedding));
    }
    Ok(tensors)
}

/// Of one block.
pub(super) fn block(config: &Config, index: usize) -> Vec<(String, Vec<usize>)> {
    let Config { hidden_size: dim, intermediate_size: wide, n_heads, n_kv_heads, head_dim, biases, .. } = *config;
    let (queries, keys) = (n_heads * head_dim, n_kv_heads * head_dim);
    let maps = [
        ("self_attn.q_proj", [queries, dim], biases.qkv),
        ("self_attn.k_proj", [keys, dim], biases.qkv),
        ("self_attn.v_proj", [keys, dim], biases.qkv),
        ("self_attn.o_proj", [dim, queries], biases.out),
        ("mlp.gate_proj", [wide, dim], biases.mlp),
        ("mlp.up_proj", [wide, dim], biases.mlp),
        ("mlp.down_proj", [dim, wide], biases.mlp),
    ];
    let head_norms = [("self_attn.q_norm", head_dim), ("self_attn.k_norm", head_dim)];
    let head_norms = head_norms.into_iter().filter(|_| config.family.norms_heads());
    let norms = [("input_layernorm", dim), ("post_attention_layernorm", dim)].into_iter().chain(head_norms);
    let at = |name: &str, part: &str| format!("model.layers.{index}.{name}.{part}");
    let mut tensors: Vec<_> = norms.map(|(name, dim)| (at(name, "weight"), vec![dim])).collect();
    for (name, shape, has_bias) in maps {
        tensors.push((at(name, "weight"), shape.to_vec()));
        tensors.extend(has_bias.then(|| (at(name, "bias"), vec![shape[0]])));
    }
    tensors
}

/// What the published files hold besides: tables that follow from the config.
pub(crate) fn is_known_spare(tensor: &str) -> bool {
    tensor.ends_with("rotary_emb.inv_freq") || tensor == "lm_head.weight"
}
