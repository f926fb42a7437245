//! Every published layout, written small with its traps inside, read, and compared with what a person expects of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use firn_eval::{
    dataset::{Content, Dataset, Error},
    readers::{self, Options},
};
use tempfile::TempDir;

mod broken;
mod listing;
mod long;
mod own;
mod short;

/// A folder that goes away with its test.
pub struct Folder(TempDir);

impl Folder {
    pub fn with(files: &[(&str, &str)]) -> Folder {
        let folder = Folder(TempDir::new().unwrap());
        files.iter().for_each(|(name, text)| folder.put(name, text.as_bytes()));
        folder
    }

    pub fn pictures(self, names: &[&str]) -> Folder {
        names.iter().for_each(|name| self.put(name, b"picture"));
        self
    }

    pub fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn options(&self, protocol: &str) -> Options {
        let protocol = (!protocol.is_empty()).then(|| protocol.to_owned());
        Options { data: self.0.path().to_owned(), protocol, ..Options::default() }
    }

    /// What a data set says, with its notes last; the folder's own path is left out.
    pub fn read(&self, name: &str, protocol: &str) -> String {
        self.read_with(name, &self.options(protocol))
    }

    pub fn read_with(&self, name: &str, options: &Options) -> String {
        let shown = match readers::read(name, options) {
            Ok(dataset) => shown(&dataset),
            Err(error) => format!("error: {error}\n"),
        };
        shown.replace(&format!("{}/", self.0.path().display()), "").replace(&self.0.path().display().to_string(), ".")
    }
}

pub fn shown(dataset: &Dataset) -> String {
    let mut lines = Vec::new();
    for document in &dataset.documents {
        lines.push(match &document.content {
            Content::Picture(path) => format!("{} = {}", document.id, path.display()),
            Content::Text(text) => format!("{} : {text}", document.id),
        });
    }
    for (query, documents) in dataset.queries.iter().zip(dataset.documents_of()) {
        let of: Vec<&str> = documents.iter().map(|&(place, _)| dataset.documents[place].id.as_str()).collect();
        let joined = if query.is_joined { " joined" } else { "" };
        lines.push(format!("{} [{}{joined}] {:?} -> {}", query.id, query.language, query.text, of.join(" ")));
    }
    lines.extend(dataset.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n") + "\n"
}

/// Lines without what they are indented by.
#[track_caller]
pub fn check(received: &str, expected: &str) {
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let received: Vec<&str> = received.lines().collect();
    assert_eq!(received, expected, "\nreceived:\n{}\n", received.join("\n"));
}

/// A file of the measured data, if it is beside the repository.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")).join(name);
    if !path.exists() {
        println!("{} is not there: nothing is checked", path.display());
        return None;
    }
    Some(path)
}

pub fn ask(name: &str, options: &Options) -> Result<Dataset, Error> {
    readers::read(name, options)
}
