//! ShareGPT4V: one JSON array of 1.2 million conversations, of which the first ones are a test set.

use serde::Deserialize;

use super::{
    Options, files,
    gathered::{Gathered, Pictures},
};
use crate::dataset::Error;

const FILE: &str = "share-captioner_coco_lcs_sam_1246k_1107.json";
const WHAT: &str = "ShareGPT4V's list of `image` and `conversations`, the second of which is the caption";

#[derive(Deserialize)]
struct Entry {
    image: String,
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    value: String,
}

pub fn first_1k(options: &Options) -> Result<Gathered, Error> {
    read(options, 1_000)
}

pub fn first_10k(options: &Options) -> Result<Gathered, Error> {
    read(options, 10_000)
}

fn read(options: &Options, n: usize) -> Result<Gathered, Error> {
    let found = files::find(options, &[FILE, &format!("ShareGPT4V/{FILE}")], WHAT)?;
    let pictures = Pictures::of(options, &found.folder, &["data", "ShareGPT4V/data", "images"]);
    let mut gathered = Gathered::from(&found.file);
    let entries: Vec<Entry> = files::first_of_array(&found.file, n, WHAT)?;
    for (place, Entry { image, conversations }) in entries.into_iter().enumerate() {
        let caption = conversations.get(1).ok_or_else(|| {
            files::odd(&found.file, WHAT, format!("entry {}: only {} conversations", place + 1, conversations.len()))
        })?;
        let located = pictures.locate(&[&image, files::last_name(&image)]);
        gathered.pair(&image, located, caption.value.replace('\n', " "));
    }
    Ok(gathered)
}
