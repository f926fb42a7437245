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

use firn_index::{Collection, CollectionConfig, Point, Row, Side, Tokens};
use firn_model::{
    Device,
    fusion::{Crowds, Direction, Ensemble, Hubs, Items, Scorer, Shape, SideShape},
};
use half::f16;

use super::{Error, Reads, Version, attachment, cache::Share, hubs::Known};

/// A network that many threads ask.
pub type SharedScorer = Arc<dyn Scorer + Send + Sync>;

pub struct Reranker {
    pub version: Version,
    network: Option<Network>,
    hubs: Option<Arc<Hubs>>,
    /// Of those hubs, by the version's blend.
    known: Option<Arc<Known>>,
}

/// What looks at a text and an image together.
#[derive(Clone)]
struct Network {
    scorer: SharedScorer,
    shape: Shape,
    cost: Arc<Cost>,
}

/// What a pair takes, as far as is known: of computing alone, not of waiting for it.
#[derive(Default)]
pub(super) struct Cost {
    /// 0 before the first.
    pair_ns: AtomicU64,
}

impl Cost {
    /// So few pairs say more of what a call costs than of what a pair does.
    const FEW: usize = 16;

    pub fn remember(&self, taken: Duration, n: usize) {
        let (now, before) = ((taken.as_nanos() / n.max(1) as u128) as u64, self.pair_ns.load(Ordering::Relaxed));
        match before {
            0 => self.pair_ns.store(now, Ordering::Relaxed),
            _ if n < Cost::FEW => {}
            // One that was held up says little.
            _ => self.pair_ns.store((3 * before + now.min(4 * before)) / 4, Ordering::Relaxed),
        }
    }

    pub fn forget(&self) {
        self.pair_ns.store(0, Ordering::Relaxed);
    }

    pub fn pair_ns(&self) -> u64 {
        self.pair_ns.load(Ordering::Relaxed)
    }

    pub fn doubt(&self) {
        let pair_ns = self.pair_ns.load(Ordering::Relaxed);
        self.pair_ns.store(pair_ns - pair_ns / 8, Ordering::Relaxed);
    }
}

/// A network that notes what it takes.
struct Timed {
    scorer: Box<dyn Scorer + Send + Sync>,
    cost: Arc<Cost>,
}

