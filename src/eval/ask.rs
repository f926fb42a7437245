//! Questions of one lot in one direction: searched exactly and by the index, re-ranked.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use firn_eval::results::Direction;
use firn_index::{Candidate, Point};
use firn_model::fusion::{self, Items};
use rayon::prelude::*;

use super::{
    Ways,
    side::{Network, Side},
};
use crate::query::{self, Part, Reach};

/// Questions that are asked at a time.
const AT_ONCE: usize = 256;

/// Who asks, by its place on its own side, and how well what belongs to it does, by its place on the other.
pub struct Question {
    pub asker: usize,
    pub grades: BTreeMap<usize, u32>,
}

/// What is found, by place, best first.
pub type Ranking = Vec<(usize, f32)>;

/// Some questions with their answers.
pub struct Answered<'a> {
    pub questions: &'a [Question],
    /// By question, then method.
    pub rankings: Vec<Vec<Ranking>>,
    /// Of candidates that a network knows that of: the relevance that it promises, and whether they belong.
    pub promises: Vec<(f32, bool)>,
    pub took: Took,
}

impl Answered<'_> {
    pub fn len(&self) -> usize {
        self.questions.len()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    pub exact: Duration,
    pub index: Duration,
    pub words: Duration,
    pub rerank: Duration,
}

/// The text that asks, by its place on its side.
pub type TextOf<'a> = dyn Fn(usize) -> &'a str + Sync + 'a;

pub struct Asking<'a> {
    /// Where texts look for texts.
    pub text: Option<&'a TextOf<'a>>,
    pub askers: &'a Side,
    pub gallery: &'a Side,
    pub direction: Direction,
    /// Of the cosines.
    pub weights: &'a [f32],
    pub network: Option<&'a Network>,
    pub ways: &'a Ways,
}

