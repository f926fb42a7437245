//! Writing any number of points over one stream, which may break: what was not acknowledged is sent again.
//!
//! Points are sent in the order they were put, in messages the server takes, with a bound on what is on its way. An answer
//! settles a point: it is on disk, or refused for good. Upserts replace whole points, so sending one twice changes nothing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use firn_proto::v1::{
    PointId, PointInput, Truncation, UpsertStreamData, UpsertStreamRequest, UpsertStreamResponse, UpsertStreamStart,
    UpsertStreamStop, upsert_stream_request, upsert_stream_response,
};
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{Client, Error};

/// What a server that names no limit is sent at most, and the size that messages are filled up to.
const MESSAGE_BYTES: usize = 4 << 20;
/// A message is answered as a whole: with more points in it, answers come late and a broken connection costs more.
const MESSAGE_POINTS: usize = 64;
/// What a message needs besides its points, and a point besides its fields.
const MESSAGE_OVERHEAD: usize = 64;
const POINT_OVERHEAD: usize = 10;
/// The longest pause a server may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// How much is on its way at a time, and how long a lost server is waited for.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    pub max_points_in_flight: usize,
    pub max_bytes_in_flight: usize,
    /// How long a lost server is tried again, without one acknowledged point.
    pub patience: Duration,
    /// The wait after the first failure; it doubles up to `max_wait`.
    pub first_wait: Duration,
    pub max_wait: Duration,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions {
            max_points_in_flight: 1024,
            max_bytes_in_flight: 64 << 20,
            patience: Duration::from_secs(60),
            first_wait: Duration::from_millis(100),
            max_wait: Duration::from_secs(10),
        }
    }
}

/// The answer to one point.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    pub id: PointId,
    pub result: Result<Written, Refusal>,
}

/// The point is on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Texts that were longer than the model reads.
    pub truncations: Vec<Truncation>,
}

/// The same point would be refused again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A stable name in snake_case.
    pub reason: String,
    pub message: String,
}

/// A stream of points into one collection.
pub struct UpsertStream {
    client: Client,
    collection: String,
    options: StreamOptions,
    /// To be sent on this connection, in order.
    waiting: VecDeque<Entry>,
    /// Sent, not answered; by the order of sending.
    in_flight: BTreeMap<u64, Entry>,
    places: HashMap<PointId, u64>,
    bytes_in_flight: usize,
    next_place: u64,
    connection: Option<Connection>,
    settled: Vec<Settled>,
    /// Since when no point was acknowledged, if the server is lost, and the tries since then.
    lost_since: Option<Instant>,
    tries: u32,
    on_lost: Option<OnLost>,
    paused_until: Option<Instant>,
}

type OnLost = Box<dyn FnMut(&Error) + Send>;

struct Entry {
    id: PointId,
    point: PointInput,
    bytes: usize,
}

struct Connection {
    out: mpsc::Sender<UpsertStreamRequest>,
    replies: Streaming<UpsertStreamResponse>,
    max_message_bytes: usize,
}

impl Client {
    /// Starts a stream of points into a collection. It connects with the first point.
    pub fn upsert_stream(&self, collection: &str, options: StreamOptions) -> UpsertStream {
        UpsertStream {
            client: self.clone(),
            collection: collection.to_owned(),
            options,
            waiting: VecDeque::new(),
            in_flight: BTreeMap::new(),
            places: HashMap::new(),
            bytes_in_flight: 0,
            next_place: 0,
            connection: None,
            settled: Vec::new(),
            lost_since: None,
            tries: 0,
            on_lost: None,
            paused_until: None,
        }
    }
}

impl UpsertStream {
    /// Has it told each time the server is lost and will be tried again, before the wait.
    pub fn on_lost(&mut self, tell: impl FnMut(&Error) + Send + 'static) {
        self.on_lost = Some(Box::new(tell));
    }

    /// Sends points, and waits while too much is on its way. A point without an id is refused here.
    pub async fn put(&mut self, points: Vec<PointInput>) -> Result<(), Error> {
        for point in points {
            let bytes = point.encoded_len() + POINT_OVERHEAD;
            match point.id.clone().filter(|id| id.kind.is_some()) {
                Some(id) => self.waiting.push_back(Entry { id, point, bytes }),
                None => self.refuse(PointId { kind: None }, "invalid_id", "the point has no id".to_owned()),
            }
        }
        while !self.waiting.is_empty() {
            self.step_or_recover().await?;
        }
        self.read_ready().await
    }

