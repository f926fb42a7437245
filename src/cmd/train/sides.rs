//! `firn train align --frozen …`: one side learns against the other, or both learn; and `firn train evaluate --aligned`.

mod ignored;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::bail;
use firn_model::{
    Device,
    align::{
        self, Aligned, BlockPlan, DataShape, FoundRow, FrozenSizes, ImagePlan, ImageSource, Options, Plan, Precision,
        Progress, Projection, Recipe, Sources, TextFiles, TextPlan, TextSizes, VitSizes,
    },
    train::Loss,
};
use indicatif::HumanDuration;

pub(super) use self::ignored::refuse_ignored;
use super::{AlignArgs, Bar, facets, frozen_images::FrozenImageArgs};
use crate::{cmd::table::printable, exit::Usage, settings::Settings};

/// Which side does not learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum FrozenSide {
    /// FLAME: an image tower learns where a decoder's facets lie
    Text,
    /// A text tower learns where an image encoder put its images
    Image,
    /// Both sides learn
    None,
}

/// Where the data are.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "One side against the other")]
pub(super) struct DataArgs {
    /// WebDataset tars of pictures, or folders of them; a picture's KEY is its name with its folders, up to the first dot, and a
    /// member KEY.json may say `split` and `group`
    #[arg(long, value_name = "TAR", num_args = 1..)]
    images: Vec<PathBuf>,
    /// Facets of the pictures: a folder of KEY.pth (or .safetensors, .npy), each (n, dim), a safetensors file of such, or one or
    /// several folders that `firn embed` wrote, whose ids are the pictures' keys; several must be of one decoder
    #[arg(long, value_name = "PATH", num_args = 1..)]
    facets: Vec<PathBuf>,
    /// Texts of the images, JSON Lines (.gz): {"id", "text", "language", "split", "group"}, or {"id", "captions": [...]}; other splits
    /// than train are held out, and no group may be parted
    #[arg(long, value_name = "FILE")]
    captions: Option<PathBuf>,
    #[command(flatten)]
    frozen_images: FrozenImageArgs,
}

