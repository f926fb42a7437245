//! First stage: whatever is looked for becomes a vector for each named vector that is searched.

use firn_index::{Collection, CollectionConfig, PointId, Reader, Row, Tokens};
use firn_model::{Encoder, FusionTokens, Keep, picture};

use super::{
    Content, Error, Named, Request, Truncation,
    asker::{Asker, asker},
    rerank::Ranker,
    using::Using,
};
use crate::engine::Engine;

/// A question as vectors.
pub struct Query {
    pub parts: Vec<Part>,
    /// Whether cosines are weighed, even if it is those of one part.
    pub is_blend: bool,
    /// Of all vectors that are searched, those that nothing is looked for in too.
    pub weight: f64,
    /// The point that asks, which is not an answer.
    pub itself: Option<Row>,
    pub truncation: Option<Truncation>,
    /// What the network that re-ranks reads of it, if there is one.
    pub asker: Option<Asker>,
}

/// What is looked for in one named vector.
pub struct Part {
    pub using: String,
    pub weight: f32,
    pub vector: Vec<f32>,
}

/// Turns the content into a vector of each space.
pub fn query(
    engine: &Engine,
    collection: &Collection,
    reader: &Reader,
    request: &Request,
    (using, ranker): (&Using, Option<&Ranker>),
) -> Result<Query, Error> {
    let mut embeds = Embeds { engine, collection, done: Vec::new() };
    // First, so that the vector that is searched comes of the same pass.
    let asker = ranker.map(|ranker| asker(&mut embeds, reader, &request.content, (using, ranker))).transpose()?;
    let mut vector = |name: &str| match &request.content {
        Content::Vector(vector) => Ok(Some(vector.clone())),
        Content::Vectors(given) => named(given, name).map(Some),
        Content::Id(id) => stored(collection.config(), reader, id, name),
        Content::Text(text) => embeds.vector(name, |encoder| by_text(encoder, &text.text, Keep::Nothing)),
        Content::Image(bytes) => embeds.vector(name, |encoder| by_image(encoder, bytes, Keep::Nothing)),
    };
    let (mut parts, mut fault) = (Vec::with_capacity(using.weights.len()), None);
    for (name, weight) in &using.weights {
        match vector(name) {
            Ok(vector) => parts.extend(vector.map(|vector| Part { using: name.clone(), weight: *weight, vector })),
            Err(error) if using.is_kept && says_nothing(&error) => fault = Some(error),
            Err(error) => return Err(error),
        }
    }
    let itself = match (&request.content, fault) {
        (Content::Id(id), _) if parts.is_empty() && !using.weights.is_empty() => {
            return Err(Error::NoVector { id: id.clone(), using: using.names() });
        }
        (Content::Id(id), _) => {
            let row = reader.row(id)?;
            Some(row.ok_or_else(|| firn_index::Error::PointNotFound { id: id.clone() })?)
        }
        (_, Some(fault)) if parts.is_empty() => return Err(fault),
        _ => None,
    };
    let (is_blend, weight) = (using.is_blend, using.weight());
    Ok(Query { parts, is_blend, weight, itself, truncation: embeds.truncation(), asker })
}

/// The vectors of a collection's blend are not the asker's choice: one that the content cannot be compared with finds nothing.
pub(super) fn says_nothing(error: &Error) -> bool {
    use firn_model::Error::{NoImageSide, NoTextSide};
    matches!(error, Error::NotGiven { .. } | Error::Model(NoImageSide { .. } | NoTextSide { .. }))
}

#[derive(Clone)]
pub(super) struct Embedded {
    pub vector: Vec<f32>,
    pub tokens: Option<Tokens>,
    truncation: Option<Truncation>,
}

/// One content in the spaces of several models, through each network once.
pub(super) struct Embeds<'a> {
    pub engine: &'a Engine,
    pub collection: &'a Collection,
    /// By the model's hash.
    done: Vec<(String, Embedded)>,
}

impl Embeds<'_> {
    fn vector(
        &mut self,
        using: &str,
        embed: impl FnOnce(&dyn Encoder) -> Result<Embedded, Error>,
    ) -> Result<Option<Vec<f32>>, Error> {
        Ok(Some(self.once(using, embed)?.vector))
    }

    pub fn once(
        &mut self,
        using: &str,
        embed: impl FnOnce(&dyn Encoder) -> Result<Embedded, Error>,
    ) -> Result<Embedded, Error> {
        let encoder = self.engine.encoder_for(self.collection.config(), using)?;
        let encoder = encoder.ok_or_else(|| Error::NoModel { collection: self.collection.name().to_owned() })?;
        let hash = &encoder.info().hash;
        if let Some((_, embedded)) = self.done.iter().find(|(done, _)| done == hash) {
            return Ok(embedded.clone());
        }
        let embedded = embed(encoder.as_ref())?;
        self.done.push((hash.clone(), embedded.clone()));
        Ok(embedded)
    }

    /// Of the model that read least.
    fn truncation(self) -> Option<Truncation> {
        self.done.into_iter().filter_map(|(_, embedded)| embedded.truncation).max_by_key(|cut| cut.tokens_cut)
    }
}

pub(super) fn by_text(encoder: &dyn Encoder, text: &str, keep: Keep) -> Result<Embedded, Error> {
    let embedded = encoder.embed_texts(&[text], keep)?;
    let embedded = embedded.into_iter().next().expect("one text gives one embedding");
    let cut = Truncation { tokens_used: embedded.tokens_used, tokens_cut: embedded.tokens_cut };
    let truncation = (cut.tokens_cut > 0).then_some(cut);
    Ok(Embedded { vector: embedded.embedding, truncation, tokens: embedded.fusion_tokens.map(kept) })
}

pub(super) fn by_image(encoder: &dyn Encoder, bytes: &[u8], keep: Keep) -> Result<Embedded, Error> {
    let pixels = encoder.preprocess(&picture::decode(bytes)?.rgb)?;
    let embedded = encoder.embed_images(&[pixels], keep)?;
    let embedded = embedded.into_iter().next().expect("one image gives one embedding");
    Ok(Embedded { vector: embedded.embedding, truncation: None, tokens: embedded.fusion_tokens.map(kept) })
}

/// Tokens as they are kept.
pub(super) fn kept(tokens: FusionTokens) -> Tokens {
    let FusionTokens { n, dim, values } = tokens;
    Tokens { n, dim, values }
}

fn named(given: &Named, using: &str) -> Result<Vec<f32>, Error> {
    let vectors = &given.vectors;
    let given = || vectors.keys().cloned().collect();
    vectors.get(using).cloned().ok_or_else(|| Error::NotGiven { using: using.to_owned(), given: given() })
}

/// A point's own vector; any other of its vectors will do that lies in the same space, which is that of one model.
fn stored(config: &CollectionConfig, reader: &Reader, id: &PointId, using: &str) -> Result<Option<Vec<f32>>, Error> {
    let own = reader.vector(id, using)?;
    let (None, Some(space)) = (&own, config.model_of(using)) else { return Ok(own) };
    let is_there = |name: &str| config.model_of(name).is_some_and(|model| model.hash == space.hash);
    let same = config.vectors.iter().filter(|(_, vector)| vector.dim == config.vectors[using].dim);
    for (name, _) in same.filter(|(name, _)| is_there(name)) {
        if let Some(vector) = reader.vector(id, name)? {
            return Ok(Some(vector));
        }
    }
    Ok(None)
}
