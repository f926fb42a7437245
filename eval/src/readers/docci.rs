//! DOCCI: `docci_descriptions.jsonlines` and `images/`, or GOAL's list of its test splits.

use serde::Deserialize;

use super::{
    Options, files,
    gathered::{Gathered, Pictures},
    goal,
};
use crate::dataset::Error;

const WHAT: &str = "a line of DOCCI's descriptions with `split`, `image_file` and `description`";

#[derive(Deserialize)]
struct Row {
    split: String,
    image_file: String,
    description: String,
}

pub fn test(options: &Options) -> Result<Gathered, Error> {
    read(options, &["test"])
}

pub fn test_and_qual(options: &Options) -> Result<Gathered, Error> {
    read(options, &["test", "qual_test"])
}

fn read(options: &Options, splits: &[&str]) -> Result<Gathered, Error> {
    let names = ["docci_descriptions.jsonlines", "docci_test.json", "datasets/docci_test.json"];
    let found = files::find(options, &names, "the descriptions of DOCCI")?;
    if found.file.extension().is_some_and(|ending| ending == "json") {
        return goal::read(options, &found, &["images"], |name| splits.contains(&split_of(name)));
    }
    let pictures = Pictures::of(options, &found.folder, &["images"]);
    let mut gathered = Gathered::from(&found.file);
    for row in files::json_lines(&found.file, WHAT)? {
        let (_, Row { split, image_file, description }) = row?;
        if splits.contains(&split.as_str()) {
            gathered.pair(&image_file, pictures.locate(&[&image_file]), description.replace('\n', " "));
        }
    }
    Ok(gathered)
}

/// Pictures are named `{split}_{number}.jpg`.
fn split_of(name: &str) -> &str {
    name.rsplit_once('_').map_or("", |(split, _)| split)
}
