//! `firn train`: makes the builtin pair, or lets one side learn against the other, frozen; measures both, and weighs vectors.

mod blend;
mod facets;
mod frozen_images;
mod fusion;
mod project;
mod ridge;
mod sides;

pub use self::fusion::Show;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{exit::Usage, settings::Settings};
use anyhow::Context as _;
use firn_model::{
    Device, Encoder, load,
    train::{self, HeldOut, Loss, Options, Plan, Progress, Schedule, emoji, evaluate},
};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// Steps between lines when the bar cannot be seen.
const LINE_EVERY: u64 = 50;

/// Train a network, or measure one
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    #[command(subcommand)]
    command: TrainCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TrainCommand {
    Align(Box<AlignArgs>),
    Blend(blend::BlendArgs),
    Evaluate(Box<EvaluateArgs>),
    Fusion(Box<fusion::FusionArgs>),
    Project(project::ProjectArgs),
    Ridge(ridge::RidgeArgs),
}

/// Train the builtin image and text pair, or one side against the other, frozen
///
/// Example: firn train align --scenes --out aligned --steps 2000
#[derive(Debug, clap::Args)]
struct AlignArgs {
    /// Train on the drawings in this folder (concepts.jsonl, texts.jsonl.gz, noto.tar, twemoji.tar)
    #[arg(long, value_name = "DIR", required_unless_present_any = ["scenes", "frozen"])]
    emoji: Option<PathBuf>,
    /// Train on generated scenes
    #[arg(long)]
    scenes: bool,
    /// Share of a batch that is emoji, when there are scenes as well [default: 0.3]
    #[arg(long, value_parser = share)]
    emoji_share: Option<f32>,
    /// Weight of the teacher, which knows what a scene holds, beside the contrastive loss; 0 for none [default: 6]
    #[arg(long, value_name = "WEIGHT")]
    teacher: Option<f32>,
    /// Where the checkpoint and the weights go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Steps in all, those of an earlier part of the run included [default: 2000; 30272 against frozen texts, 250 against
    /// frozen images]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    steps: Option<u64>,
    /// Pairs a step [default: 64; 3072 against frozen texts, 1000 against frozen images]
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=65_536))]
    batch: Option<u64>,
    /// Decides the first weights, the order of the data and their variation
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// infonce or sigmoid [default: infonce; sigmoid unless images are frozen]
    #[arg(long)]
    loss: Option<Loss>,
    /// Learning rate at its highest [default: 2e-3; 5e-4 against frozen texts, 2e-3 against frozen images]
    #[arg(long)]
    rate: Option<f32>,
    /// Steps in which the learning rate rises [default: a tenth of all, at most 50; 2000 against frozen texts]
    #[arg(long, value_name = "STEPS")]
    warm_up: Option<u64>,
    /// Steps in which the learning rate declines at the end [default: two fifths of all]
    #[arg(long, value_name = "STEPS")]
    decline: Option<u64>,
    /// Go on from the checkpoint in --out, if there is one and settings and data are the same, whose files are all read for it
    #[arg(long)]
    resume: bool,
    /// Steps between checkpoints
    #[arg(long, default_value_t = 200, value_name = "STEPS")]
    checkpoint_every: u64,
    /// Steps between looks at held-out pairs; 0 for none
    #[arg(long, default_value_t = 200, value_name = "STEPS")]
    evaluate_every: u64,
    /// End after this many steps in all, to be resumed later
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    stop_after: Option<u64>,
    #[command(flatten)]
    sides: sides::SideArgs,
}

/// Print the tables of the model card, recall on unseen scenes and held-out emoji; or recall on what a run of `align` held out
///
/// Example: firn train evaluate --scenes 1000
#[derive(Debug, clap::Args)]
struct EvaluateArgs {
    /// The folder that `firn train align --frozen` or `firn train ridge` wrote; its data are named as they were there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["weights", "emoji"])]
    aligned: Option<PathBuf>,
    #[command(flatten)]
    data: sides::DataArgs,
    /// Weights that `firn train align` wrote [default: the builtin model]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Unseen scenes to search among
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(2..=100_000))]
    scenes: u64,
    /// Measure on the held-out drawings in this folder too
    #[arg(long, value_name = "DIR")]
    emoji: Option<PathBuf>,
}

