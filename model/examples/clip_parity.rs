//! Embeds what `benches/clip_parity.py` left in a folder, and prints how far the answers are from the reference's.

use std::{path::Path, process::exit};

use firn_model::{Device, Embedding, load};
use safetensors::SafeTensors;
use serde_json::json;

fn main() {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: clip_parity FOLDER (run benches/clip_parity.py)");
        exit(2);
    };
    let read = |name: &str| std::fs::read(Path::new(&folder).join(name)).expect("the script wrote this file");
    let encoder = load(&folder, Device::Cpu).unwrap_or_else(|error| {
        eprintln!("{error}");
        exit(1);
    });
    let expected = read("expected.bin");
    let expected = SafeTensors::deserialize(&expected).expect("the script wrote tensors");
    let expected = |name: &str| -> Vec<f32> {
        let tensor = expected.tensor(name).expect("the script wrote this tensor");
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let texts: Vec<String> = serde_json::from_slice(&read("texts.json")).expect("the script wrote JSON");
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();

    let pictures: Vec<_> = (0..)
        .map_while(|i| std::fs::read(Path::new(&folder).join(format!("{i}.png"))).ok())
        .map(|bytes| firn_model::picture::decode(&bytes).expect("the script wrote pictures").rgb)
        .collect();
    let (pixels, preprocess_s) = cpu_time(|| pictures.iter().map(|p| encoder.preprocess(p)).collect::<Vec<_>>());
    let warm = encoder.embed_images(&pixels[..1]).and_then(|_| encoder.embed_texts(&texts[..1]));
    warm.expect("the reference embeds them");
    let (images, image_s) = cpu_time(|| encoder.embed_images(&pixels).expect("the reference embeds them"));
    let (words, text_s) = cpu_time(|| encoder.embed_texts(&texts).expect("the reference embeds them"));
    let words: Vec<Embedding> = words.into_iter().map(|t| t.embedding).collect();
    let values: Vec<f32> = pixels.iter().flat_map(|p| p.values.iter().copied()).collect();
    let answer = json!({
        "parameters": encoder.info().parameters,
        "pixels_max_diff": max_diff(&values, &expected("pixels")),
        "image_max_diff": max_diff(&images.concat(), &expected("image")),
        "text_max_diff": max_diff(&words.concat(), &expected("text")),
        "preprocess_cpu_ms": 1000.0 * preprocess_s / pictures.len() as f64,
        "image_cpu_ms": 1000.0 * image_s / images.len() as f64,
        "text_cpu_ms": 1000.0 * text_s / words.len() as f64,
    });
    println!("{answer}");
}

fn max_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// CPU seconds of all threads of this process, from the kernel's count in hundredths.
fn cpu_time<R>(work: impl FnOnce() -> R) -> (R, f64) {
    let now = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields: Vec<f64> =
            stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
        fields.get(11).unwrap_or(&0.0) + fields.get(12).unwrap_or(&0.0)
    };
    let start = now();
    let result = work();
    (result, (now() - start) / 100.0)
}
