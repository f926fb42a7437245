//! The Points service: convert in, ask, convert out. `upsert_stream.rs` holds the stream.

use std::{collections::HashSet, sync::Arc, time::Instant};

use firn_index::{Collection, Fields, NewPoint, PayloadChange, Point, PointId, Row};
use firn_ingest::embed;
use firn_model::Encoder;
use firn_proto::v1::{
    self, CountRequest, CountResponse, DeleteRequest, DeleteResponse, Durability, GetRequest, GetResponse,
    QueryBatchRequest, QueryBatchResponse, QueryError, QueryRequest, QueryResponse, QueryResult, ScrollRequest,
    ScrollResponse, SetPayloadRequest, SetPayloadResponse, UpsertRequest, UpsertResponse, UpsertStreamRequest,
    UpsertStreamResponse, query_result,
};
use prost::Message as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    collections::page_limit,
    convert,
    gate::Deadline,
    limits,
    shared::Shared,
    status::{Problem, reply_too_large},
    upsert_stream, work,
};
use crate::{
    engine::Engine,
    query::{self, Blend, Content, Which},
};

#[derive(Clone)]
pub struct Points(pub Arc<Shared>);

#[tonic::async_trait]
impl v1::points_server::Points for Points {
    async fn upsert(&self, request: Request<UpsertRequest>) -> Result<Response<UpsertResponse>, Status> {
        let _room = self.0.room(request.get_ref().encoded_len())?;
        let UpsertRequest { collection_name, points, no_wait } = request.into_inner();
        let collection = self.0.collection(&collection_name)?;
        convert::within("points", points.len(), 1, limits::MAX_POINTS)?;
        let (shared, of) = (self.0.clone(), collection.clone());
        let (points, truncations) = work::run(move || embed_all(&shared, &of, points)).await?;
        let upserted_count = points.len() as u64;
        let durability = match no_wait {
            true => self.commit_unawaited(collection, points).await,
            false => self.commit(collection, points).await?,
        };
        Ok(Response::new(UpsertResponse { upserted_count, durability: durability.into(), truncations }))
    }

    type UpsertStreamStream = ReceiverStream<Result<UpsertStreamResponse, Status>>;