    /// Waits until a point is settled; not at all if none is missing.
    pub async fn wait(&mut self) -> Result<(), Error> {
        while self.settled.is_empty() && self.unsettled() > 0 {
            self.step_or_recover().await?;
        }
        Ok(())
    }

    /// Waits until every point is settled, and ends the stream.
    pub async fn finish(&mut self) -> Result<(), Error> {
        while !self.waiting.is_empty() || !self.in_flight.is_empty() {
            self.step_or_recover().await?;
        }
        if let Some(mut connection) = self.connection.take() {
            let stop = upsert_stream_request::Message::Stop(UpsertStreamStop {});
            // Everything is acknowledged: how the stream ends changes nothing.
            let _ = connection.out.send(UpsertStreamRequest { message: Some(stop) }).await;
            drop(connection.out);
            while let Ok(Some(_)) = connection.replies.message().await {}
        }
        Ok(())
    }

    /// The answers since the last call. They are true also after an error.
    pub fn settled(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.settled)
    }

    /// Whether the server was lost and has acknowledged no point since.
    pub fn is_lost(&self) -> bool {
        self.lost_since.is_some()
    }

    /// Points that were sent and not answered, or not sent yet.
    pub fn unsettled(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    async fn step_or_recover(&mut self) -> Result<(), Error> {
        match self.step().await {
            Ok(()) => Ok(()),
            Err(status) => self.recover(status).await,
        }
    }

    /// Sends one message or reads one reply, whichever is possible first.
    async fn step(&mut self) -> Result<(), Status> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        self.refuse_too_large(connection.max_message_bytes);
        let reply = if let Some(until) = self.paused_until {
            tokio::select! {
                reply = connection.replies.message() => Some(reply?),
                () = sleep_until(until) => {
                    self.paused_until = None;
                    None
                }
            }
        } else if self.may_send() {
            tokio::select! {
                reply = connection.replies.message() => Some(reply?),
                Ok(slot) = connection.out.reserve() => {
                    slot.send(self.message(connection.max_message_bytes));
                    None
                }
            }
        } else if self.in_flight.is_empty() {
            None
        } else {
            Some(connection.replies.message().await?)
        };
        if let Some(reply) = reply {
            self.take(reply.ok_or_else(|| Status::unavailable("the server ended the stream"))?)?;
        }
        self.connection = Some(connection);
        Ok(())
    }

    /// Reads the replies that are here already.
    async fn read_ready(&mut self) -> Result<(), Error> {
        while let Some(mut connection) = self.connection.take() {
            let reply = tokio::select! {
                biased;
                reply = connection.replies.message() => reply,
                () = std::future::ready(()) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
            };
            let taken = match reply {
                Ok(Some(reply)) => self.take(reply),
                Ok(None) => Err(Status::unavailable("the server ended the stream")),
                Err(status) => Err(status),
            };
            match taken {
                Ok(()) => self.connection = Some(connection),
                Err(status) => return self.recover(status).await,
            }
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<Connection, Status> {
        let (out, requests) = mpsc::channel(2);
        let start = UpsertStreamStart { collection_name: self.collection.clone() };
        let start = UpsertStreamRequest { message: Some(upsert_stream_request::Message::Start(start)) };
        out.send(start).await.map_err(|_| Status::internal("the request stream is closed"))?;
        let requests = ReceiverStream::new(requests);
        let mut replies = self.client.points_service().upsert_stream(requests).await?.into_inner();
        let max_message_bytes = match replies.message().await?.and_then(|reply| reply.message) {
            Some(upsert_stream_response::Message::Started(started)) => started.max_message_bytes as usize,
            Some(upsert_stream_response::Message::ShuttingDown(_)) => {
                return Err(Status::unavailable("the server is shutting down"));
            }
            _ => return Err(Status::internal("the server's first reply on the stream is not `started`")),
        };
        let max_message_bytes = if max_message_bytes == 0 { MESSAGE_BYTES } else { max_message_bytes };
        Ok(Connection { out, replies, max_message_bytes })
    }

    /// Waits and lets the next step connect again; everything that was not answered is sent again. The error when trying again
    /// is no use, or was tried long enough.
    async fn recover(&mut self, status: Status) -> Result<(), Error> {
        self.connection = None;
        self.paused_until = None;
        for (_, entry) in std::mem::take(&mut self.in_flight).into_iter().rev() {
            self.waiting.push_front(entry);
        }
        self.places.clear();
        self.bytes_in_flight = 0;
        let is_final = is_final(status.code());
        let error = Error::from(status);
        let since = *self.lost_since.get_or_insert_with(Instant::now);
        let left = self.options.patience.saturating_sub(since.elapsed());
        if is_final || left.is_zero() {
            return Err(error);
        }
        if let Some(tell) = &mut self.on_lost {
            tell(&error);
        }
        let doubled = self.options.first_wait.saturating_mul(1 << self.tries.min(20));
        self.tries += 1;
        sleep(error.retry_after.unwrap_or(doubled).min(self.options.max_wait).min(left)).await;
        Ok(())
    }

    /// A point waits while an earlier one of the same id is on its way: one answer could not be told from the other.
    fn may_send(&self) -> bool {
        let Some(next) = self.waiting.front() else { return false };
        self.fits(next) && !self.places.contains_key(&next.id)
    }

    fn fits(&self, next: &Entry) -> bool {
        self.in_flight.is_empty()
            || self.in_flight.len() < self.options.max_points_in_flight
                && self.bytes_in_flight + next.bytes <= self.options.max_bytes_in_flight
    }

    /// The next points as one message, and notes them as sent.
    fn message(&mut self, max_message_bytes: usize) -> UpsertStreamRequest {
        let limit = max_message_bytes.min(MESSAGE_BYTES);
        let mut data = UpsertStreamData::default();
        let mut bytes = MESSAGE_OVERHEAD;
        let has_room = |data: &UpsertStreamData, bytes, next: &Entry| {
            data.points.is_empty() || data.points.len() < MESSAGE_POINTS && bytes + next.bytes <= limit
        };
        while self.may_send()
            && let Some(entry) = self.next_if(|next| has_room(&data, bytes, next))
        {
            bytes += entry.bytes;
            data.points.push(entry.point.clone());
            self.bytes_in_flight += entry.bytes;
            self.places.insert(entry.id.clone(), self.next_place);
            self.in_flight.insert(self.next_place, entry);
            self.next_place += 1;
        }
        UpsertStreamRequest { message: Some(upsert_stream_request::Message::Data(data)) }
    }

    fn next_if(&mut self, test: impl Fn(&Entry) -> bool) -> Option<Entry> {
        if self.waiting.front().is_some_and(test) { self.waiting.pop_front() } else { None }
    }

    fn refuse_too_large(&mut self, max_message_bytes: usize) {
        let too_large = |entry: &Entry| entry.bytes + MESSAGE_OVERHEAD > max_message_bytes;
        while let Some(entry) = self.next_if(too_large) {
            let message =
                format!("the point takes {} bytes: the server takes {max_message_bytes} at a time", entry.bytes);
            self.refuse(entry.id, "limit_exceeded", message);
        }
    }

    fn refuse(&mut self, id: PointId, reason: &str, message: String) {
        let result = Err(Refusal { reason: reason.to_owned(), message });
        self.settled.push(Settled { id, result });
    }

    fn take(&mut self, reply: UpsertStreamResponse) -> Result<(), Status> {
        use upsert_stream_response::Message::*;
        match reply.message {
            Some(Acks(acks)) => {
                let mut truncations: HashMap<PointId, Vec<Truncation>> = HashMap::new();
                for truncation in acks.truncations {
                    truncations.entry(truncation.id.clone().unwrap_or_default()).or_default().push(truncation);
                }
                for id in acks.ids {
                    let truncations = truncations.remove(&id).unwrap_or_default();
                    self.settle(id, Ok(Written { truncations }));
                }
            }
            Some(Errors(errors)) => {
                for error in errors.errors {
                    // Without an id nobody knows which point to stop waiting for.
                    let Some(id) = error.id else {
                        return Err(Status::invalid_argument(format!("a point was refused: {}", error.message)));
                    };
                    self.settle(id, Err(Refusal { reason: error.reason, message: error.message }));
                }
            }
            Some(Backoff(backoff)) => {
                let pause = Duration::from_millis(backoff.wait_ms.into()).min(MAX_PAUSE);
                self.paused_until = Some(Instant::now() + pause);
            }
            Some(ShuttingDown(_)) => return Err(Status::unavailable("the server is shutting down")),
            Some(Started(_)) | None => {}
        }
        Ok(())
    }

    fn settle(&mut self, id: PointId, result: Result<Written, Refusal>) {
        // An id that is not on its way was answered before, on a connection that broke.
        let Some(entry) = self.places.remove(&id).and_then(|place| self.in_flight.remove(&place)) else { return };
        self.bytes_in_flight -= entry.bytes;
        (self.lost_since, self.tries) = (None, 0);
        self.settled.push(Settled { id, result });
    }
}

/// Whether the same call would fail the same way.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
    )
}
