//! The local data directory, for subcommands that work without a server.

use firn_index::{Database, Options};

use crate::{
    engine::{Engine, Loading},
    exit::Usage,
    settings::Settings,
};

/// Opens the data directory, making it if need be; encoders are loaded when a collection needs one.
pub fn engine(settings: &Settings) -> anyhow::Result<Engine> {
    engine_on(Database::open(&settings.data_dir, Options::default())?, settings)
}

/// The same, for what only reads: a directory that is not there is an error.
pub fn existing_engine(settings: &Settings) -> anyhow::Result<Engine> {
    engine_on(database(settings)?, settings)
}

/// Opens the data directory without any encoder, and refuses to make one where there is none.
pub fn database(settings: &Settings) -> anyhow::Result<Database> {
    if !Database::exists(&settings.data_dir) {
        return Err(Usage(format!(
            "no data directory at {}; hint: --data-dir names another, --server a server; `firn ingest` and `firn collection \
             create` make one",
            settings.data_dir.display()
        ))
        .into());
    }
    Ok(Database::open(&settings.data_dir, Options::default())?)
}

fn engine_on(db: Database, settings: &Settings) -> anyhow::Result<Engine> {
    // Who names a model means that one: a collection of another is refused, not served with its own.
    Ok(match &settings.model {
        Some(name) => Engine::new(db, vec![firn_model::load(name, settings.device)?], Loading::Named(settings.device)),
        None => Engine::new(db, Vec::new(), Loading::OnDemand(settings.device)),
    })
}
