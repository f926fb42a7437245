//! What the data of a run are, by their content, so that a run goes on with the data it began with.

use std::path::{Path, PathBuf};

use super::{ImageSource, Sources, TextFiles, shards::tars};
use crate::{Error, Result};

impl Sources {
    /// Every file is read whole, as each epoch reads it again: where it stands and when it was written say nothing.
    pub(super) fn fingerprint(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        match &self.images {
            ImageSource::Frozen(images) => images.hash_into(&mut hasher),
            ImageSource::Shards(paths) => tars(paths)?.iter().try_for_each(|path| hash_into(&mut hasher, path))?,
        }
        let (TextFiles::Captions(path) | TextFiles::Facets(path)) = &self.texts;
        match path.is_dir() {
            true => hash_folder_into(&mut hasher, path)?,
            false => hash_into(&mut hasher, path)?,
        }
        Ok(hasher.finalize().to_hex()[..32].to_owned())
    }
}

/// Names and contents of all that is below it.
fn hash_folder_into(hasher: &mut blake3::Hasher, folder: &Path) -> Result<()> {
    let io = |error| Error::Io { path: folder.to_owned(), error };
    let entries = std::fs::read_dir(folder).map_err(io)?.map(|entry| Ok(entry?.path()));
    let mut entries: Vec<PathBuf> = entries.collect::<std::io::Result<_>>().map_err(io)?;
    entries.sort();
    for entry in entries {
        match entry.is_dir() {
            true => hash_folder_into(hasher, &entry)?,
            // Neither a pipe nor a link that leads nowhere is ever read.
            false if entry.is_file() => hash_into(hasher, &entry)?,
            false => {}
        }
    }
    Ok(())
}

/// A file's name, length and content.
fn hash_into(hasher: &mut blake3::Hasher, path: &Path) -> Result<()> {
    super::arrays::open(path)?;
    let io = |error| Error::Io { path: path.to_owned(), error };
    let mut content = blake3::Hasher::new();
    content.update_mmap_rayon(path).map_err(io)?;
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name);
    hasher.update(&content.count().to_le_bytes()).update(content.finalize().as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_every_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (tar, facets) = (dir.path().join("x.tar"), dir.path().join("facets"));
        std::fs::write(&tar, vec![7; 3 << 20]).unwrap();
        std::fs::create_dir_all(facets.join("00000")).unwrap();
        for at in 0..200 {
            std::fs::write(facets.join(format!("00000/{at}.pth")), [at as u8; 9]).unwrap();
        }
        let images = ImageSource::Shards(vec![tar.clone()]);
        let sources = Sources { images, texts: TextFiles::Facets(facets.clone()) };
        let first = sources.fingerprint().unwrap();
        for at in [0, 1, 101, 199] {
            let path = facets.join(format!("00000/{at}.pth"));
            std::fs::write(&path, [255; 9]).unwrap();
            assert_ne!(sources.fingerprint().unwrap(), first, "{at}");
            std::fs::write(&path, [at as u8; 9]).unwrap();
        }
        let mut changed = vec![7; 3 << 20];
        changed[2_000_001] = 8;
        std::fs::write(&tar, changed).unwrap();
        assert_ne!(sources.fingerprint().unwrap(), first);
        std::fs::write(&tar, vec![7; 3 << 20]).unwrap();
        assert_eq!(sources.fingerprint().unwrap(), first, "written again, and the same");
    }
}
