//! What re-ranking is worth: the first candidates by cosine, their logits and hubness, and the order that a blend of them gives. The
//! weights are chosen on other images than those they are judged on, and may be 0.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    time::Instant,
};

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use rayon::prelude::*;

use super::{
    Calibration, Items, Pairs, Telling, Weight, Weights,
    weights::{best_of, of_logit, sure_weight},
};
use crate::Result;

/// What looks at pairs, however it computes.
pub trait Scorer {
    /// What each pair, (text, image), is to have in addition to its cosine.
    fn score(&self, images: &Items, texts: &Items, pairs: &[(usize, usize)]) -> Result<Vec<f32>>;

    /// The same, if it is there by then; none if it waited too long behind other work.
    fn score_by(
        &self,
        images: &Items,
        texts: &Items,
        pairs: &[(usize, usize)],
        _deadline: Instant,
    ) -> Result<Option<Vec<f32>>> {
        self.score(images, texts, pairs).map(Some)
    }
}

/// What the first order is made by: of pairs' own vectors, or a blend of others. The place of an item is its place in the pairs.
pub struct Cosines<'a> {
    pub images: &'a Items,
    pub texts: &'a Items,
    pub hubs: Telling<'a>,
}

impl<'a> Cosines<'a> {
    pub fn of(pairs: &'a Pairs) -> Cosines<'a> {
        Cosines { images: &pairs.images, texts: &pairs.texts, hubs: Telling::Nobody }
    }
}

/// Who looks for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    TextToImage,
    ImageToText,
}

/// A question with its candidates, nearest first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    /// The text or image that asks, and of which lot, where several are one.
    query: usize,
    pub lot: usize,
    /// The image that it is about: questions about one image are not independent.
    pub image: usize,
    cosines: Vec<f32>,
    logits: Vec<f32>,
    hubness: Vec<f32>,
    belongs: Vec<bool>,
    /// Others that stand before the first that belongs, by cosine; of equal cosines the own one comes last.
    rank: usize,
    /// How many there are that belong, candidates or not.
    n_belong: usize,
}

/// A candidate with its score, for calibration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Judgement {
    pub fold: usize,
    pub score: f32,
    pub belongs: bool,
}

/// Questions whose candidates a network has looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reranking {
    questions: Vec<Question>,
}

/// Weights for each fold of images, chosen on all others.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    fold_of: BTreeMap<usize, usize>,
    weights: Vec<Weight>,
}

/// Shares of questions, 0 to 1, with what belongs among the first 1, 5 and 10; the mean of one over the rank; nDCG of the first 10, where
/// what belongs gains 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Found {
    pub at_1: f64,
    pub at_5: f64,
    pub at_10: f64,
    pub mrr: f64,
    pub ndcg: f64,
}

/// With and without re-ranking on the same questions, paired.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Gain {
    pub n_questions: usize,
    pub n_images: usize,
    pub cosine: Found,
    /// By cosine and hubness alone, without a network.
    pub without_logit: Found,
    pub reranked: Found,
    /// 95 % interval of the difference in R@1 to cosine, by bootstrap over images.
    pub interval: [f64; 2],
    /// The same of what the network adds to cosine and hubness.
    pub interval_of_logit: [f64; 2],
    /// Two-sided p-value of the difference to cosine, by the same resamples.
    pub p: f64,
    /// Chosen in each fold.
    pub weights: Vec<Weight>,
}

const N_RESAMPLES: usize = 4000;
const NDCG_AT: usize = 10;

impl Reranking {
    /// Asks `queries` (texts, or images by direction) among all images, or texts, of `gallery`: the first by `base`, then the network, if
    /// there is one; without one, logits are 0. None if `report`, which is told how many more have been asked, breaks it off.
    pub fn ask(
        network: Option<&dyn Scorer>,
        pairs: &Pairs,
        base: &Cosines,
        direction: Direction,
        (queries, gallery): (&[usize], &[usize]),
        n_candidates: usize,
        report: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Reranking>> {
        const AT_ONCE: usize = 64;
        let mut questions = Vec::with_capacity(queries.len());
        let (from, to) = match direction {
            Direction::TextToImage => (base.texts, base.images),
            Direction::ImageToText => (base.images, base.texts),
        };
        let hubness = base.hubs.hubness(direction, to, gallery);
        for piece in queries.chunks(AT_ONCE) {
            let scores = from.cosines(piece, to, gallery);
            let mut together = Vec::new();
            for (&query, scores) in piece.iter().zip(scores.chunks_exact(gallery.len())) {
                let image = if direction == Direction::TextToImage { pairs.owner_of[query] } else { query };
                let belongs_to = |item: usize| match direction {
                    Direction::TextToImage => item == image,
                    Direction::ImageToText => pairs.owner_of[item] == image,
                };
                let belongs = |at: usize| belongs_to(gallery[at]);
                let mut order: Vec<usize> = (0..gallery.len()).collect();
                order.sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(belongs(a).cmp(&belongs(b))));
                let rank = order.iter().position(|&at| belongs(at)).unwrap_or(gallery.len());
                let n_belong = gallery.iter().filter(|&&at| belongs_to(at)).count();
                order.truncate(n_candidates);
                let pair = |at: &usize| match direction {
                    Direction::TextToImage => (query, gallery[*at]),
                    Direction::ImageToText => (gallery[*at], query),
                };
                together.extend(order.iter().map(pair));
                questions.push(Question {
                    query,
                    lot: 0,
                    image,
                    cosines: order.iter().map(|&at| scores[at]).collect(),
                    belongs: order.iter().map(|&at| belongs(at)).collect(),
                    logits: vec![0.0; order.len()],
                    hubness: order.iter().map(|&at| hubness[at]).collect(),
                    rank,
                    n_belong,
                });
            }
            if let Some(network) = network {
                let mut logits = network.score(&pairs.images, &pairs.texts, &together)?.into_iter();
                let first = questions.len() - piece.len();
                for question in &mut questions[first..] {
                    question.logits = logits.by_ref().take(question.cosines.len()).collect();
                }
            }
            if report(piece.len()).is_break() {
                return Ok(None);
            }
        }
        Ok(Some(Reranking { questions }))
    }

