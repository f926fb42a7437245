//! `firn ingest`: files into a collection, in the local data directory or at a server.
//!
//! Exit codes: 0 everything is written, 3 finished but some items were skipped (the report names them), anything else: it
//! did not finish. Either way the same command goes on where this one stopped.

mod journal_place;
pub(super) mod progress;
mod remote_sink;
pub(super) mod signals;
pub(super) mod sources;
mod summary;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use firn_index::{Collection, CollectionConfig, CollectionInfo, Error as IndexError, HnswConfig};
use firn_ingest::{
    embed::IMAGE_VECTOR,
    identity::IdFrom,
    journal::{Journal, Written},
    pipeline::{self, Job, RunError},
    report::{Report, Watch},
    sink::{CollectionSink, Sink},
    source::{SourceOptions, join::Captions},
};
use firn_model::{Encoder, Grid, ModelInfo};

use self::{progress::Bar, remote_sink::RemoteSink, sources::Sources};
use super::local;
use crate::{
    engine::{self, Engine},
    exit::{self, Exit, Usage},
    settings::{self, NO_MODEL, Settings},
};

/// Write files into a collection: pictures with texts, JSON Lines, CSV, WebDataset, embeddings
///
/// Example: firn ingest holiday-photos/ --collection photos
#[derive(Debug, clap::Args)]
#[command(after_long_help = SOURCES)]
pub struct IngestArgs {
    /// Folders of pictures or embeddings, or .jsonl, .csv, .tsv (each also .gz), .tar, .npy and .safetensors files
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// The collection, or an alias
    #[arg(long, short)]
    collection: String,
    /// Fail if there is no such collection, instead of making it
    #[arg(long)]
    no_create: bool,
    /// If the collection is made: keep the tokens that the model makes for fusion, those of images in this grid
    #[arg(long, value_name = "4x4|7x7", conflicts_with = "no_create")]
    tokens: Option<Grid>,
    /// Write to this server instead of the local data directory; it embeds
    #[arg(long, env = "FIRN_SERVER", value_name = "URL")]
    server: Option<String>,
    /// Where the pictures of JSON Lines and CSV are: a folder or a .tar; without an `image` field, by id, if there is one
    #[arg(long, value_name = "DIR|TAR")]
    images: Option<PathBuf>,
    /// The named vector that rows of .npy files are
    #[arg(long, value_name = "NAME", default_value = "image")]
    vector_name: String,
    /// Texts and splits of the items by their ids: JSON Lines, also .gz, as `firn train align --captions` reads them
    #[arg(long, value_name = "FILE")]
    captions: Option<PathBuf>,
    /// One more named vector from another .npy file, with the rows of the first in their order; may be repeated
    #[arg(long, value_name = "NAME=FILE.npy", value_parser = named_file)]
    also: Vec<(String, PathBuf)>,
    /// Where the id of an item without one comes from
    #[arg(long, value_name = "content|path", default_value = "content", value_parser = id_from)]
    id_from: IdFrom,
    /// Points that are written at a time, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = pipeline::DEFAULT_BATCH as u16, value_parser = clap::value_parser!(u16).range(pipeline::MIN_BATCH as i64..=pipeline::MAX_BATCH as i64))]
    batch: u16,
    /// What was written before, to go on from [default: in $XDG_STATE_HOME/firn/ingest or ~/.local/state/firn/ingest]
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Forget the journal and write everything again
    #[arg(long)]
    restart: bool,
}

