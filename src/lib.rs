//! firn: the program. `cmd` is the terminal, `server` the network, `query` the way of a question, `engine` what they share.

pub mod cmd;
pub mod engine;
pub mod eval;
pub mod exit;
pub mod query;
pub mod reranker;

pub mod server;
pub mod settings;
