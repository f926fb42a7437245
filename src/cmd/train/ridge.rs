//! `firn train ridge`: a text tower in closed form against images that another encoder embedded.

use std::{path::PathBuf, time::Instant};

use firn_model::align::{self, RidgePlan};
use indicatif::HumanDuration;

use super::frozen_images::FrozenImageArgs;
use crate::{exit::Usage, settings::Settings};

/// Solve a text tower in closed form, in minutes, against images that another encoder embedded
///
/// Words and pairs of neighbours, of all languages together, are counted; a ridge regression leads from them to the principal
/// axes of the images. It is solved again without each of a few parts of the images, so that a fusion network can learn from texts
/// that were not seen.
///
/// Example: firn train ridge --embeddings photos.npy --captions captions.jsonl --out ridge
#[derive(Debug, clap::Args)]
pub(super) struct RidgeArgs {
    #[command(flatten)]
    images: FrozenImageArgs,
    /// Texts of the images, JSON Lines (.gz), as `firn train align` reads them
    #[arg(long, value_name = "FILE")]
    captions: PathBuf,
    /// Where the tower goes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Numbers of an embedding
    #[arg(long, default_value_t = RidgePlan::default().dim, value_name = "N")]
    dim: usize,
    /// What is added to the diagonal
    #[arg(long, default_value_t = RidgePlan::default().penalty, value_name = "X")]
    penalty: f32,
    /// Most words and pairs that are counted
    #[arg(long, default_value_t = RidgePlan::default().n_features, value_name = "N")]
    features: usize,
    /// Parts of the images that are each left out once; 0 for none
    #[arg(long, default_value_t = RidgePlan::default().n_folds, value_name = "N")]
    folds: usize,
    /// Share of the largest deviation that is added to each before it is divided by
    #[arg(long, default_value_t = RidgePlan::default().softening, value_name = "SHARE")]
    softening: f32,
    /// Share of groups that are held out, where no split is given
    #[arg(long, default_value_t = RidgePlan::default().held_out, value_name = "SHARE")]
    held_out: f64,
}

pub(super) fn run(args: &RidgeArgs, settings: &Settings) -> anyhow::Result<()> {
    let RidgeArgs { dim, penalty, features, folds, softening, held_out, .. } = *args;
    let plan = RidgePlan { dim, penalty, n_features: features, n_folds: folds, softening, held_out };
    plan.check().map_err(Usage)?;
    Usage::unless(!args.images.is_given("--tokens"), || "--tokens: a ridge reads vectors alone".to_owned())?;
    let images = args.images.read()?.ok_or_else(|| Usage("--embeddings is missing".to_owned()))?;
    let started = Instant::now();
    let ridge = align::fit(&images, &args.captions, &plan, &args.out, &mut |said| eprintln!("{said}"))?;
    let weights = args.out.join(align::RIDGE_FILE);
    let (n, taken) = (ridge.n_parameters(), HumanDuration(started.elapsed()));
    eprintln!("done in {taken}; {n} weights in {}", weights.display());
    if settings.json {
        println!("{}", serde_json::json!({ "weights": weights, "parameters": n, "dim": ridge.plan().dim }));
    }
    Ok(())
}
