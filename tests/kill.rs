//! `kill -9` under writes, twenty times on the same data: what was acknowledged is there, what was acknowledged as
//! deleted is gone, and counts and searches agree with that.

mod serving;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc,
};

use firn_client::{Client, Error, v1};
use tokio_stream::wrappers::ReceiverStream;
use v1::{upsert_stream_request::Message as Send, upsert_stream_response::Message as Reply};

use serving::{Server, plain_collection, vector_point};

const ROUNDS: u64 = 20;
const DIM: u32 = 8;
const STREAMS: u64 = 3;
const UPSERTS: u64 = 2;
/// Acknowledged writes of a round after which the server is killed: 1 to this.
const MOST_ACKS: u64 = 400;

/// What the writers learn, as they learn it.
enum Event {
    Written(Vec<u64>),
    /// Sent for deletion: from now on it may be gone.
    Deleting(Vec<u64>),
    Deleted(Vec<u64>),
}

type Events = mpsc::Sender<Event>;

/// SplitMix64 (Steele, Lea, Flood 2014).
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A point's vector follows from its id, so that it can be checked without keeping it.
fn vector_of(id: u64) -> Vec<f32> {
    (0..u64::from(DIM)).map(|at| (mix(id * u64::from(DIM) + at) >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

fn points(ids: &[u64]) -> Vec<v1::PointInput> {
    ids.iter().map(|id| vector_point(*id, &vector_of(*id))).collect()
}

fn wire(ids: &[u64]) -> Vec<v1::PointId> {
    ids.iter().map(|id| firn_client::id(*id)).collect()
}

fn num(id: Option<&v1::PointId>) -> u64 {
    match id.unwrap().kind.as_ref().unwrap() {
        v1::point_id::Kind::Num(num) => *num,
        v1::point_id::Kind::Text(text) => panic!("expected a number, received {text:?}"),
    }
}

/// Ids of one writer in one round; no two writers share one.
fn ids_from(round: u64, writer: u64) -> u64 {
    round * 1_000_000 + writer * 100_000
}

/// Writes by stream until the server is gone.
async fn stream_writer(client: Client, first: u64, events: Events) -> Result<(), Error> {
    const POINTS: u64 = 5;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let message = |message| v1::UpsertStreamRequest { message: Some(message) };
    let start = v1::UpsertStreamStart { collection_name: "c".into() };
    let _ = sender.send(message(Send::Start(start))).await;
    tokio::spawn(async move {
        let mut next = first;
        loop {
            let ids: Vec<u64> = (next..next + POINTS).collect();
            next += POINTS;
            let data = v1::UpsertStreamData { points: points(&ids) };
            if sender.send(message(Send::Data(data))).await.is_err() {
                return;
            }
        }
    });
    let mut replies = client.points_service().upsert_stream(ReceiverStream::new(receiver)).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        match reply.message.unwrap() {
            Reply::Acks(acks) => {
                let ids = acks.ids.iter().map(|id| num(Some(id))).collect();
                let _ = events.send(Event::Written(ids));
            }
            Reply::Errors(errors) => panic!("{errors:?}"),
            _ => {}
        }
    }
    Ok(())
}

/// Writes by single calls until the server is gone.
async fn upsert_writer(client: Client, first: u64, events: Events) -> Result<(), Error> {
    let mut next = first;
    loop {
        let ids: Vec<u64> = (next..next + 3).collect();
        next += 3;
        let reply = client.upsert("c", points(&ids)).await?;
        assert_eq!(reply.durability(), v1::Durability::Fsynced);
        let _ = events.send(Event::Written(ids));
    }
}

/// Deletes points of earlier rounds until none is left or the server is gone.
async fn deleter(client: Client, victims: Vec<u64>, events: Events) -> Result<(), Error> {
    for ids in victims.chunks(4) {
        let _ = events.send(Event::Deleting(ids.to_vec()));
        client.delete("c", wire(ids)).await?;
        let _ = events.send(Event::Deleted(ids.to_vec()));
    }
    Ok(())
}

/// What must be true of the data.
#[derive(Default)]
struct Promised {
    present: BTreeSet<u64>,
    gone: BTreeSet<u64>,
}

impl Promised {
    fn note(&mut self, event: Event) -> u64 {
        match event {
            Event::Written(ids) => {
                let count = ids.len() as u64;
                self.present.extend(ids);
                count
            }
            Event::Deleting(ids) => {
                self.present.retain(|id| !ids.contains(id));
                0
            }
            Event::Deleted(ids) => {
                self.gone.extend(ids);
                0
            }
        }
    }
}

/// Starts the writers, kills the server after `acks` acknowledged writes, and gathers every answer that came.
async fn round(server: Server, round: u64, acks: u64, promised: &mut Promised) {
    let (events, happened) = mpsc::channel();
    let mut writers = Vec::new();
    for writer in 0..STREAMS {
        let client = server.client().await;
        writers.push(tokio::spawn(stream_writer(client, ids_from(round, writer), events.clone())));
    }
    for writer in STREAMS..STREAMS + UPSERTS {
        let client = server.client().await;
        writers.push(tokio::spawn(upsert_writer(client, ids_from(round, writer), events.clone())));
    }
    let victims = promised.present.iter().copied().step_by(7).take(40).collect();
    let deleter = tokio::spawn(deleter(server.client().await, victims, events.clone()));
    drop(events);

    let (known, mut counted) = (std::mem::take(promised), 0);
    let (known, happened) = tokio::task::spawn_blocking(move || {
        let mut known = known;
        while counted < acks {
            counted += known.note(happened.recv().expect("the writers write until the server is gone"));
        }
        server.kill();
        (known, happened)
    })
    .await
    .unwrap();
    *promised = known;
    for writer in writers {
        assert!(writer.await.unwrap().is_err(), "a writer ends only because the server is gone");
    }
    let _ = deleter.await.unwrap();
    for event in happened {
        promised.note(event);
    }
}

/// Everything in the collection by scrolling: ids and vectors.
async fn stored(client: &Client) -> BTreeMap<u64, Vec<f32>> {
    let mut all = BTreeMap::new();
    let mut page = 0;
    loop {
        let include = Some(v1::Include { vectors: true, ..Default::default() });
        let request = v1::ScrollRequest { collection_name: "c".into(), limit: 1000, page, include };
        let reply = client.scroll(request).await.unwrap();
        for point in reply.points {
            let id = num(point.id.as_ref());
            assert!(all.insert(id, firn_client::unpack(&point.vectors["v"])).is_none(), "{id} is stored twice");
        }
        page = reply.next_page;
        if page == 0 {
            return all;
        }
    }
}

async fn check(client: &Client, promised: &Promised, seed: u64) {
    let stored = stored(client).await;
    let lost: Vec<_> = promised.present.iter().filter(|id| !stored.contains_key(id)).collect();
    assert!(lost.is_empty(), "{} acknowledged points are lost: {:?}", lost.len(), &lost[..lost.len().min(10)]);
    let risen: Vec<_> = promised.gone.iter().filter(|id| stored.contains_key(id)).collect();
    assert!(risen.is_empty(), "{} deleted points are back: {:?}", risen.len(), &risen[..risen.len().min(10)]);
    for (id, vector) in &stored {
        let expected = vector_of(*id);
        let length = expected.iter().map(|x| x * x).sum::<f32>().sqrt();
        let is_same = vector.iter().zip(&expected).all(|(x, y)| (x - y / length).abs() < 1e-5);
        assert!(is_same, "the vector of {id} is another");
    }
    assert_eq!(client.count("c").await.unwrap(), stored.len() as u64);

    // A sample asks for itself; another one in every round.
    let ids: Vec<u64> = stored.keys().copied().collect();
    let sample: Vec<u64> = (0..100).map(|at| ids[(mix(seed + at) % ids.len() as u64) as usize]).collect();
    let queries = sample.iter().map(|id| v1::QueryRequest {
        collection_name: "c".into(),
        query: Some(firn_client::vector(&vector_of(*id))),
        limit: 1,
        ..Default::default()
    });
    for (id, result) in sample.iter().zip(client.query_batch(queries.collect()).await.unwrap()) {
        let Some(v1::query_result::Result::Response(reply)) = result.result else { panic!("{result:?}") };
        assert_eq!(num(reply.hits[0].id.as_ref()), *id, "{id} does not find itself");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let seed = match std::env::var("FIRN_TEST_SEED") {
        Ok(seed) => seed.parse().expect("FIRN_TEST_SEED is a number"),
        Err(_) => mix(u64::from(std::process::id())),
    };
    println!("seed: FIRN_TEST_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut promised = Promised::default();
    let mut server = Server::start(&data, &["--http-listen", "none"]);
    server.client().await.create_collection(plain_collection("c", DIM)).await.unwrap();
    for at in 0..ROUNDS {
        let acks = 1 + mix(seed ^ at) % MOST_ACKS;
        round(server, at, acks, &mut promised).await;
        server = Server::start(&data, &["--http-listen", "none"]);
        let (present, gone) = (promised.present.len(), promised.gone.len());
        println!("round {at}: killed after {acks} acks; {present} points must be there, {gone} must be gone");
        check(&server.client().await, &promised, seed ^ (at << 32)).await;
    }
    assert!(promised.gone.len() > 1, "deletes were acknowledged too");
}
