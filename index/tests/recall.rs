//! Approximate search against the obvious double loop, on clustered data that arrives grouped.

use std::collections::BTreeMap;

use firn_index::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIM: usize = 32;
const LIMIT: usize = 10;

/// Clusters one after the other, the way files of a folder come.
fn grouped(seed: u64, n_clusters: usize, per_cluster: usize, spread: f32) -> Vec<Vec<f32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut vectors = Vec::new();
    for _ in 0..n_clusters {
        let centre: Vec<f32> = (0..DIM).map(|_| rng.random_range(-1.0..1.0)).collect();
        for _ in 0..per_cluster {
            let vector: Vec<f32> = centre.iter().map(|x| x + spread * rng.random_range(-1.0f32..1.0)).collect();
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vectors.push(vector.iter().map(|x| x / length).collect());
        }
    }
    vectors
}

fn filled(database: &Database, name: &str, vectors: &[Vec<f32>]) -> Collection {
    let config =
        CollectionConfig { vectors: [("v".to_owned(), VectorConfig::new(DIM))].into(), ..CollectionConfig::default() };
    let collection = database.create_collection(name, config).unwrap();
    let ids: Vec<usize> = (0..vectors.len()).collect();
    for batch in ids.chunks(200) {
        let point = |&i: &usize| NewPoint {
            id: PointId::Num(i as u64),
            texts: Vec::new(),
            payload: Payload::new(),
            vectors: BTreeMap::from([("v".to_owned(), vectors[i].clone())]),
            tokens: BTreeMap::new(),
        };
        collection.upsert(batch.iter().map(point).collect()).unwrap();
    }
    collection
}

fn search(reader: &Reader, vector: &[f32], exact: bool) -> Vec<Candidate> {
    reader.search(&Search { vector, using: "v", limit: LIMIT, ef: None, exact }).unwrap()
}

fn double_loop(vectors: &[Vec<f32>], query: &[f32]) -> Vec<Row> {
    let score = |v: &[f32]| v.iter().zip(query).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let mut rows: Vec<(f64, Row)> = vectors.iter().enumerate().map(|(row, v)| (score(v), row as Row)).collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    rows.into_iter().take(LIMIT).map(|(_, row)| row).collect()
}

fn recall(found: &[Vec<Row>], expected: &[Vec<Row>]) -> f64 {
    let same: usize = found.iter().zip(expected).map(|(f, e)| e.iter().filter(|row| f.contains(row)).count()).sum();
    same as f64 / expected.iter().map(Vec::len).sum::<usize>() as f64
}

#[test]
fn grouped_clusters_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { buffer_limit: 1000, build_threads: 2, min_free_bytes: 0, ..Options::default() };
    let database = Database::open(dir.path(), options).unwrap();
    for (name, n_clusters, per_cluster, spread) in [("tight", 20, 180, 0.03), ("wide", 90, 40, 0.4)] {
        // One in twenty is kept back to ask with.
        let drawn = grouped(7, n_clusters, per_cluster, spread).into_iter().enumerate();
        let (queries, vectors): (Vec<_>, Vec<_>) = drawn.partition(|(i, _)| i % 20 == 0);
        let [queries, vectors] = [queries, vectors].map(|list| list.into_iter().map(|(_, v)| v).collect::<Vec<_>>());
        let collection = filled(&database, name, &vectors);
        let queries: Vec<&Vec<f32>> = queries.iter().chain(vectors.iter().step_by(37)).collect();
        let expected: Vec<Vec<Row>> = queries.iter().map(|q| double_loop(&vectors, q)).collect();
        // First with whatever the background has built by now, then with one segment.
        for is_optimized in [false, true] {
            if is_optimized {
                collection.optimize().unwrap();
                assert_eq!(collection.info().segments_count, 1);
                assert_eq!(collection.info().buffered_vectors_count, 0);
            }
            let reader = collection.reader();
            let rows = |exact| -> Vec<Vec<Row>> {
                queries.iter().map(|q| search(&reader, q, exact).iter().map(|hit| hit.row).collect()).collect()
            };
            let exact = recall(&rows(true), &expected);
            assert!(exact >= 0.999, "{name}: exact search recalls {exact} of the double loop");
            let approximate = recall(&rows(false), &expected);
            assert!(approximate >= 0.99, "{name}: recall@{LIMIT} {approximate}");
        }
        let reader = collection.reader();
        let is_lost = |(row, v): &(usize, &Vec<f32>)| !search(&reader, v, false).iter().any(|h| h.row == *row as Row);
        assert_eq!(vectors.iter().enumerate().filter(is_lost).count(), 0, "{name}: points that do not find themselves");
        assert_eq!(collection.verify().unwrap().unreachable_vectors, 0);
    }
}

