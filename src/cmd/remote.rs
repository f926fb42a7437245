//! A server, for subcommands that can ask one: plain types in, a call, plain types out.

pub mod rerankers;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use firn_client::{Client, Error, Options, json, v1};
use firn_index::{
    CollectionConfig, CollectionInfo, Embeds, HnswConfig, ModelRef, Payload, PointId, Side, Status, Text, TokenConfig,
    Tokens, VectorConfig,
};
use firn_model::{Grid, ModelInfo, Sigmoid, TokenShape};

use super::collection::{CreateArgs, Described, VectorArg};
use crate::{
    query::{Answer, Blend, Content, FullText, Hit, Merge, OnFailure, Request, Rerank, Timings, Truncation, Which},
    server::settings::MAX_MESSAGE_BYTES,
    settings::{DEFAULT_MODEL, Settings},
};

/// Connects, calls once, and lets go.
fn call<T>(server: &str, ask: impl AsyncFnOnce(Client) -> Result<T, Error>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    Ok(runtime.block_on(async { ask(connect(server).await?).await })?)
}

/// The limit of messages is the server's own.
pub async fn connect(server: &str) -> Result<Client, Error> {
    Client::connect_with(server, Options { max_message_bytes: MAX_MESSAGE_BYTES, ..Options::default() }).await
}

/// Asks again while the server says that it is starting, and tells so once.
pub async fn once_started<T>(
    patience: Duration,
    tell: impl FnOnce(&Error),
    mut ask: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let (since, mut tell) = (Instant::now(), Some(tell));
    loop {
        match ask().await {
            Err(error) if error.reason == "STARTING" && since.elapsed() < patience => {
                if let Some(tell) = tell.take() {
                    tell(&error);
                }
                tokio::time::sleep(error.retry_after.unwrap_or(Duration::from_millis(500))).await;
            }
            answer => return answer,
        }
    }
}

pub fn query(server: &str, request: &Request) -> anyhow::Result<Answer> {
    let request = query_request(request);
    answer(call(server, async |client| client.query(request).await)?)
}

pub fn create(server: &str, args: &CreateArgs, settings: &Settings) -> anyhow::Result<Described> {
    let vector = |vector: &VectorArg| match vector {
        VectorArg::Dim(dim) => v1::VectorConfig { dim: *dim as u32, ..Default::default() },
        VectorArg::Made(side, model) => {
            v1::VectorConfig { side: side_of(*side).into(), model: model.clone(), ..Default::default() }
        }
    };
    let vectors = args.named_vectors()?.into_iter().map(|(name, given)| (name, vector(given)));
    let hnsw = args.hnsw();
    let request = v1::CreateCollectionRequest {
        collection_name: args.name.clone(),
        model: args.model(settings)?.unwrap_or_default().to_owned(),
        vectors: vectors.collect(),
        hnsw: Some(v1::HnswConfig {
            m: hnsw.m as u32,
            ef_construction: hnsw.ef_construction as u32,
            ef_search: hnsw.ef_search as u32,
        }),
        token_grid: token_grid(args.tokens).into(),
        tokens: args.token_shapes.iter().map(|(of, shape)| (of.clone(), shape_of(shape))).collect(),
    };
    described(call(server, async |client| client.create_collection(request).await)?)
}

fn shape_of(shape: &TokenConfig) -> v1::TokenShape {
    v1::TokenShape { n: shape.n as u32, dim: shape.dim as u32 }
}

fn side_of(side: Side) -> v1::Side {
    match side {
        Side::Image => v1::Side::Image,
        Side::Text => v1::Side::Text,
    }
}

pub fn vector_config(vector: &VectorConfig) -> v1::VectorConfig {
    let dim = vector.dim as u32;
    match &vector.embeds {
        None => v1::VectorConfig { dim, ..Default::default() },
        Some(Embeds { side, model }) => v1::VectorConfig {
            dim,
            side: side_of(*side).into(),
            model: model.name.clone(),
            model_hash: model.hash.clone(),
        },
    }
}

/// A side without a model, or one that is not known yet, says nothing here.
fn vector_of(vector: v1::VectorConfig) -> VectorConfig {
    let side = match vector.side() {
        v1::Side::Unspecified => None,
        v1::Side::Image => Some(Side::Image),
        v1::Side::Text => Some(Side::Text),
    };
    let model = ModelRef { name: vector.model, hash: vector.model_hash };
    VectorConfig { dim: vector.dim as usize, embeds: side.map(|side| Embeds { side, model }) }
}

pub fn token_grid(grid: Option<Grid>) -> v1::TokenGrid {
    match grid {
        None => v1::TokenGrid::Unspecified,
        Some(Grid::Four) => v1::TokenGrid::TokenGrid4x4,
        Some(Grid::Seven) => v1::TokenGrid::TokenGrid7x7,
    }
}

pub fn collections(server: &str) -> anyhow::Result<Vec<Described>> {
    call(server, async |client| client.list_collections().await)?.into_iter().map(described).collect()
}

