//! Lists, loss, gradients, weights: how a network learns from pairs.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Direction, Kind, Network, Pairs, Reranking, Shape, Sizes, Weights,
    lists::{Nearest, draw},
    loss::Losses,
};
use crate::{
    Error,
    learn::{
        layers::Pass,
        optimizer::{AdamW, Recipe},
    },
};

/// What makes two runs the same run.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    pub kind: Kind,
    pub sizes: Sizes,
    pub seed: u64,
    pub recipe: Recipe,
    pub losses: Losses,
    /// Lists a step, and candidates of each: one that belongs, and others.
    pub n_lists: usize,
    pub list_length: usize,
    /// The others are drawn from so many nearest ones.
    pub n_nearest: usize,
    /// Share of lists in which an image looks for its text.
    pub image_to_text: f64,
    pub dropout: f32,
    /// Longest that all gradients together may be.
    pub clip: f64,
    /// Steps between looks at the held-out images; the best network by R@1 of them is kept.
    pub evaluate_every: u64,
    /// Looks without anything better before the end.
    pub patience: usize,
}

impl Plan {
    pub fn new(kind: Kind, n_steps: u64, seed: u64) -> Plan {
        let recipe = Recipe { rate: 1e-3, betas: [0.9, 0.98], decay: 0.05, n_warm_up: 50, ..Recipe::flame(n_steps) };
        Plan {
            kind,
            sizes: Sizes::default(),
            seed,
            recipe,
            losses: Losses::default(),
            n_lists: 32,
            list_length: 16,
            n_nearest: 60,
            image_to_text: 0.25,
            dropout: 0.2,
            clip: 1.0,
            evaluate_every: 100,
            patience: 5,
        }
    }
}

/// Which images are learnt from, and which are only looked at to know when to stop.
pub struct Options<'a> {
    pub plan: &'a Plan,
    pub pairs: &'a Pairs,
    pub train: &'a [usize],
    pub held_out: &'a [usize],
    pub device: &'a Device,
}

/// After each step.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    pub step: u64,
    pub loss: f32,
    /// Share of lists whose first is the one that belongs.
    pub accuracy: f32,
    /// R@1 of the held-out images' texts: by cosine, and re-ranked with the best weight.
    pub held_out: Option<[f64; 2]>,
    pub elapsed: Duration,
}

/// Candidates of a held-out text that are looked at while training.
const N_CANDIDATES: usize = 50;
/// Fewer pairs teach nothing.
const MIN_PAIRS: usize = 16;

/// The network that found most of the held-out ones, and the step it was taken at. `Error::BadPairs` if there is nothing to learn from or
/// the loss is no number.
pub fn train(options: &Options, report: &mut dyn FnMut(&Progress)) -> crate::Result<(Network, u64)> {
    let Options { plan, pairs, device, .. } = *options;
    check(options).map_err(|detail| Error::BadPairs { detail })?;
    let texts_of = pairs.texts_of();
    let of = |images: &[usize]| images.iter().flat_map(|&image| &texts_of[image]).copied().collect::<Vec<usize>>();
    let (train_texts, held_out_texts) = (of(options.train), of(options.held_out));
    let described: Vec<usize> = options.train.iter().copied().filter(|&image| !texts_of[image].is_empty()).collect();
    let nearest = Nearest::mine(pairs, options.train, &train_texts, plan.n_nearest);

    let shape = Shape::of(&pairs.images, &pairs.texts);
    let network = Network::new(plan.kind, &shape, &plan.sizes, plan.seed, device)?;
    let mut optimizer = AdamW::new(&network.parameters)?;
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let (mut best, mut n_worse) = (Best::none(), 0);
    let start = Instant::now();
    for step in 0..plan.recipe.n_steps {
        let draws = Draws { pairs, texts_of: &texts_of, nearest: &nearest, texts: &train_texts, images: &described };
        let list = draws.lists(plan, &mut rng);
        let pass = Pass::noisy(DType::F32, plan.dropout, plan.seed, step);
        let (logits, added) = network.forward(&pairs.images, &pairs.texts, &list, &pass)?;
        let shape = (plan.n_lists, plan.list_length);
        let logits = logits.reshape(shape)?;
        let loss = plan.losses.of(&logits, &added)?;
        let value = loss.to_scalar::<f32>()?;
        if !value.is_finite() {
            return Err(Error::BadPairs { detail: format!("step {step}: the loss is no number; hint: a lower rate") });
        }
        let mut slopes = loss.backward()?;
        let gradients: Vec<Option<Tensor>> =
            network.parameters.iter().map(|p| slopes.remove(p.var.as_tensor())).collect();
        let unscale = clipped(&gradients, plan.clip)?;
        optimizer.step(&network.parameters, &gradients, &plan.recipe, step, unscale)?;

        let looks = plan.evaluate_every > 0 && (step + 1).is_multiple_of(plan.evaluate_every);
        let held_out = if looks || step + 1 == plan.recipe.n_steps {
            let found = look(&network, pairs, &held_out_texts, options.held_out)?;
            n_worse = if best.offer(&network, found[1], step + 1)? { 0 } else { n_worse + 1 };
            Some(found)
        } else {
            None
        };
        let accuracy = first_of(&logits)?;
        report(&Progress { step: step + 1, loss: value, accuracy, held_out, elapsed: start.elapsed() });
        if n_worse > plan.patience {
            break;
        }
    }
    let step = best.restore(&network)?;
    Ok((network, step))
}

