//! A text tower in closed form, in any languages at once: words and pairs of neighbours, counted, and a ridge regression from them to
//! where an image encoder put its images. Minutes on a CPU, and what it knows of each word stands apart: the tokens of a
//! text are what its words add to the embedding.
//!
//! Solved in folds too, each without a part of the images, so that the texts of an image can be embedded as if they had never been
//! seen: what learns on top of it, a fusion network, needs that (cross-fitting).

mod features;
mod fold;
mod solve;
mod space;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use candle_core::{Device, Tensor};
use half::f16;

use self::{
    features::{Line, Vocabulary},
    fold::Folds,
    solve::Rows,
    space::Space,
};
use super::{
    FrozenImages,
    bounds::within,
    captions::{self, Described},
};
use crate::{
    Error, FusionTokens, Keep, Memory, Result, TEXT_TOKENS, TextEmbedding, TokenShape, folder,
    fusion_tokens::pool_rows,
    kind,
    learn::tensors::{numbers, read_tensors, write_tensors},
    side::{Opened, Sides, TextInfo, TextSide, Want},
};

/// Where the tower stands, and its folds, below the output folder.
pub const RIDGE_FILE: &str = "ridge.safetensors";
pub const FOLDS_FILE: &str = "folds.safetensors";
const KEY: &str = "firn.ridge";
pub(crate) const FAMILY: &str = "ridge";
/// Words of a text that are read.
const MAX_WORDS: usize = 512;

/// What decides the tower, beside its data.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct RidgePlan {
    /// Numbers of an embedding: principal components of the images.
    pub dim: usize,
    /// What is added to the diagonal.
    pub penalty: f32,
    /// Most words and pairs that are counted, the most frequent ones.
    pub n_features: usize,
    /// Parts of the images that are each left out once; 0 for none.
    pub n_folds: usize,
    /// Share of the largest deviation that is added to each before it is divided by.
    pub softening: f32,
    /// Share of groups that are held out, where no split is given.
    pub held_out: f64,
}

impl Default for RidgePlan {
    fn default() -> RidgePlan {
        RidgePlan { dim: 256, penalty: 6.0, n_features: 60_000, n_folds: 5, softening: 0.05, held_out: 0.02 }
    }
}

impl RidgePlan {
    /// `Err` says what was expected and received.
    pub fn check(&self) -> std::result::Result<(), String> {
        let RidgePlan { dim, penalty, n_features, n_folds, softening, held_out } = *self;
        within("dim", dim, 1..=1 << 14)?;
        within("features", n_features, 1..=1 << 22)?;
        within("softening", softening, 0.0..=1.0)?;
        for (what, is_so, received) in [
            ("folds: expected 0, or 2 to 64", n_folds == 0 || (2..=64).contains(&n_folds), n_folds.to_string()),
            ("penalty: expected more than 0", penalty > 0.0 && penalty.is_finite(), penalty.to_string()),
            ("held_out: expected 0 to less than 1", (0.0..1.0).contains(&held_out), held_out.to_string()),
        ] {
            if !is_so {
                return Err(format!("{what}, received {received}"));
            }
        }
        Ok(())
    }
}

pub struct Ridge {
    plan: RidgePlan,
    vocabulary: Vocabulary,
    space: Space,
    /// (features, dim)
    weights: Vec<f16>,
    folder: PathBuf,
    /// Read when they are asked for: no query needs them.
    folds: OnceLock<Option<Folds>>,
}

/// Solves and writes a tower: `captions` as `align` reads them, of which other splits than train are held out. `Error::BadData` if fewer than
/// two images have captions.
pub fn fit(
    images: &FrozenImages,
    captions: &Path,
    plan: &RidgePlan,
    out: &Path,
    report: &mut dyn FnMut(&str),
) -> Result<Ridge> {
    let bad = |detail: String| Error::BadData { file: captions.to_owned(), detail };
    plan.check().map_err(bad)?;
    kind::refuse_others(out, RIDGE_FILE)?;
    let all = captions::read_whole_groups(captions)?;
    let train = Train::of(images, &all, plan);
    if train.images.len() < 2 {
        return Err(bad(images.too_few(train.images.len(), &all, plan.held_out)));
    }
    report(&format!("{} captions of {} images", train.lines.len(), train.images.len()));
    let dim = plan.dim.min(images.vectors.dim).min(train.images.len() - 1);
    let plan = RidgePlan { dim, ..*plan };
    let of_images = |detail: String| Error::BadData { file: images.origin.clone(), detail };
    let space = Space::measure(images, &train.images, &plan).map_err(of_images)?;
    let vocabulary = Vocabulary::count(&train.lines, plan.n_features);
    if vocabulary.n() == 0 {
        return Err(bad("expected words that more than one caption has".to_owned()));
    }
    report(&format!("{} words and pairs, {dim} axes of the images", vocabulary.n()));

    let rows = Rows::new(train.lines.iter().map(|line| vocabulary.row(line)));
    let targets = space.of(images);
    let weights = solve::solve(&rows, &|_| true, &targets, &train.owner_of, &plan);
    report("solved");
    let folds = (plan.n_folds > 0).then(|| {
        let mut of = Vec::with_capacity(plan.n_folds);
        for fold in 0..plan.n_folds {
            let is_kept = |text: usize| train.fold_of[text] != fold;
            of.push(solve::solve(&rows, &is_kept, &targets, &train.owner_of, &plan));
            report(&format!("fold {} of {} solved", fold + 1, plan.n_folds));
        }
        Folds::new(train.ids(images), of)
    });
    let ridge = Ridge { plan, vocabulary, space, weights, folder: out.to_owned(), folds: folds.into() };
    ridge.write(out)?;
    Ridge::read(out)
}