pub fn collection(server: &str, name: &str) -> anyhow::Result<Described> {
    described(call(server, async |client| client.get_collection(name).await)?)
}

pub fn set_blend(server: &str, name: &str, weights: BTreeMap<String, f32>) -> anyhow::Result<Described> {
    described(call(server, async |client| client.set_blend(name, weights.into_iter().collect()).await)?)
}

/// A model of the server by its name, or its own.
pub fn model(server: &str, name: Option<&str>) -> anyhow::Result<ModelInfo> {
    let models = call(server, async |client| client.info().await)?.models;
    Ok(model_of(models, name)?)
}

/// That name among the models of a server; the first one is its own.
pub fn model_of(models: Vec<v1::ModelDescription>, name: Option<&str>) -> Result<ModelInfo, Error> {
    let names = models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
    let names = if names.is_empty() { "none".to_owned() } else { names };
    // A folder is known by its full path.
    let full = name.and_then(|name| std::fs::canonicalize(name).ok());
    let is_meant = |model: &v1::ModelDescription| match name {
        Some(name) => model.name == name || full.as_deref() == Some(Path::new(&model.name)),
        None => true,
    };
    let found = models.into_iter().find(is_meant);
    found.map(model_info).ok_or_else(|| Error {
        code: tonic::Code::FailedPrecondition,
        reason: "MODEL_NOT_LOADED".to_owned(),
        message: format!("expected one of the server's models, {names}; received {:?}", name.unwrap_or(DEFAULT_MODEL)),
        fields: Vec::new(),
        retry_after: None,
    })
}

fn model_info(m: v1::ModelDescription) -> ModelInfo {
    ModelInfo {
        name: m.name,
        family: m.family,
        hash: m.hash,
        dim: m.dim as usize,
        image_side_px: m.image_side_px as usize,
        max_text_tokens: m.max_text_tokens as usize,
        image_token_dim: m.image_token_dim as usize,
        text_tokens: m.text_tokens.map(|shape| TokenShape { n: shape.n as usize, dim: shape.dim as usize }),
        parameters: m.parameters,
        device: m.device,
        weights_bytes: m.weights_bytes,
        batch_bytes: m.batch_bytes,
        sigmoid: m.sigmoid.map(|v1::Sigmoid { logit_scale, logit_bias }| Sigmoid { logit_scale, logit_bias }),
    }
}

pub fn delete(server: &str, name: &str) -> anyhow::Result<()> {
    call(server, async |client| client.delete_collection(name).await)
}

fn query_request(request: &Request) -> v1::QueryRequest {
    let content = match &request.content {
        Content::Text(text) => firn_client::text(&text.text, &text.language),
        Content::Image(bytes) => firn_client::image(bytes.clone()),
        Content::Id(PointId::Num(num)) => firn_client::stored(firn_client::id(*num)),
        Content::Id(PointId::Text(text)) => firn_client::stored(firn_client::id(text.clone())),
        Content::Vector(vector) => firn_client::vector(vector),
        // At the terminal nobody brings tokens.
        Content::Vectors(named) => firn_client::vectors(&named.vectors),
    };
    // What does not fit in 32 bits is over the server's limit, and it says so.
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    v1::QueryRequest {
        collection_name: request.collection.clone(),
        query: Some(content),
        using: request.using.clone().unwrap_or_default(),
        blend: request.blend.clone().unwrap_or_default().into_iter().collect(),
        limit: number(request.limit.unwrap_or_default()),
        offset: number(request.offset),
        candidates: number(request.candidates.unwrap_or_default()),
        params: Some(v1::SearchParams { hnsw_ef: number(request.ef.unwrap_or_default()), exact: request.exact }),
        include: Some(v1::Include {
            payload: request.fields.payload,
            texts: request.fields.texts,
            vectors: request.fields.vectors,
            tokens: request.fields.tokens,
        }),
        score_threshold: request.score_threshold,
        rerank: Some(rerank(&request.rerank)),
        full_text: request.full_text.as_ref().map(full_text),
    }
}

fn full_text(asked: &FullText) -> v1::FullText {
    v1::FullText {
        text: asked.text.clone().unwrap_or_default(),
        weight: Some(asked.weight),
        merge: match asked.merge {
            Merge::Ranks => v1::FullTextMerge::Ranks,
            Merge::Scores => v1::FullTextMerge::Scores,
        }
        .into(),
    }
}

fn rerank(asked: &Rerank) -> v1::Rerank {
    use v1::rerank::Which as Wire;
    v1::Rerank {
        which: match asked.which {
            Which::Active => None,
            Which::None => Some(Wire::Off(true)),
            Which::Version(version) => Some(Wire::Version(version)),
        },
        candidates: asked.candidates.map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        on_failure: match asked.on_failure {
            OnFailure::Skip => v1::RerankFailure::Skip,
            OnFailure::Error => v1::RerankFailure::Error,
        }
        .into(),
        min_relevance: asked.min_relevance,
    }
}

