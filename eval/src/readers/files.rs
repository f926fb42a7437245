//! Files as they were downloaded: where they lie and what is in them. Whatever is odd becomes an error that names the file.

use std::{
    cmp::Ordering,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    marker::PhantomData,
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;
use serde::{
    Deserializer,
    de::{DeserializeOwned, DeserializeSeed, SeqAccess, Visitor},
};

use super::Options;
use crate::dataset::Error;

/// Bytes of a line, or of a file that holds one text; what is published stays far below.
const LONGEST: u64 = 64 << 20;

/// A file with texts, and the folder that its pictures are looked for from.
pub struct Found {
    pub file: PathBuf,
    pub folder: PathBuf,
}

/// The data if it is a file, or the first of the names that is a file in it; `what` it is if none is.
pub fn find(options: &Options, names: &[&str], what: &str) -> Result<Found, Error> {
    let data = &options.data;
    if data.is_file() {
        let folder = data.parent().unwrap_or(Path::new("")).to_owned();
        return Ok(Found { file: data.clone(), folder });
    }
    let file = names.iter().map(|name| data.join(name)).find(|path| path.is_file());
    let file = file.ok_or_else(|| missing(&data.join(names[0]), what))?;
    Ok(Found { file, folder: data.clone() })
}

/// The first of the names that is a folder in the data, which may be "".
pub fn find_folder(data: &Path, names: &[&str], has: &str, what: &str) -> Result<PathBuf, Error> {
    let folders = names.iter().map(|name| data.join(name));
    let found = folders.into_iter().find(|folder| folder.join(has).exists());
    found.ok_or_else(|| missing(&data.join(names[0]).join(has), what))
}

/// A file's bytes, unpacked if it is a gzip file, without the mark that some editors put first.
pub fn open(path: &Path, what: &str) -> Result<Box<dyn BufRead>, Error> {
    let io = |error| Error::Io { path: path.to_owned(), error };
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing(path, what)),
        file => BufReader::new(file.map_err(io)?),
    };
    let is_packed = file.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
    let mut from: Box<dyn BufRead> =
        if is_packed { Box::new(BufReader::new(MultiGzDecoder::new(file))) } else { Box::new(file) };
    if from.fill_buf().map_err(io)?.starts_with("\u{feff}".as_bytes()) {
        from.consume(3);
    }
    Ok(from)
}

/// A whole file that is one JSON value.
pub fn json<T: DeserializeOwned>(path: &Path, what: &str) -> Result<T, Error> {
    serde_json::from_reader(open(path, what)?).map_err(|error| json_error(path, what, "", error))
}

/// The first elements of a file that is one JSON array; the rest is not read.
pub fn first_of_array<T: DeserializeOwned>(path: &Path, n: usize, what: &str) -> Result<Vec<T>, Error> {
    let mut taken = Vec::new();
    let mut from = serde_json::Deserializer::from_reader(open(path, what)?);
    match (FirstOf { n, taken: &mut taken }).deserialize(&mut from) {
        // Whoever stops within an array is told that it goes on.
        Err(error) if taken.len() < n => Err(json_error(path, what, "", error)),
        _ => Ok(taken),
    }
}

struct FirstOf<'a, T> {
    n: usize,
    taken: &'a mut Vec<T>,
}

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for FirstOf<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for FirstOf<'_, T> {
    type Value = ();

    fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while self.taken.len() < self.n {
            match elements.next_element()? {
                Some(element) => self.taken.push(element),
                None => break,
            }
        }
        Ok(())
    }
}

/// The lines of a file that are not blank, with their numbers from 1. Nothing comes after an error.
pub fn lines(path: &Path, what: &str) -> Result<Lines, Error> {
    Ok(Lines { from: open(path, what)?, path: path.to_owned(), what: what.to_owned(), n: 0 })
}

pub struct Lines {
    from: Box<dyn BufRead>,
    path: PathBuf,
    what: String,
    n: usize,
}