/// Sizes and settings of a run against a frozen side; where nothing is given, FLAME's published ones for a frozen text side,
/// and what served best on photos for a frozen image side.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "One side against the other")]
pub(super) struct SideArgs {
    /// Which side does not learn; without it the builtin pair is trained
    #[arg(long, value_enum, value_name = "SIDE")]
    pub(super) frozen: Option<FrozenSide>,
    #[command(flatten)]
    data: DataArgs,
    /// Numbers of an embedding, where neither the facets nor the images say it [default: 256]
    #[arg(long, value_name = "N")]
    dim: Option<usize>,
    /// Side of the pictures that the image tower takes [default: 224]
    #[arg(long, value_name = "PX")]
    side_px: Option<usize>,
    /// Side of its patches [default: 16]
    #[arg(long, value_name = "PX")]
    patch_px: Option<usize>,
    /// Width of the image tower; heads are 64 wide, as OpenCLIP's [default: 768]
    #[arg(long, value_name = "N")]
    image_dim: Option<usize>,
    /// Blocks of the image tower [default: 12]
    #[arg(long, value_name = "N")]
    image_blocks: Option<usize>,
    /// Width inside the projector [default: that of the embedding, at least 4096]
    #[arg(long, value_name = "N")]
    projector: Option<usize>,
    /// A decoder LLM (Llama or Mistral, Hugging Face layout) of which a frozen block stands in the image tower
    #[arg(long, value_name = "DIR")]
    block: Option<PathBuf>,
    /// Which block, from 0 [default: the last]
    #[arg(long, value_name = "N", requires = "block")]
    block_index: Option<usize>,
    /// Width of the text tower's transformer [default: 128]
    #[arg(long, value_name = "N")]
    text_dim: Option<usize>,
    /// Its blocks [default: 1]
    #[arg(long, value_name = "N")]
    text_blocks: Option<usize>,
    /// Its heads [default: 4]
    #[arg(long, value_name = "N")]
    text_heads: Option<usize>,
    /// Width of the text tower's plain way, which adds up words; 0 for none [default: 256]
    #[arg(long, value_name = "N")]
    plain_dim: Option<usize>,
    /// Rows that words are hashed to [default: 32768]
    #[arg(long, value_name = "N")]
    table_rows: Option<usize>,
    /// Words of a text that are read [default: 256]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// What is learnt on the side of frozen images: none, linear or mlp [default: mlp]
    #[arg(long)]
    projection: Option<Projection>,
    /// Width inside that projection [default: 512]
    #[arg(long, value_name = "N")]
    hidden: Option<usize>,
    /// Share of the mean variance that is added before frozen images are whitened [default: 0.3]
    #[arg(long, value_name = "SHARE")]
    softening: Option<f32>,
    /// Texts of each image a step [default: 6; 3 against frozen images]
    #[arg(long, value_name = "N")]
    texts_per_image: Option<usize>,
    /// Of InfoNCE: what of each answer all others share [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    smoothing: Option<f32>,
    /// What cosines are multiplied with at first [default: 10, or 15 against frozen images]
    #[arg(long, value_name = "X")]
    first_scale: Option<f32>,
    /// What is added to them at first, by the sigmoid loss [default: -10]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    first_bias: Option<f32>,
    /// AdamW's betas [default: 0.9 0.95]
    #[arg(long, num_args = 2, value_name = "BETA")]
    betas: Option<Vec<f32>>,
    /// AdamW's epsilon [default: 1e-8]
    #[arg(long, value_name = "X")]
    epsilon: Option<f32>,
    /// AdamW's weight decay, of matrices only [default: 0.5, or 0.1 against frozen images]
    #[arg(long, value_name = "X")]
    decay: Option<f32>,
    /// Parts that a batch is computed in, to save memory: the step stays the same [default: as many as make 384 of pictures, or
    /// 1 against frozen images]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4096))]
    accumulate: Option<u64>,
    /// Share of numbers that are dropped [default: 0, or 0.4 against frozen images]
    #[arg(long, value_name = "SHARE")]
    dropout: Option<f32>,
    /// Share of words that are left out [default: 0, or 0.25 against frozen images]
    #[arg(long, value_name = "SHARE")]
    word_dropout: Option<f32>,
    /// What a running mean of the weights keeps each step, which is then what is written; 0 for none [default: 0, or 0.99
    /// against frozen images]
    #[arg(long, value_name = "SHARE")]
    mean_kept: Option<f32>,
    /// What matrices are multiplied in: f32, bf16 or f16 [default: bf16 on a card, f32 on the CPU]
    #[arg(long)]
    precision: Option<Precision>,
    /// Share of groups that are held out, where no split is given [default: 0.02]
    #[arg(long, value_name = "SHARE")]
    held_out: Option<f64>,
    /// Pictures that the next one is drawn from [default: 10000]
    #[arg(long, value_name = "N")]
    shuffle: Option<usize>,
    /// Least share of a picture that a random crop keeps [default: 0.9]
    #[arg(long, value_name = "SHARE")]
    least_view: Option<f32>,
}

/// FLAME's steps over CC3M: 32 epochs in batches of 3072, of which each card had 384.
const FLAME_STEPS: u64 = 30_272;
const FLAME_BATCH: u64 = 3072;
const FLAME_PART: u64 = 384;
const FLAME_PROJECTOR: usize = 4096;

pub(super) fn align(args: &AlignArgs, frozen: FrozenSide, settings: &Settings) -> anyhow::Result<()> {
    let options = options(args, frozen, settings.device)?;
    let started = Instant::now();
    let mut bar = Bar::new(options.plan.recipe.n_steps);
    let (mut n_skipped, mut skipped) = (0, Vec::new());
    let aligned = align::align(&options, &mut |progress| {
        (n_skipped, skipped) = (progress.n_skipped, progress.skipped.clone());
        show(&mut bar, progress);
    })?;
    bar.bar.finish_and_clear();
    if n_skipped > 0 {
        let more = if n_skipped > skipped.len() { " and others" } else { "" };
        let names = printable(&skipped.join(", "));
        eprintln!("{n_skipped} pictures were left out, they cannot be decoded or have no texts: {names}{more}");
    }
    let (n_taken, taken) = (bar.n_taken, HumanDuration(started.elapsed()));
    let weights = options.out.join(align::ALIGNED_FILE);
    eprintln!("{n_taken} steps taken in {taken}; {} weights in {}", aligned.n_parameters(), weights.display());
    if settings.json {
        super::say(n_taken, &weights);
    }
    Ok(())
}