    async fn upsert_stream(
        &self,
        request: Request<Streaming<UpsertStreamRequest>>,
    ) -> Result<Response<Self::UpsertStreamStream>, Status> {
        Ok(Response::new(upsert_stream::open(self.0.clone(), request.into_inner())?))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let DeleteRequest { collection_name, ids } = request.into_inner();
        let (shared, collection) = (self.0.clone(), self.0.collection(&collection_name)?);
        let ids = convert::ids_in(ids, limits::MAX_IDS)?;
        let commit = work::run(move || Ok(shared.committed(collection.delete(&ids)?))).await?;
        let durability = Durability::Fsynced.into();
        Ok(Response::new(DeleteResponse { deleted_count: commit.changed, durability }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let GetRequest { collection_name, ids, include } = request.into_inner();
        let collection = self.0.collection(&collection_name)?;
        let ids = convert::ids_in(ids, limits::MAX_IDS)?;
        let (fields, max) = (convert::fields(include), self.0.settings.max_message_bytes);
        let points = work::run(move || get(&collection, &ids, fields, max)).await?;
        Ok(Response::new(GetResponse { points }))
    }

    async fn set_payload(&self, request: Request<SetPayloadRequest>) -> Result<Response<SetPayloadResponse>, Status> {
        let SetPayloadRequest { collection_name, ids, payload, overwrite } = request.into_inner();
        let (shared, collection) = (self.0.clone(), self.0.collection(&collection_name)?);
        let ids = convert::ids_in(ids, limits::MAX_IDS)?;
        let payload = convert::payload_in(payload, "payload")?;
        let change = if overwrite { PayloadChange::Overwrite } else { PayloadChange::Merge };
        let commit = work::run(move || Ok(shared.committed(collection.set_payload(&ids, payload, change)?))).await?;
        let durability = Durability::Fsynced.into();
        Ok(Response::new(SetPayloadResponse { updated_count: commit.changed, durability }))
    }

    async fn query(&self, request: Request<QueryRequest>) -> Result<Response<QueryResponse>, Status> {
        let deadline = Deadline::of(&request);
        Ok(Response::new(self.answer(request.into_inner(), deadline).await?))
    }

    async fn query_batch(&self, request: Request<QueryBatchRequest>) -> Result<Response<QueryBatchResponse>, Status> {
        let deadline = Deadline::of(&request);
        let queries = request.into_inner().queries;
        convert::within("queries", queries.len(), 1, limits::MAX_QUERIES)?;
        self.0.engine()?;
        let mut results = Vec::with_capacity(queries.len());
        let mut queries = queries.into_iter().peekable();
        while queries.peek().is_some() {
            // Together, so that their texts go through the network as one batch.
            let asked: Vec<_> =
                queries.by_ref().take(limits::AT_ONCE).map(|query| self.start(query, deadline)).collect();
            for answer in asked {
                let result = match answer {
                    Ok(answer) => answer.answer().await,
                    Err(problem) => Err(problem),
                };
                results.push(result_out(result));
            }
        }
        let reply = QueryBatchResponse { results };
        self.check_reply(reply.encoded_len())?;
        Ok(Response::new(reply))
    }

    async fn scroll(&self, request: Request<ScrollRequest>) -> Result<Response<ScrollResponse>, Status> {
        let ScrollRequest { collection_name, limit, page, include } = request.into_inner();
        let collection = self.0.collection(&collection_name)?;
        let limit = page_limit(limit)?;
        let from = Row::try_from(page).map_err(|_| {
            Problem::invalid("page", "OUT_OF_RANGE", format!("expected a `next_page`, received {page}"))
        })?;
        let (fields, max) = (convert::fields(include), self.0.settings.max_message_bytes);
        let reply = work::run(move || scroll(&collection, from, limit, fields, max)).await?;
        Ok(Response::new(reply))
    }

    async fn count(&self, request: Request<CountRequest>) -> Result<Response<CountResponse>, Status> {
        let collection = self.0.collection(&request.into_inner().collection_name)?;
        Ok(Response::new(CountResponse { count: collection.reader().count() }))
    }
}

impl Points {
    async fn commit(&self, collection: Collection, points: Vec<NewPoint>) -> Result<Durability, Problem> {
        let shared = self.0.clone();
        work::run(move || Ok(shared.committed(collection.upsert(points)?))).await?;
        Ok(Durability::Fsynced)
    }

    /// Waits only while too many such commits are under way. The points were checked, so what can fail now is the disk.
    async fn commit_unawaited(&self, collection: Collection, points: Vec<NewPoint>) -> Durability {
        let permit = self.0.unawaited_commits.clone().acquire_owned().await;
        let (shared, pass) = (self.0.clone(), self.0.hold());
        tokio::task::spawn_blocking(move || {
            let _until_done = (permit, pass);
            match collection.upsert(points) {
                Ok(commit) => drop(shared.committed(commit)),
                Err(error) => {
                    tracing::error!(collection = collection.name(), %error, "a write was lost that nobody waited for")
                }
            }
        });
        Durability::Buffered
    }

    async fn answer(&self, request: QueryRequest, deadline: Option<Instant>) -> Result<QueryResponse, Problem> {
        let fields = convert::fields(request.include);
        let request = convert::query_in(request, self.0.settings.max_message_bytes)?;
        let request = query::Request { deadline, ..request };
        let engine = self.0.engine()?;
        let answer = match is_short(engine, &request) {
            true => query::run(engine, &request)?,
            false => {
                let shared = self.0.clone();
                work::run(move || Ok(query::run(shared.engine()?, &request)?)).await?
            }
        };
        let reply = convert::answer_out(answer, fields);
        if fields != Fields::default() {
            self.check_reply(reply.encoded_len())?;
        }
        Ok(reply)
    }

    fn start(&self, request: QueryRequest, deadline: Option<Instant>) -> Result<work::Work<QueryResponse>, Problem> {
        let fields = convert::fields(request.include);
        let request = convert::query_in(request, self.0.settings.max_message_bytes)?;
        let request = query::Request { deadline, ..request };
        let shared = self.0.clone();
        Ok(work::start(move || Ok(convert::answer_out(query::run(shared.engine()?, &request)?, fields))))
    }

    fn check_reply(&self, bytes: usize) -> Result<(), Problem> {
        let max = self.0.settings.max_message_bytes;
        if bytes > max { Err(reply_too_large(max)) } else { Ok(()) }
    }
}

/// A narrow graph search by vector is done on the spot: handing it to another thread and back costs two wake-ups, and a
/// worker for each core keeps cores from being shared. What needs a network, or may look at everything, is not.
fn is_short(engine: &Engine, request: &query::Request) -> bool {
    const WIDTH: usize = 256;
    const BUFFERED: usize = 2048;
    let is_of_numbers = matches!(request.content, Content::Vector(_) | Content::Id(_));
    let is_wide = request.exact || request.blend.is_some() || request.full_text.is_some();
    if is_wide || !is_of_numbers || matches!(request.rerank.which, Which::Version(_)) {
        return false;
    }
    // Without a collection there is nothing to search.
    let Ok(collection) = engine.db().collection(&request.collection) else { return true };
    let is_one = request.using.is_some() || collection.config().vectors.len() == 1;
    if matches!(request.content, Content::Id(_)) && !is_one && !matches!(Blend::read(&collection), Ok(None)) {
        return false;
    }
    // A network may re-rank what an image looks for.
    let is_by_cosine = request.rerank.which == Which::None || matches!(request.content, Content::Vector(_));
    if !is_by_cosine && !matches!(engine.rerankers().is_any_active(&collection), Ok(false)) {
        return false;
    }
    let ef = request.ef.unwrap_or(collection.config().hnsw.ef_search);
    let reach = request.limit.unwrap_or(query::Limits::DEFAULT_LIMIT).saturating_add(request.offset);
    let widest = reach.max(request.candidates.unwrap_or(0)).max(ef);
    widest <= WIDTH && collection.reader().n_buffered() <= BUFFERED
}

/// Every point of an Upsert made ready, or the first problem.
fn embed_all(
    shared: &Shared,
    collection: &Collection,
    points: Vec<v1::PointInput>,
) -> Result<(Vec<NewPoint>, Vec<v1::Truncation>), Problem> {
    let mut ids = HashSet::with_capacity(points.len());
    let mut inputs = Vec::with_capacity(points.len());
    for (at, point) in points.into_iter().enumerate() {
        let input = convert::point_in(point).map_err(|problem| problem.within(&format!("points[{at}]")))?;
        if !ids.insert(input.id.clone()) {
            let error = firn_index::Error::DuplicateId { id: input.id };
            return Err(Problem::from(error).within(&format!("points[{at}]")));
        }
        inputs.push(input);
    }
    let encoders = shared.encoders()?;
    let encoders: Vec<&dyn Encoder> = encoders.iter().map(AsRef::as_ref).collect();
    let (mut ready, mut truncations) = (Vec::with_capacity(inputs.len()), Vec::new());
    for (at, embedded) in embed::points(&encoders, collection.config(), inputs).into_iter().enumerate() {
        let named = |problem: Problem| problem.within(&format!("points[{at}]"));
        let embed::Embedded { point, truncations: cut } = embedded.map_err(|error| named(error.into()))?;
        collection.check(&point).map_err(|error| named(error.into()))?;
        truncations.extend(cut.into_iter().map(|cut| convert::truncation_out(&point.id, cut)));
        ready.push(point);
    }
    Ok((ready, truncations))
}

/// Piece by piece, so that points larger than a reply are not all in memory before that is known.
fn get(collection: &Collection, ids: &[PointId], fields: Fields, max: usize) -> Result<Vec<v1::Point>, Problem> {
    const PIECE: usize = 128;
    let reader = collection.reader();
    let (mut points, mut bytes) = (Vec::new(), 0);
    for ids in ids.chunks(PIECE) {
        for point in reader.get(ids, fields)? {
            let point = convert::point_out(point, fields);
            bytes += point.encoded_len();
            points.push(point);
        }
        if bytes > max {
            return Err(reply_too_large(max));
        }
    }
    Ok(points)
}

/// A page ends early when it is as large as a reply may be.
fn scroll(
    collection: &Collection,
    from: Row,
    limit: usize,
    fields: Fields,
    max: usize,
) -> Result<ScrollResponse, Problem> {
    const PIECE: usize = 128;
    let reader = collection.reader();
    let (mut points, mut bytes): (Vec<v1::Point>, usize) = (Vec::new(), 0);
    let mut from = Some(from);
    while let Some(start) = from
        && points.len() < limit
    {
        let page = reader.scroll(start, PIECE.min(limit - points.len()), fields)?;
        from = page.next;
        for point in page.points {
            let Point { row, .. } = point;
            let point = convert::point_out(point, fields);
            bytes += point.encoded_len();
            if bytes > max {
                return if points.is_empty() { Err(reply_too_large(max)) } else { Ok(page_of(points, Some(row))) };
            }
            points.push(point);
        }
    }
    Ok(page_of(points, from))
}

fn page_of(points: Vec<v1::Point>, next: Option<Row>) -> ScrollResponse {
    ScrollResponse { points, next_page: next.map_or(0, u64::from) }
}

fn result_out(result: Result<QueryResponse, Problem>) -> QueryResult {
    let result = match result {
        Ok(response) => query_result::Result::Response(response),
        Err(problem) => query_result::Result::Error(QueryError {
            code: problem.code as i32,
            reason: problem.reason.to_owned(),
            message: problem.text(),
        }),
    };
    QueryResult { result: Some(result) }
}

#[cfg(test)]
mod tests {
    use firn_index::{CollectionConfig, Database, Options, VectorConfig};

    use super::*;
    use crate::{engine::Loading, query::Rerank};

    #[test]
    fn what_a_network_may_rerank_is_not_done_on_the_spot() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(dir.path(), Options { min_free_bytes: 0, ..Options::default() }).unwrap();
        let vectors = [("v".to_owned(), VectorConfig::new(2))].into();
        let config = CollectionConfig { vectors, ..CollectionConfig::default() };
        for (name, active) in [("plain", "null"), ("ranked", "1")] {
            let collection = db.create_collection(name, config.clone()).unwrap();
            let state = format!(r#"{{"versions": [], "active": {active}, "before": [], "next": 2}}"#);
            collection.attach(vec![("rerankers".to_owned(), Some(state.into_bytes()))]).unwrap();
        }
        let engine = Engine::new(db, Vec::new(), Loading::Fixed(firn_model::Device::Cpu));
        let check = |collection: &str, content, which, expected: bool| {
            let wire =
                v1::QueryRequest { collection_name: collection.to_owned(), query: Some(content), ..Default::default() };
            let request = convert::query_in(wire, usize::MAX).unwrap();
            let request = query::Request { rerank: Rerank { which, ..Rerank::default() }, ..request };
            assert_eq!(is_short(&engine, &request), expected, "{collection} {which:?}");
        };
        let (id, vector) = (|| firn_client::stored(firn_client::id(1)), || firn_client::vector(&[1.0, 0.0]));
        check("plain", id(), Which::Active, true);
        check("ranked", id(), Which::Active, false);
        check("ranked", id(), Which::None, true);
        check("ranked", vector(), Which::Active, true);
        check("plain", vector(), Which::Version(1), false);
    }
}
