//! Random operations, with reopening, against a map that does the obvious thing.

use std::collections::BTreeMap;

use firn_index::*;
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

const DIM: usize = 8;

/// What a point should be: texts, payload and unit vectors.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    texts: Vec<Text>,
    payload: Payload,
    vectors: BTreeMap<String, Vec<f32>>,
    tokens: BTreeMap<String, Tokens>,
    /// When it was written: rows grow in this order.
    written: u64,
}

type Model = BTreeMap<PointId, Known>;

struct World {
    rng: ChaCha8Rng,
    dir: tempfile::TempDir,
    options: Options,
    database: Option<Database>,
    model: Model,
    writes: u64,
    /// A reader and what it must go on seeing.
    held: Option<(Reader, Model)>,
}

#[test]
fn random_operations_agree_with_a_map() {
    let seed = std::env::var("FIRN_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("FIRN_TEST_SEED={seed}");
    let mut world = World::new(seed, 40);
    for _ in 0..600 {
        world.step();
    }
    world.compare();
}

impl World {
    fn new(seed: u64, buffer_limit: usize) -> World {
        let options = Options { buffer_limit, build_threads: 2, min_free_bytes: 0, ..Options::default() };
        let mut world = World {
            rng: ChaCha8Rng::seed_from_u64(seed),
            dir: tempfile::tempdir().unwrap(),
            options,
            database: None,
            model: Model::new(),
            writes: 0,
            held: None,
        };
        let vectors = [("image", DIM), ("text", DIM + 3)].map(|(n, dim)| (n.to_owned(), VectorConfig::new(dim)));
        let tokens = [("image", 4), ("text", 2)].map(|(of, n)| (of.to_owned(), TokenConfig { n, dim: DIM }));
        let config = CollectionConfig { vectors: vectors.into(), tokens: tokens.into(), ..CollectionConfig::default() };
        world.open().create_collection("c", config).unwrap();
        world
    }

    fn open(&mut self) -> &Database {
        let (path, options) = (self.dir.path(), self.options.clone());
        self.database.get_or_insert_with(|| Database::open(path, options).unwrap())
    }

    fn collection(&mut self) -> Collection {
        self.open().collection("c").unwrap()
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..45 => self.upsert(),
            45..60 => self.delete(),
            60..75 => self.set_payload(),
            75..83 => self.search(),
            83..85 => self.search_text(),
            85..90 => self.held = Some((self.collection().reader(), self.model.clone())),
            90..93 => self.compare_held(),
            93..95 => self.reopen(),
            95..97 => self.collection().optimize().unwrap(),
            97 => drop(self.collection().rebuild().unwrap()),
            _ => self.compare(),
        }
    }

    fn id(&mut self) -> PointId {
        match self.rng.random_range(0..120u64) {
            n if n % 3 == 0 => PointId::Text(format!("t{n}")),
            n => PointId::Num(n),
        }
    }

    fn payload(&mut self) -> Payload {
        let fields = ["a", "b", "c"].into_iter().filter(|_| self.rng.random_bool(0.5)).collect::<Vec<_>>();
        fields.into_iter().map(|f| (f.to_owned(), self.rng.random_range(0..9).into())).collect()
    }

    fn vector(&mut self, dim: usize) -> Vec<f32> {
        // Few directions, so that there are exact duplicates.
        let centre = self.rng.random_range(0..6);
        let noise = if self.rng.random_bool(0.3) { 0.0 } else { 0.1 };
        (0..dim).map(|i| (if i == centre { 2.0 } else { 0.0 }) + noise * self.rng.random_range(-1.0f32..1.0)).collect()
    }

    fn tokens(&mut self, n: usize) -> Tokens {
        let values = (0..n * DIM).map(|_| half::f16::from_f32(self.rng.random_range(-9.0f32..9.0))).collect();
        Tokens { n, dim: DIM, values }
    }

    fn upsert(&mut self) {
        let n = self.rng.random_range(1..12);
        let mut points = BTreeMap::new();
        for _ in 0..n {
            let id = self.id();
            let mut vectors = BTreeMap::from([("image".to_owned(), self.vector(DIM))]);
            if self.rng.random_bool(0.7) {
                vectors.insert("text".to_owned(), self.vector(DIM + 3));
            }
            let texts = vec![Text { text: format!("text of {id}"), language: "en".into() }];
            let tokens =
                [("image", 4), ("text", 2)].into_iter().filter(|_| self.rng.random_bool(0.6)).collect::<Vec<_>>();
            let tokens = tokens.into_iter().map(|(of, n)| (of.to_owned(), self.tokens(n))).collect();
            points.insert(id.clone(), NewPoint { id, texts, payload: self.payload(), vectors, tokens });
        }
        let points: Vec<NewPoint> = points.into_values().collect();
        let commit = self.collection().upsert(points.clone()).unwrap();
        assert_eq!(commit.changed, points.len() as u64);
        for NewPoint { id, texts, payload, vectors, tokens } in points {
            let vectors = vectors.into_iter().map(|(name, v)| (name, unit(&v))).collect();
            self.writes += 1;
            self.model.insert(id, Known { texts, payload, vectors, tokens, written: self.writes });
        }
    }

    fn delete(&mut self) {
        let ids: Vec<PointId> = (0..self.rng.random_range(1..6)).map(|_| self.id()).collect();
        let changed = self.collection().delete(&ids).unwrap().changed;
        let expected = ids.iter().filter(|id| self.model.remove(id).is_some()).count();
        assert_eq!(changed, expected as u64);
    }

    fn set_payload(&mut self) {
        let ids: Vec<PointId> = (0..self.rng.random_range(1..4)).map(|_| self.id()).collect();
        let mut payload = self.payload();
        payload.insert("b".into(), serde_json::Value::Null);
        let change = *[PayloadChange::Merge, PayloadChange::Overwrite].choose(&mut self.rng).unwrap();
        let result = self.collection().set_payload(&ids, payload.clone(), change);
        if ids.iter().any(|id| !self.model.contains_key(id)) {
            assert!(matches!(result, Err(Error::PointNotFound { .. })));
            return;
        }
        result.unwrap();
        for id in ids {
            let known = &mut self.model.get_mut(&id).unwrap().payload;
            match change {
                PayloadChange::Overwrite => *known = payload.clone(),
                PayloadChange::Merge => {
                    known.extend(payload.clone());
                    known.retain(|_, value| !value.is_null());
                }
            }
        }
    }

    fn search(&mut self) {
        let reader = self.collection().reader();
        for (using, dim) in [("image", DIM), ("text", DIM + 3)] {
            let (vector, limit) = (self.vector(dim), self.rng.random_range(1..200));
            check_search(&reader, &self.model, using, &vector, limit);
        }
    }

    fn reopen(&mut self) {
        self.held = None;
        self.open();
        let database = self.database.take().unwrap();
        if self.rng.random_bool(0.5) {
            database.close().unwrap();
            assert!(matches!(database.collection("c"), Err(Error::Closed)));
        }
    }

    /// Every text says whose it is.
    fn search_text(&mut self) {
        let id = self.id();
        let reader = self.collection().reader();
        let (all, one) = ("text of".to_owned(), id.to_string());
        let found = reader.search_text(&TextSearch { text: &all, limit: 1000 }).unwrap();
        assert_eq!(found.len(), self.model.len());
        let found = reader.search_text(&TextSearch { text: &one, limit: 1000 }).unwrap();
        let rows: Vec<Row> = reader.row(&id).unwrap().into_iter().collect();
        assert_eq!(found.iter().map(|candidate| candidate.row).collect::<Vec<_>>(), rows, "{id}");
    }

    fn compare_held(&mut self) {
        if let Some((reader, model)) = &self.held {
            compare(reader, model);
        }
    }

    fn compare(&mut self) {
        let collection = self.collection();
        compare(&collection.reader(), &self.model);
        let report = collection.verify().unwrap();
        assert_eq!(report.damages, []);
        assert_eq!(report.unreachable_vectors, 0);
    }
}

