//! Facets that `firn embed` made, gathered from its folders for training.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use firn_ingest::{
    embed::TEXT_VECTOR,
    embeddings::{MANIFEST, Manifest},
    source::{Source, SourceOptions},
};
use firn_model::align::{self, FacetRows};

use crate::exit::Usage;

/// What the facets of several folders are gathered into, below the folder of a run.
const GATHERED_FILE: &str = "facets.safetensors";

/// A place that training reads: the one that is named, or a file in `out` that holds what folders of `firn embed` have, of each id the facets
/// of one folder behind those of the other (FLAME has 1, 3 and 7 of them).
pub(super) fn gathered(paths: &[PathBuf], out: &Path) -> anyhow::Result<Option<PathBuf>> {
    match paths {
        [] => return Ok(None),
        [path] if !path.join(MANIFEST).is_file() => return Ok(Some(path.clone())),
        _ => {}
    }
    let mut all = BTreeMap::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for folder in paths {
        Usage::unless(folder.join(MANIFEST).is_file(), || {
            format!("--facets: several must be folders of firn embed, received {}", folder.display())
        })?;
        check_decoder(folder, &paths[0])?;
        for id in add(folder, &mut all)? {
            *counts.entry(id).or_default() += 1;
        }
    }
    if let Some((id, n)) = counts.iter().find(|(_, n)| **n != paths.len()) {
        let expected = format!("expected facets of each id in all {} folders", paths.len());
        return Err(Usage(format!("--facets: {expected}, received those of {id} in {n}")).into());
    }
    let path = out.join(GATHERED_FILE);
    align::write_facets(&path, &all)?;
    Ok(Some(path))
}

/// Facets of two decoders lie in two spaces, whatever they are asked.
fn check_decoder(folder: &Path, first: &Path) -> anyhow::Result<()> {
    let (Some(own), Some(of_first)) = (Manifest::read(folder)?, Manifest::read(first)?) else { return Ok(()) };
    let maker = |manifest: &Manifest| manifest.decoder.clone().unwrap_or(manifest.model.hash.clone());
    Usage::unless(maker(&own) == maker(&of_first), || {
        let (folder, name) = (folder.display(), &own.model.name);
        let expected = format!("expected facets of one decoder, that of {}", first.display());
        format!("--facets: {expected}, received another in {folder} (model {name})")
    })?;
    Ok(())
}

/// The facets of each text, or its embedding where none were kept; gives the ids.
fn add(folder: &Path, all: &mut BTreeMap<String, FacetRows>) -> anyhow::Result<Vec<String>> {
    let source = Source::open(folder, &SourceOptions::default())?;
    if !source.tokens.contains_key(TEXT_VECTOR) {
        let (folder, hint) = (folder.display(), "hint: `firn embed --tokens 4x4` keeps the facets");
        eprintln!("{folder}: no facets were kept, a text has one row, its embedding; {hint}");
    }
    let mut ids = Vec::new();
    for item in source.items {
        let mut item =
            item.map_err(|skipped| Usage(format!("{}: {}: {}", folder.display(), skipped.name, skipped.fault)))?;
        let (dim, values) = match (item.tokens.remove(TEXT_VECTOR), item.vectors.remove(TEXT_VECTOR)) {
            (Some(tokens), _) => (tokens.dim, tokens.values.into_iter().map(f32::from).collect()),
            (None, Some(vector)) => (vector.len(), vector),
            (None, None) => continue,
        };
        let Some(id) = item.id.map(|id| id.to_string()) else { continue };
        let rows = all.entry(id.clone()).or_insert(FacetRows { dim, values: Vec::new() });
        Usage::unless(rows.dim == dim, || {
            format!(
                "{}: {id}: expected facets of {} numbers, as others have, received {dim}",
                folder.display(),
                rows.dim
            )
        })?;
        rows.values.extend(values);
        ids.push(id);
    }
    Usage::unless(!ids.is_empty(), || format!("{}: expected embedded texts, received none", folder.display()))?;
    Ok(ids)
}
