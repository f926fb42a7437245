//! A process that writes is killed again and again; whatever it acknowledged must be there, whole.
//!
//! This file's executable runs itself as the victim: `child` does nothing unless the parent's variable is set.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use firn_index::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIM: usize = 16;
const KILLS: usize = 20;
const DIR: &str = "FIRN_TEST_KILL_DIR";
const FIRST: &str = "FIRN_TEST_KILL_FIRST";

/// The payload's number and the vector of each point; its tokens follow from the vector.
type Model = BTreeMap<u64, (u64, Vec<f32>)>;

/// What operation number `n` does; parent and child agree on it.
enum Step {
    Upsert(Vec<u64>),
    Delete(Vec<u64>),
    SetPayload(Vec<u64>),
}

fn step(n: u64, model: &Model) -> Step {
    let mut rng = ChaCha8Rng::seed_from_u64(n);
    let mut ids: Vec<u64> = (0..rng.random_range(1..8)).map(|_| rng.random_range(0..150)).collect();
    ids.sort_unstable();
    ids.dedup();
    match n % 5 {
        0..3 => Step::Upsert(ids),
        3 => Step::Delete(ids),
        _ => Step::SetPayload(ids.into_iter().filter(|id| model.contains_key(id)).collect()),
    }
}

fn vector(n: u64, id: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(n << 32 | id);
    let vector: Vec<f32> = (0..DIM).map(|_| rng.random_range(-1.0..1.0)).collect();
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / length).collect()
}

/// A point in three has none.
fn tokens(id: u64, vector: &[f32]) -> BTreeMap<String, Tokens> {
    let values = vector.iter().chain(vector).map(|x| half::f16::from_f32(*x)).collect();
    let tokens = (!id.is_multiple_of(3)).then(|| ("v".to_owned(), Tokens { n: 2, dim: DIM, values }));
    tokens.into_iter().collect()
}

fn payload(n: u64) -> Payload {
    [("n".to_owned(), n.into())].into_iter().collect()
}

fn apply_to_model(n: u64, model: &mut Model) {
    match step(n, model) {
        Step::Upsert(ids) => ids.into_iter().for_each(|id| drop(model.insert(id, (n, vector(n, id))))),
        Step::Delete(ids) => ids.iter().for_each(|id| drop(model.remove(id))),
        Step::SetPayload(ids) => ids.iter().for_each(|id| model.get_mut(id).unwrap().0 = n),
    }
}

fn apply_to_collection(n: u64, model: &Model, collection: &Collection) {
    let num = |ids: Vec<u64>| ids.into_iter().map(PointId::Num).collect::<Vec<_>>();
    match step(n, model) {
        Step::Upsert(ids) => {
            let point = |id| {
                let (texts, vector) = (Vec::new(), vector(n, id));
                let tokens = tokens(id, &vector);
                NewPoint {
                    id: id.into(),
                    texts,
                    payload: payload(n),
                    vectors: [("v".to_owned(), vector)].into(),
                    tokens,
                }
            };
            collection.upsert(ids.into_iter().map(point).collect()).map(drop).unwrap();
        }
        Step::Delete(ids) => collection.delete(&num(ids)).map(drop).unwrap(),
        Step::SetPayload(ids) => {
            collection.set_payload(&num(ids), payload(n), PayloadChange::Overwrite).map(drop).unwrap()
        }
    }
}

fn open(dir: &Path) -> (Database, Collection) {
    // Small, so that builds and merges are under way when the kill comes.
    let options = Options { buffer_limit: 40, build_threads: 1, min_free_bytes: 0, ..Options::default() };
    let database = Database::open(dir, options).unwrap();
    let config = CollectionConfig {
        vectors: [("v".to_owned(), VectorConfig::new(DIM))].into(),
        tokens: [("v".to_owned(), TokenConfig { n: 2, dim: DIM })].into(),
        ..CollectionConfig::default()
    };
    let collection = database.collection("c").or_else(|_| database.create_collection("c", config)).unwrap();
    (database, collection)
}

