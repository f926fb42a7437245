//! A data set asked of the database: its documents and queries are stored and indexed, then searched exactly and by the index, and
//! re-ranked. What is measured is what a query does.

mod ask;
mod own;
mod results;
mod side;
mod store;

use std::{path::PathBuf, time::Instant};

use firn_eval::{
    dataset::{Content, Dataset},
    results::{Direction, IndexSettings, Results},
};

use firn_index::HnswConfig;

use self::{ask::Asking, results::Gathering, side::Side};
pub use self::{
    own::{Asked, Own, numbered, of_collection},
    side::Network,
    store::{Fill, Items, Lot, Pair, Store, document_items, documents, fill, lots, query_items},
};
use crate::query::{FullText, Merge};

/// How a data set is asked.
pub struct Ways {
    /// Answers that are looked at.
    pub depth: usize,
    /// Width of the search in the index, which gives as many answers.
    pub ef: usize,
    /// How much words count beside vectors.
    pub words_weight: f32,
    /// So many of the first answers are re-ranked.
    pub candidates: Vec<usize>,
    /// Where the rankings are written as TREC files, if anywhere.
    pub trec: Option<PathBuf>,
}

impl Ways {
    pub const DEFAULT_DEPTH: usize = 100;

    /// How far the index is searched.
    fn index(&self, hnsw: &HnswConfig) -> IndexSettings {
        let HnswConfig { m, ef_construction, .. } = *hnsw;
        IndexSettings { m, ef_construction, ef: self.ef, limit: self.depth.min(self.ef) }
    }

    /// What the names of the methods do not say.
    fn note(&self, data: &Dataset) -> Option<String> {
        are_texts(data).then(|| format!("words count {} beside vectors in the hybrid methods", self.words_weight))
    }

    /// To look for the words of a text in texts.
    fn words(&self) -> [(&'static str, FullText); 3] {
        let with = |weight, merge| FullText { weight, merge, text: None };
        [
            ("words", with(1.0, Merge::Scores)),
            ("hybrid-ranks", with(self.words_weight, Merge::Ranks)),
            ("hybrid-scores", with(self.words_weight, Merge::Scores)),
        ]
    }

    /// In the order of the results: exact search, the index, words alone and with the index, and each number of re-ranked candidates.
    fn methods(&self, with_words: bool, network: Option<&Network>) -> Vec<String> {
        let mut methods = vec!["exact".to_owned(), "hnsw".to_owned()];
        if with_words {
            methods.extend(self.words().map(|(name, _)| name.to_owned()));
        }
        if network.is_some() {
            methods.extend(self.candidates.iter().map(|n| format!("rerank@{n}")));
        }
        methods
    }
}

/// Whether both sides are texts.
fn are_texts(data: &Dataset) -> bool {
    data.documents.iter().all(|document| matches!(document.content, Content::Text(_)))
}

/// The text that asks, by its place on its side.
fn text_of<'a>(data: &'a Dataset, lot: &Lot, direction: Direction, asker: usize) -> &'a str {
    match direction {
        Direction::ToDocument => &data.queries[lot.queries[asker]].text,
        Direction::ToQuery => match &data.documents[asker].content {
            Content::Text(text) => text,
            Content::Picture(_) => "",
        },
    }
}

/// Asks every question in both directions. `report` is told how many of how many are asked.
pub fn run(
    data: &Dataset,
    store: &Store,
    (network, ways): (Option<&Network>, &Ways),
    report: &mut dyn FnMut(usize, usize),
) -> anyhow::Result<Results> {
    let start = Instant::now();
    let mut gathering = Gathering::new(data, ways, ways.methods(are_texts(data), network))?;
    let n_questions = data.queries.len() + store.lots.iter().map(|lot| lot.documents(data).len()).sum::<usize>();
    let documents = Side::new(&store.documents, store.names_of_documents(), network.map(|n| n.reads_documents()))?;
    let mut n_asked = 0;
    for lot in &store.lots {
        let queries = Side::new(&lot.collection, store.names_of_queries(), network.map(|n| n.reads_queries(store)))?;
        for direction in [Direction::ToDocument, Direction::ToQuery] {
            let askings = lot.askings(data, direction);
            let (askers, gallery) = match direction {
                Direction::ToDocument => (&queries, &documents),
                Direction::ToQuery => (&documents, &queries),
            };
            let text = |asker: usize| text_of(data, lot, direction, asker);
            let text: Option<&ask::TextOf> = if are_texts(data) { Some(&text) } else { None };
            let asking = Asking { text, askers, gallery, direction, weights: &store.weights(), network, ways };
            asking.all(&askings, &mut |answered| {
                n_asked += answered.len();
                report(n_asked, n_questions);
                gathering.take(lot, direction, answered)
            })?;
        }
    }
    let mut results = gathering.results(store, network)?;
    results.stages.push(firn_eval::results::Stage {
        name: firn_eval::results::ALL_QUESTIONS.to_owned(),
        seconds: start.elapsed().as_secs_f64(),
        n: n_questions,
    });
    Ok(results)
}
