//! `firn train fusion`: a network that re-ranks the candidates of a collection, learnt from its own pairs.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    path::PathBuf,
    time::{Duration, Instant},
};

use firn_client::v1;
use firn_model::fusion::{Checkpoint, Kind, Losses, Progress, Sizes};
use indicatif::{HumanDuration, ProgressBar};

use super::Bar;
use crate::{
    cmd::{
        collection::TargetArgs,
        local, remote,
        reranker::{Shown, print},
    },
    exit::Usage,
    reranker::{self, Gathered, Parting, Stage, Training},
    settings::{self, Settings},
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
    /// frevl, facet-fusion, facet-fusion-1way, mlp or maxsim; several with a plus between them, which are asked as one; or hubs, without
    /// a network: what lies near to many has to be nearer
    #[arg(long, default_value = "facet-fusion-1way", value_name = "KIND[+KIND]")]
    kind: Kinds,
    /// Networks of each kind, by other seeds, that are asked as one: better, and as many times dearer
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=32), value_name = "N")]
    members: u64,
    /// The named vector of images that texts are compared with; its tokens are read if the kind reads any
    #[arg(long, default_value = "image", value_name = "NAME")]
    using: String,
    /// A named vector of images that is read too, though no text is compared with it, such as their encoder's own output
    #[arg(long, value_name = "NAME")]
    extra: Option<String>,
    /// Texts and images to learn from, so many at most of each, that tell hubs: what lies near to many of them comes first where it does
    /// not belong, and less so if that counts against it. 0: hubs are not told
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(0..=4096), value_name = "N")]
    crowd: u64,
    /// Activate it if it is significantly better than cosine
    #[arg(long)]
    activate: bool,
    /// Candidates of a question that it is judged with
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(2..=1000), value_name = "N")]
    candidates: u64,
    /// Most steps of each network [default: 900 over tokens, 1800 without]; it ends earlier when nothing gets better
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
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Clone, Debug)]
struct Kinds(Vec<Kind>);

impl std::str::FromStr for Kinds {
    type Err = String;

    fn from_str(names: &str) -> Result<Kinds, String> {
        reranker::kinds_of(names).map(Kinds)
    }
}

/// Who is learnt from, and who is judged on.
#[derive(Clone, Debug, clap::Args)]
struct PartingArgs {
    /// The field of the payload that says train, or anything else for points that are judged on
    #[arg(long, default_value = "split", value_name = "FIELD")]
    split: String,
    /// The field of the payload whose equal values are never parted [default: each point alone]
    #[arg(long, value_name = "FIELD")]
    group: Option<String>,
    /// Share of groups that is judged on, where no split is said
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    held_out: f64,
    /// Judge how a text finds its image among those of its own group alone, such as pictures that differ in one respect
    #[arg(long, requires = "group")]
    among_group: bool,
}

impl PartingArgs {
    fn parting(&self) -> Parting {
        let PartingArgs { split, group, held_out, among_group } = self.clone();
        Parting { split, group, held_out, among_group, ..Parting::default() }
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
    /// Look at tokens alone, not at the vectors too
    #[arg(long)]
    tokens_only: bool,
    /// Of what is added to states and to the cosine: the less, the longer the cosine leads
    #[arg(long, default_value_t = 0.2)]
    share: f64,
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
    /// The others of a list are drawn from so many nearest ones: fewer are harder
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000), value_name = "N")]
    nearest: u64,
    /// Lists in blocks of so many near images, each asked for among all of them and others from everywhere, in both directions: for images
    /// that come in families of hardly different ones
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=256), value_name = "N")]
    block: u64,
    /// Share of questions to learn from that are all texts of a point in one
    #[arg(long, default_value_t = 0.5, value_name = "SHARE")]
    joined: f64,
    /// Share of these that are only some of the texts, drawn each time, as the mean of their vectors
    #[arg(long, default_value_t = 0.6, value_name = "SHARE")]
    joined_in_part: f64,
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

