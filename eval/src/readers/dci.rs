//! Densely Captioned Images: `densely_captioned_images/{annotations,photos}/` and `splits.json`. It is published as
//! retrieval in several ways that have nothing but the photos in common.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    Options, files,
    finish::counted,
    gathered::{Gathered, Pictures},
    goal,
};
use crate::dataset::Error;

const WHAT: &str = "an annotation of DCI with `image`, `short_caption` and `extra_caption`";

#[derive(Deserialize)]
struct Annotation {
    image: String,
    short_caption: Option<String>,
    extra_caption: Option<String>,
}

/// FLAME, LoTLIP: all splits, both captions as one text.
pub fn flame(options: &Options) -> Result<Gathered, Error> {
    let folder = folder(options)?;
    let splits = folder.join("splits.json");
    let of_splits: BTreeMap<String, Vec<String>> =
        files::json(&splits, "DCI's splits, each a list of annotation files")?;
    let mut names: Vec<String> = of_splits.into_values().flatten().collect();
    let n_listed = names.len();
    names.sort();
    names.dedup();
    let pictures = Pictures::of(options, &folder, &["photos"]);
    let mut gathered = Gathered::from(&splits);
    if names.len() < n_listed {
        let n = counted(n_listed - names.len());
        gathered.notes.push(format!("splits.json names {n} annotation files again: each was read once"));
    }
    for name in names {
        let Annotation { image, short_caption, extra_caption } =
            files::json(&folder.join("annotations").join(name), WHAT)?;
        let text = format!("{}\n{}", short_caption.unwrap_or_default(), extra_caption.unwrap_or_default());
        gathered.pair(&image, pictures.locate(&[&image]), sentences(&text));
    }
    Ok(gathered)
}

/// TULIP: every annotation file that has an extra caption, and that caption only.
pub fn long(options: &Options) -> Result<Gathered, Error> {
    let folder = folder(options)?;
    let annotations = folder.join("annotations");
    let pictures = Pictures::of(options, &folder, &["photos"]);
    let mut gathered = Gathered::from(&annotations);
    let mut n_empty = 0;
    for name in files::names(&annotations, ".json", "the folder of DCI's annotations")? {
        let annotation: Annotation = files::json(&annotations.join(name), WHAT)?;
        match annotation.extra_caption {
            Some(text) if !text.trim().is_empty() => {
                gathered.pair(&annotation.image, pictures.locate(&[&annotation.image]), text);
            }
            _ => n_empty += 1,
        }
    }
    if n_empty > 0 {
        gathered.notes.push(format!("annotations without an extra caption were left out: {}", counted(n_empty)));
    }
    Ok(gathered)
}

/// GOAL's own list.
pub fn goal(options: &Options) -> Result<Gathered, Error> {
    let found = files::find(options, &["DCI_test.json", "datasets/DCI_test.json"], "GOAL's test set of DCI")?;
    goal::read(options, &found, &["densely_captioned_images/photos", "photos", "images"], |_| true)
}

fn folder(options: &Options) -> Result<PathBuf, Error> {
    if options.data.is_file() {
        return Ok(options.data.parent().unwrap_or(Path::new("")).to_owned());
    }
    let names = ["densely_captioned_images", "", "dci/densely_captioned_images"];
    files::find_folder(&options.data, &names, "annotations", "the folder of DCI's annotations")
}

/// What stands between line breaks, ends of a sequence and full stops, joined by a full stop and a space each.
pub fn sentences(text: &str) -> String {
    let text = text.replace("</s>", "\n");
    let sentences: Vec<&str> = text.split(['\n', '.']).map(str::trim).filter(|part| !part.is_empty()).collect();
    sentences.join(". ")
}
