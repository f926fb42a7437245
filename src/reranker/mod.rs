//! Fusion networks that are kept with a collection: trained on its own pairs, judged on held-out ones, and switched on if they are worth it.

mod cache;
mod gather;
mod hubs;
mod judge;
mod package;
mod parting;
mod serve;
mod state;
mod train;

pub use self::{
    cache::Cache,
    gather::{Gathered, Wanted, questions},
    judge::{Verdict, judge},
    package::{BUILTIN, Package},
    parting::Parting,
    serve::{Reranker, SharedScorer},
    state::{Judged, Length, Reads, State, Version, attachment, gain_in_words, kind_in_words, now_s},
    train::{Judging, Report, Stage, Training, evaluate, kinds_of, train},
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields as flags have them, in kebab-case.
    #[error("--{field}: expected {expected}, received {received}")]
    Setting { field: &'static str, expected: String, received: String },
    #[error("{detail}")]
    Sizes { detail: String },
    #[error(
        "--kind {kind}: collection {collection:?} keeps no tokens beside {vector:?}; hint: --kind mlp or frevl reads vectors alone"
    )]
    NoTokens { kind: String, collection: String, vector: String },
    #[error("expected {expected}, received none{}", if *.n_left_out > 0 { format!(" ({} points with texts lack something of it)", .n_left_out) } else { String::new() })]
    NoPairs { expected: String, n_left_out: usize },
    #[error("collection {collection:?}: no model brings texts to the vector {vector:?}")]
    NoModel { collection: String, vector: String },
    #[error("version {received}: expected one of {expected:?}")]
    UnknownVersion { received: u32, expected: Vec<u32> },
    #[error(
        "version {version} is not significantly better than cosine: {detail}; hint: --force activates it nevertheless"
    )]
    NoGain { version: u32, detail: String },
    #[error(
        "version {version} was judged in another collection; hint: `firn reranker evaluate {collection} {version}` judges it in this one, --force activates it nevertheless"
    )]
    NotJudged { version: u32, collection: String },
    #[error("point {id} has not {what}, which the network reads")]
    Lacking { id: firn_index::PointId, what: String },
    #[error("{}: expected a collection with {what}", .name.display())]
    Misfit { name: std::path::PathBuf, what: String },
    #[error("version {version} gave what is no number")]
    NotFinite { version: u32 },
    #[error("nothing was active before")]
    NothingBefore,
    #[error("attachment {what:?} cannot be read: {detail}")]
    Unreadable { what: String, detail: String },
    #[error("the network was busy until the deadline was near")]
    TooLate,
    #[error("the database is closed")]
    Closed,
    #[error(transparent)]
    Index(#[from] firn_index::Error),
    #[error(transparent)]
    Model(#[from] firn_model::Error),
    #[error(transparent)]
    Engine(#[from] crate::engine::Error),
}
