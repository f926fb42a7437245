//! Karpathy's splits of Flickr30k and COCO: `dataset_{name}.json` with all images, their splits and their sentences.

use serde::Deserialize;

use super::{
    Options, files,
    gathered::{Gathered, Pictures},
};
use crate::dataset::Error;

const WHAT: &str = "Karpathy's list of `images` with `filename`, `split` and `sentences`";
/// Some pictures have more; whoever compares asks with these.
const SENTENCES: usize = 5;
/// Archives that are unpacked into a folder of their name have it twice.
pub const FLICKR30K_FOLDERS: [&str; 6] = [
    "flickr30k-images",
    "flickr30k_images",
    "Images",
    "images",
    "flickr30k_images/flickr30k_images",
    "flickr30k-images/flickr30k-images",
];
pub const COCO_FOLDERS: [&str; 4] = ["val2014", "images", "images/val2014", "val2014/val2014"];

#[derive(Deserialize)]
struct All {
    images: Vec<Image>,
}

#[derive(Deserialize)]
struct Image {
    filename: String,
    /// COCO: the folder.
    filepath: Option<String>,
    split: String,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    raw: String,
}

pub fn flickr30k_test(options: &Options) -> Result<Gathered, Error> {
    read(options, "flickr30k", &FLICKR30K_FOLDERS, |split| split == "test")
}

pub fn flickr30k_all(options: &Options) -> Result<Gathered, Error> {
    read(options, "flickr30k", &FLICKR30K_FOLDERS, |_| true)
}

pub fn coco_test(options: &Options) -> Result<Gathered, Error> {
    read(options, "coco", &COCO_FOLDERS, |split| split == "test")
}

fn read(options: &Options, name: &str, folders: &[&str], keeps: fn(&str) -> bool) -> Result<Gathered, Error> {
    let file = |folder: &str| format!("{folder}dataset_{name}.json");
    let names = ["", "karpathy/", "caption_datasets/", "annotations/"].map(file);
    let found = files::find(options, &names.each_ref().map(String::as_str), WHAT)?;
    let pictures = Pictures::of(options, &found.folder, folders);
    let All { images } = files::json(&found.file, WHAT)?;
    let mut gathered = Gathered::from(&found.file);
    for Image { filename, filepath, sentences, .. } in images.into_iter().filter(|image| keeps(&image.split)) {
        let path = format!("{}/{filename}", filepath.as_deref().unwrap_or("."));
        if gathered.place(&filename).is_some() {
            gathered.repeated.push(filename.clone());
        }
        let place = gathered.picture(&filename, pictures.locate(&[&filename, &path]));
        sentences.into_iter().take(SENTENCES).for_each(|sentence| gathered.say(place, "en", sentence.raw));
    }
    Ok(gathered)
}
