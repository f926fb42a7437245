//! `firn train fusion`: a network that re-ranks the candidates of a collection, learnt from its own pairs.

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use firn_index::Collection;
use firn_model::fusion::{self, Checkpoint, Kind, Losses, Network, Plan, Progress, Sizes};
use indicatif::HumanDuration;

use super::Bar;
use crate::{
    cmd::{local, reranker},
    engine::Engine,
    exit::Usage,
    query::Blend,
    reranker::{Gathered, Parting, Reads, State, Verdict, Version, Wanted, judge, now_s},
    settings::Settings,
};

/// Train a network that re-ranks what a collection finds, on the collection's own images and texts
///
/// Learns from points that have an image vector and texts: each text, and all of a language joined, against the nearest images that it
/// does not belong to. Points with another `split` than train in their payload are not learnt from but judged on; without splits, a
/// tenth of the points. The network is kept as a new version with the collection; nothing changes for queries before it is activated.
///
/// Example: firn train fusion photos --activate
#[derive(Debug, clap::Args)]
pub(super) struct FusionArgs {
    /// A collection, or an alias
    collection: String,
    /// frevl, facet-fusion, facet-fusion-1way, mlp or maxsim
    #[arg(long, default_value = "facet-fusion-1way")]
    kind: Kind,
    /// The named vector of images that texts are compared with; its tokens are read if the kind reads any
    #[arg(long, default_value = "image", value_name = "NAME")]
    using: String,
    /// A named vector of images that is read too, though no text is compared with it, such as their encoder's own output
    #[arg(long, value_name = "NAME")]
    extra: Option<String>,
    /// Activate it if it is significantly better than cosine
    #[arg(long)]
    activate: bool,
    /// Candidates of a question that it is judged with
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(2..=1000), value_name = "N")]
    candidates: u64,
    /// Most steps; it ends earlier when nothing gets better
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000), value_name = "N")]
    steps: Option<u64>,
    /// Decides first weights, what is drawn, and the folds of the judgement
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    parting: PartingArgs,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Where the run is kept while it lasts, so that the same command goes on after a stop
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Steps between checkpoints
    #[arg(long, default_value_t = 200, value_name = "N", requires = "checkpoint")]
    checkpoint_every: u64,
    /// End after this many steps in all, to go on later
    #[arg(long, value_name = "N", requires = "checkpoint")]
    stop_after: Option<u64>,
}

/// Who is learnt from, and who is judged on.
#[derive(Debug, clap::Args)]
pub struct PartingArgs {
    /// The field of the payload that says train, or anything else for points that are judged on
    #[arg(long, default_value = "split", value_name = "FIELD")]
    split: String,
    /// The field of the payload whose equal values are never parted [default: each point alone]
    #[arg(long, value_name = "FIELD")]
    group: Option<String>,
    /// Share of groups that is judged on, where no split is said
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    held_out: f64,
}

impl PartingArgs {
    pub fn parting(&self) -> Result<Parting, Usage> {
        let PartingArgs { held_out, .. } = *self;
        Usage::unless(held_out > 0.0 && held_out <= 0.5, || {
            format!("--held-out: expected more than 0 and at most 0.5, received {held_out}")
        })?;
        Ok(Parting { split: self.split.clone(), group: self.group.clone(), held_out, ..Parting::default() })
    }
}

/// How it learns.
#[derive(Debug, clap::Args)]
struct RecipeArgs {
    /// Numbers of a state
    #[arg(long, default_value_t = 128, value_name = "N")]
    dim: usize,
    #[arg(long, default_value_t = 2, value_name = "N")]
    layers: usize,
    #[arg(long, default_value_t = 4, value_name = "N")]
    heads: usize,
    /// Numbers inside each MLP, and the head
    #[arg(long, default_value_t = 256, value_name = "N")]
    wide: usize,
    /// Learning rate at its highest
    #[arg(long, default_value_t = 1e-3)]
    rate: f32,
    #[arg(long, default_value_t = 0.05)]
    decay: f32,
    /// Lists a step, each of one that belongs and others
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096), value_name = "N")]
    lists: u64,
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(2..=256), value_name = "N")]
    list_length: u64,
    /// Share of questions to learn from that are all texts of a point in one
    #[arg(long, default_value_t = 0.35, value_name = "SHARE")]
    joined: f64,
    /// Share of lists in which an image looks for its text
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    image_to_text: f64,
    #[arg(long, default_value_t = 0.3, value_name = "SHARE")]
    dropout: f32,
    /// Of what comes in of images
    #[arg(long, default_value_t = 0.4, value_name = "SHARE")]
    image_dropout: f32,
    /// Weights of the parts of the loss: over the list, of each pair, and of what is added to the cosine
    #[arg(long, num_args = 3, default_values_t = [1.0, 0.1, 0.01], value_names = ["LIST", "PAIR", "ADDED"])]
    losses: Vec<f64>,
    /// Share of the truth that is given to others
    #[arg(long, default_value_t = 0.03, value_name = "SHARE")]
    smoothing: f64,
    /// Steps between looks at images that say when to stop
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u64).range(1..=1_000_000), value_name = "N")]
    evaluate_every: u64,
    /// Looks without anything better before the end
    #[arg(long, default_value_t = 6, value_name = "N")]
    patience: usize,
}

