//! What is refused, and why: names, settings, points and searches.

use std::collections::HashSet;

use crate::{
    CollectionConfig, Error, Limits, NewPoint, Options, Payload, PointId, Result, Search, Text, TokenConfig, Tokens,
    distance::{NotADirection, to_unit},
};

/// Names of collections, aliases and vectors.
pub fn name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good =
        (1..=Limits::MAX_NAME_BYTES).contains(&name.len()) && !name.starts_with('.') && name.chars().all(allowed);
    if good { Ok(()) } else { Err(Error::InvalidName { name: name.chars().take(Limits::MAX_NAME_BYTES).collect() }) }
}

pub fn options(options: &Options) -> Result<()> {
    in_range("buffer_limit", options.buffer_limit, 1, Limits::MAX_ROWS as usize)?;
    in_range("build_threads", options.build_threads, 0, 1024)
}

pub fn config(config: &CollectionConfig) -> Result<()> {
    in_range("vectors", config.vectors.len(), 1, Limits::MAX_VECTORS_PER_POINT)?;
    for (vector, settings) in &config.vectors {
        name(vector)?;
        in_range("dim", settings.dim, 1, Limits::MAX_DIM)?;
    }
    for (of, shape) in &config.tokens {
        if !config.vectors.contains_key(of) {
            let names: Vec<&String> = config.vectors.keys().collect();
            let expected = format!("the name of a vector, one of {names:?}");
            return Err(Error::InvalidSetting { field: "tokens", expected, received: format!("{of:?}") });
        }
        token_shape(*shape)?;
    }
    let hnsw = &config.hnsw;
    in_range("m", hnsw.m, Limits::MIN_M, Limits::MAX_M)?;
    let (min, max) = (Limits::MIN_EF_CONSTRUCTION, Limits::MAX_EF_CONSTRUCTION);
    in_range("ef_construction", hnsw.ef_construction, min, max)?;
    in_range("ef_search", hnsw.ef_search, Limits::MIN_EF_SEARCH, Limits::MAX_EF_SEARCH)?;
    let own = config.vectors.values().filter_map(|vector| vector.embeds.as_ref());
    for model in own.map(|embeds| &embeds.model).chain(&config.model) {
        at_most("bytes of a model's name", Limits::MAX_MODEL_BYTES, model.name.len())?;
        at_most("bytes of a model's hash", Limits::MAX_MODEL_BYTES, model.hash.len())?;
    }
    Ok(())
}

fn token_shape(shape: TokenConfig) -> Result<()> {
    in_range("tokens.n", shape.n, 1, Limits::MAX_TOKENS)?;
    in_range("tokens.dim", shape.dim, 1, Limits::MAX_DIM)?;
    at_most("bytes of tokens", Limits::MAX_TOKEN_BYTES, shape.bytes())
}

/// A whole batch: each point, and that no id stands twice.
pub fn points(config: &CollectionConfig, points: &[NewPoint]) -> Result<()> {
    let mut seen = HashSet::with_capacity(points.len());
    for new in points {
        point(config, new)?;
        if !seen.insert(&new.id) {
            return Err(Error::DuplicateId { id: new.id.clone() });
        }
    }
    Ok(())
}

pub fn point(config: &CollectionConfig, point: &NewPoint) -> Result<()> {
    content(&point.id, &point.texts, &point.payload)?;
    if point.vectors.is_empty() {
        return Err(Error::NoVector { id: point.id.clone() });
    }
    point.vectors.iter().try_for_each(|(name, numbers)| vector(config, name, numbers).map(drop))?;
    point.tokens.iter().try_for_each(|(name, given)| tokens(config, name, given))
}

/// What is known of a point before it is embedded: `Error::InvalidId`, `Error::LimitExceeded`.
pub fn content(point: &PointId, words: &[Text], fields: &Payload) -> Result<()> {
    id(point)?;
    texts(words)?;
    payload(fields)
}

pub fn id(id: &PointId) -> Result<()> {
    match id {
        PointId::Text(text) if !(1..=Limits::MAX_ID_BYTES).contains(&text.len()) => {
            Err(Error::InvalidId { received: text.len(), max: Limits::MAX_ID_BYTES })
        }
        _ => Ok(()),
    }
}

