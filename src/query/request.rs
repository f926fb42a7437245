//! A question and its answer, as plain types: the terminal and the wire both turn into them.

use std::{collections::BTreeMap, time::Instant};

use firn_index::{Fields, Payload, PointId, Text, Tokens};
use serde::{Deserialize, Serialize};

use super::{Error, blend::check_weights};

/// Limits of a question.
pub struct Limits;

impl Limits {
    pub const DEFAULT_LIMIT: usize = 10;
    pub const MAX_LIMIT: usize = 1000;
    /// Largest `offset + limit`, and most candidates.
    pub const MAX_WINDOW: usize = firn_index::Limits::MAX_LIMIT;
    pub const MAX_EF: usize = firn_index::Limits::MAX_EF_SEARCH;
    /// Most candidates that a network is asked to look at.
    pub const MAX_RERANKED: usize = 1000;
    pub const DEFAULT_WORDS_WEIGHT: f32 = 0.5;
    /// Fewest candidates of each vector of a blend, and of words.
    pub const MIN_BLENDED: usize = 100;
}

/// What is looked for.
#[derive(Clone, Debug)]
pub enum Content {
    Text(Text),
    /// An encoded picture.
    Image(Vec<u8>),
    Id(PointId),
    Vector(Vec<f32>),
    /// By the names of the vectors that are searched.
    Vectors(Named),
}

/// Vectors by name, of any length but zero, and tokens by the name of the vector they go with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Named {
    pub vectors: BTreeMap<String, Vec<f32>>,
    pub tokens: BTreeMap<String, Tokens>,
}

impl From<BTreeMap<String, Vec<f32>>> for Named {
    fn from(vectors: BTreeMap<String, Vec<f32>>) -> Named {
        Named { vectors, tokens: BTreeMap::new() }
    }
}

/// A question.
#[derive(Clone, Debug)]
pub struct Request {
    /// A collection or alias.
    pub collection: String,
    pub content: Content,
    /// The named vector to search; none: by the collection's blend, else the only one, else "image", or "text" if no point has an
    /// image.
    pub using: Option<String>,
    /// Named vectors that are searched together, and how much each counts.
    pub blend: Option<BTreeMap<String, f32>>,
    /// Words that are looked for too, or alone.
    pub full_text: Option<FullText>,
    /// None: `Limits::DEFAULT_LIMIT`.
    pub limit: Option<usize>,
    pub offset: usize,
    /// None: `offset + limit`.
    pub candidates: Option<usize>,
    pub ef: Option<usize>,
    pub exact: bool,
    pub fields: Fields,
    pub score_threshold: Option<f32>,
    pub rerank: Rerank,
    /// When the asker stops waiting.
    pub deadline: Option<Instant>,
    /// An answer whose hits take more is given up.
    pub max_bytes: usize,
}

/// Words that are looked for in the texts of points.
#[derive(Clone, Debug, PartialEq)]
pub struct FullText {
    /// None: those of the text that asks.
    pub text: Option<String>,
    /// How much the words count beside the vectors, above 0, to 1: then no vector is searched.
    pub weight: f32,
    pub merge: Merge,
}

impl Default for FullText {
    fn default() -> FullText {
        FullText { text: None, weight: Limits::DEFAULT_WORDS_WEIGHT, merge: Merge::default() }
    }
}

/// How the list of the words and that of the vectors become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Merge {
    /// By how far the cosine lies from the worst of the vectors' list to its best, and by the share of the best BM25.
    #[default]
    Scores,
    /// By their ranks, 1 / (60 + rank) each: reciprocal rank fusion.
    Ranks,
}

/// How a network is to re-rank the candidates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rerank {
    pub which: Which,
    /// Candidates that it sees; none: as many as it was judged with.
    pub candidates: Option<usize>,
    pub on_failure: OnFailure,
    /// Hits that a network thinks less likely to belong are left out; it means nothing where none re-ranked.
    pub min_relevance: Option<f32>,
}

/// Which network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// The collection's active one, if there is one.
    #[default]
    Active,
    None,
    Version(u32),
}

/// What becomes of a question that cannot be re-ranked as it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It is answered by cosine, and the answer says why.
    #[default]
    Skip,
    Error,
}

/// The numbers of a request, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    pub limit: usize,
    pub offset: usize,
    pub candidates: usize,
    pub ef: Option<usize>,
    pub exact: bool,
    pub score_threshold: f32,
}

impl Request {
    /// Whether the numbers are within their limits.
    pub fn check(&self) -> Result<(), Error> {
        self.plan().map(drop)
    }

