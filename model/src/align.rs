//! Training of one side against the other, frozen. A ViT learns where a decoder's facets of its captions lie (FLAME, arXiv
//! 2411.11927); or, the mirror, a text tower learns where an image encoder put its images; or both learn, as a plain dual
//! encoder does. What is learnt is written in full, so that it can embed later: see [`Aligned`].
//!
//! It runs on candle's gradients, on the CPU or a card, for networks of any size; `train` is the fast way, by hand and on
//! the CPU alone, of the builtin pair.

mod aligned;
mod arrays;
mod bounds;
mod captions;
mod checkpoint;
mod data;
mod evaluate;
mod facet_store;
mod feed;
mod fingerprint;
mod frozen_block;
mod frozen_files;
mod frozen_images;
mod loss;
mod meeting;
mod network;
pub(crate) mod ridge;
mod shards;
pub(crate) mod side;
#[cfg(test)]
mod tests;
mod text_tower;
mod trainer;
mod view;
mod vit;

use std::{path::PathBuf, sync::Arc};

use candle_core::DType;

pub use self::{
    aligned::Aligned,
    captions::{Belonging, Caption, Described, read as read_captions},
    evaluate::{Found, FoundRow},
    facet_store::{FacetRows, write_facets},
    frozen_files::FrozenImages,
    frozen_images::{FrozenSizes, Projection},
    meeting::{measure_texts, project},
    network::{BlockPlan, ImagePlan, TextPlan},
    ridge::{FOLDS_FILE, RIDGE_FILE, Ridge, RidgePlan, fit},
    text_tower::TextSizes,
    vit::VitSizes,
};
use self::{data::Data, network::Network, trainer::Trainer};
pub use crate::learn::optimizer::Recipe;
use crate::{
    Error, Result, device,
    kind::{self, Kind},
    memory,
    train::Loss,
};

/// Where a run keeps its state, and where its weights, below the output folder.
pub const CHECKPOINT_FILE: &str = "checkpoint.safetensors";
pub const ALIGNED_FILE: &str = "aligned.safetensors";
/// Pictures that are named of those left out.
const MAX_NAMED: usize = 10;

/// What makes two runs the same run.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    pub seed: u64,
    pub image: ImagePlan,
    pub text: TextPlan,
    /// Of each way's embedding.
    pub dim: usize,
    pub loss: Loss,
    /// Of InfoNCE: the share of what a text is to give that all images get.
    pub smoothing: f32,
    /// What the cosines are multiplied with at first, and what is added to them.
    pub first_scale: f32,
    pub first_bias: f32,
    pub recipe: Recipe,
    /// Images a step, and texts of each.
    pub batch: usize,
    pub texts_per_image: usize,
    /// Parts that a batch is computed in.
    pub n_parts: usize,
    /// Share of numbers, and of words, that are dropped in training.
    pub dropout: f32,
    pub word_dropout: f32,
    /// What a running mean of the weights keeps of itself each step, and which is what is written; 0 for none.
    pub mean_kept: f32,
    pub precision: Precision,
    /// Share of groups that are held out, where no split is given.
    pub held_out: f64,
    /// Samples that the next one is drawn from.
    pub shuffle: usize,
    /// Least share of a picture that a random crop keeps.
    pub least_view: f32,
    /// How much whitening is softened.
    pub softening: f32,
}

/// What matrices are multiplied in; weights, norms and sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    F32,
    Bf16,
    /// With a scaled loss.
    F16,
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Precision, String> {
        match name {
            "f32" => Ok(Precision::F32),
            "bf16" => Ok(Precision::Bf16),
            "f16" => Ok(Precision::F16),
            _ => Err(format!("expected f32, bf16 or f16, received {name:?}")),
        }
    }
}

impl Precision {
    fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        }
    }
}

/// Where the data of a run lie.
#[derive(Clone, Debug)]
pub struct Sources {
    pub images: ImageSource,
    pub texts: TextFiles,
}

#[derive(Clone, Debug)]
pub enum ImageSource {
    /// WebDataset tars, or folders of them.
    Shards(Vec<PathBuf>),
    Frozen(Arc<FrozenImages>),
}

#[derive(Clone, Debug)]
pub enum TextFiles {
    Facets(PathBuf),
    Captions(PathBuf),
}

