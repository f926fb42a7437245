//! The UpsertStream: messages are read, embedded and committed at the same time, committed in the order they came, and
//! acknowledged when they are on disk.
//!
//! reader -> up to STREAM_MESSAGES embedding at a time -> committer (takes all that are ready in one commit) -> replies

use std::{collections::HashMap, sync::Arc};

use firn_index::{Collection, NewPoint, PointId};
use firn_ingest::embed;
use firn_model::Encoder;
use firn_proto::v1::{
    PointId as WireId, PointInput, Truncation, UpsertStreamAcks, UpsertStreamBackoff, UpsertStreamError,
    UpsertStreamErrors, UpsertStreamRequest, UpsertStreamResponse, UpsertStreamShuttingDown, UpsertStreamStart,
    UpsertStreamStarted, upsert_stream_request::Message as Request, upsert_stream_response::Message as Reply,
};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    convert, limits,
    shared::Shared,
    status::{Problem, of_transport, shutting_down},
    work::{self, Work},
};

type Replies = mpsc::Sender<Result<UpsertStreamResponse, Status>>;

/// Replies that wait for a slow client before reading stops.
const REPLIES: usize = 64;
const BACKOFF_MS: u32 = 100;
/// Points of one commit, unless one message has more.
const COMMIT_POINTS: usize = 4096;

/// Opens the stream at once: some clients send nothing before they see the reply's headers.
pub fn open(
    shared: Arc<Shared>,
    messages: Streaming<UpsertStreamRequest>,
) -> Result<ReceiverStream<Result<UpsertStreamResponse, Status>>, Problem> {
    let pass = shared.gate.stream()?;
    let (replies, received) = mpsc::channel(REPLIES);
    tokio::spawn(async move {
        let _until_the_end = pass;
        if let Err(status) = session(&shared, messages, &replies).await {
            let _ = replies.send(Err(status)).await;
        }
    });
    Ok(ReceiverStream::new(received))
}

/// How reading ended.
enum End {
    /// The client stopped, or is gone.
    Stop,
    ShuttingDown,
    Refused(Status),
}

async fn session(
    shared: &Arc<Shared>,
    mut messages: Streaming<UpsertStreamRequest>,
    replies: &Replies,
) -> Result<(), Status> {
    let Some(collection) = start(shared, &mut messages).await? else { return Ok(()) };
    let max_message_bytes = shared.settings.max_message_bytes as u64;
    send(replies, Reply::Started(UpsertStreamStarted { max_message_bytes })).await;

    let (jobs, taken) = mpsc::channel(limits::STREAM_MESSAGES);
    let committer = tokio::spawn(commit_all(shared.clone(), collection.clone(), taken, replies.clone()));
    let end = read_all(shared, &collection, messages, jobs, replies).await;
    // The reader has dropped its end: the committer finishes what it was given.
    committer.await.map_err(|_| super::status::internal("the stream's committer failed"))??;
    match end {
        End::Stop => Ok(()),
        End::Refused(status) => Err(status),
        End::ShuttingDown => {
            send(replies, Reply::ShuttingDown(UpsertStreamShuttingDown {})).await;
            Ok(())
        }
    }
}

/// The first message names the collection; none if the client left without a word.
async fn start(shared: &Shared, messages: &mut Streaming<UpsertStreamRequest>) -> Result<Option<Collection>, Status> {
    let mut stopping = shared.stopping.subscribe();
    let first = tokio::select! {
        first = messages.message() => first.map_err(of_transport)?,
        _ = stopping.wait_for(|stopping| *stopping) => return Err(shutting_down().into()),
    };
    match first.map(|first| first.message) {
        None => Ok(None),
        Some(Some(Request::Start(UpsertStreamStart { collection_name }))) => {
            Ok(Some(shared.collection(&collection_name).map_err(|problem| problem.within("start"))?))
        }
        Some(_) => Err(Problem::invalid("start", "MISSING_FIELD", "expected start as the first message").into()),
    }
}

