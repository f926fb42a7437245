//! From rankings to results: ranks, the worst failures, promises, and TREC files.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use firn_eval::{
    dataset::{Content, Dataset},
    measures::{NDCG_AT, first_rank, ndcg},
    results::{Bin, Direction, Failure, Question, Results, Shown, Stage},
    trec::{Qrels, qrels_text, run_text},
};
use unicode_segmentation::UnicodeSegmentation;

use super::{
    Lot, Network, Store, Ways,
    ask::{Answered, Ranking},
};

/// Failures that are shown of each direction, and answers that stand above the right one.
const N_FAILURES: usize = 8;
const N_ABOVE: usize = 4;
const N_BINS: usize = 10;

/// What has come in so far.
pub struct Gathering<'a> {
    data: &'a Dataset,
    methods: Vec<String>,
    depth: usize,
    ways: &'a Ways,
    questions: Vec<Question>,
    /// By direction, the worst first.
    failures: BTreeMap<Direction, Vec<Failed>>,
    promises: Vec<(f32, bool)>,
    /// Exact search, the index, words, the network.
    seconds: [f64; 4],
    trec: Option<Trec<'a>>,
}

/// A question that went wrong, by its place.
struct Failed {
    question: usize,
    right: usize,
    above: Vec<(usize, f32)>,
    /// Of the lot, where a document asks.
    queries: Option<Vec<usize>>,
}

