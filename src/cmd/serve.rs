//! `firn serve`: the gRPC server and its HTTP side, until SIGTERM or Ctrl-C.

use std::{io::IsTerminal as _, sync::Arc};

use firn_index::{Database, Options};
use firn_model::Encoder;
use tracing_subscriber::EnvFilter;

use crate::{
    exit::Exit,
    server::{self, Opened, settings::ServeLayer},
    settings::{NO_MODEL, Settings},
};

/// Serve collections over gRPC until SIGTERM or Ctrl-C
///
/// Example: firn serve --data-dir ./firn-data
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With --model none, points and queries bring their vectors. FIRN_LOG sets what is logged, such \
                        as `debug` or `firn=debug,h2=info` [default: info]."
)]
pub struct ServeArgs {
    #[command(flatten)]
    layer: ServeLayer,
}

pub fn run(args: &ServeArgs, settings: &Settings) -> anyhow::Result<Exit> {
    run_with(&args.layer, settings)
}

/// The same, for the demo.
pub fn run_with(layer: &ServeLayer, settings: &Settings) -> anyhow::Result<Exit> {
    let serve = layer.clone().over(settings.file.serve.clone()).resolve()?;
    log();
    let (settings, also) = (settings.clone(), serve.also_models.clone());
    server::run(serve, move || {
        let db = Database::open(&settings.data_dir, Options::default())?;
        Ok(Opened { db, encoders: encoders(&settings, &also)?, device: settings.device })
    })?;
    Ok(Exit::Ok)
}

/// The default model first.
fn encoders(settings: &Settings, also: &[String]) -> anyhow::Result<Vec<Arc<dyn Encoder>>> {
    let names = std::iter::once(settings.model_or_default()).chain(also.iter().map(String::as_str));
    names.filter(|name| *name != NO_MODEL).map(|name| Ok(firn_model::load(name, settings.device)?)).collect()
}

fn log() {
    let filter = EnvFilter::try_from_env("FIRN_LOG").unwrap_or_else(|_| EnvFilter::new("info,hnsw_rs=warn"));
    // A log that is there already (a test's) stays.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = log.with_ansi(std::io::stderr().is_terminal()).try_init();
}
