//! Queries by several vectors, judged by the double loop over all points.

use std::collections::BTreeMap;

use firn_index::{
    Collection, CollectionConfig, Database, Fields, NewPoint, Options, Payload, PointId, Text, VectorConfig,
};

use super::*;
use crate::engine::Loading;

const N: u64 = 400;

pub(super) struct World {
    pub engine: Engine,
    points: Vec<(u64, BTreeMap<String, Vec<f32>>)>,
    _dir: tempfile::TempDir,
}

/// Numbers between -1 and 1 that any machine gives alike (an LCG with Knuth's constants).
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    next();
    (0..n).map(|_| next()).collect()
}

impl World {
    /// Each text says what is left of the id by 7 and by 5. Vectors "a", "b" and "c"; a third of the points lack one of them, some lack two. Some are in segments, some are not.
    pub fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { min_free_bytes: 0, buffer_limit: 150, ..Options::default() };
        let db = Database::open(dir.path(), options).unwrap();
        let vectors = [("a", 4), ("b", 6), ("c", 3)].map(|(name, dim)| (name.to_owned(), VectorConfig::new(dim)));
        let config = CollectionConfig { vectors: vectors.clone().into(), ..CollectionConfig::default() };
        let collection = db.create_collection("c", config).unwrap();
        let mut points = Vec::new();
        for id in 0..N {
            let has = |at: u64| !(id + at).is_multiple_of(4) || id.is_multiple_of(7);
            let named = vectors.iter().zip(0..).filter(|(_, at)| has(*at));
            let of = named.map(|((name, vector), at)| (name.clone(), numbers(id * 3 + at, vector.dim))).collect();
            points.push((id, of));
        }
        for part in points.chunks(100) {
            collection.upsert(part.iter().map(new_point).collect()).unwrap();
        }
        collection.delete(&[PointId::Num(5), PointId::Num(250)]).unwrap();
        points.retain(|(id, _)| ![5, 250].contains(id));
        World { engine: Engine::new(db, Vec::new(), Loading::Fixed(firn_model::Device::Cpu)), points, _dir: dir }
    }

    pub fn collection(&self) -> Collection {
        self.engine.db().collection("c").unwrap()
    }

    pub fn ask(&self, request: &Request) -> Vec<(u64, f32)> {
        let hits = run(&self.engine, request).unwrap().hits;
        hits.iter().map(|hit| (number(&hit.id), hit.score)).collect()
    }

    pub fn refuses(&self, request: &Request, part: &str) {
        let error = run(&self.engine, request).expect_err(part).to_string();
        assert!(error.contains(part), "expected {part:?} in {error}");
    }

    /// Every point scored, best first; ties in the order of writing.
    pub fn judged(&self, queries: &BTreeMap<String, Vec<f32>>, weights: &[(&str, f32)]) -> Vec<(u64, f32)> {
        let total: f32 = weights.iter().map(|(_, weight)| weight).sum();
        let score = |vectors: &BTreeMap<String, Vec<f32>>| {
            let part = |(name, weight): &(&str, f32)| match (queries.get(*name), vectors.get(*name)) {
                (Some(query), Some(vector)) => weight * cosine(query, vector),
                _ => 0.0,
            };
            weights.iter().map(part).sum::<f32>() / total
        };
        let is_found = |vectors: &BTreeMap<String, Vec<f32>>| {
            weights.iter().any(|(name, weight)| *weight > 0.0 && vectors.contains_key(*name))
        };
        let found = self.points.iter().filter(|(_, vectors)| is_found(vectors));
        let mut all: Vec<(u64, f32)> = found.map(|(id, vectors)| (*id, score(vectors))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all
    }
}

fn new_point((id, vectors): &(u64, BTreeMap<String, Vec<f32>>)) -> NewPoint {
    let text = Text { text: format!("seven{} five{}", id % 7, id % 5), language: String::new() };
    let (payload, tokens) = (Payload::new(), BTreeMap::new());
    NewPoint { id: PointId::Num(*id), texts: vec![text], payload, vectors: vectors.clone(), tokens }
}