fn check(options: &Options) -> std::result::Result<(), String> {
    let Options { plan, pairs, train, held_out, .. } = *options;
    plan.sizes.check()?;
    pairs.check()?;
    if plan.list_length < 2 || plan.n_lists == 0 || plan.n_nearest < plan.list_length - 1 {
        return Err(format!(
            "expected lists of 2 or more from at least as many near ones, received {} of {} from {}",
            plan.n_lists, plan.list_length, plan.n_nearest
        ));
    }
    let n_images = pairs.images.n();
    if train.iter().chain(held_out).any(|&image| image >= n_images) || train.iter().any(|at| held_out.contains(at)) {
        return Err("expected images either to learn from or to hold out".to_owned());
    }
    let of = |images: &[usize]| {
        let is_in: std::collections::HashSet<usize> = images.iter().copied().collect();
        pairs.owner_of.iter().filter(|image| is_in.contains(image)).count()
    };
    let (n_train, n_held_out) = (of(train), of(held_out));
    if n_train < MIN_PAIRS || train.len() < 2 || n_held_out == 0 {
        return Err(format!(
            "expected at least {MIN_PAIRS} pairs of 2 images to learn from and one to hold out, received {n_train} of {} \
             and {n_held_out}",
            train.len()
        ));
    }
    Ok(())
}

/// What lists are drawn from.
struct Draws<'a> {
    pairs: &'a Pairs,
    texts_of: &'a [Vec<usize>],
    nearest: &'a Nearest,
    /// Those to learn from.
    texts: &'a [usize],
    images: &'a [usize],
}

impl Draws<'_> {
    /// (text, image) pairs, list after list, in each the one that belongs first.
    fn lists(&self, plan: &Plan, rng: &mut ChaCha8Rng) -> Vec<(usize, usize)> {
        let mut pairs = Vec::with_capacity(plan.n_lists * plan.list_length);
        for _ in 0..plan.n_lists {
            if rng.random_bool(plan.image_to_text) {
                let image = self.images[rng.random_range(0..self.images.len())];
                let own = &self.texts_of[image];
                pairs.push((own[rng.random_range(0..own.len())], image));
                let others = draw(&self.nearest.texts_of[image], plan.list_length - 1, rng);
                pairs.extend(others.into_iter().map(|text| (text, image)));
            } else {
                let text = self.texts[rng.random_range(0..self.texts.len())];
                pairs.push((text, self.pairs.owner_of[text]));
                let others = draw(&self.nearest.images_of[text], plan.list_length - 1, rng);
                pairs.extend(others.into_iter().map(|image| (text, image)));
            }
        }
        pairs
    }
}

/// What makes all gradients together no longer than `longest`.
fn clipped(gradients: &[Option<Tensor>], longest: f64) -> Result<f32> {
    let mut squares = 0.0;
    for gradient in gradients.iter().flatten() {
        squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok((longest / squares.sqrt().max(1e-12)).min(1.0) as f32)
}

/// Share of lists whose highest logit is the first.
fn first_of(logits: &Tensor) -> Result<f32> {
    let highest = logits.argmax(1)?.to_vec1::<u32>()?;
    Ok(highest.iter().filter(|&&at| at == 0).count() as f32 / highest.len() as f32)
}

fn look(network: &Network, pairs: &Pairs, texts: &[usize], images: &[usize]) -> Result<[f64; 2]> {
    let reranking = Reranking::ask(network, pairs, Direction::TextToImage, texts, images, N_CANDIDATES)?;
    let found = reranking.found(reranking.best_weight(&Weights::default()));
    Ok([reranking.found(0.0).at_1, found.at_1])
}

/// The best weights so far.
struct Best {
    found: f64,
    step: u64,
    weights: Vec<Tensor>,
}

impl Best {
    fn none() -> Best {
        Best { found: f64::NEG_INFINITY, step: 0, weights: Vec::new() }
    }

    /// Whether it was better.
    fn offer(&mut self, network: &Network, found: f64, step: u64) -> Result<bool> {
        if found <= self.found {
            return Ok(false);
        }
        (self.found, self.step) = (found, step);
        self.weights = network.parameters.iter().map(|p| p.var.as_tensor().copy()).collect::<Result<_>>()?;
        Ok(true)
    }

    fn restore(&self, network: &Network) -> Result<u64> {
        for (parameter, weights) in network.parameters.iter().zip(&self.weights) {
            parameter.var.set(weights)?;
        }
        Ok(self.step)
    }
}
