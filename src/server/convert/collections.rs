//! Collections: what they are made with, and what is said of them.

use std::collections::{BTreeMap, HashMap};

use firn_index::{self as index, CollectionConfig, CollectionInfo, Embeds, HnswConfig, Limits, Side, VectorConfig};
use firn_ingest::embed;
use firn_model::{Encoder, ModelInfo};
use firn_proto::v1;

use super::{Problem, Result, missing, token_shapes_out};
use crate::{
    engine::{self, Engine},
    query::Blend,
};

pub fn hnsw_in(hnsw: Option<v1::HnswConfig>) -> HnswConfig {
    let hnsw = hnsw.unwrap_or_default();
    let or = |number: u32, default: usize| if number == 0 { default } else { number as usize };
    HnswConfig {
        m: or(hnsw.m, Limits::DEFAULT_M),
        ef_construction: or(hnsw.ef_construction, Limits::DEFAULT_EF_CONSTRUCTION),
        ef_search: or(hnsw.ef_search, Limits::DEFAULT_EF_SEARCH),
    }
}

/// "image" and "text" are where the collection's model puts its embeddings, so they have its dimension.
pub fn vectors_in(
    vectors: HashMap<String, v1::VectorConfig>,
    encoder: Option<&dyn Encoder>,
    engine: &Engine,
) -> Result<BTreeMap<String, VectorConfig>> {
    let vector = |(name, vector): (String, v1::VectorConfig)| {
        let field = format!("vectors[{name:?}]");
        let is_of_model = vector.model.is_empty() && [embed::IMAGE_VECTOR, embed::TEXT_VECTOR].contains(&name.as_str());
        if let Some(encoder) = encoder.filter(|_| is_of_model) {
            check_dim(encoder.info(), vector.dim, &field)?;
        }
        Ok((name, vector_config_in(vector, &field, engine)?))
    };
    vectors.into_iter().map(vector).collect()
}

fn vector_config_in(vector: v1::VectorConfig, field: &str, engine: &Engine) -> Result<VectorConfig> {
    let side = match (vector.side(), vector.model.is_empty()) {
        (v1::Side::Unspecified, true) => return Ok(VectorConfig::new(vector.dim as usize)),
        (v1::Side::Unspecified, false) => return Err(missing(&format!("{field}.side"), "what the model embeds")),
        (_, true) => return Err(missing(&format!("{field}.model"), "what embeds this side")),
        (v1::Side::Image, _) => Side::Image,
        (v1::Side::Text, _) => Side::Text,
    };
    let within = |error: engine::Error| Problem { field: format!("{field}.model"), ..Problem::from(error) };
    let encoder = engine.encoder(Some(&vector.model)).map_err(within)?;
    let info = encoder.info();
    if !vector.model_hash.is_empty() && vector.model_hash != info.hash {
        let message =
            format!("expected {}, as the model {:?} has, received {}", info.hash, info.name, vector.model_hash);
        return Err(Problem::invalid(format!("{field}.model_hash"), "WRONG_MODEL", message));
    }
    if vector.dim > 0 {
        check_dim(info, vector.dim, field)?;
    }
    engine::made_vector(info, side).map_err(within)
}

fn check_dim(info: &ModelInfo, received: u32, field: &str) -> Result<()> {
    if info.dim == received as usize {
        return Ok(());
    }
    let message = format!("expected {}, as the model has, received {received}", info.dim);
    Err(Problem::invalid(format!("{field}.dim"), "WRONG_DIMENSION", message))
}

fn vector_config_out(vector: VectorConfig) -> v1::VectorConfig {
    let dim = vector.dim as u32;
    let Some(Embeds { side, model }) = vector.embeds else { return v1::VectorConfig { dim, ..Default::default() } };
    let side = match side {
        Side::Image => v1::Side::Image,
        Side::Text => v1::Side::Text,
    };
    v1::VectorConfig { dim, side: side.into(), model: model.name, model_hash: model.hash }
}

pub fn collection_out(info: CollectionInfo, blend: Option<Blend>) -> v1::CollectionDescription {
    let CollectionConfig { model, vectors, hnsw, tokens } = info.config;
    let (status, status_detail) = match info.status {
        index::Status::Ready => (v1::CollectionStatus::Ready, String::new()),
        index::Status::Indexing => (v1::CollectionStatus::Indexing, String::new()),
        index::Status::Quarantined(reason) => (v1::CollectionStatus::Quarantined, reason),
    };
    let (model, model_hash) = model.map(|model| (model.name, model.hash)).unwrap_or_default();
    v1::CollectionDescription {
        name: info.name,
        uuid: info.uuid,
        status: status.into(),
        status_detail,
        points_count: info.points_count,
        model,
        model_hash,
        vectors: vectors.into_iter().map(|(name, vector)| (name, vector_config_out(vector))).collect(),
        hnsw: Some(v1::HnswConfig {
            m: hnsw.m as u32,
            ef_construction: hnsw.ef_construction as u32,
            ef_search: hnsw.ef_search as u32,
        }),
        segments_count: info.segments_count as u32,
        buffered_vectors_count: info.buffered_vectors_count,
        tombstones_count: info.tombstones_count,
        aliases: info.aliases,
        tokens: token_shapes_out(tokens),
        blend: blend.map(|blend| blend.weights.into_iter().collect()).unwrap_or_default(),
    }
}

pub fn alias_change_in(change: v1::AliasChange, field: &str) -> Result<index::AliasChange> {
    use v1::alias_change::Change;
    match change.change {
        None => Err(missing(field, "set or delete")),
        Some(Change::Delete(alias)) => Ok(index::AliasChange::Delete { alias }),
        Some(Change::Set(set)) => Ok(index::AliasChange::Set { alias: set.alias, collection: set.collection_name }),
    }
}
