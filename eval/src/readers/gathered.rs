//! Documents and the texts that belong to them, as a reader comes across them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::Options;
use crate::dataset::Content;

/// Where a picture is, or where it was looked for first.
pub type Located = Result<PathBuf, PathBuf>;

/// Folders that pictures are looked for in.
pub struct Pictures(Vec<PathBuf>);

impl Pictures {
    /// Those of the options if they say where; if not, the folder's sub-folders of these names, then itself.
    pub fn of(options: &Options, folder: &Path, names: &[&str]) -> Pictures {
        let given = options.images.as_deref();
        let mut folders: Vec<PathBuf> = names.iter().map(|name| given.unwrap_or(folder).join(name)).collect();
        match given {
            Some(given) => folders.insert(0, given.to_owned()),
            None => folders.push(folder.to_owned()),
        }
        Pictures(folders)
    }

    /// The first of the names that is a file.
    pub fn locate(&self, names: &[&str]) -> Located {
        let all = self.0.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
        all.clone().find(|path| path.is_file()).ok_or_else(|| all.clone().next().unwrap_or_default())
    }
}

/// What a reader found.
pub struct Gathered {
    /// The file, or the folder, that it was found in.
    pub from: PathBuf,
    pub notes: Vec<String>,
    pub documents: Vec<Entry>,
    /// Pictures that are not there.
    pub missing: Vec<PathBuf>,
    places: HashMap<String, usize>,
    /// Ids that were met again where each is expected once.
    pub repeated: Vec<String>,
}

pub struct Entry {
    pub id: String,
    pub content: Content,
    /// As they came, blank ones too.
    pub texts: Vec<Said>,
}

pub struct Said {
    /// Empty if it is not known.
    pub language: String,
    pub text: String,
}

impl Gathered {
    pub fn from(path: &Path) -> Gathered {
        Gathered {
            from: path.to_owned(),
            notes: Vec::new(),
            documents: Vec::new(),
            missing: Vec::new(),
            places: HashMap::new(),
            repeated: Vec::new(),
        }
    }

    pub fn place(&self, id: &str) -> Option<usize> {
        self.places.get(id).copied()
    }

    /// The place of a picture, which is added unless it is there.
    pub fn picture(&mut self, id: &str, located: Located) -> usize {
        if let Some(place) = self.place(id) {
            return place;
        }
        let path = located.unwrap_or_else(|expected| {
            self.missing.push(expected.clone());
            expected
        });
        self.add(id, Content::Picture(path))
    }

    /// The place of a text that is looked for, which is added unless it is there.
    pub fn document(&mut self, id: &str, text: &str) -> usize {
        self.place(id).unwrap_or_else(|| self.add(id, Content::Text(text.to_owned())))
    }

    fn add(&mut self, id: &str, content: Content) -> usize {
        let place = self.documents.len();
        self.places.insert(id.to_owned(), place);
        self.documents.push(Entry { id: id.to_owned(), content, texts: Vec::new() });
        place
    }

    /// A text that belongs to the document at a place.
    pub fn say(&mut self, place: usize, language: &str, text: impl Into<String>) {
        self.documents[place].texts.push(Said { language: language.to_owned(), text: text.into() });
    }

    /// A picture that is expected once, and its English text.
    pub fn pair(&mut self, id: &str, located: Located, text: impl Into<String>) {
        if self.place(id).is_some() {
            self.repeated.push(id.to_owned());
        }
        let place = self.picture(id, located);
        self.say(place, "en", text);
    }
}
