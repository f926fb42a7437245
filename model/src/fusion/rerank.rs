//! What re-ranking is worth: the first candidates by cosine, their logits, and the order that a blend of both gives. The
//! weight of the logit is chosen on other images than those it is judged on, and may be 0.

use std::collections::BTreeMap;

use candle_core::Result;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Network, Pairs};

/// Who looks for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    TextToImage,
    ImageToText,
}

/// A question with its candidates, nearest first.
#[derive(Clone, Debug, PartialEq)]
struct Question {
    /// The image that it is about: questions about one image are not independent.
    image: usize,
    cosines: Vec<f32>,
    logits: Vec<f32>,
    belongs: Vec<bool>,
    /// Others that stand before the first that belongs, by cosine; of equal cosines the own one comes last.
    rank: usize,
}

/// Questions whose candidates a network has looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reranking {
    questions: Vec<Question>,
}

/// What a logit may count beside a cosine; 0 is the cosine alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights(pub Vec<f32>);

impl Default for Weights {
    fn default() -> Weights {
        Weights(std::iter::once(0.0).chain((0..24).map(|i| 0.001 * 1.35f32.powi(i))).collect())
    }
}

/// Shares of questions, 0 to 1, with what belongs among the first 1, 5 and 10, and the mean of one over the rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Found {
    pub at_1: f64,
    pub at_5: f64,
    pub at_10: f64,
    pub mrr: f64,
}

/// With and without re-ranking on the same questions, paired.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Gain {
    pub n_questions: usize,
    pub n_images: usize,
    pub cosine: Found,
    pub reranked: Found,
    /// 95 % interval of the difference in R@1, by bootstrap over images.
    pub interval: [f64; 2],
    /// Share of resamples in which R@1 was not better.
    pub p: f64,
    /// Chosen in each fold.
    pub weights: Vec<f32>,
}

const N_RESAMPLES: usize = 4000;

impl Reranking {
    /// Asks `queries` (texts, or images by direction) among all images, or texts, of `gallery`.
    pub fn ask(
        network: &Network,
        pairs: &Pairs,
        direction: Direction,
        queries: &[usize],
        gallery: &[usize],
        n_candidates: usize,
    ) -> Result<Reranking> {
        const AT_ONCE: usize = 64;
        let mut questions = Vec::with_capacity(queries.len());
        for piece in queries.chunks(AT_ONCE) {
            let (from, to) = match direction {
                Direction::TextToImage => (&pairs.texts, &pairs.images),
                Direction::ImageToText => (&pairs.images, &pairs.texts),
            };
            let scores = from.cosines(piece, to, gallery);
            let mut together = Vec::new();
            for (&query, scores) in piece.iter().zip(scores.chunks_exact(gallery.len())) {
                let image = if direction == Direction::TextToImage { pairs.owner_of[query] } else { query };
                let belongs = |at: usize| match direction {
                    Direction::TextToImage => gallery[at] == image,
                    Direction::ImageToText => pairs.owner_of[gallery[at]] == image,
                };
                let mut order: Vec<usize> = (0..gallery.len()).collect();
                order.sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(belongs(a).cmp(&belongs(b))));
                let rank = order.iter().position(|&at| belongs(at)).unwrap_or(gallery.len());
                order.truncate(n_candidates);
                let pair = |at: &usize| match direction {
                    Direction::TextToImage => (query, gallery[*at]),
                    Direction::ImageToText => (gallery[*at], query),
                };
                together.extend(order.iter().map(pair));
                questions.push(Question {
                    image,
                    cosines: order.iter().map(|&at| scores[at]).collect(),
                    belongs: order.iter().map(|&at| belongs(at)).collect(),
                    logits: Vec::new(),
                    rank,
                });
            }
            let mut logits = network.score(&pairs.images, &pairs.texts, &together)?.into_iter();
            let first = questions.len() - piece.len();
            for question in &mut questions[first..] {
                question.logits = logits.by_ref().take(question.cosines.len()).collect();
            }
        }
        Ok(Reranking { questions })
    }

    /// The weight that finds best, by the mean of one over the rank; the smaller of equals.
    pub fn best_weight(&self, weights: &Weights) -> f32 {
        let all: Vec<&Question> = self.questions.iter().collect();
        best_weight(&all, weights)
    }

    /// Nested: images fall into folds, and the weight for each fold is chosen on all others.
    pub fn gain(&self, weights: &Weights, n_folds: usize, seed: u64) -> Gain {
        let mut images: Vec<usize> = self.questions.iter().map(|question| question.image).collect();
        images.sort_unstable();
        images.dedup();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let n_folds = n_folds.clamp(1, images.len().max(1));
        let fold_of: BTreeMap<usize, usize> = {
            let mut shuffled = images.clone();
            (1..shuffled.len()).rev().for_each(|i| shuffled.swap(i, rng.random_range(0..=i)));
            shuffled.into_iter().enumerate().map(|(at, image)| (image, at % n_folds)).collect()
        };
        let chosen: Vec<f32> = (0..n_folds)
            .map(|fold| {
                let others: Vec<&Question> = self.questions.iter().filter(|q| fold_of[&q.image] != fold).collect();
                best_weight(&others, weights)
            })
            .collect();
        // (image, rank by cosine, rank after re-ranking)
        let ranks: Vec<(usize, usize, usize)> = self
            .questions
            .iter()
            .map(|question| (question.image, question.rank, question.rank_by(chosen[fold_of[&question.image]])))
            .collect();
        let (interval, p) = bootstrap(&ranks, &mut rng);
        Gain {
            n_questions: ranks.len(),
            n_images: images.len(),
            cosine: Found::of(ranks.iter().map(|rank| rank.1)),
            reranked: Found::of(ranks.iter().map(|rank| rank.2)),
            interval,
            p,
            weights: chosen,
        }
    }

    /// With this weight.
    pub fn found(&self, weight: f32) -> Found {
        Found::of(self.questions.iter().map(|question| question.rank_by(weight)))
    }

    /// Ordered by the logits alone.
    pub fn by_logits_alone(&self) -> Found {
        Found::of(self.questions.iter().map(|question| question.rank_by(f32::INFINITY)))
    }
}