const SOURCES: &str = "\
Sources:
  a folder       pictures (jpg, png, webp, gif) at any depth, also where links lead out of the folder;
                 beside x.jpg, x.txt is one text and x.json holds
                 {\"text\", \"texts\": [{\"text\", \"language\"}], \"language\", \"id\", ...}
  .jsonl         an object a line: image, text | texts | captions, language, id, vectors {name: [...]}
  .csv, .tsv     a header line with the same names; texts and vectors as JSON
  .tar           WebDataset: members of one name are one point (jpg, txt, json, cls, npy)
  .npy           (n, dim) embeddings; ids in x.ids.txt or x.ids.json, else x:0, x:1 ...;
                 (n, tokens, dim) tokens beside them in x.tokens.npy;
                 --also NAME=y.npy: one more vector of each row
  .safetensors   (n, dim) tensors by vector name, (n, tokens, dim) tokens as NAME.tokens;
                 ids in the metadata, else x:0, x:1 ...
  embeddings     a folder that `firn embed` wrote
  facets         a folder of KEY.pth (or .npy, .safetensors) as FLAME publishes them, each (11, dim):
                 the last 7 rows are the tokens \"text\", their mean the vector \"text\", KEY the id
Any other field is payload. A picture's path is kept as the payload field \"path\".";

pub(super) fn id_from(text: &str) -> Result<IdFrom, String> {
    match text {
        "content" => Ok(IdFrom::Content),
        "path" => Ok(IdFrom::Path),
        _ => Err("expected content or path".to_owned()),
    }
}

/// Ingests one folder as the command would, for the demo. The journal goes beside the data.
pub fn folder(path: &Path, collection: &str, tokens: Option<Grid>, settings: &Settings) -> anyhow::Result<Exit> {
    let args = IngestArgs {
        sources: vec![path.to_owned()],
        collection: collection.to_owned(),
        no_create: false,
        tokens,
        server: None,
        images: None,
        vector_name: "image".to_owned(),
        captions: None,
        also: Vec::new(),
        id_from: IdFrom::Content,
        batch: pipeline::DEFAULT_BATCH as u16,
        journal: Some(settings.data_dir.join(format!("{collection}.journal"))),
        restart: false,
    };
    run(&args, settings)
}

pub fn run(args: &IngestArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let options = options(args)?;
    let mut sources = Sources::open(&args.sources, &options);
    let server = settings.server(args.server.as_deref(), &settings::OF_HERE)?;
    let (report, result) = match server {
        _ if !sources.have_items() => (sources.without_items(&args.collection), Ok(())),
        Some(server) => at_server(&server, args, settings, &mut sources)?,
        None => here(args, settings, &mut sources)?,
    };
    let unmet_captions = options.captions.as_ref().map_or(0, |captions| captions.n_unmet());
    let (report, ended) = end(sources, Report { unmet_captions, ..report }, result, settings);
    if report.skipped_by_reason.contains_key("wrong_dimension") {
        eprintln!(
            "hint: `firn collection create NAME --vector image=DIM` makes a collection for embeddings of your own"
        );
    }
    ended
}

fn options(args: &IngestArgs) -> anyhow::Result<SourceOptions> {
    let mut also = BTreeMap::new();
    for (name, path) in &args.also {
        if *name == args.vector_name || also.insert(name.clone(), path.clone()).is_some() {
            return Err(Usage(format!("--also {name}: there is a vector of that name already")).into());
        }
    }
    Usage::unless(also.is_empty() || args.sources.len() == 1, || {
        format!("--also: expected one source, to whose rows it belongs, received {}", args.sources.len())
    })?;
    let captions = args.captions.as_deref().map(Captions::read).transpose()?;
    Ok(SourceOptions { images: args.images.clone(), vector_name: args.vector_name.clone(), captions, also })
}

fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    let parsed = text.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty());
    let parsed = parsed.map(|(name, path)| (name.to_owned(), path.into()));
    parsed.ok_or_else(|| "expected NAME=FILE.npy, such as mirror=projected.npy".to_owned())
}