fn options(args: &AlignArgs, frozen: FrozenSide, device: Device) -> anyhow::Result<Options> {
    let sides = &args.sides;
    for (flag, share) in [
        ("--smoothing", f64::from(sides.smoothing.unwrap_or(0.0))),
        ("--dropout", f64::from(sides.dropout.unwrap_or(0.0))),
        ("--word-dropout", f64::from(sides.word_dropout.unwrap_or(0.0))),
        ("--mean-kept", f64::from(sides.mean_kept.unwrap_or(0.0))),
        ("--held-out", sides.held_out.unwrap_or(0.0)),
    ] {
        Usage::unless((0.0..1.0).contains(&share), || format!("{flag}: expected 0 to less than 1, received {share}"))?;
    }
    let view = sides.least_view.unwrap_or(1.0);
    Usage::unless(view > 0.0 && view <= 1.0, || {
        format!("--least-view: expected more than 0 and at most 1, received {view}")
    })?;
    let scale = sides.first_scale.unwrap_or(10.0);
    Usage::unless((1.0..=100.0).contains(&scale), || format!("--first-scale: expected 1 to 100, received {scale}"))?;
    let sources = sources(&sides.data, frozen, &args.out)?;
    let n_steps = args.steps.unwrap_or(u64::MAX);
    let warm_up = args.warm_up.unwrap_or(0);
    Usage::unless(warm_up <= n_steps, || {
        format!("--warm-up: expected at most the {n_steps} of --steps, received {warm_up}")
    })?;
    let shape = DataShape::of(&sources)?;
    let plan = plan(args, frozen, shape, device)?;
    plan.check().map_err(Usage)?;
    Ok(Options {
        plan,
        sources,
        device,
        out: args.out.clone(),
        resume: args.resume,
        checkpoint_every: args.checkpoint_every,
        evaluate_every: args.evaluate_every,
        stop_after: args.stop_after,
    })
}

/// Facets of several places are gathered below `out`.
fn sources(data: &DataArgs, frozen: FrozenSide, out: &Path) -> anyhow::Result<Sources> {
    let missing = |flag: &str| Usage(format!("{flag} is missing: --frozen {} needs it", name(frozen)));
    let given = |flag: &str, path: &Option<PathBuf>| path.clone().ok_or_else(|| missing(flag));
    let shards = || match data.images.is_empty() {
        true => Err(missing("--images")),
        false => Ok(ImageSource::Shards(data.images.clone())),
    };
    Ok(match frozen {
        FrozenSide::Text => {
            let images = shards()?;
            let facets = facets::gathered(&data.facets, out)?.ok_or_else(|| missing("--facets"))?;
            Sources { images, texts: TextFiles::Facets(facets) }
        }
        FrozenSide::None => {
            Sources { images: shards()?, texts: TextFiles::Captions(given("--captions", &data.captions)?) }
        }
        FrozenSide::Image => Sources {
            images: ImageSource::Frozen(Arc::new(data.frozen_images.read()?.ok_or_else(|| missing("--embeddings"))?)),
            texts: TextFiles::Captions(given("--captions", &data.captions)?),
        },
    })
}

fn name(frozen: FrozenSide) -> &'static str {
    match frozen {
        FrozenSide::Text => "text",
        FrozenSide::Image => "image",
        FrozenSide::None => "none",
    }
}

