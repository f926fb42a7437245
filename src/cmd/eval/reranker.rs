//! Which network re-ranks, and whether it can.

use std::path::Path;

use firn_eval::results::Made;
use firn_index::Collection;

use super::RunArgs;
use crate::{
    cmd::local,
    eval::Network,
    exit::Usage,
    reranker::{BUILTIN, Package, Reranker},
    settings::Settings,
};

/// COLLECTION or COLLECTION@VERSION of the data directory, or the builtin model's own; of a data set that is a collection, VERSION.
pub fn open(which: &str, is_own: bool, args: &RunArgs, settings: &Settings) -> anyhow::Result<Network> {
    if which == BUILTIN && !is_own {
        let Package { version, weights } = Package::builtin();
        let hash = blake3::hash(&weights).to_hex()[..32].to_owned();
        let reranker = Reranker::of_bytes(&weights, Path::new(BUILTIN), &version, settings.device)?;
        return Ok(Network { reranker, made: Made { name: format!("{BUILTIN}: {}", version.kind_in_words()), hash } });
    }
    let bad = |expected: &str| Usage(format!("--reranker: expected {expected}, received {which:?}"));
    let (name, number) = match (is_own, which.split_once('@')) {
        (true, None) => (args.collection.as_deref().unwrap_or_default(), Some(which)),
        (true, Some(_)) => return Err(bad("a version of the collection").into()),
        (false, Some((name, number))) => (name, Some(number)),
        (false, None) => (which, None),
    };
    let number = number.map(|number| number.parse::<u32>().map_err(|_| bad("a number of a version"))).transpose()?;
    let engine = local::existing_engine(&Settings { model: None, ..settings.clone() })?;
    let collection = engine.db().collection(name)?;
    let network = of_collection(&engine, &collection, number, settings)?;
    engine.db().close()?;
    Ok(network)
}

/// That version, else the active one, else the newest.
fn of_collection(
    engine: &crate::engine::Engine,
    collection: &Collection,
    number: Option<u32>,
    settings: &Settings,
) -> anyhow::Result<Network> {
    let state = engine.rerankers().state(collection)?;
    let newest = state.versions.last().map(|version| version.number);
    let number = number.or(state.active).or(newest);
    let number = number.ok_or_else(|| Usage(format!("collection {:?} has no network", collection.name())))?;
    let version = state.version(number)?;
    let reranker = Reranker::open(collection, version, settings.device)?;
    let name = format!("{}@{number}: {}, {} weights", collection.name(), version.kind_in_words(), version.parameters);
    let hash = format!("{}-{number}", collection.uuid());
    Ok(Network { reranker, made: Made { name, hash } })
}
