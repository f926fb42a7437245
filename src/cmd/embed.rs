//! `firn embed`: what a model makes of a source, as files; the model is not needed to ingest them.
//!
//! Exit codes as of `firn ingest`. The same command goes on where a stopped one was, and a repeated one changes
//! nothing but shards that were damaged: those it makes again.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use firn_index::{CollectionConfig, HnswConfig, ModelRef};
use firn_ingest::{
    embeddings::Manifest,
    identity::IdFrom,
    journal::Journal,
    pipeline::{self, Job, RunError},
    report::{Report, Watch},
    shards::{self, ShardSink},
    source::SourceOptions,
};
use firn_model::{Encoder, Grid};

use super::{
    ingest::{self, progress::Bar, signals, sources::Sources},
    table::{counted, printable},
};
use crate::{
    engine,
    exit::{Exit, Usage},
    settings::Settings,
};

/// What one run at a time has.
const JOURNAL: &str = "embeddings.journal";

/// Write what a model makes of files as shards of safetensors, to be ingested without the model
///
/// Example: firn embed holiday-photos/ --out embeddings/ --model builtin --tokens 4x4
#[derive(Debug, clap::Args)]
pub struct EmbedArgs {
    /// Sources, as of `firn ingest`
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// The folder to write to, or to go on in; `firn ingest DIR` reads it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Make the tokens for fusion too, those of images in this grid [default: none]
    #[arg(long, value_name = "4x4|7x7")]
    tokens: Option<Grid>,
    /// Most rows of a shard; one also ends at 64 MiB
    #[arg(long, value_name = "N", default_value_t = shards::DEFAULT_SHARD_ROWS as u32, value_parser = clap::value_parser!(u32).range(shards::MIN_SHARD_ROWS as i64..=shards::MAX_SHARD_ROWS as i64))]
    shard_rows: u32,
    /// Where the pictures of JSON Lines and CSV are: a folder or a .tar; without an `image` field, by id, if there is one
    #[arg(long, value_name = "DIR|TAR")]
    images: Option<PathBuf>,
    /// Give these sources up, if they are not done: the folder is complete without them, and keeps the rows it has of them
    #[arg(long, conflicts_with_all = ["tokens", "images"])]
    forget: bool,
    /// Where the id of an item without one comes from
    #[arg(long, value_name = "content|path", default_value = "content", value_parser = ingest::id_from)]
    id_from: IdFrom,
}

pub fn run(args: &EmbedArgs, settings: &Settings) -> anyhow::Result<Exit> {
    if args.forget {
        return forget(args, settings);
    }
    let options = SourceOptions { images: args.images.clone(), ..SourceOptions::default() };
    let mut sources = Sources::open(&args.sources, &options);
    let (report, result) = match sources.have_items() {
        true => write(args, settings, &mut sources)?,
        false => (sources.without_items(&args.out.display().to_string()), Ok(())),
    };
    ingest::end(sources, report, result, settings).1
}

/// Takes sources that are not done out of the manifest. They may be gone from where they were.
fn forget(args: &EmbedArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let folder = args.out.display();
    let none = || Usage(format!("no embeddings at {folder}"));
    Manifest::read(&args.out)?.ok_or_else(none)?;
    // Another run that goes on has the journal, and would write its own manifest over this one.
    let _journal = Journal::lock(&args.out.join(JOURNAL))?;
    let mut manifest = Manifest::read(&args.out)?.ok_or_else(none)?;
    for source in &args.sources {
        let name = full_name(source);
        if !manifest.forget(&name) {
            let undone = match manifest.undone().join(", ") {
                undone if undone.is_empty() => "all of its sources are done".to_owned(),
                undone => format!("not done: {undone}"),
            };
            return Err(Usage(format!("{folder} waits for no source {name}; hint: {undone}")).into());
        }
    }
    manifest.write(&args.out).with_context(|| folder.to_string())?;
    match settings.json {
        true => println!("{}", serde_json::json!({ "complete": manifest.complete, "undone": manifest.undone() })),
        false if manifest.complete => eprintln!("{folder} is complete: {}", counted(manifest.rows(), "row")),
        false => say_undone(&manifest.undone()),
    }
    Ok(Exit::Ok)
}

fn say_undone(undone: &[&str]) {
    eprintln!("these embeddings are not complete, not done: {}", printable(&undone.join(", ")));
    eprintln!("hint: the same command goes on; a source that is given up: `firn embed SOURCE --out DIR --forget`");
}

fn write(
    args: &EmbedArgs,
    settings: &Settings,
    sources: &mut Sources,
) -> anyhow::Result<(Report, Result<(), RunError>)> {
    let encoder = firn_model::load(settings.model_or_default(), settings.device)?;
    let config = engine::collection_config(encoder.info(), Default::default(), HnswConfig::default(), args.tokens)?;
    let model = config.model.clone().expect("the configuration is that of an encoder");
    sources.check(&config);
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let journal = Journal::lock(&args.out.join(JOURNAL))?;
    let (mut sink, job) = begin(args, sources, encoder, (model, config), journal)?;
    let bar = Bar::new(settings.json);
    let _signals = signals::stop(job.stop.clone(), &bar);
    let (report, result) = ingest::watched(job, &bar, &mut sink);
    if ingest::is_all_written(&report, &result) && !sources.are_refused() {
        sink.complete().with_context(|| args.out.display().to_string())?;
    }
    if !sink.undone().is_empty() {
        say_undone(&sink.undone());
    }
    Ok((report, result))
}

/// A source by its full path: another one of the same name, from another folder, is not taken for it.
fn full_name(path: &Path) -> String {
    let full = fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    full.unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn begin(
    args: &EmbedArgs,
    sources: &mut Sources,
    encoder: Arc<dyn Encoder>,
    (model, config): (ModelRef, CollectionConfig),
    mut journal: Journal,
) -> anyhow::Result<(ShardSink, Job)> {
    let decoder = encoder.decoder().map(str::to_owned);
    let mut sink = ShardSink::open(&args.out, model, decoder, &config, args.shard_rows as usize)?;
    for damage in sink.damage() {
        eprintln!("damaged, its points are embedded again: {}", printable(damage));
    }
    let written = sink.tell(&mut journal)?;
    let sources = std::mem::take(&mut sources.open);
    sink.begin(sources.iter().map(|source| full_name(&source.path)).collect())
        .with_context(|| args.out.display().to_string())?;
    let job = Job {
        collection: args.out.display().to_string(),
        config,
        watch: Watch::new(sources.iter().map(|source| source.progress.clone()).collect()),
        sources,
        encoders: vec![encoder],
        journal_path: journal.path().to_owned(),
        journal,
        written,
        id_from: args.id_from,
        batch: pipeline::DEFAULT_BATCH,
        bytes_in_flight: pipeline::DEFAULT_BYTES_IN_FLIGHT,
        stop: Arc::default(),
    };
    Ok((sink, job))
}