pub(super) fn number(id: &PointId) -> u64 {
    let PointId::Num(number) = id else { panic!("ids are numbers") };
    *number
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

pub(super) fn queries(seed: u64) -> BTreeMap<String, Vec<f32>> {
    [("a", 4), ("b", 6), ("c", 3)].map(|(name, dim)| (name.to_owned(), numbers(seed, dim))).into()
}

pub(super) fn request(content: Content) -> Request {
    Request {
        collection: "c".into(),
        content,
        using: None,
        blend: None,
        full_text: None,
        limit: Some(30),
        offset: 0,
        candidates: None,
        ef: None,
        exact: false,
        fields: Fields::default(),
        score_threshold: None,
        rerank: Rerank::default(),
        deadline: None,
        max_bytes: usize::MAX,
    }
}

pub(super) fn weighed(weights: &[(&str, f32)], content: Content) -> Request {
    let blend = weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
    Request { blend: Some(blend), ..request(content) }
}

pub(super) fn assert_same(received: &[(u64, f32)], expected: &[(u64, f32)]) {
    assert_eq!(received.len(), expected.len());
    for (place, (received, expected)) in received.iter().zip(expected).enumerate() {
        assert!((received.1 - expected.1).abs() < 1e-5, "place {place}: expected {expected:?}, received {received:?}");
        assert!(received.0 == expected.0 || (received.1 - expected.1).abs() < 1e-6, "place {place}");
    }
}

const BLENDS: [&[(&str, f32)]; 4] =
    [&[("a", 1.0), ("b", 0.7)], &[("a", 0.2), ("b", 3.0), ("c", 1.0)], &[("a", 0.0), ("c", 2.0)], &[("b", 1.0)]];

#[test]
fn exact_answers_are_those_of_the_double_loop() {
    let world = World::new();
    for (seed, weights) in (1000..).zip(BLENDS) {
        let expected = world.judged(&queries(seed), weights);
        for (offset, limit) in [(0, 30), (25, 10), (0, 1000)] {
            let asked = weighed(weights, Content::Vectors(queries(seed).into()));
            let received = world.ask(&Request { exact: true, offset, limit: Some(limit), ..asked });
            assert_same(&received, &expected[offset..(offset + limit).min(expected.len())]);
        }
    }
}

#[test]
fn graphs_find_what_the_double_loop_finds() {
    let world = World::new();
    world.collection().optimize().unwrap();
    let (mut n_found, mut n_wanted) = (0, 0);
    for seed in 2000..2020 {
        for weights in BLENDS {
            let expected = world.judged(&queries(seed), weights);
            let received =
                world.ask(&Request { limit: Some(10), ..weighed(weights, Content::Vectors(queries(seed).into())) });
            for (id, score) in &received {
                let judged = expected.iter().find(|(known, _)| known == id).unwrap().1;
                assert!((score - judged).abs() < 1e-5, "a hit is truly scored");
            }
            n_found += expected[..10].iter().filter(|(id, _)| received.iter().any(|(found, _)| found == id)).count();
            n_wanted += 10;
        }
    }
    let recall = f64::from(n_found as u32) / f64::from(n_wanted);
    assert!(recall >= 0.97, "recall@10 {recall}");
}

#[test]
fn a_point_asks_with_the_vectors_it_has() {
    let world = World::new();
    let weights = [("a", 1.0), ("b", 0.5)];
    for (id, vectors) in world.points.iter().take(12) {
        let asked = Request { exact: true, ..weighed(&weights, Content::Id(PointId::Num(*id))) };
        let mut expected = world.judged(vectors, &weights);
        let asks_with: Vec<&str> = ["a", "b"].into_iter().filter(|name| vectors.contains_key(*name)).collect();
        let has_one = |id: u64| {
            let (_, of) = world.points.iter().find(|(known, _)| *known == id).unwrap();
            asks_with.iter().any(|name| of.contains_key(*name))
        };
        expected.retain(|(found, _)| found != id && has_one(*found));
        assert_same(&world.ask(&asked), &expected[..30]);
    }
}

#[test]
fn each_hit_tells_its_cosines() {
    let world = World::new();
    let asked = weighed(&[("a", 1.0), ("b", 3.0), ("c", 0.0)], Content::Vectors(queries(3).into()));
    let hits = run(&world.engine, &asked).unwrap().hits;
    assert!(hits.iter().any(|hit| hit.cosines.len() == 2) && hits.iter().any(|hit| hit.cosines.len() == 1));
    for hit in hits {
        let cosine = |name: &str| hit.cosines.get(name).copied().unwrap_or(0.0);
        assert!((hit.cosine - (cosine("a") + 3.0 * cosine("b")) / 4.0).abs() < 1e-6);
        assert!(!hit.cosines.contains_key("c"), "what weighs nothing is not looked at");
    }
    let plain = Request { using: Some("a".into()), ..request(Content::Vector(numbers(1, 4))) };
    assert!(run(&world.engine, &plain).unwrap().hits[0].cosines.is_empty());
}

#[test]
fn the_blend_of_a_collection_answers_who_names_no_vector() {
    let world = World::new();
    let asked = Request { exact: true, ..request(Content::Vectors(queries(4).into())) };
    assert_same(&world.ask(&asked), &world.judged(&queries(4), &[("a", 1.0), ("b", 1.0), ("c", 1.0)])[..30]);
    let kept: BTreeMap<String, f32> = [("a".to_owned(), 1.0), ("b".to_owned(), 2.0)].into();
    Blend::new(kept).write(&world.collection()).unwrap();
    assert_same(&world.ask(&asked), &world.judged(&queries(4), &[("a", 1.0), ("b", 2.0)])[..30]);
    let named = Request { using: Some("b".into()), ..asked.clone() };
    assert_same(&world.ask(&named), &world.judged(&queries(4), &[("b", 1.0)])[..30]);
    let only_b = Content::Vectors(BTreeMap::from([("b".to_owned(), numbers(4, 6))]).into());
    let half = world.ask(&Request { exact: true, ..request(only_b) });
    let expected: Vec<(u64, f32)> = world.judged(&queries(4), &[("b", 1.0)]);
    assert_eq!(half[0].0, expected[0].0);
    assert!((half[0].1 - expected[0].1 * 2.0 / 3.0).abs() < 1e-6, "what was not given counts as 0");
    let other = Request { exact: true, ..weighed(&[("c", 1.0)], asked.content) };
    assert_same(&world.ask(&other), &world.judged(&queries(4), &[("c", 1.0)])[..30]);
}

#[test]
fn what_cannot_be_blended_says_why() {
    let world = World::new();
    let two = [("a", 1.0), ("b", 1.0)];
    let vectors = || Content::Vectors(queries(5).into());
    world.refuses(&Request { using: Some("a".into()), ..weighed(&two, vectors()) }, "either a blend or using");
    world.refuses(&weighed(&[("a", 1.0), ("z", 1.0)], vectors()), "blend: expected names of [\"a\", \"b\", \"c\"]");
    world.refuses(&weighed(&two, Content::Vector(numbers(1, 4))), "one vector alone");
    let only_a = BTreeMap::from([("a".to_owned(), numbers(1, 4))]);
    world.refuses(&weighed(&two, Content::Vectors(only_a.into())), "expected one named \"b\", received [\"a\"]");
    let text = Text { text: "x".into(), language: String::new() };
    world.refuses(&weighed(&two, Content::Text(text)), "has no model");
    let lone = Request { exact: true, ..weighed(&[("a", 2.0)], Content::Vector(numbers(1, 4))) };
    assert_eq!(world.ask(&lone).len(), 30);
}
