//! A collection "c" of photos that another encoder might have embedded, with captions.

use crate::common::Scratch;

pub const N: usize = 120;
pub const DIM: usize = 12;
pub const THINGS: [&str; DIM] =
    ["dog", "ball", "tree", "sea", "car", "house", "bird", "boat", "snow", "night", "flower", "horse"];

/// What image `at` shows.
pub fn shown(at: usize) -> Vec<usize> {
    (0..DIM).filter(|thing| (at * 7919 + thing * 104_729 + at * thing * 31) % 97 < 24).chain([at % DIM]).collect()
}

/// Vectors and tokens that another encoder might have made of images, captions in two languages, and a text side "ridge" that was
/// solved against them. Ingested as "c", with the encoder's own vectors under "raw".
pub fn scratch() -> Scratch {
    let scratch = Scratch::new();
    let number = |at: usize, thing: usize| f32::from(u8::from(shown(at).contains(&thing)));
    let noise = |at: usize, i: usize| ((at * 31 + i * 17) % 11) as f32 * 0.02;
    let rows = || (0..N).flat_map(|at| (0..DIM).map(move |i| number(at, i) + noise(at, i)));
    scratch.write("photos.npy", npy(&[N, DIM], rows()));
    let tokens =
        (0..N).flat_map(|at| (0..4 * 6).map(move |i| number(at, i % DIM) * (1 + i / DIM) as f32 + noise(at, i)));
    scratch.write("grid.npy", npy(&[N, 4, 6], tokens));
    scratch.write("photos.ids.txt", (0..N).map(|at| format!("p{at}")).collect::<Vec<_>>().join("\n"));
    let row = |at: usize| {
        let names: Vec<&str> = shown(at).into_iter().map(|thing| THINGS[thing]).collect();
        let split = if at.is_multiple_of(5) { "val" } else { "train" };
        let captions = [
            ("en", format!("a {}", names.join(" and a "))),
            ("en", format!("{} here", names[0])),
            ("de", names.join(" und ")),
        ];
        let captions: Vec<_> =
            captions.iter().map(|(lang, text)| serde_json::json!({ "lang": lang, "text": text })).collect();
        serde_json::json!({ "id": format!("p{at}"), "split": split, "captions": captions }).to_string()
    };
    scratch.write("captions.jsonl", (0..N).map(row).collect::<Vec<_>>().join("\n"));
    scratch.ok(&["train", "ridge", "--embeddings", "photos.npy", "--captions", "captions.jsonl", "--out", "ridge"]);
    let images = ["--embeddings", "photos.npy", "--tokens", "grid.npy"];
    scratch.ok(&[&["train", "project", "--aligned", "ridge", "--out", "projected.npy"], &images[..]].concat());
    let shape = ["--vector", "image=12", "--vector", "text=12", "--vector", "raw=12", "--token-shape", "image=4x6"];
    scratch.ok(&[&["collection", "create", "c", "--model", "ridge"], &shape[..]].concat());
    let ingest = ["ingest", "projected.npy", "--collection", "c", "--captions", "captions.jsonl"];
    scratch.ok(&[&ingest[..], &["--also", "raw=photos.npy"]].concat());
    scratch
}

pub fn npy(shape: &[usize], numbers: impl Iterator<Item = f32>) -> Vec<u8> {
    let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}\n", shape.join(", "));
    let length = (header.len() as u16).to_le_bytes();
    let numbers = numbers.flat_map(f32::to_le_bytes);
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes()].concat().into_iter().chain(numbers).collect()
}

pub const SMALL: [&str; 10] = ["--steps", "12", "--lists", "8", "--dim", "16", "--wide", "16", "--evaluate-every", "6"];
