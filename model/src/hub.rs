//! Models by hub name.

use std::path::PathBuf;

use crate::{Error, Result};

pub(crate) fn fetch(repo: &str, revision: &str) -> Result<PathBuf> {
    Err(Error::Offline { repo: repo.to_owned(), revision: revision.to_owned() })
}

/// `org/name`, each of letters, digits, `-`, `_` and `.`, as the hub itself allows them.
pub(crate) fn is_repo(repo: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
            && !part.contains("..")
            && !part.contains("--")
    };
    repo.split_once('/').is_some_and(|(org, name)| is_part(org) && is_part(name))
}

/// A branch, a tag, `refs/pr/1` or a commit.
pub(crate) fn is_revision(revision: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+'))
    };
    revision.len() <= 128 && revision.split('/').all(is_part) && !revision.contains("..")
}
