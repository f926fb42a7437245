//! `firn eval`: published retrieval benchmarks, through the database, with a report.

mod fill;
mod reranker;
mod reuse;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use firn_eval::{
    measures, readers,
    report::{self, Report},
    results::{Results, Stage},
    trec,
};
use firn_index::Limits;

use self::fill::Filled;
use super::table;
use crate::{
    eval::{self, Network, Ways},
    exit::{Exit, Usage},
    query,
    settings::Settings,
};

/// What is asked for where everything that is there is run.
const ALL: &str = "all";
/// What is asked for where a collection of one's own is the data set.
const COLLECTION: &str = "collection";
/// Where embeddings and reports are kept.
const HOME: &str = "firn-eval";

/// Run a retrieval benchmark through the database: ingest, index, search, re-rank, and a report
///
/// Embeddings are kept, so the same command goes on where it was stopped, and a repeated one only asks.
///
/// Example: firn eval urban1k --data Urban1k/ --model hf:openai/clip-vit-base-patch16
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_long_help = ABOUT)]
pub struct EvalArgs {
    #[command(subcommand)]
    other: Option<Other>,
    /// A data set that `firn eval list` names; `all` for those under --data; `collection` for the points of one's own
    #[arg(required = true, value_name = "DATASET")]
    what: Option<String>,
    #[command(flatten)]
    run: RunArgs,
}

const ABOUT: &str = "\
The report is written as report.html, report.md and results.json, the ranks of each question as questions.jsonl.
Exact search and the index are measured side by side; where texts look for texts, so are words alone (BM25) and words with the index,
by ranks and by scores; with --reranker, so is each number of candidates.";

