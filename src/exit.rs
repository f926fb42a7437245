//! Exit codes, all of them.

use std::{error::Error as StdError, io::ErrorKind, process::ExitCode};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Something in the world was in the way: a full disk, a server that does not answer, a damaged file.
    Failure = 1,
    /// The command line or a setting is wrong (clap uses the same number).
    Usage = 2,
    /// Done, but some items were skipped; the report names them.
    Partial = 3,
    /// There is no such collection, point or model.
    NotFound = 4,
    /// Another process has the data directory, or the journal of the same run.
    Locked = 5,
    /// Damage was found: a checksum did not match, a collection is quarantined, a model is not whole.
    Damaged = 6,
}

/// What was asked for cannot be meant; the message says why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

impl Usage {
    /// An error, unless it is as it should be.
    pub fn unless(is_so: bool, message: impl FnOnce() -> String) -> Result<(), Usage> {
        if is_so { Ok(()) } else { Err(Usage(message())) }
    }
}

/// A run that ended before all was done, for another reason than that it was asked wrongly.
#[derive(Debug, thiserror::Error)]
#[error("not all is done")]
pub struct Unfinished;

/// What then does the rest.
pub const GO_ON: &str = "the same command goes on from here";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// The exit code of an error: the first cause in its chain that has one of its own.
pub fn code_of(error: &anyhow::Error) -> Exit {
    causes(error).find_map(code_of_cause).unwrap_or(Exit::Failure)
}

/// The chain of causes, with every wrapper that speaks with its content's words replaced by that content.
pub fn causes(error: &anyhow::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    error.chain().map(unwrapped)
}

fn unwrapped<'a>(cause: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    use crate::{engine::Error as Engine, query::Error as Query, reranker::Error as Reranker};
    match cause.downcast_ref::<Reranker>() {
        Some(Reranker::Index(inner)) => return inner,
        Some(Reranker::Model(inner)) => return inner,
        Some(Reranker::Engine(inner)) => return unwrapped(inner),
        _ => {}
    }
    match (cause.downcast_ref::<Query>(), cause.downcast_ref::<Engine>()) {
        (Some(Query::Index(inner)), _) => inner,
        (Some(Query::Model(inner)), _) | (_, Some(Engine::Model(inner))) => inner,
        (Some(Query::Engine(inner)), _) => unwrapped(inner),
        _ => cause,
    }
}

fn code_of_cause(cause: &(dyn StdError + 'static)) -> Option<Exit> {
    if let Some(error) = cause.downcast_ref::<firn_index::Error>() {
        return Some(code_of_index(error));
    }
    if let Some(error) = cause.downcast_ref::<firn_eval::dataset::Error>() {
        return Some(if matches!(error, firn_eval::dataset::Error::Io { .. }) { Exit::Failure } else { Exit::Usage });
    }
    if let Some(error) = cause.downcast_ref::<firn_model::Error>() {
        return Some(code_of_model(error));
    }
    if let Some(error) = cause.downcast_ref::<firn_client::Error>() {
        return Some(code_of_answer(error));
    }
    if let Some(error) = cause.downcast_ref::<crate::reranker::Error>() {
        use crate::reranker::Error::*;
        return match error {
            UnknownVersion { .. } => Some(Exit::NotFound),
            Setting { .. }
            | Sizes { .. }
            | NoTokens { .. }
            | NoPairs { .. }
            | NoModel { .. }
            | NoGain { .. }
            | NotJudged { .. }
            | Misfit { .. }
            | NothingBefore => Some(Exit::Usage),
            Unreadable { .. } => Some(Exit::Damaged),
            _ => None,
        };
    }
    use crate::query::Error as Query;
    if let Some(
        Query::Invalid { .. }
        | Query::NoModel { .. }
        | Query::NoVector { .. }
        | Query::NotGiven { .. }
        | Query::AnswerTooLarge { .. },
    ) = cause.downcast_ref()
    {
        return Some(Exit::Usage);
    }
    match cause.downcast_ref() {
        Some(crate::engine::Error::ModelMismatch { .. } | crate::engine::Error::NoTokens { .. }) => {
            return Some(Exit::Usage);
        }
        Some(crate::engine::Error::ModelGone { .. } | crate::engine::Error::NotLoaded { .. }) => {
            return Some(Exit::NotFound);
        }
        _ => {}
    }
    if cause.is::<Usage>() || cause.is::<crate::server::settings::OutOfRange>() {
        return Some(Exit::Usage);
    }
    use firn_ingest::source::SourceError as Source;
    match cause.downcast_ref() {
        Some(
            Source::UnknownKind { .. }
            | Source::NotAFile { .. }
            | Source::Unsupported { .. }
            | Source::NoImages { .. }
            | Source::Damaged { .. }
            | Source::Truncated { .. },
        ) => return Some(Exit::Usage),
        Some(Source::Io { error, .. }) if error.kind() == ErrorKind::NotFound => return Some(Exit::Usage),
        _ => {}
    }
    use firn_ingest::shards::ShardsError as Shards;
    match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(Shards::Others { .. }), _) => return Some(Exit::Usage),
        (Some(Shards::Source(Source::Manifest { .. })), _) | (_, Some(Source::Manifest { .. })) => {
            return Some(Exit::Damaged);
        }
        _ => {}
    }
    if let Some(firn_ingest::journal::JournalError::Locked { .. }) = cause.downcast_ref() {
        return Some(Exit::Locked);
    }
    cause.downcast_ref::<crate::settings::Error>().map(|_| Exit::Usage)
}

