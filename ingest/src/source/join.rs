//! What other files add to the items of a source: captions by id, and more vectors row by row.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use firn_index::{PointId, Text};
use firn_model::align::{Described, read_captions};

use super::{Item, Next, Progress, SourceError, npy::Npy};

/// The payload field that says which part of a data set an item belongs to.
pub const SPLIT: &str = "split";

/// Captions by the id of what they describe, as `firn train` reads them.
#[derive(Debug)]
pub struct Captions {
    by_id: HashMap<String, Described>,
    /// The ids that items had.
    met: Mutex<HashSet<String>>,
}

impl Captions {
    pub fn read(path: &Path) -> Result<Arc<Captions>, firn_model::Error> {
        Ok(Arc::new(Captions { by_id: read_captions(path)?, met: Mutex::default() }))
    }

    /// Ids that no item has had so far.
    pub fn n_unmet(&self) -> u64 {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        (self.by_id.len() - met.len()) as u64
    }

    /// An item with the texts and the split of its id; a split of its own stays.
    pub(super) fn describe(&self, mut item: Item) -> Item {
        let id = match &item.id {
            Some(PointId::Text(id)) => id.clone(),
            Some(PointId::Num(id)) => id.to_string(),
            None => return item,
        };
        let Some(Described { captions, belonging }) = self.by_id.get(&id) else { return item };
        let texts =
            captions.iter().map(|caption| Text { text: caption.text.clone(), language: caption.language.clone() });
        item.texts.extend(texts);
        if let Some(split) = &belonging.split {
            item.payload.entry(SPLIT).or_insert_with(|| split.clone().into());
        }
        self.met.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        item
    }
}

/// An array with others beside it, row by row.
pub struct Joined {
    first: Npy,
    others: Vec<Npy>,
}

impl Joined {
    /// The other arrays, by the names of their vectors, have as many rows as the first, whose ids count; ids of their own are the same.
    pub fn open(first: Npy, also: &BTreeMap<String, PathBuf>) -> Result<Joined, SourceError> {
        let mut others = Vec::with_capacity(also.len());
        for (name, path) in also {
            let other = Npy::open(path, name, Arc::new(Progress::default()))?;
            let unsupported = |expected, received| SourceError::Unsupported { path: path.clone(), expected, received };
            if other.n_rows() != first.n_rows() {
                let expected = format!("{} rows, as in {}", first.n_rows(), first.path().display());
                return Err(unsupported(expected, format!("{} rows", other.n_rows())));
            }
            if let (Some(expected), Some(received)) = (first.ids(), other.ids())
                && let Some(row) = expected.iter().zip(received).position(|(expected, received)| expected != received)
            {
                let expected = format!("in row {row} the id {}, as in {}", expected[row], first.path().display());
                return Err(unsupported(expected, received[row].to_string()));
            }
            others.push(other);
        }
        Ok(Joined { first, others })
    }

    /// All of them, the first included.
    pub fn arrays(&self) -> impl Iterator<Item = &Npy> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl Iterator for Joined {
    type Item = Next;

    fn next(&mut self) -> Option<Next> {
        let mut joined = self.first.next()?;
        for other in &mut self.others {
            joined = match (joined, other.next()?) {
                (Ok(item), Ok(more)) => Ok(with(item, more)),
                (Err(skipped), _) | (_, Err(skipped)) => Err(skipped),
            };
        }
        Some(joined)
    }
}

fn with(mut item: Item, more: Item) -> Item {
    item.vectors.extend(more.vectors);
    item.tokens.extend(more.tokens);
    item
}