impl Scorer for Timed {
    fn score(&self, images: &Items, texts: &Items, pairs: &[(usize, usize)]) -> Result<Vec<f32>, firn_model::Error> {
        let start = Instant::now();
        let logits = self.scorer.score(images, texts, pairs)?;
        self.cost.remember(start.elapsed(), pairs.len());
        Ok(logits)
    }
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
        let ensemble = Ensemble::of_bytes(bytes, name, device).map_err(|error| unreadable(error.to_string()))?;
        let network = match (ensemble.scorer()?, ensemble.shape()) {
            (Some(scorer), Some(&shape)) => {
                let cost = Arc::new(Cost::default());
                Some(Network { scorer: Arc::new(Timed { scorer, cost: cost.clone() }), shape, cost })
            }
            _ => None,
        };
        let crowds = ensemble.hubs().and_then(|hubs| hubs.crowds(&version.blend));
        let (known, hubs) = (crowds.map(Known::new).map(Arc::new), ensemble.into_hubs().map(Arc::new));
        Ok(Reranker { version: version.clone(), network, hubs, known })
    }

    /// Looks at nothing twice, so that it is known what it takes before anybody waits for it.
    pub(super) fn warm_up(&self) -> Result<(), Error> {
        const N: usize = 32;
        if let Some(known) = &self.known {
            for _ in 0..2 {
                known.cost.forget();
                known.hubness(Direction::TextToImage, &[None; N], |_, _| None);
            }
        }
        let Some(Network { scorer, shape, cost }) = &self.network else { return Ok(()) };
        let items = |n: usize, SideShape { extra, tokens: [n_tokens, token_dim] }: SideShape| Items {
            dim: shape.dim,
            vectors: vec![0.0; n * shape.dim],
            extra_dim: extra,
            extra: vec![0.0; n * extra],
            n_tokens,
            token_dim,
            tokens: vec![f16::ZERO; n * n_tokens * token_dim],
        };
        let (images, texts) = (items(N, shape.image), items(1, shape.text));
        let pairs: Vec<(usize, usize)> = (0..N).map(|image| (0, image)).collect();
        // The first time much is touched for the first time.
        for _ in 0..2 {
            cost.forget();
            scorer.score(&images, &texts, &pairs)?;
        }
        Ok(())
    }

    /// The same by what is known of it now; none if its first order is another, since that is how hubs are told.
    pub(super) fn as_version(&self, version: &Version) -> Option<Reranker> {
        let (network, hubs, known) = (self.network.clone(), self.hubs.clone(), self.known.clone());
        (version.blend == self.version.blend).then(|| Reranker { version: version.clone(), network, hubs, known })
    }

    pub(super) fn run_by(self, share: &Share) -> Reranker {
        let network = self.network.map(|network| Network { scorer: share(network.scorer), ..network });
        Reranker { network, ..self }
    }

    pub fn scorer(&self) -> Option<&dyn Scorer> {
        self.network.as_ref().map(|network| network.scorer.as_ref() as &dyn Scorer)
    }

    /// Whether it was made with what tells hubs.
    pub fn has_hubs(&self) -> bool {
        self.hubs.is_some()
    }

    /// What tells hubs for another first order; none if it cannot.
    pub fn crowds(&self, blend: &BTreeMap<String, f32>) -> Option<Crowds> {
        self.hubs.as_ref()?.crowds(blend)
    }

    /// What so many candidates are likely to take, as far as is known, of a network that looks at them or without.
    pub fn estimate(&self, direction: Direction, n_candidates: usize, looks: bool) -> Duration {
        let of_network = self.network.as_ref().filter(|_| looks).map(|network| network.cost.pair_ns());
        let of_hubs = self.telling(direction).map(|known| known.cost.pair_ns());
        let pair_ns = of_network.unwrap_or(0).saturating_add(of_hubs.unwrap_or(0));
        Duration::from_nanos(pair_ns.saturating_mul(n_candidates as u64))
    }

    /// An estimate that kept somebody from asking is believed less each time, until somebody asks and it is known again.
    pub fn doubt_estimate(&self) {
        self.network.iter().for_each(|network| network.cost.doubt());
        self.known.iter().for_each(|known| known.cost.doubt());
    }

    fn telling(&self, direction: Direction) -> Option<&Known> {
        self.known.as_deref().filter(|_| self.version.weight(direction).hubness != 0.0)
    }

    /// How much of a hub each candidate is, by its vectors of the blend's names; none where that counts nothing. Stored candidates have
    /// rows, and are only looked at once.
    pub fn hubness<'a>(
        &self,
        direction: Direction,
        rows: &[Option<Row>],
        vector_of: impl Fn(usize, &str) -> Option<&'a [f32]>,
    ) -> Option<Vec<f32>> {
        self.telling(direction).map(|known| known.hubness(direction, rows, vector_of))
    }

    /// Whether the texts it was made for are those that the collection embeds.
    pub fn is_for(&self, config: &CollectionConfig) -> bool {
        let Reads { image, model, .. } = &self.version.reads;
        config.model_of(image).is_some_and(|now| now.hash == model.hash)
    }

    /// What it reads of an image or a text beside the vector; nothing without a network.
    pub fn shape(&self, side: Side) -> SideShape {
        let of = |network: &Network| match side {
            Side::Image => network.shape.image,
            Side::Text => network.shape.text,
        };
        self.network.as_ref().map(of).unwrap_or_default()
    }

    /// What it reads of an image, or of a text whose vector has that name.
    pub fn reads(&self, side: Side, text: &str) -> Reads {
        let reads = self.version.reads.clone();
        match side {
            Side::Image => reads,
            Side::Text => {
                Reads { image: text.to_owned(), extra: None, tokens: self.shape(side).tokens[0] > 0, ..reads }
            }
        }
    }

    /// A logit for each candidate of the one that asks, none without a network; `Error::TooLate` if they are not there by then.
    pub fn logits(
        &self,
        direction: Direction,
        asker: &Items,
        candidates: &Items,
        deadline: Option<Instant>,
    ) -> Result<Option<Vec<f32>>, Error> {
        let n = candidates.n();
        let pairs: Vec<(usize, usize)> = match direction {
            Direction::TextToImage => (0..n).map(|at| (0, at)).collect(),
            Direction::ImageToText => (0..n).map(|at| (at, 0)).collect(),
        };
        match direction {
            Direction::TextToImage => self.score_by(candidates, asker, &pairs, deadline),
            Direction::ImageToText => self.score_by(asker, candidates, &pairs, deadline),
        }
    }

    /// A logit for each (text, image), by their places; none without a network.
    pub fn score(&self, images: &Items, texts: &Items, pairs: &[(usize, usize)]) -> Result<Option<Vec<f32>>, Error> {
        self.score_by(images, texts, pairs, None)
    }

    fn score_by(
        &self,
        images: &Items,
        texts: &Items,
        pairs: &[(usize, usize)],
        deadline: Option<Instant>,
    ) -> Result<Option<Vec<f32>>, Error> {
        let Some(Network { scorer, shape, .. }) = &self.network else { return Ok(None) };
        if pairs.is_empty() {
            return Ok(Some(Vec::new()));
        }
        if *shape != Shape::of(images, texts) {
            let detail = "it was made for vectors and tokens of other sizes".to_owned();
            return Err(Error::Unreadable { what: attachment(self.version.number), detail });
        }
        let logits = match deadline {
            None => scorer.score(images, texts, pairs)?,
            Some(deadline) => scorer.score_by(images, texts, pairs, deadline)?.ok_or(Error::TooLate)?,
        };
        match logits.iter().all(|logit| logit.is_finite()) {
            true => Ok(Some(logits)),
            false => Err(Error::NotFinite { version: self.version.number }),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What took long once is believed to take long for a while, not for good; a call that comes too late to the device goes on without it.
    #[test]
    fn an_estimate_that_keeps_everybody_away_fades() {
        let cost = Cost::default();
        let ms = Duration::from_millis;
        cost.remember(ms(1), 1);
        cost.remember(ms(32), 32);
        assert_eq!(cost.pair_ns.load(Ordering::Relaxed), 1_000_000);
        // One pair alone, and one call that was held up, change little.
        cost.remember(ms(900), 1);
        cost.remember(ms(100_000), 32);
        assert_eq!(cost.pair_ns.load(Ordering::Relaxed), 1_750_000);
        for _ in 0..40 {
            cost.doubt();
        }
        assert!(cost.pair_ns.load(Ordering::Relaxed) < 10_000);
    }
}
