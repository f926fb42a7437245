//! Pictures with a caption each, and two networks that may re-rank them.

use std::{collections::BTreeMap, path::Path};

use firn::{
    engine::{Engine, Loading},
    query::{self, Content, Given, Item, Named, Request},
};
use firn_index::{Collection, Database, Fields, Options, Point, PointId, Text};
use firn_model::{
    Device,
    fusion::{Direction, Ensemble, Items, Weight},
    scenes::{self, Style},
};

use crate::common::Scratch;

pub const N: u64 = 24;
/// What logits and hubness count here: enough to change the order.
pub const WEIGHTS: [Weight; 2] = [Weight { logit: 0.6, hubness: 0.4 }, Weight { logit: 0.9, hubness: 0.5 }];

/// Pictures with a caption each, and some without, in "c" with tokens; two networks, of which the second, of tokens, is active. They
/// are taken for judged on candidates by this blend.
pub fn scratch(blend: &[(&str, f32)]) -> Scratch {
    let scratch = Scratch::new();
    for index in 0..N + 4 {
        let (scene, folder) = (scenes::scene(7, index), if index < N { "photos" } else { "bare" });
        scratch.write(&format!("{folder}/{index}.png"), []);
        scene.draw(64).save(scratch.path().join(format!("{folder}/{index}.png"))).unwrap();
        if index < N {
            scratch.write(&format!("photos/{index}.txt"), scene.caption("en", Style::Short));
        }
    }
    scratch.ok(&["ingest", "photos", "--collection", "c", "--tokens", "4x4"]);
    scratch.ok(&["ingest", "bare", "--collection", "c"]);
    let small = ["--steps", "8", "--lists", "8", "--dim", "16", "--wide", "16", "--evaluate-every", "4"];
    for kind in ["mlp", "facet-fusion-1way"] {
        scratch.ok(&[&["train", "fusion", "c", "--held-out", "0.3", "--kind", kind], &small[..]].concat());
    }
    scratch.ok(&["reranker", "activate", "c", "2", "--force"]);
    let db = open(&scratch);
    let collection = db.collection("c").unwrap();
    let state = collection.attachment("rerankers").unwrap().unwrap();
    let mut state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    for version in state["versions"].as_array_mut().unwrap() {
        version["weights"] = serde_json::json!(WEIGHTS);
        version["blend"] = serde_json::json!(blend.iter().copied().collect::<BTreeMap<&str, f32>>());
    }
    collection.attach(vec![("rerankers".to_owned(), Some(serde_json::to_vec(&state).unwrap()))]).unwrap();
    drop(collection);
    db.close().unwrap();
    scratch
}

pub fn open(scratch: &Scratch) -> Database {
    Database::open(&scratch.path().join("firn-data"), Options::default()).unwrap()
}

pub struct World {
    pub engine: Engine,
    pub points: Vec<Point>,
    pub scratch: Scratch,
}

impl World {
    pub fn new() -> World {
        World::judged_by(&[("image", 1.0)])
    }

    pub fn judged_by(blend: &[(&str, f32)]) -> World {
        let scratch = scratch(blend);
        let builtin = firn_model::load("builtin", Device::Cpu).unwrap();
        let engine = Engine::new(open(&scratch), vec![builtin], Loading::Fixed(firn_model::Device::Cpu));
        let all = Fields { payload: true, texts: true, vectors: true, tokens: true };
        let points = engine.db().collection("c").unwrap().reader().scroll(0, 1000, all).unwrap().points;
        assert_eq!(points.len() as u64, N + 4);
        World { engine, points, scratch }
    }

    pub fn collection(&self) -> Collection {
        self.engine.db().collection("c").unwrap()
    }

    pub fn described(&self) -> Vec<&Point> {
        self.points.iter().filter(|point| !point.texts.is_empty()).collect()
    }

    pub fn bare(&self) -> &Point {
        self.points.iter().find(|point| point.texts.is_empty()).unwrap()
    }

