//! First stage: whatever is looked for becomes a vector.

use firn_index::{Collection, CollectionConfig, PointId, Reader, Row};
use firn_model::{Encoder, Keep, picture};

use super::{Content, Error, Request, Truncation, request::invalid};
use crate::engine::Engine;

/// A question as a vector.
pub struct Query {
    pub vector: Vec<f32>,
    /// The named vector that is searched.
    pub using: String,
    /// The point that asks, which is not an answer.
    pub itself: Option<Row>,
    pub truncation: Option<Truncation>,
}

/// Turns the content into a vector of the collection's space.
pub fn query(engine: &Engine, collection: &Collection, reader: &Reader, request: &Request) -> Result<Query, Error> {
    let using = named_vector(collection.config(), reader, request.using.as_deref())?;
    let plain = |vector| Query { vector, using: using.clone(), itself: None, truncation: None };
    match &request.content {
        Content::Vector(vector) => Ok(plain(vector.clone())),
        Content::Id(id) => {
            let vector = stored_vector(collection.config(), reader, id, &using)?;
            Ok(Query { itself: reader.row(id)?, ..plain(vector) })
        }
        Content::Text(text) => {
            let embedded = encoder(engine, collection, &using)?.embed_texts(&[&text.text], Keep::Nothing)?;
            let embedded = embedded.into_iter().next().expect("one text gives one embedding");
            let truncation = (embedded.tokens_cut > 0)
                .then_some(Truncation { tokens_used: embedded.tokens_used, tokens_cut: embedded.tokens_cut });
            Ok(Query { truncation, ..plain(embedded.embedding) })
        }
        Content::Image(bytes) => {
            let encoder = encoder(engine, collection, &using)?;
            let pixels = encoder.preprocess(&picture::decode(bytes)?.rgb)?;
            let embedded = encoder.embed_images(&[pixels], Keep::Nothing)?;
            Ok(plain(embedded.into_iter().next().expect("one image gives one embedding").embedding))
        }
    }
}

/// The vector to search: the one asked for, else the only one, else "image" or "text", whichever first holds anything.
fn named_vector(config: &CollectionConfig, reader: &Reader, asked: Option<&str>) -> Result<String, Error> {
    let names: Vec<&str> = config.vectors.keys().map(String::as_str).collect();
    let usual = ["image", "text"].into_iter().filter(|name| names.contains(name));
    let choices: Vec<&str> = match (asked, names.as_slice()) {
        (Some(name), names) => names.iter().copied().filter(|has| *has == name).collect(),
        (None, [only]) => vec![only],
        (None, _) => usual.collect(),
    };
    for name in &choices {
        if choices.len() > 1 && reader.holds(name)? {
            return Ok((*name).to_owned());
        }
    }
    let first = choices.first().map(|name| (*name).to_owned());
    first.ok_or_else(|| invalid("using", format!("one of {names:?}"), format!("{:?}", asked.unwrap_or(""))))
}

/// A point's own vector; any other of its vectors will do that lies in the same space, which is that of one model.
fn stored_vector(config: &CollectionConfig, reader: &Reader, id: &PointId, using: &str) -> Result<Vec<f32>, Error> {
    let none = || Error::NoVector { id: id.clone(), using: using.to_owned() };
    if let Some(vector) = reader.vector(id, using)? {
        return Ok(vector);
    }
    let Some(space) = config.model_of(using) else { return Err(none()) };
    let is_there = |name: &str| config.model_of(name).is_some_and(|model| model.hash == space.hash);
    let same = config.vectors.iter().filter(|(_, vector)| vector.dim == config.vectors[using].dim);
    for (name, _) in same.filter(|(name, _)| is_there(name)) {
        if let Some(vector) = reader.vector(id, name)? {
            return Ok(vector);
        }
    }
    Err(none())
}

fn encoder(engine: &Engine, collection: &Collection, using: &str) -> Result<std::sync::Arc<dyn Encoder>, Error> {
    let encoder = engine.encoder_for(collection.config(), using)?;
    encoder.ok_or_else(|| Error::NoModel { collection: collection.name().to_owned() })
}
