//! Lists, loss, gradients, weights: how a network learns from pairs.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{DType, Result, Tensor};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    Cosines, Direction, Kind, Network, Pairs, Reranking, Shape, Sizes, Telling, Weight, Weights,
    draws::{Draws, turned},
    lists::Search,
    loss::Losses,
};
use crate::{
    Error,
    learn::{
        layers::Pass,
        optimizer::{AdamW, Recipe, follow},
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
    /// Lists come in blocks of so many: the images of a list and of near ones, each asked for by a text of its own among all of them and
    /// others drawn from everywhere, and each asking among those texts. 0: each list stands alone.
    pub block: usize,
    /// A query is asked only if fewer others stand before its own one: a re-ranker sees no other.
    pub within: usize,
    /// Share of lists in which an image looks for its text.
    pub image_to_text: f64,
    /// Share of lists of texts that ask with all texts of an image in one.
    pub joined: f64,
    /// Share of these that ask with only some of them, drawn each time, as the mean of their vectors.
    pub joined_in_part: f64,
    pub dropout: f32,
    /// Of what comes in of images.
    pub image_dropout: f32,
    /// What a running mean of the weights keeps of itself a step; the mean is what is judged and kept.
    pub mean_kept: f32,
    /// Longest that all gradients together may be.
    pub clip: f64,
    /// Steps between looks at the held-out images; the best network by R@1 of them is kept.
    pub evaluate_every: u64,
    /// Held-out texts that are looked at.
    pub n_questions: usize,
    /// Looks without anything better before the end.
    pub patience: usize,
}

impl Plan {
    pub fn new(kind: Kind, n_steps: u64, seed: u64) -> Plan {
        let n_warm_up = 50.min(n_steps);
        let recipe = Recipe { rate: 1e-3, betas: [0.9, 0.98], decay: 0.05, n_warm_up, ..Recipe::flame(n_steps) };
        Plan {
            kind,
            sizes: Sizes::default(),
            seed,
            recipe,
            losses: Losses::default(),
            n_lists: 64,
            list_length: 16,
            n_nearest: 50,
            block: 0,
            within: 55,
            image_to_text: 0.0,
            joined: 0.5,
            joined_in_part: 0.6,
            dropout: 0.3,
            image_dropout: 0.4,
            mean_kept: 0.995,
            clip: 1.0,
            evaluate_every: 150,
            n_questions: 2000,
            patience: 6,
        }
    }

    /// Near ones that a list needs.
    pub fn least_near(&self) -> usize {
        if self.block > 0 { self.block } else { self.list_length }.saturating_sub(1)
    }
}

/// Which images are learnt from, and which are only looked at to know when to stop.
pub struct Options<'a> {
    pub plan: &'a Plan,
    pub pairs: &'a Pairs,
    pub train: &'a [usize],
    pub held_out: &'a [usize],
    pub device: crate::Device,
    pub checkpoint: Option<Checkpoint<'a>>,
    pub mining: Mining<'a>,
}

/// How the near ones that do not belong are found.
#[derive(Clone, Copy)]
pub enum Mining<'a> {
    /// Each text is compared with each image, once.
    Exact,
    /// Every so many steps some texts are drawn, and their near ones are looked up.
    Search { search: &'a dyn Search, every: u64 },
}

impl Mining<'_> {
    /// Which draw of texts a step learns from.
    fn period(&self, step: u64) -> u64 {
        match self {
            Mining::Exact => 0,
            Mining::Search { every, .. } => step / every.max(&1),
        }
    }
}

/// Where a run is kept, so that it can go on after a stop.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint<'a> {
    pub path: &'a Path,
    pub every: u64,
    /// Go on from what is there; `Error::BadFile` if it is of other settings or data.
    pub resume: bool,
    /// Ends the run after so many steps, as a stop would.
    pub stop_after: Option<u64>,
}