/// What is stored, as the model has it.
fn stored(collection: &Collection) -> Model {
    let reader = collection.reader();
    let page = reader.scroll(0, 1000, Fields { payload: true, texts: false, vectors: true, tokens: true }).unwrap();
    assert_eq!(page.next, None);
    let entry = |point: Point| {
        let PointId::Num(id) = point.id else { panic!("no such id was written") };
        assert!(close_tokens(&point.tokens, &tokens(id, &point.vectors["v"])), "point {id}");
        (id, (point.payload["n"].as_u64().unwrap(), point.vectors["v"].clone()))
    };
    page.points.into_iter().map(entry).collect()
}

/// A stored vector was scaled once more than the one that tokens were made of, which may round them otherwise.
fn close_tokens(a: &BTreeMap<String, Tokens>, b: &BTreeMap<String, Tokens>) -> bool {
    let close = |a: &Tokens, b: &Tokens| {
        a.values.len() == b.values.len()
            && a.values.iter().zip(&b.values).all(|(x, y)| (x.to_f32() - y.to_f32()).abs() < 1e-3)
    };
    a.len() == b.len() && a.iter().zip(b).all(|((i, a), (j, b))| i == j && close(a, b))
}

fn same(a: &Model, b: &Model) -> bool {
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-6);
    a.len() == b.len() && a.iter().zip(b).all(|((i, (m, v)), (j, (n, w)))| i == j && m == n && close(v, w))
}

#[test]
fn child() {
    let (Ok(dir), Ok(first)) = (std::env::var(DIR), std::env::var(FIRST)) else { return };
    let (_database, collection) = open(Path::new(&dir));
    let mut model = stored(&collection);
    for n in first.parse::<u64>().unwrap().. {
        apply_to_collection(n, &model, &collection);
        apply_to_model(n, &mut model);
        println!("done {n}");
        std::io::stdout().flush().unwrap();
    }
}

fn start_child(dir: &Path, first: u64) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

/// Kills a child after some acknowledgements, and gives the last one that it had sent.
fn run_and_kill(dir: &Path, first: u64, after: usize) -> Option<u64> {
    let (mut child, stdout) = start_child(dir, first);
    let mut last = None;
    let mut n_seen = 0;
    for line in stdout.lines() {
        // The last line may be cut off by the kill: then nobody was told.
        let Some(n) = line.unwrap().strip_prefix("done ").and_then(|n| n.parse().ok()) else { continue };
        last = last.max(Some(n));
        n_seen += 1;
        if n_seen == after {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(n_seen >= after, "the child ended by itself");
    last
}

#[test]
fn acknowledged_writes_survive_kills() {
    let dir = tempfile::tempdir().unwrap();
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut model = Model::new();
    let mut next = 0;
    for round in 0..KILLS {
        let last = run_and_kill(dir.path(), next, rng.random_range(1..60)).expect("something was acknowledged");
        (next..=last).for_each(|n| apply_to_model(n, &mut model));
        next = last + 1;
        let (_database, collection) = open(dir.path());
        let found = stored(&collection);
        if !same(&found, &model) {
            // The operation that was under way may be there, but only as a whole.
            apply_to_model(next, &mut model);
            next += 1;
        }
        assert!(same(&found, &model), "round {round}, {} points, before operation {next}", model.len());
        let reader = collection.reader();
        for (id, (_, vector)) in &model {
            let row = reader.row(&PointId::Num(*id)).unwrap().unwrap();
            let hits = reader.search(&Search { vector, using: "v", limit: 3, ef: None, exact: false }).unwrap();
            assert!(hits.iter().any(|hit| hit.row == row), "round {round}: {id} is not found");
        }
        let report = collection.verify().unwrap();
        assert_eq!((report.damages, report.unreachable_vectors), (Vec::new(), 0), "round {round}");
    }
}

#[test]
fn a_second_opening_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (database, _collection) = open(dir.path());
    let here = Database::open(dir.path(), Options::default());
    assert!(matches!(here, Err(Error::Locked { .. })));
    let (child, _stdout) = start_child(dir.path(), 0);
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success(), "another process opened the same directory");
    database.close().unwrap();
    open(dir.path());
}
