//! What came out of a run: each question with its ranks, and what a report says of them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One run over one data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The version of firn that made it.
    pub firn: String,
    pub dataset: String,
    pub protocol: String,
    pub about: String,
    pub n_documents: usize,
    pub n_queries: usize,
    /// The data set is whole: the counts are those that its protocol publishes.
    #[serde(default)]
    pub is_as_published: bool,
    /// Judged by a file of the user's own, not by the data set's pairs.
    #[serde(default)]
    pub own_judgements: bool,
    /// Of all ids, texts and judgements, as [`crate::dataset::Dataset::hash`] makes it; empty in files of before it was kept.
    #[serde(default)]
    pub data_hash: String,
    /// What was odd in the files and how it was read.
    pub notes: Vec<String>,
    pub model: Made,
    /// The network that re-ranked, if one did.
    pub reranker: Option<Made>,
    /// How the index was made and asked; none if none was, and in files of before it was kept.
    #[serde(default)]
    pub index: Option<IndexSettings>,
    /// Answers of a question that are looked at: what belongs further down is not found.
    pub depth: usize,
    /// Ways to answer, the plain one first: "exact", "hnsw", "rerank@50".
    pub methods: Vec<String>,
    /// Who took how long.
    pub stages: Vec<Stage>,
    /// How far the network's relevance can be trusted; empty if it has none.
    pub calibration: Vec<Bin>,
    /// The questions that went most wrong by the last method.
    pub failures: Vec<Failure>,
    /// A file of their own: `questions.jsonl`.
    #[serde(skip)]
    pub questions: Vec<Question>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Made {
    pub name: String,
    /// Of what it is made of, so that two runs can be told apart.
    pub hash: String,
}

/// By the letters of the HNSW paper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSettings {
    pub m: usize,
    pub ef_construction: usize,
    /// Candidates that a search looked at.
    pub ef: usize,
    /// Hits that it was asked for.
    pub limit: usize,
}

/// The stage that all others of asking are part of.
pub const ALL_QUESTIONS: &str = "all questions";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Such as "embed", "exact search", "rerank".
    pub name: String,
    pub seconds: f64,
    /// Things it was done for: pictures and texts, questions.
    pub n: usize,
}

/// Candidates whose promised relevance is about the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    pub n: usize,
    /// Mean relevance that was promised, and share of them that belong; 0 to 1.
    pub promised: f64,
    pub found: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// A query looks for documents: text to image, or text to text.
    #[default]
    ToDocument,
    /// A document looks for queries: image to text.
    ToQuery,
}

/// What was asked and at which place what belongs came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Question {
    pub direction: Direction,
    /// Of the query, or of the document that asks.
    pub id: String,
    /// Questions about one document are not independent: they are drawn together.
    pub cluster: String,
    /// Empty if it is not known, or if texts of several languages are asked for.
    pub language: String,
    /// Of the text that asks; 0 for a picture.
    pub n_words: usize,
    pub is_joined: bool,
    /// By method, from 1: the place of the first that belongs; none if it is not within the depth.
    pub ranks: Vec<Option<u32>>,
    /// By method, nDCG of the first 10, with grades.
    pub ndcg: Vec<f64>,
}

/// A question whose answer stands far down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub direction: Direction,
    pub query: Shown,
    pub right: Shown,
    /// Place of the right one, from 1; none if it is not within the depth.
    pub rank: Option<u32>,
    /// What stands above, best first.
    pub above: Vec<Shown>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    pub id: String,
    /// A picture has a path, a text is itself.
    pub picture: Option<PathBuf>,
    pub text: Option<String>,
    /// How it is ranked by; none for who asks.
    pub score: Option<f32>,
}
