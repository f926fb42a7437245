//! The command line: one file per subcommand.

mod collection;
mod demo;
mod embed;
mod ingest;
mod local;
mod model;
mod query;
mod remote;
mod serve;
mod table;
mod train;
mod upkeep;
mod vector_file;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    exit,
    settings::{CommonArgs, Settings},
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
}

/// Runs the program and prints its error, if any, once.
pub fn main() -> ExitCode {
    end_quietly_without_a_reader();
    let cli = Cli::parse();
    match Settings::resolve(&cli.common).map_err(anyhow::Error::from).and_then(|settings| run(cli.command, &settings)) {
        Ok(exit) => exit.into(),
        Err(error) => {
            report(&error);
            exit::code_of(&error).into()
        }
    }
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
        Command::Train(args) => train::run(&args, settings).map(|()| exit::Exit::Ok),
    }
}

fn report(error: &anyhow::Error) {
    // Some errors bring a hint of their own: it stands on its own line too, and is the only one.
    let message = format!("{error:#}");
    let (message, own) = match message.split_once("; hint: ") {
        Some((message, hint)) => (message, Some(hint.to_owned())),
        None => (message.as_str(), None),
    };
    // Names of files stand in it, and they must not command the terminal.
    for (i, line) in message.lines().enumerate() {
        eprintln!("{}{}", if i == 0 { "error: " } else { "" }, table::printable(line));
    }
    if let Some(hint) = own.or_else(|| exit::causes(error).find_map(hint)) {
        eprintln!("hint: {hint}");
    }
}

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
        Index::Quarantined { name, .. } => {
            Some(format!("`firn verify {name}` says more; restore the data directory from a backup"))
        }
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
        Model::UnknownModel { .. } => Some("try --model builtin".to_owned()),
        Model::Hub { .. } => Some("check the network and HF_ENDPOINT; a model folder needs neither: --model FOLDER".to_owned()),
        _ => None,
    });
    let engine = cause.downcast_ref::<crate::engine::Error>().and_then(|error| match error {
        crate::engine::Error::ModelMismatch { expected_name, .. } => {
            Some(format!("use --model {expected_name}, with the same files as before"))
        }
        crate::engine::Error::ModelGone { .. } => {
            Some("if its folder was moved, name it with --model FOLDER: the same files are enough".to_owned())
        }
        _ => None,
    });
    let client = cause.downcast_ref::<firn_client::Error>().and_then(|error| match error.reason.as_str() {
        "NOT_CONNECTED" => {
            Some("`firn serve` starts a server; without --server the local data directory is asked".to_owned())
        }
        _ => None,
    });
    index.or(model).or(engine).or(client)
}
