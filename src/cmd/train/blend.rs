//! `firn train blend`: how much each named vector of a collection counts, fitted on its own held-out points and their texts.

mod fit;

use std::{collections::BTreeMap, sync::Arc};

use firn_index::{Collection, Fields, Limits, Point, Side};
use firn_ingest::{makers::vectors_of, source::join::SPLIT};
use firn_model::{Encoder, Error as ModelError, Keep};
use indicatif::ProgressBar;
use serde::Serialize;

use self::fit::{Fit, Gain, Questions};
use crate::{
    cmd::{local, table},
    engine::Engine,
    exit::Usage,
    query::{Blend, Fitted},
    settings::Settings,
};

/// Texts that go through a network together.
const TEXTS_PER_CALL: usize = 64;
/// The split that models were trained on.
const TRAIN: &str = "train";

/// Find out how much each named vector should count, and keep that with the collection
///
/// Each text of a held-out point is a question, and so are all of its texts together; a question is right if its point scores highest
/// of all that are held out. Weights are chosen by these questions; how good they are is measured on points they were not chosen on.
///
/// Example: firn train blend photos
#[derive(Debug, clap::Args)]
pub(super) struct BlendArgs {
    /// The collection, or an alias
    collection: String,
    /// The points whose payload has this `split` [default: any but train]
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Decides which points are folded together, and what the intervals are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Parts of the points, each judged by weights chosen on the others
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=100))]
    folds: u16,
    /// Only say what was found; the collection stays as it is
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &BlendArgs, settings: &Settings) -> anyhow::Result<()> {
    let engine = local::existing_engine(settings)?;
    let collection = engine.db().collection(&args.collection)?;
    let spaces = spaces(&engine, &collection)?;
    let points = held_out(&collection, &spaces, args.split.as_deref())?;
    check(args, &spaces, &points)?;

    let grid = fit::grid(spaces.len());
    let asked = ask(&spaces, &points, &grid)?;
    let folds = fit::folds(points.len(), args.folds.into(), args.seed);
    let fit = fit::fit(&grid, &asked.questions, &folds);
    let report = report(args, &spaces, (&grid, &fit, &asked), points.len());
    if !args.dry_run {
        report.blend(args).write(&collection)?;
    }
    match settings.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print(&report),
    }
    Ok(())
}

/// A named vector, and what brings texts to where it lies.
struct Space {
    name: String,
    dim: usize,
    encoder: Arc<dyn Encoder>,
}

/// The vectors that texts can be compared with, but for those of texts: the questions are made of the same texts.
fn spaces(engine: &Engine, collection: &Collection) -> anyhow::Result<Vec<Space>> {
    let config = collection.config();
    let of_texts = vectors_of(config, Side::Text);
    let mut spaces = Vec::new();
    for (name, vector) in config.vectors.iter().filter(|(name, _)| !of_texts.contains(&name.as_str())) {
        let Some(encoder) = engine.encoder_for(config, name)? else { continue };
        if encoder.info().max_text_tokens > 0 && encoder.info().dim == vector.dim {
            spaces.push(Space { name: name.clone(), dim: vector.dim, encoder });
        }
    }
    Ok(spaces)
}

/// The points of the split that have one of the vectors.
fn held_out(collection: &Collection, spaces: &[Space], wanted: Option<&str>) -> anyhow::Result<Vec<Point>> {
    let reader = collection.reader();
    let fields = Fields { payload: true, texts: true, vectors: true, tokens: false };
    let is_wanted = |point: &Point| {
        let split = point.payload.get(SPLIT).and_then(|split| split.as_str());
        let is_in = split.is_some_and(|split| wanted.map_or(split != TRAIN, |wanted| split == wanted));
        is_in && spaces.iter().any(|space| point.vectors.contains_key(&space.name))
    };
    let (mut points, mut from) = (Vec::new(), Some(0));
    while let Some(row) = from {
        let page = reader.scroll(row, Limits::MAX_LIMIT / 10, fields)?;
        points.extend(page.points.into_iter().filter(is_wanted));
        from = page.next;
    }
    Ok(points)
}

