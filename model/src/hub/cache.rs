//! The cache on disk, as `huggingface_hub` lays it out, so that each finds what the other has fetched:
//! `models--org--name/{refs/REVISION, blobs/ETAG, snapshots/COMMIT/FILE -> ../../blobs/ETAG}`.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::is_commit;
use crate::{Error, Result};

pub(super) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub(super) fn new(cache: &Path, repo: &str) -> Cache {
        Cache { root: cache.join(format!("models--{}", repo.replace('/', "--"))) }
    }

    /// The folder of a revision that was fetched before, perhaps not all of it.
    pub(super) fn snapshot(&self, revision: &str) -> Option<PathBuf> {
        let named = fs::read_to_string(self.root.join("refs").join(revision)).ok();
        let commit = named.as_deref().map_or(revision, str::trim);
        (is_commit(commit) && self.folder(commit).is_dir()).then(|| self.folder(commit))
    }

    pub(super) fn folder(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// The unfinished blob, with what an earlier try left in it; waits while another process is at it.
    pub(super) fn part(&self, etag: &str) -> Result<Part> {
        let path = self.root.join("blobs").join(format!("{etag}.incomplete"));
        create_parent(&path)?;
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let file = file.map_err(|e| io(&path, e))?;
        file.lock().map_err(|e| io(&path, e))?;
        let length = file.metadata().map_err(|e| io(&path, e))?.len();
        Ok(Part { path, file, length })
    }

    pub(super) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<()> {
        let link = self.folder(commit).join(name);
        create_parent(&link)?;
        if link.is_symlink() {
            fs::remove_file(&link).map_err(|e| io(&link, e))?;
        }
        let depth = name.matches('/').count();
        match link_to_blob(&self.blob(etag), &format!("{}../../blobs/{etag}", "../".repeat(depth)), &link) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(io(&link, e)),
            _ => Ok(()),
        }
    }

    /// Notes which commit a branch or tag means.
    pub(super) fn remember(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        create_parent(&path)?;
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{}", std::process::id()));
        let written = fs::write(&temporary, commit).and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|e| io(&path, e))
    }
}

#[cfg(unix)]
fn link_to_blob(_: &Path, relative: &str, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, link)
}

#[cfg(not(unix))]
fn link_to_blob(blob: &Path, _: &str, link: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, link).or_else(|_| fs::copy(blob, link).map(drop))
}

/// A blob on its way; locked as long as it lives.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Part {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn clear(&mut self) -> Result<()> {
        self.length = 0;
        self.file.set_len(0).map_err(|e| io(&self.path, e))
    }

    /// Appends until the body ends; says how, if it ended with a fault of the network.
    pub(super) fn append(&mut self, mut body: Box<dyn Read>, max_bytes: u64) -> Result<Option<String>> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Ok(Some(e.to_string())),
            };
            if self.length + n as u64 > max_bytes {
                return Ok(Some(format!("more than {max_bytes} bytes")));
            }
            self.file.write_all(&buffer[..n]).map_err(|e| io(&self.path, e))?;
            self.length += n as u64;
        }
    }

    /// Compares with the hub's checksum: SHA-256 of a large file, git's SHA-1 of a small one. A wrong part is emptied, so
    /// that the next try starts anew.
    pub(super) fn check(&mut self, etag: &str) -> Result<()> {
        let received = match etag.len() {
            64 => self.digest(Sha256::new())?,
            40 => self.digest(Sha1::new_with_prefix(format!("blob {}\0", self.length)))?,
            _ => return Ok(()),
        };
        if received.eq_ignore_ascii_case(etag) {
            return Ok(());
        }
        self.clear()?;
        Err(Error::Checksum { file: self.path.with_extension(""), expected: etag.to_owned(), received })
    }

    fn digest(&mut self, mut hasher: impl Digest) -> Result<String> {
        let io = |e| io(&self.path, e);
        self.file.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            match self.file.read(&mut buffer).map_err(io)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub(super) fn publish(self, blob: &Path) -> Result<()> {
        self.file.sync_all().map_err(|e| io(&self.path, e))?;
        fs::rename(&self.path, blob).map_err(|e| io(blob, e))
    }
}

fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().expect("a path within the cache has a parent");
    fs::create_dir_all(parent).map_err(|e| io(parent, e))
}

fn io(path: &Path, error: std::io::Error) -> Error {
    Error::Io { path: path.to_owned(), error }
}