async fn read_all(
    shared: &Arc<Shared>,
    collection: &Collection,
    mut messages: Streaming<UpsertStreamRequest>,
    jobs: mpsc::Sender<Job>,
    replies: &Replies,
) -> End {
    let mut stopping = shared.stopping.subscribe();
    loop {
        let message = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return End::ShuttingDown,
            // The committer is gone only if it failed, and says why itself.
            () = jobs.closed() => return End::Stop,
            () = replies.closed() => return End::Stop,
            message = messages.message() => message,
        };
        let points = match message {
            Ok(None) => return End::Stop,
            Err(status) => return End::Refused(of_transport(status)),
            Ok(Some(UpsertStreamRequest { message: Some(Request::Data(data)) })) => data.points,
            Ok(Some(UpsertStreamRequest { message: Some(Request::Stop(_)) })) => return End::Stop,
            Ok(Some(UpsertStreamRequest { message: Some(Request::Start(_)) })) => {
                let problem = Problem::invalid("start", "UNEXPECTED_MESSAGE", "expected start once, received it again");
                return End::Refused(problem.into());
            }
            Ok(Some(UpsertStreamRequest { message: None })) => {
                let problem = Problem::invalid("message", "MISSING_FIELD", "expected data or stop, received nothing");
                return End::Refused(problem.into());
            }
        };
        let room = room(shared, &points, replies).await;
        let (of, shared) = (collection.clone(), shared.clone());
        let work = work::start(move || embed_each(&shared, &of, points));
        if jobs.send(Job { work, _room: room }).await.is_err() {
            return End::Stop;
        }
    }
}

/// A message in work, and the room it takes.
struct Job {
    work: Work<Ready>,
    _room: Option<OwnedSemaphorePermit>,
}

/// Room for a message among those of all streams; asks the client to wait when there is none yet.
async fn room(shared: &Shared, points: &[PointInput], replies: &Replies) -> Option<OwnedSemaphorePermit> {
    let bytes: usize = points.iter().map(PointInput::encoded_len).sum();
    // No message is larger than the largest, so there is always room for it in the end.
    let bytes = u32::try_from(bytes.min(shared.settings.max_message_bytes)).unwrap_or(u32::MAX);
    let semaphore = &shared.upsert_bytes;
    match semaphore.clone().try_acquire_many_owned(bytes) {
        Ok(permit) => Some(permit),
        Err(_) => {
            send(replies, Reply::Backoff(UpsertStreamBackoff { wait_ms: BACKOFF_MS })).await;
            semaphore.clone().acquire_many_owned(bytes).await.ok()
        }
    }
}

/// A message whose points are embedded.
#[derive(Default)]
struct Ready {
    points: Vec<NewPoint>,
    truncations: Vec<Truncation>,
    errors: Vec<UpsertStreamError>,
}

impl Ready {
    /// The id as the client sent it, even if it is no id: it must know which point is meant.
    fn refuse(&mut self, id: Option<WireId>, problem: &Problem) {
        self.errors.push(UpsertStreamError { id, reason: problem.reason.to_owned(), message: problem.text() });
    }
}

/// Every point made ready on its own: a bad one is refused and the others go on.
fn embed_each(shared: &Shared, collection: &Collection, points: Vec<PointInput>) -> Result<Ready, Problem> {
    let mut ready = Ready::default();
    let (mut ids, mut inputs) = (Vec::new(), Vec::new());
    for (at, point) in points.into_iter().enumerate() {
        let id = point.id.clone();
        match convert::point_in(point) {
            Ok(input) => {
                ids.push((at, input.id.clone()));
                inputs.push(input);
            }
            Err(problem) => ready.refuse(id, &problem.within(&format!("points[{at}]"))),
        }
    }
    let encoders = shared.encoders()?;
    let encoders: Vec<&dyn Encoder> = encoders.iter().map(AsRef::as_ref).collect();
    let embedded = embed::points(&encoders, collection.config(), inputs);
    for ((at, id), embedded) in ids.into_iter().zip(embedded) {
        let checked = embedded.map_err(Problem::from).and_then(|embedded| {
            collection.check(&embedded.point)?;
            Ok(embedded)
        });
        match checked {
            Ok(embed::Embedded { point, truncations }) => {
                ready.truncations.extend(truncations.into_iter().map(|cut| convert::truncation_out(&id, cut)));
                ready.points.push(point);
            }
            Err(problem) => ready.refuse(Some(convert::id_out(id)), &problem.within(&format!("points[{at}]"))),
        }
    }
    Ok(ready)
}