impl<'a> Gathering<'a> {
    pub fn new(data: &'a Dataset, ways: &'a Ways, methods: Vec<String>) -> anyhow::Result<Gathering<'a>> {
        let trec = ways.trec.as_deref().map(|folder| Trec::new(folder, data)).transpose()?;
        let (questions, failures, promises) = (Vec::new(), BTreeMap::new(), Vec::new());
        Ok(Gathering { data, methods, depth: ways.depth, ways, questions, failures, promises, seconds: [0.0; 4], trec })
    }

    pub fn take(&mut self, lot: &Lot, direction: Direction, answered: Answered) -> anyhow::Result<()> {
        let took = [answered.took.exact, answered.took.index, answered.took.words, answered.took.rerank];
        self.seconds.iter_mut().zip(took).for_each(|(sum, took)| *sum += took.as_secs_f64());
        self.promises.extend_from_slice(&answered.promises);
        for (question, rankings) in answered.questions.iter().zip(&answered.rankings) {
            if question.grades.is_empty() {
                continue;
            }
            let places = |ranking: &Ranking| -> Vec<usize> { ranking.iter().map(|(place, _)| *place).collect() };
            let places: Vec<Vec<usize>> = rankings.iter().map(places).collect();
            let asked = self.question(lot, direction, (question.asker, &question.grades), &places);
            if let Some(trec) = &mut self.trec {
                trec.write(lot, direction, (&asked.id, rankings), &self.methods)?;
            }
            let last = rankings.last().expect("there is a method");
            if asked.ranks.last() != Some(&Some(1)) {
                self.fail(lot, direction, (&asked, &question.grades), last);
            }
            self.questions.push(asked);
        }
        Ok(())
    }

    fn question(
        &self,
        lot: &Lot,
        direction: Direction,
        (asker, grades): (usize, &BTreeMap<usize, u32>),
        places: &[Vec<usize>],
    ) -> Question {
        let Dataset { documents, queries, .. } = self.data;
        let (id, text, about) = match direction {
            Direction::ToDocument => {
                let query = &queries[lot.queries[asker]];
                let about = *grades.keys().next().expect("something belongs");
                (&query.id, Some(&query.text), &documents[about].id)
            }
            Direction::ToQuery => {
                let document = &documents[asker];
                let text = match &document.content {
                    Content::Text(text) => Some(text),
                    Content::Picture(_) => None,
                };
                (&document.id, text, &document.id)
            }
        };
        Question {
            direction,
            // A document asks once for the texts of each language.
            id: match direction {
                Direction::ToQuery if !lot.language.is_empty() => format!("{id} [{}]", lot.language),
                _ => id.clone(),
            },
            cluster: about.clone(),
            language: lot.language.clone(),
            n_words: text.map_or(0, |text| text.unicode_words().count()),
            is_joined: lot.is_joined,
            ranks: places.iter().map(|places| first_rank(places, grades)).collect(),
            ndcg: places.iter().map(|places| ndcg(places, grades, NDCG_AT)).collect(),
        }
    }

    /// Keeps the worst of each direction; of a document only one.
    fn fail(
        &mut self,
        lot: &Lot,
        direction: Direction,
        (asked, grades): (&Question, &BTreeMap<usize, u32>),
        last: &Ranking,
    ) {
        let place = |question: &Question| question.ranks.last().copied().flatten().unwrap_or(u32::MAX);
        let failures = self.failures.entry(direction).or_default();
        let known: BTreeSet<&str> =
            failures.iter().map(|failed| self.questions[failed.question].cluster.as_str()).collect();
        let least = failures.last().map_or(0, |failed| place(&self.questions[failed.question]));
        if known.contains(asked.cluster.as_str()) || failures.len() == N_FAILURES && place(asked) <= least {
            return;
        }
        // The first that belongs, or the best of what was not found; what stands above does not belong.
        let found = last.iter().find(|(place, _)| grades.contains_key(place)).map(|(place, _)| *place);
        let best = grades.iter().max_by_key(|(place, grade)| (**grade, std::cmp::Reverse(**place)));
        let right = found.unwrap_or(*best.expect("something belongs").0);
        let above = last.iter().take_while(|(place, _)| Some(*place) != found).take(N_ABOVE).copied().collect();
        let queries = (direction == Direction::ToQuery).then(|| lot.queries.clone());
        // Where it stands among the questions once it is among them.
        failures.push(Failed { question: self.questions.len(), right, above, queries });
        let questions = &self.questions;
        let rank = |failed: &Failed| questions.get(failed.question).map_or(place(asked), place);
        failures.sort_by_key(|failed| std::cmp::Reverse(rank(failed)));
        failures.truncate(N_FAILURES);
    }

    pub fn results(self, store: &Store, network: Option<&Network>) -> anyhow::Result<Results> {
        let n = self.questions.len();
        let names = ["exact search", "index search", "words", "re-ranking"];
        let timed = names.into_iter().zip(self.seconds).filter(|(_, seconds)| *seconds > 0.0);
        let stages = timed.map(|(name, seconds)| Stage { name: name.to_owned(), seconds, n }).collect();
        let failures = self.failures.values().flatten().map(|failed| self.shown(failed)).collect();
        let Dataset { name, protocol, about, notes, documents, queries, .. } = self.data;
        if let Some(trec) = self.trec {
            trec.end()?;
        }
        Ok(Results {
            firn: env!("CARGO_PKG_VERSION").to_owned(),
            dataset: name.clone(),
            protocol: protocol.clone(),
            about: about.clone(),
            n_documents: documents.len(),
            n_queries: queries.len(),
            notes: notes.iter().cloned().chain(self.ways.note(self.data)).collect(),
            model: store.model.clone(),
            reranker: network.map(|network| network.made.clone()),
            depth: self.depth,
            is_as_published: self.data.is_as_published,
            own_judgements: self.data.own_judgements,
            index: Some(self.ways.index(&store.documents.config().hnsw)),
            data_hash: self.data.hash(),
            methods: self.methods,
            stages,
            calibration: bins(self.promises),
            failures,
            questions: self.questions,
        })
    }

    fn shown(&self, failed: &Failed) -> Failure {
        let question = &self.questions[failed.question];
        let Dataset { documents, queries, .. } = self.data;
        let document = |place: usize, score: Option<f32>| {
            let document = &documents[place];
            let (picture, text) = match &document.content {
                Content::Picture(path) => (Some(path.clone()), None),
                Content::Text(text) => (None, Some(text.clone())),
            };
            Shown { id: document.id.clone(), picture, text, score }
        };
        let query = |place: usize, score: Option<f32>| {
            let query = &queries[place];
            Shown { id: query.id.clone(), picture: None, text: Some(query.text.clone()), score }
        };
        let at = |place: usize, score: Option<f32>| match &failed.queries {
            Some(lot) => query(lot[place], score),
            None => document(place, score),
        };
        let asks = match &failed.queries {
            Some(_) => {
                documents.iter().position(|document| document.id == question.cluster).map(|place| document(place, None))
            }
            None => queries.iter().position(|query| query.id == question.id).map(|place| query(place, None)),
        };
        Failure {
            direction: question.direction,
            query: asks.unwrap_or_default(),
            right: at(failed.right, None),
            rank: question.ranks.last().copied().flatten(),
            above: failed.above.iter().map(|&(place, score)| at(place, Some(score))).collect(),
        }
    }
}

