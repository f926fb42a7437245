//! What a network learns from and is judged on: the points of a collection that have an image vector and texts.
//!
//! Texts are embedded as if their image had never been seen, where the model can (cross-fitting); else a network would learn from texts
//! that fit their images better than any that it will be asked.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::ControlFlow,
    sync::Arc,
};

use firn_index::{Collection, Fields, Point, Reader, Row};
use firn_model::{
    Encoder, Grid, Keep,
    fusion::{Cosines, Crowds, Hubs, Items, Pairs, Telling},
};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    Error, Parting, Reads, Report, Stage,
    parting::{Part, Seen},
};
use crate::engine::Engine;

/// Points of a page, and texts that are embedded at once.
const PAGE: usize = 1000;
const TEXTS_AT_ONCE: usize = 256;

/// Pairs of a collection.
pub struct Gathered {
    pub pairs: Pairs,
    /// Of each text; empty if it is not said.
    pub languages: Vec<String>,
    /// The row of each image in the collection.
    pub rows: Vec<Row>,
    /// Places of images.
    pub train: Vec<usize>,
    pub stop: Vec<usize>,
    pub judged: Vec<usize>,
    /// The judged ones by group, where a text is asked among its own group alone; none if no two of a group are there.
    pub judged_groups: Option<Vec<Vec<usize>>>,
    /// What the first order of the judged ones is made by, if not by the vectors of the pairs.
    blended: Option<(Items, Items)>,
    /// Of those to learn from, if they were wanted.
    pub hubs: Option<Hubs>,
    /// Points that lack a vector or tokens that are read, and one of them.
    pub n_left_out: usize,
    pub left_out: Option<String>,
}

/// What is read of a collection.
pub struct Wanted<'a> {
    pub reads: &'a Reads,
    pub parting: &'a Parting,
    /// Weights of cosines by named vector.
    pub blend: &'a BTreeMap<String, f32>,
    /// Leave out what is neither judged nor stops: for judging alone.
    pub only_judged: bool,
    /// Texts and images to learn from that are to tell hubs, so many at most, by that seed.
    pub crowd: Option<(usize, u64)>,
}

impl Gathered {
    pub fn base<'a>(&'a self, crowds: Option<&'a Crowds>) -> Cosines<'a> {
        let pairs = &self.pairs;
        let (images, texts) =
            self.blended.as_ref().map_or((&pairs.images, &pairs.texts), |(images, texts)| (images, texts));
        Cosines { images, texts, hubs: crowds.map_or(Telling::Nobody, Telling::Crowds) }
    }

    /// Reads all points and embeds their texts; none if `report`, which is told how many of how many are done, breaks it off.
    pub fn read(
        engine: &Engine,
        collection: &Collection,
        wanted: &Wanted,
        report: &mut Report,
    ) -> Result<Option<Gathered>, Error> {
        let encoder = encoder(engine, collection, &wanted.reads.image)?;
        let blended: Vec<(&str, f32)> = match wanted.blend.len() {
            1 if wanted.blend.contains_key(&wanted.reads.image) => Vec::new(),
            _ => wanted.blend.iter().map(|(name, weight)| (name.as_str(), *weight)).collect(),
        };
        let mut rows = Rows { of_blend: vec![Vec::new(); blended.len()], ..Rows::default() };
        if rows.read(&collection.reader(), wanted, &blended, report)?.is_break() {
            return Ok(None);
        }
        // What is only judged may come from a collection with other fields.
        if !wanted.only_judged {
            rows.fields.check(wanted.parting)?;
        }
        if rows.ids.is_empty() {
            return Err(rows.nothing(wanted));
        }
        let Some(mut gathered) = rows.gather(encoder.as_ref(), wanted, report)? else { return Ok(None) };
        let crowd = wanted.crowd.map(|(n, seed)| {
            let (mut texts, mut images) = drawn(&gathered, seed);
            gathered.pairs.tell_hubs(&texts, n);
            texts.truncate(n);
            images.truncate(n);
            (texts, images)
        });
        let asked = crowd.as_ref().map_or(&[][..], |(texts, _)| texts);
        let of_blend = match blended.is_empty() {
            true => Some(Vec::new()),
            false => rows.blend((engine, collection), (&gathered, &wanted.reads.image), asked, &blended, report)?,
        };
        let Some(of_blend) = of_blend else { return Ok(None) };
        if let Some(crowd) = crowd {
            gathered.hubs = Some(hubs(&gathered, &of_blend, &wanted.reads.image, crowd));
        }
        gathered.blended = (!of_blend.is_empty()).then(|| beside(of_blend));
        Ok(Some(gathered))
    }
}