/// After each step.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    pub step: u64,
    pub loss: f32,
    /// Share of lists whose first is the one that belongs.
    pub accuracy: f32,
    /// R@1 of the held-out images' texts, among those of their fold: without the network, and re-ranked with the best weight.
    pub held_out: Option<[f64; 2]>,
    pub elapsed: Duration,
}

/// What hubness counts while a network learns what to add (arXiv 1710.04087, equation 3, on the scale of one cosine).
const HUBNESS: f32 = 0.5;
/// Candidates of a held-out text that are looked at while training.
const N_CANDIDATES: usize = 50;
/// Fewer pairs teach nothing.
pub(super) const MIN_PAIRS: usize = 16;

/// All that changes while a network learns.
pub(super) struct Run {
    pub network: Network,
    /// The running mean of its weights.
    pub mean: Network,
    pub optimizer: AdamW,
    pub best: Best,
    /// Looks since the best one.
    pub n_worse: usize,
    /// Steps taken.
    pub step: u64,
}

/// The network that found most of the held-out ones, and the step it was taken at; none if it was stopped before the end, by the checkpoint
/// or by `report`. `Error::BadPairs` if there is nothing to learn from or the loss is no number.
pub fn train(
    options: &Options,
    report: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> crate::Result<Option<(Network, u64)>> {
    let Options { plan, pairs, checkpoint, .. } = *options;
    let bad = |detail: String| Error::BadPairs { detail };
    check(options).map_err(bad)?;
    let questions = questions(options);
    let mut run = Run::new(options)?;
    let data = checkpoint.map(|_| fingerprint(options)).unwrap_or_default();
    if let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.resume) {
        run.read(checkpoint.path, plan, &data)?;
    }
    let start = Instant::now();
    let mut period = options.mining.period(run.step);
    let mut draws = Draws::new(options, period)?;
    let is_over = |run: &Run| run.step >= plan.recipe.n_steps || run.n_worse > plan.patience;
    while !is_over(&run) {
        if options.mining.period(run.step) != period {
            period = options.mining.period(run.step);
            draws = Draws::new(options, period)?;
        }
        let (loss, accuracy) = one_step(&run.network, &mut run.optimizer, &draws, plan, run.step)?;
        // Early on the first weights would weigh too much.
        let kept = plan.mean_kept.min((run.step + 1) as f32 / (run.step + 10) as f32);
        run.mean.follow(&run.network, kept)?;
        run.step += 1;
        let looks = plan.evaluate_every > 0 && run.step.is_multiple_of(plan.evaluate_every);
        let held_out = (looks || run.step == plan.recipe.n_steps)
            .then(|| run.look(pairs, &questions, options.held_out))
            .transpose()?;
        let said = report(&Progress { step: run.step, loss, accuracy, held_out, elapsed: start.elapsed() });
        let ends_here = checkpoint.is_some_and(|checkpoint| checkpoint.stop_after == Some(run.step));
        let is_stopped = (said.is_break() || ends_here) && !is_over(&run);
        if let Some(Checkpoint { path, every, .. }) = checkpoint
            && (is_stopped || is_over(&run) || run.step.is_multiple_of(every.max(1)))
        {
            run.write(path, plan, &data)?;
        }
        if is_stopped {
            return Ok(None);
        }
    }
    let step = run.best.restore(&run.mean)?;
    Ok(Some((run.mean, step)))
}

impl Run {
    fn new(options: &Options) -> crate::Result<Run> {
        let Options { plan, pairs, device, .. } = *options;
        let shape = Shape::of(&pairs.images, &pairs.texts);
        let network = Network::new(plan.kind, &shape, &plan.sizes, plan.seed, &crate::device::open(device)?)?;
        network.measure(&pairs.images, options.train)?;
        let (mean, optimizer) = (network.copy()?, AdamW::new(&network.parameters)?);
        Ok(Run { network, mean, optimizer, best: Best::none(), n_worse: 0, step: 0 })
    }

