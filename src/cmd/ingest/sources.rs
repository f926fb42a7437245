//! The sources of a run: those that can be read, and those that cannot. One bad file never stops the others.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use firn_index::{CollectionConfig, Error as IndexError, Side, VectorConfig};
use firn_ingest::{
    makers::Maker,
    report::{Report, SkippedItem, SourceReport},
    source::{Kind, Source, SourceOptions},
};

use crate::{cmd::table::printable, engine, exit::Usage};

pub struct Sources {
    pub open: Vec<Source>,
    refused: Vec<(SkippedItem, anyhow::Error)>,
    n_given: usize,
}

impl Sources {
    pub fn open(paths: &[PathBuf], options: &SourceOptions) -> Sources {
        let mut sources = Sources { open: Vec::new(), refused: Vec::new(), n_given: paths.len() };
        for path in paths {
            match Source::open(path, options) {
                Ok(source) => sources.open.push(source),
                Err(error) => sources.refuse(path, error.reason(), error.into()),
            }
        }
        sources
    }

    pub fn have_items(&mut self) -> bool {
        self.open.iter_mut().any(Source::has_items)
    }

    pub fn are_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Whether every point brings its vectors, so that no model is needed.
    pub fn bring_vectors(&self) -> bool {
        self.open.iter().all(|source| !source.dims.is_empty())
    }

    /// Whether there may be pictures, or texts, that it is to embed. Files of vectors hold no pictures, and their vectors stay.
    pub fn need(&self, maker: &Maker<'_>) -> bool {
        self.open.iter().any(|source| match maker.side {
            Side::Image => source.dims.is_empty(),
            Side::Text => source.has_texts && !maker.vectors.iter().all(|name| source.dims.contains_key(*name)),
        })
    }

    /// A collection for sources that hold nothing but vectors and tokens, as the first of them says; none if one of them needs a
    /// model, or if one `is_named` that is to be taken where no source says what made it.
    pub fn declared(&self, is_named: bool) -> Option<CollectionConfig> {
        let model = self.open.iter().find_map(|source| source.model.clone());
        if !self.bring_vectors() || is_named && model.is_none() {
            return None;
        }
        let (mut vectors, mut tokens) = (BTreeMap::new(), BTreeMap::new());
        for source in self.open.iter().rev() {
            vectors.extend(source.dims.iter().map(|(name, &dim)| (name.clone(), VectorConfig::new(dim))));
            tokens.extend(source.tokens.clone());
        }
        Some(CollectionConfig { model, vectors, tokens, ..CollectionConfig::default() })
    }

    /// Adds to the collection of a model what the files bring in its space and it does not make: images that were brought to
    /// where its texts are, with their tokens.
    pub fn add_to(&self, config: &mut CollectionConfig, dim: usize) {
        let made: Vec<String> = config.vectors.keys().cloned().collect();
        for source in &self.open {
            let brought = source.dims.iter().filter(|(name, of)| **of == dim && !made.contains(name));
            for (name, &dim) in brought {
                config.vectors.entry(name.clone()).or_insert(VectorConfig::new(dim));
                let shape = source.tokens.get(name).map(|&shape| (name.clone(), shape));
                if let Some((name, shape)) = shape {
                    config.tokens.entry(name).or_insert(shape);
                }
            }
        }
    }

    /// What files declare, against the collection: a wrong file is refused before its first row.
    pub fn check(&mut self, config: &CollectionConfig) {
        for source in std::mem::take(&mut self.open) {
            match check_model(config, &source).and_then(|()| check_dims(config, &source)) {
                Ok(()) => self.open.push(source),
                Err((reason, error)) => {
                    let error = error.context(source.path.display().to_string());
                    self.refuse(&source.path, reason, error);
                }
            }
        }
    }

    /// The report of sources that have no items: faults are all that comes of them. Says what was looked for if there is
    /// not even a fault.
    pub fn without_items(&mut self, collection: &str) -> Report {
        let mut report = Report { collection: collection.to_owned(), ..Report::default() };
        for Source { path, kind, progress, items, .. } in std::mem::take(&mut self.open) {
            let before = report.read;
            for skipped in items.filter_map(Result::err) {
                let (reason, message) = (skipped.fault.reason().to_owned(), skipped.fault.to_string());
                report.read += 1;
                report.skip(SkippedItem { source: path.clone(), item: skipped.name, reason, message });
            }
            if report.read == before {
                say_what_was_looked_for(&path, kind);
            }
            report.ignored_files += progress.ignored();
            report.sources.push(SourceReport { path, kind });
        }
        report
    }