pub fn run(args: &TrainArgs, settings: &Settings) -> anyhow::Result<()> {
    match &args.command {
        TrainCommand::Align(args) => {
            let rate = args.rate.unwrap_or(1.0);
            Usage::unless(rate > 0.0 && rate <= 1.0, || {
                format!("--rate: expected more than 0 and at most 1, received {rate}")
            })?;
            let checkpoint = args.out.join(firn_model::align::CHECKPOINT_FILE);
            Usage::unless(args.resume || !checkpoint.exists(), || {
                format!("--out {}: holds a run already; hint: --resume goes on with it", args.out.display())
            })?;
            sides::refuse_ignored(args)?;
            match args.sides.frozen {
                Some(frozen) => sides::align(args, frozen, settings),
                None => align(args, settings),
            }
        }
        TrainCommand::Fusion(args) => fusion::run(args, settings),
        TrainCommand::Blend(args) => blend::run(args, settings),
        TrainCommand::Ridge(args) => ridge::run(args, settings),
        TrainCommand::Project(args) => project::run(args, settings),
        TrainCommand::Evaluate(args) => match &args.aligned {
            Some(folder) => sides::evaluate(folder, &args.data, settings),
            None => evaluate(args, settings),
        },
    }
}

fn align(args: &AlignArgs, settings: &Settings) -> anyhow::Result<()> {
    let options = options(args)?;
    let started = Instant::now();
    let mut bar = Bar::new(options.plan.schedule.n_steps);
    train::align(&options, &mut |progress| bar.show(progress))?;
    bar.bar.finish_and_clear();
    eprintln!(
        "{} steps taken in {}; weights in {}",
        bar.n_taken,
        HumanDuration(started.elapsed()),
        options.out.join(train::WEIGHTS_FILE).display()
    );
    if settings.json {
        say(bar.n_taken, &options.out.join(train::WEIGHTS_FILE));
    }
    Ok(())
}

/// What a program is told of a run.
fn say(n_taken: u64, weights: &Path) {
    println!("{}", serde_json::json!({ "steps_taken": n_taken, "weights": weights }));
}

fn options(args: &AlignArgs) -> anyhow::Result<Options> {
    let teacher = args.teacher.unwrap_or(6.0);
    Usage::unless((0.0..=1000.0).contains(&teacher), || format!("--teacher: expected 0 to 1000, received {teacher}"))?;
    let plan = Plan::new(args.seed, args.steps.unwrap_or(2000), args.batch.unwrap_or(64) as usize);
    let schedule = Schedule {
        peak: args.rate.unwrap_or(plan.schedule.peak),
        n_warm_up: args.warm_up.unwrap_or(plan.schedule.n_warm_up),
        n_decline: args.decline.unwrap_or(plan.schedule.n_decline),
        ..plan.schedule
    };
    let (scenes, emoji, emoji_share) = (args.scenes, args.emoji.is_some(), args.emoji_share.unwrap_or(0.3));
    Ok(Options {
        plan: Plan { loss: args.loss.unwrap_or(plan.loss), schedule, scenes, emoji, emoji_share, teacher, ..plan },
        emoji_folder: args.emoji.clone(),
        out: args.out.clone(),
        resume: args.resume,
        checkpoint_every: args.checkpoint_every,
        evaluate_every: args.evaluate_every,
        stop_after: args.stop_after,
    })
}