    /// R@1 without and with the network; keeps the weights if they are the best.
    fn look(&mut self, pairs: &Pairs, texts: &[usize], images: &[usize]) -> crate::Result<[f64; 2]> {
        let (hubs, hubness) = match &pairs.hubness[..] {
            [] => (Telling::Nobody, 0.0),
            hubness => (Telling::Images(hubness), HUBNESS),
        };
        let (base, without) = (Cosines { hubs, ..Cosines::of(pairs) }, Weight { hubness, ..Weight::NONE });
        let scorer = self.mean.scorer()?;
        let ask = Direction::TextToImage;
        let of_fold = |(images, texts): &(Vec<usize>, Vec<usize>)| {
            let go_on = &mut |_| ControlFlow::Continue(());
            Reranking::ask(Some(scorer.as_ref()), pairs, &base, ask, (texts, images), N_CANDIDATES, go_on)
        };
        // Each text among images of its own fold, if those are more than it looks at.
        let folds = pairs.by_fold(images, texts);
        let folds = match folds.iter().all(|(images, _)| images.len() >= N_CANDIDATES) {
            true => folds,
            false => vec![(images.to_vec(), texts.to_vec())],
        };
        let asked = folds.iter().map(of_fold).collect::<crate::Result<Option<_>>>()?;
        let reranking = Reranking::of_all(asked.expect("nobody breaks it off"));
        let found = reranking.found(reranking.best_weight(without, &Weights::default()));
        self.n_worse = if self.best.offer(&self.mean, found.at_1, self.step)? { 0 } else { self.n_worse + 1 };
        Ok([reranking.found(without).at_1, found.at_1])
    }
}

