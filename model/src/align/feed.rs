//! The batches of a run. They follow from the seed and from where in which epoch the run stands, so that a run that is
//! resumed sees what an unbroken one sees.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::Arc,
};

use rand::{
    Rng, SeedableRng,
    seq::{SliceRandom, index},
};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{
    facet_store::{FacetStore, Facets},
    shards::{Sample, Shards, Shuffled},
    text_tower::Words,
    view::Views,
};
use crate::{Error, Pixels, Result, picture};

/// Images, and the texts that belong to them.
pub(super) struct Batch {
    pub images: Images,
    pub texts: Texts,
    /// Of each text, the place of its image.
    pub owner_of: Vec<usize>,
}

pub(super) enum Images {
    Pictures(Vec<Pixels>),
    /// Rows of the frozen images.
    Rows(Vec<usize>),
}

pub(super) enum Texts {
    Words(Vec<Words>),
    /// (texts, dim)
    Facets {
        dim: usize,
        values: Vec<f32>,
    },
}

/// Where a run stands in its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Position {
    pub epoch: u64,
    /// Batches taken in this epoch.
    pub n_taken: u64,
}

/// How batches are drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    pub seed: u64,
    /// Images a batch.
    pub batch: usize,
    /// Texts of each image, or all if it has fewer.
    pub texts_per_image: usize,
    /// Share of words that are left out of a text, each time others.
    pub word_dropout: f32,
}

/// Texts that are trained on, by image.
pub(super) enum TextSource {
    Words(std::collections::HashMap<String, Vec<Words>>),
    Facets(FacetStore),
}

pub(super) enum Feed {
    Shards(Box<ShardFeed>),
    Rows(RowFeed),
}

impl Feed {
    pub(super) fn next(&mut self) -> Result<Batch> {
        match self {
            Feed::Shards(feed) => feed.next(),
            Feed::Rows(feed) => Ok(feed.next()),
        }
    }

    pub(super) fn position(&self) -> Position {
        match self {
            Feed::Shards(feed) => feed.position,
            Feed::Rows(feed) => feed.position,
        }
    }

    /// Goes to where an earlier part of the run stood.
    pub(super) fn skip_to(&mut self, position: Position) -> Result<()> {
        match self {
            Feed::Shards(feed) => feed.skip_to(position),
            Feed::Rows(feed) => {
                feed.start(position.epoch);
                feed.position = position;
                Ok(())
            }
        }
    }

    /// Keys of samples that were left out so far: without texts, or not to be decoded.
    pub(super) fn skipped(&self) -> Option<&BTreeSet<String>> {
        match self {
            Feed::Shards(feed) => Some(&feed.skipped),
            Feed::Rows(_) => None,
        }
    }
}

impl Draw {
    fn rng(&self, position: Position, item: usize) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream((position.epoch << 44) + (position.n_taken << 20) + item as u64 + 1);
        rng
    }

    fn words(&self, of_image: &[Words], rng: &mut ChaCha8Rng) -> Vec<Words> {
        let n = self.texts_per_image.min(of_image.len());
        let picked = index::sample(rng, of_image.len(), n);
        let share = self.word_dropout;
        let thin = |at: usize| match share > 0.0 {
            true => of_image[at].thinned(share, || rng.random()),
            false => of_image[at].clone(),
        };
        picked.into_iter().map(thin).collect()
    }

    fn facets(&self, of_image: &Facets, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let n = self.texts_per_image.min(of_image.n());
        index::sample(rng, of_image.n(), n).into_iter().flat_map(|at| of_image.row(at).iter().copied()).collect()
    }
}

/// Frozen images with their texts.
pub(super) struct RowFeed {
    pub draw: Draw,
    /// Of each training image its row and its texts.
    pub images: Arc<Vec<(usize, Vec<Words>)>>,
    order: Vec<usize>,
    position: Position,
}

impl RowFeed {
    pub(super) fn new(draw: Draw, images: Arc<Vec<(usize, Vec<Words>)>>) -> RowFeed {
        let draw = Draw { batch: draw.batch.min(images.len()), ..draw };
        let mut feed = RowFeed { draw, images, order: Vec::new(), position: Position::default() };
        feed.start(0);
        feed
    }

    fn start(&mut self, epoch: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.draw.seed);
        rng.set_stream(u64::MAX - epoch);
        self.order = (0..self.images.len()).collect();
        self.order.shuffle(&mut rng);
        self.position = Position { epoch, n_taken: 0 };
    }

    fn next(&mut self) -> Batch {
        let n = self.draw.batch;
        if (self.position.n_taken as usize + 1) * n > self.order.len() {
            self.start(self.position.epoch + 1);
        }
        let picked = &self.order[self.position.n_taken as usize * n..][..n];
        let (mut rows, mut texts, mut owner_of) = (Vec::new(), Vec::new(), Vec::new());
        for (place, &at) in picked.iter().enumerate() {
            let (row, of_image) = &self.images[at];
            let words = self.draw.words(of_image, &mut self.draw.rng(self.position, place));
            rows.push(*row);
            owner_of.extend(std::iter::repeat_n(place, words.len()));
            texts.extend(words);
        }
        self.position.n_taken += 1;
        Batch { images: Images::Rows(rows), texts: Texts::Words(texts), owner_of }
    }
}

/// Pictures from tars with texts by their keys.
pub(super) struct ShardFeed {
    pub draw: Draw,
    pub shards: Shards,
    pub shuffle: usize,
    pub texts: TextSource,
    pub views: Views,
    /// Keys that are held out.
    pub is_held_out: Box<dyn Fn(&Sample) -> bool + Send>,
    stream: Option<Shuffled>,
    /// Drawn, but of a group that its batch already had.
    waiting: VecDeque<Sample>,
    position: Position,
    skipped: BTreeSet<String>,
}

