//! Files of a model folder: read within limits, and hashed together.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex},
    time::SystemTime,
};

use serde_json::Value;

use crate::{Error, Result};

const MAX_JSON_BYTES: u64 = 32 << 20;

/// A whole file of at most `max_bytes`.
pub(crate) fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let io = |source| io_error(path, source);
    let mut file = open(path)?;
    let mut bytes = Vec::new();
    file.by_ref().take(max_bytes + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > max_bytes {
        let detail = format!("expected at most {max_bytes} bytes");
        return Err(Error::BadFile { file: path.to_owned(), detail });
    }
    Ok(bytes)
}

/// A file that is one.
pub(crate) fn open(path: &Path) -> Result<File> {
    let io = |source| io_error(path, source);
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.is_file() { Ok(file) } else { Err(missing(path)) }
}

pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let bytes = read(path, MAX_JSON_BYTES)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::BadFile { file: path.to_owned(), detail: format!("not JSON: {e}") })
}

/// First 32 hexadecimal digits of the BLAKE3 hash over name, length and content of every file.
pub(crate) fn hash(files: &[(String, PathBuf)]) -> Result<String> {
    let mut all = blake3::Hasher::new();
    for (name, path) in files {
        let (length, hash) = hash_file(path)?;
        all.update(name.as_bytes()).update(&[0]).update(&length.to_le_bytes()).update(hash.as_bytes());
    }
    Ok(all.finalize().to_hex()[..32].to_owned())
}

/// What tells one state of a file from the next without reading it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Stamp {
    path: PathBuf,
    length: u64,
    modified: SystemTime,
}

/// Hashes of this process, so that a model that is opened again is not read again.
static HASHES: LazyLock<Mutex<HashMap<Stamp, blake3::Hash>>> = LazyLock::new(Mutex::default);

fn hash_file(path: &Path) -> Result<(u64, blake3::Hash)> {
    let io = |source| io_error(path, source);
    let meta = path.metadata().map_err(io)?;
    let stamp = Stamp { path: path.to_owned(), length: meta.len(), modified: meta.modified().map_err(io)? };
    let known = || HASHES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(hash) = known().get(&stamp) {
        return Ok((stamp.length, *hash));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).map_err(io)?;
    let hash = hasher.finalize();
    let length = stamp.length;
    known().insert(stamp, hash);
    Ok((length, hash))
}

/// The name of a file within a folder of the model, which may be the model's own.
pub(crate) fn join(within: &str, name: &str) -> String {
    if within.is_empty() { name.to_owned() } else { format!("{within}/{name}") }
}

/// A name that stays within its folder.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}

fn io_error(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => missing(path),
        _ => Error::Io { path: path.to_owned(), error },
    }
}

fn missing(path: &Path) -> Error {
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    Error::MissingFile { folder, file: path.file_name().unwrap_or_default().to_string_lossy().into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_depends_on_names_and_content_only() {
        let dir = tempfile::tempdir().unwrap();
        let write = |folder: &str, name: &str, text: &str| {
            let path = dir.path().join(folder).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            (name.to_owned(), path)
        };
        let a = hash(&[write("a", "x", "one"), write("a", "y", "two")]).unwrap();
        assert_eq!(a.len(), 32);
        assert_eq!(a, hash(&[write("b", "x", "one"), write("b", "y", "two")]).unwrap());
        assert_ne!(a, hash(&[write("c", "x", "one"), write("c", "y", "too")]).unwrap());
        assert_ne!(a, hash(&[write("d", "x", "one"), write("d", "z", "two")]).unwrap());
        assert_ne!(a, hash(&[write("e", "x", "onet"), write("e", "y", "wo")]).unwrap());
    }

    #[test]
    fn reading_is_limited_and_names_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "12345").unwrap();
        assert_eq!(read(&dir.path().join("f"), 5).unwrap(), b"12345");
        assert!(matches!(read(&dir.path().join("f"), 4), Err(Error::BadFile { .. })));
        assert!(matches!(read(&dir.path().join("g"), 4), Err(Error::MissingFile { file, .. }) if file == "g"));
        assert!(matches!(read_json(&dir.path().join("f")), Ok(Value::Number(_))));
        std::fs::write(dir.path().join("f"), "{").unwrap();
        let error = read_json(&dir.path().join("f")).unwrap_err().to_string();
        assert!(error.contains("not JSON: EOF"), "{error}");
    }

    #[test]
    fn plain_names_stay_in_their_folder() {
        for (name, plain) in [("a.safetensors", true), ("../a", false), ("a/b", false), (".a", false), ("", false)] {
            assert_eq!(is_plain_name(name), plain, "{name}");
        }
    }
}