fn code_of_index(error: &firn_index::Error) -> Exit {
    use firn_index::Error::*;
    match error {
        CollectionNotFound { .. } | AliasNotFound { .. } | PointNotFound { .. } => Exit::NotFound,
        Locked { .. } => Exit::Locked,
        Damaged { .. } | Quarantined { .. } => Exit::Damaged,
        DiskFull { .. } | Closed | Storage(_) => Exit::Failure,
        _ => Exit::Usage,
    }
}

fn code_of_model(error: &firn_model::Error) -> Exit {
    use firn_model::Error::*;
    match error {
        UnknownModel { .. } => Exit::NotFound,
        // The family that a user named; one that a file names stands with the damage below.
        UnknownFamily { file: None, .. }
        | UnknownDevice { .. }
        | UnknownGrid { .. }
        | NoImageSide { .. }
        | NoTextSide { .. }
        | EmptyText
        | TextTooLong { .. }
        | TooManyTokens { .. }
        | EmptyImage
        | ImageTooLarge { .. }
        | ImageTooHeavy { .. }
        | UnknownImage { .. }
        | BrokenImage { .. }
        | BadData { .. }
        | BadPairs { .. } => Exit::Usage,
        MissingFile { .. }
        | WrongTensor { .. }
        | BadFile { .. }
        | Checksum { .. }
        | UnknownFamily { .. }
        | SidesDisagree { .. } => Exit::Damaged,
        _ => Exit::Failure,
    }
}

/// What a server answers ends as the same mistake does here; its reason says more than its code.
fn code_of_answer(error: &firn_client::Error) -> Exit {
    use tonic::Code;
    match (error.reason.as_str(), error.code) {
        ("UNKNOWN_MODEL" | "MODEL_NOT_LOADED" | "UNKNOWN_VERSION", _) => Exit::NotFound,
        ("NO_MODEL" | "WRONG_MODEL" | "MESSAGE_TOO_LARGE" | "REPLY_TOO_LARGE", _) => Exit::Usage,
        ("NO_GAIN" | "NOT_JUDGED" | "NOTHING_BEFORE" | "NO_TOKENS" | "NO_PAIRS", _) => Exit::Usage,
        ("MODEL_UNUSABLE", _) => Exit::Damaged,
        ("LOCKED", _) => Exit::Locked,
        (_, Code::NotFound) => Exit::NotFound,
        // Out of range: a message that our own side does not send.
        (_, Code::InvalidArgument | Code::AlreadyExists | Code::OutOfRange) => Exit::Usage,
        (_, Code::DataLoss) => Exit::Damaged,
        _ => Exit::Failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_errors_keep_their_code() {
        let not_found = || firn_index::Error::CollectionNotFound { name: "c".into() };
        let family = |file: Option<&str>| firn_model::Error::UnknownFamily {
            file: file.map(Into::into),
            expected: "clip".into(),
            received: "nonsense".into(),
        };
        let cases: [(anyhow::Error, Exit); 10] = [
            (family(None).into(), Exit::Usage),
            (family(Some("config.json")).into(), Exit::Damaged),
            (not_found().into(), Exit::NotFound),
            (crate::query::Error::from(not_found()).into(), Exit::NotFound),
            (anyhow::Error::from(not_found()).context("while reading"), Exit::NotFound),
            (crate::query::Error::from(crate::engine::Error::from(firn_model::Error::EmptyText)).into(), Exit::Usage),
            (firn_index::Error::Locked { path: "d".into() }.into(), Exit::Locked),
            (firn_ingest::source::SourceError::UnknownKind { path: "x".into() }.into(), Exit::Usage),
            (firn_ingest::journal::JournalError::Locked { path: "j".into() }.into(), Exit::Locked),
            (anyhow::anyhow!("something else"), Exit::Failure),
        ];
        for (error, expected) in cases {
            assert_eq!(code_of(&error), expected, "{error:#}");
        }
    }
}
