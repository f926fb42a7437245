//! Images and texts as a network and its cosines see them: stored, given as vectors, or embedded now.

use std::{collections::BTreeMap, sync::Arc};

use firn_index::{Collection, Fields, PointId, Reader, Side};
use firn_model::{Encoder, ImageEmbedding, Keep, Pixels, TextEmbedding, fusion::Items, picture};
use rayon::prelude::*;

use super::{Error, Named, Truncation, asker::given, encode::kept, given::Item, maker::maker};
use crate::{
    engine::{Engine, texts_beside},
    reranker::Reranker,
};

/// Pictures and texts that are embedded at once.
const AT_ONCE: usize = 32;

/// One image or text.
pub struct Seen {
    /// What the network reads.
    pub item: Items,
    /// What is compared, by the names of the blend, of unit length.
    pub vectors: BTreeMap<String, Vec<f32>>,
    pub truncation: Option<Truncation>,
}

pub struct Eyes<'a> {
    pub engine: &'a Engine,
    pub collection: &'a Collection,
    pub reader: &'a Reader,
    pub reranker: &'a Reranker,
}

/// An error, and the place it belongs to.
type Wrong = (usize, Box<Error>);

/// One way through one network, and the vectors that come out of it.
struct Pass<'a> {
    encoder: Arc<dyn Encoder>,
    keep: Keep,
    names: Vec<&'a str>,
}

impl Eyes<'_> {
    /// All of them, in order; `field` names each in an `Error::Item`.
    pub fn see(&self, side: Side, items: &[Item], field: impl Fn(usize) -> String) -> Result<Vec<Seen>, Error> {
        let wrong = |(at, error): Wrong| Error::Item { field: field(at), error };
        let is_raw = |item: &Item| matches!(item, Item::Text(_) | Item::Image(_));
        let raw: Vec<usize> = (0..items.len()).filter(|&at| is_raw(&items[at])).collect();
        let mut embedded = self.embedded(side, items, &raw).map_err(wrong)?.into_iter();
        let one = |(at, item): (usize, &Item)| match item {
            Item::Text(_) | Item::Image(_) => {
                Ok(embedded.next().expect("each that is neither stored nor given was embedded"))
            }
            Item::Vectors(named) => self.given(side, named).map_err(|error| wrong((at, Box::new(error)))),
            Item::Id(id) => self.stored(side, id).map_err(|error| {
                let field = format!("{}.id", field(at));
                Error::Item { field, error: Box::new(error) }
            }),
        };
        items.iter().enumerate().map(one).collect()
    }

    fn blend(&self) -> impl Iterator<Item = &str> {
        self.reranker.version.blend.iter().filter(|(_, weight)| **weight > 0.0).map(|(name, _)| name.as_str())
    }

    /// As in a query, what a point lacks of the blend is not compared; what the network reads must be there.
    fn stored(&self, side: Side, id: &PointId) -> Result<Seen, Error> {
        let (config, image) = (self.collection.config(), &self.reranker.version.reads.image);
        let [n, dim] = self.reranker.shape(side).tokens;
        // Of several vectors of texts in one space, one that has tokens, if they are read.
        let place = |name: &str| match side {
            Side::Image => Some(name.to_owned()),
            Side::Text => {
                let lacks = |text: &&str| n > 0 && !config.tokens.contains_key(*text);
                texts_beside(config, name).into_iter().min_by_key(lacks).map(str::to_owned)
            }
        };
        let of_texts = || Error::Lacking { what: format!("a vector of texts of the model that {image:?} has") };
        let reads = self.reranker.reads(side, &place(image).ok_or_else(of_texts)?);
        let fields = Fields { vectors: true, tokens: reads.tokens, ..Fields::default() };
        let point = self.reader.get(std::slice::from_ref(id), fields)?.pop();
        let mut point = point.ok_or_else(|| firn_index::Error::PointNotFound { id: id.clone() })?;
        let mut item = Items::default();
        reads.add(&mut point, &mut item).map_err(|what| Error::Lacking { what })?;
        if [item.n_tokens, item.token_dim] != [n, dim] {
            return Err(Error::Lacking { what: format!("{n} x {dim} tokens {:?}", reads.image) });
        }
        let vector = |name: &str| Some((name.to_owned(), point.vectors.get(&place(name)?)?.clone()));
        Ok(Seen { item, vectors: self.blend().filter_map(vector).collect(), truncation: None })
    }

    fn given(&self, side: Side, named: &Named) -> Result<Seen, Error> {
        let config = self.collection.config();
        let item = given(config, self.reranker, side, named)?;
        let unit = |name: &str| {
            let vector =
                named.vectors.get(name).ok_or_else(|| Error::Lacking { what: format!("a vector {name:?}") })?;
            Ok((name.to_owned(), config.to_unit(name, vector)?))
        };
        Ok(Seen { item, vectors: self.blend().map(unit).collect::<Result<_, Error>>()?, truncation: None })
    }

    /// Of those places, in order; an error with its place.
    fn embedded(&self, side: Side, items: &[Item], places: &[usize]) -> Result<Vec<Seen>, Wrong> {
        let Some(&first) = places.first() else { return Ok(Vec::new()) };
        let passes = self.passes(side).map_err(|error| (first, Box::new(error)))?;
        let mut all = Vec::with_capacity(places.len());
        for places in places.chunks(AT_ONCE) {
            let mut named: Vec<(Named, Option<Truncation>)> = vec![Default::default(); places.len()];
            match side {
                Side::Image => embed_images(&passes, items, places, &mut named)?,
                Side::Text => embed_texts(&passes, items, places, &mut named)?,
            }
            for (&at, (named, truncation)) in places.iter().zip(named) {
                all.push(Seen { truncation, ..self.given(side, &named).map_err(|error| (at, Box::new(error)))? });
            }
        }
        Ok(all)
    }

    /// Each model once.
    fn passes(&self, side: Side) -> Result<Vec<Pass<'_>>, Error> {
        let reads = &self.reranker.version.reads;
        let extra = reads.extra.iter().filter(|_| side == Side::Image);
        let mut names: Vec<&str> = std::iter::once(&reads.image).chain(extra).map(String::as_str).collect();
        names.extend(self.blend());
        let mut passes: Vec<Pass> = Vec::new();
        for name in names {
            let (encoder, keep) = maker(self.engine, self.collection, self.reranker, side, name)?;
            // The first name is the one that tokens go with.
            match passes.iter_mut().find(|pass| pass.encoder.info().hash == encoder.info().hash) {
                Some(pass) if pass.names.contains(&name) => {}
                Some(pass) => pass.names.push(name),
                None => passes.push(Pass { encoder, keep, names: vec![name] }),
            }
        }
        Ok(passes)
    }
}

