//! GOAL's test sets: one JSON array of `filename`, whose folders are those of whoever made it, and `caption`.

use serde::Deserialize;

use super::{
    Options,
    files::{self, Found},
    gathered::{Gathered, Pictures},
};
use crate::dataset::Error;

#[derive(Deserialize)]
struct Row {
    filename: String,
    caption: String,
}

/// The rows whose picture's name is one that is kept.
pub fn read(
    options: &Options,
    found: &Found,
    folders: &[&str],
    keeps: impl Fn(&str) -> bool,
) -> Result<Gathered, Error> {
    let rows: Vec<Row> = files::json(&found.file, "GOAL's list of `filename` and `caption`")?;
    let pictures = Pictures::of(options, &found.folder, folders);
    let mut gathered = Gathered::from(&found.file);
    for Row { filename, caption } in rows {
        let name = files::last_name(&filename);
        if keeps(name) {
            gathered.pair(name, pictures.locate(&[name]), caption);
        }
    }
    Ok(gathered)
}