/// By kind: an MLP's step costs a tenth of what one over tokens does.
fn default_steps(kind: Kind) -> u64 {
    if kind.reads_tokens() { 900 } else { 1800 }
}

impl FusionArgs {
    fn plan(&self) -> Result<Plan, Usage> {
        let RecipeArgs { dim, layers, heads, wide, rate, decay, joined, image_to_text, dropout, image_dropout, .. } =
            self.recipe;
        let RecipeArgs { lists, list_length, smoothing, evaluate_every, patience, .. } = self.recipe;
        for (flag, share) in [
            ("--joined", joined),
            ("--image-to-text", image_to_text),
            ("--dropout", f64::from(dropout)),
            ("--image-dropout", f64::from(image_dropout)),
            ("--smoothing", smoothing),
        ] {
            let is_share = (0.0..1.0).contains(&share);
            Usage::unless(is_share, || format!("{flag}: expected 0 to less than 1, received {share}"))?;
        }
        for (flag, number) in [("--rate", rate), ("--decay", decay)] {
            let fits = (0.0..=1.0).contains(&number) && (number > 0.0 || flag == "--decay");
            Usage::unless(fits, || format!("{flag}: expected more than 0 and at most 1, received {number}"))?;
        }
        let losses = &self.recipe.losses;
        Usage::unless(losses.iter().all(|weight| (0.0..=1e6).contains(weight)), || {
            format!("--losses: expected weights of 0 to 1000000, received {losses:?}")
        })?;
        let n_steps = self.steps.unwrap_or(default_steps(self.kind));
        let mut plan = Plan::new(self.kind, n_steps, self.seed);
        plan.sizes = Sizes { dim, n_layers: layers, n_heads: heads, wide };
        plan.sizes.check().map_err(Usage)?;
        (plan.recipe.rate, plan.recipe.decay) = (rate, decay);
        plan.losses = Losses { contrastive: losses[0], matching: losses[1], regularisation: losses[2], smoothing };
        (plan.n_lists, plan.list_length) = (lists as usize, list_length as usize);
        plan.n_nearest = plan.n_nearest.max(plan.list_length - 1);
        (plan.joined, plan.image_to_text) = (joined, image_to_text);
        (plan.dropout, plan.image_dropout) = (dropout, image_dropout);
        (plan.evaluate_every, plan.patience) = (evaluate_every, patience);
        Ok(plan)
    }
}

pub(super) fn run(args: &FusionArgs, settings: &Settings) -> anyhow::Result<()> {
    let (plan, parting) = (args.plan()?, args.parting.parting()?);
    let engine = local::existing_engine(settings)?;
    let collection = engine.db().collection(&args.collection)?;
    let reads = reads(args, &collection)?;
    let blend = blend_of(&collection, &args.using)?;
    let wanted = Wanted { reads: &reads, parting: &parting, blend: &blend, only_judged: false };
    let gathered = gathered(&engine, &collection, &wanted)?;
    eprintln!(
        "{} texts of {} points: {} to learn from, {} to say when to stop, {} to judge on",
        gathered.pairs.owner_of.len(),
        gathered.pairs.images.n(),
        gathered.train.len(),
        gathered.stop.len(),
        gathered.judged.len()
    );
    let Some((network, step)) = learn(args, &plan, &gathered, settings)? else {
        eprintln!("stopped; the same command without --stop-after goes on from here");
        return Ok(());
    };
    let scorer = network.scorer()?;
    let candidates = args.candidates as usize;
    let verdict = judge(scorer.as_ref(), &gathered, candidates, args.seed)?;
    let version = version(&network, step, args, reads, blend, &verdict);
    let version = State::of(&collection)?.add(&collection, version, network.bytes()?)?;
    if args.activate && verdict.is_better() {
        State::of(&collection)?.activate(&collection, version.number, false)?;
    }
    reranker::print(&version, State::of(&collection)?.active, settings)
}