/// A run: its plan, where its data are and where its results go.
#[derive(Clone, Debug)]
pub struct Options {
    pub plan: Plan,
    pub sources: Sources,
    pub device: crate::Device,
    pub out: PathBuf,
    pub resume: bool,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Steps between looks at held-out images; 0 for none.
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
    /// What the cosines are multiplied with.
    pub scale: f32,
    /// All held-out texts beside all held-out images.
    pub held_out: Option<FoundRow>,
    /// Training pictures that were left out so far, not to be decoded or without texts: how many, and the first by name.
    pub n_skipped: usize,
    pub skipped: Vec<String>,
}

/// What the data are, before a plan is made for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataShape {
    /// Of frozen images: numbers of a vector, tokens of an image, and numbers of a token (0 for none).
    pub frozen_images: Option<(usize, usize, usize)>,
    /// Of facets.
    pub facet_dim: Option<usize>,
}

impl DataShape {
    /// Looks at the first image, or at the headers.
    pub fn of(sources: &Sources) -> Result<DataShape> {
        data::shape(sources)
    }
}

impl Plan {
    /// Numbers of an embedding: those of each way, side by side.
    fn embedding_dim(&self) -> usize {
        self.n_ways() * self.dim
    }

    fn n_ways(&self) -> usize {
        network::n_ways(&self.image, &self.text)
    }

    /// `Err` says what was expected and received.
    pub fn check(&self) -> Result<(), String> {
        self.check_numbers()?;
        match &self.image {
            ImagePlan::Tower { sizes, .. } => sizes.check()?,
            ImagePlan::Frozen(sizes) => sizes.check()?,
        }
        if let TextPlan::Tower(sizes) = &self.text {
            sizes.check()?;
        }
        match (&self.image, &self.text) {
            (_, TextPlan::Facets { dim }) if *dim != self.dim => {
                Err(format!("dim: expected that of the facets, {dim}, received {}", self.dim))
            }
            (ImagePlan::Frozen(_), TextPlan::Facets { .. }) => Err("one side at least must learn".to_owned()),
            (ImagePlan::Frozen(sizes), _) if sizes.projection == Projection::None && sizes.dim != self.dim => {
                Err(format!("dim: expected that of the images, {}, received {}", sizes.dim, self.dim))
            }
            _ if self.batch < 2 || self.texts_per_image == 0 => Err(format!(
                "expected at least 2 images a step and a text of each, received {} and {}",
                self.batch, self.texts_per_image
            )),
            _ => Ok(()),
        }
    }
}

impl Plan {
    fn check_numbers(&self) -> Result<(), String> {
        let Recipe { rate, betas, epsilon, decay, .. } = self.recipe;
        let share = |x: f32| (0.0..1.0).contains(&x);
        let positive = |x: f32| x > 0.0 && x.is_finite();
        for (what, is_so, received) in [
            ("dim: expected 1 to 65536", (1..=1 << 16).contains(&self.dim), self.dim.to_string()),
            ("rate: expected more than 0", positive(rate), rate.to_string()),
            ("betas: expected 0 to less than 1", betas.into_iter().all(share), format!("{betas:?}")),
            ("epsilon: expected more than 0", positive(epsilon), epsilon.to_string()),
            ("decay: expected 0 or more", decay >= 0.0 && decay.is_finite(), decay.to_string()),
            ("smoothing: expected 0 to less than 1", share(self.smoothing), self.smoothing.to_string()),
            ("dropout: expected 0 to less than 1", share(self.dropout), self.dropout.to_string()),
            ("word_dropout: expected 0 to less than 1", share(self.word_dropout), self.word_dropout.to_string()),
            ("mean_kept: expected 0 to less than 1", share(self.mean_kept), self.mean_kept.to_string()),
            ("first_scale: expected more than 0", positive(self.first_scale), self.first_scale.to_string()),
            ("first_bias: expected a number", self.first_bias.is_finite(), self.first_bias.to_string()),
            ("softening: expected 0 to 1", (0.0..=1.0).contains(&self.softening), self.softening.to_string()),
        ] {
            if !is_so {
                return Err(format!("{what}, received {received}"));
            }
        }
        Ok(())
    }

    /// Numbers that are learnt, but for the maps around a frozen block.
    fn n_parameters(&self) -> u64 {
        let image = match &self.image {
            ImagePlan::Tower { sizes, .. } => sizes.n_parameters(self.dim),
            ImagePlan::Frozen(sizes) => sizes.n_parameters(self.dim),
        };
        let text = match &self.text {
            TextPlan::Tower(sizes) => sizes.n_parameters(self.dim),
            TextPlan::Facets { .. } => 0,
        };
        // With the scale and what is added.
        image + text + 2
    }

