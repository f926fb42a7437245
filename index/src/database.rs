//! One data directory: its collections, aliases, and the one thread that writes.

use std::path::Path;

use crate::{Collection, CollectionConfig, CollectionInfo, Options, Result};

/// An open data directory. Clones share it; the last one to go closes it.
#[derive(Clone)]
pub struct Database {}

/// A change of an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AliasChange {
    Set { alias: String, collection: String },
    Delete { alias: String },
}

impl Database {
    /// Opens or makes the data directory at `path`. `Error::Locked` when another process has it.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        let _ = (path, options);
        todo!()
    }

    /// Makes an empty collection.
    pub fn create_collection(&self, name: &str, config: CollectionConfig) -> Result<Collection> {
        let _ = (name, config);
        todo!()
    }

    /// A collection by name or alias. `Error::Quarantined` if it is damaged.
    pub fn collection(&self, name: &str) -> Result<Collection> {
        let _ = name;
        todo!()
    }

    /// One collection seen from outside, by name or alias; quarantined ones too.
    pub fn collection_info(&self, name: &str) -> Result<CollectionInfo> {
        let _ = name;
        todo!()
    }

    /// All collections in the order of their names, quarantined ones too.
    pub fn collections(&self) -> Vec<CollectionInfo> {
        todo!()
    }

    pub fn delete_collection(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    /// All changes or none.
    pub fn update_aliases(&self, changes: &[AliasChange]) -> Result<()> {
        let _ = changes;
        todo!()
    }

    /// Bytes the data directory takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        todo!()
    }

    /// Finishes what was submitted, stops background work and releases the directory. Later calls answer `Error::Closed`.
    pub fn close(&self) -> Result<()> {
        todo!()
    }
}
