//! Training of the builtin pair: contrastive, seeded, resumable to the bit.
//!
//! A batch is cut into parts of fixed size, whose gradients are added in order: any number of threads gives the same weights.

mod checkpoint;
mod data;
pub mod emoji;
pub mod evaluate;
mod loss;
mod optimizer;
mod teacher;

use std::path::{Path, PathBuf};

use rayon::prelude::*;

pub(crate) use self::checkpoint::write_whole;
#[cfg(test)]
pub(crate) use self::loss::slope;
use self::{
    checkpoint::State,
    data::{Data, Pair},
    optimizer::AdamW,
};
pub use self::{loss::Loss, optimizer::Schedule};
use crate::{
    Encoder, Error, Result,
    builtin::{
        Builtin,
        layers::add,
        layout::{BUILTIN, Sizes},
        net::{Gradient, ImageTrace, Network},
        tokens::Tokens,
    },
    kind,
    scenes::{LANGUAGES, Style},
};

/// Pairs whose gradient is computed in one piece.
const PART: usize = 16;
/// Where a run keeps its state, below the output folder.
pub const CHECKPOINT_FILE: &str = "checkpoint.safetensors";
pub const WEIGHTS_FILE: &str = "builtin.safetensors";

/// What makes two runs the same run.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    pub sizes: Sizes,
    pub seed: u64,
    pub batch: usize,
    pub loss: Loss,
    pub schedule: Schedule,
    pub scenes: bool,
    pub emoji: bool,
    /// Share of a batch that is emoji, when there are scenes as well.
    pub emoji_share: f32,
    /// Weight of the teacher's loss beside the contrastive one; 0 for none.
    pub teacher: f32,
}

/// A run: its plan, where its data are and where its results go.
#[derive(Clone, Debug)]
pub struct Options {
    pub plan: Plan,
    pub emoji_folder: Option<PathBuf>,
    pub out: PathBuf,
    pub resume: bool,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Steps between looks at held-out pairs; 0 for none.
    pub evaluate_every: u64,
    /// Ends early, with a checkpoint, after this many steps in all.
    pub stop_after: Option<u64>,
}

/// After each step.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    pub loss: f32,
    pub rate: f32,
    pub gradient_length: f32,
    /// What the cosines are multiplied with.
    pub scale: f32,
    pub held_out: Option<HeldOut>,
}

/// A glance at pairs that training does not see: R@1 text to image, as a share.
#[derive(Clone, Copy, Debug)]
pub struct HeldOut {
    pub scenes_long: f64,
    pub scenes_short: f64,
    pub emoji_at_5: Option<f64>,
}

impl Plan {
    pub fn new(seed: u64, n_steps: u64, batch: usize) -> Plan {
        let (n_warm_up, n_decline) = ((n_steps / 10).clamp(1, 50), n_steps * 2 / 5);
        Plan {
            sizes: BUILTIN,
            seed,
            batch,
            loss: Loss::InfoNce,
            schedule: Schedule { peak: 2e-3, n_warm_up, n_decline, n_steps },
            scenes: true,
            emoji: false,
            emoji_share: 0.3,
            teacher: 6.0,
        }
    }
}

/// Trains to the end of the plan, or to `stop_after`. Writes the checkpoint and the weights, and gives the network.
pub fn align(options: &Options, report: &mut dyn FnMut(&Progress)) -> Result<Builtin> {
    let plan = &options.plan;
    kind::refuse_others(&options.out, WEIGHTS_FILE)?;
    std::fs::create_dir_all(&options.out).map_err(|error| Error::Io { path: options.out.clone(), error })?;
    let concepts = options.emoji_folder.as_deref().map(emoji::read).transpose()?.unwrap_or_default();
    let (train, held_out): (Vec<_>, Vec<_>) = concepts.into_iter().partition(|concept| concept.is_train);
    let data = Data::new(plan, train);
    let mut trainer = Trainer::start(options)?;
    let last = options.stop_after.unwrap_or(u64::MAX).min(plan.schedule.n_steps);
    while trainer.state.step < last {
        let mut progress = trainer.step(&data.batch(trainer.state.step, plan.batch.min(data.max_batch())));
        let is_last = progress.step == last;
        if options.evaluate_every > 0 && (progress.step.is_multiple_of(options.evaluate_every) || is_last) {
            progress.held_out = Some(glance(&trainer.builtin()?, &held_out)?);
        }
        if progress.step.is_multiple_of(options.checkpoint_every.max(1)) || is_last {
            trainer.write(&options.out)?;
        }
        report(&progress);
    }
    trainer.builtin()
}

