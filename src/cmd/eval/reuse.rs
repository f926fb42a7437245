//! Embeddings that an earlier run made, by the content they are of: a picture or text goes once through a model, whatever data set,
//! protocol or place it stands in.
//!
//! Each point keeps the hash of its content. What stands where it is wanted is not written again; what stands elsewhere in the cache,
//! made by the same model, is copied.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use anyhow::Context as _;
use firn_index::{Collection, CollectionConfig, Database, Fields, Limits, Options, PointId, Reader, Row};
use firn_ingest::source::{Item, Next};

use crate::eval::Items;

/// The field of a point's payload.
const CONTENT: &str = "content";
/// Beside each data set: what its embeddings were made by.
const MADE_BY: &str = "MODEL";

/// The stores of a cache that one model filled.
pub struct Cache {
    db: Database,
    folder: PathBuf,
    made_by: String,
    /// What nobody knew.
    n_embedded: Arc<AtomicUsize>,
}

impl Cache {
    /// `folder` is the one of the data set, `db` is in it.
    pub fn new(db: &Database, folder: &Path, made_by: String) -> anyhow::Result<Cache> {
        let path = folder.join(MADE_BY);
        fs::write(&path, &made_by).with_context(|| path.display().to_string())?;
        Ok(Cache { db: db.clone(), folder: folder.to_owned(), made_by, n_embedded: Arc::default() })
    }

    /// Items that no earlier run had made, as far as they were taken.
    pub fn n_embedded(&self) -> usize {
        self.n_embedded.load(Relaxed)
    }

    /// Those items that are not in the collection as they are to be, with the embeddings that are known.
    pub fn missing(&self, collection: &str, config: &CollectionConfig, items: Items) -> anyhow::Result<Items> {
        let is_alike = |collection: &Collection| collection.config() == config;
        let stored = match self.db.collection(collection).ok().filter(is_alike) {
            Some(collection) => contents(&collection.reader())?.into_iter().map(|(_, id, hash)| (id, hash)).collect(),
            None => HashMap::new(),
        };
        let known = Known {
            here: Kept::read(&self.db, config)?,
            elsewhere: OnceLock::new(),
            others: self.others(),
            config: config.clone(),
            n_unknown: self.n_embedded.clone(),
        };
        let known = Arc::new(known);
        Ok(Box::new(items.filter_map(move |next| wanted(next, &stored, &known))))
    }

    /// Data directories of other data sets.
    fn others(&self) -> Vec<PathBuf> {
        let folders = self.folder.parent().and_then(|cache| fs::read_dir(cache).ok()).into_iter().flatten().flatten();
        let folders = folders.map(|folder| folder.path()).filter(|folder| *folder != self.folder);
        let is_alike =
            |folder: &PathBuf| fs::read_to_string(folder.join(MADE_BY)).is_ok_and(|made| made == self.made_by);
        folders.filter(is_alike).map(|folder| folder.join("data")).collect()
    }
}

/// The content of each point.
type Stored = HashMap<PointId, String>;

/// None if it is there.
fn wanted(next: Next, stored: &Stored, known: &Known) -> Option<Next> {
    let mut item = match next {
        Ok(item) => item,
        skipped => return Some(skipped),
    };
    let hash = hash(&item);
    if item.id.as_ref().and_then(|id| stored.get(id)).is_some_and(|stored| *stored == hash) {
        return None;
    }
    known.fill(&hash, &mut item);
    item.payload.insert(CONTENT.to_owned(), hash.into());
    Some(Ok(item))
}

/// Of a picture, or of texts.
fn hash(item: &Item) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in item.image.iter().map(Vec::as_slice).chain(item.texts.iter().map(|text| text.text.as_bytes())) {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize().to_hex().to_string()
}

/// Embeddings by their content.
struct Known {
    here: Kept,
    /// Looked up when something is not here.
    elsewhere: OnceLock<Vec<Kept>>,
    others: Vec<PathBuf>,
    config: CollectionConfig,
    n_unknown: Arc<AtomicUsize>,
}

impl Known {
    /// Gives an item the vectors and tokens that are known of its content.
    fn fill(&self, hash: &str, item: &mut Item) {
        let elsewhere =
            || self.elsewhere.get_or_init(|| self.others.iter().filter_map(|data| self.open(data)).collect());
        let found = self.here.find(hash).or_else(|| elsewhere().iter().find_map(|kept| kept.find(hash)));
        if let Some((reader, row)) = found
            && let Ok(points) = reader.fetch(&[row], Fields { vectors: true, tokens: true, ..Fields::default() })
            && let Some(point) = points.into_iter().next()
        {
            (item.vectors, item.tokens) = (point.vectors, point.tokens);
        } else {
            self.n_unknown.fetch_add(1, Relaxed);
        }
    }

    /// One that another run holds, or that is damaged, is done without.
    fn open(&self, data: &Path) -> Option<Kept> {
        if !Database::exists(data) {
            return None;
        }
        let db = Database::open(data, Options::default()).ok()?;
        Kept::read(&db, &self.config).ok()
    }
}

/// What one database has of a kind.
struct Kept {
    /// Keeps it open.
    _db: Database,
    readers: Vec<Reader>,
    /// By content: which reader, and the row.
    places: HashMap<String, (usize, Row)>,
}

impl Kept {
    fn read(db: &Database, config: &CollectionConfig) -> anyhow::Result<Kept> {
        let mut kept = Kept { _db: db.clone(), readers: Vec::new(), places: HashMap::new() };
        for info in db.collections().into_iter().filter(|info| info.config == *config) {
            let Ok(collection) = db.collection(&info.name) else { continue };
            let reader = collection.reader();
            let at = kept.readers.len();
            kept.places.extend(contents(&reader)?.into_iter().map(|(row, _, hash)| (hash, (at, row))));
            kept.readers.push(reader);
        }
        Ok(kept)
    }

    fn find(&self, hash: &str) -> Option<(&Reader, Row)> {
        self.places.get(hash).map(|&(at, row)| (&self.readers[at], row))
    }
}

/// The content of each point.
fn contents(reader: &Reader) -> anyhow::Result<Vec<(Row, PointId, String)>> {
    let (mut found, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next {
        let page = reader.scroll(from, Limits::MAX_LIMIT, Fields { payload: true, ..Fields::default() })?;
        for mut point in page.points {
            if let Some(serde_json::Value::String(hash)) = point.payload.remove(CONTENT) {
                found.push((point.row, point.id, hash));
            }
        }
        next = page.next;
    }
    Ok(found)
}