impl FusionArgs {
    fn training(&self) -> Result<Training, Usage> {
        let mut training = Training::new(self.kind.0.clone(), self.steps, self.seed);
        (training.n_members, training.crowd) = (self.members as usize, self.crowd as usize);
        (training.using, training.extra) = (self.using.clone(), self.extra.clone());
        (training.candidates, training.activate) = (self.candidates as usize, self.activate);
        training.parting = self.parting.parting();
        let RecipeArgs { dim, layers, heads, wide, rate, decay, joined, image_to_text, dropout, image_dropout, .. } =
            self.recipe;
        let RecipeArgs { lists, list_length, nearest, block, smoothing, evaluate_every, patience, .. } = self.recipe;
        let plan = &mut training.plan;
        let RecipeArgs { tokens_only, share, joined_in_part, .. } = self.recipe;
        plan.sizes = Sizes { dim, n_layers: layers, n_heads: heads, wide, tokens_only, share };
        (plan.recipe.rate, plan.recipe.decay) = (rate, decay);
        let losses = &self.recipe.losses;
        plan.losses = Losses { contrastive: losses[0], matching: losses[1], regularisation: losses[2], smoothing };
        (plan.n_lists, plan.list_length) = (lists as usize, list_length as usize);
        plan.block = block as usize;
        plan.n_nearest = (nearest as usize).max(plan.least_near());
        (plan.joined, plan.joined_in_part, plan.image_to_text) = (joined, joined_in_part, image_to_text);
        (plan.dropout, plan.image_dropout) = (dropout, image_dropout);
        (plan.evaluate_every, plan.patience) = (evaluate_every, patience);
        training.check().map_err(|error| Usage(error.to_string()))?;
        Ok(training)
    }
}

pub(super) fn run(args: &FusionArgs, settings: &Settings) -> anyhow::Result<()> {
    let training = args.training()?;
    if let Some(server) = settings.server(args.target.server.as_deref(), &settings::OF_HERE_AND_MODEL)? {
        return at_server(&server, args, &training, settings);
    }
    let engine = local::existing_engine(settings)?;
    let collection = engine.db().collection(&args.collection)?;
    let checkpoint = args.checkpoint.as_ref().map(|path| Checkpoint {
        path,
        every: args.checkpoint_every,
        resume: true,
        stop_after: args.stop_after,
    });
    let mut show = Show::new();
    let report = &mut |stage: Stage| show.take(&stage);
    let version = reranker::train(&engine, &collection, &training, checkpoint, report)?;
    show.end();
    match version {
        Some(version) => {
            let active = engine.rerankers().state(&collection)?.active;
            print(&Shown::of(&version, &collection), active == Some(version.number), settings);
        }
        None => eprintln!("stopped; the same command without --stop-after goes on from here"),
    }
    Ok(())
}

/// The server does the work, as a job that Ctrl-C cancels.
fn at_server(server: &str, args: &FusionArgs, training: &Training, settings: &Settings) -> anyhow::Result<()> {
    Usage::unless(args.checkpoint.is_none(), || {
        format!("--checkpoint is a file of here, and the server at {server} does the work; hint: leave one of them out")
    })?;
    let mut show = Show::new();
    let version = remote::rerankers::train(server, &args.collection, training, &mut |job| show.look(job))?;
    show.end();
    match version {
        Some((version, is_active)) => print(&version, is_active, settings),
        None => anyhow::bail!("the job was cancelled; the collection is as it was"),
    }
    Ok(())
}

/// Lines and bars of a run that gathers, learns and judges.
pub struct Show {
    texts: ProgressBar,
    learning: Option<Bar>,
    questions: Option<ProgressBar>,
    started: Instant,
    /// What was last said of a server's job.
    seen: v1::Job,
}

impl Show {
    pub fn new() -> Show {
        let (texts, started, seen) = (ProgressBar::new(0), Instant::now(), v1::Job::default());
        Show { texts, learning: None, questions: None, started, seen }
    }

