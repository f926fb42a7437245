//! From files to what a run draws from: the feed of training batches, and what is held out.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    DataShape, FoundRow, FrozenImages, FrozenSizes, ImagePlan, ImageSource, Plan, Sources, TextFiles, TextPlan,
    TextSizes,
    arrays::bad,
    captions::{self, Described},
    evaluate,
    facet_store::FacetStore,
    feed::{Draw, Feed, Images, RowFeed, ShardFeed, TextSource, Texts},
    frozen_images::{Rows, Statistics, whiten, whitening},
    network::{FrozenRows, Network},
    shards::{Sample, Samples, Shards, tars},
    text_tower::Words,
    view::Views,
};
use crate::{Result, picture};

/// Held-out texts that are looked for while training goes on.
const GLANCE: usize = 2000;
/// Most held-out pictures that are kept.
const MAX_HELD_OUT: usize = 10_000;

pub(super) struct Data {
    pub feed: Feed,
    pub rows: Option<FrozenRows>,
    pub statistics: Option<FrozenStatistics>,
    pub held_out: HeldOut,
}

/// What brings frozen images to what the projection was trained on.
#[derive(Clone)]
pub(super) struct FrozenStatistics {
    pub vectors: Statistics,
    /// (dim, dim), a lower triangle.
    pub whitening: Vec<f32>,
    pub tokens: Option<Statistics>,
}

/// What training does not see.
pub(super) struct HeldOut {
    images: Images,
    texts: Texts,
    owner_of: Vec<usize>,
    /// Of each text; empty where it is not said.
    languages: Vec<String>,
}

impl Data {
    pub(super) fn read(plan: &Plan, sources: &Sources) -> Result<Data> {
        match &sources.images {
            ImageSource::Frozen(images) => images.data(plan, captions_of(&sources.texts)?),
            ImageSource::Shards(paths) => from_shards(plan, sources, tars(paths)?),
        }
    }
}

pub(super) fn shape(sources: &Sources) -> Result<DataShape> {
    let mut shape = DataShape { frozen_images: None, facet_dim: None };
    match (&sources.images, &sources.texts) {
        (ImageSource::Frozen(images), _) => shape.frozen_images = Some(images.shape()),
        (ImageSource::Shards(paths), TextFiles::Facets(facets)) => {
            shape.facet_dim = Some(facet_dim(&FacetStore::open(facets, None)?, facets, tars(paths)?)?);
        }
        _ => {}
    }
    Ok(shape)
}

/// Of the first picture that has facets.
fn facet_dim(store: &FacetStore, facets: &Path, tars: Vec<PathBuf>) -> Result<usize> {
    let mut first = None;
    for sample in Samples::new(Shards { paths: tars, ..Shards::default() }) {
        let key = sample?.key;
        if let Some(facets) = store.get(&key)? {
            return Ok(facets.dim);
        }
        first.get_or_insert(key);
    }
    let hint = first.map(|key| format!("; hint: a picture is called {key:?}")).unwrap_or_default();
    Err(bad(facets, format!("holds facets of none of the pictures{hint}")))
}

fn captions_of(texts: &TextFiles) -> Result<(&Path, HashMap<String, Described>)> {
    match texts {
        TextFiles::Captions(path) => Ok((path, captions::read_whole_groups(path)?)),
        TextFiles::Facets(path) => Err(bad(path, "one side at least must learn".to_owned())),
    }
}

impl FrozenImages {
    fn data(&self, plan: &Plan, (path, captions): (&Path, HashMap<String, Described>)) -> Result<Data> {
        let sizes = tower_sizes(plan);
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for (at, id) in self.ids.iter().enumerate() {
            if let Some(described) = captions.get(id) {
                let is_held_out = described.belonging.is_held_out(id, plan.held_out);
                if is_held_out { held_out.push((at, described)) } else { train.push((at, described)) }
            }
        }
        let words_of = |described: &Described| -> Vec<Words> {
            described.captions.iter().filter_map(|caption| Words::read(&caption.text, sizes)).collect()
        };
        let images = train.iter().map(|(at, described)| (*at, words_of(described)));
        let images: Vec<(usize, Vec<Words>)> = images.filter(|(_, words)| !words.is_empty()).collect();
        if images.len() < 2 {
            return Err(bad(path, self.too_few(images.len(), &captions, plan.held_out)));
        }
        let statistics = self.measure(&train.iter().map(|(at, _)| *at).collect::<Vec<_>>(), plan.softening)?;
        let rows = self.apply(&statistics);
        let feed = Feed::Rows(RowFeed::new(draw(plan), Arc::new(images)));
        let held_out = HeldOut::described(Images::Rows(held_out.iter().map(|(at, _)| *at).collect()), &held_out, sizes);
        Ok(Data { feed, rows: Some(rows), statistics: Some(statistics), held_out })
    }

