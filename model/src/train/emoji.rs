//! Drawings with names and keywords in many languages: `concepts.jsonl`, `texts.jsonl.gz` and a tar of pictures per style.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use image::RgbImage;
use rand::{Rng, seq::SliceRandom};
use serde::Deserialize;

use crate::{Error, Result, picture};

/// Drawing styles, each a tar of `<id>.png`.
pub const STYLES: [&str; 2] = ["noto", "twemoji"];
/// Largest table file that is read.
const MAX_TABLE_BYTES: u64 = 1 << 30;

/// A thing that is drawn and named.
pub struct Concept {
    pub id: String,
    /// Variants of a thing (skin tones, genders) share a group, and a group is never split.
    pub group: String,
    pub is_train: bool,
    /// In the order of `STYLES`.
    pub pictures: Vec<RgbImage>,
    pub texts: Vec<Text>,
}

/// What a language calls it.
#[derive(Deserialize)]
pub struct Text {
    id: String,
    pub lang: String,
    pub name: String,
    pub keywords: Vec<String>,
}

#[derive(Deserialize)]
struct ConceptRow {
    id: String,
    group: String,
    fold: String,
}

/// All concepts that have a picture in every style and a text.
pub fn read(folder: &Path) -> Result<Vec<Concept>> {
    let rows: Vec<ConceptRow> = lines(&folder.join("concepts.jsonl"))?;
    let mut texts: HashMap<String, Vec<Text>> = HashMap::new();
    for text in lines::<Text>(&folder.join("texts.jsonl.gz"))? {
        texts.entry(text.id.clone()).or_default().push(text);
    }
    let mut drawn: Vec<HashMap<String, RgbImage>> =
        STYLES.iter().map(|style| pictures(&folder.join(format!("{style}.tar")))).collect::<Result<_>>()?;
    let concepts = rows.into_iter().filter_map(|row| {
        let pictures = drawn.iter_mut().map(|style| style.remove(&row.id)).collect::<Option<Vec<RgbImage>>>()?;
        let texts = texts.remove(&row.id)?;
        Some(Concept { is_train: row.fold == "train", id: row.id, group: row.group, pictures, texts })
    });
    Ok(concepts.collect())
}

impl Text {
    /// The name, a few keywords, or the name with keywords.
    pub fn draw(&self, rng: &mut impl Rng) -> String {
        let mut keywords: Vec<&str> = self.keywords.iter().map(String::as_str).collect();
        keywords.shuffle(rng);
        let kind = if keywords.is_empty() { 0 } else { rng.random_range(0..10) };
        match kind {
            0..4 => self.name.clone(),
            4..6 => keywords[..keywords.len().min(rng.random_range(1..=5))].join(", "),
            _ => [&[self.name.as_str()], &keywords[..keywords.len().min(2)]].concat().join(", "),
        }
    }
}

fn lines<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>> {
    let file = open(path)?;
    let reader: Box<dyn Read> = match path.extension() {
        Some(extension) if extension == "gz" => Box::new(flate2::read::MultiGzDecoder::new(file)),
        _ => Box::new(file),
    };
    let mut rows = Vec::new();
    for (number, line) in BufReader::new(reader.take(MAX_TABLE_BYTES)).lines().enumerate() {
        let line = line.map_err(|error| Error::Io { path: path.to_owned(), error })?;
        let row = serde_json::from_str(&line).map_err(|fault| bad(path, format!("line {}: {fault}", number + 1)))?;
        rows.push(row);
    }
    Ok(rows)
}

fn pictures(path: &Path) -> Result<HashMap<String, RgbImage>> {
    let mut archive = tar::Archive::new(open(path)?);
    let broken = |fault: std::io::Error| bad(path, fault.to_string());
    let mut pictures = HashMap::new();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = PathBuf::from(entry.path().map_err(broken)?.as_ref());
        let mut bytes = Vec::new();
        entry.by_ref().take(picture::MAX_DECODE_BYTES).read_to_end(&mut bytes).map_err(broken)?;
        if let Some(id) = name.file_stem().and_then(|stem| stem.to_str()) {
            pictures.insert(id.to_owned(), picture::decode(&bytes)?.rgb);
        }
    }
    Ok(pictures)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| Error::Io { path: path.to_owned(), error })
}

fn bad(path: &Path, detail: String) -> Error {
    Error::BadFile { file: path.to_owned(), detail }
}