/// What is learnt from, so that no run goes on with something else.
fn fingerprint(options: &Options) -> String {
    let Pairs { images, texts, owner_of, parts, shared, hubness, fold_of, group_of } = options.pairs;
    let mut hasher = blake3::Hasher::new();
    hasher.update(bytemuck::cast_slice(hubness));
    for items in [images, texts] {
        hasher.update(bytemuck::cast_slice(&items.vectors)).update(bytemuck::cast_slice(&items.extra));
        hasher.update(bytemuck::cast_slice(&items.tokens.iter().map(|x| x.to_bits()).collect::<Vec<u16>>()));
    }
    // Once a set, not once for each text that has it.
    let of_set = |(text, images): (&usize, &Arc<BTreeSet<usize>>)| [*text, *images.first().unwrap_or(&0), images.len()];
    let shared: Vec<usize> = shared.iter().flat_map(of_set).collect();
    let parts: Vec<usize> = parts
        .iter()
        .flat_map(|(joined, parts)| [*joined, parts.len()].into_iter().chain(parts.iter().copied()))
        .collect();
    for places in [&parts, owner_of, options.train, options.held_out, &shared, fold_of, group_of] {
        hasher.update(&(places.len() as u64).to_le_bytes());
        for &place in places {
            hasher.update(&(place as u64).to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// Moves the weights once; loss and accuracy of the lists before.
fn one_step(
    network: &Network,
    optimizer: &mut AdamW,
    draws: &Draws,
    plan: &Plan,
    step: u64,
) -> crate::Result<(f32, f32)> {
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    rng.set_stream(step);
    let (texts, list) = draws.step(plan, &mut rng);
    let pass = Pass::noisy(DType::F32, plan.dropout, plan.seed, 2 * step);
    let of_images = Pass::noisy(DType::F32, plan.image_dropout, plan.seed, 2 * step + 1);
    let images = &draws.pairs.images;
    let added = network.forward(images, &texts, &list, [&pass, &of_images])?;
    let hubness = |image: usize| draws.pairs.hubness.get(image).map_or(0.0, |hubness| HUBNESS * hubness);
    let cosines = list.iter().map(|&(text, image)| texts.product(text, images, image) - hubness(image)).collect();
    let logits = network.logits(cosines, &added)?.reshape(((), plan.list_length))?;
    let mut loss = plan.losses.of(&logits, &added)?;
    if plan.block > 0 {
        loss = (loss + plan.losses.turned(&turned(&logits, plan.block)?)?)?;
    }
    let value = loss.to_scalar::<f32>()?;
    if !value.is_finite() {
        return Err(Error::BadPairs { detail: format!("step {step}: the loss is no number; hint: a lower rate") });
    }
    let mut slopes = loss.backward()?;
    let gradients: Vec<Option<Tensor>> = network.parameters.iter().map(|p| slopes.remove(p.var.as_tensor())).collect();
    let unscale = clipped(&gradients, plan.clip)?;
    optimizer.step(&network.parameters, &gradients, &plan.recipe, step, unscale)?;
    Ok((value, first_of(&logits)?))
}

fn check(options: &Options) -> std::result::Result<(), String> {
    let Options { plan, pairs, train, held_out, .. } = *options;
    plan.sizes.check()?;
    pairs.check()?;
    if plan.list_length < 2 || plan.n_lists == 0 || plan.n_nearest < plan.least_near() {
        return Err(format!(
            "expected lists of 2 or more from at least as many near ones, received {} of {} from {}",
            plan.n_lists, plan.list_length, plan.n_nearest
        ));
    }
    let n_images = pairs.images.n();
    if plan.block == 1 || plan.block > plan.list_length {
        return Err(format!(
            "expected blocks of 2 or more that fit a list, received {} in lists of {}",
            plan.block, plan.list_length
        ));
    }
    // A step keeps some dozens of such states until its gradients are known.
    const MAX_STATES: usize = 1 << 26;
    let n_tokens = if plan.kind.reads_tokens() { pairs.images.n_tokens + pairs.texts.n_tokens } else { 0 };
    let wide = plan.sizes.dim.max(plan.sizes.wide);
    let n_states = (2 + n_tokens).saturating_mul(plan.n_lists.saturating_mul(plan.list_length)).saturating_mul(wide);
    if n_states > MAX_STATES {
        return Err(format!(
            "expected lists and sizes of at most {MAX_STATES} numbers a step, received {n_states}; hint: fewer or shorter lists"
        ));
    }
    let is_held_out = marked(held_out, n_images);
    if train.iter().any(|&image| image >= n_images || is_held_out[image]) {
        return Err("expected images either to learn from or to hold out".to_owned());
    }
    let of = |images: &[usize]| {
        let is_in = marked(images, n_images);
        pairs.owner_of.iter().filter(|&&image| is_in[image]).count()
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

/// Which of `n` are named; what is past them is not.
pub(super) fn marked(named: &[usize], n: usize) -> Vec<bool> {
    let mut marks = vec![false; n];
    named.iter().filter(|&&at| at < n).for_each(|&at| marks[at] = true);
    marks
}

/// Texts of the held-out images, some of them if there are many, in an order that the seed gives.
fn questions(options: &Options) -> Vec<usize> {
    let Options { plan, pairs, held_out, .. } = *options;
    let is_held_out = marked(held_out, pairs.images.n());
    let mut texts: Vec<usize> = (0..pairs.owner_of.len()).filter(|&text| is_held_out[pairs.owner_of[text]]).collect();
    texts.shuffle(&mut ChaCha8Rng::seed_from_u64(plan.seed));
    texts.truncate(plan.n_questions.max(1));
    texts
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

impl Network {
    pub(super) fn copy(&self) -> Result<Network> {
        let copy = Network::blank(self.about(), DType::F32, self.device())?;
        copy.follow(self, 0.0)?;
        Ok(copy)
    }

    /// Brings these weights nearer to others: they keep the share `kept` of what they were.
    fn follow(&self, other: &Network, kept: f32) -> Result<()> {
        for (mean, weights) in self.parameters.iter().zip(&other.parameters) {
            let mut moved = mean.var.as_tensor().copy()?;
            follow(&mut moved, weights.var.as_tensor(), kept)?;
            mean.var.set(&moved)?;
        }
        Ok(())
    }
}

/// The best weights so far.
pub(super) struct Best {
    pub found: f64,
    pub step: u64,
    pub weights: Vec<Tensor>,
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