    pub(super) fn plan(&self) -> Result<Plan, Error> {
        if let Some(weights) = &self.blend {
            check_weights(weights)?;
            if let Some(using) = &self.using {
                return Err(invalid("blend", "either a blend or using".into(), format!("both, using {using:?}")));
            }
        }
        let limit = self.limit.unwrap_or(Limits::DEFAULT_LIMIT);
        within("limit", limit, 1, Limits::MAX_LIMIT)?;
        let window = limit.saturating_add(self.offset);
        within("offset + limit", window, 1, Limits::MAX_WINDOW)?;
        let candidates = self.candidates.unwrap_or(window);
        within("candidates", candidates, 1, Limits::MAX_WINDOW)?;
        if let Some(ef) = self.ef {
            within("ef", ef, 1, Limits::MAX_EF)?;
        }
        if let Some(FullText { text, weight, .. }) = &self.full_text {
            if !(*weight > 0.0 && *weight <= 1.0) {
                return Err(invalid("full_text.weight", "above 0, to 1".into(), weight.to_string()));
            }
            let bytes = text.as_ref().map_or(0, String::len);
            within("bytes of full_text.text", bytes, 0, firn_index::Limits::MAX_TEXT_BYTES)?;
        }
        let score_threshold = self.score_threshold.unwrap_or(f32::NEG_INFINITY);
        if score_threshold.is_nan() {
            return Err(invalid("score_threshold", "a number".into(), "NaN".into()));
        }
        if let Some(candidates) = self.rerank.candidates {
            within("rerank.candidates", candidates, 1, Limits::MAX_RERANKED)?;
        }
        if let Some(least) = self.rerank.min_relevance
            && !(0.0..=1.0).contains(&least)
        {
            return Err(invalid("rerank.min_relevance", "0 to 1".into(), least.to_string()));
        }
        Ok(Plan {
            limit,
            offset: self.offset,
            candidates: candidates.max(window),
            ef: self.ef,
            exact: self.exact,
            score_threshold,
        })
    }
}

fn within(field: &'static str, received: usize, min: usize, max: usize) -> Result<(), Error> {
    if (min..=max).contains(&received) {
        return Ok(());
    }
    Err(invalid(field, format!("{min} to {max}"), received.to_string()))
}

pub(super) fn invalid(field: &'static str, expected: String, received: String) -> Error {
    Error::Invalid { field, expected, received }
}

/// An answer given to the user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    pub id: PointId,
    /// What the list is sorted by.
    pub score: f32,
    /// Of a blend, the weighted mean. 0 if only words were looked for.
    pub cosine: f32,
    /// If words were looked for and the point is among the best of those that hold any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bm25: Option<f32>,
    /// Of a blend, by the names of the vectors that the point has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cosines: BTreeMap<String, f32>,
    /// The logit of the network that re-ranked, how much of a hub the hit is if that counts, and how likely it is that it belongs, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hubness: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relevance: Option<f32>,
    pub payload: Payload,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<Text>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vectors: BTreeMap<String, Vec<f32>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tokens: BTreeMap<String, Tokens>,
    pub version: u64,
}

/// Time spent in each stage, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    pub encode_us: u64,
    pub retrieve_us: u64,
    pub merge_us: u64,
    pub rerank_us: u64,
    pub fetch_us: u64,
    pub total_us: u64,
}

/// A query text that was longer than the model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncation {
    pub tokens_used: usize,
    pub tokens_cut: usize,
}

/// Hits, best first, and how they came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub hits: Vec<Hit>,
    pub timings: Timings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation: Option<Truncation>,
    pub rerank_applied: bool,
    /// The version of the network that re-ranked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reranker: Option<u32>,
    /// Why none re-ranked, if one was to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerank_skipped: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            collection: "c".into(),
            content: Content::Vector(vec![1.0]),
            using: None,
            blend: None,
            full_text: None,
            limit: None,
            offset: 0,
            candidates: None,
            ef: None,
            exact: false,
            fields: Fields::default(),
            score_threshold: None,
            rerank: Rerank::default(),
            deadline: None,
            max_bytes: usize::MAX,
        }
    }

    #[test]
    fn defaults_ask_for_ten() {
        let plan = request().plan().unwrap();
        assert_eq!((plan.limit, plan.offset, plan.candidates), (10, 0, 10));
        let plan = Request { offset: 20, candidates: Some(5), ..request() }.plan().unwrap();
        assert_eq!(plan.candidates, 30, "never fewer candidates than the window needs");
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let cases = [
            (Request { limit: Some(0), ..request() }, "limit"),
            (Request { limit: Some(1001), ..request() }, "limit"),
            (Request { offset: usize::MAX, ..request() }, "offset + limit"),
            (Request { candidates: Some(10_001), ..request() }, "candidates"),
            (Request { ef: Some(4097), ..request() }, "ef"),
            (Request { score_threshold: Some(f32::NAN), ..request() }, "score_threshold"),
            (Request { blend: Some([("a".into(), -1.0)].into()), ..request() }, "blend"),
            (Request { blend: Some([("a".into(), 1.0)].into()), using: Some("a".into()), ..request() }, "blend"),
        ];
        for (request, name) in cases {
            let Err(Error::Invalid { field, .. }) = request.plan() else { panic!("{name} was taken") };
            assert_eq!(field, name);
        }
    }
}
