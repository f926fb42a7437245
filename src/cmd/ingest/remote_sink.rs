//! Points to a server over the upsert stream: raw pictures and texts, or vectors, go over the wire and the server embeds.

use std::collections::HashMap;

use anyhow::Context as _;
use firn_client::{Client, Settled, StreamOptions, UpsertStream, json, v1};
use firn_index::{CollectionConfig, Error as IndexError, Payload, PointId, TokenConfig, Tokens, VectorConfig};
use firn_ingest::{
    ItemError,
    embed::Input,
    sink::{Outcome, Sink, SinkError, Ticket},
};
use firn_model::Grid;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::cmd::remote;

/// Points of a page, as many as a server gives.
const PAGE: u32 = 1000;

pub struct RemoteSink {
    runtime: Runtime,
    client: Client,
    collection: String,
    stream: Option<UpsertStream>,
    tickets: HashMap<v1::PointId, Ticket>,
}

impl RemoteSink {
    pub fn connect(server: &str) -> anyhow::Result<RemoteSink> {
        // A thread of its own keeps the connection alive while this one waits for files.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("runtime")?;
        let client = runtime.block_on(Client::connect(server))?;
        Ok(RemoteSink { runtime, client, collection: String::new(), stream: None, tickets: HashMap::new() })
    }

    /// Makes the collection of a model, the server's own if none is named, if there is none yet.
    pub fn create(&self, collection: &str, model: Option<&str>, grid: Option<Grid>) -> anyhow::Result<()> {
        self.create_missing(v1::CreateCollectionRequest {
            collection_name: collection.to_owned(),
            model: model.unwrap_or_default().to_owned(),
            token_grid: remote::token_grid(grid).into(),
            ..Default::default()
        })
    }

    /// Makes the collection for sources that say what they hold, if there is none yet. If they name a model, the server must
    /// have it.
    pub fn create_declared(&self, collection: &str, declared: &CollectionConfig) -> anyhow::Result<()> {
        let vector = |vector: &VectorConfig| v1::VectorConfig { dim: vector.dim as u32 };
        let shape = |shape: &TokenConfig| v1::TokenShape { n: shape.n as u32, dim: shape.dim as u32 };
        self.create_missing(v1::CreateCollectionRequest {
            collection_name: collection.to_owned(),
            model: declared.model.as_ref().map(|model| model.name.clone()).unwrap_or_default(),
            vectors: declared.vectors.iter().map(|(name, config)| (name.clone(), vector(config))).collect(),
            tokens: declared.tokens.iter().map(|(of, config)| (of.clone(), shape(config))).collect(),
            ..Default::default()
        })
    }

    fn create_missing(&self, request: v1::CreateCollectionRequest) -> anyhow::Result<()> {
        if !self.runtime.block_on(self.client.collection_exists(&request.collection_name))? {
            self.runtime.block_on(self.client.create_collection(request))?;
        }
        Ok(())
    }

    pub fn open(&mut self, collection: &str) {
        self.collection = collection.to_owned();
        self.stream = Some(self.client.upsert_stream(collection, StreamOptions::default()));
    }

    fn settle(&mut self, settled: &mut Vec<(Ticket, Outcome)>) {
        let answers = self.stream.as_mut().map(UpsertStream::settled).unwrap_or_default();
        for Settled { id, result } in answers {
            let Some(ticket) = self.tickets.remove(&id) else { continue };
            settled.push(match result {
                Ok(written) => (ticket, Outcome::Written { truncated_texts: written.truncations.len() }),
                // On the wire reasons are in capitals; a report has the same ones wherever it was made.
                Err(refusal) => {
                    let reason = refusal.reason.to_lowercase();
                    (ticket, Outcome::Refused { reason, message: refusal.message })
                }
            });
        }
    }
}

impl Sink for RemoteSink {
    fn needs_vectors(&self) -> bool {
        false
    }

    fn each_id(&mut self, see: &mut dyn FnMut(&PointId)) -> Result<(), SinkError> {
        let mut request = v1::ScrollRequest {
            collection_name: self.collection.clone(),
            limit: PAGE,
            page: 0,
            include: Some(v1::Include::default()),
        };
        loop {
            let page = self.runtime.block_on(self.client.scroll(request.clone()))?;
            for point in page.points {
                see(&remote::point_id(point.id)?);
            }
            if page.next_page == 0 {
                return Ok(());
            }
            request.page = page.next_page;
        }
    }

    fn put(&mut self, batch: Vec<(Ticket, Input)>, settled: &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError> {
        let mut points = Vec::with_capacity(batch.len());
        for (ticket, input) in batch {
            if let Err(error) = fits_the_wire(&input.payload) {
                settled.push((ticket, Outcome::from(&error)));
                continue;
            }
            let point = point(input);
            self.tickets.insert(point.id.clone().unwrap_or_default(), ticket);
            points.push(point);
        }
        let Some(stream) = &mut self.stream else { return Err("the sink was not opened".into()) };
        let result = self.runtime.block_on(stream.put(points));
        self.settle(settled);
        Ok(result?)
    }

    fn wait(&mut self, settled: &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError> {
        let Some(stream) = &mut self.stream else { return Err("the sink was not opened".into()) };
        let result = self.runtime.block_on(stream.wait());
        self.settle(settled);
        Ok(result?)
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        Ok(self.runtime.block_on(stream.finish())?)
    }
}

/// A payload that is nested deeper than the wire takes is one item's fault here; sent, it would end the whole stream.
fn fits_the_wire(payload: &Payload) -> Result<(), ItemError> {
    let (max, received) = (json::MAX_DEPTH as u64, 1 + payload.values().map(levels).max().unwrap_or(0));
    if received <= max {
        return Ok(());
    }
    Err(IndexError::LimitExceeded { what: "levels of a payload", max, received }.into())
}

/// Levels of nesting; what was read from JSON has no more than 128.
fn levels(value: &Value) -> u64 {
    match value {
        Value::Array(values) => 1 + values.iter().map(levels).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

fn point(input: Input) -> v1::PointInput {
    let Input { id, image, texts, payload, vectors, tokens } = input;
    let packed = |tokens: &Tokens| firn_client::tokens(tokens.n, tokens.dim, &tokens.values);
    v1::PointInput {
        id: Some(match id {
            PointId::Num(number) => firn_client::id(number),
            PointId::Text(text) => firn_client::id(text),
        }),
        image: image.unwrap_or_default().into(),
        texts: texts.into_iter().map(|text| v1::Text { text: text.text, language: text.language }).collect(),
        payload: (!payload.is_empty()).then(|| json::to_struct(payload)),
        vectors: vectors.iter().map(|(name, vector)| (name.clone(), firn_client::pack(vector))).collect(),
        tokens: tokens.iter().map(|(of, tokens)| (of.clone(), packed(tokens))).collect(),
    }
}
