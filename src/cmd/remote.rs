//! A server, for subcommands that can ask one: plain types in, a call, plain types out.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use firn_client::{Client, Error, json, v1};
use firn_index::{
    CollectionConfig, CollectionInfo, HnswConfig, ModelRef, Payload, PointId, Status, Text, TokenConfig, Tokens,
    VectorConfig,
};
use firn_model::Grid;

use super::collection::CreateArgs;
use crate::{
    query::{Answer, Content, Hit, Request, Timings, Truncation},
    settings::Settings,
};

/// Connects, calls once, and lets go.
fn call<T>(server: &str, ask: impl AsyncFnOnce(Client) -> Result<T, Error>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    Ok(runtime.block_on(async { ask(Client::connect(server).await?).await })?)
}

pub fn query(server: &str, request: &Request) -> anyhow::Result<Answer> {
    let request = query_request(request);
    answer(call(server, async |client| client.query(request).await)?)
}

pub fn create(server: &str, args: &CreateArgs, settings: &Settings) -> anyhow::Result<CollectionInfo> {
    let vectors = args.named_vectors()?.into_iter().map(|(name, v)| (name, v1::VectorConfig { dim: v.dim as u32 }));
    let hnsw = args.hnsw();
    let request = v1::CreateCollectionRequest {
        collection_name: args.name.clone(),
        model: settings.model.clone().unwrap_or_default(),
        vectors: vectors.collect(),
        hnsw: Some(v1::HnswConfig {
            m: hnsw.m as u32,
            ef_construction: hnsw.ef_construction as u32,
            ef_search: hnsw.ef_search as u32,
        }),
        token_grid: token_grid(args.tokens).into(),
        ..Default::default()
    };
    info(call(server, async |client| client.create_collection(request).await)?)
}

pub fn token_grid(grid: Option<Grid>) -> v1::TokenGrid {
    match grid {
        None => v1::TokenGrid::Unspecified,
        Some(Grid::Four) => v1::TokenGrid::TokenGrid4x4,
        Some(Grid::Seven) => v1::TokenGrid::TokenGrid7x7,
    }
}

pub fn collections(server: &str) -> anyhow::Result<Vec<CollectionInfo>> {
    call(server, async |client| client.list_collections().await)?.into_iter().map(info).collect()
}

pub fn collection(server: &str, name: &str) -> anyhow::Result<CollectionInfo> {
    info(call(server, async |client| client.get_collection(name).await)?)
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
    };
    // What does not fit in 32 bits is over the server's limit, and it says so.
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    v1::QueryRequest {
        collection_name: request.collection.clone(),
        query: Some(content),
        using: request.using.clone().unwrap_or_default(),
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
    }
}

fn answer(reply: v1::QueryResponse) -> anyhow::Result<Answer> {
    let t = reply.timings.unwrap_or_default();
    Ok(Answer {
        hits: reply.hits.into_iter().map(hit).collect::<anyhow::Result<_>>()?,
        timings: Timings {
            encode_us: t.encode_us,
            retrieve_us: t.retrieve_us,
            rerank_us: t.rerank_us,
            fetch_us: t.fetch_us,
            total_us: t.total_us,
        },
        truncation: reply
            .truncation
            .map(|cut| Truncation { tokens_used: cut.tokens_used as usize, tokens_cut: cut.tokens_cut as usize }),
        rerank_applied: reply.rerank_applied,
    })
}

fn hit(hit: v1::Hit) -> anyhow::Result<Hit> {
    Ok(Hit {
        id: point_id(hit.id)?,
        score: hit.score,
        cosine: hit.cosine,
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

fn info(c: v1::CollectionDescription) -> anyhow::Result<CollectionInfo> {
    let status = match c.status() {
        v1::CollectionStatus::Quarantined => Status::Quarantined(c.status_detail.clone()),
        v1::CollectionStatus::Indexing => Status::Indexing,
        _ => Status::Ready,
    };
    let hnsw = c.hnsw.context("the server's reply has no hnsw settings")?;
    let vectors: BTreeMap<_, _> =
        c.vectors.into_iter().map(|(name, v)| (name, VectorConfig { dim: v.dim as usize })).collect();
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
