//! The names of a database: its collections, serving or quarantined, and the aliases for them.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use serde::{Deserialize, Serialize};

use crate::{AliasChange, CollectionConfig, CollectionInfo, Error, Result, Status, check, state::CollectionState};

#[derive(Clone, Default)]
pub struct Catalog {
    /// The number of the next collection.
    pub next_number: u32,
    pub collections: BTreeMap<String, Entry>,
    /// The collection's name by alias.
    pub aliases: BTreeMap<String, String>,
}

#[derive(Clone)]
pub enum Entry {
    Serving(Arc<CollectionState>),
    Quarantined(Arc<Quarantined>),
}

/// A collection that could not be opened.
pub struct Quarantined {
    pub number: u32,
    /// None if the catalog record itself is damaged.
    pub record: Option<CollectionRecord>,
    pub reason: String,
}

/// The value of a catalog record.
#[derive(Clone, Serialize, Deserialize)]
pub struct CollectionRecord {
    pub uuid: String,
    pub config: CollectionConfig,
}

impl Catalog {
    /// The entry under a name or alias, and its name.
    pub fn find(&self, name: &str) -> Result<(&str, &Entry)> {
        let target = self.aliases.get(name).map_or(name, String::as_str);
        let found = self.collections.get_key_value(target);
        found.map(|(name, entry)| (name.as_str(), entry)).ok_or_else(|| not_found(name))
    }

    pub fn aliases_of(&self, collection: &str) -> Vec<String> {
        self.aliases.iter().filter(|(_, target)| *target == collection).map(|(alias, _)| alias.clone()).collect()
    }

    /// `Error::CollectionExists` if a collection or an alias has the name.
    pub fn check_free(&self, name: &str) -> Result<()> {
        if self.collections.contains_key(name) || self.aliases.contains_key(name) {
            return Err(Error::CollectionExists { name: name.to_owned() });
        }
        Ok(())
    }

    /// All changes, or none and an error.
    pub fn with_aliases(&self, changes: &[AliasChange]) -> Result<Catalog> {
        let mut next = self.clone();
        for change in changes {
            match change {
                AliasChange::Set { alias, collection } => next.set_alias(alias, collection)?,
                AliasChange::Delete { alias } => {
                    next.aliases.remove(alias).ok_or_else(|| Error::AliasNotFound { name: alias.clone() })?;
                }
            }
        }
        Ok(next)
    }

    fn set_alias(&mut self, alias: &str, collection: &str) -> Result<()> {
        check::name(alias)?;
        if self.collections.contains_key(alias) {
            return Err(Error::CollectionExists { name: alias.to_owned() });
        }
        if !self.collections.contains_key(collection) {
            return Err(not_found(collection));
        }
        self.aliases.insert(alias.to_owned(), collection.to_owned());
        Ok(())
    }
}

impl Quarantined {
    pub fn info(&self, name: &str, aliases: Vec<String>) -> CollectionInfo {
        let record = self.record.clone();
        let CollectionRecord { uuid, config } =
            record.unwrap_or(CollectionRecord { uuid: String::new(), config: CollectionConfig::default() });
        CollectionInfo {
            name: name.to_owned(),
            uuid,
            status: Status::Quarantined(self.reason.clone()),
            points_count: 0,
            config,
            segments_count: 0,
            buffered_vectors_count: 0,
            tombstones_count: 0,
            aliases,
        }
    }
}

impl Entry {
    pub fn number(&self) -> u32 {
        match self {
            Entry::Serving(state) => state.number,
            Entry::Quarantined(quarantined) => quarantined.number,
        }
    }

    pub fn serving(&self, name: &str) -> Result<&Arc<CollectionState>> {
        match self {
            Entry::Serving(state) => Ok(state),
            Entry::Quarantined(quarantined) => {
                Err(Error::Quarantined { name: name.to_owned(), reason: quarantined.reason.clone() })
            }
        }
    }

    /// Makes the handles that are held answer that there is no such collection.
    pub fn retire(&self) {
        if let Entry::Serving(state) = self {
            state.is_deleted.store(true, Ordering::Release);
        }
    }
}

fn not_found(name: &str) -> Error {
    Error::CollectionNotFound { name: name.to_owned() }
}