    pub fn picture(&self, point: &Point) -> Vec<u8> {
        let name = Path::new(point.payload["path"].as_str().unwrap()).file_name().unwrap().to_owned();
        let folder = if point.texts.is_empty() { "bare" } else { "photos" };
        std::fs::read(self.scratch.path().join(folder).join(name)).unwrap()
    }

    pub fn ask(&self, request: &Request) -> query::Answer {
        query::run(&self.engine, request).unwrap()
    }

    pub fn score(&self, direction: Direction, asker: Item, candidates: Vec<Item>) -> Vec<query::Score> {
        let given = Given { collection: "c".into(), direction, asker, candidates, version: None };
        let scored = query::score(&self.engine, &given).unwrap();
        assert!(scored.scores.is_sorted_by(|a, b| a.score >= b.score), "best first");
        assert_eq!(scored.version, 2);
        scored.scores
    }

    /// By the double loop: the cosine and the logit of each of these texts with an image, and how near it is to the nearest image that was
    /// learnt from, less what is usual.
    pub fn judged(&self, image: &Point, texts: &[&Point]) -> Vec<Judged> {
        let bytes = self.collection().attachment("reranker.2").unwrap().unwrap();
        let ensemble = Ensemble::of_bytes(&bytes, Path::new("reranker.2"), Device::Cpu).unwrap();
        let (network, hubs) = (ensemble.scorer().unwrap().unwrap(), ensemble.hubs().unwrap());
        let product = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(x, y)| x * y).sum::<f32>();
        let members = |items: &Items| items.vectors.chunks(items.dim).map(<[f32]>::to_vec).collect::<Vec<_>>();
        let (images, of_texts) = (members(&hubs.images["image"]), members(&hubs.texts["image"]));
        assert!(images.len() > 9 && of_texts.len() > 9);
        let nearest =
            |vector: &[f32]| images.iter().map(|image| product(image, vector)).fold(f32::NEG_INFINITY, f32::max);
        let usual = of_texts.iter().map(|text| nearest(text)).sum::<f32>() / of_texts.len() as f32;
        let items = |point: &Point, of: &str| {
            let (vector, tokens) = (point.vectors[of].clone(), point.tokens[of].clone());
            let (n_tokens, token_dim) = (tokens.n, tokens.dim);
            Items { dim: vector.len(), vectors: vector, n_tokens, token_dim, tokens: tokens.values, ..Items::default() }
        };
        let one = |text: &&Point| {
            let logit = network.score(&items(image, "image"), &items(text, "text"), &[(0, 0)]).unwrap()[0];
            let cosine = product(&image.vectors["image"], &text.vectors["text"]);
            let hubness = nearest(&text.vectors["text"]) - usual;
            Judged { id: text.id.clone(), cosine, logit, hubness }
        };
        texts.iter().map(one).collect()
    }
}

#[derive(Clone)]
pub struct Judged {
    pub id: PointId,
    pub cosine: f32,
    pub logit: f32,
    pub hubness: f32,
}

impl Judged {
    pub fn score(&self) -> f32 {
        let Weight { logit, hubness } = WEIGHTS[1];
        self.cosine + logit * self.logit - hubness * self.hubness
    }
}

pub fn request(content: Content, using: &str) -> Request {
    Request {
        collection: "c".into(),
        content,
        using: Some(using.into()),
        blend: None,
        full_text: None,
        limit: Some(10),
        offset: 0,
        candidates: None,
        ef: None,
        exact: true,
        fields: Fields::default(),
        score_threshold: None,
        rerank: query::Rerank::default(),
        deadline: None,
        max_bytes: usize::MAX,
    }
}

pub fn text(text: &str) -> Content {
    Content::Text(Text { text: text.into(), language: "en".into() })
}

pub fn named(point: &Point, of: &str, names: &[&str]) -> Named {
    Named {
        vectors: names.iter().map(|name| ((*name).to_owned(), point.vectors[of].clone())).collect(),
        tokens: [("image".to_owned(), point.tokens[of].clone())].into(),
    }
}

pub fn assert_near(received: f32, expected: f32, what: &str) {
    assert!((received - expected).abs() < 1e-5, "{what}: expected {expected}, received {received}");
}
