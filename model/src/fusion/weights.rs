//! What a logit and a hubness count beside a cosine, chosen on questions whose answers are known: the best that is better by more than chance,
//! and makes no lot worse.

use std::collections::BTreeMap;

use super::rerank::Question;

/// What counts beside a cosine: so much of the logit is added, so much of the hubness is taken off. Of 0 it does not matter what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Weight {
    pub logit: f32,
    pub hubness: f32,
}

impl Weight {
    /// The cosine alone.
    pub const NONE: Weight = Weight { logit: 0.0, hubness: 0.0 };

    pub(super) fn without_logit(self) -> Weight {
        Weight { logit: 0.0, ..self }
    }

    pub fn score(self, cosine: f32, logit: f32, hubness: f32) -> f32 {
        let of = |weight: f32, number: f32| if weight == 0.0 { 0.0 } else { weight * number };
        cosine + of(self.logit, logit) - of(self.hubness, hubness)
    }
}

/// What a logit and a hubness may count beside a cosine.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    pub logit: Vec<f32>,
    pub hubness: Vec<f32>,
}

impl Default for Weights {
    fn default() -> Weights {
        let logit = std::iter::once(0.0).chain((0..24).map(|i| 0.001 * 1.35f32.powi(i))).collect();
        Weights { logit, hubness: (0..=10).map(|i| 0.1 * i as f32).collect() }
    }
}

/// What weights gain each question over others, in one over the rank.
fn gains(questions: &[&Question], weight: Weight, than: Weight) -> Vec<f64> {
    let worth = |question: &Question, weight: Weight| 1.0 / (1 + question.rank_by(weight)) as f64;
    questions.iter().map(|question| worth(question, weight) - worth(question, than)).collect()
}

/// Those of `all` that find best, and what they gain each question over `than`, which stays if none is better. Those that are not `fit`
/// are passed over.
pub(super) fn best_of(
    questions: &[&Question],
    than: Weight,
    all: impl Iterator<Item = Weight>,
    is_fit: impl Fn(Weight, &[f64]) -> bool,
) -> (Weight, Vec<f64>) {
    let mut best = (than, 0.0, Vec::new());
    for weight in all {
        let gains = gains(questions, weight, than);
        let gained: f64 = gains.iter().sum();
        if gained > best.1 && is_fit(weight, &gains) {
            best = (weight, gained, gains);
        }
    }
    (best.0, best.2)
}

pub(super) fn of_logit(with: Weight, weights: &Weights) -> impl Iterator<Item = Weight> {
    weights.logit.iter().map(move |&logit| Weight { logit, ..with })
}

fn of_hubness(weights: &Weights) -> impl Iterator<Item = Weight> {
    weights.hubness.iter().map(|&hubness| Weight { hubness, ..Weight::NONE })
}

/// A weight is taken only if it is better than none by so many standard errors.
const LEAST_ERRORS: f64 = 1.64;
/// Images that the questions of a lot are about, of which fewer are too few to say that it loses.
pub const LEAST_OF_LOT: usize = 200;

/// First what hubness counts, then what a logit adds to that: each has to be better than without, and the second costs a network.
pub(super) fn sure_weight(questions: &[&Question], weights: &Weights) -> Weight {
    let with_hubness = sure_of(questions, Weight::NONE, of_hubness(weights));
    sure_of(questions, with_hubness, of_logit(with_hubness, weights))
}

/// The best that makes no lot worse, if it is better by more than chance.
fn sure_of(questions: &[&Question], than: Weight, all: impl Iterator<Item = Weight>) -> Weight {
    let (weight, gains) = best_of(questions, than, all, |weight, gains| is_harmless(questions, weight, than, gains));
    let gained = questions.iter().zip(gains).map(|(question, gain)| (question.image, gain));
    let (gained, error, _) = sum_of_images(gained);
    if gained > LEAST_ERRORS * error { weight } else { than }
}

/// A sum over questions, its standard error, and how many images they are about: these, not their questions, are drawn.
fn sum_of_images(numbers: impl Iterator<Item = (usize, f64)>) -> (f64, f64, usize) {
    let mut by_image: BTreeMap<usize, f64> = BTreeMap::new();
    numbers.for_each(|(image, number)| *by_image.entry(image).or_default() += number);
    let (n, sum) = (by_image.len() as f64, by_image.values().sum::<f64>());
    let squares: f64 = by_image.values().map(|number| (number - sum / n.max(1.0)).powi(2)).sum();
    (sum, (squares * n / (n - 1.0).max(1.0)).sqrt(), by_image.len())
}

/// Whether no lot of some size loses more than its standard error, by one over the rank or by what comes first.
fn is_harmless(questions: &[&Question], weight: Weight, than: Weight, gains: &[f64]) -> bool {
    let mut lots: BTreeMap<usize, [Vec<(usize, f64)>; 2]> = BTreeMap::new();
    for (question, gain) in questions.iter().zip(gains) {
        let is_first = |weight: Weight| f64::from(u8::from(question.rank_by(weight) == 0));
        let [by_rank, by_first] = lots.entry(question.lot).or_default();
        by_rank.push((question.image, *gain));
        by_first.push((question.image, is_first(weight) - is_first(than)));
    }
    lots.into_values().flatten().all(|gains| {
        let (gained, error, n) = sum_of_images(gains.into_iter());
        n < LEAST_OF_LOT || gained >= -error
    })
}