/// What is learnt from.
struct Train {
    /// Places of the images.
    images: Vec<usize>,
    /// Of each text, the place of its image.
    owner_of: Vec<usize>,
    fold_of: Vec<usize>,
    lines: Vec<Line>,
    fold_of_image: Vec<usize>,
}

impl Train {
    fn of(images: &FrozenImages, captions: &HashMap<String, Described>, plan: &RidgePlan) -> Train {
        let mut train = Train {
            images: Vec::new(),
            owner_of: Vec::new(),
            fold_of: Vec::new(),
            lines: Vec::new(),
            fold_of_image: Vec::new(),
        };
        for (at, id) in images.ids().iter().enumerate() {
            let Some(described) = captions.get(id) else { continue };
            if described.belonging.is_held_out(id, plan.held_out) {
                continue;
            }
            let fold = fold::of_group(described.belonging.group.as_deref().unwrap_or(id), plan.n_folds);
            let lines: Vec<Line> =
                described.captions.iter().filter_map(|caption| Line::read(&caption.text, MAX_WORDS)).collect();
            if lines.is_empty() {
                continue;
            }
            train.images.push(at);
            train.fold_of_image.push(fold);
            train.owner_of.extend(std::iter::repeat_n(at, lines.len()));
            train.fold_of.extend(std::iter::repeat_n(fold, lines.len()));
            train.lines.extend(lines);
        }
        train
    }

    fn ids<'a>(&'a self, images: &'a FrozenImages) -> impl Iterator<Item = (&'a str, usize)> {
        self.images.iter().zip(&self.fold_of_image).map(|(&at, &fold)| (images.ids()[at].as_str(), fold))
    }
}

impl Ridge {
    fn write(&self, out: &Path) -> Result<()> {
        std::fs::create_dir_all(out).map_err(|error| Error::Io { path: out.to_owned(), error })?;
        let about = serde_json::to_string(&self.plan).expect("plain numbers");
        let mut tensors = self.vocabulary.tensors()?;
        tensors.extend(self.space.tensors()?);
        let shape = (self.vocabulary.n(), self.plan.dim);
        tensors.push(("weights".to_owned(), Tensor::from_slice(&self.weights, shape, &Device::Cpu)?));
        if let Some(folds) = self.folds()? {
            folds.write(&out.join(FOLDS_FILE), shape)?;
        }
        write_tensors(&out.join(RIDGE_FILE), &tensors, (KEY, &about))
    }

    /// From the folder that `fit` wrote.
    pub fn read(folder: &Path) -> Result<Ridge> {
        let path = folder.join(RIDGE_FILE);
        let (about, tensors) = read_tensors(&path, KEY, &Device::Cpu)?;
        let bad = |detail: String| Error::BadFile { file: path.clone(), detail };
        let plan: RidgePlan = serde_json::from_str(&about).map_err(|e| bad(e.to_string()))?;
        plan.check().map_err(bad)?;
        let vocabulary = Vocabulary::from_tensors(&tensors, &path)?;
        let space = Space::from_tensors(&tensors, plan.dim, &path)?;
        let weights = halves(&tensors, "weights", &[vocabulary.n(), plan.dim], &path)?;
        Ok(Ridge { plan, vocabulary, space, weights, folder: folder.to_owned(), folds: OnceLock::new() })
    }

    /// None if there are none: then every text is one that may have been seen.
    pub(crate) fn folds(&self) -> Result<Option<&Folds>> {
        if self.folds.get().is_none() {
            let path = self.folder.join(FOLDS_FILE);
            let is_there = self.plan.n_folds > 0 && path.is_file();
            let read = || Folds::read(&path, self.plan.n_folds, (self.vocabulary.n(), self.plan.dim));
            // Another thread may have been faster, with the same.
            let _ = self.folds.set(is_there.then(read).transpose()?);
        }
        Ok(self.folds.get().and_then(Option::as_ref))
    }

    pub fn plan(&self) -> &RidgePlan {
        &self.plan
    }

    pub fn n_parameters(&self) -> usize {
        self.weights.len()
    }