    /// What a logit is to count beside what hubness does, to find best by the mean of one over the rank; the smaller of equals.
    pub fn best_weight(&self, with: Weight, weights: &Weights) -> Weight {
        let all: Vec<&Question> = self.questions.iter().collect();
        best_of(&all, with, of_logit(with, weights), |_, _| true).0
    }

    /// The same of both, and of weights that make no lot worse; 0 of each that is not better than without by more than chance.
    pub fn sure_weight(&self, weights: &Weights) -> Weight {
        sure_weight(&self.questions.iter().collect::<Vec<_>>(), weights)
    }

    /// Nested: images fall into folds, and the weights for each fold are chosen on all others.
    pub fn choose(&self, weights: &Weights, n_folds: usize, seed: u64) -> Chosen {
        let fold_of = self.folds(n_folds, seed);
        let n_folds = fold_of.values().max().map_or(1, |last| last + 1);
        let choose = |fold: usize| {
            let others: Vec<&Question> = self.questions.iter().filter(|q| fold_of[&q.image] != fold).collect();
            sure_weight(&others, weights)
        };
        let weights = (0..n_folds).into_par_iter().map(choose).collect();
        Chosen { fold_of, weights }
    }

    /// Of all questions.
    pub fn gain(&self, weights: &Weights, n_folds: usize, seed: u64) -> Gain {
        self.gain_of(&self.choose(weights, n_folds, seed), seed, |_, _| true)
    }

    /// Of the questions of some lots and texts, or images by direction, by weights that were chosen on all.
    pub fn gain_of(&self, chosen: &Chosen, seed: u64, wanted: impl Fn(usize, usize) -> bool) -> Gain {
        let asked: Vec<(&Question, Weight)> = self
            .questions
            .iter()
            .filter(|question| wanted(question.lot, question.query))
            .map(|question| (question, chosen.weights[chosen.fold_of[&question.image]]))
            .collect();
        let ranks: Vec<[usize; 4]> = asked
            .iter()
            .map(|(q, weight)| [q.image, q.rank, q.rank_by(weight.without_logit()), q.rank_by(*weight)])
            .collect();
        let difference = |before: usize, after: usize| {
            let ranks: Vec<_> = ranks.iter().map(|ranks| (ranks[0], ranks[before], ranks[after])).collect();
            bootstrap(&ranks, &mut ChaCha8Rng::seed_from_u64(seed))
        };
        let (interval, p) = difference(1, 3);
        let images: BTreeSet<usize> = asked.iter().map(|(question, _)| question.image).collect();
        let found = |by: &dyn Fn(Weight) -> Weight| {
            Found::of(asked.iter().map(|(q, weight)| (q.rank_by(by(*weight)), q.ndcg_by(by(*weight)))))
        };
        Gain {
            n_questions: ranks.len(),
            n_images: images.len(),
            cosine: Found::of(asked.iter().map(|(question, _)| (question.rank, question.ndcg_by(Weight::NONE)))),
            without_logit: found(&|weight| weight.without_logit()),
            reranked: found(&|weight| weight),
            interval,
            interval_of_logit: difference(2, 3).0,
            p,
            weights: chosen.weights.clone(),
        }
    }

    /// Images in equal parts, by chance.
    fn folds(&self, n_folds: usize, seed: u64) -> BTreeMap<usize, usize> {
        let mut images: Vec<usize> = self.questions.iter().map(|question| question.image).collect();
        images.sort_unstable();
        images.dedup();
        images.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let n_folds = n_folds.clamp(1, images.len().max(1));
        images.into_iter().enumerate().map(|(at, image)| (image, at % n_folds)).collect()
    }

    /// What a score with this weight promises; none if there is nothing to tell apart.
    pub fn calibration(&self, weight: Weight, n_folds: usize, seed: u64) -> Option<Calibration> {
        let fold_of = self.folds(n_folds, seed);
        let of_question = |question: &Question| {
            let fold = fold_of[&question.image];
            let judge =
                |at: usize| Judgement { fold, score: question.score(at, weight), belongs: question.belongs[at] };
            (0..question.cosines.len()).map(judge).collect::<Vec<_>>()
        };
        let judgements: Vec<Judgement> = self.questions.iter().flat_map(of_question).collect();
        Calibration::fit(&judgements, fold_of.values().max().map_or(1, |last| last + 1))
    }