/// Prints the report of a run, and says how it ended. Gives the report back, with the sources that were refused.
pub(super) fn end(
    sources: Sources,
    mut report: Report,
    result: Result<(), RunError>,
    settings: &Settings,
) -> (Report, anyhow::Result<Exit>) {
    let unreadable = sources.tell(&mut report);
    if settings.json {
        println!("{}", serde_json::to_string(&report).expect("plain data can be written"));
    } else if unreadable.is_none() {
        summary::print(&report);
    }
    let result = result.map_err(into_error);
    let ended = match (result, unreadable) {
        (Err(error), _) if exit::code_of(&error) != Exit::Usage => Err(error.context(exit::Unfinished)),
        (Err(error), _) | (_, Some(error)) => Err(error),
        _ if report.interrupted => {
            eprintln!("hint: {}", exit::GO_ON);
            Ok(Exit::Failure)
        }
        _ if report.skipped == 0 => Ok(Exit::Ok),
        _ => Ok(Exit::Partial),
    };
    (report, ended)
}

/// A sink's error as what it is: in its box nobody would find its exit code or its hint.
pub(super) fn into_error(error: RunError) -> anyhow::Error {
    let RunError::Sink(error) = error else { return error.into() };
    let error = error.downcast::<firn_client::Error>().map(|error| anyhow::Error::from(*error));
    let error = error.or_else(|error| error.downcast::<IndexError>().map(|error| anyhow::Error::from(*error)));
    error.unwrap_or_else(anyhow::Error::from_boxed)
}

/// Embeds and writes in this process.
fn here(
    args: &IngestArgs,
    settings: &Settings,
    sources: &mut Sources,
) -> anyhow::Result<(Report, Result<(), RunError>)> {
    let journal = named_journal(args)?;
    let engine = if args.no_create { local::existing_engine(settings)? } else { local::engine(settings)? };
    let named = settings.model.as_deref().map(|name| engine.encoder(Some(name))).transpose()?;
    check_model(named.as_ref().map(|encoder| encoder.info()), sources)?;
    let Some(collection) = checked_collection(&engine, args, settings, sources)? else {
        engine.db().close()?;
        return Ok((sources.without_items(&args.collection), Ok(())));
    };
    let encoders = engine.encoders_for(collection.config(), |maker| sources.need(maker))?;
    let job = job(args, &collection.info(), sources, encoders, journal)?;
    let (stop, bar) = (job.stop.clone(), Bar::new(settings.json));
    let _signals = signals::stop(stop.clone(), &bar);
    let (report, result) = watched(job, &bar, &mut CollectionSink::new(collection.clone()));
    if is_all_written(&report, &result) {
        wait_for_index(&collection, &stop);
    }
    engine.db().close()?;
    Ok((report, result))
}

/// The collection, after the sources were checked against it. None is made of sources that are all refused: it would stand,
/// empty, in the way of the next try.
fn checked_collection(
    engine: &Engine,
    args: &IngestArgs,
    settings: &Settings,
    sources: &mut Sources,
) -> anyhow::Result<Option<Collection>> {
    match engine.db().collection(&args.collection) {
        Err(IndexError::CollectionNotFound { .. }) if !args.no_create => {
            let config = new_config(engine, args, settings, sources)?;
            sources.check(&config);
            let is_wanted = !sources.open.is_empty();
            Ok(is_wanted.then(|| engine.db().create_collection(&args.collection, config)).transpose()?)
        }
        found => {
            let collection = found?;
            check_tokens(args, collection.config())?;
            sources.check(collection.config());
            Ok(Some(collection))
        }
    }
}

pub(super) fn is_all_written(report: &Report, result: &Result<(), RunError>) -> bool {
    result.is_ok() && !report.interrupted
}

/// Points are found from the moment they are written, and fast once they are in the index: that is part of the run.
fn wait_for_index(collection: &Collection, stop: &AtomicBool) {
    const LOOK_EVERY: Duration = Duration::from_millis(500);
    let mut is_told = false;
    while !stop.load(Relaxed) && !collection.wait_until_indexed(LOOK_EVERY) {
        if !is_told {
            eprintln!("all is written; building the index (Ctrl-C leaves that for later)");
        }
        is_told = true;
    }
}

