//! What is read: one file per kind of source, each an iterator over items.
//!
//! A source is opened before anything is written, so that a wrong path or an unknown kind is told at once. From then on an
//! item that cannot be read is a `Skipped` among the others; sources read in a fixed order and hold one item in memory.

mod csv;
mod embeddings;
mod facets;
mod fault;
mod fields;
mod folder;
pub mod join;
mod jsonl;
mod kind;
pub mod npy;
mod pictures;
mod safetensors;
mod stream;
mod tar_headers;
mod webdataset;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use firn_index::{ModelRef, Payload, PointId, Text, TokenConfig, Tokens};

pub use fault::{Fault, Skipped, SourceError};
pub use kind::Kind;

use self::join::{Captions, Joined};

/// Largest file, tar member or line's picture that is read.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// Faults that are read over to find out whether a source has an item.
const LOOK_AHEAD: usize = 10_000;
/// Longest line or CSV record.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// What one point is made from, as it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item {
    /// How a report names it: a relative path, `line 12`, `row 7`.
    pub name: String,
    /// None: derived from the content.
    pub id: Option<PointId>,
    pub image: Option<Vec<u8>>,
    pub texts: Vec<Text>,
    pub payload: Payload,
    pub vectors: BTreeMap<String, Vec<f32>>,
    pub tokens: BTreeMap<String, Tokens>,
}

pub type Next = Result<Item, Skipped>;

/// How sources are read.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Where the pictures of JSON Lines and CSV are: a folder or a tar. None: beside the file.
    pub images: Option<PathBuf>,
    /// The vector that .npy rows are.
    pub vector_name: String,
    /// Texts of the items by their ids.
    pub captions: Option<Arc<Captions>>,
    /// More .npy files beside the first, by the names of their vectors.
    pub also: BTreeMap<String, PathBuf>,
}

impl Default for SourceOptions {
    fn default() -> Self {
        SourceOptions { images: None, vector_name: "image".to_owned(), captions: None, also: BTreeMap::new() }
    }
}

/// An open source.
pub struct Source {
    pub path: PathBuf,
    pub kind: Kind,
    /// Dimensions of the precomputed vectors, where the file declares them.
    pub dims: BTreeMap<String, usize>,
    /// Shapes of the precomputed tokens, likewise.
    pub tokens: BTreeMap<String, TokenConfig>,
    /// What made them, if that is known.
    pub model: Option<ModelRef>,
    /// Whether its items may have texts.
    pub has_texts: bool,
    pub progress: Arc<Progress>,
    pub items: Box<dyn Iterator<Item = Next> + Send>,
}

impl Source {
    /// Opens what stands at `path`; its kind is told by its name, or by its content.
    pub fn open(path: &Path, options: &SourceOptions) -> Result<Source, SourceError> {
        let kind = kind::of(path)?;
        let progress = Arc::new(Progress::default());
        let (mut dims, mut tokens, mut model) = (BTreeMap::new(), BTreeMap::new(), None);
        if kind != Kind::Npy && !options.also.is_empty() {
            let expected = ".npy, to which other arrays can be joined".to_owned();
            return Err(SourceError::Unsupported { path: path.to_owned(), expected, received: format!("{kind:?}") });
        }
        let mut items: Box<dyn Iterator<Item = Next> + Send> = match kind {
            Kind::Folder => Box::new(folder::Folder::open(path, progress.clone())?),
            Kind::Picture => Box::new(folder::Folder::single(path, progress.clone())?),
            Kind::Jsonl => Box::new(jsonl::Jsonl::open(path, options, progress.clone())?),
            Kind::Csv | Kind::Tsv => {
                let delimiter = if kind == Kind::Tsv { b'\t' } else { b',' };
                Box::new(csv::Csv::open(path, delimiter, options, progress.clone())?)
            }
            Kind::WebDataset => Box::new(webdataset::WebDataset::open(path, options, progress.clone())?),
            Kind::Npy => {
                let npy = npy::Npy::open(path, &options.vector_name, progress.clone())?;
                let joined = Joined::open(npy, &options.also)?;
                for npy in joined.arrays() {
                    dims.insert(npy.vector_name().to_owned(), npy.dim());
                    tokens.extend(npy.tokens().map(|shape| (npy.vector_name().to_owned(), shape)));
                }
                Box::new(joined)
            }
            Kind::Safetensors => {
                let tensors = safetensors::Safetensors::open(path, progress.clone())?;
                (dims, tokens) = (tensors.dims(), tensors.tokens());
                Box::new(tensors)
            }
            Kind::Embeddings => {
                let shards = embeddings::Embeddings::open(path, progress.clone())?;
                (dims, tokens, model) = (shards.dims(), shards.tokens(), Some(shards.model()));
                Box::new(shards)
            }
            Kind::Facets => {
                let facets = facets::Facets::open(path, progress.clone())?;
                (dims, tokens) = (facets.dims(), facets.tokens());
                Box::new(facets)
            }
        };
        let mut has_texts = !matches!(kind, Kind::Npy | Kind::Safetensors | Kind::Facets);
        if let Some(captions) = options.captions.clone() {
            items = Box::new(items.map(move |next| next.map(|item| captions.describe(item))));
            has_texts = true;
        }
        Ok(Source { path: path.to_owned(), kind, dims, tokens, model, has_texts, progress, items })
    }

    /// Items that the caller has, `n` of them; told of as lines.
    pub fn given(path: PathBuf, n: usize, items: Box<dyn Iterator<Item = Next> + Send>) -> Source {
        let progress = Arc::new(Progress::default());
        progress.expect(n as u64);
        let counted = progress.clone();
        let items = Box::new(items.inspect(move |_| counted.advance(1)));
        let (dims, tokens) = (BTreeMap::new(), BTreeMap::new());
        Source { path, kind: Kind::Jsonl, dims, tokens, model: None, has_texts: true, progress, items }
    }

    /// Whether it holds an item, or more faults than are worth reading over to find out. `items` gives all of them nonetheless.
    pub fn has_items(&mut self) -> bool {
        let mut ahead = Vec::new();
        let found = self.items.by_ref().take(LOOK_AHEAD).any(|next| {
            let is_item = next.is_ok();
            ahead.push(next);
            is_item
        });
        let is_long = ahead.len() == LOOK_AHEAD;
        let rest = std::mem::replace(&mut self.items, Box::new(std::iter::empty()));
        self.items = Box::new(ahead.into_iter().chain(rest));
        found || is_long
    }
}

/// How far a source is read, in its own unit: files, rows or bytes.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    ignored: AtomicU64,
}

impl Progress {
    /// 0 to 1.
    pub fn fraction(&self) -> f64 {
        let total = self.total.load(Relaxed);
        if total == 0 { 0.0 } else { (self.done.load(Relaxed) as f64 / total as f64).min(1.0) }
    }

    /// Files that are no pictures and belong to none.
    pub fn ignored(&self) -> u64 {
        self.ignored.load(Relaxed)
    }

    fn expect(&self, total: u64) {
        self.total.store(total, Relaxed);
    }

    fn advance(&self, by: u64) {
        self.done.fetch_add(by, Relaxed);
    }

    fn ignore(&self) {
        self.ignored.fetch_add(1, Relaxed);
    }
}