    /// What is wrong where fewer than two images can be learnt from: where none is described, with ids of both sides, which may be
    /// spelled differently.
    pub(super) fn too_few(&self, n: usize, captions: &HashMap<String, Described>, share: f64) -> String {
        let met = self.ids.iter().filter_map(|id| Some((id, captions.get(id)?)));
        let (mut n_met, mut n_held_out) = (0, 0);
        for (id, described) in met {
            n_met += 1;
            n_held_out += usize::from(described.belonging.is_held_out(id, share));
        }
        let expected = format!("expected captions of at least 2 training images, received {n}");
        if n_met > 0 {
            let wordless = n_met - n_held_out - n;
            return format!(
                "{expected}: of {n_met} images that are described {n_held_out} are held out, and {wordless} have no words"
            );
        }
        let described = captions.keys().min().map(String::as_str).unwrap_or_default();
        let own = self.ids.iter().min().map(String::as_str).unwrap_or_default();
        format!("{expected}; hint: an image is called {own:?}, and the captions describe {described:?}")
    }

    fn measure(&self, train: &[usize], softening: f32) -> Result<FrozenStatistics> {
        let first = self.vectors.row(train[0]);
        if train.iter().all(|&at| self.vectors.row(at) == first) {
            return Err(bad(&self.origin, "expected images of more than one kind".to_owned()));
        }
        let vectors = Statistics::measure(&self.vectors, train);
        if vectors.inverse.iter().all(|&inverse| inverse == 0.0) {
            return Err(bad(&self.origin, "expected images that differ by more than rounding".to_owned()));
        }
        let whitening = whitening(&vectors.apply(&self.vectors), train, softening);
        let whitening = whitening.map_err(|detail| bad(&self.origin, detail))?;
        let tokens = self.tokens.as_ref().map(|tokens| Statistics::measure(tokens, train));
        Ok(FrozenStatistics { vectors, whitening, tokens })
    }

    /// Brought to what the weights take, which must have been trained on images of this shape.
    fn as_trained_on(&self, sizes: &FrozenSizes, statistics: &FrozenStatistics) -> Result<FrozenRows> {
        let (dim, n_tokens, token_dim) = self.shape();
        if (dim, n_tokens, token_dim) != (sizes.dim, sizes.n_tokens, sizes.token_dim) {
            let expected = format!("{} numbers and {} x {} tokens", sizes.dim, sizes.n_tokens, sizes.token_dim);
            let received = format!("{dim} and {n_tokens} x {token_dim}");
            return Err(bad(&self.origin, format!("expected {expected}, as in training, received {received}")));
        }
        Ok(self.apply(statistics))
    }

    fn apply(&self, statistics: &FrozenStatistics) -> FrozenRows {
        let standardised = statistics.vectors.apply(&self.vectors);
        let mut plain = self.vectors.values.to_vec();
        plain.chunks_exact_mut(self.vectors.dim).for_each(super::facet_store::make_unit);
        FrozenRows {
            plain: Rows { values: plain.into(), ..self.vectors },
            whitened: whiten(&standardised, &statistics.whitening),
            standardised,
            tokens: self.tokens.as_ref().zip(statistics.tokens.as_ref()).map(|(rows, of)| of.apply(rows)),
        }
    }

    /// What a run with this plan holds out.
    fn held_out(&self, plan: &Plan, captions: &HashMap<String, Described>) -> HeldOut {
        let described = self.ids.iter().enumerate().filter_map(|(at, id)| Some((at, captions.get(id)?, id)));
        let held_out: Vec<(usize, &Described)> = described
            .filter(|(_, described, id)| described.belonging.is_held_out(id, plan.held_out))
            .map(|(at, described, _)| (at, described))
            .collect();
        let images = Images::Rows(held_out.iter().map(|(at, _)| *at).collect());
        HeldOut::described(images, &held_out, tower_sizes(plan))
    }
}

fn draw(plan: &Plan) -> Draw {
    let Plan { seed, batch, texts_per_image, word_dropout, .. } = *plan;
    Draw { seed, batch, texts_per_image, word_dropout }
}

