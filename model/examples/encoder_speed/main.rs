//! Embeds what `benches/encoder_speed.py` left in a folder, as often as it asks: lines such as `encoder image 8` on stdin, times on
//! stdout, and the numbers of the last answer in the folder.

mod candle_clip;

use std::{
    collections::HashMap,
    error::Error,
    io::{self, BufRead, Write},
    path::Path,
    sync::Arc,
    time::Instant,
};

use candle_core::{DType, Tensor};
use firn_model::{
    Device, Encoder, Keep, Pixels,
    decoder::{Decoder, Depth, Options, Pass, mask},
    load, picture,
};
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn Error>>;

trait Engine {
    /// The first `n` inputs of a kind, embedded: rows one after another.
    fn run(&self, inputs: &Inputs, what: &str, n: usize) -> Outcome<Vec<f32>>;
}

/// Those that the script left there.
struct Inputs {
    photo: Vec<u8>,
    pixels: Vec<Pixels>,
    texts: Vec<String>,
    /// Of one length.
    ids: Vec<Vec<u32>>,
}

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, engines @ ..] = words.as_slice() else {
        return Err("usage: encoder_speed FOLDER ENGINE... (run benches/encoder_speed.py)".into());
    };
    let path = Path::new(folder);
    let engines: HashMap<&str, Box<dyn Engine>> =
        engines.iter().map(|name| Ok((name.as_str(), open(name, path)?))).collect::<Outcome<_>>()?;
    let inputs = Inputs::read(path)?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let [engine, what, n] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err("expected three words".into());
        };
        let (cpu_s, wall) = (cpu_seconds(), Instant::now());
        let rows = engines[engine].run(&inputs, what, n.parse()?)?;
        let answer =
            json!({"cpu_ms": 1000.0 * (cpu_seconds() - cpu_s), "wall_ms": 1000.0 * wall.elapsed().as_secs_f64()});
        std::fs::write(path.join("answer.f32"), rows.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
        println!("{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}

fn open(name: &str, folder: &Path) -> Outcome<Box<dyn Engine>> {
    Ok(match name {
        "encoder" => Box::new(load(folder.to_str().ok_or("the folder's name is no text")?, Device::Cpu)?),
        "decoder" => {
            let options = Options { depth: Depth::BlocksBut(0), device: Device::Cpu, dtype: None };
            Box::new(Decoder::load(folder, &options)?)
        }
        "candle" => Box::new(candle_clip::open(folder)?),
        _ => return Err("expected encoder, decoder or candle".into()),
    })
}

impl Engine for Arc<dyn Encoder> {
    fn run(&self, inputs: &Inputs, what: &str, n: usize) -> Outcome<Vec<f32>> {
        Ok(match what {
            "image" => {
                let images = self.embed_images(&inputs.pixels[..n], Keep::Nothing)?;
                images.into_iter().flat_map(|image| image.embedding).collect()
            }
            "text" => {
                let texts: Vec<&str> = inputs.texts[..n].iter().map(String::as_str).collect();
                self.embed_texts(&texts, Keep::Nothing)?.into_iter().flat_map(|text| text.embedding).collect()
            }
            "photo" => {
                let mut values = Vec::new();
                for _ in 0..n {
                    values.extend(self.preprocess(&picture::decode(&inputs.photo)?.rgb)?.values);
                }
                values
            }
            _ => return Err("expected image, text or photo".into()),
        })
    }
}

impl Engine for Decoder {
    /// The residual stream after the last block.
    fn run(&self, inputs: &Inputs, what: &str, n: usize) -> Outcome<Vec<f32>> {
        if what != "states" {
            return Err("expected states".into());
        }
        let ids = Tensor::new(inputs.ids[..n].to_vec(), self.device())?;
        let length = ids.dims()[1];
        let positions = Tensor::arange(0, length as u32, self.device())?.repeat((n, 1))?;
        let mask = mask((1, length, length), self.device(), |_, row, column| column <= row)?;
        let pass = Pass { ids: &ids, positions: &positions, mask: Some(&mask) };
        Ok(self.states(&pass, &[self.n_blocks()], None)?[0].flatten_all()?.to_vec1()?)
    }
}

impl Inputs {
    fn read(folder: &Path) -> Outcome<Inputs> {
        let tensors = candle_core::safetensors::load(folder.join("inputs.bin"), &candle_core::Device::Cpu)?;
        let pixels = match tensors.get("pixels") {
            Some(pixels) => pixels.to_dtype(DType::F32)?.flatten_from(1)?.to_vec2()?,
            None => Vec::new(),
        };
        let side = tensors.get("pixels").map_or(0, |pixels| pixels.dims()[3]);
        Ok(Inputs {
            photo: tensors.get("photo").map_or(Ok(Vec::new()), Tensor::to_vec1)?,
            pixels: pixels.into_iter().map(|values| Pixels { side, values }).collect(),
            texts: serde_json::from_slice(&std::fs::read(folder.join("texts.json"))?)?,
            ids: tensors.get("ids").map_or(Ok(Vec::new()), Tensor::to_vec2)?,
        })
    }
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