#[test]
fn deleted_points_are_walked_through_but_not_answered() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { buffer_limit: 100_000, build_threads: 2, min_free_bytes: 0, ..Options::default() };
    let database = Database::open(dir.path(), options).unwrap();
    let vectors = grouped(9, 10, 150, 0.2);
    let collection = filled(&database, "c", &vectors);
    collection.optimize().unwrap();
    // A reader from before goes on seeing all of them.
    let before = collection.reader();
    for (share, deleted) in [(8, 0..180), (2, 180..900), (1, 900..1495)] {
        let ids: Vec<PointId> = deleted.clone().map(PointId::Num).collect();
        collection.delete(&ids).unwrap();
        let (reader, n_left) = (collection.reader(), 1500 - deleted.end as usize);
        assert_eq!(reader.count(), n_left as u64);
        let queries = || vectors.iter().step_by(50);
        let left: Vec<Vec<f32>> = vectors[deleted.end as usize..].to_vec();
        let shifted = |q: &Vec<f32>| double_loop(&left, q).iter().map(|row| row + deleted.end as Row).collect();
        let expected: Vec<Vec<Row>> = queries().map(shifted).collect();
        let found: Vec<Vec<Row>> =
            queries().map(|q| search(&reader, q, false).iter().map(|h| h.row).collect()).collect();
        assert!(found.iter().all(|rows| rows.len() == LIMIT.min(n_left)));
        let recall = recall(&found, &expected);
        assert!(recall >= 0.98, "one in {share} gone: recall {recall}");
        assert_eq!(before.count(), 1500);
        assert_eq!(search(&before, &vectors[0], false)[0].row, 0);
    }
    collection.optimize().unwrap();
    assert_eq!(collection.info().tombstones_count, 0);
    assert_eq!(search(&collection.reader(), &vectors[0], false).len(), 5);
}

#[test]
fn a_reader_keeps_its_generation_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { buffer_limit: 50, build_threads: 1, min_free_bytes: 0, ..Options::default() };
    let database = Database::open(dir.path(), options).unwrap();
    let vectors = grouped(10, 10, 20, 0.3);
    let collection = filled(&database, "c", &vectors);
    let reader = collection.reader();
    let all = Fields { payload: true, texts: true, vectors: true, tokens: false };
    let points = reader.scroll(0, 1000, all).unwrap().points;
    let hits: Vec<_> = vectors.iter().map(|v| search(&reader, v, true)).collect();
    std::thread::scope(|scope| {
        for writer in 0..3u64 {
            let (collection, vectors) = (&collection, &vectors);
            scope.spawn(move || {
                for i in (writer..200).step_by(3) {
                    let vectors = [("v".to_owned(), vectors[(i as usize + 50) % 200].clone())].into();
                    let id = PointId::Num(i);
                    let new = NewPoint {
                        id: id.clone(),
                        texts: Vec::new(),
                        payload: Payload::new(),
                        vectors,
                        tokens: BTreeMap::new(),
                    };
                    match i % 3 {
                        0 => drop(collection.delete(&[id]).unwrap()),
                        1 => drop(collection.upsert(vec![new]).unwrap()),
                        _ => {
                            let payload = [("changed".to_owned(), true.into())].into_iter().collect();
                            collection.set_payload(&[id], payload, PayloadChange::Merge).unwrap();
                        }
                    }
                }
            });
        }
        for (point, hits) in points.iter().zip(&hits).cycle().take(600) {
            assert_eq!(&reader.get(std::slice::from_ref(&point.id), all).unwrap()[0], point);
            assert_eq!(&search(&reader, &point.vectors["v"], true)[..1], &hits[..1]);
        }
    });
    collection.optimize().unwrap();
    assert_eq!(reader.scroll(0, 1000, all).unwrap().points, points);
    assert_eq!(vectors.iter().map(|v| search(&reader, v, true)).collect::<Vec<_>>(), hits);
    assert_eq!(collection.reader().count(), 133);
    assert_eq!(collection.verify().unwrap().damages, []);
}