#[derive(Debug, clap::Subcommand)]
enum Other {
    /// Name the data sets, their protocols, and what is expected of their files
    ///
    /// Example: firn eval list
    List,
    /// Compare two runs question by question: paired bootstrap over documents
    ///
    /// Example: firn eval compare firn-eval/urban1k-first-line firn-eval/urban1k-other
    Compare {
        /// Folders of reports
        #[arg(num_args = 2, required = true, value_names = ["A", "B"])]
        runs: Vec<PathBuf>,
        /// A way to answer that both have [default: the last of each]
        #[arg(long, value_name = "METHOD")]
        method: Option<String>,
    },
    /// Measure a TREC run as trec_eval does
    ///
    /// Example: firn eval trec qrels.txt run.txt
    Trec {
        qrels: PathBuf,
        run: PathBuf,
        /// Print the measures of each topic too
        #[arg(long)]
        each: bool,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct RunArgs {
    /// The folder, or the file, that was downloaded; of `all`, a folder with a sub-folder for each data set, by its name
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Which of the published ways to read it [default: the first that `firn eval list` names]
    #[arg(long, value_name = "NAME")]
    protocol: Option<String>,
    /// Where the pictures are, if not where the data set has them
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Only texts in this language; may be repeated
    #[arg(long, value_name = "LANGUAGE")]
    language: Vec<String>,
    /// Ask with all texts of a document and language in one too
    #[arg(long)]
    joined: bool,
    /// Judge by this TREC file, whose grades nDCG knows, instead of by which text came with which document
    #[arg(long, value_name = "FILE")]
    qrels: Option<PathBuf>,
    /// Re-rank by this network: COLLECTION, or COLLECTION@VERSION, of the data directory, or `builtin`; of `collection`, VERSION
    #[arg(long, value_name = "NETWORK")]
    reranker: Option<String>,
    /// So many of the first answers are re-ranked; several with commas [default: as the network was judged]
    #[arg(long, value_name = "N", value_delimiter = ',', requires = "reranker", value_parser = clap::value_parser!(u32).range(2..=query::Limits::MAX_RERANKED as i64))]
    candidates: Vec<u32>,
    /// Answers of each question that are looked at
    #[arg(long, default_value_t = Ways::DEFAULT_DEPTH as u32, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=Limits::MAX_LIMIT as i64))]
    depth: u32,
    /// Width of the search in the index, which is asked for as many answers
    #[arg(long, default_value_t = Limits::DEFAULT_EF_SEARCH as u32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=Limits::MAX_EF_SEARCH as i64))]
    ef: u32,
    /// How much words count beside vectors where texts look for texts, above 0 and below 1
    #[arg(long, default_value_t = query::Limits::DEFAULT_WORDS_WEIGHT, value_name = "SHARE", value_parser = share)]
    words_weight: f32,
    /// Embeddings of the documents instead of a model: .npy, with the documents' ids, one a line, in FILE.ids.txt (or a list in
    /// FILE.ids.json)
    #[arg(long, value_name = "FILE.npy", requires = "query_vectors")]
    document_vectors: Option<PathBuf>,
    /// Embeddings of the queries, with ids beside them: DOCUMENT#1 is the first text of a document, DOCUMENT#de#1 where languages
    /// differ
    #[arg(long, value_name = "FILE.npy", requires = "document_vectors")]
    query_vectors: Option<PathBuf>,
    /// Of `collection`: its name, or an alias
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Of `collection`: the field of the payload that says train, or anything else for points that are asked; where it is not there, a
    /// tenth is [default: split; with --reranker, as the network was parted]
    #[arg(long, requires = "collection", value_name = "FIELD")]
    split: Option<String>,
    /// Where the report is written [default: firn-eval/DATASET-PROTOCOL, then what asks: the model, the network, languages]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where embeddings are kept for the next run
    #[arg(long, default_value = "firn-eval/cache", value_name = "DIR")]
    cache: PathBuf,
    /// Write judgements and rankings as TREC files too, into the folder of the report
    #[arg(long)]
    trec: bool,
}

pub fn run(args: &EvalArgs, settings: &Settings) -> anyhow::Result<Exit> {
    match (&args.other, args.what.as_deref()) {
        (Some(Other::List), _) => list(settings),
        (Some(Other::Compare { runs, method }), _) => compare(runs, method.as_deref(), settings),
        (Some(Other::Trec { qrels, run, each }), _) => measure(qrels, run, *each, settings),
        (None, Some(ALL)) => all(&args.run, settings),
        (None, what) => {
            print!("{}", one(what.unwrap_or_default(), &args.run, settings)?);
            Ok(Exit::Ok)
        }
    }
}

fn list(settings: &Settings) -> anyhow::Result<Exit> {
    let sets = readers::data_sets();
    if settings.json {
        let protocols = |set: &readers::DataSet| -> Vec<_> {
            set.protocols.iter().map(|p| serde_json::json!({ "name": p.name, "about": p.about })).collect()
        };
        let sets = sets
            .iter()
            .map(|set| serde_json::json!({ "name": set.name, "about": set.about, "protocols": protocols(set) }));
        println!("{}", serde_json::Value::from_iter(sets));
        return Ok(Exit::Ok);
    }
    for set in sets {
        println!("{:<12} {}", set.name, set.about);
        for (at, protocol) in set.protocols.iter().enumerate() {
            let default = if at == 0 && set.protocols.len() > 1 { " (default)" } else { "" };
            println!("  {:<14} {}{default}", protocol.name, protocol.about);
        }
    }
    println!("{COLLECTION:<12} the points of a collection that no network learns from, and their texts");
    Ok(Exit::Ok)
}

fn compare(runs: &[PathBuf], method: Option<&str>, settings: &Settings) -> anyhow::Result<Exit> {
    let read = |at: usize| report::read(&runs[at]).with_context(|| runs[at].display().to_string());
    let (one, two) = (read(0)?, read(1)?);
    let chosen = |results: &Results| -> Result<usize, Usage> {
        let name = method.or(results.methods.last().map(String::as_str)).unwrap_or_default();
        let found = results.methods.iter().position(|known| known == name);
        found.ok_or_else(|| {
            Usage(format!("--method: expected one of {}, received {name:?}", results.methods.join(", ")))
        })
    };
    let names = [0, 1].map(|at| runs[at].display().to_string());
    let of_runs = [
        report::Run { name: &names[0], results: &one, method: chosen(&one)? },
        report::Run { name: &names[1], results: &two, method: chosen(&two)? },
    ];
    let said = report::compared(of_runs).map_err(Usage)?;
    if settings.json {
        let [one, two] = of_runs.map(|run| (run.results.questions.as_slice(), run.method));
        println!("{}", serde_json::to_string(&measures::compare(one, two).map_err(Usage)?)?);
    } else {
        print!("{said}");
    }
    Ok(Exit::Ok)
}

fn measure(qrels: &Path, run: &Path, each: bool, settings: &Settings) -> anyhow::Result<Exit> {
    let (qrels, run) = (trec::read_qrels(qrels)?, trec::read_run(run)?);
    let (of_topic, all) = trec::measures(&qrels, &run);
    if of_topic.is_empty() {
        return Err(Usage("expected topics that are judged and ranked, received none".to_owned()).into());
    }
    if settings.json {
        let values = |measures: &[trec::Measure]| -> BTreeMap<String, f64> {
            measures.iter().map(|measure| (measure.name.clone(), measure.value)).collect()
        };
        let topics: BTreeMap<&String, _> = of_topic.iter().map(|(topic, found)| (topic, values(found))).collect();
        let topics = each.then_some(topics);
        println!("{}", serde_json::json!({ "all": values(&all), "topics": topics }));
        return Ok(Exit::Ok);
    }
    if each {
        of_topic.iter().for_each(|(topic, found)| print!("{}", trec::printed(found, &table::printable(topic))));
    }
    print!("{}", trec::printed(&all, "all"));
    Ok(Exit::Ok)
}

/// Each data set that is there; one that fails does not stop the others.
fn all(args: &RunArgs, settings: &Settings) -> anyhow::Result<Exit> {
    for (flag, is_given) in [
        ("--protocol", args.protocol.is_some()),
        ("--images", args.images.is_some()),
        ("--qrels", args.qrels.is_some()),
        ("--document-vectors", args.document_vectors.is_some()),
        ("--collection", args.collection.is_some()),
    ] {
        Usage::unless(!is_given, || format!("{flag} is of one data set; `firn eval {ALL}` runs several"))?;
    }
    let root = args.data.as_ref().ok_or_else(|| Usage(format!("{ALL}: expected --data, a folder with data sets")))?;
    let found = readers::find_in(root)?;
    if found.is_empty() {
        let names: Vec<&str> = readers::data_sets().iter().map(|set| set.name).collect();
        let (root, names) = (root.display(), names.join(", "));
        return Err(Usage(format!("{root}: expected a folder named as one of {names}, received none")).into());
    }
    let unknown = readers::unknown_in(root)?;
    if !unknown.is_empty() {
        eprintln!("note: no data sets by their names: {}", table::printable(&unknown.join(", ")));
    }
    let (mut done, mut failed) = (serde_json::Map::new(), Vec::new());
    for (name, path) in found {
        eprintln!("{name}:");
        let out = args.out.as_ref().map(|out| out.join(name));
        let args = RunArgs { data: Some(path), out, protocol: None, ..args.clone() };
        match one(name, &args, settings) {
            Ok(said) if settings.json => drop(done.insert(name.to_owned(), serde_json::from_str(&said)?)),
            Ok(said) => {
                print!("{said}");
                done.insert(name.to_owned(), serde_json::Value::Null);
            }
            Err(error) => {
                eprintln!("error: {name}: {}", table::printable(&format!("{error:#}")));
                failed.push(name);
            }
        }
    }
    let n_done = done.len();
    if settings.json {
        println!("{}", serde_json::Value::Object(done));
    }
    match failed.is_empty() {
        true => Ok(Exit::Ok),
        false if n_done == 0 => anyhow::bail!("none of the data sets could be run: {}", failed.join(", ")),
        false => {
            eprintln!("{n_done} data sets were run, these could not: {}", failed.join(", "));
            Ok(Exit::Partial)
        }
    }
}

/// Runs one data set, writes its report and gives what is printed of it.
fn one(name: &str, args: &RunArgs, settings: &Settings) -> anyhow::Result<String> {
    let names: Vec<&str> = readers::data_sets().iter().map(|set| set.name).chain([COLLECTION, ALL]).collect();
    Usage::unless(names.contains(&name), || format!("expected one of {}, received {name:?}", names.join(", ")))?;
    let network = args.reranker.as_deref().map(|which| reranker::open(which, name == COLLECTION, args, settings));
    let network = network.transpose()?;
    let start = Instant::now();
    let filled = match name {
        COLLECTION => fill::of_collection(args, network.as_ref(), settings)?,
        _ => fill::of_files(name, args, network.as_ref(), settings)?,
    };
    let Filled { engine, data, store, n } = &filled;
    data.notes.iter().for_each(|note| eprintln!("note: {}", table::printable(note)));
    let stored = Stage { name: "embed and index".to_owned(), seconds: start.elapsed().as_secs_f64(), n: *n };
    let out = args.out.clone().unwrap_or_else(|| Path::new(HOME).join(folder_of(name, &data.protocol, args, settings)));
    let ways = ways(args, network.as_ref(), out.join("trec"));
    let mut shown = Shown::new();
    let mut results = eval::run(data, store, (network.as_ref(), &ways), &mut |done, all| shown.take(done, all))?;
    shown.bar.finish_and_clear();
    results.stages.insert(0, stored);
    anyhow::ensure!(!results.questions.is_empty(), "{}: no text belongs to a document", data.name);
    let report = Report::of(&results);
    report.write(&out).with_context(|| out.display().to_string())?;
    engine.db().close()?;
    eprintln!("the report is in {}", out.join("report.html").display());
    Ok(if settings.json { format!("{}\n", report.json()) } else { report.table() })
}

/// How many questions are asked: a bar at a terminal, else a line every few seconds.
struct Shown {
    bar: indicatif::ProgressBar,
    told: Instant,
}

impl Shown {
    const LINE_EVERY: Duration = Duration::from_secs(5);

    fn new() -> Shown {
        Shown { bar: indicatif::ProgressBar::new(0), told: Instant::now() }
    }

    fn take(&mut self, done: usize, all: usize) {
        self.bar.set_length(all as u64);
        self.bar.set_position(done as u64);
        if self.bar.is_hidden() && self.told.elapsed() > Shown::LINE_EVERY {
            eprintln!("{done} of {all} questions asked");
            self.told = Instant::now();
        }
    }
}

fn share(text: &str) -> Result<f32, String> {
    let inside = |share: &f32| *share > 0.0 && *share < 1.0;
    text.parse().ok().filter(inside).ok_or_else(|| "expected a number above 0 and below 1".to_owned())
}

fn ways(args: &RunArgs, network: Option<&Network>, trec: PathBuf) -> Ways {
    let mut candidates: Vec<usize> = args.candidates.iter().map(|&n| n as usize).collect();
    if let (Some(network), true) = (network, candidates.is_empty()) {
        candidates.push(network.reranker.version.candidates);
    }
    candidates.sort_unstable();
    candidates.dedup();
    let depth = candidates.last().copied().unwrap_or(0).max(args.depth as usize);
    Ways { words_weight: args.words_weight, depth, ef: args.ef as usize, candidates, trec: args.trec.then_some(trec) }
}

/// A run of something else gets another folder.
fn folder_of(name: &str, protocol: &str, args: &RunArgs, settings: &Settings) -> String {
    let mut parts = vec![name.to_owned(), protocol.to_owned()];
    if args.document_vectors.is_some() {
        parts.push("vectors".to_owned());
    } else if name != COLLECTION {
        let model = settings.model_or_default();
        let short = Path::new(model).file_name().map_or(model.into(), |name| name.to_string_lossy());
        parts.push(short.into_owned());
    }
    parts.extend(args.reranker.clone());
    parts.extend(args.language.iter().cloned());
    parts.extend(args.qrels.as_ref().map(|_| "judged".to_owned()));
    slug(&parts.join("-"))
}

/// A name as a folder's: letters, digits and a few marks.
fn slug(name: &str) -> String {
    let kept = |letter: char| if letter.is_alphanumeric() || "-_.".contains(letter) { letter } else { '_' };
    name.chars().map(kept).take(100).collect()
}
