//! ShareGPT4V: one JSON array of 1.2 million conversations, of which the first ones are a test set. The pictures are those of SA-1B, in
//! one folder, as ShareGPT4V's repository has them, or in one for each archive, as LoTLIP has them.

use std::path::Path;

use serde::Deserialize;

use super::{
    Options, files,
    gathered::{Gathered, Pictures},
};
use crate::dataset::Error;

const FILE: &str = "share-captioner_coco_lcs_sam_1246k_1107.json";
/// Where it is put, and the 10,000 entries that LoTLIP has of it.
const FOLDERS_OF_FILE: [&str; 5] = ["", "data/sharegpt4v/", "sharegpt4v/", "ShareGPT4V/", "data/"];
const FILE_OF_LOTLIP: [&str; 2] = ["share4v_sam_10k.json", "dataloaders/share4v/share4v_sam_10k.json"];
/// Where what an entry names as `sam/images/sa_1.jpg` is put, as it stands or by its last name; the folder above is that of a file which is
/// given itself.
const FOLDERS: [&str; 8] =
    ["data", "ShareGPT4V/data", "images", "data/sam/images", "sam/images", "data/sam", "sam", ".."];
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
    let mut names = FOLDERS_OF_FILE.map(|folder| format!("{folder}{FILE}")).to_vec();
    names.extend(FILE_OF_LOTLIP.map(str::to_owned));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = files::find(options, &names, WHAT)?;
    let mut folders = FOLDERS.map(str::to_owned).to_vec();
    folders.extend(folders_of_archives(options.images.as_deref().unwrap_or(&found.folder)));
    let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
    let pictures = Pictures::of(options, &found.folder, &folders);
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

/// SA-1B comes as `sa_000000.tar` and so on, each unpacked into a folder of its name, or of `images` in it.
fn folders_of_archives(root: &Path) -> Vec<String> {
    let mut folders = Vec::new();
    for above in ["", "SA-1B/", "sam/", "sam/images/", "data/sam/", "data/sam/images/"] {
        // A folder that is not there has none.
        let names = files::folders(&root.join(above)).unwrap_or_default();
        for name in names.iter().filter(|name| is_of_archive(name)) {
            folders.extend([format!("{above}{name}/images"), format!("{above}{name}")]);
        }
    }
    folders
}

fn is_of_archive(name: &str) -> bool {
    name.strip_prefix("sa_").is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}
