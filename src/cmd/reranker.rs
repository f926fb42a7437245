//! `firn reranker`: the networks that are kept with a collection, what they are worth, and which of them queries use.

use std::path::{Path, PathBuf};

use firn_index::Collection;
use firn_model::fusion::Direction;

use super::{local, table, train::Show};
use crate::{
    engine::Engine,
    exit::Exit,
    reranker::{self, BUILTIN, Judged, Length, Package, Stage, State, Version},
    settings::Settings,
};

/// List, judge and switch the networks that re-rank what a collection finds
#[derive(Debug, clap::Subcommand)]
pub enum RerankerCommand {
    /// List the networks of a collection
    ///
    /// Example: firn reranker list photos
    List { collection: String },
    /// Print all that is known of one network
    ///
    /// Example: firn reranker show photos 2
    Show {
        collection: String,
        #[arg(value_name = "VERSION")]
        number: u32,
    },
    /// Judge a network anew on the points that it has not learnt from, as they are now
    ///
    /// The collection has to be parted as it was in training.
    ///
    /// Example: firn reranker evaluate photos 2
    Evaluate(Box<EvaluateArgs>),
    /// Let queries use a network
    ///
    /// Refused if it is not significantly better than cosine.
    ///
    /// Example: firn reranker activate photos 2
    Activate {
        collection: String,
        #[arg(value_name = "VERSION")]
        number: u32,
        /// Activate it nevertheless
        #[arg(long)]
        force: bool,
    },
    /// Let queries use what they used before: another network, or plain cosine
    ///
    /// Example: firn reranker rollback photos
    Rollback { collection: String },
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
}

pub fn run(command: &RerankerCommand, settings: &Settings) -> anyhow::Result<Exit> {
    let engine = local::existing_engine(settings)?;
    let open = |name: &str| engine.db().collection(name);
    match command {
        RerankerCommand::List { collection } => print_list(&State::of(&open(collection)?)?, settings)?,
        RerankerCommand::Show { collection, number } => {
            let state = State::of(&open(collection)?)?;
            print(state.version(*number)?, state.active, settings)?;
        }
        RerankerCommand::Evaluate(args) => evaluate(&engine, &open(&args.collection)?, args, settings)?,
        RerankerCommand::Activate { collection, number, force } => {
            let collection = open(collection)?;
            say_active(&State::of(&collection)?.activate(&collection, *number, *force)?, settings);
        }
        RerankerCommand::Rollback { collection } => {
            let collection = open(collection)?;
            say_active(&State::of(&collection)?.roll_back(&collection)?, settings);
        }
        RerankerCommand::Export { collection, number, out } => {
            Package::of(&open(collection)?, *number)?.write(out)?;
            eprintln!("written: {}, {}", out.display(), out.with_extension("json").display());
        }
        RerankerCommand::Import { collection, from } => {
            let package = if from == Path::new(BUILTIN) { Package::builtin() } else { Package::read(from)? };
            let collection = open(collection)?;
            let version = package.add(&engine, &collection, from)?;
            print(&version, engine.rerankers().state(&collection)?.active, settings)?;
        }
    }
    Ok(Exit::Ok)
}

fn evaluate(engine: &Engine, collection: &Collection, args: &EvaluateArgs, settings: &Settings) -> anyhow::Result<()> {
    let mut show = Show::new();
    let report = &mut |stage: Stage| show.take(&stage);
    let version = reranker::evaluate(engine, collection, (args.number, args.seed), settings.device, report)?;
    show.end();
    let version = version.expect("nothing breaks it off");
    print(&version, engine.rerankers().state(collection)?.active, settings)
}

fn say_active(state: &State, settings: &Settings) {
    match (settings.json, state.active) {
        (true, active) => println!("{}", serde_json::json!({ "active": active })),
        (false, Some(number)) => println!("version {number} is active"),
        (false, None) => println!("no version is active: hits are ordered by cosine"),
    }
}

