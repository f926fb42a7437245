//! Settings: a flag, else a `FIRN_*` variable (clap reads both), else the TOML file, else the default.

use std::path::{Path, PathBuf};

use firn_model::Device;
use serde::Deserialize;

use crate::{exit::Usage, server::settings::ServeLayer};

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "firn.toml";
pub const DEFAULT_DATA_DIR: &str = "firn-data";
pub const DEFAULT_MODEL: &str = "builtin";
/// The model name of a server or a collection that embeds nothing: points and queries bring their vectors.
pub const NO_MODEL: &str = "none";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("settings file {path}: {detail}")]
    File { path: PathBuf, detail: String },
    #[error("{setting}: expected {expected}, received {received:?}")]
    Value { setting: &'static str, expected: &'static str, received: String },
}

/// The flags that every subcommand takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CommonArgs {
    /// Where points and their index are kept [default: ./firn-data]
    #[arg(long, global = true, env = "FIRN_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// `builtin`, a model folder, or hf:org/name@revision [default: the collection's own, else builtin]
    #[arg(long, global = true, env = "FIRN_MODEL", value_name = "NAME")]
    pub model: Option<String>,
    /// Where networks compute: auto, cpu or cuda [default: auto]
    #[arg(long, global = true, env = "FIRN_DEVICE", value_name = "DEVICE")]
    pub device: Option<String>,
    /// Print JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// A TOML file with the same settings [default: ./firn.toml if it is there]
    #[arg(long, global = true, env = "FIRN_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which of these stand on the command line.
    #[arg(skip)]
    pub given: Vec<&'static str>,
}

/// Settings that say nothing to a server: what they are about is its own.
pub const OF_HERE: [&str; 2] = ["data-dir", "device"];
/// The same where the server has the model too.
pub const OF_HERE_AND_MODEL: [&str; 3] = ["data-dir", "device", "model"];

/// The same settings as a TOML file gives them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileLayer {
    pub data_dir: Option<PathBuf>,
    pub model: Option<String>,
    pub device: Option<String>,
    /// For subcommands that can ask a server instead of a local directory.
    pub server: Option<String>,
    #[serde(default)]
    pub serve: ServeLayer,
}

/// What a subcommand goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    pub data_dir: PathBuf,
    /// None: nobody named one. Then a collection's own model is used, and `builtin` for a new collection.
    pub model: Option<String>,
    pub device: Device,
    pub json: bool,
    /// Which of the common flags stand on the command line.
    pub given: Vec<&'static str>,
    pub file: FileLayer,
}

impl Settings {
    /// Merges flags and variables over the file.
    pub fn resolve(args: &CommonArgs) -> Result<Self, Error> {
        let file = read_file(args.config.as_deref())?;
        let device = args.device.clone().or_else(|| file.device.clone()).unwrap_or_else(|| "auto".to_owned());
        Ok(Settings {
            data_dir: args
                .data_dir
                .clone()
                .or_else(|| file.data_dir.clone())
                .unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            model: args.model.clone().or_else(|| file.model.clone()),
            device: device.parse().map_err(|_| Error::Value {
                setting: "device",
                expected: "auto, cpu or cuda",
                received: device,
            })?,
            json: args.json,
            given: args.given.clone(),
            file,
        })
    }

    /// The model for what is made anew.
    pub fn model_or_default(&self) -> &str {
        self.model.as_deref().unwrap_or(DEFAULT_MODEL)
    }

    /// The server to ask: the flag or variable, else the file; none means the local directory. One of the flags that it would
    /// ignore is refused beside it.
    pub fn server(&self, flag: Option<&str>, ignored: &[&str]) -> Result<Option<String>, Usage> {
        let server = flag.map(str::to_owned).or_else(|| self.file.server.clone());
        match (&server, self.given.iter().find(|given| ignored.contains(given))) {
            (Some(server), Some(given)) => Err(Usage(format!(
                "--{given} says nothing to the server at {server}, which has its own; hint: leave --{given} or the server out \
                 (--server, FIRN_SERVER, or `server` in the settings file)"
            ))),
            _ => Ok(server),
        }
    }
}

fn read_file(named: Option<&Path>) -> Result<FileLayer, Error> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    if named.is_none() && !path.exists() {
        return Ok(FileLayer::default());
    }
    let failure = |detail: String| Error::File { path: path.to_owned(), detail };
    let text = std::fs::read_to_string(path).map_err(|e| failure(e.to_string()))?;
    toml::from_str(&text).map_err(|e| failure(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(toml: &str) -> (tempfile::TempDir, CommonArgs) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("firn.toml");
        std::fs::write(&path, toml).unwrap();
        (dir, CommonArgs { config: Some(path), ..Default::default() })
    }

    #[test]
    fn the_file_gives_what_no_flag_says() {
        let (_dir, mut args) = layer("data_dir = 'a'\nmodel = 'm'\ndevice = 'cpu'\n");
        let from_file = Settings::resolve(&args).unwrap();
        assert_eq!((from_file.data_dir, from_file.model), ("a".into(), Some("m".into())));
        assert_eq!(from_file.device, Device::Cpu);
        args.data_dir = Some("b".into());
        assert_eq!(Settings::resolve(&args).unwrap().data_dir, PathBuf::from("b"));
    }

    #[test]
    fn mistakes_are_named() {
        let cases =
            [("datadir = 'x'", "datadir"), ("device = 'gpu'", "gpu"), ("model = 7", "model"), ("model", "firn.toml")];
        for (toml, part) in cases {
            let (_dir, args) = layer(toml);
            let error = Settings::resolve(&args).unwrap_err().to_string();
            assert!(error.contains(part), "{toml}: {error}");
        }
        let missing = CommonArgs { config: Some("/nowhere/firn.toml".into()), ..Default::default() };
        assert!(Settings::resolve(&missing).unwrap_err().to_string().contains("/nowhere/firn.toml"));
    }
}
