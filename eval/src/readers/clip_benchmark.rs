//! CLIP_benchmark's test sets: `flickr30k_test_karpathy.txt`, a line for each caption, and `coco_test_karpathy.json`.

use std::collections::HashMap;

use serde::Deserialize;

use super::{
    Options, files,
    gathered::{Gathered, Pictures},
    karpathy::{COCO_FOLDERS, FLICKR30K_FOLDERS},
};
use crate::dataset::Error;

const LINE: &str = "a line `{name}.jpg,{caption}`";
const COCO: &str = "COCO captions: `images` with `id` and `file_name`, `annotations` with `image_id` and `caption`";

/// Captions have commas and quotes of their own: a line is split where the name ends, and taken as it is.
pub fn flickr30k(options: &Options) -> Result<Gathered, Error> {
    let found = files::find(options, &["flickr30k_test_karpathy.txt"], "CLIP_benchmark's captions of Flickr30k")?;
    let pictures = Pictures::of(options, &found.folder, &FLICKR30K_FOLDERS);
    let mut gathered = Gathered::from(&found.file);
    for line in files::lines(&found.file, LINE)? {
        let (n, line) = line?;
        match line.split_once(".jpg,") {
            Some((name, caption)) => {
                let name = format!("{}.jpg", name.trim());
                let place = gathered.place(&name);
                let place = place.unwrap_or_else(|| gathered.picture(&name, pictures.locate(&[&name])));
                gathered.say(place, "en", caption.trim());
            }
            None if n == 1 => {}
            None => return Err(files::odd(&found.file, LINE, format!("line {n}: no `.jpg,`"))),
        }
    }
    Ok(gathered)
}

#[derive(Deserialize)]
struct All {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    caption: String,
}

/// All captions of a picture, of which a few have six or seven.
pub fn coco(options: &Options) -> Result<Gathered, Error> {
    let found = files::find(options, &["coco_test_karpathy.json"], "CLIP_benchmark's captions of COCO")?;
    let pictures = Pictures::of(options, &found.folder, &COCO_FOLDERS);
    let All { images, annotations } = files::json(&found.file, COCO)?;
    let mut gathered = Gathered::from(&found.file);
    let mut places = HashMap::new();
    for Image { id, file_name } in images {
        let names = [file_name.as_str(), files::last_name(&file_name)];
        places.insert(id, gathered.picture(&file_name, pictures.locate(&names)));
    }
    for Annotation { image_id, caption } in annotations {
        let unknown = || files::odd(&found.file, COCO, format!("a caption of image {image_id}, which is not listed"));
        let place = *places.get(&image_id).ok_or_else(unknown)?;
        gathered.say(place, "en", caption);
    }
    Ok(gathered)
}
