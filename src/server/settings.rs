//! Settings of `firn serve`, as flags and variables and as the TOML table `[serve]`.

use std::path::PathBuf;

use serde::Deserialize;

/// One layer of settings: what a flag, a variable or the file says; none where it says nothing.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeLayer {
    /// Address of the gRPC server [default: 127.0.0.1:50051]
    #[arg(long, env = "FIRN_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Address of /healthz, /readyz and /metrics, or `none` [default: 127.0.0.1:8080]
    #[arg(long, env = "FIRN_HTTP_LISTEN", value_name = "ADDRESS")]
    pub http_listen: Option<String>,
    /// Largest message in bytes [default: 33554432]
    #[arg(long, env = "FIRN_MAX_MESSAGE_BYTES", value_name = "BYTES")]
    pub max_message_bytes: Option<usize>,
    /// Write the bound addresses to this file, as JSON, when ready
    #[arg(long, env = "FIRN_PORT_FILE", value_name = "FILE")]
    pub port_file: Option<PathBuf>,
}
