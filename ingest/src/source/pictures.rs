//! Where the pictures are that a line names: a folder, or a tar that is indexed once and read by offset.
//!
//! Names never lead out of the folder; names inside a tar are only names.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

use super::{
    Fault, SourceError,
    kind::PICTURES,
    stream::{read_file, read_limited},
    tar_headers::bounded,
};

pub enum Pictures {
    Folder(PathBuf),
    Tar(TarIndex),
}

pub struct TarIndex {
    path: PathBuf,
    file: File,
    /// Full names and, where only one member has it, base names.
    members: HashMap<String, Place>,
    /// The file ended within a member.
    pub truncated: Option<String>,
}

#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    size: u64,
}

impl Pictures {
    pub fn open(path: &Path) -> Result<Pictures, SourceError> {
        let found = std::fs::metadata(path).map_err(|error| SourceError::NoImages { path: path.to_owned(), error })?;
        match () {
            () if found.is_dir() => Ok(Pictures::Folder(path.to_owned())),
            () if found.is_file() => Ok(Pictures::Tar(TarIndex::open(path)?)),
            () => Err(SourceError::NotAFile { path: path.to_owned() }),
        }
    }

    /// The picture of that name.
    pub fn named(&mut self, name: &str) -> Result<Vec<u8>, Fault> {
        match self {
            Pictures::Folder(folder) => match read_file(&inside(folder, name)?) {
                Err(Fault::Unreadable(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                    Err(missing(name, folder))
                }
                other => other,
            },
            Pictures::Tar(tar) => tar.read(name),
        }
    }

    /// The picture whose name is `id` and an extension, with that name.
    pub fn of_id(&mut self, id: &str) -> Result<(String, Vec<u8>), Fault> {
        let names = PICTURES.iter().map(|extension| format!("{id}.{extension}"));
        let found = match self {
            Pictures::Folder(folder) => {
                names.into_iter().find(|name| inside(folder, name).is_ok_and(|path| path.exists()))
            }
            Pictures::Tar(tar) => names.into_iter().find(|name| tar.members.contains_key(plain(name))),
        };
        let name = found.ok_or_else(|| missing(&format!("{id}.*"), self.place()))?;
        let bytes = self.named(&name)?;
        Ok((name, bytes))
    }

    fn place(&self) -> &Path {
        match self {
            Pictures::Folder(folder) => folder,
            Pictures::Tar(tar) => &tar.path,
        }
    }
}

impl TarIndex {
    fn open(path: &Path) -> Result<TarIndex, SourceError> {
        let io = |error| SourceError::Io { path: path.to_owned(), error };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut index = TarIndex {
            path: path.to_owned(),
            file: file.try_clone().map_err(io)?,
            members: HashMap::new(),
            truncated: None,
        };
        let (bounded, headers) = bounded(BufReader::new(file));
        let mut archive = tar::Archive::new(bounded);
        let mut short: HashMap<String, Option<Place>> = HashMap::new();
        for entry in archive.entries_with_seek().map_err(io)? {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if index.members.is_empty() => {
                    return Err(SourceError::Damaged {
                        path: path.to_owned(),
                        detail: format!("not a plain tar: {error}"),
                    });
                }
                Err(error) => {
                    index.truncated = Some(error.to_string());
                    break;
                }
            };
            // Members are sought over, not read.
            headers.begin_after(0);
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let place = Place { offset: entry.raw_file_position(), size: entry.size() };
            if place.offset.saturating_add(place.size) > length {
                index.truncated = Some(format!("member {name:?} is cut off"));
                break;
            }
            let base = name.rsplit('/').next().unwrap_or(&name).to_owned();
            short.entry(base).and_modify(|other| *other = None).or_insert(Some(place));
            index.members.insert(plain(&name).to_owned(), place);
        }
        for (base, place) in short {
            if let Some(place) = place {
                index.members.entry(base).or_insert(place);
            }
        }
        Ok(index)
    }

    fn read(&mut self, name: &str) -> Result<Vec<u8>, Fault> {
        let place = *self.members.get(plain(name)).ok_or_else(|| missing(name, &self.path))?;
        self.file.seek(SeekFrom::Start(place.offset))?;
        let bytes = read_limited(&mut std::io::Read::take(&mut self.file, place.size), place.size)?;
        if (bytes.len() as u64) < place.size {
            return Err(Fault::Truncated { detail: format!("member {name:?} is cut off") });
        }
        Ok(bytes)
    }
}

/// A member's name without a leading `./`.
pub fn plain(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

fn missing(name: &str, place: &Path) -> Fault {
    Fault::MissingImage { name: name.to_owned(), place: place.display().to_string() }
}

/// `name` below `folder`, or a fault if it leads out of it. A name that is absolute must lie in `folder` too.
fn inside(folder: &Path, name: &str) -> Result<PathBuf, Fault> {
    let outside = || Fault::OutsideFolder { path: name.to_owned() };
    let relative = Path::new(name);
    let relative = match relative.is_absolute() {
        true => relative.strip_prefix(folder).map_err(|_| outside())?,
        false => relative,
    };
    let mut depth = 0usize;
    for component in relative.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return Err(outside()),
        }
    }
    Ok(folder.join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_the_folder() {
        let check = |folder: &str, name: &str, expected: Option<&str>| {
            assert_eq!(inside(Path::new(folder), name).ok(), expected.map(PathBuf::from), "{folder} {name}");
        };
        check("/data", "a.jpg", Some("/data/a.jpg"));
        check("/data", "a/../b.jpg", Some("/data/a/../b.jpg"));
        check("/data", "../b.jpg", None);
        check("/data", "a/../../b.jpg", None);
        check("/data", "/etc/passwd", None);
        check("/data", "/data/a.jpg", Some("/data/a.jpg"));
        check("/", "/etc/a.jpg", Some("/etc/a.jpg"));
        check("", "a.jpg", Some("a.jpg"));
    }
}