    pub(crate) fn memory(&self) -> Memory {
        Memory {
            device: "cpu",
            dtype: "f16",
            weights_bytes: 2 * self.n_parameters() as u64,
            batch_bytes: 4 * (MAX_WORDS * self.plan.dim) as u64,
        }
    }

    /// Frozen images in the space of the texts, row by row; `Error::BadData` if they have another length than those learnt from.
    pub fn project(&self, images: &FrozenImages) -> Result<Vec<Vec<f32>>> {
        let expected = self.space.dim_in();
        if images.vectors.dim != expected {
            let detail = format!("expected {expected} numbers, as in training, received {}", images.vectors.dim);
            return Err(Error::BadData { file: images.origin.clone(), detail });
        }
        Ok(self.space.of(images).chunks_exact(self.plan.dim).map(<[f32]>::to_vec).collect())
    }

    /// Unit length; of a text without a known word, the first axis.
    fn embedding(&self, line: &Line, weights: &[f16]) -> Vec<f32> {
        let dim = self.plan.dim;
        let mut sum = vec![0.0; dim];
        for (feature, weight) in self.vocabulary.row(line) {
            add(&mut sum, &weights[feature as usize * dim..][..dim], weight);
        }
        let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
        if length < 1e-12 {
            sum[0] = 1.0;
        } else {
            sum.iter_mut().for_each(|x| *x /= length);
        }
        sum
    }

    /// (words, dim): what each word, and half of each pair it stands in, adds to the embedding.
    fn word_parts(&self, line: &Line, weights: &[f16]) -> Vec<f32> {
        let dim = self.plan.dim;
        let mut parts = vec![0.0; line.n_words * dim];
        for (place, feature, weight) in self.vocabulary.placed(line) {
            add(&mut parts[place * dim..][..dim], &weights[feature as usize * dim..][..dim], weight);
        }
        parts
    }

    fn embed(&self, text: &str, keep: Keep, weights: &[f16]) -> Result<TextEmbedding> {
        let line = Line::read(text, MAX_WORDS).ok_or(Error::EmptyText)?;
        let dim = self.plan.dim;
        let fusion_tokens = match keep {
            Keep::Nothing => None,
            Keep::Tokens(_) => {
                Some(FusionTokens::new(&pool_rows(&self.word_parts(&line, weights), dim, TEXT_TOKENS), dim)?)
            }
        };
        let embedding = self.embedding(&line, weights);
        Ok(TextEmbedding { embedding, tokens_used: line.n_words, tokens_cut: line.n_cut, fusion_tokens })
    }
}

fn add(sum: &mut [f32], row: &[f16], weight: f32) {
    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += weight * x.to_f32());
}

/// Finite numbers in half precision.
fn halves(tensors: &HashMap<String, Tensor>, name: &str, shape: &[usize], path: &Path) -> Result<Vec<f16>> {
    let values: Vec<f16> = numbers(tensors, name, shape, path)?;
    match values.iter().all(|x| x.is_finite()) {
        true => Ok(values),
        false => {
            let detail = format!("{name}: expected finite numbers, received NaN or infinity");
            Err(Error::BadFile { file: path.to_owned(), detail })
        }
    }
}

pub(crate) fn is_in(folder: &Path) -> bool {
    folder.join(RIDGE_FILE).is_file()
}

/// A text side.
pub(crate) fn open(folder: &Path, want: Want) -> Result<Opened> {
    let path: PathBuf = folder.join(RIDGE_FILE);
    let mut opened = Opened {
        sides: Sides::default(),
        family: FAMILY.to_owned(),
        hash: folder::hash(&[(RIDGE_FILE.to_owned(), path)])?,
        sigmoid: None,
    };
    if want != Want::Image {
        let ridge = Ridge::read(folder)?;
        let info = TextInfo {
            dim: ridge.plan.dim,
            max_tokens: MAX_WORDS,
            tokens: TokenShape { n: TEXT_TOKENS, dim: ridge.plan.dim },
            parameters: ridge.n_parameters() as u64,
            memory: ridge.memory(),
        };
        opened.sides.text = Some(Arc::new(Texts { info, ridge }));
    }
    Ok(opened)
}

struct Texts {
    info: TextInfo,
    ridge: Ridge,
}

impl TextSide for Texts {
    fn info(&self) -> &TextInfo {
        &self.info
    }

    fn embed(&self, texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        texts.iter().map(|text| self.ridge.embed(text, keep, &self.ridge.weights)).collect()
    }

    fn embed_unseen(&self, ids: &[&str], texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        let folds = self.ridge.folds()?;
        let weights = |id: &str| folds.and_then(|folds| folds.without(id)).unwrap_or(&self.ridge.weights);
        ids.iter().zip(texts).map(|(id, text)| self.ridge.embed(text, keep, weights(id))).collect()
    }

    fn fold_of(&self, id: &str) -> Result<Option<usize>> {
        Ok(self.ridge.folds()?.and_then(|folds| folds.of(id)))
    }
}

#[cfg(test)]
mod tests;