/// Sends what was read; the server embeds and writes.
fn at_server(
    server: &str,
    args: &IngestArgs,
    settings: &Settings,
    sources: &mut Sources,
) -> anyhow::Result<(Report, Result<(), RunError>)> {
    let journal = named_journal(args)?;
    let bar = Bar::new(settings.json);
    let mut sink = RemoteSink::connect(server, &bar)?;
    let named = settings.model.as_deref().filter(|name| *name != NO_MODEL);
    let named = named.map(|name| sink.model(Some(name))).transpose()?;
    check_model(named.as_ref(), sources)?;
    let Some(info) = checked_collection_at(&sink, args, named.as_ref(), sources)? else {
        return Ok((sources.without_items(&args.collection), Ok(())));
    };
    let job = job(args, &info, sources, Vec::new(), journal)?;
    let _signals = signals::stop(job.stop.clone(), &bar);
    sink.open(&args.collection);
    Ok(watched(job, &bar, &mut sink))
}

/// As `checked_collection`, at a server.
fn checked_collection_at(
    sink: &RemoteSink,
    args: &IngestArgs,
    named: Option<&ModelInfo>,
    sources: &mut Sources,
) -> anyhow::Result<Option<CollectionInfo>> {
    if let Some(info) = sink.collection(&args.collection, args.no_create)? {
        check_own_model(named, &info.config)?;
        check_tokens(args, &info.config)?;
        sources.check(&info.config);
        return Ok(Some(info));
    }
    let config = match declared(args, named.is_some(), sources)? {
        Some(declared) => declared,
        None => config_of(&sink.model(named.map(|model| model.name.as_str()))?, args, sources)?,
    };
    sources.check(&config);
    let is_wanted = !sources.open.is_empty();
    is_wanted.then(|| sink.create(&args.collection, &config)).transpose()
}

/// The journal that was named, before anything is made: a place where none can be leaves no empty collection behind.
fn named_journal(args: &IngestArgs) -> anyhow::Result<Option<Journal>> {
    Ok(args.journal.as_deref().map(Journal::lock).transpose()?)
}

fn job(
    args: &IngestArgs,
    info: &CollectionInfo,
    sources: &mut Sources,
    encoders: Vec<Arc<dyn Encoder>>,
    journal: Option<Journal>,
) -> anyhow::Result<Job> {
    let mut journal = match journal {
        Some(journal) => journal,
        None => Journal::lock(&journal_place::default(&info.name, &info.uuid)?)?,
    };
    let mut written = journal.load(&info.uuid)?;
    if args.restart {
        journal.restart(&info.uuid)?;
        written = Written::default();
    }
    let sources = std::mem::take(&mut sources.open);
    Ok(Job {
        collection: info.name.clone(),
        config: info.config.clone(),
        watch: Watch::new(sources.iter().map(|source| source.progress.clone()).collect()),
        sources,
        encoders,
        journal_path: journal.path().to_owned(),
        journal,
        written,
        id_from: args.id_from,
        batch: args.batch.into(),
        bytes_in_flight: pipeline::DEFAULT_BYTES_IN_FLIGHT,
        stop: Arc::new(AtomicBool::new(false)),
    })
}

pub(super) fn watched(job: Job, bar: &Bar, sink: &mut dyn Sink) -> (Report, Result<(), RunError>) {
    let progress = progress::start(job.watch.clone(), bar);
    let answer = pipeline::run(job, sink);
    progress.end();
    answer
}

/// A new collection has the model that made its sources, or that is named; without one, sources of vectors alone need none.
fn new_config(
    engine: &Engine,
    args: &IngestArgs,
    settings: &Settings,
    sources: &Sources,
) -> anyhow::Result<CollectionConfig> {
    match declared(args, settings.model.is_some(), sources)? {
        Some(declared) => Ok(declared),
        None => config_of(engine.encoder(settings.model.as_deref())?.info(), args, sources),
    }
}