/// A training picture with the facets or words drawn for it.
struct Ready {
    pixels: Pixels,
    words: Vec<Words>,
    facets: Vec<f32>,
    n_texts: usize,
}

impl ShardFeed {
    pub(super) fn new(
        draw: Draw,
        (shards, shuffle): (Shards, usize),
        texts: TextSource,
        views: Views,
        is_held_out: Box<dyn Fn(&Sample) -> bool + Send>,
    ) -> ShardFeed {
        let (waiting, position) = (VecDeque::new(), Position::default());
        ShardFeed {
            draw,
            shards,
            shuffle,
            texts,
            views,
            is_held_out,
            stream: None,
            waiting,
            position,
            skipped: BTreeSet::new(),
        }
    }

    fn next(&mut self) -> Result<Batch> {
        let samples = self.take()?;
        let at = Position { n_taken: self.position.n_taken - 1, ..self.position };
        let (texts, views, draw) = (&self.texts, &self.views, self.draw);
        let made = samples.par_iter().enumerate().map(|(i, sample)| (sample, draw.rng(at, i)));
        let made = made.map(|(sample, mut rng)| ready((texts, views, &draw), sample, &mut rng)).collect::<Vec<_>>();
        let (mut pictures, mut words, mut facets, mut owner_of) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (sample, ready) in samples.iter().zip(made) {
            match ready {
                Ok(Some(ready)) => {
                    owner_of.extend(std::iter::repeat_n(pictures.len(), ready.n_texts));
                    pictures.push(ready.pixels);
                    words.extend(ready.words);
                    facets.extend(ready.facets);
                }
                Ok(None) => drop(self.skipped.insert(sample.key.clone())),
                Err(error) => return Err(error),
            }
        }
        if pictures.len() < 2 {
            let detail = format!(
                "of {} pictures in a batch {} can be decoded and have texts: expected at least 2",
                samples.len(),
                pictures.len()
            );
            return Err(Error::BadData { file: self.shards.paths[0].clone(), detail });
        }
        let texts = match self.texts {
            TextSource::Words(_) => Texts::Words(words),
            TextSource::Facets(_) => Texts::Facets { dim: facets.len() / owner_of.len().max(1), values: facets },
        };
        Ok(Batch { images: Images::Pictures(pictures), texts, owner_of })
    }

    /// The samples of the next batch, no two of one group. What is left of an epoch and fills no batch is left out.
    pub(super) fn take(&mut self) -> Result<Vec<Sample>> {
        for _ in 0..2 {
            if let Some(samples) = self.take_in_epoch()? {
                self.position.n_taken += 1;
                return Ok(samples);
            }
            let taken = self.position.n_taken;
            self.begin(self.position.epoch + 1);
            if taken == 0 && self.position.epoch > 1 {
                break;
            }
        }
        let detail = format!(
            "expected at least {} training pictures of different groups; hint: a smaller batch",
            self.draw.batch
        );
        Err(Error::BadData { file: self.shards.paths[0].clone(), detail })
    }

    fn take_in_epoch(&mut self) -> Result<Option<Vec<Sample>>> {
        let (mut samples, mut groups) = (Vec::new(), HashSet::new());
        let mut again = std::mem::take(&mut self.waiting);
        while samples.len() < self.draw.batch {
            let sample = match again.pop_front() {
                Some(sample) => sample,
                None => match self.draw_one()? {
                    Some(sample) => sample,
                    None => return Ok(None),
                },
            };
            if groups.insert(sample.group().to_owned()) { samples.push(sample) } else { self.waiting.push_back(sample) }
        }
        self.waiting.extend(again);
        Ok(Some(samples))
    }

    fn draw_one(&mut self) -> Result<Option<Sample>> {
        if self.stream.is_none() {
            self.begin(self.position.epoch);
        }
        let is_held_out = &self.is_held_out;
        self.stream.as_mut().expect("an epoch has begun").draw(|sample| !is_held_out(sample))
    }

    fn begin(&mut self, epoch: u64) {
        self.stream = Some(Shuffled::new(&self.shards, self.shuffle, self.draw.seed, epoch));
        self.waiting.clear();
        self.position = Position { epoch, n_taken: 0 };
    }

    /// Reads again what was read in this epoch, without decoding it.
    fn skip_to(&mut self, position: Position) -> Result<()> {
        self.begin(position.epoch);
        while self.position.n_taken < position.n_taken {
            match self.take_in_epoch()? {
                Some(_) => self.position.n_taken += 1,
                None => {
                    let detail = "holds fewer pictures than when the run began".to_owned();
                    return Err(Error::BadData { file: self.shards.paths[0].clone(), detail });
                }
            }
        }
        Ok(())
    }
}

/// `None` without texts, or if the picture cannot be decoded.
fn ready(
    (texts, views, draw): (&TextSource, &Views, &Draw),
    sample: &Sample,
    rng: &mut ChaCha8Rng,
) -> Result<Option<Ready>> {
    let Ok(picture) = picture::decode(&sample.picture) else { return Ok(None) };
    let pixels = views.random(&picture.rgb, rng);
    Ok(match texts {
        TextSource::Words(all) => all.get(&sample.key).filter(|words| !words.is_empty()).map(|of_image| {
            let words = draw.words(of_image, rng);
            Ready { pixels, n_texts: words.len(), words, facets: Vec::new() }
        }),
        TextSource::Facets(store) => store.get(&sample.key)?.map(|of_image| {
            let facets = draw.facets(&of_image, rng);
            Ready { pixels, n_texts: facets.len() / of_image.dim, facets, words: Vec::new() }
        }),
    })
}