fn tower_sizes(plan: &Plan) -> &TextSizes {
    match &plan.text {
        TextPlan::Tower(sizes) => sizes,
        TextPlan::Facets { .. } => unreachable!("captions are read for a text tower"),
    }
}

fn from_shards(plan: &Plan, sources: &Sources, paths: Vec<PathBuf>) -> Result<Data> {
    let share = plan.held_out;
    let is_held_out = move |sample: &Sample| sample.belonging.is_held_out(&sample.key, share);
    let (texts, shards, held_out) = match &sources.texts {
        TextFiles::Facets(path) => {
            let store = FacetStore::open(path, Some(plan.dim))?;
            let shards = Shards { paths, ..Shards::default() };
            let held_out = HeldOut::of_shards(plan, &shards, &is_held_out, &FoundTexts::Facets(&store))?;
            (TextSource::Facets(store), shards, held_out)
        }
        TextFiles::Captions(path) => {
            let captions = captions::read_whole_groups(path)?;
            let (sizes, shards) = (tower_sizes(plan), Shards::described(paths, &captions));
            let held_out = HeldOut::of_shards(plan, &shards, &is_held_out, &FoundTexts::Captions(&captions, sizes))?;
            let words = captions.iter().map(|(id, described)| {
                let words = described.captions.iter().filter_map(|caption| Words::read(&caption.text, sizes));
                (id.clone(), words.collect())
            });
            (TextSource::Words(words.collect()), shards, held_out)
        }
    };
    let views = views(plan);
    let feed = ShardFeed::new(draw(plan), (shards, plan.shuffle), texts, views, Box::new(is_held_out));
    Ok(Data { feed: Feed::Shards(Box::new(feed)), rows: None, statistics: None, held_out })
}

fn views(plan: &Plan) -> Views {
    match &plan.image {
        ImagePlan::Tower { sizes, .. } => Views::new(sizes.side_px, plan.least_view),
        ImagePlan::Frozen(_) => unreachable!("pictures are read for an image tower"),
    }
}

/// Texts that held-out pictures are looked for by.
pub(super) enum FoundTexts<'a> {
    Facets(&'a FacetStore),
    Captions(&'a HashMap<String, Described>, &'a TextSizes),
}

impl HeldOut {
    fn described(images: Images, described: &[(usize, &Described)], sizes: &TextSizes) -> HeldOut {
        let (mut words, mut owner_of, mut languages) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (_, described)) in described.iter().enumerate() {
            for caption in &described.captions {
                if let Some(read) = Words::read(&caption.text, sizes) {
                    words.push(read);
                    owner_of.push(place);
                    languages.push(caption.language.clone());
                }
            }
        }
        HeldOut { images, texts: Texts::Words(words), owner_of, languages }
    }

    /// The mean of an image's facets is its text. All samples are read, so that what is wrong with one is told before a step is taken.
    pub(super) fn of_shards(
        plan: &Plan,
        shards: &Shards,
        is_held_out: &dyn Fn(&Sample) -> bool,
        texts: &FoundTexts,
    ) -> Result<HeldOut> {
        let views = views(plan);
        let (mut pixels, mut owner_of, mut languages) = (Vec::new(), Vec::new(), Vec::new());
        let (mut words, mut values, mut dim) = (Vec::new(), Vec::new(), 0);
        for sample in Samples::new(shards.clone()) {
            let sample = sample?;
            if pixels.len() == MAX_HELD_OUT || !is_held_out(&sample) {
                continue;
            }
            let Ok(picture) = picture::decode(&sample.picture) else { continue };
            let place = pixels.len();
            match texts {
                FoundTexts::Facets(store) => {
                    let Some(facets) = store.get(&sample.key)? else { continue };
                    dim = facets.dim;
                    values.extend(facets.mean());
                    languages.push(String::new());
                    owner_of.push(place);
                }
                FoundTexts::Captions(captions, sizes) => {
                    let Some(described) = captions.get(&sample.key) else { continue };
                    for caption in &described.captions {
                        if let Some(read) = Words::read(&caption.text, sizes) {
                            words.push(read);
                            languages.push(caption.language.clone());
                            owner_of.push(place);
                        }
                    }
                }
            }
            pixels.push(views.middle(&picture.rgb));
        }
        let texts = match texts {
            FoundTexts::Facets(_) => Texts::Facets { dim, values },
            FoundTexts::Captions(..) => Texts::Words(words),
        };
        Ok(HeldOut { images: Images::Pictures(pixels), texts, owner_of, languages })
    }

    /// Some of the texts, evenly taken; `None` if nothing is held out.
    pub(super) fn glance(&self, network: &Network, rows: Option<&FrozenRows>) -> Result<Option<FoundRow>> {
        let step = self.owner_of.len().div_ceil(GLANCE).max(1);
        let at: Vec<usize> = (0..self.owner_of.len()).step_by(step).collect();
        self.found(network, rows, &at, "all")
    }

    /// All texts, language by language; the language of none is called "all".
    pub(super) fn by_language(&self, network: &Network, rows: Option<&FrozenRows>) -> Result<Vec<FoundRow>> {
        let mut languages = self.languages.clone();
        languages.sort_unstable();
        languages.dedup();
        let mut found = Vec::new();
        for language in &languages {
            let at: Vec<usize> = (0..self.owner_of.len()).filter(|&at| self.languages[at] == *language).collect();
            found.extend(self.found(network, rows, &at, if language.is_empty() { "all" } else { language })?);
        }
        Ok(found)
    }

    fn found(
        &self,
        network: &Network,
        rows: Option<&FrozenRows>,
        at: &[usize],
        language: &str,
    ) -> Result<Option<FoundRow>> {
        if at.is_empty() {
            return Ok(None);
        }
        let texts = match &self.texts {
            Texts::Words(words) => Texts::Words(at.iter().map(|&at| words[at].clone()).collect()),
            Texts::Facets { dim, values } => {
                let values = at.iter().flat_map(|&at| &values[at * dim..][..*dim]).copied().collect();
                Texts::Facets { dim: *dim, values }
            }
        };
        let owners: Vec<usize> = at.iter().map(|&at| self.owner_of[at]).collect();
        let images = network.embed_images(&self.images, rows)?;
        Ok(Some(evaluate::both_ways(&images, &network.embed_texts(&texts)?, &owners, language)))
    }
}