fn plan(args: &AlignArgs, frozen: FrozenSide, shape: DataShape, device: Device) -> anyhow::Result<Plan> {
    let sides = &args.sides;
    let of_images = frozen == FrozenSide::Image;
    let own_dim =
        if sides.projection == Some(Projection::None) { shape.frozen_images.map(|(dim, ..)| dim) } else { None };
    let dim = sides.dim.or(shape.facet_dim).or(own_dim).unwrap_or(256);
    let n_steps = args.steps.unwrap_or(if of_images { 250 } else { FLAME_STEPS });
    let recipe = Recipe {
        rate: args.rate.unwrap_or(if of_images { 2e-3 } else { 5e-4 }),
        betas: sides.betas.as_ref().map_or([0.9, 0.95], |betas| [betas[0], betas[1]]),
        epsilon: sides.epsilon.unwrap_or(1e-8),
        decay: sides.decay.unwrap_or(if of_images { 0.1 } else { 0.5 }),
        n_warm_up: args.warm_up.unwrap_or(if of_images { 50 } else { 2000 }).min(n_steps),
        n_steps,
    };
    let batch = args.batch.unwrap_or(if of_images { 1000 } else { FLAME_BATCH });
    let n_parts = sides.accumulate.unwrap_or(if of_images { 1 } else { batch.div_ceil(FLAME_PART) });
    let quiet = |given: Option<f32>, usual: f32| given.unwrap_or(if of_images { usual } else { 0.0 });
    Ok(Plan {
        seed: args.seed,
        image: image_plan(sides, shape, dim)?,
        text: match shape.facet_dim {
            Some(dim) => TextPlan::Facets { dim },
            None => TextPlan::Tower(text_sizes(sides)),
        },
        dim,
        loss: args.loss.unwrap_or(if of_images { Loss::InfoNce } else { Loss::Sigmoid }),
        smoothing: sides.smoothing.unwrap_or(0.1),
        first_scale: sides.first_scale.unwrap_or(if of_images { 15.0 } else { 10.0 }),
        first_bias: sides.first_bias.unwrap_or(-10.0),
        recipe,
        batch: batch as usize,
        texts_per_image: sides.texts_per_image.unwrap_or(if of_images { 3 } else { 6 }),
        n_parts: n_parts as usize,
        dropout: quiet(sides.dropout, 0.4),
        word_dropout: quiet(sides.word_dropout, 0.25),
        mean_kept: quiet(sides.mean_kept, 0.99),
        precision: precision(sides, device),
        held_out: sides.held_out.unwrap_or(0.02),
        shuffle: sides.shuffle.unwrap_or(10_000),
        least_view: sides.least_view.unwrap_or(0.9),
        softening: sides.softening.unwrap_or(0.3),
    })
}

fn image_plan(sides: &SideArgs, shape: DataShape, dim: usize) -> anyhow::Result<ImagePlan> {
    if let Some((dim, n_tokens, token_dim)) = shape.frozen_images {
        let (projection, hidden) = (sides.projection.unwrap_or(Projection::Mlp), sides.hidden.unwrap_or(512));
        return Ok(ImagePlan::Frozen(FrozenSizes { dim, n_tokens, token_dim, projection, hidden }));
    }
    let sizes = VitSizes {
        side_px: sides.side_px.unwrap_or(224),
        patch_px: sides.patch_px.unwrap_or(16),
        dim: sides.image_dim.unwrap_or(768),
        n_blocks: sides.image_blocks.unwrap_or(12),
        projector: sides.projector.unwrap_or(dim.max(FLAME_PROJECTOR)),
    };
    let block = |decoder: &PathBuf| -> anyhow::Result<BlockPlan> {
        Usage::unless(decoder.is_dir(), || {
            format!("--block {}: expected the folder of a decoder, received none", decoder.display())
        })?;
        Ok(BlockPlan::of(decoder, sides.block_index)?)
    };
    Ok(ImagePlan::Tower { sizes, block: sides.block.as_ref().map(block).transpose()? })
}

fn text_sizes(sides: &SideArgs) -> TextSizes {
    TextSizes {
        table_rows: sides.table_rows.unwrap_or(32_768),
        dim: sides.text_dim.unwrap_or(128),
        n_blocks: sides.text_blocks.unwrap_or(1),
        n_heads: sides.text_heads.unwrap_or(4),
        plain_dim: sides.plain_dim.unwrap_or(256),
        max_tokens: sides.max_tokens.unwrap_or(256),
    }
}

