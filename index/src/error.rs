//! What can go wrong, by what the caller can do about it.

use std::path::PathBuf;

use crate::{PointId, TokenConfig};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("no collection named {name:?}")]
    CollectionNotFound { name: String },
    #[error("a collection or alias named {name:?} exists")]
    CollectionExists { name: String },
    #[error("no alias named {name:?}")]
    AliasNotFound { name: String },
    #[error("{name:?} is not a name: 1 to 128 of a-z A-Z 0-9 . _ -, not starting with a dot")]
    InvalidName { name: String },
    #[error("{field}: expected {expected}, received {received}")]
    InvalidSetting { field: &'static str, expected: String, received: String },
    #[error("no point with id {id}")]
    PointNotFound { id: PointId },
    #[error("id of {received} bytes: expected 1 to {max}")]
    InvalidId { received: usize, max: usize },
    #[error("id {id} stands twice in one batch")]
    DuplicateId { id: PointId },
    #[error("point {id} has no vector")]
    NoVector { id: PointId },
    #[error("no vector named {received:?}: expected one of {expected:?}")]
    UnknownVector { expected: Vec<String>, received: String },
    #[error("vector {vector:?}: expected {expected} dimensions, received {received}")]
    WrongDimension { vector: String, expected: usize, received: usize },
    #[error("vector {vector:?}: the number at position {position} is not finite")]
    NotFinite { vector: String, position: usize },
    #[error("vector {vector:?} has length zero: it has no direction to compare")]
    ZeroVector { vector: String },
    #[error("no tokens named {received:?}: expected one of {expected:?}")]
    UnknownTokens { expected: Vec<String>, received: String },
    #[error("tokens {tokens:?}: expected {expected} numbers, received {received}")]
    WrongTokens { tokens: String, expected: TokenConfig, received: String },
    #[error("tokens {tokens:?}: the number at position {position} is not finite")]
    TokensNotFinite { tokens: String, position: usize },
    #[error("{what}: at most {max}, received {received}")]
    LimitExceeded { what: &'static str, max: u64, received: u64 },
    #[error("disk full: {free} bytes free at {path}, {needed} needed")]
    DiskFull { path: PathBuf, free: u64, needed: u64 },
    #[error("{path} is in use by another process")]
    Locked { path: PathBuf },
    #[error("collection {name:?} is quarantined: {reason}")]
    Quarantined { name: String, reason: String },
    #[error("{what} is damaged: {detail}")]
    Damaged { what: String, detail: String },
    #[error("the database is closed")]
    Closed,
    #[error("storage: {0}")]
    Storage(String),
}

impl Error {
    /// The same answer for another caller of a commit that failed.
    pub(crate) fn again(&self) -> Error {
        match self {
            Error::DiskFull { path, free, needed } => {
                Error::DiskFull { path: path.clone(), free: *free, needed: *needed }
            }
            Error::Storage(detail) => Error::Storage(detail.clone()),
            Error::Closed => Error::Closed,
            other => Error::Storage(other.to_string()),
        }
    }
}
