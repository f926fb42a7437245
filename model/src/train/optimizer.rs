//! AdamW with decoupled weight decay, warm-up, cosine decline and clipping of the whole gradient's length.

use crate::builtin::{layers::dot, layout::Layout};

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.98;
const EPSILON: f32 = 1e-8;
const DECAY: f32 = 0.05;
const CLIP: f32 = 1.0;
/// exp of it is 100, CLIP's bound.
const MAX_LOG_SCALE: f32 = 4.605;

/// The learning rate of each step: a linear rise, a level, and half a cosine down.
///
/// While the rate is level, a run does not depend on its end, so a checkpoint of that time can be carried on to another end.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Schedule {
    pub peak: f32,
    pub n_warm_up: u64,
    /// Steps of the way down, which ends the run.
    pub n_decline: u64,
    pub n_steps: u64,
}

impl Schedule {
    /// `step` counts from 0.
    pub fn rate(&self, step: u64) -> f32 {
        if step < self.n_warm_up {
            return self.peak * (step + 1) as f32 / self.n_warm_up as f32;
        }
        let done = step.saturating_sub(self.decline_start()) as f32 / self.n_decline.max(1) as f32;
        self.peak * (0.02 + 0.98 * 0.5 * (1.0 + (std::f32::consts::PI * done.min(1.0)).cos()))
    }

    /// Whether both take the first `n` steps alike.
    pub fn agrees_until(&self, other: &Schedule, n: u64) -> bool {
        let level = (self.peak, self.n_warm_up) == (other.peak, other.n_warm_up);
        self == other || (level && n <= self.decline_start().min(other.decline_start()))
    }

    fn decline_start(&self) -> u64 {
        self.n_steps.saturating_sub(self.n_decline).max(self.n_warm_up)
    }
}

/// Running means of the gradient and of its square.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    pub mean: Vec<f32>,
    pub square: Vec<f32>,
}

impl AdamW {
    pub fn new(n: usize) -> AdamW {
        AdamW { mean: vec![0.0; n], square: vec![0.0; n] }
    }

    /// `step` counts from 0. Gives the gradient's length before clipping.
    pub fn step(&mut self, layout: &Layout, weights: &mut [f32], gradient: &[f32], step: u64, rate: f32) -> f32 {
        let length = dot(gradient, gradient).sqrt();
        let clip = if length > CLIP { CLIP / length } else { 1.0 };
        let n = (step + 1).min(100_000) as i32;
        let (unbias_1, unbias_2) = (1.0 / (1.0 - BETA_1.powi(n)), 1.0 / (1.0 - BETA_2.powi(n)));
        for (name, range, _) in &layout.tensors {
            let decay = if layout.decays(name) { rate * DECAY } else { 0.0 };
            let state = self.mean[range.clone()].iter_mut().zip(&mut self.square[range.clone()]);
            let numbers = weights[range.clone()].iter_mut().zip(&gradient[range.clone()]);
            for ((weight, gradient), (mean, square)) in numbers.zip(state) {
                let gradient = gradient * clip;
                *mean = BETA_1 * *mean + (1.0 - BETA_1) * gradient;
                *square = BETA_2 * *square + (1.0 - BETA_2) * gradient * gradient;
                let move_by = *mean * unbias_1 / ((*square * unbias_2).sqrt() + EPSILON);
                *weight -= rate * move_by + decay * *weight;
            }
        }
        weights[layout.scale] = weights[layout.scale].clamp(0.0, MAX_LOG_SCALE);
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::net::tests::TINY;

    #[test]
    fn rates_rise_then_fall() {
        let schedule = Schedule { peak: 1.0, n_warm_up: 10, n_decline: 60, n_steps: 120 };
        let check = |step, expected: f32| assert!((schedule.rate(step) - expected).abs() < 1e-3, "{step}");
        check(0, 0.1);
        check(9, 1.0);
        check(60, 1.0);
        check(90, 0.51);
        check(120, 0.02);
        check(500, 0.02);
    }

    #[test]
    fn the_end_may_change_while_the_rate_is_level() {
        let short = Schedule { peak: 1.0, n_warm_up: 10, n_decline: 60, n_steps: 120 };
        let long = Schedule { n_steps: 200, n_decline: 50, ..short };
        assert!((0..60).all(|step| short.rate(step) == long.rate(step)));
        assert!(short.agrees_until(&long, 60) && !short.agrees_until(&long, 61) && short.agrees_until(&short, 120));
        assert!(!short.agrees_until(&Schedule { peak: 0.5, ..short }, 1));
    }

    #[test]
    fn decay_is_decoupled_and_spares_biases() {
        let layout = Layout::new(TINY);
        let mut weights = vec![1.0; layout.len()];
        AdamW::new(layout.len()).step(&layout, &mut weights, &vec![0.0; layout.len()], 0, 0.1);
        assert_eq!(weights[layout.stem.weight.start], 1.0 - 0.1 * DECAY);
        assert_eq!(weights[layout.stem.bias.start], 1.0);
        assert_eq!(weights[layout.image.norm.gain.start], 1.0);
        assert_eq!(weights[layout.table.start], 1.0);
        assert_eq!(weights[layout.scale], 1.0);
    }

    #[test]
    fn the_first_step_has_the_rates_length() {
        let layout = Layout::new(TINY);
        let mut weights = vec![0.0; layout.len()];
        let mut gradient = vec![0.0; layout.len()];
        gradient[layout.table.start] = 3.0;
        let length = AdamW::new(layout.len()).step(&layout, &mut weights, &gradient, 0, 0.1);
        assert_eq!(length, 3.0);
        assert!((weights[layout.table.start] + 0.1).abs() < 1e-5);
    }
}
