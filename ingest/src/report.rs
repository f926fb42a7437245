//! What a run did: counters while it runs, a report when it ends.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::Serialize;

use crate::source::{Kind, Progress};

/// Skipped items that a report names; beyond that they are only counted.
pub const MAX_NAMED: usize = 100_000;

/// The report of a run, and its JSON.
///
/// `read` = `written` + `unchanged` + `duplicates` + `skipped`, unless the run was interrupted or failed: then what was read and
/// not settled is missing on the right, and the next run reads it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    pub collection: String,
    pub sources: Vec<SourceReport>,
    /// Items found in the sources, readable or not.
    pub read: u64,
    /// Points that are on disk now because of this run.
    pub written: u64,
    /// Items that the journal says an earlier run has written.
    pub unchanged: u64,
    /// Items that are the same as an earlier one of this run.
    pub duplicates: u64,
    pub skipped: u64,
    /// How many, by reason.
    pub skipped_by_reason: BTreeMap<String, u64>,
    /// Each by name; at most `MAX_NAMED`.
    pub skipped_items: Vec<SkippedItem>,
    /// Texts that were longer than the model reads: their rest was not embedded.
    pub truncated_texts: u64,
    /// The first item that has one.
    pub truncated_example: Option<ItemPlace>,
    /// Ids in a file of captions that no item has.
    pub unmet_captions: u64,
    /// Files in folders that are neither pictures nor beside one.
    pub ignored_files: u64,
    /// Stopped before the end, at the user's wish.
    pub interrupted: bool,
    pub seconds: f64,
    pub points_per_second: f64,
    /// None if there was nothing to write.
    pub journal: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceReport {
    pub path: PathBuf,
    pub kind: Kind,
}

/// Where an item stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ItemPlace {
    pub source: PathBuf,
    /// A relative path, `line 12`, `row 7`.
    pub item: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedItem {
    pub source: PathBuf,
    /// A relative path, `line 12`, `row 7`.
    pub item: String,
    /// A stable name in snake_case.
    pub reason: String,
    pub message: String,
}

impl Report {
    /// Counts and names an item that was not written.
    pub fn skip(&mut self, item: SkippedItem) {
        self.skipped += 1;
        *self.skipped_by_reason.entry(item.reason.clone()).or_default() += 1;
        if self.skipped_items.len() < MAX_NAMED {
            self.skipped_items.push(item);
        }
    }

    /// Counts texts of an item that were longer than the model reads.
    pub(crate) fn truncate(&mut self, n_texts: usize, source: usize, item: &str) {
        self.truncated_texts += n_texts as u64;
        if n_texts > 0 && self.truncated_example.is_none() {
            let source = self.sources[source].path.clone();
            self.truncated_example = Some(ItemPlace { source, item: item.to_owned() });
        }
    }
}

/// Counters that a progress bar may look at while a run goes on.
#[derive(Debug, Default)]
pub struct Watch {
    pub(crate) read: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) unchanged: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) skipped: AtomicU64,
    sources: Vec<Arc<Progress>>,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Glance {
    pub read: u64,
    pub written: u64,
    pub unchanged: u64,
    pub skipped: u64,
    /// How much of the sources is read, 0 to 1.
    pub fraction: f64,
}

impl Watch {
    pub fn new(sources: Vec<Arc<Progress>>) -> Arc<Watch> {
        Arc::new(Watch { sources, ..Watch::default() })
    }

    pub fn glance(&self) -> Glance {
        let fractions: f64 = self.sources.iter().map(|source| source.fraction()).sum();
        Glance {
            read: self.read.load(Relaxed),
            written: self.written.load(Relaxed),
            unchanged: self.unchanged.load(Relaxed) + self.duplicates.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
            fraction: fractions / self.sources.len().max(1) as f64,
        }
    }

    pub(crate) fn ignored_files(&self) -> u64 {
        self.sources.iter().map(|source| source.ignored()).sum()
    }
}