/// What a run of this plan holds out of these sources, with the rows it is embedded from.
pub(super) fn held_out(
    plan: &Plan,
    sources: &Sources,
    statistics: Option<&FrozenStatistics>,
) -> Result<(HeldOut, Option<FrozenRows>)> {
    let share = plan.held_out;
    let is_held_out = move |sample: &Sample| sample.belonging.is_held_out(&sample.key, share);
    match (&sources.images, &sources.texts, &plan.image, &plan.text) {
        (ImageSource::Frozen(images), texts, ImagePlan::Frozen(sizes), TextPlan::Tower(_)) => {
            let statistics = statistics.expect("weights of a frozen image side come with statistics");
            let rows = images.as_trained_on(sizes, statistics)?;
            let (_, captions) = captions_of(texts)?;
            Ok((images.held_out(plan, &captions), Some(rows)))
        }
        (ImageSource::Shards(paths), TextFiles::Facets(path), ImagePlan::Tower { .. }, TextPlan::Facets { .. }) => {
            let store = FacetStore::open(path, Some(plan.dim))?;
            let shards = Shards { paths: tars(paths)?, ..Shards::default() };
            Ok((HeldOut::of_shards(plan, &shards, &is_held_out, &FoundTexts::Facets(&store))?, None))
        }
        (ImageSource::Shards(paths), TextFiles::Captions(path), ImagePlan::Tower { .. }, TextPlan::Tower(sizes)) => {
            let captions = captions::read_whole_groups(path)?;
            let (shards, texts) = (Shards::described(tars(paths)?, &captions), FoundTexts::Captions(&captions, sizes));
            Ok((HeldOut::of_shards(plan, &shards, &is_held_out, &texts)?, None))
        }
        _ => {
            let file = match &sources.texts {
                TextFiles::Facets(path) | TextFiles::Captions(path) => path,
            };
            Err(bad(file, "expected the kinds of images and texts that the weights were trained on".to_owned()))
        }
    }
}

/// All of these images in the space of the texts.
pub(super) fn project(aligned: &super::Aligned, images: &FrozenImages) -> Result<Vec<crate::Embedding>> {
    let (plan, network, statistics) = aligned.parts();
    let (ImagePlan::Frozen(sizes), Some(statistics)) = (&plan.image, statistics) else {
        let detail = "expected weights that were trained against frozen images: these take pictures";
        return Err(bad(aligned.file(), detail.to_owned()));
    };
    let rows = images.as_trained_on(sizes, statistics)?;
    let all = Images::Rows((0..images.ids().len()).collect());
    Ok(network.embed_images(&all, Some(&rows))?)
}