    /// Questions of different kinds together; each kind is a lot, by its place.
    pub fn of_all(all: Vec<Reranking>) -> Reranking {
        let of_lot = |(lot, one): (usize, Reranking)| one.questions.into_iter().map(move |q| Question { lot, ..q });
        Reranking { questions: all.into_iter().enumerate().flat_map(of_lot).collect() }
    }

    /// The same questions in lots that who asks decides.
    pub fn in_lots(mut self, lot_of: impl Fn(usize) -> usize) -> Reranking {
        self.questions.iter_mut().for_each(|question| question.lot = lot_of(question.query));
        self
    }

    /// With these weights.
    pub fn found(&self, weight: Weight) -> Found {
        Found::of(self.questions.iter().map(|question| (question.rank_by(weight), question.ndcg_by(weight))))
    }
}

impl Question {
    /// Within the candidates; what is not among them keeps its rank.
    pub fn rank_by(&self, weight: Weight) -> usize {
        if weight == Weight::NONE || !self.belongs.contains(&true) {
            return self.rank;
        }
        let score = |at: usize| self.score(at, weight);
        let all = 0..self.cosines.len();
        let own = all.clone().filter(|&at| self.belongs[at]).map(score).fold(f32::NEG_INFINITY, f32::max);
        // A score that is no number is below every other.
        all.filter(|&at| !self.belongs[at] && score(at) >= own).count()
    }
}

impl Question {
    fn score(&self, at: usize, weight: Weight) -> f32 {
        weight.score(self.cosines[at], self.logits[at], self.hubness[at])
    }

    /// Of equal scores what belongs comes last.
    fn ndcg_by(&self, weight: Weight) -> f64 {
        let mut order: Vec<usize> = (0..self.cosines.len()).collect();
        let score = |at: usize| self.score(at, weight);
        order.sort_unstable_by(|&a, &b| score(b).total_cmp(&score(a)).then(self.belongs[a].cmp(&self.belongs[b])));
        let worth = |place: usize| 1.0 / (place as f64 + 2.0).log2();
        let first = order.iter().take(NDCG_AT).enumerate();
        let gained: f64 = first.filter(|(_, at)| self.belongs[**at]).map(|(place, _)| worth(place)).sum();
        gained / (0..self.n_belong.clamp(1, NDCG_AT)).map(worth).sum::<f64>()
    }
}

impl Found {
    /// Of ranks, and nDCGs.
    fn of(found: impl Iterator<Item = (usize, f64)>) -> Found {
        let (mut n, mut sum) = (0.0f64, Found::default());
        for (rank, ndcg) in found {
            n += 1.0;
            let within = |cut: usize| if rank < cut { 1.0 } else { 0.0 };
            sum.at_1 += within(1);
            sum.at_5 += within(5);
            sum.at_10 += within(10);
            sum.mrr += 1.0 / (1 + rank) as f64;
            sum.ndcg += ndcg;
        }
        let mean = |sum: f64| sum / n.max(1.0);
        let Found { at_1, at_5, at_10, mrr, ndcg } = sum;
        Found { at_1: mean(at_1), at_5: mean(at_5), at_10: mean(at_10), mrr: mean(mrr), ndcg: mean(ndcg) }
    }
}

/// Of (image, rank before, rank after): the 95 % interval of the difference in R@1, and its two-sided p-value: twice the share of resamples
/// on the other side of 0.
fn bootstrap(ranks: &[(usize, usize, usize)], rng: &mut ChaCha8Rng) -> ([f64; 2], f64) {
    let mut by_image: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for &(image, before, after) in ranks {
        let (n, gained) = by_image.entry(image).or_default();
        *n += 1.0;
        *gained += f64::from(after == 0) - f64::from(before == 0);
    }
    let images: Vec<(f64, f64)> = by_image.into_values().collect();
    if images.is_empty() {
        return ([0.0; 2], 1.0);
    }
    let mut differences: Vec<f64> = (0..N_RESAMPLES)
        .map(|_| {
            let picked = (0..images.len()).map(|_| images[rng.random_range(0..images.len())]);
            let (n, gained) = picked.fold((0.0, 0.0), |sum, image| (sum.0 + image.0, sum.1 + image.1));
            gained / n
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    let share = |part: f64| differences[((N_RESAMPLES as f64 * part) as usize).min(N_RESAMPLES - 1)];
    let n = |is_there: &dyn Fn(f64) -> bool| differences.iter().filter(|difference| is_there(**difference)).count();
    let n_beyond = n(&|difference| difference <= 0.0).min(n(&|difference| difference >= 0.0));
    ([share(0.025), share(0.975)], (2.0 * n_beyond as f64 / N_RESAMPLES as f64).min(1.0))
}

#[cfg(test)]
mod tests;