impl Asking<'_> {
    /// Asks all, a few at a time.
    pub fn all(
        &self,
        questions: &[Question],
        take: &mut dyn FnMut(Answered) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let of_network = |network: &Network| {
            let hubness = self.hubness(network)?;
            anyhow::Ok((self.gallery.all_items()?, hubness))
        };
        let gallery = self.network.map(of_network).transpose()?;
        for some in questions.chunks(AT_ONCE) {
            let places: Vec<usize> = some.iter().map(|question| question.asker).collect();
            let mut points = self.askers.points(&places)?;
            let (exact, took_exact) = timed(|| self.search(&points, true))?;
            let (index, took_index) = timed(|| self.search(&points, false))?;
            let mut answered = Answered {
                questions: some,
                rankings: exact.into_iter().zip(index).map(|(exact, index)| vec![exact, index]).collect(),
                promises: Vec::new(),
                took: Took { exact: took_exact, index: took_index, ..Took::default() },
            };
            if let Some(text) = self.text {
                let (found, took) = timed(|| self.words(&points, &places, text))?;
                answered.rankings.iter_mut().zip(found).for_each(|(rankings, found)| rankings.extend(found));
                answered.took.words = took;
            }
            if let (Some(network), Some(gallery)) = (self.network, &gallery) {
                let ((), took) = timed(|| self.rerank(network, &mut points, gallery, &mut answered))?;
                answered.took.rerank = took;
            }
            take(answered)?;
        }
        Ok(())
    }

    fn search(&self, askers: &[Point], exact: bool) -> anyhow::Result<Vec<Ranking>> {
        let ranking = |point: &Point| -> anyhow::Result<Ranking> {
            let found = query::nearest(&self.gallery.reader, self.parts(point)?, self.reach(exact))?;
            Ok(self.ranking(&found))
        };
        askers.par_iter().map(ranking).collect()
    }

    /// By each way to look for words.
    fn words(&self, askers: &[Point], places: &[usize], text: &TextOf) -> anyhow::Result<Vec<Vec<Ranking>>> {
        let ways = self.ways.words().map(|(_, how)| how);
        let rankings = |(point, &place): (&Point, &usize)| -> anyhow::Result<Vec<Ranking>> {
            let (parts, reach) = (self.parts(point)?, self.reach(false));
            let found = query::nearest_with_words(&self.gallery.reader, parts, (text(place), &ways), reach)?;
            Ok(found.iter().map(|found| self.ranking(found)).collect())
        };
        askers.par_iter().zip(places).map(rankings).collect()
    }

    /// The index is asked for no more than its width: for more it would look further than it is said to.
    fn reach(&self, exact: bool) -> Reach {
        let Ways { depth, ef, .. } = *self.ways;
        Reach { limit: if exact { depth } else { depth.min(ef) }, ef: Some(ef), exact }
    }

    fn parts(&self, point: &Point) -> anyhow::Result<Vec<Part<'_>>> {
        let names = self.askers.names.iter().zip(&self.gallery.names).zip(self.weights);
        let parts: Option<Vec<Part>> = names
            .map(|((asks, using), &weight)| Some(Part { using, weight, vector: point.vectors.get(asks)?.clone() }))
            .collect();
        parts.ok_or_else(|| anyhow::anyhow!("point {} lacks a vector that is compared", point.id))
    }

    fn ranking(&self, found: &[Candidate]) -> Ranking {
        found.iter().map(|candidate| (self.gallery.place(candidate.row), candidate.score)).collect()
    }

    fn fusion_direction(&self) -> fusion::Direction {
        match self.direction {
            Direction::ToDocument => fusion::Direction::TextToImage,
            Direction::ToQuery => fusion::Direction::ImageToText,
        }
    }

    /// Of all that can be found, if it counts. What asks and what is asked are compared by vectors in the same places.
    fn hubness(&self, Network { reranker, .. }: &Network) -> anyhow::Result<Option<Vec<f32>>> {
        let documents = match self.direction {
            Direction::ToDocument => self.gallery,
            Direction::ToQuery => self.askers,
        };
        let name_of = |document: &str| {
            let place = documents.names.iter().position(|name| name == document);
            Some(self.gallery.names[place?].as_str())
        };
        let mut all = Vec::new();
        for page in self.gallery.pages() {
            let points = self.gallery.points(&page)?;
            let vector_of = |at: usize, name: &str| points[at].vectors.get(name_of(name)?).map(Vec::as_slice);
            let hubness = reranker.hubness(self.fusion_direction(), &vec![None; points.len()], vector_of);
            let Some(hubness) = hubness else { return Ok(None) };
            all.extend(hubness);
        }
        Ok(Some(all))
    }

    /// Adds a ranking for each number of candidates to every question.
    fn rerank(
        &self,
        Network { reranker, .. }: &Network,
        points: &mut [Point],
        (gallery, hubness): &(Items, Option<Vec<f32>>),
        answered: &mut Answered,
    ) -> anyhow::Result<()> {
        let askers = self.askers.items(points)?;
        let most = self.ways.candidates.iter().copied().max().unwrap_or(0);
        let mut pairs = Vec::new();
        for (asker, rankings) in answered.rankings.iter().enumerate() {
            let candidates = rankings[0].iter().take(most);
            pairs.extend(candidates.map(|&(place, _)| match self.direction {
                Direction::ToDocument => (asker, place),
                Direction::ToQuery => (place, asker),
            }));
        }
        let (images, texts) = match self.direction {
            Direction::ToDocument => (gallery, &askers),
            Direction::ToQuery => (&askers, gallery),
        };
        let logits = reranker.score(images, texts, &pairs)?.unwrap_or_else(|| vec![0.0; pairs.len()]);
        let (mut logits, direction) = (logits.into_iter(), self.fusion_direction());
        let weight = reranker.version.weight(direction);
        let hubness = |place: usize| hubness.as_ref().map_or(0.0, |hubness| hubness[place]);
        for (question, rankings) in answered.questions.iter().zip(&mut answered.rankings) {
            let first = &rankings[0];
            let of_first: Vec<f32> = logits.by_ref().take(most.min(first.len())).collect();
            let score = |at: usize| weight.score(first[at].1, of_first[at], hubness(first[at].0));
            let reranked = |n: usize| -> Ranking {
                let n = n.min(first.len());
                let mut ranking: Ranking = (0..n).map(|at| (first[at].0, score(at))).collect();
                ranking.sort_by(|a, b| b.1.total_cmp(&a.1));
                ranking.extend_from_slice(&first[n..]);
                ranking
            };
            let promise = |at: usize| {
                let relevance = reranker.version.relevance(direction, score(at))?;
                Some((relevance, question.grades.contains_key(&first[at].0)))
            };
            let n_judged = reranker.version.candidates.min(of_first.len());
            answered.promises.extend((0..n_judged).filter_map(promise));
            let all: Vec<Ranking> = self.ways.candidates.iter().map(|&n| reranked(n)).collect();
            rankings.extend(all);
        }
        Ok(())
    }
}

fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Duration)> {
    let start = Instant::now();
    let done = work()?;
    Ok((done, start.elapsed()))
}
