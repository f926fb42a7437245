//! Images that another encoder embedded, from the files or the folder that a user names.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use firn_ingest::{
    embed::IMAGE_VECTOR,
    embeddings::MANIFEST,
    source::{Source, SourceOptions},
};
use firn_model::align::FrozenImages;

use crate::exit::Usage;

/// Where the ids of `x.npy` stand if no file is named.
const IDS_BESIDE: [&str; 2] = ["ids.txt", "ids.json"];

#[derive(Debug, clap::Args)]
pub(super) struct FrozenImageArgs {
    /// Images that another encoder embedded: .npy or .safetensors, (n, dim), or a folder that `firn embed` wrote
    #[arg(long, value_name = "PATH")]
    embeddings: Option<PathBuf>,
    /// Tokens of the same images: (n, tokens, dim)
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Ids of the rows: one a line, or JSON [default: X.ids.txt or X.ids.json beside X.npy]
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
}

impl FrozenImageArgs {
    /// The files that are read, each with the flag that names it.
    pub(super) fn files(&self) -> Vec<(&'static str, PathBuf)> {
        let named = [("--embeddings", &self.embeddings), ("--tokens", &self.tokens), ("--ids", &self.ids)];
        let named = named.into_iter().filter_map(|(flag, path)| Some((flag, path.clone()?)));
        let beside = self.embeddings.iter().flat_map(|path| IDS_BESIDE.map(|end| ("--ids", path.with_extension(end))));
        named.chain(beside).collect()
    }

    pub(super) fn is_given(&self, flag: &str) -> bool {
        [("--embeddings", &self.embeddings), ("--tokens", &self.tokens), ("--ids", &self.ids)]
            .into_iter()
            .any(|(of, path)| of == flag && path.is_some())
    }

    /// None if no embeddings are named.
    pub(super) fn read(&self) -> anyhow::Result<Option<FrozenImages>> {
        let Some(embeddings) = &self.embeddings else { return Ok(None) };
        if !embeddings.join(MANIFEST).is_file() {
            let (tokens, ids) = (self.tokens.as_deref(), self.ids.as_deref());
            return Ok(Some(FrozenImages::read(embeddings, tokens, ids)?));
        }
        Usage::unless(self.tokens.is_none() && self.ids.is_none(), || {
            format!("--tokens and --ids: {} has its own", embeddings.display())
        })?;
        of_embedded(embeddings).map(Some)
    }
}

/// The rows of a folder of `firn embed` that have an image.
fn of_embedded(folder: &Path) -> anyhow::Result<FrozenImages> {
    let source = Source::open(folder, &SourceOptions::default())?;
    let n_tokens = source.tokens.get(IMAGE_VECTOR).map(|shape| shape.n);
    let (mut ids, mut vectors, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    for item in source.items {
        let mut item =
            item.map_err(|skipped| Usage(format!("{}: {}: {}", folder.display(), skipped.name, skipped.fault)))?;
        let (Some(id), Some(vector)) = (item.id, item.vectors.remove(IMAGE_VECTOR)) else { continue };
        ids.push(id.to_string());
        vectors.extend(vector);
        tokens.extend(item.tokens.remove(IMAGE_VECTOR).into_iter().flat_map(|tokens| tokens.values).map(f32::from));
    }
    Usage::unless(!ids.is_empty(), || format!("{}: expected embedded images, received none", folder.display()))?;
    let tokens = n_tokens.map(|n| (n, tokens));
    FrozenImages::new(folder, ids, vectors, tokens).with_context(|| format!("--embeddings {}", folder.display()))
}