/// A payload's size as JSON, and how deep it is nested.
pub fn payload(payload: &Payload) -> Result<()> {
    at_most("levels of a payload", Limits::MAX_PAYLOAD_DEPTH, payload_depth(payload))?;
    let mut size = ByteCount(0);
    serde_json::to_writer(&mut size, payload).expect("counting bytes cannot fail");
    at_most("bytes of a payload", Limits::MAX_PAYLOAD_BYTES, size.0)
}

/// The search's vector scaled to unit length, if everything about the search is in order.
pub fn search(config: &CollectionConfig, search: &Search<'_>) -> Result<Vec<f32>> {
    in_range("limit", search.limit, 1, Limits::MAX_LIMIT)?;
    if let Some(ef) = search.ef {
        in_range("ef", ef, Limits::MIN_EF_SEARCH, Limits::MAX_EF_SEARCH)?;
    }
    vector(config, search.using, search.vector)
}

/// A named vector scaled to unit length.
pub fn vector(config: &CollectionConfig, name: &str, numbers: &[f32]) -> Result<Vec<f32>> {
    let Some(settings) = config.vectors.get(name) else {
        return Err(Error::UnknownVector {
            expected: config.vectors.keys().cloned().collect(),
            received: name.to_owned(),
        });
    };
    if numbers.len() != settings.dim {
        return Err(Error::WrongDimension { vector: name.to_owned(), expected: settings.dim, received: numbers.len() });
    }
    to_unit(numbers).map_err(|why| match why {
        NotADirection::NotFinite(position) => Error::NotFinite { vector: name.to_owned(), position },
        NotADirection::Zero => Error::ZeroVector { vector: name.to_owned() },
    })
}

/// Tokens of the shape that the collection keeps beside the vector of that name.
pub fn tokens(config: &CollectionConfig, name: &str, tokens: &Tokens) -> Result<()> {
    let Some(&expected) = config.tokens.get(name) else {
        return Err(Error::UnknownTokens {
            expected: config.tokens.keys().cloned().collect(),
            received: name.to_owned(),
        });
    };
    let received = TokenConfig { n: tokens.n, dim: tokens.dim };
    let n_values = tokens.values.len();
    if received != expected || n_values != expected.n * expected.dim {
        let received = if received == expected { n_values.to_string() } else { received.to_string() };
        return Err(Error::WrongTokens { tokens: name.to_owned(), expected, received });
    }
    match tokens.values.iter().position(|number| !number.is_finite()) {
        Some(position) => Err(Error::TokensNotFinite { tokens: name.to_owned(), position }),
        None => Ok(()),
    }
}

/// `Error::LimitExceeded` if `received` is more than `max`.
pub fn at_most(what: &'static str, max: usize, received: usize) -> Result<()> {
    if received <= max {
        Ok(())
    } else {
        Err(Error::LimitExceeded { what, max: max as u64, received: received as u64 })
    }
}

fn texts(texts: &[Text]) -> Result<()> {
    at_most("texts of a point", Limits::MAX_TEXTS, texts.len())?;
    for text in texts {
        at_most("bytes of a text", Limits::MAX_TEXT_BYTES, text.text.len())?;
        at_most("bytes of a language", Limits::MAX_LANGUAGE_BYTES, text.language.len())?;
    }
    Ok(())
}

fn in_range(field: &'static str, received: usize, min: usize, max: usize) -> Result<()> {
    if (min..=max).contains(&received) {
        return Ok(());
    }
    Err(Error::InvalidSetting { field, expected: format!("{min} to {max}"), received: received.to_string() })
}

/// Levels of nesting; walked without recursion, since the depth is what is in question.
fn payload_depth(payload: &Payload) -> usize {
    let mut deepest = 1;
    let mut open: Vec<(usize, &serde_json::Value)> = payload.values().map(|value| (2, value)).collect();
    while let Some((depth, value)) = open.pop() {
        match value {
            serde_json::Value::Array(values) => open.extend(values.iter().map(|v| (depth + 1, v))),
            serde_json::Value::Object(fields) => open.extend(fields.values().map(|v| (depth + 1, v))),
            _ => continue,
        }
        deepest = deepest.max(depth);
    }
    deepest
}

struct ByteCount(usize);

impl std::io::Write for ByteCount {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
