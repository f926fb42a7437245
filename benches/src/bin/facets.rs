//! What facet-decoupled attention spares: one pass that asks a caption seven questions, beside seven passes of one question
//! each, on the same decoder with random weights.

use std::{collections::HashMap, error::Error, fs, path::Path};

use clap::Parser;
use firn_benches::process_cpu_s;
use firn_model::{
    Device,
    facets::{FacetEncoder, Options, Template},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const SEED: u64 = 5;
const TOKENIZER: &str = include_str!("../../../model/fixtures/decoder-mistral/tokenizer.json");
const VOCAB: usize = 370;

/// One pass with seven facets beside seven passes.
#[derive(Parser)]
struct Arguments {
    /// Width of the decoder's states.
    #[arg(long, default_value_t = 1024)]
    dim: usize,
    #[arg(long, default_value_t = 8)]
    blocks: usize,
    /// Tokens of the caption.
    #[arg(long, default_value_t = 200)]
    tokens: usize,
    #[arg(long, default_value_t = 5)]
    repeats: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    write_decoder(folder.path(), &arguments)?;
    let flame = Template::flame("flame-7")?;
    let load = |template: Template| {
        let options = Options { template, device: Device::Cpu, ..Options::flame() };
        FacetEncoder::load(folder.path(), &options)
    };
    let alone = |facet: &String| load(Template { facets: vec![facet.clone()], ..flame.clone() });
    let single = flame.facets.iter().map(alone).collect::<Result<Vec<_>, _>>()?;
    let decoupled = load(flame.clone())?;
    let caption = caption_of(&single[0], arguments.tokens)?;

    let (mut together, mut apart) = (Vec::new(), Vec::new());
    for _ in 0..=arguments.repeats {
        together.push(measure(std::slice::from_ref(&decoupled), &caption)?);
        apart.push(measure(&single, &caption)?);
    }
    let (together, apart) = (median(&mut together[1..]), median(&mut apart[1..]));
    println!(
        "| {} blocks of {}, a caption of {} tokens | tokens | CPU-ms |",
        arguments.blocks, arguments.dim, arguments.tokens
    );
    println!("|---|---|---|");
    println!("| seven passes | {} | {:.0} |", apart.0, apart.1);
    println!("| one decoupled pass | {} | {:.0} |", together.0, together.1);
    println!("| ratio | {:.3} | {:.3} |", together.0 as f64 / apart.0 as f64, together.1 / apart.1);
    Ok(())
}

/// Tokens computed and CPU milliseconds.
fn measure(encoders: &[FacetEncoder], caption: &str) -> Result<(u64, f64), firn_model::Error> {
    let n_computed = || encoders.iter().map(|encoder| encoder.decoder().n_computed()).sum::<u64>();
    let (before, start) = (n_computed(), process_cpu_s());
    for encoder in encoders {
        encoder.embed(&[caption])?;
    }
    Ok((n_computed() - before, 1000.0 * (process_cpu_s() - start)))
}

fn median(runs: &mut [(u64, f64)]) -> (u64, f64) {
    runs.sort_by(|a, b| a.1.total_cmp(&b.1));
    runs[runs.len() / 2]
}

/// Words until the whole prompt is as much longer than that of one word as the caption should be.
fn caption_of(encoder: &FacetEncoder, n_tokens: usize) -> Result<String, firn_model::Error> {
    let length = |caption: &str| encoder.embed(&[caption]).map(|texts| texts[0].tokens_used);
    let start = length("cat")?;
    let mut caption = "cat".to_owned();
    while length(&caption)? < start + n_tokens - 1 {
        caption.push_str(" and a dog on the mountain");
    }
    Ok(caption)
}

/// A Llama in the Hugging Face layout, its weights drawn small.
fn write_decoder(folder: &Path, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let (dim, wide) = (arguments.dim, arguments.dim * 7 / 2);
    let (n_heads, n_kv_heads) = (dim / 64, dim / 128);
    let config = json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": dim, "intermediate_size": wide,
        "num_hidden_layers": arguments.blocks + 1, "num_attention_heads": n_heads, "num_key_value_heads": n_kv_heads,
        "rms_norm_eps": 1e-5, "rope_theta": 1e6, "max_position_embeddings": 4096, "tie_word_embeddings": true,
    });
    fs::write(folder.join("config.json"), config.to_string())?;
    fs::write(folder.join("tokenizer.json"), TOKENIZER)?;
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, dim])];
    for block in 0..=arguments.blocks {
        let kv = n_kv_heads * 64;
        for (name, shape) in [
            ("self_attn.q_proj", vec![dim, dim]),
            ("self_attn.k_proj", vec![kv, dim]),
            ("self_attn.v_proj", vec![kv, dim]),
            ("self_attn.o_proj", vec![dim, dim]),
            ("mlp.gate_proj", vec![wide, dim]),
            ("mlp.up_proj", vec![wide, dim]),
            ("mlp.down_proj", vec![dim, wide]),
            ("input_layernorm", vec![dim]),
            ("post_attention_layernorm", vec![dim]),
        ] {
            shapes.push((format!("model.layers.{block}.{name}.weight"), shape));
        }
    }
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut weights = HashMap::new();
    for (name, shape) in shapes {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-0.03..0.03)).collect();
        let device = candle_core::Device::Cpu;
        weights.insert(name, candle_core::Tensor::from_vec(values, shape, &device)?);
    }
    candle_core::safetensors::save(&weights, folder.join("model.safetensors"))?;
    Ok(())
}