    /// Names the refused sources in a report. The error, if there was no other source.
    pub fn tell(self, report: &mut Report) -> Option<anyhow::Error> {
        let none_is_left = self.refused.len() == self.n_given;
        let mut first = None;
        for (item, error) in self.refused {
            report.read += 1;
            report.skip(item);
            first = first.or(Some(error));
        }
        let first = first.filter(|_| none_is_left)?;
        Some(if self.n_given == 1 { first } else { first.context("none of the sources can be read") })
    }

    fn refuse(&mut self, path: &Path, reason: &str, error: anyhow::Error) {
        if self.n_given > 1 {
            eprintln!("skipped: {}", printable(&format!("{error:#}")));
        }
        let (item, message) = (path.display().to_string(), format!("{error:#}"));
        let message = message.strip_prefix(&format!("{item}: ")).unwrap_or(&message).to_owned();
        self.refused.push((SkippedItem { source: path.to_owned(), item, reason: reason.to_owned(), message }, error));
    }
}

type Refusal = (&'static str, anyhow::Error);

/// Vectors of one model mean nothing beside those of another. Where there is none, any are taken.
fn check_model(config: &CollectionConfig, source: &Source) -> Result<(), Refusal> {
    let Some(received) = &source.model else { return Ok(()) };
    let expected = source.dims.keys().filter_map(|name| config.model_of(name));
    match expected.into_iter().find(|expected| expected.hash != received.hash) {
        Some(expected) => {
            let error = engine::Error::ModelMismatch {
                expected_name: expected.name.clone(),
                expected_hash: expected.hash.clone(),
                received_name: received.name.clone(),
                received_hash: received.hash.clone(),
            };
            Err(("wrong_model", error.into()))
        }
        None => Ok(()),
    }
}

fn check_dims(config: &CollectionConfig, source: &Source) -> Result<(), Refusal> {
    for (name, &received) in &source.dims {
        match config.vectors.get(name) {
            Some(vector) if vector.dim == received => {}
            Some(vector) => {
                let (vector, expected) = (name.clone(), vector.dim);
                return Err(("wrong_dimension", IndexError::WrongDimension { vector, expected, received }.into()));
            }
            None => {
                let (expected, received) = (config.vectors.keys().cloned().collect(), name.clone());
                return Err(("unknown_vector", IndexError::UnknownVector { expected, received }.into()));
            }
        }
    }
    for (of, &received) in &source.tokens {
        match config.tokens.get(of) {
            Some(&expected) if expected == received => {}
            Some(&expected) => {
                let (tokens, received) = (of.clone(), received.to_string());
                return Err(("wrong_tokens", IndexError::WrongTokens { tokens, expected, received }.into()));
            }
            None if config.tokens.is_empty() && config.model.is_some() => {
                let shape = format!("{}x{}", received.n, received.dim);
                let detail = format!(
                    "this collection keeps no tokens, and here are some beside {of:?}, {shape}; hint: make it with --token-shape {of}={shape}, or --tokens 4x4 for the model's own"
                );
                return Err(("unknown_tokens", Usage(detail).into()));
            }
            None => {
                let (expected, received) = (config.tokens.keys().cloned().collect(), of.clone());
                return Err(("unknown_tokens", IndexError::UnknownTokens { expected, received }.into()));
            }
        }
    }
    Ok(())
}

fn say_what_was_looked_for(path: &Path, kind: Kind) {
    let path = printable(&path.display().to_string());
    match kind {
        Kind::Folder => {
            eprintln!("hint: {path} holds no pictures (jpg, png, webp, gif), at any depth; other sources (.jsonl,");
            eprintln!("      .csv, .tar, .npy, .safetensors) are named as files: see `firn ingest --help`");
        }
        _ => eprintln!("hint: {path} holds no items"),
    }
}