fn check(args: &BlendArgs, spaces: &[Space], points: &[Point]) -> Result<(), Usage> {
    let names: Vec<&str> = spaces.iter().map(|space| space.name.as_str()).collect();
    Usage::unless(spaces.len() > 1, || {
        format!(
            "expected two vectors at least that texts can be compared with, received {names:?}; hint: `firn collection create` makes them with --vector NAME=image:MODEL"
        )
    })?;
    let n_described = points.iter().filter(|point| !point.texts.is_empty()).count();
    Usage::unless(n_described >= usize::from(args.folds), || {
        let which = args
            .split
            .as_ref()
            .map_or_else(|| "another split than train".to_owned(), |split| format!("split {split:?}"));
        format!(
            "expected {} points at least with texts and {which}, received {n_described}; hint: `firn ingest --captions FILE` brings both",
            args.folds
        )
    })
}

/// What was asked, and how it went.
#[derive(Default)]
struct Asked {
    questions: Questions,
    /// Of each question, whether it is all texts of a point.
    are_whole: Vec<bool>,
    /// Texts in which a model found nothing to read.
    n_empty: usize,
}

fn ask(spaces: &[Space], points: &[Point], grid: &[Vec<f32>]) -> anyhow::Result<Asked> {
    let gallery: Vec<Vec<f32>> = spaces.iter().map(|space| gallery(space, points)).collect();
    let texts: Vec<(usize, bool, String)> = points.iter().enumerate().flat_map(questions_of).collect();
    let (mut asked, bar) = (Asked::default(), ProgressBar::new(texts.len() as u64));
    for batch in texts.chunks(TEXTS_PER_CALL) {
        let words: Vec<&str> = batch.iter().map(|(_, _, text)| text.as_str()).collect();
        let embedded = embed(spaces, &words)?;
        for (at, (owner, is_whole, _)) in batch.iter().enumerate() {
            let vectors: Option<Vec<&[f32]>> = embedded.iter().map(|of| of[at].as_deref()).collect();
            let Some(vectors) = vectors else {
                asked.n_empty += 1;
                continue;
            };
            let all = vectors.iter().zip(&gallery);
            let cosines: Vec<Vec<f32>> = all
                .map(|(vector, rows)| rows.chunks_exact(vector.len()).map(|row| fit::dot(row, vector)).collect())
                .collect();
            asked.questions.rights.push(fit::rights(grid, &cosines, *owner));
            asked.questions.owners.push(*owner);
            asked.are_whole.push(*is_whole);
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(asked)
}

/// (points, dim); a point without the vector is as far from all questions as zeros are.
fn gallery(space: &Space, points: &[Point]) -> Vec<f32> {
    let zeros = vec![0.0; space.dim];
    points.iter().flat_map(|point| point.vectors.get(&space.name).unwrap_or(&zeros)).copied().collect()
}

/// Each text of a point, and all of them in one, if there are several.
fn questions_of((owner, point): (usize, &Point)) -> Vec<(usize, bool, String)> {
    let texts: Vec<&str> = point.texts.iter().map(|text| text.text.as_str()).collect();
    let mut questions: Vec<_> = texts.iter().map(|text| (owner, false, (*text).to_owned())).collect();
    if texts.len() > 1 {
        questions.push((owner, true, texts.join(" ")));
    }
    questions
}

/// For each space, the texts in it; none for one in which the model finds nothing. Each text goes once through each network.
fn embed(spaces: &[Space], texts: &[&str]) -> Result<Vec<Vec<Option<Vec<f32>>>>, ModelError> {
    let mut by_model: BTreeMap<&str, Vec<Option<Vec<f32>>>> = BTreeMap::new();
    for Space { encoder, .. } in spaces {
        if !by_model.contains_key(encoder.info().hash.as_str()) {
            by_model.insert(&encoder.info().hash, embed_by(encoder.as_ref(), texts)?);
        }
    }
    Ok(spaces.iter().map(|space| by_model[space.encoder.info().hash.as_str()].clone()).collect())
}

fn embed_by(encoder: &dyn Encoder, texts: &[&str]) -> Result<Vec<Option<Vec<f32>>>, ModelError> {
    if let Ok(embedded) = encoder.embed_texts(texts, Keep::Nothing) {
        return Ok(embedded.into_iter().map(|text| Some(text.embedding)).collect());
    }
    let one = |text: &&str| match encoder.embed_texts(&[text], Keep::Nothing) {
        Ok(mut embedded) => Ok(embedded.pop().map(|text| text.embedding)),
        Err(ModelError::EmptyText) => Ok(None),
        Err(error) => Err(error),
    };
    texts.iter().map(one).collect()
}

/// Shares of questions that were answered right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Recall {
    all: f64,
    /// Of single texts, and of all texts of a point together.
    by_a_text: f64,
    by_all_texts: f64,
}

#[derive(Serialize)]
struct Alone {
    vector: String,
    weight: f32,
    recall_at_1: Recall,
    /// Of the blend.
    gain: Gain,
}

#[derive(Serialize)]
struct Report {
    points: usize,
    questions: usize,
    empty_questions: usize,
    /// By weights that were chosen on other points.
    recall_at_1: Recall,
    vectors: Vec<Alone>,
    is_stored: bool,
}

fn report(
    args: &BlendArgs,
    spaces: &[Space],
    (grid, fit, asked): (&[Vec<f32>], &Fit, &Asked),
    n_points: usize,
) -> Report {
    let Questions { owners, rights } = &asked.questions;
    let alone = |at: usize, space: &Space| {
        // The grid begins with each vector alone.
        let column: Vec<bool> = rights.iter().map(|rights| rights[at]).collect();
        Alone {
            vector: space.name.clone(),
            weight: grid[fit.chosen][at],
            recall_at_1: recall(&column, &asked.are_whole),
            gain: fit::gain(owners, &fit.crossed, &column, args.seed),
        }
    };
    Report {
        points: n_points,
        questions: owners.len(),
        empty_questions: asked.n_empty,
        recall_at_1: recall(&fit.crossed, &asked.are_whole),
        vectors: spaces.iter().enumerate().map(|(at, space)| alone(at, space)).collect(),
        is_stored: !args.dry_run,
    }
}

fn recall(rights: &[bool], are_whole: &[bool]) -> Recall {
    let share = |is_meant: &dyn Fn(bool) -> bool| {
        let meant = rights.iter().zip(are_whole).filter(|(_, is_whole)| is_meant(**is_whole));
        let (n, n_right) = meant.fold((0, 0), |(n, n_right), (right, _)| (n + 1, n_right + usize::from(*right)));
        n_right as f64 / f64::max(f64::from(n), 1.0)
    };
    Recall { all: share(&|_| true), by_a_text: share(&|is_whole| !is_whole), by_all_texts: share(&|is_whole| is_whole) }
}

impl Report {
    fn blend(&self, args: &BlendArgs) -> Blend {
        let of =
            |value: fn(&Alone) -> f64| self.vectors.iter().map(|alone| (alone.vector.clone(), value(alone))).collect();
        let fitted = Fitted {
            points: self.points,
            questions: self.questions,
            folds: args.folds.into(),
            seed: args.seed,
            recall_at_1: self.recall_at_1.all,
            recall_at_1_alone: of(|alone| alone.recall_at_1.all),
        };
        let weights = self.vectors.iter().map(|alone| (alone.vector.clone(), alone.weight)).collect();
        Blend { weights, fitted: Some(fitted) }
    }
}

fn print(report: &Report) {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let cells = |name: &str, weight: String, recall: &Recall, gain: String| {
        vec![
            name.to_owned(),
            weight,
            percent(recall.by_a_text),
            percent(recall.by_all_texts),
            percent(recall.all),
            gain,
        ]
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for Alone { vector, weight, recall_at_1, gain: Gain { gain, low, high } } in &report.vectors {
        let gain = format!("{:+.1} ({:+.1} to {:+.1})", 100.0 * gain, 100.0 * low, 100.0 * high);
        rows.push(cells(vector, format!("{weight:.2}"), recall_at_1, gain));
    }
    rows.push(cells("blend", String::new(), &report.recall_at_1, String::new()));
    table::print(&["R@1, %", "weight", "by a text", "by all texts", "together", "the blend gains (95 %)"], &rows);
    let empty = if report.empty_questions > 0 {
        format!(", {} more had nothing to read", report.empty_questions)
    } else {
        String::new()
    };
    let (questions, points) = (table::counted(report.questions, "question"), table::counted(report.points, "point"));
    eprintln!("{questions} among {points}{empty}; the blend is judged by weights that were chosen on other points");
    if report.is_stored {
        eprintln!("kept with the collection: queries that name no vector go by these weights");
    }
}