/// Everything a reader can tell agrees with the model.
fn compare(reader: &Reader, model: &Model) {
    let all = Fields { payload: true, texts: true, vectors: true, tokens: true };
    assert_eq!(reader.count(), model.len() as u64);
    let mut scrolled = Vec::new();
    let mut from = Some(0);
    while let Some(row) = from {
        let page = reader.scroll(row, 7, all).unwrap();
        scrolled.extend(page.points);
        from = page.next;
    }
    let mut in_order: Vec<_> = model.iter().collect();
    in_order.sort_by_key(|(_, known)| known.written);
    assert_eq!(
        scrolled.iter().map(|p| &p.id).collect::<Vec<_>>(),
        in_order.iter().map(|(id, _)| *id).collect::<Vec<_>>()
    );
    for (point, (id, known)) in scrolled.iter().zip(in_order) {
        assert_eq!((&point.texts, &point.payload), (&known.texts, &known.payload), "{id}");
        assert!(close(&point.vectors, &known.vectors), "{id}");
        assert_eq!(point.tokens, known.tokens, "{id}");
        assert_eq!(reader.tokens(point.row, "text").unwrap().as_ref(), known.tokens.get("text"), "{id}");
        assert_eq!(reader.row(id).unwrap(), Some(point.row));
        assert_eq!(reader.get(std::slice::from_ref(id), all).unwrap(), std::slice::from_ref(point));
        assert_eq!(reader.vector(id, "text").unwrap().is_some(), known.vectors.contains_key("text"));
    }
    assert_eq!(reader.row(&PointId::Num(1 << 40)).unwrap(), None);
    check_search(reader, model, "image", &[1.0; DIM], 50);
}

/// Exact search is the double loop; approximate search gives as many hits, truly scored, and rarely misses.
fn check_search(reader: &Reader, model: &Model, using: &str, vector: &[f32], limit: usize) {
    let query = unit(vector);
    let mut expected: Vec<(f32, u64)> =
        model.values().filter_map(|known| Some((dot(&query, known.vectors.get(using)?), known.written))).collect();
    expected.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let all = reader.cosines(using, vector).unwrap();
    assert_eq!(all.len(), expected.len());
    for found in all.iter().step_by(5) {
        assert_eq!(reader.cosine(found.row, using, vector).unwrap(), Some(found.score));
    }
    expected.truncate(limit);
    for exact in [true, false] {
        let hits = reader.search(&Search { vector, using, limit, ef: None, exact }).unwrap();
        assert_eq!(hits.len(), expected.len());
        assert!(hits.is_sorted_by(|a, b| a.score > b.score || a.score == b.score && a.row < b.row));
        let far = hits.iter().zip(&expected).filter(|(hit, (score, _))| (hit.score - score).abs() > 1e-5).count();
        assert!(far == 0, "exact {exact}: {far} of {} hits differ in score", hits.len());
    }
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let length = dot(vector, vector).sqrt();
    vector.iter().map(|x| x / length).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn close(a: &BTreeMap<String, Vec<f32>>, b: &BTreeMap<String, Vec<f32>>) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|((an, a), (bn, b))| an == bn && a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-6))
}
