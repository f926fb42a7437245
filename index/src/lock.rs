//! The right to use a data directory: an exclusive lock on its file LOCK, held while the database is open.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
};

use crate::{Error, Result};

pub struct Lock {
    file: File,
}

impl Lock {
    /// `Error::Locked` when another process, or this one, holds it.
    pub fn take(dir: &Path) -> Result<Lock> {
        let path = dir.join("LOCK");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| Error::Storage(format!("{}: {e}", path.display())))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { file }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path: dir.to_owned() }),
            Err(TryLockError::Error(e)) => Err(Error::Storage(format!("{}: {e}", path.display()))),
        }
    }
}

/// Closing the file is not enough: a process that this one is just starting has a copy of it for a moment.
impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "the data directory stays locked until this process ends");
        }
    }
}