    pub fn take(&mut self, stage: &Stage) -> ControlFlow<()> {
        match stage {
            Stage::Texts(done, all) => {
                self.texts.set_length(*all as u64);
                self.texts.set_position(*done as u64);
            }
            Stage::Gathered(gathered) => {
                self.texts.finish_and_clear();
                say_gathered(gathered);
                self.started = Instant::now();
            }
            Stage::Learning(progress, n_steps) => {
                show(self.learning.get_or_insert_with(|| Bar::new(*n_steps)), progress);
            }
            Stage::Learnt(0, _) => eprintln!("judging"),
            Stage::Learnt(n_parameters, step) => {
                self.end();
                let taken = HumanDuration(self.started.elapsed());
                eprintln!("{n_parameters} weights learnt in {taken}, the best after {step} steps");
            }
            Stage::Judging(done, all) => self.asked(*done as u64, *all as u64),
        }
        ControlFlow::Continue(())
    }

    /// The same of a server's job, as often as it is looked at.
    pub fn look(&mut self, job: &v1::Job) {
        let before = std::mem::replace(&mut self.seen, job.clone());
        let is_new = before.state() != job.state();
        match job.state() {
            v1::JobState::Queued if is_new => eprintln!("job {} waits behind others; Ctrl-C cancels it", job.id),
            v1::JobState::Embedding => {
                if is_new {
                    eprintln!("job {}; Ctrl-C cancels it", job.id);
                }
                self.texts.set_length(job.total_count);
                self.texts.set_position(job.done_count);
            }
            v1::JobState::Learning if job.done_count > before.done_count || is_new => {
                self.texts.finish_and_clear();
                let recalls = |job: &v1::Job| job.recall_without.zip(job.recall_reranked);
                let progress = Progress {
                    step: job.done_count,
                    loss: job.loss,
                    accuracy: job.accuracy,
                    held_out: recalls(job).filter(|_| recalls(job) != recalls(&before)).map(<[f64; 2]>::from),
                    elapsed: Duration::from_micros(job.elapsed_us),
                };
                if job.done_count > 0 {
                    show(self.learning.get_or_insert_with(|| Bar::new(job.total_count)), &progress);
                }
            }
            v1::JobState::Judging if is_new && self.learning.is_some() => {
                self.end();
                eprintln!("learnt; judging");
            }
            v1::JobState::Judging if job.total_count > 0 => self.asked(job.done_count, job.total_count),
            _ => {}
        }
    }

    /// Of the questions that it is judged with.
    fn asked(&mut self, done: u64, all: u64) {
        let bar = self.questions.get_or_insert_with(|| ProgressBar::new(all));
        bar.set_length(all);
        bar.set_position(done);
    }

    pub fn end(&self) {
        self.texts.finish_and_clear();
        self.questions.iter().for_each(ProgressBar::finish_and_clear);
        self.learning.iter().for_each(|bar| bar.bar.finish_and_clear());
    }
}

fn say_gathered(gathered: &Gathered) {
    if let (n @ 1.., Some(one)) = (gathered.n_left_out, &gathered.left_out) {
        eprintln!(
            "{n} points with texts were left out, since they lack a vector or tokens that are read, such as {one}"
        );
    }
    eprintln!(
        "{} texts of {} points: {} to learn from, {} to say when to stop, {} to judge on",
        gathered.pairs.owner_of.len(),
        gathered.pairs.images.n(),
        gathered.train.len(),
        gathered.stop.len(),
        gathered.judged.len()
    );
    if let [language] = &gathered.languages.iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()[..]
        && !language.is_empty()
    {
        eprintln!("all texts are of one language, {language}: what comes of it is not judged in others");
    }
}

fn show(bar: &mut Bar, progress: &Progress) {
    let said = format!("{:.1} % of lists right", 100.0 * progress.accuracy);
    let held_out = progress
        .held_out
        .map(|[before, after]| format!("; R@1 without it {:.1} %, re-ranked {:.1} %", 100.0 * before, 100.0 * after));
    bar.take(progress.step, progress.loss, &said, held_out);
}
