//! Points to a server over the upsert stream: raw pictures and texts, or vectors, go over the wire and the server embeds.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context as _;
use firn_client::{Client, Error, Settled, StreamOptions, UpsertStream, json, v1};
use firn_index::{CollectionConfig, CollectionInfo, Error as IndexError, Payload, PointId, TokenConfig, Tokens};
use firn_ingest::{
    ItemError,
    embed::Input,
    sink::{Outcome, Sink, SinkError, Ticket},
};
use firn_model::ModelInfo;
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::Code;

use super::progress::Bar;
use crate::cmd::{remote, table::printable};

/// How long a server that is gone, or is starting, is tried again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Points of a page, as many as a server gives.
const PAGE: u32 = 1000;

pub struct RemoteSink {
    runtime: Runtime,
    client: Client,
    trouble: Trouble,
    collection: String,
    stream: Option<UpsertStream>,
    tickets: HashMap<v1::PointId, Ticket>,
}

impl RemoteSink {
    pub fn connect(server: &str, bar: &Bar) -> anyhow::Result<RemoteSink> {
        // A thread of its own keeps the connection alive while this one waits for files.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("runtime")?;
        let client = runtime.block_on(remote::connect(server))?;
        let trouble = Trouble { server: server.to_owned(), bar: bar.clone(), is_told: Arc::default() };
        Ok(RemoteSink { runtime, client, trouble, collection: String::new(), stream: None, tickets: HashMap::new() })
    }

    /// A server that is starting is waited for.
    fn call<T>(&self, ask: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
        let asked = remote::once_started(PATIENCE, |error| self.trouble.tell(error), ask);
        let answer = self.runtime.block_on(asked).map_err(|error| self.trouble.last(error))?;
        self.trouble.is_over();
        Ok(answer)
    }

    /// A model of the server by its name, or its own.
    pub fn model(&self, name: Option<&str>) -> anyhow::Result<ModelInfo> {
        Ok(remote::model_of(self.call(async || self.client.info().await)?.models, name)?)
    }

    /// None if there is none, unless there `must_be` one.
    pub fn collection(&self, name: &str, must_be: bool) -> anyhow::Result<Option<CollectionInfo>> {
        match self.call(async || self.client.get_collection(name).await) {
            Err(error) if error.reason == "COLLECTION_NOT_FOUND" && !must_be => Ok(None),
            found => remote::info(found?).map(Some),
        }
    }

    /// Makes a collection. If it names a model, the server must have it.
    pub fn create(&self, collection: &str, config: &CollectionConfig) -> anyhow::Result<CollectionInfo> {
        let shape = |shape: &TokenConfig| v1::TokenShape { n: shape.n as u32, dim: shape.dim as u32 };
        self.make(v1::CreateCollectionRequest {
            collection_name: collection.to_owned(),
            model: config.model.as_ref().map(|model| model.name.clone()).unwrap_or_default(),
            vectors: config
                .vectors
                .iter()
                .map(|(name, config)| (name.clone(), remote::vector_config(config)))
                .collect(),
            tokens: config.tokens.iter().map(|(of, config)| (of.clone(), shape(config))).collect(),
            ..Default::default()
        })
    }

    fn make(&self, request: v1::CreateCollectionRequest) -> anyhow::Result<CollectionInfo> {
        remote::info(self.call(async || self.client.create_collection(request.clone()).await)?)
    }

    pub fn open(&mut self, collection: &str) {
        self.collection = collection.to_owned();
        let options = StreamOptions { patience: PATIENCE, ..StreamOptions::default() };
        let mut stream = self.client.upsert_stream(collection, options);
        let trouble = self.trouble.clone();
        stream.on_lost(move |error| trouble.tell(error));
        self.stream = Some(stream);
    }

    fn settle(&mut self, settled: &mut Vec<(Ticket, Outcome)>) {
        let answers = self.stream.as_mut().map(UpsertStream::settled).unwrap_or_default();
        if self.stream.as_ref().is_some_and(|stream| !stream.is_lost()) {
            self.trouble.is_over();
        }
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
            let page = self.call(async || self.client.scroll(request.clone()).await)?;
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
        Ok(result.map_err(|error| self.trouble.last(error))?)
    }

    fn wait(&mut self, settled: &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError> {
        let Some(stream) = &mut self.stream else { return Err("the sink was not opened".into()) };
        let result = self.runtime.block_on(stream.wait());
        self.settle(settled);
        Ok(result.map_err(|error| self.trouble.last(error))?)
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        Ok(self.runtime.block_on(stream.finish()).map_err(|error| self.trouble.last(error))?)
    }
}

/// Says that the server is lost, once for each time, and that it is back.
#[derive(Clone)]
struct Trouble {
    server: String,
    bar: Bar,
    is_told: Arc<AtomicBool>,
}

impl Trouble {
    fn tell(&self, error: &Error) {
        if !self.is_told.swap(true, Relaxed) {
            let (server, what, seconds) = (&self.server, self.what(error), PATIENCE.as_secs());
            self.bar.say(&printable(&format!("the server at {server} {what}; trying again for {seconds} s")));
        }
    }

    fn is_over(&self) {
        if self.is_told.swap(false, Relaxed) {
            self.bar.say(&printable(&format!("the server at {} answers again", self.server)));
        }
    }

    /// What ends the run, with the server's address where it is the server that is missing.
    fn last(&self, error: Error) -> Error {
        if error.code != Code::Unavailable && !error.reason.is_empty() {
            return error;
        }
        let message = format!("the server at {} {}", self.server, self.what(&error));
        Error { message, ..error }
    }

    fn what(&self, error: &Error) -> String {
        match error.reason.as_str() {
            "STARTING" => "is starting".to_owned(),
            "SHUTTING_DOWN" => "is shutting down".to_owned(),
            // Of a connection that broke.
            "" => format!("does not answer ({})", error.message),
            _ => format!("refuses: {error}"),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_run_has_the_server_s_address_if_it_is_the_server() {
        let trouble = Trouble { server: "S".to_owned(), bar: Bar::new(true), is_told: Arc::default() };
        let check = |code, reason: &str, expected: &str| {
            let (reason, message) = (reason.to_owned(), "m".to_owned());
            let error = Error { code, reason, message, fields: Vec::new(), retry_after: None };
            assert_eq!(trouble.last(error).message, expected);
        };
        check(Code::Unavailable, "", "the server at S does not answer (m)");
        check(Code::Unknown, "", "the server at S does not answer (m)");
        check(Code::Unavailable, "STARTING", "the server at S is starting");
        check(Code::InvalidArgument, "EMPTY_TEXT", "m");
    }
}
