//! Settings and descriptions of collections, and the limits on them.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{Result, Tokens, check};

/// Limits as DEFAULT / MIN / MAX in one place.
pub struct Limits;

impl Limits {
    pub const DEFAULT_M: usize = 16;
    pub const MIN_M: usize = 4;
    pub const MAX_M: usize = 64;
    /// Below 200 hnsw_rs loses points when similar ones arrive together.
    pub const DEFAULT_EF_CONSTRUCTION: usize = 200;
    pub const MIN_EF_CONSTRUCTION: usize = 200;
    pub const MAX_EF_CONSTRUCTION: usize = 2000;
    pub const DEFAULT_EF_SEARCH: usize = 64;
    pub const MIN_EF_SEARCH: usize = 1;
    pub const MAX_EF_SEARCH: usize = 4096;
    pub const MAX_DIM: usize = 16_384;
    pub const MAX_VECTORS_PER_POINT: usize = 16;
    /// Rows of the tokens that are kept of one image or text.
    pub const MAX_TOKENS: usize = 256;
    /// The tokens of one image or text, as they are stored.
    pub const MAX_TOKEN_BYTES: usize = 1024 * 1024;
    /// Bytes that are kept with a collection under one name.
    pub const MAX_ATTACHMENT_BYTES: usize = 512 << 20;
    pub const MAX_ID_BYTES: usize = 512;
    pub const MAX_NAME_BYTES: usize = 128;
    pub const MAX_TEXTS: usize = 256;
    pub const MAX_TEXT_BYTES: usize = 256 * 1024;
    pub const MAX_LANGUAGE_BYTES: usize = 64;
    pub const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;
    /// Objects and arrays inside each other; the payload itself is the first. As deep as the wire takes it.
    pub const MAX_PAYLOAD_DEPTH: usize = 20;
    /// Each of a model's name and hash.
    pub const MAX_MODEL_BYTES: usize = 4096;
    /// Rows of one collection, dead ones included.
    pub const MAX_ROWS: u32 = u32::MAX - 1;
    /// Hits of one search.
    pub const MAX_LIMIT: usize = 10_000;
}

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes sled may keep in memory.
    pub cache_bytes: u64,
    /// A write that would leave less free disk than this is refused with `Error::DiskFull` and changes nothing. What only
    /// removes may leave an eighth of it, so that a full disk can be freed.
    pub min_free_bytes: u64,
    /// Vectors that are searched exactly before a segment is built from them.
    pub buffer_limit: usize,
    /// Threads that build segments; 0 means one per core.
    pub build_threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { cache_bytes: 256 << 20, min_free_bytes: 256 << 20, buffer_limit: 4096, build_threads: 0 }
    }
}

/// The model that made a collection's embeddings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    /// As the user wrote it: `builtin`, a folder, or `hf:org/name@rev`.
    pub name: String,
    /// Content hash, hexadecimal.
    pub hash: String,
}

/// What of a point is embedded: its picture, or its texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Image,
    Text,
}

/// Where the embeddings of a named vector come from, if a point does not bring them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Embeds {
    pub side: Side,
    pub model: ModelRef,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorConfig {
    pub dim: usize,
    /// A model of its own; none: the collection's, if it has one.
    pub embeds: Option<Embeds>,
}

impl VectorConfig {
    /// Without a model of its own.
    pub fn new(dim: usize) -> VectorConfig {
        VectorConfig { dim, embeds: None }
    }
}

/// The shape of the tokens that are kept beside a named vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenConfig {
    pub n: usize,
    pub dim: usize,
}

impl TokenConfig {
    /// What the tokens of one image or text take on disk, in half precision.
    pub fn bytes(self) -> usize {
        self.n * self.dim * 2
    }
}

impl fmt::Display for TokenConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.n, self.dim)
    }
}

/// Parameters of the HNSW graph, by the letters of Malkov and Yashunin (arXiv 1603.09320).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HnswConfig {
    pub m: usize,
    pub ef_construction: usize,
    pub ef_search: usize,
}

impl Default for HnswConfig {
    fn default() -> Self {
        HnswConfig {
            m: Limits::DEFAULT_M,
            ef_construction: Limits::DEFAULT_EF_CONSTRUCTION,
            ef_search: Limits::DEFAULT_EF_SEARCH,
        }
    }
}

/// What a collection is made with; it never changes afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionConfig {
    /// None: every point brings its vectors.
    pub model: Option<ModelRef>,
    pub vectors: BTreeMap<String, VectorConfig>,
    pub hnsw: HnswConfig,
    /// By the name of the vector they are kept beside; none: no tokens are kept.
    pub tokens: BTreeMap<String, TokenConfig>,
}

impl CollectionConfig {
    /// Whether these are tokens that the collection keeps beside the vector of that name: `Error::UnknownTokens`,
    /// `Error::WrongTokens`, `Error::TokensNotFinite`.
    pub fn check_tokens(&self, of: &str, tokens: &Tokens) -> Result<()> {
        check::tokens(self, of, tokens)
    }

    /// A vector of that name scaled to unit length, as it would be stored: `Error::UnknownVector`, `Error::WrongDimension`,
    /// `Error::NotFinite`, `Error::ZeroVector`.
    pub fn to_unit(&self, name: &str, numbers: &[f32]) -> Result<Vec<f32>> {
        check::vector(self, name, numbers)
    }

    /// The model in whose space the vectors of that name are: its own, else the collection's.
    pub fn model_of(&self, vector: &str) -> Option<&ModelRef> {
        let own = self.vectors.get(vector).and_then(|vector| vector.embeds.as_ref());
        own.map(|embeds| &embeds.model).or(self.model.as_ref())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Ready,
    /// Serving while segments are built or compacted.
    Indexing,
    /// Damaged and set aside; the reason says what was found.
    Quarantined(String),
}

/// A collection seen from outside.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CollectionInfo {
    pub name: String,
    /// Made with the collection: another collection of the same name has another one.
    pub uuid: String,
    pub status: Status,
    pub points_count: u64,
    pub config: CollectionConfig,
    pub segments_count: usize,
    /// Vectors that are searched exactly because no segment holds them yet.
    pub buffered_vectors_count: u64,
    /// Vectors in segments whose point was deleted or replaced.
    pub tombstones_count: u64,
    pub aliases: Vec<String>,
}