/// What the network is to read, as far as the collection has it.
fn reads(args: &FusionArgs, collection: &Collection) -> anyhow::Result<Reads> {
    let config = collection.config();
    for (flag, name) in [("--using", Some(&args.using)), ("--extra", args.extra.as_ref())] {
        let Some(name) = name else { continue };
        Usage::unless(config.vectors.contains_key(name), || {
            format!("{flag}: expected one of {:?}, received {name:?}", config.vectors.keys().collect::<Vec<_>>())
        })?;
    }
    let tokens = args.kind.reads_tokens();
    Usage::unless(!tokens || config.tokens.contains_key(&args.using), || {
        format!(
            "--kind {}: collection {:?} keeps no tokens beside {:?}; hint: --kind mlp or frevl reads vectors alone",
            args.kind.name(),
            collection.name(),
            args.using
        )
    })?;
    let model = config.model_of(&args.using).cloned();
    let model = model.ok_or_else(|| crate::reranker::Error::NoModel {
        collection: collection.name().to_owned(),
        vector: args.using.clone(),
    })?;
    Ok(Reads { image: args.using.clone(), extra: args.extra.clone(), tokens, model })
}

/// The cosines that candidates come by: those that the collection keeps weights for, else the one that is read.
pub fn blend_of(collection: &Collection, using: &str) -> anyhow::Result<BTreeMap<String, f32>> {
    Ok(match Blend::read(collection)? {
        Some(blend) => blend.weights.into_iter().filter(|(_, weight)| *weight > 0.0).collect(),
        None => BTreeMap::from([(using.to_owned(), 1.0)]),
    })
}

/// The pairs, with a line that says how many texts are embedded.
pub fn gathered(engine: &Engine, collection: &Collection, wanted: &Wanted) -> anyhow::Result<Gathered> {
    let bar = indicatif::ProgressBar::new(0);
    let gathered = Gathered::read(engine, collection, wanted, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let gathered = gathered?;
    if let (n @ 1.., Some(one)) = (gathered.n_left_out, &gathered.left_out) {
        eprintln!(
            "{n} points with texts were left out, since they lack a vector or tokens that are read, such as {one}"
        );
    }
    Ok(gathered)
}

fn learn(
    args: &FusionArgs,
    plan: &Plan,
    gathered: &Gathered,
    settings: &Settings,
) -> anyhow::Result<Option<(Network, u64)>> {
    let started = Instant::now();
    let mut bar = Bar::new(plan.recipe.n_steps);
    let checkpoint = args.checkpoint.as_ref().map(|path| Checkpoint {
        path,
        every: args.checkpoint_every,
        resume: path.exists(),
        stop_after: args.stop_after,
    });
    let options = fusion::Options {
        plan,
        pairs: &gathered.pairs,
        train: &gathered.train,
        held_out: &gathered.stop,
        device: settings.device,
        checkpoint,
    };
    let learnt = fusion::train(&options, &mut |progress| show(&mut bar, progress))?;
    bar.bar.finish_and_clear();
    if let Some((network, step)) = &learnt {
        let taken = HumanDuration(started.elapsed());
        eprintln!("{} weights learnt in {taken}, the best after {step} steps", network.n_parameters());
    }
    Ok(learnt)
}

fn show(bar: &mut Bar, progress: &Progress) {
    let said = format!("{:.1} % of lists right", 100.0 * progress.accuracy);
    let held_out = progress
        .held_out
        .map(|[before, after]| format!("; R@1 by cosine {:.1} %, re-ranked {:.1} %", 100.0 * before, 100.0 * after));
    bar.take(progress.step, progress.loss, &said, held_out);
}

fn version(
    network: &Network,
    step: u64,
    args: &FusionArgs,
    reads: Reads,
    blend: BTreeMap<String, f32>,
    verdict: &Verdict,
) -> Version {
    Version {
        number: 0,
        kind: network.kind().name().to_owned(),
        parameters: network.n_parameters() as u64,
        seed: args.seed,
        steps: step,
        made_at: now_s(),
        reads,
        blend,
        weights: verdict.weights,
        candidates: args.candidates as usize,
        calibration: verdict.calibration.clone(),
        judged: verdict.judged.clone(),
    }
}