impl Lines {
    fn line(&mut self) -> Result<Option<String>, Error> {
        let mut bytes = Vec::new();
        let read = (&mut self.from).take(LONGEST + 1).read_until(b'\n', &mut bytes);
        if read.map_err(|error| Error::Io { path: self.path.clone(), error })? == 0 {
            return Ok(None);
        }
        self.n += 1;
        let text = text_of(bytes).map_err(|received| self.odd(&received))?;
        Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
    }

    fn odd(&self, received: &str) -> Error {
        odd(&self.path, &self.what, format!("line {}: {received}", self.n))
    }
}

impl Iterator for Lines {
    type Item = Result<(usize, String), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.line() {
                Ok(None) => return None,
                Ok(Some(line)) if line.trim().is_empty() => {}
                Ok(Some(line)) => return Some(Ok((self.n, line))),
                Err(error) => {
                    self.from = Box::new(io::empty());
                    return Some(Err(error));
                }
            }
        }
    }
}

/// The lines of a file, each of which is a JSON value, with their numbers from 1.
pub fn json_lines<T: DeserializeOwned>(path: &Path, what: &str) -> Result<JsonLines<T>, Error> {
    Ok(JsonLines { lines: lines(path, what)?, of: PhantomData })
}

pub struct JsonLines<T> {
    lines: Lines,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned> Iterator for JsonLines<T> {
    type Item = Result<(usize, T), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Lines { path, what, .. } = &self.lines;
        let (path, what) = (path.clone(), what.clone());
        Some(self.lines.next()?.and_then(|(n, line)| {
            let value = serde_json::from_str(&line);
            Ok((n, value.map_err(|error| json_error(&path, &what, &format!("line {n}: "), error))?))
        }))
    }
}

/// A whole file that is one text.
pub fn text(path: &Path, what: &str) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let read = open(path, what)?.take(LONGEST + 1).read_to_end(&mut bytes);
    read.map_err(|error| Error::Io { path: path.to_owned(), error })?;
    text_of(bytes).map_err(|received| odd(path, what, received))
}

fn text_of(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() as u64 > LONGEST {
        return Err(format!("more than {} MiB", LONGEST >> 20));
    }
    String::from_utf8(bytes).map_err(|_| "bytes that are not UTF-8".to_owned())
}

/// The names of a folder's files with an ending such as ".txt", but hidden ones; numbers in the order of their size.
pub fn names(folder: &Path, ending: &str, what: &str) -> Result<Vec<String>, Error> {
    let io = |error| Error::Io { path: folder.to_owned(), error };
    if !folder.is_dir() {
        return Err(missing(folder, what));
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with('.') && name.to_lowercase().ends_with(ending) && path.is_file() {
            names.push(name);
        }
    }
    names.sort_by(|a, b| by_number(a, b));
    Ok(names)
}

/// The names of a folder's sub-folders, but hidden ones, sorted.
pub fn folders(folder: &Path) -> Result<Vec<String>, Error> {
    let io = |error| Error::Io { path: folder.to_owned(), error };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with('.') && path.is_dir() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn by_number(a: &str, b: &str) -> Ordering {
    let number = |name: &str| name.split('.').next().and_then(|stem| stem.parse::<u64>().ok()).unwrap_or(u64::MAX);
    number(a).cmp(&number(b)).then_with(|| a.cmp(b))
}

/// A name without its folders, whichever way they are written.
pub fn last_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// A file's name without its ending.
pub fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

pub fn missing(path: &Path, what: &str) -> Error {
    Error::Missing { path: path.to_owned(), expected: what.to_owned() }
}

pub fn odd(path: &Path, expected: &str, received: impl Into<String>) -> Error {
    Error::Odd { path: path.to_owned(), expected: expected.to_owned(), received: received.into() }
}

fn json_error(path: &Path, what: &str, place: &str, error: serde_json::Error) -> Error {
    let said = error.to_string();
    if error.is_io() {
        return Error::Io { path: path.to_owned(), error: error.into() };
    }
    // A line is a value of its own: that the mistake is in its line 1 misleads.
    let at = format!(" at line {} column {}", error.line(), error.column());
    let said = if place.is_empty() { &said } else { said.strip_suffix(&at).unwrap_or(&said) };
    odd(path, what, format!("{place}{said}"))
}