fn answer(reply: v1::QueryResponse) -> anyhow::Result<Answer> {
    let t = reply.timings.unwrap_or_default();
    Ok(Answer {
        hits: reply.hits.into_iter().map(hit).collect::<anyhow::Result<_>>()?,
        timings: Timings {
            encode_us: t.encode_us,
            retrieve_us: t.retrieve_us,
            merge_us: t.merge_us,
            rerank_us: t.rerank_us,
            fetch_us: t.fetch_us,
            total_us: t.total_us,
        },
        truncation: reply
            .truncation
            .map(|cut| Truncation { tokens_used: cut.tokens_used as usize, tokens_cut: cut.tokens_cut as usize }),
        rerank_applied: reply.rerank_applied,
        reranker: reply.reranker,
        rerank_skipped: (!reply.rerank_skipped.is_empty()).then_some(reply.rerank_skipped),
    })
}

fn hit(hit: v1::Hit) -> anyhow::Result<Hit> {
    Ok(Hit {
        id: point_id(hit.id)?,
        score: hit.score,
        cosine: hit.cosine,
        cosines: hit.cosines.into_iter().collect(),
        fusion: hit.fusion,
        hubness: hit.hubness,
        relevance: hit.relevance,
        bm25: hit.bm25,
        payload: hit.payload.map_or_else(|| Ok(Payload::new()), json::from_struct)?,
        texts: hit.texts.into_iter().map(|t| Text { text: t.text, language: t.language }).collect(),
        vectors: hit.vectors.iter().map(|(name, vector)| (name.clone(), firn_client::unpack(vector))).collect(),
        tokens: hit.tokens.iter().map(|(of, tokens)| (of.clone(), tokens_of(tokens))).collect(),
        version: hit.version,
    })
}

fn tokens_of(tokens: &v1::Tokens) -> Tokens {
    Tokens { n: tokens.n as usize, dim: tokens.dim as usize, values: firn_client::unpack_tokens(tokens) }
}

pub fn point_id(id: Option<v1::PointId>) -> anyhow::Result<PointId> {
    match id.and_then(|id| id.kind) {
        Some(v1::point_id::Kind::Num(num)) => Ok(PointId::Num(num)),
        Some(v1::point_id::Kind::Text(text)) => Ok(PointId::Text(text)),
        None => Err(anyhow!("the server's reply has a point without an id")),
    }
}

fn described(mut description: v1::CollectionDescription) -> anyhow::Result<Described> {
    let weights: BTreeMap<String, f32> = std::mem::take(&mut description.blend).into_iter().collect();
    let blend = (!weights.is_empty()).then(|| Blend::new(weights));
    Ok(Described { info: info(description)?, blend })
}

pub fn info(c: v1::CollectionDescription) -> anyhow::Result<CollectionInfo> {
    let status = match c.status() {
        v1::CollectionStatus::Quarantined => Status::Quarantined(c.status_detail.clone()),
        v1::CollectionStatus::Indexing => Status::Indexing,
        _ => Status::Ready,
    };
    let hnsw = c.hnsw.context("the server's reply has no hnsw settings")?;
    let vectors: BTreeMap<_, _> = c.vectors.into_iter().map(|(name, vector)| (name, vector_of(vector))).collect();
    let shape = |shape: v1::TokenShape| TokenConfig { n: shape.n as usize, dim: shape.dim as usize };
    let tokens = c.tokens.into_iter().map(|(of, given)| (of, shape(given))).collect();
    let model = (!c.model.is_empty()).then_some(ModelRef { name: c.model, hash: c.model_hash });
    Ok(CollectionInfo {
        name: c.name,
        uuid: c.uuid,
        status,
        points_count: c.points_count,
        config: CollectionConfig {
            model,
            vectors,
            hnsw: HnswConfig {
                m: hnsw.m as usize,
                ef_construction: hnsw.ef_construction as usize,
                ef_search: hnsw.ef_search as usize,
            },
            tokens,
        },
        segments_count: c.segments_count as usize,
        buffered_vectors_count: c.buffered_vectors_count,
        tombstones_count: c.tombstones_count,
        aliases: c.aliases,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starting() -> Error {
        let (reason, message) = ("STARTING".to_owned(), "the server is starting".to_owned());
        let retry_after = Some(Duration::ZERO);
        Error { code: tonic::Code::Unavailable, reason, message, fields: Vec::new(), retry_after }
    }

    #[tokio::test]
    async fn a_server_that_starts_is_waited_for() {
        let check = async |patience, n_refused, expected: Result<u32, ()>, n_told| {
            let (mut asked, mut told) = (0, 0);
            let answer = once_started(
                patience,
                |_| told += 1,
                async || {
                    asked += 1;
                    if asked > n_refused { Ok(asked) } else { Err(starting()) }
                },
            );
            assert_eq!((answer.await.map_err(drop), told), (expected, n_told));
        };
        check(Duration::MAX, 0, Ok(1), 0).await;
        check(Duration::MAX, 3, Ok(4), 1).await;
        check(Duration::ZERO, 3, Err(()), 0).await;
    }
}
