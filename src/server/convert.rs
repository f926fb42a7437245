//! Wire types to plain types and back. What comes in is checked here as far as it can be without asking anyone, and every
//! refusal names its field.

mod collections;

use std::collections::{BTreeMap, HashMap};

use firn_index::{self as index, Fields, Limits, Payload, PointId, Text, TokenConfig, Tokens};
use firn_ingest::embed;
use firn_model::{FusionTokens, Grid, ModelInfo, Sigmoid, TokenShape};
use firn_proto::{json, v1};
use half::f16;

pub use self::collections::{alias_change_in, collection_out, hnsw_in, vectors_in};
use super::status::Problem;
use crate::{engine, query};

type Result<T> = std::result::Result<T, Problem>;

/// A number that must lie within limits.
pub fn within(field: &str, received: usize, min: usize, max: usize) -> Result<()> {
    if (min..=max).contains(&received) {
        return Ok(());
    }
    Err(Problem::invalid(field, "OUT_OF_RANGE", format!("expected {min} to {max}, received {received}")))
}

pub fn missing(field: &str, expected: &str) -> Problem {
    Problem::invalid(field, "MISSING_FIELD", format!("expected {expected}, received nothing"))
}

pub fn collection_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(missing("collection_name", "a name"));
    }
    Ok(())
}

pub fn id_in(id: Option<v1::PointId>, field: &str) -> Result<PointId> {
    match id.and_then(|id| id.kind) {
        None => Err(missing(field, "a number or a text")),
        Some(v1::point_id::Kind::Num(num)) => Ok(PointId::Num(num)),
        Some(v1::point_id::Kind::Text(text)) if (1..=Limits::MAX_ID_BYTES).contains(&text.len()) => {
            Ok(PointId::Text(text))
        }
        Some(v1::point_id::Kind::Text(text)) => {
            let message = format!("expected 1 to {} bytes, received {}", Limits::MAX_ID_BYTES, text.len());
            Err(Problem::invalid(field, "INVALID_ID", message))
        }
    }
}

pub fn ids_in(ids: Vec<v1::PointId>, max: usize) -> Result<Vec<PointId>> {
    within("ids", ids.len(), 1, max)?;
    ids.into_iter().enumerate().map(|(at, id)| id_in(Some(id), &format!("ids[{at}]"))).collect()
}

pub fn id_out(id: PointId) -> v1::PointId {
    let kind = match id {
        PointId::Num(num) => v1::point_id::Kind::Num(num),
        PointId::Text(text) => v1::point_id::Kind::Text(text),
    };
    v1::PointId { kind: Some(kind) }
}

/// Not empty and finite; the collection knows the dimension.
pub fn vector_in(vector: v1::Vector, field: &str) -> Result<Vec<f32>> {
    let v1::Vector { values, packed } = vector;
    let numbers = match (values.is_empty(), packed.is_empty()) {
        (true, true) => return Err(missing(field, "values or packed")),
        (false, false) => {
            let message = "expected either values or packed, received both";
            return Err(Problem::invalid(field, "AMBIGUOUS_VECTOR", message));
        }
        (false, true) => values,
        (true, false) => unpack(&packed, field)?,
    };
    if let Some(position) = numbers.iter().position(|number| !number.is_finite()) {
        let message = format!("the number at position {position} is not finite");
        return Err(Problem::invalid(field, "NOT_FINITE", message));
    }
    Ok(numbers)
}