/// Commits what the reader hands over, in order. What is ready while a commit is under way goes into the next one.
async fn commit_all(
    shared: Arc<Shared>,
    collection: Collection,
    mut jobs: mpsc::Receiver<Job>,
    replies: Replies,
) -> Result<(), Status> {
    let mut held: Option<Job> = None;
    loop {
        let Some(first) = (match held.take() {
            Some(job) => Some(job),
            None => jobs.recv().await,
        }) else {
            return Ok(());
        };
        let mut rooms = vec![first._room];
        let mut batch = vec![first.work.answer().await?];
        let mut n_points = batch[0].points.len();
        while n_points < COMMIT_POINTS && held.is_none() {
            match jobs.try_recv() {
                Ok(job) if job.work.is_finished() => {
                    rooms.push(job._room);
                    let ready = job.work.answer().await?;
                    n_points += ready.points.len();
                    batch.push(ready);
                }
                Ok(job) => held = Some(job),
                Err(_) => break,
            }
        }
        let (shared, of) = (shared.clone(), collection.clone());
        for reply in work::run(move || commit(&shared, &of, batch)).await? {
            send(&replies, reply).await;
        }
        drop(rooms);
    }
}

/// One commit for all messages; the replies of each.
fn commit(shared: &Shared, collection: &Collection, batch: Vec<Ready>) -> Result<Vec<Reply>, Problem> {
    let mut batch = batch;
    let points: Vec<Vec<NewPoint>> = batch.iter_mut().map(|ready| std::mem::take(&mut ready.points)).collect();
    let ids: Vec<Vec<PointId>> = points.iter().map(|points| points.iter().map(|p| p.id.clone()).collect()).collect();
    let points = last_of_each(points.into_iter().flatten());
    if !points.is_empty() {
        shared.committed(collection.upsert(points)?);
    }
    Ok(batch.into_iter().zip(ids).flat_map(|(ready, ids)| answer(ready, ids)).collect())
}

/// When an id stands several times, the last one wins, as if they had been written one after the other.
fn last_of_each(points: impl Iterator<Item = NewPoint>) -> Vec<NewPoint> {
    let mut places: HashMap<PointId, usize> = HashMap::new();
    let mut kept: Vec<NewPoint> = Vec::new();
    for point in points {
        match places.get(&point.id) {
            Some(&place) => kept[place] = point,
            None => {
                places.insert(point.id.clone(), kept.len());
                kept.push(point);
            }
        }
    }
    kept
}

/// Errors first, then acks; a message without points has empty acks, so that every message is answered.
fn answer(ready: Ready, ids: Vec<PointId>) -> Vec<Reply> {
    let Ready { truncations, errors, .. } = ready;
    let mut replies = Vec::with_capacity(2);
    let has_errors = !errors.is_empty();
    if has_errors {
        replies.push(Reply::Errors(UpsertStreamErrors { errors }));
    }
    if !ids.is_empty() || !has_errors {
        let ids = ids.into_iter().map(convert::id_out).collect();
        replies.push(Reply::Acks(UpsertStreamAcks { ids, truncations }));
    }
    replies
}

/// A client that is gone is noticed by the reader.
async fn send(replies: &Replies, message: Reply) {
    let _ = replies.send(Ok(UpsertStreamResponse { message: Some(message) })).await;
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn point(id: u64, number: f32) -> NewPoint {
        let vectors = [("v".to_owned(), vec![number])].into();
        let (payload, tokens) = Default::default();
        NewPoint { id: id.into(), texts: Vec::new(), payload, vectors, tokens }
    }

    #[test]
    fn the_last_of_an_id_wins() {
        let kept = last_of_each([point(1, 1.0), point(2, 2.0), point(1, 3.0)].into_iter());
        assert_eq!(kept, [point(1, 3.0), point(2, 2.0)]);
    }

    #[test]
    fn every_message_is_answered() {
        let refused = || {
            let mut ready = Ready::default();
            ready.refuse(None, &Problem::new(Code::InvalidArgument, "X", "x"));
            ready
        };
        let kinds = |replies: Vec<Reply>| -> Vec<&str> {
            replies.iter().map(|reply| if matches!(reply, Reply::Acks(_)) { "acks" } else { "errors" }).collect()
        };
        assert_eq!(kinds(answer(Ready::default(), Vec::new())), ["acks"]);
        assert_eq!(kinds(answer(Ready::default(), vec![1.into()])), ["acks"]);
        assert_eq!(kinds(answer(refused(), Vec::new())), ["errors"]);
        assert_eq!(kinds(answer(refused(), vec![1.into()])), ["errors", "acks"]);
    }
}
