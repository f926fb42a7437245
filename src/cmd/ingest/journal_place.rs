//! Where the journal of a collection is kept when nobody says.

use std::path::PathBuf;

/// `$XDG_STATE_HOME/firn/ingest` or `~/.local/state/firn/ingest`; the uuid keeps collections of one name apart.
pub fn default(collection: &str, uuid: &str) -> anyhow::Result<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    let state = state.ok_or_else(|| anyhow::anyhow!("no place for a journal: name one with --journal FILE"))?;
    Ok(state.join("firn/ingest").join(format!("{collection}-{uuid}.journal")))
}