fn unpack(packed: &[u8], field: &str) -> Result<Vec<f32>> {
    let (numbers, rest) = packed.as_chunks::<4>();
    if !rest.is_empty() {
        let message = format!("expected a multiple of 4 bytes, received {}", packed.len());
        return Err(Problem::invalid(format!("{field}.packed"), "INVALID_VECTOR", message));
    }
    Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

pub fn vector_out(values: &[f32]) -> v1::Vector {
    let mut packed = Vec::with_capacity(values.len() * 4);
    for value in values {
        packed.extend_from_slice(&value.to_le_bytes());
    }
    v1::Vector { values: Vec::new(), packed: packed.into() }
}

fn vectors_out(vectors: BTreeMap<String, Vec<f32>>) -> HashMap<String, v1::Vector> {
    vectors.into_iter().map(|(name, vector)| (name, vector_out(&vector))).collect()
}

/// As many bytes as the shape says, all finite; the collection knows the shape.
fn tokens_in(tokens: &v1::Tokens, field: &str) -> Result<Tokens> {
    let (n, dim) = (tokens.n as usize, tokens.dim as usize);
    let expected = n.checked_mul(dim).and_then(|numbers| numbers.checked_mul(2));
    if expected != Some(tokens.packed.len()) || tokens.packed.is_empty() {
        let message = format!("expected {n} x {dim} numbers of 2 bytes, received {} bytes", tokens.packed.len());
        return Err(Problem::invalid(format!("{field}.packed"), "WRONG_TOKENS", message));
    }
    let (pairs, _) = tokens.packed.as_chunks::<2>();
    let values: Vec<f16> = pairs.iter().map(|pair| f16::from_le_bytes(*pair)).collect();
    if let Some(position) = values.iter().position(|number| !number.is_finite()) {
        let message = format!("the number at position {position} is not finite");
        return Err(Problem::invalid(field, "NOT_FINITE", message));
    }
    Ok(Tokens { n, dim, values })
}

fn tokens_out(n: usize, dim: usize, values: &[f16]) -> v1::Tokens {
    let packed: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    v1::Tokens { n: n as u32, dim: dim as u32, packed: packed.into() }
}

fn all_tokens_out(tokens: BTreeMap<String, Tokens>) -> HashMap<String, v1::Tokens> {
    tokens.into_iter().map(|(of, tokens)| (of, tokens_out(tokens.n, tokens.dim, &tokens.values))).collect()
}

fn token_shapes_out(tokens: BTreeMap<String, TokenConfig>) -> HashMap<String, v1::TokenShape> {
    tokens.into_iter().map(|(of, shape)| (of, token_shape_out(shape.n, shape.dim))).collect()
}

fn token_shape_out(n: usize, dim: usize) -> v1::TokenShape {
    v1::TokenShape { n: n as u32, dim: dim as u32 }
}

pub fn token_shapes_in(tokens: HashMap<String, v1::TokenShape>) -> BTreeMap<String, TokenConfig> {
    let shape = |shape: v1::TokenShape| TokenConfig { n: shape.n as usize, dim: shape.dim as usize };
    tokens.into_iter().map(|(of, given)| (of, shape(given))).collect()
}

/// "image" and "text" are where a model's tokens go, so they have a shape that it makes.
pub fn check_token_shapes(tokens: &BTreeMap<String, TokenConfig>, info: &ModelInfo) -> Result<()> {
    let all = || Grid::ALL.map(|grid| info.token_shapes(grid));
    let made = |of: &str| -> Vec<TokenShape> {
        match of {
            embed::IMAGE_VECTOR => all().into_iter().filter_map(|shapes| shapes.image).collect(),
            _ => info.text_tokens.into_iter().collect(),
        }
    };
    for of in [embed::IMAGE_VECTOR, embed::TEXT_VECTOR] {
        let Some(received) = tokens.get(of) else { continue };
        // A model that takes no images has no say in what is kept of those that points bring.
        if of == embed::IMAGE_VECTOR && info.image_side_px == 0 {
            continue;
        }
        let made: Vec<String> = made(of).iter().map(|shape| format!("{} x {}", shape.n, shape.dim)).collect();
        if !made.contains(&received.to_string()) {
            let message = format!("expected one of {made:?}, as the model makes them, received {received}");
            return Err(Problem::invalid(format!("tokens[{of:?}]"), "WRONG_TOKENS", message));
        }
    }
    Ok(())
}

/// None: no tokens are wanted.
pub fn grid_in(grid: i32, field: &str) -> Result<Option<Grid>> {
    match v1::TokenGrid::try_from(grid) {
        Ok(v1::TokenGrid::Unspecified) => Ok(None),
        Ok(v1::TokenGrid::TokenGrid4x4) => Ok(Some(Grid::Four)),
        Ok(v1::TokenGrid::TokenGrid7x7) => Ok(Some(Grid::Seven)),
        Err(_) => Err(Problem::invalid(field, "OUT_OF_RANGE", format!("expected 0 to 2, received {grid}"))),
    }
}

pub fn fusion_tokens_out(tokens: Option<FusionTokens>) -> Option<v1::Tokens> {
    tokens.map(|tokens| tokens_out(tokens.n, tokens.dim, &tokens.values))
}

pub fn payload_in(payload: Option<prost_types::Struct>, field: &str) -> Result<Payload> {
    let Some(payload) = payload else { return Ok(Payload::new()) };
    json::from_struct(payload).map_err(|error| Problem::invalid(field, "INVALID_PAYLOAD", error.to_string()))
}

fn payload_out(payload: Payload, fields: Fields) -> Option<prost_types::Struct> {
    fields.payload.then(|| json::to_struct(payload))
}

fn text_in(text: v1::Text) -> Text {
    Text { text: text.text, language: text.language }
}

fn texts_out(texts: Vec<Text>) -> Vec<v1::Text> {
    texts.into_iter().map(|text| v1::Text { text: text.text, language: text.language }).collect()
}

/// A point as it came; fields are named from the point on.
pub fn point_in(point: v1::PointInput) -> Result<embed::Input> {
    let vectors = point.vectors.into_iter().map(|(name, vector)| {
        let vector = vector_in(vector, &format!("vectors[{name:?}]"))?;
        Ok((name, vector))
    });
    let tokens = point.tokens.into_iter().map(|(of, tokens)| {
        let tokens = tokens_in(&tokens, &format!("tokens[{of:?}]"))?;
        Ok((of, tokens))
    });
    Ok(embed::Input {
        id: id_in(point.id, "id")?,
        image: (!point.image.is_empty()).then(|| point.image.into()),
        texts: point.texts.into_iter().map(text_in).collect(),
        payload: payload_in(point.payload, "payload")?,
        vectors: vectors.collect::<Result<_>>()?,
        tokens: tokens.collect::<Result<_>>()?,
    })
}

pub fn point_out(point: index::Point, fields: Fields) -> v1::Point {
    v1::Point {
        id: Some(id_out(point.id)),
        payload: payload_out(point.payload, fields),
        texts: texts_out(point.texts),
        vectors: vectors_out(point.vectors),
        tokens: all_tokens_out(point.tokens),
        version: point.version,
    }
}

pub fn truncation_out(id: &PointId, truncation: embed::Truncation) -> v1::Truncation {
    v1::Truncation {
        id: Some(id_out(id.clone())),
        text: truncation.text as u32,
        tokens_used: truncation.tokens_used as u32,
        tokens_cut: truncation.tokens_cut as u32,
    }
}

/// Without the message: the payload only.
pub fn fields(include: Option<v1::Include>) -> Fields {
    match include {
        None => Fields { payload: true, ..Fields::default() },
        Some(v1::Include { payload, texts, vectors, tokens }) => Fields { payload, texts, vectors, tokens },
    }
}

pub fn query_in(request: v1::QueryRequest, max_bytes: usize) -> Result<query::Request> {
    collection_name(&request.collection_name)?;
    let params = request.params.unwrap_or_default();
    let given = |number: u32| (number > 0).then_some(number as usize);
    let request = query::Request {
        content: content_in(request.query)?,
        collection: request.collection_name,
        using: (!request.using.is_empty()).then_some(request.using),
        blend: (!request.blend.is_empty()).then(|| request.blend.into_iter().collect()),
        full_text: request.full_text.map(full_text_in).transpose()?,
        limit: given(request.limit),
        offset: request.offset as usize,
        candidates: given(request.candidates),
        ef: given(params.hnsw_ef),
        exact: params.exact,
        fields: fields(request.include),
        score_threshold: request.score_threshold,
        rerank: request.rerank.map_or_else(|| Ok(query::Rerank::default()), rerank_in)?,
        deadline: None,
        max_bytes,
    };
    request.check()?;
    Ok(request)
}

fn full_text_in(full_text: v1::FullText) -> Result<query::FullText> {
    let v1::FullText { text, weight, merge } = full_text;
    check_text(&text, "full_text.text")?;
    Ok(query::FullText {
        text: (!text.is_empty()).then_some(text),
        weight: weight.unwrap_or(query::Limits::DEFAULT_WORDS_WEIGHT),
        merge: match v1::FullTextMerge::try_from(merge) {
            Ok(v1::FullTextMerge::Ranks) => query::Merge::Ranks,
            Ok(v1::FullTextMerge::Scores) => query::Merge::Scores,
            Err(_) => {
                let message = format!("expected 0 or 1, received {merge}");
                return Err(Problem::invalid("full_text.merge", "OUT_OF_RANGE", message));
            }
        },
    })
}

fn rerank_in(rerank: v1::Rerank) -> Result<query::Rerank> {
    use v1::rerank::Which;
    Ok(query::Rerank {
        which: match rerank.which {
            Some(Which::Off(true)) => query::Which::None,
            Some(Which::Version(version)) => query::Which::Version(version),
            Some(Which::Off(false)) | None => query::Which::Active,
        },
        candidates: (rerank.candidates > 0).then_some(rerank.candidates as usize),
        on_failure: match v1::RerankFailure::try_from(rerank.on_failure) {
            Ok(v1::RerankFailure::Skip) => query::OnFailure::Skip,
            Ok(v1::RerankFailure::Error) => query::OnFailure::Error,
            Err(_) => {
                let message = format!("expected 0 or 1, received {}", rerank.on_failure);
                return Err(Problem::invalid("rerank.on_failure", "OUT_OF_RANGE", message));
            }
        },
        min_relevance: rerank.min_relevance,
    })
}

fn content_in(content: Option<v1::QueryContent>) -> Result<query::Content> {
    use v1::query_content::Kind;
    let Some(kind) = content.and_then(|content| content.kind) else {
        return Err(missing("query", "a text, an image, an id, a vector or vectors"));
    };
    Ok(match kind {
        Kind::Text(text) => {
            check_text(&text.text, "query.text")?;
            query::Content::Text(text_in(text))
        }
        Kind::Image(bytes) if bytes.is_empty() => return Err(missing("query.image", "an encoded picture")),
        Kind::Image(bytes) => query::Content::Image(bytes.into()),
        Kind::Id(id) => query::Content::Id(id_in(Some(id), "query.id")?),
        Kind::Vector(vector) => query::Content::Vector(vector_in(vector, "query.vector")?),
        Kind::Vectors(vectors) => query::Content::Vectors(named_in(vectors, "query.vectors")?),
    })
}

pub fn check_text(text: &str, field: &str) -> Result<()> {
    if text.len() <= Limits::MAX_TEXT_BYTES {
        return Ok(());
    }
    let message = format!("expected at most {} bytes, received {}", Limits::MAX_TEXT_BYTES, text.len());
    Err(Problem::invalid(field, "TEXT_TOO_LONG", message))
}

pub fn named_in(named: v1::NamedVectors, field: &str) -> Result<query::Named> {
    let v1::NamedVectors { vectors, tokens } = named;
    within(field, vectors.len(), 1, Limits::MAX_VECTORS_PER_POINT)?;
    within(&format!("{field}.tokens"), tokens.len(), 0, Limits::MAX_VECTORS_PER_POINT)?;
    let vector = |(name, vector)| {
        let vector = vector_in(vector, &format!("{field}[{name:?}]"))?;
        Ok((name, vector))
    };
    let tokens_of = |(name, tokens): (String, v1::Tokens)| {
        let tokens = tokens_in(&tokens, &format!("{field}.tokens[{name:?}]"))?;
        Ok((name, tokens))
    };
    let vectors = vectors.into_iter().map(vector).collect::<Result<_>>()?;
    Ok(query::Named { vectors, tokens: tokens.into_iter().map(tokens_of).collect::<Result<_>>()? })
}

pub fn answer_out(answer: query::Answer, fields: Fields) -> v1::QueryResponse {
    let truncation = answer.truncation.map(|cut| v1::Truncation {
        id: None,
        text: 0,
        tokens_used: cut.tokens_used as u32,
        tokens_cut: cut.tokens_cut as u32,
    });
    v1::QueryResponse {
        hits: answer.hits.into_iter().map(|hit| hit_out(hit, fields)).collect(),
        timings: Some(timings_out(answer.timings)),
        truncation,
        rerank_applied: answer.rerank_applied,
        reranker: answer.reranker,
        rerank_skipped: answer.rerank_skipped.unwrap_or_default(),
    }
}

pub fn timings_out(timings: query::Timings) -> v1::Timings {
    let query::Timings { encode_us, retrieve_us, merge_us, rerank_us, fetch_us, total_us } = timings;
    v1::Timings { encode_us, retrieve_us, merge_us, rerank_us, fetch_us, total_us }
}

fn hit_out(hit: query::Hit, fields: Fields) -> v1::Hit {
    v1::Hit {
        id: Some(id_out(hit.id)),
        score: hit.score,
        cosine: hit.cosine,
        cosines: hit.cosines.into_iter().collect(),
        fusion: hit.fusion,
        hubness: hit.hubness,
        relevance: hit.relevance,
        bm25: hit.bm25,
        payload: payload_out(hit.payload, fields),
        texts: texts_out(hit.texts),
        vectors: vectors_out(hit.vectors),
        tokens: all_tokens_out(hit.tokens),
        version: hit.version,
    }
}

pub fn model_out(info: &ModelInfo) -> v1::ModelDescription {
    v1::ModelDescription {
        name: engine::model_ref(info).name,
        hash: info.hash.clone(),
        family: info.family.clone(),
        dim: info.dim as u32,
        image_side_px: info.image_side_px as u32,
        max_text_tokens: info.max_text_tokens as u32,
        parameters: info.parameters,
        device: info.device.clone(),
        image_token_dim: info.image_token_dim as u32,
        text_tokens: info.text_tokens.map(|shape| token_shape_out(shape.n, shape.dim)),
        weights_bytes: info.weights_bytes,
        batch_bytes: info.batch_bytes,
        sigmoid: info.sigmoid.map(|Sigmoid { logit_scale, logit_bias }| v1::Sigmoid { logit_scale, logit_bias }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(bytes: &[u8]) -> v1::Vector {
        v1::Vector { values: Vec::new(), packed: bytes.to_vec().into() }
    }

    fn values(values: &[f32]) -> v1::Vector {
        v1::Vector { values: values.to_vec(), packed: Default::default() }
    }

    #[test]
    fn payloads_are_as_deep_on_the_wire_as_in_the_index() {
        assert_eq!(firn_proto::json::MAX_DEPTH, Limits::MAX_PAYLOAD_DEPTH);
    }

    #[test]
    fn both_forms_of_a_vector_say_the_same() {
        let numbers = [0.25, -1.0, 1e-30];
        assert_eq!(vector_in(values(&numbers), "v").unwrap(), numbers);
        assert_eq!(vector_in(vector_out(&numbers), "v").unwrap(), numbers);
    }

    #[test]
    fn bad_vectors_name_field_and_reason() {
        let check = |vector, field: &str, reason| {
            let problem = vector_in(vector, "query.vector").unwrap_err();
            assert_eq!((problem.field.as_str(), problem.reason), (field, reason));
        };
        check(v1::Vector::default(), "query.vector", "MISSING_FIELD");
        check(packed(&[0; 7]), "query.vector.packed", "INVALID_VECTOR");
        check(values(&[1.0, f32::NAN]), "query.vector", "NOT_FINITE");
        check(packed(&f32::INFINITY.to_le_bytes()), "query.vector", "NOT_FINITE");
        check(v1::Vector { values: vec![1.0], packed: vec![0; 4].into() }, "query.vector", "AMBIGUOUS_VECTOR");
    }

    #[test]
    fn tokens_come_back_and_wrong_ones_are_named() {
        let values = [0.5, -65_504.0, 6e-8, 0.0].map(f16::from_f32);
        let sent = tokens_out(2, 2, &values);
        assert_eq!(tokens_in(&sent, "t").unwrap(), Tokens { n: 2, dim: 2, values: values.to_vec() });
        let check = |tokens: v1::Tokens, field: &str, reason| {
            let problem = tokens_in(&tokens, "tokens[\"image\"]").unwrap_err();
            assert_eq!((problem.field.as_str(), problem.reason), (field, reason));
        };
        let packed = "tokens[\"image\"].packed";
        check(v1::Tokens::default(), packed, "WRONG_TOKENS");
        check(v1::Tokens { n: 3, ..sent.clone() }, packed, "WRONG_TOKENS");
        check(v1::Tokens { n: u32::MAX, dim: u32::MAX, ..sent.clone() }, packed, "WRONG_TOKENS");
        check(tokens_out(1, 2, &[f16::ONE, f16::NAN]), "tokens[\"image\"]", "NOT_FINITE");
    }

    #[test]
    fn zero_means_the_default() {
        let request = v1::QueryRequest {
            collection_name: "c".into(),
            query: Some(v1::QueryContent { kind: Some(v1::query_content::Kind::Vector(values(&[1.0]))) }),
            ..Default::default()
        };
        let plain = query_in(request, 1).unwrap();
        assert_eq!((plain.limit, plain.candidates, plain.ef, plain.using), (None, None, None, None));
        assert_eq!(plain.fields, Fields { payload: true, ..Fields::default() });
        assert_eq!(hnsw_in(None), index::HnswConfig::default());
    }

    #[test]
    fn ids_are_checked() {
        let id = |kind| Some(v1::PointId { kind });
        let text = |n: usize| id(Some(v1::point_id::Kind::Text("x".repeat(n))));
        assert_eq!(id_in(id(Some(v1::point_id::Kind::Num(0))), "id").unwrap(), PointId::Num(0));
        assert!(id_in(text(512), "id").is_ok());
        for (id, reason) in [(None, "MISSING_FIELD"), (id(None), "MISSING_FIELD"), (text(0), "INVALID_ID")] {
            assert_eq!(id_in(id, "id").unwrap_err().reason, reason);
        }
        assert_eq!(id_in(text(513), "points[1].id").unwrap_err().field, "points[1].id");
        assert_eq!(ids_in(Vec::new(), 3).unwrap_err().field, "ids");
    }
}
