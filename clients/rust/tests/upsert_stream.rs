//! The upsert stream against a scripted server on loopback: whatever the connection does, every point is settled once.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use firn_client::{Client, Error, StreamOptions, id, v1};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming};
use v1::{
    points_server::{Points, PointsServer},
    upsert_stream_request::Message as Asked,
    upsert_stream_response::Message as Answer,
};

/// What the server does with one connection.
#[derive(Clone, Debug)]
enum Script {
    /// Acknowledges everything.
    Serve,
    /// Acknowledges so many points, takes further messages unanswered, and breaks off.
    BreakAfter(usize),
    /// Acknowledges so many points, then says that it shuts down.
    ShutDownAfter(usize),
    /// Answers the call itself with this code.
    Refuse(tonic::Code),
    /// Asks for a pause before each acknowledgement.
    Pause,
}

#[derive(Default)]
struct State {
    /// One for each connection; the last one stays.
    scripts: VecDeque<Script>,
    /// How often each point arrived.
    arrived: BTreeMap<String, usize>,
    stored: BTreeMap<String, v1::PointInput>,
    largest_message: usize,
    connections: usize,
    stops: usize,
}

#[derive(Clone, Default)]
struct Server {
    state: Arc<Mutex<State>>,
    max_message_bytes: u64,
}

fn name(id: &v1::PointId) -> String {
    match id.kind.as_ref().expect("an id") {
        v1::point_id::Kind::Num(number) => number.to_string(),
        v1::point_id::Kind::Text(text) => text.clone(),
    }
}

fn say(message: Answer) -> Result<v1::UpsertStreamResponse, Status> {
    Ok(v1::UpsertStreamResponse { message: Some(message) })
}

impl Server {
    async fn serve(
        self,
        script: Script,
        mut requests: Streaming<v1::UpsertStreamRequest>,
        out: mpsc::Sender<Result<v1::UpsertStreamResponse, Status>>,
    ) {
        let mut left = match script {
            Script::BreakAfter(n) | Script::ShutDownAfter(n) => n,
            _ => usize::MAX,
        };
        while let Ok(Some(request)) = requests.message().await {
            let answers = match request.message.expect("a message") {
                Asked::Start(start) => {
                    assert_eq!(start.collection_name, "c");
                    vec![Answer::Started(v1::UpsertStreamStarted { max_message_bytes: self.max_message_bytes })]
                }
                Asked::Stop(_) => {
                    self.state.lock().unwrap().stops += 1;
                    return;
                }
                Asked::Data(data) => self.take(data, &mut left),
            };
            for answer in answers {
                if matches!((&script, &answer), (Script::Pause, Answer::Acks(_))) {
                    let _ = out.send(say(Answer::Backoff(v1::UpsertStreamBackoff { wait_ms: 1 }))).await;
                }
                let _ = out.send(say(answer)).await;
            }
            if left == 0 {
                let last = match script {
                    Script::ShutDownAfter(_) => say(Answer::ShuttingDown(v1::UpsertStreamShuttingDown {})),
                    _ => Err(Status::internal("broken off")),
                };
                let _ = out.send(last).await;
                return;
            }
        }
    }