fn print_list(state: &State, settings: &Settings) -> anyhow::Result<()> {
    if settings.json {
        println!("{}", serde_json::to_string(state)?);
        return Ok(());
    }
    if state.versions.is_empty() {
        println!("no networks; hint: firn train fusion makes one");
        return Ok(());
    }
    let row = |version: &Version| {
        let active = if state.active == Some(version.number) { "active" } else { "" };
        let Version { number, parameters, .. } = version;
        vec![
            number.to_string(),
            kind_in_words(version),
            parameters.to_string(),
            active.to_owned(),
            version.gain_in_words(),
        ]
    };
    let rows: Vec<Vec<String>> = state.versions.iter().map(row).collect();
    table::print(&["VERSION", "KIND", "WEIGHTS", "", "GAIN"], &rows);
    Ok(())
}

/// One version with the verdict on it.
pub fn print(version: &Version, active: Option<u32>, settings: &Settings) -> anyhow::Result<()> {
    let is_active = active == Some(version.number);
    if settings.json {
        println!("{}", serde_json::json!({ "version": version, "active": is_active }));
        return Ok(());
    }
    let Version { number, parameters, seed, steps, reads, blend, candidates, weights, .. } = version;
    let of_blend: Vec<String> = blend.iter().map(|(name, weight)| format!("{name} {weight}")).collect();
    let mut read = vec![format!("{:?}", reads.image)];
    read.extend(reads.tokens.then(|| "its tokens".to_owned()));
    read.extend(reads.extra.as_ref().map(|extra| format!("{extra:?}")));
    println!(
        "version {number}{}: {}, {parameters} weights, seed {seed}, {steps} steps",
        if is_active { " (active)" } else { "" },
        kind_in_words(version)
    );
    println!("reads {}; re-ranks the first {candidates} by cosine of {}", read.join(", "), of_blend.join(" + "));
    println!("a logit counts {} when texts look for images, {} when images look for texts\n", weights[0], weights[1]);
    let rows: Vec<Vec<String>> = version.judged.iter().map(judged_row).collect();
    table::print(&["QUESTIONS", "N", "R@1", "R@5", "R@10", "MRR", "nDCG@10", "GAIN IN R@1 (95 %), P"], &rows);
    if let Some(calibration) = &version.calibration {
        println!(
            "\nrelevance is off by {:.1} points on average (expected calibration error)",
            100.0 * calibration.error
        );
    }
    Ok(())
}

/// Such as "3 x mlp+facet-fusion-1way".
fn kind_in_words(version: &Version) -> String {
    match version.members {
        0 | 1 => version.kind.clone(),
        n => format!("{n} x {}", version.kind),
    }
}

fn judged_row(judged: &Judged) -> Vec<String> {
    let Judged { direction, language, length, gain } = judged;
    let language = if language.is_empty() { "all" } else { language };
    let what = match (direction, length) {
        (Direction::TextToImage, Length::Single) => format!("text to image, {language}"),
        (Direction::TextToImage, Length::Joined) => format!("joined text to image, {language}"),
        (Direction::ImageToText, _) => format!("image to text, {language}"),
    };
    let (before, after) = (&gain.cosine, &gain.reranked);
    let both = |before: f64, after: f64| format!("{:.1} > {:.1}", 100.0 * before, 100.0 * after);
    let [low, high] = gain.interval.map(|share| 100.0 * share);
    let points = 100.0 * (after.at_1 - before.at_1);
    let relative = if before.at_1 > 0.0 { format!("{:+.1} %", points / before.at_1) } else { "-".to_owned() };
    vec![
        what,
        gain.n_questions.to_string(),
        both(before.at_1, after.at_1),
        both(before.at_5, after.at_5),
        both(before.at_10, after.at_10),
        both(before.mrr, after.mrr),
        both(before.ndcg, after.ndcg),
        format!("{points:+.2} ({low:+.2} to {high:+.2}), {relative}, p {:.3}", gain.p),
    ]
}