/// Reads weights that `align` wrote.
pub fn read_weights(path: &Path) -> Result<Builtin> {
    let bytes = std::fs::read(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
    Builtin::from_bytes(&bytes, path)
}

struct Trainer {
    plan: Plan,
    network: Network,
    state: State,
}

impl Trainer {
    fn start(options: &Options) -> Result<Trainer> {
        let plan = options.plan.clone();
        let mut network = Network::random(plan.sizes, plan.seed);
        let path = options.out.join(CHECKPOINT_FILE);
        let state = if options.resume && path.exists() {
            State::read(&path, &plan)?
        } else {
            State { step: 0, optimizer: AdamW::new(network.weights.len()), weights: network.weights.clone() }
        };
        network.weights.clone_from(&state.weights);
        Ok(Trainer { plan, network, state })
    }

    fn step(&mut self, pairs: &[Pair]) -> Progress {
        let (loss, gradient) = self.gradient(pairs);
        let rate = self.plan.schedule.rate(self.state.step);
        let Network { layout, weights } = &mut self.network;
        let gradient_length = self.state.optimizer.step(layout, weights, &gradient, self.state.step, rate);
        self.state.step += 1;
        let scale = weights[layout.scale].exp();
        Progress { step: self.state.step, loss, rate, gradient_length, scale, held_out: None }
    }

    /// The loss over the whole batch, and its gradient by every weight.
    fn gradient(&self, pairs: &[Pair]) -> (f32, Vec<f32>) {
        let (network, layout) = (&self.network, &self.network.layout);
        let dim = layout.sizes.embedding;
        let pixels: Vec<&[f32]> = pairs.iter().map(|pair| pair.pixels.as_slice()).collect();
        let tokens: Vec<&Tokens> = pairs.iter().map(|pair| &pair.tokens).collect();
        let images: Vec<_> = pixels.par_chunks(PART).map(|part| network.images(part)).collect();
        let texts: Vec<_> = tokens.par_chunks(PART).map(|part| network.texts(part)).collect();
        let of_images = images.iter().flat_map(|part| part.tower.embeddings.iter().copied()).collect::<Vec<_>>();
        let of_texts = texts.iter().flat_map(|part| part.tower.embeddings.iter().copied()).collect::<Vec<_>>();
        let (log_scale, bias) = (network.weights[layout.scale], network.weights[layout.bias]);
        let mut slope = loss::slope(self.plan.loss, &of_images, &of_texts, dim, log_scale, bias);

        let whole: Vec<Option<&[f32]>> =
            pairs.iter().map(|pair| pair.lesson.as_ref().map(|lesson| lesson.whole.as_slice())).collect();
        let weight = self.plan.teacher / pairs.len() as f32;
        slope.loss += loss::pull(&of_images, &whole, dim, weight, &mut slope.images);
        slope.loss += loss::pull(&of_texts, &whole, dim, weight, &mut slope.texts);

        let image_parts = images.par_iter().zip(slope.images.par_chunks(PART * dim)).zip(pairs.par_chunks(PART));
        let backward = |((part, d), pairs): ((&ImageTrace, &[f32]), &[Pair])| {
            network.images_backward(part, d, &patch_slopes(network, part, pairs, weight))
        };
        let of_images: Vec<Gradient> = image_parts.map(backward).collect();
        let text_parts = texts.par_iter().zip(slope.texts.par_chunks(PART * dim));
        let of_texts: Vec<_> = text_parts.map(|(part, d)| network.texts_backward(part, d)).collect();
        let mut gradient = vec![0.0; layout.len()];
        for part in of_images.iter().chain(of_texts.iter().map(|(part, _)| part)) {
            add(&mut gradient[part.range.clone()], &part.values);
        }
        for ((_, dwords), texts) in of_texts.iter().zip(tokens.chunks(PART)) {
            network.learn_words(&mut gradient[layout.table.clone()], texts, dwords);
        }
        gradient[layout.scale] = slope.log_scale;
        gradient[layout.bias] = slope.bias;
        (slope.loss, gradient)
    }

    fn write(&mut self, folder: &Path) -> Result<()> {
        self.state.weights.clone_from(&self.network.weights);
        self.state.write(&folder.join(CHECKPOINT_FILE), &self.plan)?;
        write_whole(&folder.join(WEIGHTS_FILE), &self.network.to_bytes()?)
    }

    /// As it will be read from its file: in halves.
    fn builtin(&self) -> Result<Builtin> {
        Builtin::from_bytes(&self.network.to_bytes()?, Path::new(WEIGHTS_FILE))
    }
}

/// Which way each patch token should go, by the teacher; none where the part has no lesson.
fn patch_slopes(network: &Network, trace: &ImageTrace, pairs: &[Pair], weight: f32) -> Vec<f32> {
    if pairs.iter().all(|pair| pair.lesson.is_none()) {
        return Vec::new();
    }
    let Sizes { grid, embedding: dim, .. } = network.layout.sizes;
    let embeddings = network.patch_embeddings(trace);
    let mut slopes = vec![0.0; embeddings.len()];
    let per_image = grid * grid * dim;
    let rows = slopes.chunks_exact_mut(per_image).zip(embeddings.chunks_exact(per_image));
    for (pair, (slopes, embeddings)) in pairs.iter().zip(rows) {
        let Some(lesson) = &pair.lesson else { continue };
        let share = weight / lesson.patch_weights.iter().sum::<f32>();
        let patches = slopes.chunks_exact_mut(dim).zip(embeddings.chunks_exact(dim));
        let lessons = lesson.patches.chunks_exact(dim).zip(&lesson.patch_weights);
        for ((slopes, embedding), (wanted, patch_weight)) in patches.zip(lessons) {
            loss::turn(embedding, wanted, share * patch_weight, slopes);
        }
    }
    slopes
}

/// 200 unseen scenes, each in one of the languages, and the English names of the held-out emoji.
fn glance(encoder: &Builtin, held_out: &[emoji::Concept]) -> Result<HeldOut> {
    let scenes = evaluate::unseen(200);
    let side = encoder.info().image_side_px as u32;
    let images = evaluate::embed_pictures(encoder, scenes.iter().map(|scene| scene.draw(side)))?;
    let found = |style: Style| -> Result<f64> {
        let captions = scenes.iter().enumerate();
        let captions: Vec<String> =
            captions.map(|(at, scene)| scene.caption(LANGUAGES[at % LANGUAGES.len()], style)).collect();
        Ok(evaluate::recall(&evaluate::embed_words(encoder, &captions)?, &images).at_1)
    };
    let (scenes_long, scenes_short) = (found(Style::Long)?, found(Style::Short)?);
    let emoji_at_5 = match held_out {
        [] => None,
        _ => {
            let rows = evaluate::emoji(encoder, held_out, &["en"])?;
            let english = rows.iter().map(|row| row.text_to_image.at_5);
            Some(english.sum::<f64>() / emoji::STYLES.len() as f64)
        }
    };
    Ok(HeldOut { scenes_long, scenes_short, emoji_at_5 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::net::tests::TINY;

    fn options(out: &Path, seed: u64) -> Options {
        let plan = Plan { sizes: TINY, ..Plan::new(seed, 6, 20) };
        let (checkpoint_every, evaluate_every) = (3, 0);
        Options {
            plan,
            emoji_folder: None,
            out: out.to_owned(),
            resume: false,
            checkpoint_every,
            evaluate_every,
            stop_after: None,
        }
    }

    fn bytes(folder: &Path) -> [Vec<u8>; 2] {
        [CHECKPOINT_FILE, WEIGHTS_FILE].map(|name| std::fs::read(folder.join(name)).unwrap())
    }

    #[test]
    fn three_steps_and_three_resumed_are_six() {
        let folder = tempfile::tempdir().unwrap();
        let (straight, broken) = (folder.path().join("straight"), folder.path().join("broken"));
        align(&options(&straight, 1), &mut |_| {}).unwrap();
        let first = Options { stop_after: Some(3), ..options(&broken, 1) };
        align(&first, &mut |_| {}).unwrap();
        assert_ne!(bytes(&straight), bytes(&broken));
        let mut steps = Vec::new();
        align(&Options { resume: true, ..options(&broken, 1) }, &mut |progress| steps.push(progress.step)).unwrap();
        assert_eq!(steps, [4, 5, 6]);
        assert!(bytes(&straight) == bytes(&broken), "a resumed run differs from an unbroken one");
    }

    #[test]
    fn a_seed_makes_one_set_of_weights_on_any_number_of_threads() {
        let folder = tempfile::tempdir().unwrap();
        let train = |name: &str, seed, threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let out = folder.path().join(name);
            pool.install(|| align(&options(&out, seed), &mut |_| {})).unwrap();
            bytes(&out)
        };
        let one = train("one", 5, 1);
        assert!(one == train("again", 5, 3), "the same seed gave other weights");
        assert!(one != train("other", 6, 1), "another seed gave the same weights");
    }

    #[test]
    fn a_checkpoint_of_another_plan_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        align(&options(folder.path(), 1), &mut |_| {}).unwrap();
        let other = Options { resume: true, ..options(folder.path(), 2) };
        let error = align(&other, &mut |_| {}).err().unwrap().to_string();
        assert!(error.contains("other settings"), "{error}");
    }

    #[test]
    fn loss_falls() {
        let folder = tempfile::tempdir().unwrap();
        for kind in [Loss::InfoNce, Loss::Sigmoid] {
            let plan = Plan { sizes: TINY, loss: kind, ..Plan::new(3, 60, 24) };
            let plan = Plan { schedule: Schedule { peak: 1e-2, ..plan.schedule }, ..plan };
            let mut losses = Vec::new();
            align(&Options { plan, ..options(folder.path(), 3) }, &mut |progress| losses.push(progress.loss)).unwrap();
            let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
            assert!(mean(&losses[50..]) < 0.9 * mean(&losses[..5]), "{kind:?}: {losses:?}");
        }
    }
}