fn evaluate(args: &EvaluateArgs, settings: &Settings) -> anyhow::Result<()> {
    let builtin = match &args.weights {
        Some(path) => std::sync::Arc::new(train::read_weights(path)?) as std::sync::Arc<dyn Encoder>,
        None => load("builtin", Device::Cpu)?,
    };
    let n = args.scenes as usize;
    let scenes = evaluate::scenes(builtin.as_ref(), n)?;
    let emoji = args.emoji.as_ref().map(|folder| of_emoji(builtin.as_ref(), folder)).transpose()?;
    if settings.json {
        println!("{}", serde_json::json!({ "scenes": scenes, "emoji": emoji }));
        return Ok(());
    }
    println!("Unseen scenes, {n} pictures, by caption (chance: R@1 {:.2} %)\n", 100.0 / n as f64);
    print_rows(&scenes);
    let Some(rows) = emoji else { return Ok(()) };
    let n = rows.first().map_or(0, |row| row.text_to_image.n);
    println!("\nHeld-out emoji, {n} concepts, by name and keywords (chance: R@1 {:.2} %)\n", 100.0 / n.max(1) as f64);
    print_rows(&rows);
    Ok(())
}

fn of_emoji(encoder: &dyn Encoder, folder: &Path) -> anyhow::Result<Vec<evaluate::Row>> {
    let concepts = emoji::read(folder).with_context(|| format!("--emoji {}", folder.display()))?;
    Ok(evaluate::emoji(encoder, &concepts, &evaluate::emoji_languages(&concepts))?)
}

fn print_rows(rows: &[evaluate::Row]) {
    println!("| what | language | text to image R@1 (95 %) | R@5 | image to text R@1 (95 %) | R@5 |");
    println!("|---|---|---|---|---|---|");
    for row in rows {
        let (to_image, to_text) = (cells(&row.text_to_image), cells(&row.image_to_text));
        println!("| {} | {} | {to_image} | {to_text} |", row.what, row.language);
    }
}

fn cells(recall: &evaluate::Recall) -> String {
    let [low, high] = recall.at_1_interval.map(|share| 100.0 * share);
    format!("{:.1} ({low:.1} to {high:.1}) | {:.1}", 100.0 * recall.at_1, 100.0 * recall.at_5)
}

/// A bar at a terminal, lines elsewhere.
struct Bar {
    bar: ProgressBar,
    n_taken: u64,
    losses: Vec<f32>,
}

impl Bar {
    fn new(n_steps: u64) -> Bar {
        let bar = ProgressBar::new(n_steps);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {per_sec}, {eta} left, {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Bar { bar, n_taken: 0, losses: Vec::new() }
    }

    fn show(&mut self, progress: &Progress) {
        let said = format!("learning rate {:.5}", progress.rate);
        self.take(progress.step, progress.loss, &said, progress.held_out.as_ref().map(held_out));
    }

    /// After each step: its loss, what else is said of it, and what was seen of held-out pairs, if that was looked at.
    fn take(&mut self, step: u64, loss: f32, said: &str, held_out: Option<String>) {
        if self.n_taken == 0 {
            // A resumed run has not taken the steps before it: they say nothing about its rate.
            self.bar.set_position(step - 1);
            self.bar.reset_eta();
        }
        self.n_taken += 1;
        self.losses.push(loss);
        self.bar.set_message(format!("loss {loss:.3}, {said}"));
        self.bar.set_position(step);
        if step.is_multiple_of(LINE_EVERY) || held_out.is_some() {
            let mean = self.losses.iter().sum::<f32>() / self.losses.len().max(1) as f32;
            self.losses.clear();
            let left = HumanDuration(self.bar.eta());
            let held_out = held_out.unwrap_or_default();
            self.bar.suspend(|| eprintln!("step {step}: loss {mean:.3}, {said}, {left} left{held_out}"));
        }
    }
}

fn held_out(seen: &HeldOut) -> String {
    let emoji = seen.emoji_at_5.map(|share| format!(", emoji R@5 {:.1} %", 100.0 * share)).unwrap_or_default();
    let (long, short) = (100.0 * seen.scenes_long, 100.0 * seen.scenes_short);
    format!("; held out, text to image: scenes R@1 {long:.1} % by long and {short:.1} % by short captions{emoji}")
}

fn share(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("expected 0 to 1, received {text:?}")),
    }
}
