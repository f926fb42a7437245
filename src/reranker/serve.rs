//! A network of a collection, ready to look at candidates.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use firn_index::{Collection, CollectionConfig, Point, Side, Tokens};
use firn_model::{
    Device,
    fusion::{Direction, Ensemble, Items, Scorer, Shape, SideShape},
};

use super::{Error, Reads, Version, attachment, cache::Share};

/// A network that many threads ask.
pub type SharedScorer = Arc<dyn Scorer + Send + Sync>;

pub struct Reranker {
    pub version: Version,
    scorer: SharedScorer,
    shape: Shape,
    /// What a pair took lately; 0 before the first.
    pair_ns: AtomicU64,
}

impl Reranker {
    /// Reads the weights of a version. `Error::Unreadable` if they are not there or not whole.
    pub fn open(collection: &Collection, version: &Version, device: Device) -> Result<Reranker, Error> {
        let name = attachment(version.number);
        let unreadable = |detail: String| Error::Unreadable { what: name.clone(), detail };
        let bytes = collection.attachment(&name)?.ok_or_else(|| unreadable("it is not there".to_owned()))?;
        Reranker::of_bytes(&bytes, Path::new(&name), version, device)
    }

    /// The same of weights at hand, which errors call `name`.
    pub fn of_bytes(bytes: &[u8], name: &Path, version: &Version, device: Device) -> Result<Reranker, Error> {
        let unreadable = |detail: String| Error::Unreadable { what: name.display().to_string(), detail };
        let network = Ensemble::of_bytes(bytes, name, device).map_err(|error| unreadable(error.to_string()))?;
        let (shape, scorer) = (*network.shape(), network.scorer()?.into());
        Ok(Reranker { version: version.clone(), scorer, shape, pair_ns: AtomicU64::new(0) })
    }

    pub(super) fn run_by(self, share: &Share) -> Reranker {
        Reranker { scorer: share(self.scorer), ..self }
    }

    pub fn scorer(&self) -> &dyn Scorer {
        self.scorer.as_ref()
    }

    /// What so many candidates are likely to take, as far as is known.
    pub fn estimate(&self, n_candidates: usize) -> Duration {
        Duration::from_nanos(self.pair_ns.load(Ordering::Relaxed).saturating_mul(n_candidates as u64))
    }

    /// Whether the texts it was made for are those that the collection embeds.
    pub fn is_for(&self, config: &CollectionConfig) -> bool {
        let Reads { image, model, .. } = &self.version.reads;
        config.model_of(image).is_some_and(|now| now.hash == model.hash)
    }

    /// What it reads of an image or a text beside the vector.
    pub fn shape(&self, side: Side) -> SideShape {
        match side {
            Side::Image => self.shape.image,
            Side::Text => self.shape.text,
        }
    }

    /// What it reads of an image, or of a text whose vector has that name.
    pub fn reads(&self, side: Side, text: &str) -> Reads {
        let reads = self.version.reads.clone();
        match side {
            Side::Image => reads,
            Side::Text => Reads { image: text.to_owned(), extra: None, tokens: self.shape.text.tokens[0] > 0, ..reads },
        }
    }

    /// A logit for each candidate of the one that asks.
    pub fn logits(&self, direction: Direction, asker: &Items, candidates: &Items) -> Result<Vec<f32>, Error> {
        let n = candidates.n();
        if n == 0 {
            return Ok(Vec::new());
        }
        match direction {
            Direction::TextToImage => self.score(candidates, asker, &(0..n).map(|at| (0, at)).collect::<Vec<_>>()),
            Direction::ImageToText => self.score(asker, candidates, &(0..n).map(|at| (at, 0)).collect::<Vec<_>>()),
        }
    }

    /// A logit for each (text, image), by their places.
    pub fn score(&self, images: &Items, texts: &Items, pairs: &[(usize, usize)]) -> Result<Vec<f32>, Error> {
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let start = Instant::now();
        if self.shape != Shape::of(images, texts) {
            let detail = "it was made for vectors and tokens of other sizes".to_owned();
            return Err(Error::Unreadable { what: attachment(self.version.number), detail });
        }
        let logits = self.scorer.score(images, texts, pairs)?;
        match logits.iter().all(|logit| logit.is_finite()) {
            true => self.remember(start.elapsed(), pairs.len()),
            false => return Err(Error::NotFinite { version: self.version.number }),
        }
        Ok(logits)
    }

    fn remember(&self, taken: Duration, n: usize) {
        let now = (taken.as_nanos() / n.max(1) as u128) as u64;
        let before = self.pair_ns.load(Ordering::Relaxed);
        self.pair_ns.store(if before == 0 { now } else { (3 * before + now) / 4 }, Ordering::Relaxed);
    }
}

impl Reads {
    /// Puts what is read of a point behind what is of others; `Err` says what is missing.
    pub fn add(&self, point: &mut Point, items: &mut Items) -> Result<(), String> {
        self.add_named(&point.vectors, &mut point.tokens, items)
    }

    /// The same of loose vectors, of unit length, and tokens, which are taken.
    pub fn add_named(
        &self,
        vectors: &BTreeMap<String, Vec<f32>>,
        tokens: &mut BTreeMap<String, Tokens>,
        items: &mut Items,
    ) -> Result<(), String> {
        let find = |name: &String| vectors.get(name).ok_or_else(|| format!("a vector {name:?}"));
        let (vector, extra) = (find(&self.image)?, self.extra.as_ref().map(find).transpose()?);
        if self.tokens {
            let tokens = tokens.get_mut(&self.image).ok_or_else(|| format!("tokens {:?}", self.image))?;
            (items.n_tokens, items.token_dim) = (tokens.n, tokens.dim);
            items.tokens.append(&mut tokens.values);
        }
        items.dim = vector.len();
        items.vectors.extend_from_slice(vector);
        if let Some(extra) = extra {
            items.extra_dim = extra.len();
            items.extra.extend_from_slice(extra);
        }
        Ok(())
    }
}
