//! A folder of pictures, walked in the order of names. Beside `x.jpg`, `x.txt` is one text and `x.json` may hold texts, an
//! id and payload. Links are followed, except back into a folder on the way.

use std::{
    collections::{HashMap, HashSet},
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    vec,
};

use super::{
    Fault, Item, Next, Progress, SourceError,
    fields::{self, Fields},
    kind::{OTHER_PICTURES, PICTURES, extension},
    stream::read_file,
};

/// Folders inside folders that are followed.
const MAX_DEPTH: usize = 128;

pub struct Folder {
    root: PathBuf,
    /// From the root to the folder that is read now.
    levels: Vec<Level>,
    /// The one entry is a picture whatever it is called.
    is_single: bool,
    progress: Arc<Progress>,
}

struct Level {
    /// Relative to the root.
    path: PathBuf,
    /// Without links, to know a folder again.
    real: PathBuf,
    names: vec::IntoIter<OsString>,
    /// Names of pictures without their extension: what sidecars are called.
    pictures: HashSet<OsString>,
    /// Sidecars whose extension is not in lower case, by the name in which it is.
    odd_sidecars: HashMap<OsString, OsString>,
}

impl Folder {
    pub fn open(root: &Path, progress: Arc<Progress>) -> Result<Folder, SourceError> {
        let io = |error| SourceError::Io { path: root.to_owned(), error };
        progress.expect(count(root, 0));
        let level = Level::read(root, PathBuf::new()).map_err(io)?;
        Ok(Folder { root: root.to_owned(), levels: vec![level], is_single: false, progress })
    }

    /// One picture, as if its folder held nothing else.
    pub fn single(path: &Path, progress: Arc<Progress>) -> Result<Folder, SourceError> {
        let io = |error| SourceError::Io { path: path.to_owned(), error };
        progress.expect(1);
        let root = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")).to_owned();
        let names = vec![path.file_name().unwrap_or_default().to_owned()].into_iter();
        let level = Level { names, ..Level::read(&root, PathBuf::new()).map_err(io)? };
        Ok(Folder { root, levels: vec![level], is_single: true, progress })
    }

    /// What an entry is: an item, nothing, or a folder that is read next.
    fn entry(&mut self, path: PathBuf) -> Option<Next> {
        let name = path.to_string_lossy().into_owned();
        let extension = extension(&name);
        let is_picture = self.is_single || PICTURES.contains(&extension.as_str());
        let found = match fs::metadata(self.root.join(&path)) {
            Ok(found) => found,
            // The picture it belongs to will say so.
            Err(_) if self.is_sidecar(&path, &extension) => return None,
            Err(error) => return Some(Err(Fault::Unreadable(error).at(name))),
        };
        if found.is_dir() {
            let entered = self.enter(path).map_err(|fault| fault.at(name.clone()));
            let odd = is_picture.then(|| Err(Fault::NotAFile.at(name)));
            return entered.err().map(Err).or(odd);
        }
        if is_picture {
            self.progress.advance(1);
            return Some(self.item(&path, &name).map_err(|fault| fault.at(name)));
        }
        if OTHER_PICTURES.contains(&extension.as_str()) {
            return Some(Err(Fault::UnsupportedImage { extension }.at(name)));
        }
        if !self.is_sidecar(&path, &extension) {
            self.progress.ignore();
        }
        None
    }

    fn enter(&mut self, path: PathBuf) -> Result<(), Fault> {
        let level = Level::read(&self.root, path)?;
        if self.levels.len() >= MAX_DEPTH || self.levels.iter().any(|above| above.real == level.real) {
            return Err(Fault::SymlinkLoop);
        }
        self.levels.push(level);
        Ok(())
    }

    fn item(&self, path: &Path, name: &str) -> Result<Item, Fault> {
        if path.to_str().is_none() {
            return Err(Fault::NotUtf8 { what: "the file's name" });
        }
        let image = read_file(&self.root.join(path))?;
        let mut item = match self.sidecar(path, "json")? {
            Some(json) => self.described(&json, name)?,
            None => Item { name: name.to_owned(), ..Item::default() },
        };
        if let Some(text) = self.sidecar(path, "txt")? {
            item.texts.insert(0, fields::text_file(&text)?);
        }
        item.image = Some(image);
        fields::set_path(&mut item.payload, &name.replace('\\', "/"));
        Ok(item)
    }

    /// An item from its `x.json`; which picture it goes with is told by its name, so "image" is payload there.
    fn described(&self, json: &[u8], name: &str) -> Result<Item, Fault> {
        let mut fields = Fields::parse(json)?;
        if let Some(image) = fields.image.take() {
            fields.payload.insert("image".to_owned(), image.into());
        }
        Ok(fields.into_item(name.to_owned()))
    }

    fn is_sidecar(&self, path: &Path, extension: &str) -> bool {
        let (Some(level), Some(stem), Some(name)) = (self.levels.last(), path.file_stem(), path.file_name()) else {
            return false;
        };
        let is_read = |usual: OsString| usual == name || level.odd_sidecars.get(&usual).is_some_and(|odd| odd == name);
        matches!(extension, "txt" | "json") && level.pictures.contains(stem) && usual_name(name).is_some_and(is_read)
    }

    /// A picture's sidecar, if there is one, however its extension is written.
    fn sidecar(&self, picture: &Path, extension: &str) -> Result<Option<Vec<u8>>, Fault> {
        let usual = picture.with_extension(extension);
        let odd = self.levels.last().and_then(|level| level.odd_sidecars.get(usual.file_name()?));
        let path = self.root.join(odd.map_or_else(|| usual.clone(), |name| usual.with_file_name(name)));
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => read_file(&path).map(Some),
        }
    }
}

impl Iterator for Folder {
    type Item = Next;

    fn next(&mut self) -> Option<Next> {
        loop {
            let level = self.levels.last_mut()?;
            let Some(name) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            let path = level.path.join(name);
            if let Some(next) = self.entry(path) {
                return Some(next);
            }
        }
    }
}

impl Level {
    fn read(root: &Path, path: PathBuf) -> io::Result<Level> {
        let full = root.join(&path);
        let mut names = fs::read_dir(&full)?.map(|e| Ok(e?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        let picture = |name: &&OsString| PICTURES.contains(&extension(&name.to_string_lossy()).as_str());
        let stem = |name: &OsString| Path::new(name).file_stem().map(ToOwned::to_owned);
        let pictures = names.iter().filter(picture).filter_map(stem).collect();
        let odd = |name: &OsString| Some((usual_name(name)?, name.clone()));
        let is_alone = |(usual, _): &(OsString, OsString)| names.binary_search(usual).is_err();
        let odd_sidecars = names.iter().filter_map(odd).filter(is_alone).collect();
        Ok(Level { path, real: fs::canonicalize(&full)?, names: names.into_iter(), pictures, odd_sidecars })
    }
}

/// The name of a file that may be a sidecar, with its extension in lower case.
fn usual_name(name: &OsStr) -> Option<OsString> {
    let extension = extension(&name.to_string_lossy());
    matches!(extension.as_str(), "txt" | "json").then(|| Path::new(name).with_extension(extension).into())
}

/// Pictures below a folder, for the progress bar only: links and faults are left to the walk itself.
fn count(folder: &Path, depth: usize) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let below = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => count(&entry.path(), depth + 1),
        _ => u64::from(PICTURES.contains(&extension(&entry.file_name().to_string_lossy()).as_str())),
    };
    entries.flatten().map(below).sum()
}