    /// Weights, gradients and two moments, where memory is the machine's: what is larger would end the process.
    fn check_memory(&self, out: &std::path::Path, device: &candle_core::Device) -> Result<()> {
        let (n, needed) = (self.n_parameters(), 16 * self.n_parameters());
        match memory::available_bytes().filter(|&available| device.is_cpu() && available < needed) {
            None => Ok(()),
            Some(available) => {
                let detail = format!(
                    "a network of {n} numbers takes {needed} bytes of memory to be learnt, {available} are available; hint: smaller sizes"
                );
                Err(Error::BadData { file: out.to_owned(), detail })
            }
        }
    }
}

/// Trains to the end of the plan, or to `stop_after`. Writes the checkpoint and what was learnt, and gives it back.
pub fn align(options: &Options, report: &mut dyn FnMut(&Progress)) -> Result<Aligned> {
    let plan = &options.plan;
    plan.check().map_err(|detail| Error::BadFile { file: options.out.clone(), detail })?;
    kind::refuse_others(&options.out, ALIGNED_FILE)?;
    let device = device::open(options.device)?;
    plan.check_memory(&options.out, &device)?;
    std::fs::create_dir_all(&options.out).map_err(|error| Error::Io { path: options.out.clone(), error })?;
    let fingerprint = options.sources.fingerprint()?;
    let data = Data::read(plan, &options.sources)?;
    let network = Network::new(plan, &device, plan.precision.dtype())?;
    let mut trainer = Trainer::new(plan.clone(), network, data.feed, data.rows)?;
    let path = options.out.join(CHECKPOINT_FILE);
    if options.resume && path.exists() {
        trainer.read_checkpoint(&path, &fingerprint)?;
    }
    let frozen = checksums(&trainer.network.frozen())?;
    let last = options.stop_after.unwrap_or(u64::MAX).min(plan.recipe.n_steps);
    while trainer.step < last {
        let rate = plan.recipe.rate_at(trainer.step);
        let loss = trainer.step()?;
        let step = trainer.step;
        if !loss.is_finite() && plan.precision != Precision::F16 {
            let detail = format!("the loss of step {step} is {loss}; hint: a lower --rate");
            return Err(Error::BadFile { file: path, detail });
        }
        if trainer.is_lost() {
            let detail = format!(
                "no gradient was finite for {} steps up to {step}; hint: --precision f32, or a lower --rate",
                trainer::MAX_LEFT_OUT
            );
            return Err(Error::BadFile { file: path, detail });
        }
        let is_last = step == last;
        let due = |every: u64| every > 0 && (step.is_multiple_of(every) || is_last);
        let held_out = match due(options.evaluate_every) {
            true => trainer.with_means(|trainer| data.held_out.glance(&trainer.network, trainer.rows.as_ref()))?,
            false => None,
        };
        if due(options.checkpoint_every.max(1)) {
            trainer.write_checkpoint(&path, &fingerprint)?;
        }
        let scale = trainer.network.scale()?;
        let (n_skipped, skipped) = match trainer.feed.skipped() {
            Some(keys) => (keys.len(), keys.iter().take(MAX_NAMED).cloned().collect()),
            None => (0, Vec::new()),
        };
        report(&Progress { step, loss, rate, scale, held_out, n_skipped, skipped });
    }
    assert_eq!(frozen, checksums(&trainer.network.frozen())?, "training changed a frozen weight");
    trainer.with_means(|trainer| Aligned::write(&options.out.join(ALIGNED_FILE), trainer, data.statistics.as_ref()))?;
    Aligned::read(&options.out, options.device)
}

/// Held-out images and texts of a run's data, language by language, by what `align` wrote.
pub fn measure(aligned: &Aligned, sources: &Sources) -> Result<Vec<FoundRow>> {
    aligned.measure(sources)
}

/// Whether a folder is opened as what `align` wrote.
pub fn is_aligned(folder: &std::path::Path) -> bool {
    Kind::of(folder) == Kind::Aligned
}

/// Whether this device is, or would be, a card.
pub fn is_card(device: crate::Device) -> bool {
    device::open(device).is_ok_and(|device| !device.is_cpu())
}

fn checksums(tensors: &[(String, candle_core::Tensor)]) -> Result<Vec<blake3::Hash>> {
    let hash = |tensor: &candle_core::Tensor| -> Result<blake3::Hash> {
        let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(blake3::hash(bytemuck::cast_slice(&values)))
    };
    tensors.iter().map(|(_, tensor)| hash(tensor)).collect()
}