impl Pass<'_> {
    fn put(&self, named: &mut Named, vector: Vec<f32>, tokens: Option<firn_model::FusionTokens>) {
        if let Some(tokens) = tokens {
            named.tokens.insert(self.names[0].to_owned(), kept(tokens));
        }
        named.vectors.extend(self.names.iter().map(|name| ((*name).to_owned(), vector.clone())));
    }
}

type Embedded = [(Named, Option<Truncation>)];

/// A picture is in memory only while it is made as small as the networks take it.
fn embed_images(passes: &[Pass], items: &[Item], places: &[usize], into: &mut Embedded) -> Result<(), Wrong> {
    let pixels = |&at: &usize| -> Result<Vec<Pixels>, firn_model::Error> {
        let Item::Image(bytes) = &items[at] else { return Ok(Vec::new()) };
        let picture = picture::decode(bytes)?.rgb;
        passes.iter().map(|pass| pass.encoder.preprocess(&picture)).collect()
    };
    let pixels: Vec<Vec<Pixels>> = places
        .par_iter()
        .map(|at| pixels(at).map_err(|error| (*at, Box::new(Error::from(error)))))
        .collect::<Result<_, _>>()?;
    for (place, pass) in passes.iter().enumerate() {
        let of_pass: Vec<Pixels> = pixels.iter().filter_map(|pixels| pixels.get(place).cloned()).collect();
        let embed = |pixels: &[Pixels]| pass.encoder.embed_images(pixels, pass.keep);
        let embedded = each(&of_pass, embed).map_err(|(at, error)| (places[at], Box::new(Error::from(error))))?;
        for (ImageEmbedding { embedding, fusion_tokens }, (named, _)) in embedded.into_iter().zip(&mut *into) {
            pass.put(named, embedding, fusion_tokens);
        }
    }
    Ok(())
}

fn embed_texts(passes: &[Pass], items: &[Item], places: &[usize], into: &mut Embedded) -> Result<(), Wrong> {
    let text = |&at: &usize| if let Item::Text(text) = &items[at] { text.as_str() } else { "" };
    let texts: Vec<&str> = places.iter().map(text).collect();
    for pass in passes {
        let embed = |texts: &[&str]| pass.encoder.embed_texts(texts, pass.keep);
        let embedded = each(&texts, embed).map_err(|(at, error)| (places[at], Box::new(Error::from(error))))?;
        for (embedded, (named, truncation)) in embedded.into_iter().zip(&mut *into) {
            let TextEmbedding { embedding, tokens_used, tokens_cut, fusion_tokens } = embedded;
            // The model that read least tells.
            if tokens_cut > truncation.map_or(0, |cut: Truncation| cut.tokens_cut) {
                *truncation = Some(Truncation { tokens_used, tokens_cut });
            }
            pass.put(named, embedding, fusion_tokens);
        }
    }
    Ok(())
}

/// All at once; if that fails one by one, so that an error has its place.
fn each<I, O>(
    inputs: &[I],
    embed: impl Fn(&[I]) -> Result<Vec<O>, firn_model::Error>,
) -> Result<Vec<O>, (usize, firn_model::Error)> {
    if let Ok(outputs) = embed(inputs) {
        return Ok(outputs);
    }
    let one = |(at, input)| match embed(std::slice::from_ref(input)) {
        Ok(mut output) => Ok(output.pop().expect("an encoder gives one embedding an input")),
        Err(error) => Err((at, error)),
    };
    inputs.iter().enumerate().map(one).collect()
}
