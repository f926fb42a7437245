//! `firn reranker`: the networks that are kept with a collection, what they are worth, and which of them queries use.

mod shown;

pub use self::shown::{Shown, print};

use std::path::{Path, PathBuf};

use self::shown::{print_list, say_active};
use super::{collection::TargetArgs, local, remote, train::Show};
use crate::{
    engine::Engine,
    exit::Exit,
    reranker::{self, BUILTIN, Judging, Package, Stage, State},
    settings::{self, Settings},
};

/// List, judge and switch the networks that re-rank what a collection finds
#[derive(Debug, clap::Subcommand)]
pub enum RerankerCommand {
    /// List the networks of a collection
    ///
    /// Example: firn reranker list photos
    List {
        collection: String,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Print all that is known of one network
    ///
    /// Example: firn reranker show photos 2
    Show {
        collection: String,
        #[arg(value_name = "VERSION")]
        number: u32,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Judge a network anew on the points that it has not learnt from, as they are now
    ///
    /// The verdict, and with it what logit and hubness count and what `relevance` says, takes the place of the one before, also of the
    /// active network. The collection has to be parted as it was in training.
    ///
    /// Example: firn reranker evaluate photos 2
    Evaluate(Box<EvaluateArgs>),
    /// Let queries use a network
    ///
    /// Refused if it is not significantly better than cosine, if images find fewer of their texts by it, or if it was judged in another
    /// collection.
    ///
    /// Example: firn reranker activate photos 2
    Activate {
        collection: String,
        #[arg(value_name = "VERSION")]
        number: u32,
        /// Activate it nevertheless
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Let queries use what they used before: another network, or plain cosine
    ///
    /// Example: firn reranker rollback photos
    Rollback {
        collection: String,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Write a network to x.safetensors, and what is known of it to x.json
    ///
    /// Example: firn reranker export photos 2 --out photos.safetensors
    Export {
        collection: String,
        #[arg(value_name = "VERSION")]
        number: u32,
        #[arg(long, value_name = "FILE.safetensors", value_parser = safetensors)]
        out: PathBuf,
    },
    /// Keep a network that was exported, or `builtin`, with a collection of the same model
    ///
    /// Example: firn reranker import samples builtin
    Import {
        collection: String,
        #[arg(value_name = "FILE.safetensors|builtin", value_parser = package)]
        from: PathBuf,
    },
}

fn safetensors(path: &str) -> Result<PathBuf, String> {
    let is_so = Path::new(path).extension().is_some_and(|extension| extension == "safetensors");
    is_so.then(|| path.into()).ok_or_else(|| "expected a name that ends in .safetensors".to_owned())
}

fn package(name: &str) -> Result<PathBuf, String> {
    if name == BUILTIN { Ok(name.into()) } else { safetensors(name) }
}

#[derive(Debug, clap::Args)]
pub struct EvaluateArgs {
    collection: String,
    #[arg(value_name = "VERSION")]
    number: u32,
    /// Decides the folds of the judgement
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only print the verdict: the version stays as it was
    #[arg(long)]
    report_only: bool,
    #[command(flatten)]
    target: TargetArgs,
}

impl EvaluateArgs {
    fn judging(&self) -> Judging {
        Judging { number: self.number, seed: self.seed, keep: !self.report_only }
    }
}

pub fn run(command: &RerankerCommand, settings: &Settings) -> anyhow::Result<Exit> {
    let target = match command {
        RerankerCommand::List { target, .. }
        | RerankerCommand::Show { target, .. }
        | RerankerCommand::Activate { target, .. }
        | RerankerCommand::Rollback { target, .. } => Some(target),
        RerankerCommand::Evaluate(args) => Some(&args.target),
        // Files are of here.
        RerankerCommand::Export { .. } | RerankerCommand::Import { .. } => None,
    };
    let server = target.map(|target| settings.server(target.server.as_deref(), &settings::OF_HERE_AND_MODEL));
    match server.transpose()?.flatten() {
        Some(server) => at_server(&server, command, settings)?,
        None => here(command, settings)?,
    }
    Ok(Exit::Ok)
}

fn here(command: &RerankerCommand, settings: &Settings) -> anyhow::Result<()> {
    let engine = local::existing_engine(settings)?;
    let open = |name: &str| engine.db().collection(name);
    match command {
        RerankerCommand::List { collection, .. } => {
            let collection = open(collection)?;
            let state = State::of(&collection)?;
            let versions: Vec<Shown> = state.versions.iter().map(|version| Shown::of(version, &collection)).collect();
            print_list(&versions, state.active, settings);
        }
        RerankerCommand::Show { collection, number, .. } => {
            let collection = open(collection)?;
            let state = State::of(&collection)?;
            let version = Shown::of(state.version(*number)?, &collection);
            print(&version, state.active == Some(*number), settings);
        }
        RerankerCommand::Evaluate(args) => evaluate(&engine, args, settings)?,
        RerankerCommand::Activate { collection, number, force, .. } => {
            let collection = open(collection)?;
            say_active(State::of(&collection)?.activate(&collection, *number, *force)?.active, settings);
        }
        RerankerCommand::Rollback { collection, .. } => {
            let collection = open(collection)?;
            say_active(State::of(&collection)?.roll_back(&collection)?.active, settings);
        }
        RerankerCommand::Export { collection, number, out } => {
            Package::of(&open(collection)?, *number)?.write(out)?;
            eprintln!("written: {}, {}", out.display(), out.with_extension("json").display());
        }
        RerankerCommand::Import { collection, from } => {
            let package = if from == Path::new(BUILTIN) { Package::builtin() } else { Package::read(from)? };
            let collection = open(collection)?;
            let version = package.add(&engine, &collection, from)?;
            let active = engine.rerankers().state(&collection)?.active;
            print(&Shown::of(&version, &collection), active == Some(version.number), settings);
        }
    }
    Ok(())
}

fn at_server(server: &str, command: &RerankerCommand, settings: &Settings) -> anyhow::Result<()> {
    use remote::rerankers::{activate, evaluate, list, roll_back};
    match command {
        RerankerCommand::List { collection, .. } => {
            let (versions, active) = list(server, collection)?;
            print_list(&versions, active, settings);
        }
        RerankerCommand::Show { collection, number, .. } => {
            let (versions, active) = list(server, collection)?;
            let found = versions.iter().find(|version| version.number == *number);
            let version = found.ok_or_else(|| reranker::Error::UnknownVersion {
                received: *number,
                expected: versions.iter().map(|version| version.number).collect(),
            })?;
            print(version, active == Some(*number), settings);
        }
        RerankerCommand::Evaluate(args) => {
            let mut show = Show::new();
            let look = &mut |job: &_| show.look(job);
            let judged = evaluate(server, &args.collection, args.judging(), look)?;
            show.end();
            match judged {
                Some((version, is_active)) => print(&version, is_active, settings),
                None => anyhow::bail!("the job was cancelled; the verdict is as it was"),
            }
        }
        RerankerCommand::Activate { collection, number, force, .. } => {
            activate(server, collection, *number, *force)?;
            say_active(Some(*number), settings);
        }
        RerankerCommand::Rollback { collection, .. } => say_active(roll_back(server, collection)?, settings),
        RerankerCommand::Export { .. } | RerankerCommand::Import { .. } => here(command, settings)?,
    }
    Ok(())
}

fn evaluate(engine: &Engine, args: &EvaluateArgs, settings: &Settings) -> anyhow::Result<()> {
    let collection = engine.db().collection(&args.collection)?;
    let mut show = Show::new();
    let report = &mut |stage: Stage| show.take(&stage);
    let version = reranker::evaluate(engine, &collection, args.judging(), report)?;
    show.end();
    let version = version.expect("nothing breaks it off");
    let active = engine.rerankers().state(&collection)?.active;
    print(&Shown::of(&version, &collection), active == Some(version.number), settings);
    if args.report_only {
        eprintln!("only told: the version stays as it was");
    }
    Ok(())
}