fn encoder(engine: &Engine, collection: &Collection, vector: &str) -> Result<Arc<dyn Encoder>, Error> {
    let (config, dim) = (collection.config(), collection.config().vectors.get(vector).map(|vector| vector.dim));
    // A vector that only points bring may be of another space than the collection's model.
    let encoder = engine.encoder_for(config, vector)?.filter(|encoder| Some(encoder.info().dim) == dim);
    encoder.ok_or_else(|| Error::NoModel { collection: collection.name().to_owned(), vector: vector.to_owned() })
}

/// A text that asks: of which image, in which language, what, and how many it joins, which come before it.
struct Asked {
    owner: usize,
    language: String,
    text: String,
    n_parts: usize,
}

/// What was read of the points.
#[derive(Default)]
struct Rows {
    ids: Vec<String>,
    rows: Vec<Row>,
    groups: Vec<String>,
    parts: Vec<Part>,
    images: Items,
    /// Of each blended vector, all images.
    of_blend: Vec<Vec<f32>>,
    asked: Vec<Asked>,
    n_left_out: usize,
    left_out: Option<String>,
    fields: Seen,
}

impl Rows {
    fn read(
        &mut self,
        reader: &Reader,
        wanted: &Wanted,
        blended: &[(&str, f32)],
        report: &mut Report,
    ) -> Result<ControlFlow<()>, Error> {
        let fields = Fields { payload: true, texts: true, vectors: true, tokens: wanted.reads.tokens };
        let mut from = Some(0);
        while let Some(row) = from {
            let page = reader.scroll(row, PAGE, fields)?;
            from = page.next;
            page.points.into_iter().for_each(|point| self.take(point, wanted, blended));
            if report(Stage::Texts(0, self.asked.len())).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn take(&mut self, mut point: Point, wanted: &Wanted, blended: &[(&str, f32)]) {
        let (part, group) = wanted.parting.of(&point);
        if point.texts.is_empty() || wanted.only_judged && part != Part::Judged {
            return;
        }
        let of_blend: Option<Vec<Vec<f32>>> =
            blended.iter().map(|(name, _)| point.vectors.get(*name).cloned()).collect();
        // Nothing is read of a point that lacks a vector of the blend.
        let read = of_blend.filter(|_| wanted.reads.add(&mut point, &mut self.images).is_ok());
        let Some(of_blend) = read else {
            self.n_left_out += 1;
            self.left_out.get_or_insert_with(|| point.id.to_string());
            return;
        };
        self.fields.look(&point, wanted.parting);
        let owner = self.ids.len();
        self.ids.push(point.id.to_string());
        self.rows.push(point.row);
        self.parts.push(part);
        self.groups.push(group);
        self.of_blend.iter_mut().zip(of_blend).for_each(|(all, vector)| all.extend(vector));
        self.asked.extend(asked(owner, point.texts));
    }

    fn nothing(&self, wanted: &Wanted) -> Error {
        let of = |name: &String| format!(", a vector {name:?}");
        let reads = wanted.reads;
        let tokens = if reads.tokens { " with tokens" } else { "" };
        let extra = reads.extra.as_ref().map(of).unwrap_or_default();
        Error::NoPairs {
            expected: format!("points with texts, a vector {:?}{tokens}{extra}", reads.image),
            n_left_out: self.n_left_out,
        }
    }

    fn gather(
        &mut self,
        encoder: &dyn Encoder,
        wanted: &Wanted,
        report: &mut Report,
    ) -> Result<Option<Gathered>, Error> {
        let keep = if wanted.reads.tokens { Keep::Tokens(Grid::Four) } else { Keep::Nothing };
        let mut texts = Items { dim: self.images.dim, ..Items::default() };
        for (done, asked) in self.asked.chunks(TEXTS_AT_ONCE).enumerate() {
            if report(Stage::Texts(done * TEXTS_AT_ONCE, self.asked.len())).is_break() {
                return Ok(None);
            }
            let ids: Vec<&str> = asked.iter().map(|asked| self.ids[asked.owner].as_str()).collect();
            let words: Vec<&str> = asked.iter().map(|asked| asked.text.as_str()).collect();
            for embedded in encoder.embed_unseen_texts(&ids, &words, keep)? {
                texts.vectors.extend(embedded.embedding);
                if let Some(tokens) = embedded.fusion_tokens {
                    (texts.n_tokens, texts.token_dim) = (tokens.n, tokens.dim);
                    texts.tokens.extend(tokens.values);
                }
            }
        }
        let places = |part: Part| (0..self.parts.len()).filter(|&at| self.parts[at] == part).collect();
        let judged: Vec<usize> = places(Part::Judged);
        let judged_groups = wanted.parting.among_group.then(|| self.groups_of(&judged)).filter(|all| !all.is_empty());
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        let folds = self.ids.iter().map(|id| encoder.fold_of(id)).collect::<firn_model::Result<Vec<_>>>()?;
        let groups = self.groups.iter().filter(|_| wanted.parting.among_group);
        let group_of = groups
            .map(|group| {
                let next = numbers.len();
                *numbers.entry(group).or_insert(next)
            })
            .collect();
        let train = places(Part::Train);
        let fold_of = large_folds(&folds, &train);
        Ok(Some(Gathered {
            languages: self.asked.iter().map(|asked| asked.language.clone()).collect(),
            rows: std::mem::take(&mut self.rows),
            train,
            stop: places(Part::Stop),
            judged,
            judged_groups,
            pairs: Pairs {
                owner_of: self.asked.iter().map(|asked| asked.owner).collect(),
                parts: parts(&self.asked),
                images: std::mem::take(&mut self.images),
                texts,
                shared: shared(&self.asked),
                hubness: Vec::new(),
                fold_of,
                group_of,
            },
            blended: None,
            hubs: None,
            n_left_out: self.n_left_out,
            left_out: self.left_out.clone(),
        }))
    }

    /// Groups of some images; one image alone is nothing to choose from.
    fn groups_of(&self, images: &[usize]) -> Vec<Vec<usize>> {
        let mut by_group: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        images.iter().for_each(|&at| by_group.entry(self.groups[at].as_str()).or_default().push(at));
        by_group.into_values().filter(|group| group.len() > 1).collect()
    }

    /// Each vector of the blend; of the texts only those of judged images and those `asked`, of which the ones the network reads are as if
    /// they had never been seen.
    fn blend(
        &self,
        (engine, collection): (&Engine, &Collection),
        (gathered, read): (&Gathered, &str),
        asked: &[usize],
        blended: &[(&str, f32)],
        report: &mut Report,
    ) -> Result<Option<Vec<OfBlend>>, Error> {
        let total: f32 = blended.iter().map(|(_, weight)| weight).sum();
        let is_judged: HashSet<usize> = gathered.judged.iter().copied().collect();
        let judged = (0..self.asked.len()).filter(|&at| is_judged.contains(&self.asked[at].owner));
        let judged: Vec<usize> = judged.collect();
        let all_asked = [&judged[..], asked].concat();
        let mut all = Vec::new();
        for ((name, weight), vectors) in blended.iter().zip(&self.of_blend) {
            let dim = vectors.len() / self.ids.len();
            let mut of_texts = vec![0.0; self.asked.len() * dim];
            let encoder = encoder(engine, collection, name)?;
            let places = if *name == read { &judged } else { &all_asked };
            let n = places.len();
            for (done, places) in places.chunks(TEXTS_AT_ONCE).enumerate() {
                if report(Stage::Texts(done * TEXTS_AT_ONCE, n)).is_break() {
                    return Ok(None);
                }
                let words: Vec<&str> = places.iter().map(|&at| self.asked[at].text.as_str()).collect();
                for (&at, embedded) in places.iter().zip(encoder.embed_texts(&words, Keep::Nothing)?) {
                    of_texts[at * dim..][..dim].copy_from_slice(&embedded.embedding);
                }
            }
            if *name == read {
                let unseen = &gathered.pairs.texts.vectors;
                asked.iter().for_each(|&at| of_texts[at * dim..][..dim].copy_from_slice(&unseen[at * dim..][..dim]));
            }
            let items = |vectors| Items { dim, vectors, ..Items::default() };
            let (images, texts) = (items(vectors.clone()), items(of_texts));
            all.push(OfBlend { name: (*name).to_owned(), share: (weight / total).sqrt(), images, texts });
        }
        Ok(Some(all))
    }
}

/// A vector of the blend, of all images and texts; what is not needed of these is 0.
struct OfBlend {
    name: String,
    /// What makes the product of all of them the weighted mean of the cosines.
    share: f32,
    images: Items,
    texts: Items,
}

/// Images and texts as vectors whose product is the weighted mean of the cosines.
fn beside(parts: Vec<OfBlend>) -> (Items, Items) {
    let together = |side: &dyn Fn(&OfBlend) -> &Items| {
        let n = parts.first().map_or(0, |part| side(part).n());
        let dim = parts.iter().map(|part| side(part).dim).sum();
        let mut vectors = Vec::with_capacity(n * dim);
        for at in 0..n {
            for part in &parts {
                vectors.extend(side(part).vectors_of(&[at]).iter().map(|x| x * part.share));
            }
        }
        Items { dim, vectors, ..Items::default() }
    };
    (together(&|part| &part.images), together(&|part| &part.texts))
}

/// Texts and images to learn from, in an order that is drawn.
fn drawn(gathered: &Gathered, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let is_learnt: HashSet<usize> = gathered.train.iter().copied().collect();
    let owner_of = &gathered.pairs.owner_of;
    let texts = (0..owner_of.len()).filter(|&text| is_learnt.contains(&owner_of[text])).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |mut all: Vec<usize>| {
        all.shuffle(&mut rng);
        all
    };
    (draw(texts), draw(gathered.train.clone()))
}

/// Of the blend's vectors; if it has one alone, of the one that is read.
fn hubs(gathered: &Gathered, of_blend: &[OfBlend], read: &str, (texts, images): (Vec<usize>, Vec<usize>)) -> Hubs {
    let pick =
        |items: &Items, at: &[usize]| Items { dim: items.dim, vectors: items.vectors_of(at), ..Items::default() };
    let pairs = &gathered.pairs;
    let parts = of_blend.iter().map(|part| (part.name.as_str(), &part.texts, &part.images));
    let alone = of_blend.is_empty().then_some((read, &pairs.texts, &pairs.images));
    let mut hubs = Hubs::default();
    for (name, of_texts, of_images) in parts.chain(alone) {
        hubs.texts.insert(name.to_owned(), pick(of_texts, &texts));
        hubs.images.insert(name.to_owned(), pick(of_images, &images));
    }
    hubs
}

/// The fold of each image, where two or more are large enough to have near images of their own: fewer images to learn from lie together
/// with those of no fold. Empty if all are in one.
fn large_folds(folds: &[Option<usize>], train: &[usize]) -> Vec<usize> {
    const LEAST: usize = 200;
    const OTHER: usize = usize::MAX;
    let mut n_of: BTreeMap<usize, usize> = BTreeMap::new();
    train.iter().filter_map(|&at| folds[at]).for_each(|fold| *n_of.entry(fold).or_default() += 1);
    n_of.retain(|_, n| *n >= LEAST);
    match n_of.len() {
        0 | 1 => Vec::new(),
        _ => folds.iter().map(|fold| fold.filter(|fold| n_of.contains_key(fold)).unwrap_or(OTHER)).collect(),
    }
}

/// The points that have a text, by its place, where they are several: one set, whoever points to it.
fn shared(asked: &[Asked]) -> BTreeMap<usize, Arc<BTreeSet<usize>>> {
    let mut owners_of: HashMap<&str, BTreeSet<usize>> = HashMap::new();
    for asked in asked {
        owners_of.entry(&asked.text).or_default().insert(asked.owner);
    }
    owners_of.retain(|_, owners| owners.len() > 1);
    let owners_of: HashMap<&str, Arc<BTreeSet<usize>>> =
        owners_of.into_iter().map(|(text, owners)| (text, Arc::new(owners))).collect();
    let of = |(at, asked): (usize, &Asked)| Some((at, owners_of.get(asked.text.as_str())?.clone()));
    asked.iter().enumerate().filter_map(of).collect()
}

/// By text that joins others: which.
fn parts(asked: &[Asked]) -> BTreeMap<usize, Vec<usize>> {
    let joined = asked.iter().enumerate().filter(|(_, asked)| asked.n_parts > 0);
    joined.map(|(at, asked)| (at, (at - asked.n_parts..at).collect())).collect()
}

/// What the texts of a point ask: by language, each, and all in one where there are several (language, text, how many it joins:
/// those before it). Equal texts ask once, and one without a letter or digit asks nothing.
pub fn questions(texts: Vec<firn_index::Text>) -> Vec<(String, String, usize)> {
    let mut by_language: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in texts.into_iter().filter(|text| text.text.chars().any(char::is_alphanumeric)) {
        let of_language = by_language.entry(text.language).or_default();
        if !of_language.contains(&text.text) {
            of_language.push(text.text);
        }
    }
    let ask = |(language, texts): (String, Vec<String>)| {
        let joined = (texts.len() > 1).then(|| texts.join(" "));
        let (of, n) = (move |(text, n_parts)| (language.clone(), text, n_parts), texts.len());
        texts.into_iter().map(|text| (text, 0)).chain(joined.map(|text| (text, n))).map(of)
    };
    by_language.into_iter().flat_map(ask).collect()
}

fn asked(owner: usize, texts: Vec<firn_index::Text>) -> Vec<Asked> {
    let ask = |(language, text, n_parts)| Asked { owner, language, text, n_parts };
    questions(texts).into_iter().map(ask).collect()
}

#[cfg(test)]
mod tests {
    use firn_index::{ModelRef, Payload, PointId, Text};

    use super::*;

    #[test]
    fn only_large_folds_stand_alone() {
        let folds: Vec<Option<usize>> = (0..1000).map(|at| (at % 10 < 9).then_some(at % 10 / 4)).collect();
        let train: Vec<usize> = (0..950).collect();
        // 380 of each of two, 95 of a third, and some of none.
        let of = large_folds(&folds, &train);
        assert_eq!((of[0], of[4], of[8], of[9], of[995]), (0, 1, usize::MAX, usize::MAX, 1));
        assert_eq!(large_folds(&folds, &train[..450]), Vec::<usize>::new());
        assert_eq!(large_folds(&[None; 500], &train[..500]), Vec::<usize>::new());
    }

    /// A point that lacks one of the vectors leaves no trace in what is read of the others.
    #[test]
    fn what_is_left_out_shifts_nothing() {
        let reads = Reads {
            image: "image".into(),
            extra: None,
            tokens: false,
            model: ModelRef { name: "m".into(), hash: "h".into() },
        };
        let (parting, blend) =
            (Parting::default(), BTreeMap::from([("image".to_owned(), 1.0), ("other".to_owned(), 1.0)]));
        let wanted = Wanted { reads: &reads, parting: &parting, blend: &blend, only_judged: false, crowd: None };
        let point = |at: u64, names: &[&str]| Point {
            id: PointId::Num(at),
            row: at as u32,
            version: 1,
            texts: ["a", "b", "a"].map(|text| Text { text: text.into(), language: "en".into() }).into(),
            payload: Payload::new(),
            vectors: names.iter().map(|name| ((*name).to_owned(), vec![at as f32; 2])).collect(),
            tokens: BTreeMap::new(),
            n_bytes: 0,
        };
        let blended = [("image", 1.0), ("other", 1.0)];
        let mut rows = Rows { of_blend: vec![Vec::new(); 2], ..Rows::default() };
        for (at, names) in [(1, &["image", "other"][..]), (2, &["image"]), (3, &["other"]), (4, &["image", "other"])] {
            rows.take(point(at, names), &wanted, &blended);
        }
        assert_eq!(rows.images.vectors, [1.0, 1.0, 4.0, 4.0]);
        assert_eq!(
            (rows.ids, rows.of_blend[1].clone()),
            (vec!["1".to_owned(), "4".to_owned()], vec![1.0, 1.0, 4.0, 4.0])
        );
        assert_eq!((rows.n_left_out, rows.left_out.as_deref()), (2, Some("2")));
        // Both points have the same texts.
        assert_eq!(shared(&rows.asked), (0..6).map(|at| (at, Arc::new([0, 1].into()))).collect());
        let asked: Vec<(usize, &str, usize)> =
            rows.asked.iter().map(|asked| (asked.owner, asked.text.as_str(), asked.n_parts)).collect();
        assert_eq!(asked, [(0, "a", 0), (0, "b", 0), (0, "a b", 2), (1, "a", 0), (1, "b", 0), (1, "a b", 2)]);
        assert_eq!(parts(&rows.asked), [(2, vec![0, 1]), (5, vec![3, 4])].into());
    }
}
