//! The settings of `firn serve`. A layer is one source of them (flags with environment, or the TOML table `[serve]`).

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

/// What one source says; the rest is left to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct ServeLayer {
    /// Address of the gRPC server; port 0 takes a free one [default: 127.0.0.1:50051]
    #[arg(long, env = "FIRN_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Address of /healthz, /readyz and /metrics, or `none` [default: 127.0.0.1:8080]
    #[arg(long, env = "FIRN_HTTP_LISTEN", value_name = "ADDRESS")]
    pub http_listen: Option<String>,
    /// Write the bound addresses to FILE as JSON once the server is ready
    #[arg(long, env = "FIRN_PORT_FILE", value_name = "FILE")]
    pub port_file: Option<PathBuf>,
    /// Largest request that is taken, unpacked [default: 32 MiB]
    #[arg(long, env = "FIRN_MAX_MESSAGE_BYTES", value_name = "N")]
    pub max_message_bytes: Option<usize>,
    /// Calls that are worked on or wait, and streams that are open; more of either are refused [default: 512]
    #[arg(long, env = "FIRN_MAX_REQUESTS", value_name = "N")]
    pub max_requests: Option<usize>,
    /// Seconds that calls have to end after SIGTERM [default: 30]
    #[arg(long, env = "FIRN_DRAIN_SECONDS", value_name = "N")]
    pub drain_seconds: Option<u64>,
    /// One more model, for named vectors of its own; may be repeated
    #[arg(long = "also-model", value_name = "NAME")]
    pub also_models: Vec<String>,
}

/// The settings that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeSettings {
    pub listen: String,
    /// None: no HTTP.
    pub http_listen: Option<String>,
    pub port_file: Option<PathBuf>,
    pub max_message_bytes: usize,
    pub max_requests: usize,
    pub drain: Duration,
    /// Beside the default model.
    pub also_models: Vec<String>,
}

/// A number that is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: expected {min} to {max}, received {received}")]
pub struct OutOfRange {
    pub name: &'static str,
    pub min: u64,
    pub max: u64,
    pub received: u64,
}

const DEFAULT_MESSAGE_BYTES: usize = 32 << 20;
const MIN_MESSAGE_BYTES: usize = 64 << 10;
pub const MAX_MESSAGE_BYTES: usize = 1 << 30;
const DEFAULT_REQUESTS: usize = 512;
const MAX_REQUESTS: usize = 16_384;
const DEFAULT_DRAIN_SECONDS: u64 = 30;
const MAX_DRAIN_SECONDS: u64 = 3600;

impl ServeLayer {
    /// This layer, and `below` for what it does not say.
    pub fn over(self, below: Self) -> Self {
        ServeLayer {
            listen: self.listen.or(below.listen),
            http_listen: self.http_listen.or(below.http_listen),
            port_file: self.port_file.or(below.port_file),
            max_message_bytes: self.max_message_bytes.or(below.max_message_bytes),
            max_requests: self.max_requests.or(below.max_requests),
            drain_seconds: self.drain_seconds.or(below.drain_seconds),
            also_models: if self.also_models.is_empty() { below.also_models } else { self.also_models },
        }
    }

    /// The defaults for what no layer says.
    pub fn resolve(self) -> Result<ServeSettings, OutOfRange> {
        let bytes = self.max_message_bytes.unwrap_or(DEFAULT_MESSAGE_BYTES);
        let requests = self.max_requests.unwrap_or(DEFAULT_REQUESTS);
        let drain = self.drain_seconds.unwrap_or(DEFAULT_DRAIN_SECONDS);
        in_range("max-message-bytes", bytes as u64, MIN_MESSAGE_BYTES as u64, MAX_MESSAGE_BYTES as u64)?;
        in_range("max-requests", requests as u64, 1, MAX_REQUESTS as u64)?;
        in_range("drain-seconds", drain, 0, MAX_DRAIN_SECONDS)?;
        let http = self.http_listen.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
        Ok(ServeSettings {
            listen: self.listen.unwrap_or_else(|| "127.0.0.1:50051".to_owned()),
            http_listen: (http != "none").then_some(http),
            port_file: self.port_file,
            max_message_bytes: bytes,
            max_requests: requests,
            drain: Duration::from_secs(drain),
            also_models: self.also_models,
        })
    }
}

fn in_range(name: &'static str, received: u64, min: u64, max: u64) -> Result<(), OutOfRange> {
    if received < min || received > max {
        return Err(OutOfRange { name, min, max, received });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_layer_wins_and_defaults_fill_the_rest() {
        let flags = ServeLayer { listen: Some("a:1".into()), ..Default::default() };
        let file: ServeLayer = toml::from_str("listen = \"b:2\"\nhttp_listen = \"none\"\nmax_requests = 7").unwrap();
        let settings = flags.over(file).resolve().unwrap();
        assert_eq!((settings.listen.as_str(), settings.http_listen, settings.max_requests), ("a:1", None, 7));
        assert_eq!((settings.max_message_bytes, settings.drain), (32 << 20, Duration::from_secs(30)));
    }

    #[test]
    fn a_word_that_is_no_setting_is_refused() {
        assert!(toml::from_str::<ServeLayer>("lisen = \"b:2\"").is_err());
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let check = |layer: ServeLayer, name| assert_eq!(layer.resolve().unwrap_err().name, name);
        check(ServeLayer { max_message_bytes: Some(1), ..Default::default() }, "max-message-bytes");
        check(ServeLayer { max_message_bytes: Some(2 << 30), ..Default::default() }, "max-message-bytes");
        check(ServeLayer { max_requests: Some(0), ..Default::default() }, "max-requests");
        check(ServeLayer { drain_seconds: Some(3601), ..Default::default() }, "drain-seconds");
    }
}