impl Question {
    /// Within the candidates; what is not among them keeps its rank.
    fn rank_by(&self, weight: f32) -> usize {
        if !self.belongs.contains(&true) {
            return self.rank;
        }
        let score = |at: usize| match weight {
            w if w == f32::INFINITY => self.logits[at],
            0.0 => self.cosines[at],
            w => self.cosines[at] + w * self.logits[at],
        };
        let all = 0..self.cosines.len();
        let own = all.clone().filter(|&at| self.belongs[at]).map(score).fold(f32::NEG_INFINITY, f32::max);
        // A score that is no number is below every other.
        all.filter(|&at| !self.belongs[at] && score(at) >= own).count()
    }
}

fn best_weight(questions: &[&Question], weights: &Weights) -> f32 {
    let mrr = |weight: f32| questions.iter().map(|q| 1.0 / (1 + q.rank_by(weight)) as f64).sum::<f64>();
    let mut best = (0.0, mrr(0.0));
    for &weight in &weights.0 {
        let reached = mrr(weight);
        if reached > best.1 {
            best = (weight, reached);
        }
    }
    best.0
}

impl Found {
    fn of(ranks: impl Iterator<Item = usize>) -> Found {
        let (mut n, mut found) = (0.0f64, Found::default());
        for rank in ranks {
            n += 1.0;
            let within = |cut: usize| if rank < cut { 1.0 } else { 0.0 };
            found.at_1 += within(1);
            found.at_5 += within(5);
            found.at_10 += within(10);
            found.mrr += 1.0 / (1 + rank) as f64;
        }
        let n = n.max(1.0);
        Found { at_1: found.at_1 / n, at_5: found.at_5 / n, at_10: found.at_10 / n, mrr: found.mrr / n }
    }
}

/// Of (image, rank before, rank after): the 95 % interval of the difference in R@1, and the share of resamples without a gain.
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
    let n_without = differences.iter().filter(|&&difference| difference <= 0.0).count();
    ([share(0.025), share(0.975)], n_without as f64 / N_RESAMPLES as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(image: usize, cosines: &[f32], logits: &[f32], own: Option<usize>, rank: usize) -> Question {
        let belongs = (0..cosines.len()).map(|at| Some(at) == own).collect();
        Question { image, cosines: cosines.to_vec(), logits: logits.to_vec(), belongs, rank }
    }

    #[test]
    fn ranks_follow_the_blend() {
        let asked = question(0, &[0.9, 0.8, 0.7], &[0.0, 1.0, 3.0], Some(2), 2);
        assert_eq!([0.0, 0.05, 0.1, 1.0, f32::INFINITY].map(|w| asked.rank_by(w)), [2, 2, 0, 0, 0]);
        // Equal scores stand before the own one, and so do candidates that are no better than it.
        assert_eq!(question(0, &[0.5, 0.5], &[1.0, 1.0], Some(1), 1).rank_by(0.3), 1);
        // What is not among the candidates stays where it is.
        assert_eq!(question(0, &[0.5, 0.4], &[1.0, 1.0], None, 77).rank_by(0.3), 77);
    }

    #[test]
    fn a_network_that_knows_nothing_gets_no_weight() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let asked = |image: usize| question(image, &[0.9, 0.8, 0.7], &[0.0, 4.0, 2.0], Some(0), 0);
        let reranking = Reranking { questions: (0..40).map(asked).collect() };
        let gain = reranking.gain(&Weights::default(), 10, 1);
        assert_eq!((gain.cosine.at_1, gain.reranked.at_1, gain.interval), (1.0, 1.0, [0.0; 2]));
        assert_eq!(gain.weights, vec![0.0; 10]);
        assert_eq!(gain.p, 1.0);
        // Chance gives no gain that would be called one.
        let noise = |image: usize, rng: &mut ChaCha8Rng| {
            let logits: Vec<f32> = (0..10).map(|_| rng.random_range(-1.0..1.0)).collect();
            let own = image % 10;
            question(image, &[0.9, 0.88, 0.87, 0.86, 0.85, 0.84, 0.83, 0.82, 0.81, 0.8], &logits, Some(own), own)
        };
        let questions = (0..400).map(|image| noise(image, &mut rng)).collect();
        let gain = Reranking { questions }.gain(&Weights::default(), 10, 1);
        assert!(gain.interval[0] <= 0.0, "{gain:?}");
    }

    #[test]
    fn a_network_that_knows_is_seen_to() {
        let asked = |image: usize| match image % 4 {
            0 => question(image, &[0.9, 0.8], &[0.0, 5.0], Some(1), 1),
            _ => question(image, &[0.9, 0.8], &[5.0, 0.0], Some(0), 0),
        };
        let gain = Reranking { questions: (0..200).map(asked).collect() }.gain(&Weights::default(), 5, 1);
        assert_eq!((gain.n_questions, gain.n_images, gain.cosine.at_1, gain.reranked.at_1), (200, 200, 0.75, 1.0));
        assert!(gain.interval[0] > 0.15 && gain.interval[1] < 0.35 && gain.p == 0.0, "{gain:?}");
        assert!(gain.weights.iter().all(|&weight| weight > 0.0));
    }
}
