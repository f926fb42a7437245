//! Which kind of source stands at a path: by its name, or where that says nothing, by its first bytes.

use std::{fs, io::Read, path::Path};

use firn_index::PointId;
use serde::Serialize;

use super::{SourceError, facets::ARRAYS, stream};
use crate::embeddings::MANIFEST;

/// Folders inside folders that are looked into.
const MAX_DEPTH: usize = 128;

/// Names of pictures that are read.
pub const PICTURES: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];
/// Names of pictures that are not: they are reported, not ignored.
pub const OTHER_PICTURES: [&str; 16] = [
    "avif", "bmp", "heic", "heif", "ico", "jp2", "jxl", "svg", "tif", "tiff", "psd", "raw", "cr2", "nef", "arw", "dng",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Pictures with sidecar texts.
    Folder,
    /// One such picture.
    Picture,
    Jsonl,
    Csv,
    Tsv,
    /// A tar whose members are grouped by name.
    WebDataset,
    Npy,
    Safetensors,
    /// A folder that `firn embed` wrote.
    Embeddings,
    /// A folder of facets, a file an image.
    Facets,
}

impl Kind {
    /// Where the ids of its items are given.
    pub fn place_of_ids(self) -> &'static str {
        match self {
            Kind::Folder | Kind::Picture => "as \"id\" in x.json beside x.jpg",
            Kind::Jsonl => "as \"id\" in each line",
            Kind::Csv | Kind::Tsv => "in a column \"id\"",
            Kind::WebDataset => "as \"id\" in the .json of each item",
            Kind::Npy => "in x.ids.txt or x.ids.json beside x.npy",
            Kind::Safetensors => "as \"ids\" in the metadata",
            Kind::Embeddings => "as \"id\" in each line of its shards",
            Kind::Facets => "as the names of its files",
        }
    }
}

pub fn of(path: &Path) -> Result<Kind, SourceError> {
    let io = |error| SourceError::Io { path: path.to_owned(), error };
    let found = fs::metadata(path).map_err(io)?;
    if found.is_dir() {
        return Ok(of_folder(path));
    }
    // A pipe gives its first bytes once: they would be gone when it is opened to be read.
    if !found.is_file() {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    if let Some(kind) = by_name(path) {
        return Ok(kind);
    }
    let mut start = Vec::new();
    stream::open(path, None).map_err(io)?.take(512).read_to_end(&mut start).map_err(io)?;
    by_content(&start).ok_or_else(|| SourceError::UnknownKind { path: path.to_owned() })
}

/// A folder with a manifest holds embeddings; one with arrays and without any picture holds facets.
fn of_folder(path: &Path) -> Kind {
    let mut found = Found::default();
    match path.join(MANIFEST).is_file() {
        true => Kind::Embeddings,
        false => {
            look_below(path, 0, &mut found);
            if found.array && !found.picture { Kind::Facets } else { Kind::Folder }
        }
    }
}

#[derive(Default)]
struct Found {
    array: bool,
    picture: bool,
}

/// Looks until a picture is found: that settles it.
fn look_below(folder: &Path, depth: usize, found: &mut Found) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let extension = extension(&entry.file_name().to_string_lossy());
        found.array |= ARRAYS.contains(&extension.as_str());
        found.picture |= PICTURES.contains(&extension.as_str()) || OTHER_PICTURES.contains(&extension.as_str());
        if !found.picture && depth < MAX_DEPTH && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            look_below(&entry.path(), depth + 1, found);
        }
        if found.picture {
            return;
        }
    }
}

/// The extension in lower case; empty when there is none.
pub fn extension(name: &str) -> String {
    Path::new(name).extension().map_or_else(String::new, |e| e.to_string_lossy().to_lowercase())
}

/// The id of a row that was given none: the name of its file without `.npy` or `.safetensors`, and its number. Rows of
/// several files stay apart, and a file that is read again gives the same ids.
pub fn row_id(path: &Path, row: usize) -> PointId {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut stem = &*name;
    for extension in [".gz", ".npy", ".safetensors"] {
        let cut = stem.len().saturating_sub(extension.len());
        if stem.get(cut..).is_some_and(|end| end.eq_ignore_ascii_case(extension)) {
            stem = &stem[..cut];
        }
    }
    PointId::Text(format!("{stem}:{row}"))
}

fn by_name(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match extension(name).as_str() {
        "jsonl" | "ndjson" => Some(Kind::Jsonl),
        "csv" => Some(Kind::Csv),
        "tsv" => Some(Kind::Tsv),
        "tar" | "tgz" => Some(Kind::WebDataset),
        "npy" => Some(Kind::Npy),
        "safetensors" => Some(Kind::Safetensors),
        picture if PICTURES.contains(&picture) => Some(Kind::Picture),
        _ => None,
    }
}

/// Whether a file that begins so may be a tar, whole or cut off.
pub fn begins_as_tar(start: &[u8]) -> bool {
    start.len() < 512 || start[257..].starts_with(b"ustar")
}

fn by_content(start: &[u8]) -> Option<Kind> {
    let trimmed = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let is = |at: usize, magic: &[u8]| start.get(at..at + magic.len()) == Some(magic);
    match () {
        _ if is(0, b"\x93NUMPY") => Some(Kind::Npy),
        _ if is(257, b"ustar") => Some(Kind::WebDataset),
        _ if is(8, b"{\"") => Some(Kind::Safetensors),
        _ if is(0, b"\xff\xd8\xff") || is(0, b"\x89PNG") || is(0, b"GIF8") || is(8, b"WEBP") => Some(Kind::Picture),
        _ if trimmed.starts_with(b"{") => Some(Kind::Jsonl),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_kind() {
        let check = |name: &str, expected| assert_eq!(by_name(Path::new(name)), expected, "{name}");
        check("a/b.jsonl", Some(Kind::Jsonl));
        check("b.JSONL.GZ", Some(Kind::Jsonl));
        check("b.ndjson", Some(Kind::Jsonl));
        check("b.csv.gz", Some(Kind::Csv));
        check("b.tsv", Some(Kind::Tsv));
        check("shard-{0}.tar", Some(Kind::WebDataset));
        check("b.tar.gz", Some(Kind::WebDataset));
        check("b.tgz", Some(Kind::WebDataset));
        check("b.npy", Some(Kind::Npy));
        check("b.safetensors", Some(Kind::Safetensors));
        check("b.JPG", Some(Kind::Picture));
        check("b.json", None);
        check("b", None);
    }

    #[test]
    fn rows_are_called_after_their_file() {
        let check = |path: &str, expected: &str| assert_eq!(row_id(Path::new(path), 17), expected.into(), "{path}");
        check("a/shard-0.npy", "shard-0:17");
        check("a/shard-0.Safetensors", "shard-0:17");
        check("shard.0.npy.gz", "shard.0:17");
        check("embeddings", "embeddings:17");
        check("é.npy", "é:17");
    }

    #[test]
    fn content_tells_the_kind_where_the_name_does_not() {
        let check = |start: &[u8], expected| assert_eq!(by_content(start), expected, "{start:?}");
        check(b"\x93NUMPY\x01\x00", Some(Kind::Npy));
        check(b"\xef\xbb\xbf \n{\"text\":1}", Some(Kind::Jsonl));
        check(b"\x40\0\0\0\0\0\0\0{\"a\":", Some(Kind::Safetensors));
        check(b"GIF89a", Some(Kind::Picture));
        check(b"RIFF\0\0\0\0WEBPVP8 ", Some(Kind::Picture));
        check(b"hello", None);
        check(b"", None);
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        check(&tar, Some(Kind::WebDataset));
    }
}