fn precision(sides: &SideArgs, device: Device) -> Precision {
    let on_card = align::is_card(device);
    sides.precision.unwrap_or(if on_card { Precision::Bf16 } else { Precision::F32 })
}

fn show(bar: &mut Bar, progress: &Progress) {
    let held_out = progress.held_out.as_ref().map(|row| {
        let (to_image, to_text) = (100.0 * row.text_to_image.at[0], 100.0 * row.image_to_text.at[0]);
        format!("; held out: R@1 {to_image:.1} % text to image, {to_text:.1} % image to text")
    });
    let said = format!("learning rate {:.5}, scale {:.1}", progress.rate, progress.scale);
    bar.take(progress.step, progress.loss, &said, held_out);
}

pub(super) fn evaluate(folder: &Path, data: &DataArgs, settings: &Settings) -> anyhow::Result<()> {
    let rows = measured(folder, data, settings.device)?;
    let Some(first) = rows.first() else { bail!("nothing is held out: expected images of a split other than train") };
    if settings.json {
        println!("{}", serde_json::to_string(&rows)?);
        return Ok(());
    }
    println!(
        "Held out, {} images (chance: R@1 {:.2} %); intervals by bootstrap over images\n",
        first.n_images,
        100.0 / first.n_images as f64
    );
    println!(
        "| language | texts | text to image R@1 (95 %) | R@5 | R@10 | images | image to text R@1 (95 %) | R@5 | R@10 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for FoundRow { language, text_to_image, image_to_text, .. } in &rows {
        println!("| {language} | {} | {} |", cells(text_to_image), cells(image_to_text));
    }
    Ok(())
}

/// By what stands in the folder.
fn measured(folder: &Path, data: &DataArgs, device: Device) -> anyhow::Result<Vec<FoundRow>> {
    if !folder.is_dir() {
        return Err(firn_model::Error::UnknownModel { name: folder.display().to_string() }.into());
    }
    if !align::is_aligned(folder) {
        refuse_unread(data, FrozenSide::Image, folder)?;
        let missing = |flag: &str| Usage(format!("{flag} is missing: texts against frozen images need it"));
        let images = data.frozen_images.read()?.ok_or_else(|| missing("--embeddings"))?;
        let captions = data.captions.as_ref().ok_or_else(|| missing("--captions"))?;
        return Ok(align::measure_texts(folder, &images, captions, device)?);
    }
    let aligned = Aligned::read(folder, device)?;
    let frozen = match (&aligned.plan().image, &aligned.plan().text) {
        (ImagePlan::Frozen(_), _) => FrozenSide::Image,
        (_, TextPlan::Facets { .. }) => FrozenSide::Text,
        _ => FrozenSide::None,
    };
    refuse_unread(data, frozen, folder)?;
    // What is gathered of several folders of facets goes nowhere near the run's own.
    let gathered = tempfile::tempdir()?;
    Ok(align::measure(&aligned, &sources(data, frozen, gathered.path())?)?)
}

/// Data that the model of a folder would not be measured on.
fn refuse_unread(data: &DataArgs, frozen: FrozenSide, folder: &Path) -> Result<(), Usage> {
    match ignored::flags_of_data(data, Some(frozen)).into_iter().find(|(_, is_given, is_read)| *is_given && !is_read) {
        None => Ok(()),
        Some((flag, ..)) => {
            let learnt = if frozen == FrozenSide::Image { "texts against frozen images" } else { "pictures" };
            Err(Usage(format!("{flag}: not read for {}, which learnt {learnt}", folder.display())))
        }
    }
}

fn cells(found: &align::Found) -> String {
    let share = |at: usize| {
        let [low, high] = found.interval[at].map(|share| 100.0 * share);
        format!("{:.1} ({low:.1} to {high:.1})", 100.0 * found.at[at])
    };
    format!("{} | {} | {} | {}", found.n_queries, share(0), share(1), share(2))
}
