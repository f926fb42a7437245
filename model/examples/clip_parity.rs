//! Embeds what `benches/clip_parity.py` left in a folder, and prints how far the answers are from the reference's.

use std::{path::Path, process::exit};

use firn_model::{Device, Embedding, Keep, load};
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
    let pixels: Vec<_> = pictures.iter().map(|p| encoder.preprocess(p).expect("a CLIP takes pictures")).collect();
    let images = encoder.embed_images(&pixels, Keep::Nothing).expect("the reference embeds them");
    let images: Vec<Embedding> = images.into_iter().map(|image| image.embedding).collect();
    let words = encoder.embed_texts(&texts, Keep::Nothing).expect("the reference embeds them");
    let words: Vec<Embedding> = words.into_iter().map(|t| t.embedding).collect();
    let values: Vec<f32> = pixels.iter().flat_map(|p| p.values.iter().copied()).collect();
    let answer = json!({
        "parameters": encoder.info().parameters,
        "pixels_max_diff": max_diff(&values, &expected("pixels")),
        "image_max_diff": max_diff(&images.concat(), &expected("image")),
        "text_max_diff": max_diff(&words.concat(), &expected("text")),
    });
    println!("{answer}");
}

fn max_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}