/// Equally many promises in each.
fn bins(mut promises: Vec<(f32, bool)>) -> Vec<Bin> {
    promises.sort_by(|a, b| a.0.total_cmp(&b.0));
    let bin = |some: &[(f32, bool)]| {
        let n = some.len();
        let promised = some.iter().map(|(promise, _)| f64::from(*promise)).sum::<f64>() / n as f64;
        Bin { n, promised, found: some.iter().filter(|(_, belongs)| *belongs).count() as f64 / n as f64 }
    };
    promises.chunks(promises.len().div_ceil(N_BINS).max(1)).map(bin).collect()
}

/// Judgements, and a run for each direction, kind of text and method. Written aside, and put in the place of what was there at the end.
struct Trec<'a> {
    data: &'a Dataset,
    folder: &'a Path,
    aside: PathBuf,
    runs: HashMap<String, BufWriter<File>>,
}

impl<'a> Trec<'a> {
    fn new(folder: &'a Path, data: &'a Dataset) -> anyhow::Result<Trec<'a>> {
        let aside = folder.with_extension("new");
        remove(&aside)?;
        fs::create_dir_all(&aside).with_context(|| aside.display().to_string())?;
        let mut of_kind: BTreeMap<String, Qrels> = BTreeMap::new();
        for judged in &data.judgements {
            let (query, document) = (&data.queries[judged.query], &data.documents[judged.document]);
            let mut judge = |direction, topic: String, found: &str| {
                let qrels = of_kind.entry(name_of(direction, query.is_joined)).or_default();
                qrels.entry(topic).or_default().insert(found.to_owned(), judged.grade as i32);
            };
            judge(Direction::ToDocument, query.id.clone(), &document.id);
            let asks = match query.language.as_str() {
                "" => document.id.clone(),
                language => format!("{} [{language}]", document.id),
            };
            judge(Direction::ToQuery, asks, &query.id);
        }
        for (kind, qrels) in of_kind {
            let path = aside.join(format!("qrels.{kind}.txt"));
            fs::write(&path, qrels_text(&qrels)).with_context(|| path.display().to_string())?;
        }
        Ok(Trec { data, folder, aside, runs: HashMap::new() })
    }

    /// Other tools sort by the score alone: where it does not fall from place to place, as behind the candidates that were re-ranked, it
    /// is written a little lower.
    fn write(
        &mut self,
        lot: &Lot,
        direction: Direction,
        (topic, rankings): (&str, &[Ranking]),
        methods: &[String],
    ) -> anyhow::Result<()> {
        for (method, ranking) in methods.iter().zip(rankings) {
            let name = format!("run.{}.{method}.txt", name_of(direction, lot.is_joined));
            let path = self.aside.join(&name);
            let file = match self.runs.entry(name) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    let file = File::create(&path).with_context(|| path.display().to_string())?;
                    entry.insert(BufWriter::new(file))
                }
            };
            let id = |place: usize| match direction {
                Direction::ToDocument => self.data.documents[place].id.as_str(),
                Direction::ToQuery => self.data.queries[lot.queries[place]].id.as_str(),
            };
            let mut last = f32::INFINITY;
            let mut falling = |score: f32| {
                last = score.min(last.next_down());
                last
            };
            let lines = run_text(topic, ranking.iter().map(|&(place, score)| (id(place), falling(score))), method);
            file.write_all(lines.as_bytes()).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn end(self) -> anyhow::Result<()> {
        for (name, mut file) in self.runs {
            file.flush().with_context(|| name)?;
        }
        remove(self.folder)?;
        fs::rename(&self.aside, self.folder).with_context(|| self.folder.display().to_string())
    }
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

fn name_of(direction: Direction, is_joined: bool) -> String {
    let direction = match direction {
        Direction::ToDocument => "to_document",
        Direction::ToQuery => "to_query",
    };
    format!("{direction}{}", if is_joined { ".joined" } else { "" })
}