/// What the sources say, if no model is needed for them. `is_named`: one is given that is taken where no source says what made it.
fn declared(args: &IngestArgs, is_named: bool, sources: &Sources) -> Result<Option<CollectionConfig>, Usage> {
    let declared = sources.declared(is_named);
    match declared.is_some() && args.tokens.is_some() {
        true => Err(given_tokens()),
        false => Ok(declared),
    }
}

fn config_of(model: &ModelInfo, args: &IngestArgs, sources: &Sources) -> anyhow::Result<CollectionConfig> {
    let mut config = engine::collection_config(model, Default::default(), HnswConfig::default(), args.tokens)?;
    sources.add_to(&mut config, model.dim);
    Ok(config)
}

/// Embeddings were made by a model: if one is named, it must be that one.
fn check_model(named: Option<&ModelInfo>, sources: &Sources) -> Result<(), Usage> {
    let Some(ModelInfo { name, hash, .. }) = named else { return Ok(()) };
    match sources.open.iter().filter_map(|source| source.model.as_ref()).find(|made| made.hash != *hash) {
        None => Ok(()),
        Some(made) => Err(Usage(format!(
            "--model {name} ({hash}): these embeddings were made by {} ({}); hint: leave --model out, or embed again with it",
            made.name, made.hash
        ))),
    }
}

/// A collection that is there has a model of its own: if one is named, it must be that one.
fn check_own_model(named: Option<&ModelInfo>, config: &CollectionConfig) -> Result<(), engine::Error> {
    match (named, &config.model) {
        (Some(named), Some(own)) if named.hash != own.hash => Err(engine::Error::ModelMismatch {
            expected_name: own.name.clone(),
            expected_hash: own.hash.clone(),
            received_name: named.name.clone(),
            received_hash: named.hash.clone(),
        }),
        _ => Ok(()),
    }
}

/// A collection that is there keeps the tokens it was made with. A grid says nothing of those of texts.
fn check_tokens(args: &IngestArgs, config: &CollectionConfig) -> Result<(), Usage> {
    let Some(grid) = args.tokens else { return Ok(()) };
    if config.tokens.is_empty() {
        return Err(Usage("this collection keeps no tokens; hint: make a new one with --tokens".to_owned()));
    }
    match config.tokens.get(IMAGE_VECTOR) {
        Some(kept) if kept.n != grid.cells() * grid.cells() => Err(Usage(format!(
            "this collection keeps image tokens {kept}; hint: leave --tokens out, or make a new one with it"
        ))),
        _ => Ok(()),
    }
}

fn given_tokens() -> Usage {
    Usage(
        "--tokens are made by a model, and these sources bring their vectors: their tokens are kept as they are".into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_did_all_says_so() {
        let failed = || RunError::Sink("the disk is full".into());
        let stopped = Report { interrupted: true, ..Report::default() };
        assert!(is_all_written(&Report::default(), &Ok(())));
        assert!(!is_all_written(&Report::default(), &Err(failed())));
        assert!(!is_all_written(&stopped, &Ok(())));
    }

    #[test]
    fn only_what_can_go_on_says_so() {
        let is_told = |error: RunError| {
            let settings = Settings { json: true, ..Settings::resolve(&Default::default()).unwrap() };
            let sources = Sources::open(&[], &SourceOptions::default());
            let (_, ended) = end(sources, Report::default(), Err(error), &settings);
            ended.unwrap_err().is::<exit::Unfinished>()
        };
        let refused = |code| {
            let (reason, message) = ("R".to_owned(), "m".to_owned());
            let error = firn_client::Error { code, reason, message, fields: Vec::new(), retry_after: None };
            is_told(RunError::Sink(error.into()))
        };
        let full = IndexError::DiskFull { path: "d".into(), free: 0, needed: 1 };
        assert!(is_told(RunError::Sink(full.into())));
        assert!(refused(tonic::Code::Unavailable) && !refused(tonic::Code::InvalidArgument));
    }
}
