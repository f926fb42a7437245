//! From a score to how likely it is that a candidate belongs (Platt, 1999), and how far such a promise holds on other images.

use super::rerank::Judgement;

/// Between 0 and 1: `1 / (1 + exp(-(slope * score + offset)))`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Calibration {
    pub slope: f64,
    pub offset: f64,
    /// Mean difference, over bins of equally many candidates, between what was promised and what was so, on folds of images that the
    /// promise had not seen (expected calibration error).
    pub error: f64,
    /// Of each bin: the mean promise, the share that belongs, and how many there are.
    pub bins: Vec<(f64, f64, usize)>,
}

const N_BINS: usize = 10;
const N_ROUNDS: usize = 50;

impl Calibration {
    pub fn relevance(&self, score: f32) -> f32 {
        promise(self.slope, self.offset, f64::from(score)) as f32
    }

    /// None if all candidates belong, or none does, in one of the folds.
    pub(super) fn fit(judgements: &[Judgement], n_folds: usize) -> Option<Calibration> {
        let (slope, offset) = platt(judgements.iter())?;
        let mut promised: Vec<(f64, bool)> = Vec::with_capacity(judgements.len());
        for fold in 0..n_folds {
            let (slope, offset) = platt(judgements.iter().filter(|judgement| judgement.fold != fold))?;
            let of_fold = judgements.iter().filter(|judgement| judgement.fold == fold);
            promised.extend(of_fold.map(|j| (promise(slope, offset, f64::from(j.score)), j.belongs)));
        }
        promised.sort_by(|a, b| a.0.total_cmp(&b.0));
        let bins: Vec<(f64, f64, usize)> = promised.chunks(promised.len().div_ceil(N_BINS)).map(bin).collect();
        let off = |&(mean, share, n): &(f64, f64, usize)| (mean - share).abs() * n as f64;
        let error = bins.iter().map(off).sum::<f64>() / promised.len() as f64;
        Some(Calibration { slope, offset, error, bins })
    }
}

fn promise(slope: f64, offset: f64, score: f64) -> f64 {
    1.0 / (1.0 + (-(slope * score + offset)).exp())
}

fn bin(promised: &[(f64, bool)]) -> (f64, f64, usize) {
    let n = promised.len();
    let mean = promised.iter().map(|(promise, _)| promise).sum::<f64>() / n as f64;
    (mean, promised.iter().filter(|(_, belongs)| *belongs).count() as f64 / n as f64, n)
}

/// Slope and offset of most likelihood by Newton's method, with Platt's targets, which keep both finite.
fn platt<'a>(judgements: impl Iterator<Item = &'a Judgement> + Clone) -> Option<(f64, f64)> {
    let (mut n_own, mut n_others) = (0.0, 0.0);
    let (mut sum, mut squares) = (0.0, 0.0);
    for judgement in judgements.clone() {
        if judgement.belongs {
            n_own += 1.0
        } else {
            n_others += 1.0
        }
        sum += f64::from(judgement.score);
        squares += f64::from(judgement.score) * f64::from(judgement.score);
    }
    if n_own == 0.0 || n_others == 0.0 {
        return None;
    }
    // Standardised, so that the steps are well scaled.
    let n = n_own + n_others;
    let (mean, deviation) = (sum / n, (squares / n - (sum / n) * (sum / n)).max(1e-18).sqrt());
    let targets = [1.0 / (n_others + 2.0), (n_own + 1.0) / (n_own + 2.0)];
    let (mut a, mut b) = (0.0, (n_own / n_others).ln());
    for _ in 0..N_ROUNDS {
        let (mut slopes, mut curves) = ([0.0; 2], [1e-9, 0.0, 1e-9]);
        for judgement in judgements.clone() {
            let x = (f64::from(judgement.score) - mean) / deviation;
            let p = promise(a, b, x);
            let (wrong, weight) = (p - targets[usize::from(judgement.belongs)], p * (1.0 - p));
            slopes = [slopes[0] + wrong * x, slopes[1] + wrong];
            curves = [curves[0] + weight * x * x, curves[1] + weight * x, curves[2] + weight];
        }
        let determinant = curves[0] * curves[2] - curves[1] * curves[1];
        let step = [
            (curves[2] * slopes[0] - curves[1] * slopes[1]) / determinant,
            (curves[0] * slopes[1] - curves[1] * slopes[0]) / determinant,
        ];
        (a, b) = (a - step[0], b - step[1]);
        if step[0].abs() + step[1].abs() < 1e-9 {
            break;
        }
    }
    let fitted = (a / deviation, b - a * mean / deviation);
    (fitted.0.is_finite() && fitted.1.is_finite()).then_some(fitted)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn promises_are_kept() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let judgements: Vec<Judgement> = (0..20_000)
            .map(|at| {
                let score = rng.random_range(-1.0..1.0f32);
                let belongs = rng.random_bool(promise(4.0, -2.0, f64::from(score)));
                Judgement { fold: at % 5, score, belongs }
            })
            .collect();
        let found = Calibration::fit(&judgements, 5).unwrap();
        assert!((found.slope - 4.0).abs() < 0.2 && (found.offset + 2.0).abs() < 0.1, "{found:?}");
        assert!(found.error < 0.02 && found.bins.len() == 10, "{found:?}");
        assert!((found.relevance(0.5) - 0.5).abs() < 0.03);
        // Scores that say nothing promise what is usual.
        let blind: Vec<Judgement> =
            judgements.iter().map(|j| Judgement { score: 0.25, belongs: j.fold == 0 || j.belongs, ..*j }).collect();
        let found = Calibration::fit(&blind, 5).unwrap();
        let usual = blind.iter().filter(|j| j.belongs).count() as f32 / blind.len() as f32;
        assert!((found.relevance(0.25) - usual).abs() < 0.01, "{found:?} {usual}");
        let all: Vec<Judgement> = judgements.iter().map(|j| Judgement { belongs: true, ..*j }).collect();
        assert_eq!(Calibration::fit(&all, 5), None);
    }
}
