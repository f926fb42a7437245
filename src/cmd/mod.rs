//! The command line: one file per subcommand.

mod blend;
mod collection;
mod demo;
mod embed;
mod eval;
mod ingest;
mod local;
mod model;
mod query;
mod remote;
mod reranker;
mod serve;
mod table;
mod train;
mod upkeep;
mod vector_file;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, parser::ValueSource};

use crate::{
    exit,
    settings::{self, CommonArgs, Settings},
};

/// Finds pictures and long texts, in any language, by what they show and say.
#[derive(Parser)]
#[command(name = "firn", version, propagate_version = true, after_help = EXAMPLE)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "Example: firn demo";

#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Serve(serve::ServeArgs),
    Ingest(ingest::IngestArgs),
    Embed(embed::EmbedArgs),
    Query(query::QueryArgs),
    #[command(subcommand)]
    Collection(collection::CollectionCommand),
    Verify(upkeep::VerifyArgs),
    Rebuild(upkeep::RebuildArgs),
    #[command(subcommand)]
    Model(model::ModelCommand),
    Train(train::TrainArgs),
    #[command(subcommand)]
    Reranker(reranker::RerankerCommand),
    Eval(Box<eval::EvalArgs>),
}

/// Runs the program and prints its error, if any, once.
pub fn main() -> ExitCode {
    end_quietly_without_a_reader();
    let cli = parse();
    match Settings::resolve(&cli.common).map_err(anyhow::Error::from).and_then(|settings| run(cli.command, &settings)) {
        Ok(exit) => exit.into(),
        Err(error) => {
            report(&error);
            exit::code_of(&error).into()
        }
    }
}

/// What is said on the command line, and which of the common flags.
fn parse() -> Cli {
    let matches = Cli::command().get_matches();
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let is_given = |flag: &&str| matches.value_source(&flag.replace('-', "_")) == Some(ValueSource::CommandLine);
    cli.common.given = settings::OF_HERE_AND_MODEL.into_iter().filter(is_given).collect();
    cli
}

/// `firn ... | head` closes our standard output early, and `println!` answers that with a panic: the reader has had enough,
/// which is no fault. SIGPIPE stays ignored, because the server writes to sockets whose clients may be gone.
fn end_quietly_without_a_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.to_string();
        if said.contains("failed printing to stdout") && said.contains("Broken pipe") {
            std::process::exit(exit::Exit::Ok as i32);
        }
        usual(panic);
    }));
}

fn run(command: Command, settings: &Settings) -> anyhow::Result<exit::Exit> {
    match command {
        Command::Demo(args) => demo::run(&args, settings),
        Command::Serve(args) => serve::run(&args, settings),
        Command::Ingest(args) => ingest::run(&args, settings),
        Command::Embed(args) => embed::run(&args, settings),
        Command::Query(args) => query::run(&args, settings),
        Command::Collection(command) => collection::run(&command, settings),
        Command::Verify(args) => upkeep::verify(&args, settings),
        Command::Rebuild(args) => upkeep::rebuild(&args, settings),
        Command::Model(command) => model::run(&command, settings),
        Command::Reranker(command) => reranker::run(&command, settings),
        Command::Eval(args) => eval::run(&args, settings),
        Command::Train(args) => train::run(&args, settings).map(|()| exit::Exit::Ok),
    }
}

fn report(error: &anyhow::Error) {
    // Some errors bring a hint of their own: it stands on its own line too, in place of ours.
    let message = format!("{error:#}");
    let (message, own) = match message.split_once("; hint: ") {
        Some((message, hint)) => (message, Some(hint.to_owned())),
        None => (message.as_str(), None),
    };
    let is_unfinished = error.is::<exit::Unfinished>().then(|| exit::GO_ON.to_owned());
    // Names of files stand in it, and they must not command the terminal.
    for (i, line) in message.lines().enumerate() {
        eprintln!("{}{}", if i == 0 { "error: " } else { "" }, table::printable(line));
    }
    let hint = own.or_else(|| exit::causes(error).find_map(hint));
    for hint in hint.into_iter().chain(is_unfinished) {
        eprintln!("hint: {}", table::printable(&hint));
    }
}

/// A server never loads what a client names.
const OTHER_MODEL: &str = "`firn serve --model NAME` starts a server with this model, `--also-model NAME` with one more; a --model that was given can be left out";

/// What to do next, where there is something to do.
fn hint(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    use firn_index::Error as Index;
    use firn_model::Error as Model;
    let index = cause.downcast_ref::<Index>().and_then(|error| match error {
        Index::CollectionNotFound { .. } => Some("`firn collection list` shows what is there".to_owned()),
        Index::CollectionExists { name } => Some(format!("use it as it is, or `firn collection delete {name}` first")),
        Index::Locked { .. } => Some(
            "if that is a server, ask it with --server URL (as it printed when it started); else wait until it is done"
                .to_owned(),
        ),
        Index::DiskFull { .. } => Some("free some space and try again; nothing was changed".to_owned()),
        Index::Quarantined { name, .. } => Some(format!(
            "restore the data directory from a backup, or `firn collection delete {name}` and ingest it again"
        )),
        Index::UnknownTokens { .. } => {
            Some("a collection keeps the tokens that it was made with: ingest into a new one".to_owned())
        }
        Index::ZeroVector { .. } | Index::NotFinite { .. } => Some("check what made this vector".to_owned()),
        _ => None,
    });
    let model = cause.downcast_ref::<Model>().and_then(|error| match error {
        Model::MissingFile { .. } => Some("a model folder needs config.json, model.safetensors, tokenizer.json and preprocessor_config.json; `firn model check FOLDER` names all that is amiss".to_owned()),
        Model::Offline { .. } => Some("unset HF_HUB_OFFLINE, or copy the model folder here and name its path".to_owned()),
        Model::NoDevice { .. } => Some("use --device cpu".to_owned()),
        Model::UnknownModel { name } if name == "none" => Some(
            "only `firn serve` and `firn collection create NAME --vector image=768` do without a model".to_owned(),
        ),
        Model::UnknownModel { .. } => Some("try --model builtin".to_owned()),
        Model::Hub { .. } => Some("check the network and HF_ENDPOINT; a model folder needs neither: --model FOLDER".to_owned()),
        _ => None,
    });
    let engine = cause.downcast_ref::<crate::engine::Error>().and_then(|error| match error {
        crate::engine::Error::ModelMismatch { expected_name, .. } => {
            Some(format!("use --model {expected_name}, with the same files as before"))
        }
        crate::engine::Error::NotLoaded { .. } => Some(OTHER_MODEL.to_owned()),
        crate::engine::Error::ModelGone { .. } => {
            Some("if its folder was moved, name it with --model FOLDER: the same files are enough".to_owned())
        }
        _ => None,
    });
    let client = cause.downcast_ref::<firn_client::Error>().and_then(|error| match error.reason.as_str() {
        "NOT_CONNECTED" => {
            Some("`firn serve` starts a server; without --server the local data directory is asked".to_owned())
        }
        "MODEL_NOT_LOADED" => Some(OTHER_MODEL.to_owned()),
        "MESSAGE_TOO_LARGE" => Some("`firn serve --max-message-bytes N` takes larger ones".to_owned()),
        _ => None,
    });
    index.or(model).or(engine).or(client)
}
