//! Embeds what `benches/clip_speed.py` left in a folder, as often as it asks: lines such as `firn image 8` on stdin, times on
//! stdout. `candle` in place of `firn` is the CLIP of candle-transformers on the same weights.

use std::{
    error::Error,
    io::{self, BufRead, Write},
    path::Path,
    time::Instant,
};

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::{
    ClipConfig, ClipModel,
    text_model::{Activation, ClipTextConfig},
    vision_model::ClipVisionConfig,
};
use firn_model::{Device, Encoder, Keep, Pixels, load, picture};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What is embedded: the first of these, as many as a line says.
struct Inputs {
    photo: Vec<u8>,
    pixels: Vec<Pixels>,
    texts: Vec<String>,
    /// Of one length.
    ids: Vec<Vec<u32>>,
}

fn main() -> Outcome<()> {
    let folder = std::env::args().nth(1).ok_or("usage: clip_speed FOLDER (run benches/clip_speed.py)")?;
    let encoder = load(&folder, Device::Cpu)?;
    let candle = load_candle(Path::new(&folder))?;
    let inputs = read_inputs(Path::new(&folder), encoder.info().image_side_px)?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let [engine, what, n] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err("expected three words".into());
        };
        let (cpu_s, wall) = (cpu_seconds(), Instant::now());
        run(&*encoder, &candle, &inputs, (engine, what, n.parse()?))?;
        let answer =
            json!({"cpu_ms": 1000.0 * (cpu_seconds() - cpu_s), "wall_ms": 1000.0 * wall.elapsed().as_secs_f64()});
        println!("{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}

fn run(encoder: &dyn Encoder, candle: &ClipModel, inputs: &Inputs, job: (&str, &str, usize)) -> Outcome<()> {
    match job {
        ("firn", "image", n) => drop(encoder.embed_images(&inputs.pixels[..n], Keep::Nothing)?),
        ("firn", "text", n) => {
            drop(
                encoder
                    .embed_texts(&inputs.texts[..n].iter().map(String::as_str).collect::<Vec<_>>(), Keep::Nothing)?,
            );
        }
        ("firn", "photo", n) => {
            for _ in 0..n {
                encoder.preprocess(&picture::decode(&inputs.photo)?.rgb)?;
            }
        }
        ("candle", "image", n) => {
            let side = inputs.pixels[0].side;
            let values: Vec<f32> = inputs.pixels[..n].iter().flat_map(|p| p.values.clone()).collect();
            candle.get_image_features(&Tensor::from_vec(values, (n, 3, side, side), &candle_core::Device::Cpu)?)?;
        }
        ("candle", "text", n) => {
            candle.get_text_features(&Tensor::new(inputs.ids[..n].to_vec(), &candle_core::Device::Cpu)?)?;
        }
        _ => return Err("expected firn or candle, and image, text or photo".into()),
    }
    Ok(())
}

fn read_inputs(folder: &Path, side: usize) -> Outcome<Inputs> {
    let values: Vec<f32> = std::fs::read(folder.join("pixels.f32"))?
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    Ok(Inputs {
        photo: std::fs::read(folder.join("photo.jpg"))?,
        pixels: values.chunks_exact(3 * side * side).map(|p| Pixels { side, values: p.to_vec() }).collect(),
        texts: serde_json::from_slice(&std::fs::read(folder.join("texts.json"))?)?,
        ids: serde_json::from_slice(&std::fs::read(folder.join("ids.json"))?)?,
    })
}

fn load_candle(folder: &Path) -> Outcome<ClipModel> {
    let json: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let count = |tower: &str, name: &str| json[tower][name].as_u64().ok_or(format!("{tower}.{name}: no number"));
    let text = |name: &str| count("text_config", name).map(|n| n as usize);
    let vision = |name: &str| count("vision_config", name).map(|n| n as usize);
    let projection_dim = json["projection_dim"].as_u64().ok_or("projection_dim: no number")? as usize;
    let config = ClipConfig {
        text_config: ClipTextConfig {
            vocab_size: text("vocab_size")?,
            embed_dim: text("hidden_size")?,
            activation: Activation::QuickGelu,
            intermediate_size: text("intermediate_size")?,
            max_position_embeddings: text("max_position_embeddings")?,
            pad_with: None,
            num_hidden_layers: text("num_hidden_layers")?,
            num_attention_heads: text("num_attention_heads")?,
            projection_dim,
        },
        vision_config: ClipVisionConfig {
            embed_dim: vision("hidden_size")?,
            activation: Activation::QuickGelu,
            intermediate_size: vision("intermediate_size")?,
            num_hidden_layers: vision("num_hidden_layers")?,
            num_attention_heads: vision("num_attention_heads")?,
            projection_dim,
            num_channels: 3,
            image_size: vision("image_size")?,
            patch_size: vision("patch_size")?,
        },
        logit_scale_init_value: 2.6592,
        image_size: vision("image_size")?,
    };
    let file = folder.join("model.safetensors");
    // SAFETY: the script wrote the file, and nobody changes it while this runs.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &candle_core::Device::Cpu)? };
    Ok(ClipModel::new(weights, &config)?)
}

/// Of all threads of this process, from the kernel's count in nanoseconds.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_task = |task: std::fs::DirEntry| -> Option<f64> {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse().ok()
    };
    tasks.filter_map(of_task).sum::<f64>() / 1e9
}
