//! Why a source could not be opened, and why an item of it could not be read.

use std::{io, path::PathBuf};

/// A source that cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "{path}: not a source: expected a folder of pictures or embeddings, .jsonl, .csv, .tsv (each also .gz), a WebDataset .tar, .npy or .safetensors"
    )]
    UnknownKind { path: PathBuf },
    #[error("{path}: not a file or folder: save it first")]
    NotAFile { path: PathBuf },
    #[error("--images {path}: {error}")]
    NoImages { path: PathBuf, error: io::Error },
    #[error("{path}: {detail}")]
    Damaged { path: PathBuf, detail: String },
    /// The manifest of embeddings is damaged, or says that they are not complete.
    #[error("{path}: {detail}")]
    Manifest { path: PathBuf, detail: String },
    #[error("{path}: the file ends within its first member: {detail}; nothing of it was kept")]
    Truncated { path: PathBuf, detail: String },
    #[error("{path}: expected {expected}, received {received}")]
    Unsupported { path: PathBuf, expected: String, received: String },
}

impl SourceError {
    /// A stable name in snake_case.
    pub fn reason(&self) -> &'static str {
        match self {
            SourceError::Truncated { .. } => "truncated",
            _ => "unreadable_source",
        }
    }
}

/// An item that was not read.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {fault}")]
pub struct Skipped {
    pub name: String,
    pub fault: Fault,
}

/// What was wrong with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("not a file")]
    NotAFile,
    #[error("leads back to a folder it lies in")]
    SymlinkLoop,
    #[error("{what} of {received} bytes: at most {max}")]
    TooLarge { what: &'static str, max: u64, received: u64 },
    #[error("{what} is not UTF-8")]
    NotUtf8 { what: &'static str },
    #[error("not JSON: {0}")]
    InvalidJson(serde_json::Error),
    #[error("{field:?}: expected {expected}, received {received}")]
    InvalidField { field: String, expected: &'static str, received: String },
    #[error("expected {expected} fields, received {received}")]
    WrongFieldCount { expected: u64, received: u64 },
    #[error("no picture named {name:?} in {place}")]
    MissingImage { name: String, place: String },
    #[error("{path:?} leads out of the folder of pictures (hint: name another with --images)")]
    OutsideFolder { path: String },
    #[error("pictures of type .{extension} are not read: expected jpg, png, webp or gif")]
    UnsupportedImage { extension: String },
    #[error(
        "the name has dots: in {first:?} what follows the first one is no kind of member that is read ({n} such members)"
    )]
    DottedNames { n: u64, first: String },
    #[error("two pictures for one point: {first:?} and {second:?}")]
    TwoImages { first: String, second: String },
    #[error("the file ends too early: {detail}; what came before was kept")]
    Truncated { detail: String },
    #[error("{rows} rows are lost: {detail}")]
    DamagedShard { rows: usize, detail: String },
    #[error("the array cannot be read: {detail}")]
    InvalidArray { detail: String },
}

impl Fault {
    /// A stable name in snake_case.
    pub fn reason(&self) -> &'static str {
        match self {
            Fault::Unreadable(_) => "unreadable",
            Fault::NotAFile => "not_a_file",
            Fault::SymlinkLoop => "symlink_loop",
            Fault::TooLarge { .. } => "too_large",
            Fault::NotUtf8 { .. } => "not_utf8",
            Fault::InvalidJson(_) => "invalid_json",
            Fault::InvalidField { .. } => "invalid_field",
            Fault::WrongFieldCount { .. } => "wrong_field_count",
            Fault::MissingImage { .. } => "missing_image",
            Fault::OutsideFolder { .. } => "outside_folder",
            Fault::UnsupportedImage { .. } => "unsupported_image",
            Fault::DottedNames { .. } => "dotted_names",
            Fault::TwoImages { .. } => "two_images",
            Fault::Truncated { .. } => "truncated",
            Fault::InvalidArray { .. } => "invalid_array",
            Fault::DamagedShard { .. } => "damaged_shard",
        }
    }

    pub(super) fn at(self, name: impl Into<String>) -> Skipped {
        Skipped { name: name.into(), fault: self }
    }
}

/// An end of file that should not be there is a truncated file; anything else is unreadable.
impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Fault::Truncated { detail: error.to_string() },
            _ => Fault::Unreadable(error),
        }
    }
}
