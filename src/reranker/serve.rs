//! A network of a collection, ready to look at candidates.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use firn_index::{Collection, Point};
use firn_model::{
    Device, FusionTokens,
    fusion::{Ensemble, Items, Scorer, Shape},
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

/// What a network reads of a text that asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Asker {
    pub vector: Vec<f32>,
    pub tokens: Option<FusionTokens>,
}

impl Reranker {
    /// Reads the weights of a version. `Error::Unreadable` if they are not there or not whole.
    pub fn open(collection: &Collection, version: &Version, device: Device) -> Result<Reranker, Error> {
        let name = attachment(version.number);
        let unreadable = |detail: String| Error::Unreadable { what: name.clone(), detail };
        let bytes = collection.attachment(&name)?.ok_or_else(|| unreadable("it is not there".to_owned()))?;
        let network =
            Ensemble::of_bytes(&bytes, Path::new(&name), device).map_err(|error| unreadable(error.to_string()))?;
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

    /// A logit for each point. `Error::Lacking` names a point that has not all the network reads.
    pub fn logits(&self, asker: &Asker, mut points: Vec<Point>) -> Result<Vec<f32>, Error> {
        if points.is_empty() {
            return Ok(Vec::new());
        }
        let start = Instant::now();
        let mut texts = Items { dim: asker.vector.len(), vectors: asker.vector.clone(), ..Items::default() };
        if let Some(FusionTokens { n, dim, values }) = &asker.tokens {
            (texts.n_tokens, texts.token_dim, texts.tokens) = (*n, *dim, values.clone());
        }
        let mut images = Items::default();
        for point in &mut points {
            self.version.reads.add(point, &mut images).map_err(|what| Error::Lacking { id: point.id.clone(), what })?;
        }
        if self.shape != Shape::of(&images, &texts) {
            let detail = "it was made for vectors and tokens of other sizes".to_owned();
            return Err(Error::Unreadable { what: attachment(self.version.number), detail });
        }
        let pairs: Vec<(usize, usize)> = (0..points.len()).map(|at| (0, at)).collect();
        let logits = self.scorer.score(&images, &texts, &pairs)?;
        match logits.iter().all(|logit| logit.is_finite()) {
            true => self.remember(start.elapsed(), points.len()),
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
    /// Puts what is read of a point's image behind those of others; `Err` says what is missing.
    pub fn add(&self, point: &mut Point, images: &mut Items) -> Result<(), String> {
        let missing = |name: &str| format!("a vector {name:?}");
        if let Some(absent) =
            std::iter::once(&self.image).chain(&self.extra).find(|name| !point.vectors.contains_key(*name))
        {
            return Err(missing(absent));
        }
        if self.tokens && !point.tokens.contains_key(&self.image) {
            return Err(format!("tokens {:?}", self.image));
        }
        let vector = &point.vectors[&self.image];
        images.dim = vector.len();
        images.vectors.extend_from_slice(vector);
        if let Some(extra) = &self.extra {
            let vector = &point.vectors[extra];
            images.extra_dim = vector.len();
            images.extra.extend_from_slice(vector);
        }
        if self.tokens {
            let tokens = point.tokens.get_mut(&self.image).expect("it is there");
            (images.n_tokens, images.token_dim) = (tokens.n, tokens.dim);
            images.tokens.append(&mut tokens.values);
        }
        Ok(())
    }
}
