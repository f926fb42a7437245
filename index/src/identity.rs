//! A data directory and its store know each other: both hold the same random name.
//!
//! sled opens a store whose data is gone as an empty one. Without this, that would look like a new database.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use crate::{
    Error, Result, key, record,
    store::{Changes, Store, Tree},
};

pub const FILE: &str = "IDENTITY";

/// `Error::Damaged` if the store is not the one that was made with the directory; a new one gets its name.
pub fn check(dir: &Path, store: &Store) -> Result<()> {
    let path = dir.join(FILE);
    let in_dir = match fs::read_to_string(&path) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(Error::Storage(format!("{}: {e}", path.display()))),
    };
    match (in_dir, in_store(store)?) {
        (Some(expected), Some(received)) if expected == received => Ok(()),
        (Some(expected), received) => Err(Error::Damaged {
            what: dir.display().to_string(),
            detail: format!(
                "the store {} is gone, it holds {}; hint: restore the whole directory from a backup, or move it aside and \
                 ingest again",
                expected,
                received.unwrap_or("nothing".to_owned())
            ),
        }),
        // Made by a process that ended before it wrote the file.
        (None, Some(name)) => write_file(&path, &name),
        (None, None) => {
            let name = uuid();
            let key = key::identity();
            let value = record::seal(&key, name.as_bytes());
            store.commit(Tree::Points, Changes::from([(key, Some(value))]))?;
            write_file(&path, &name)
        }
    }
}

/// A random (version 4) UUID.
pub fn uuid() -> String {
    let bits = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn in_store(store: &Store) -> Result<Option<String>> {
    let key = key::identity();
    let Some(value) = store.get(Tree::Points, &key)? else { return Ok(None) };
    let bytes = record::unseal(&key, &value, || "the name of the store".to_owned())?;
    Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
}

fn write_file(path: &Path, name: &str) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        writeln!(file, "{name}")?;
        file.sync_all()
    };
    write().map_err(|e| Error::Storage(format!("{}: {e}", path.display())))
}