    /// Stores points while acknowledgements are left; a point named `bad...` is refused.
    fn take(&self, data: v1::UpsertStreamData, left: &mut usize) -> Vec<Answer> {
        let mut state = self.state.lock().unwrap();
        let bytes = prost::Message::encoded_len(&data);
        state.largest_message = state.largest_message.max(bytes);
        let (mut acks, mut errors) = (v1::UpsertStreamAcks::default(), v1::UpsertStreamErrors::default());
        for point in data.points {
            let id = point.id.clone().expect("an id");
            *state.arrived.entry(name(&id)).or_default() += 1;
            if *left == 0 {
                continue;
            }
            *left -= 1;
            if name(&id).starts_with("bad") {
                let (reason, message) = ("wrong_dimension".to_owned(), "no".to_owned());
                errors.errors.push(v1::UpsertStreamError { id: Some(id), reason, message });
                continue;
            }
            if name(&id) == "long" {
                let id = Some(id.clone());
                acks.truncations.push(v1::Truncation { id, text: 0, tokens_used: 5, tokens_cut: 2 });
            }
            state.stored.insert(name(&id), point);
            acks.ids.push(id);
        }
        vec![Answer::Acks(acks), Answer::Errors(errors)]
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Points for Server {
    type UpsertStreamStream = Answers<v1::UpsertStreamResponse>;

    async fn upsert_stream(
        &self,
        request: Request<Streaming<v1::UpsertStreamRequest>>,
    ) -> Result<Response<Self::UpsertStreamStream>, Status> {
        let script = {
            let mut state = self.state.lock().unwrap();
            state.connections += 1;
            let next = if state.scripts.len() > 1 { state.scripts.pop_front() } else { state.scripts.front().cloned() };
            next.unwrap_or(Script::Serve)
        };
        if let Script::Refuse(code) = script {
            return Err(Status::new(code, "refused"));
        }
        let (out, answers) = mpsc::channel(4);
        tokio::spawn(self.clone().serve(script, request.into_inner(), out));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers).map(|answer| answer))))
    }

    async fn upsert(&self, _: Request<v1::UpsertRequest>) -> Result<Response<v1::UpsertResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn get(&self, _: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn set_payload(&self, _: Request<v1::SetPayloadRequest>) -> Result<Response<v1::SetPayloadResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn query(&self, _: Request<v1::QueryRequest>) -> Result<Response<v1::QueryResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn query_batch(&self, _: Request<v1::QueryBatchRequest>) -> Result<Response<v1::QueryBatchResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn scroll(&self, _: Request<v1::ScrollRequest>) -> Result<Response<v1::ScrollResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
    async fn count(&self, _: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

/// A running server and a client of it.
struct World {
    server: Server,
    client: Client,
    task: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    async fn new(scripts: &[Script], max_message_bytes: u64) -> World {
        let server = Server { max_message_bytes, ..Server::default() };
        server.state.lock().unwrap().scripts = scripts.iter().cloned().collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = PointsServer::new(server.clone());
        let task = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        World { server, client: Client::connect(&address).await.unwrap(), task }
    }

    /// Puts points in batches of seven; gives what became of each, and how it ended.
    async fn write(
        &self,
        points: Vec<v1::PointInput>,
        options: StreamOptions,
    ) -> (BTreeMap<String, Result<usize, String>>, Result<(), Error>) {
        let mut stream = self.client.upsert_stream("c", options);
        let mut settled = BTreeMap::new();
        let mut result = Ok(());
        for batch in points.chunks(7) {
            result = stream.put(batch.to_vec()).await;
            note(&mut settled, stream.settled());
            if result.is_err() {
                return (settled, result);
            }
        }
        while result.is_ok() && stream.unsettled() > 0 {
            result = stream.wait().await;
            let answers = stream.settled();
            assert!(result.is_err() || !answers.is_empty(), "waited for nothing");
            note(&mut settled, answers);
        }
        if result.is_ok() {
            result = stream.finish().await;
            note(&mut settled, stream.settled());
        }
        (settled, result)
    }
}

fn note(all: &mut BTreeMap<String, Result<usize, String>>, settled: Vec<firn_client::Settled>) {
    for settled in settled {
        let outcome = settled.result.map(|w| w.truncations.len()).map_err(|refusal| refusal.reason);
        assert!(all.insert(name(&settled.id), outcome).is_none(), "settled twice");
    }
}

fn quick() -> StreamOptions {
    StreamOptions {
        first_wait: Duration::from_millis(1),
        max_wait: Duration::from_millis(2),
        ..StreamOptions::default()
    }
}

fn point(id_text: &str, bytes: usize) -> v1::PointInput {
    v1::PointInput { id: Some(id(id_text)), image: vec![7; bytes].into(), ..Default::default() }
}

fn many(n: usize) -> Vec<v1::PointInput> {
    (0..n).map(|at| point(&format!("p{at:03}"), 20)).collect()
}

#[tokio::test]
async fn every_point_is_settled_once_whatever_the_server_does() {
    use Script::*;
    let cases: [&[Script]; 7] = [
        &[Serve],
        &[Pause],
        &[BreakAfter(30), Serve],
        &[BreakAfter(1), BreakAfter(1), BreakAfter(1), ShutDownAfter(50), Serve],
        &[ShutDownAfter(64), Pause],
        &[Refuse(tonic::Code::Unavailable), Refuse(tonic::Code::ResourceExhausted), Serve],
        &[BreakAfter(3)],
    ];
    for scripts in cases {
        let world = World::new(scripts, 4096).await;
        let mut points = many(100);
        points.push(point("bad", 1));
        points.push(point("long", 1));
        let (settled, result) = world.write(points, StreamOptions { max_points_in_flight: 10, ..quick() }).await;
        result.unwrap();
        assert_eq!(settled.len(), 102, "{scripts:?}");
        assert_eq!(settled["bad"], Err("wrong_dimension".to_owned()));
        assert_eq!(settled["long"], Ok(1));
        assert_eq!(settled.values().filter(|s| **s == Ok(0)).count(), 100);
        let state = world.server.state.lock().unwrap();
        assert_eq!(state.stored.len(), 101, "{scripts:?}");
        assert!(state.connections >= scripts.len(), "{scripts:?}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_not_sent_again() {
    let world = World::new(&[Script::Serve], 1 << 20).await;
    world.write(many(200), quick()).await.1.unwrap();
    let state = world.server.state.lock().unwrap();
    assert!(state.arrived.values().all(|&n| n == 1));
    assert_eq!((state.connections, state.stops), (1, 1));
}

#[tokio::test]
async fn messages_stay_below_the_server_s_limit() {
    let world = World::new(&[Script::Serve], 1000).await;
    let mut points: Vec<_> = (0..50).map(|n| point(&n.to_string(), n * 17)).collect();
    points.push(point("giant", 1000));
    let (settled, result) = world.write(points, quick()).await;
    result.unwrap();
    assert_eq!(settled["giant"], Err("limit_exceeded".to_owned()));
    let state = world.server.state.lock().unwrap();
    assert_eq!(state.stored.len(), 50);
    assert!(state.largest_message <= 1000 && state.largest_message > 500, "{}", state.largest_message);
}

#[tokio::test]
async fn the_same_id_twice_is_written_twice_in_order() {
    let world = World::new(&[Script::Serve], 1 << 20).await;
    let mut stream = world.client.upsert_stream("c", quick());
    stream.put(vec![point("a", 1), point("b", 1), point("a", 5)]).await.unwrap();
    stream.finish().await.unwrap();
    let names: Vec<_> = stream.settled().iter().map(|settled| name(&settled.id)).collect();
    assert_eq!(names, ["a", "b", "a"]);
    assert_eq!(world.server.state.lock().unwrap().stored["a"].image.len(), 5);
}

#[tokio::test]
async fn a_final_error_ends_the_stream_and_a_passing_one_when_patience_ends() {
    let check = async |script: Script, patience: Duration, code: tonic::Code| {
        let world = World::new(&[script], 1 << 20).await;
        let (settled, result) = world.write(many(20), StreamOptions { patience, ..quick() }).await;
        assert_eq!(result.unwrap_err().code, code);
        assert!(settled.is_empty());
        assert_eq!(world.server.state.lock().unwrap().connections, 1);
    };
    let (much, none) = (Duration::MAX, Duration::ZERO);
    check(Script::Refuse(tonic::Code::NotFound), much, tonic::Code::NotFound).await;
    check(Script::Refuse(tonic::Code::FailedPrecondition), much, tonic::Code::FailedPrecondition).await;
    check(Script::Refuse(tonic::Code::Unavailable), none, tonic::Code::Unavailable).await;
    check(Script::BreakAfter(0), none, tonic::Code::Internal).await;
    check(Script::ShutDownAfter(0), none, tonic::Code::Unavailable).await;
}

#[tokio::test]
async fn a_lost_server_is_told_of_before_each_wait() {
    let refuse = Script::Refuse(tonic::Code::Unavailable);
    let world = World::new(&[refuse.clone(), refuse, Script::BreakAfter(3), Script::Serve], 1 << 20).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut stream = world.client.upsert_stream("c", quick());
    stream.on_lost({
        let told = told.clone();
        move |error| told.lock().unwrap().push(error.message.clone())
    });
    stream.put(many(20)).await.unwrap();
    stream.finish().await.unwrap();
    assert!(stream.settled().len() == 20 && !stream.is_lost());
    assert_eq!(*told.lock().unwrap(), ["refused", "refused", "broken off"]);
}

#[tokio::test]
async fn a_point_without_an_id_is_refused_here() {
    let world = World::new(&[Script::Serve], 1 << 20).await;
    let mut stream = world.client.upsert_stream("c", quick());
    stream.put(vec![v1::PointInput::default(), point("a", 1)]).await.unwrap();
    stream.finish().await.unwrap();
    let settled = stream.settled();
    assert_eq!(settled.len(), 2);
    assert_eq!(settled[0].result.as_ref().unwrap_err().reason, "invalid_id");
    assert!(settled[1].result.is_ok());
}
