//! What networks make of candidates, found or given, in both directions: judged by the network itself over stored points.

mod common;

use std::{collections::BTreeMap, path::Path};

use common::Scratch;
use firn::{
    engine::{Engine, Loading},
    query::{self, Content, Named, OnFailure, Request, Which},
};
use firn_index::{Collection, Database, Fields, Options, Point, PointId, Text};
use firn_model::{
    Device,
    fusion::{Items, Network},
    scenes::{self, Style},
};

const N: u64 = 24;
/// What logits count here: enough to change the order.
const WEIGHTS: [f32; 2] = [0.6, 0.9];

/// Pictures with a caption each, and some without, in "c" with tokens; two networks, of which the second, of tokens, is active. They
/// are taken for judged on candidates by this blend.
fn scratch(blend: &[(&str, f32)]) -> Scratch {
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

fn open(scratch: &Scratch) -> Database {
    Database::open(&scratch.path().join("firn-data"), Options::default()).unwrap()
}

struct World {
    engine: Engine,
    points: Vec<Point>,
    scratch: Scratch,
}

impl World {
    fn new() -> World {
        World::judged_by(&[("image", 1.0)])
    }

    fn judged_by(blend: &[(&str, f32)]) -> World {
        let scratch = scratch(blend);
        let builtin = firn_model::load("builtin", Device::Cpu).unwrap();
        let engine = Engine::new(open(&scratch), vec![builtin], Loading::Fixed);
        let all = Fields { payload: true, texts: true, vectors: true, tokens: true };
        let points = engine.db().collection("c").unwrap().reader().scroll(0, 1000, all).unwrap().points;
        assert_eq!(points.len() as u64, N + 4);
        World { engine, points, scratch }
    }

    fn collection(&self) -> Collection {
        self.engine.db().collection("c").unwrap()
    }

    fn described(&self) -> Vec<&Point> {
        self.points.iter().filter(|point| !point.texts.is_empty()).collect()
    }

    fn bare(&self) -> &Point {
        self.points.iter().find(|point| point.texts.is_empty()).unwrap()
    }

    fn picture(&self, point: &Point) -> Vec<u8> {
        let name = Path::new(point.payload["path"].as_str().unwrap()).file_name().unwrap().to_owned();
        let folder = if point.texts.is_empty() { "bare" } else { "photos" };
        std::fs::read(self.scratch.path().join(folder).join(name)).unwrap()
    }

    fn ask(&self, request: &Request) -> query::Answer {
        query::run(&self.engine, request).unwrap()
    }

    /// By the double loop: the cosine and the logit of each of these texts with an image.
    fn judged(&self, image: &Point, texts: &[&Point]) -> Vec<(PointId, f32, f32)> {
        let bytes = self.collection().attachment("reranker.2").unwrap().unwrap();
        let network = Network::of_bytes(&bytes, Path::new("reranker.2"), Device::Cpu).unwrap().scorer().unwrap();
        let items = |point: &Point, of: &str| {
            let (vector, tokens) = (point.vectors[of].clone(), point.tokens[of].clone());
            let (n_tokens, token_dim) = (tokens.n, tokens.dim);
            Items { dim: vector.len(), vectors: vector, n_tokens, token_dim, tokens: tokens.values, ..Items::default() }
        };
        let one = |text: &&Point| {
            let logit = network.score(&items(image, "image"), &items(text, "text"), &[(0, 0)]).unwrap()[0];
            let pairs = image.vectors["image"].iter().zip(&text.vectors["text"]);
            let cosine: f32 = pairs.map(|(x, y)| x * y).sum();
            (text.id.clone(), cosine, logit)
        };
        texts.iter().map(one).collect()
    }
}

fn request(content: Content, using: &str) -> Request {
    Request {
        collection: "c".into(),
        content,
        using: Some(using.into()),
        blend: None,
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

fn text(text: &str) -> Content {
    Content::Text(Text { text: text.into(), language: "en".into() })
}

fn named(point: &Point, of: &str, names: &[&str]) -> Named {
    Named {
        vectors: names.iter().map(|name| ((*name).to_owned(), point.vectors[of].clone())).collect(),
        tokens: [("image".to_owned(), point.tokens[of].clone())].into(),
    }
}

fn assert_near(received: f32, expected: f32, what: &str) {
    assert!((received - expected).abs() < 1e-5, "{what}: expected {expected}, received {received}");
}

#[test]
fn an_image_that_asks_for_texts_is_answered_by_the_network() {
    let world = World::new();
    let image = world.bare();
    let mut expected = world.judged(image, &world.described());
    let by_cosine = {
        let mut all = expected.clone();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    };
    let score = |(_, cosine, logit): &(PointId, f32, f32)| cosine + WEIGHTS[1] * logit;
    expected.sort_by(|a, b| score(b).total_cmp(&score(a)));
    let ids = |all: &[(PointId, f32, f32)]| all.iter().map(|one| one.0.clone()).collect::<Vec<_>>();
    assert_ne!(ids(&by_cosine), ids(&expected), "the network changes something");

    let contents = [
        Content::Id(image.id.clone()),
        Content::Image(world.picture(image)),
        Content::Vectors(named(image, "image", &["text", "image"])),
    ];
    for content in contents {
        let answer = world.ask(&request(content.clone(), "text"));
        assert_eq!((answer.rerank_applied, answer.reranker, &answer.rerank_skipped), (true, Some(2), &None));
        for (hit, expected) in answer.hits.iter().zip(&expected) {
            assert_eq!(hit.id, expected.0, "{content:?}");
            assert_near(hit.cosine, expected.1, "cosine");
            assert_near(hit.fusion.unwrap(), expected.2, "logit");
            assert_near(hit.score, score(expected), "score");
            assert_eq!(hit.relevance, None, "calibrated on texts that look for images");
        }
        let off = query::Rerank { which: Which::None, ..Default::default() };
        let plain = world.ask(&Request { rerank: off, ..request(content, "text") });
        assert!(!plain.rerank_applied && plain.rerank_skipped.is_none());
        assert_eq!(
            plain.hits.iter().map(|hit| &hit.id).collect::<Vec<_>>(),
            ids(&by_cosine)[..10].iter().collect::<Vec<_>>()
        );
    }
}

#[test]
fn what_is_not_an_image_that_asks_for_texts_says_why() {
    let world = World::new();
    let (bare, described) = (world.bare(), world.described()[0]);
    let version = |number| query::Rerank { which: Which::Version(number), ..Default::default() };
    let loose = |tokens: bool| {
        let named = named(bare, "image", &["text", "image"]);
        Content::Vectors(if tokens { named } else { named.vectors.into() })
    };
    let other = {
        let mut both = named(bare, "image", &["image"]);
        both.vectors.insert("text".into(), described.vectors["text"].clone());
        Content::Vectors(both)
    };
    let blend: BTreeMap<String, f32> = [("image".to_owned(), 1.0), ("text".to_owned(), 1.0)].into();
    let blended = |request: Request| Request { using: None, blend: Some(blend.clone()), ..request };
    let by_text = |content| request(content, "text");
    let cases = [
        (by_text(Content::Id(described.id.clone())), "asks with its own vector \"text\""),
        (request(Content::Id(bare.id.clone()), "image"), "texts that an image looks for"),
        (request(Content::Image(world.picture(bare)), "image"), "texts that an image looks for"),
        (by_text(Content::Vector(bare.vectors["image"].clone())), "a vector alone does not say"),
        (by_text(loose(false)), "expected tokens \"image\""),
        (by_text(other), "are not of one image"),
        (by_text(Content::Vectors(named(bare, "image", &["text"]))), "expected a vector \"image\""),
        (by_text(text("a red circle")), "judged on candidates by image=1"),
        (blended(by_text(Content::Image(world.picture(bare)))), "judged on candidates by image=1"),
    ];
    for (request, reason) in cases {
        let answer = world.ask(&request);
        let skipped = answer.rerank_skipped.unwrap_or_default();
        assert!(!answer.rerank_applied && skipped.contains(reason), "expected {reason:?} in {skipped:?}");
        assert!(!answer.hits.is_empty() && answer.hits.iter().all(|hit| hit.fusion.is_none()));
        let rerank = query::Rerank { on_failure: OnFailure::Error, ..request.rerank };
        let error = query::run(&world.engine, &Request { rerank, ..request }).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    // A network that is named reads whatever lies where it was made for; one that reads no tokens needs none.
    let named = |request, number| world.ask(&Request { rerank: version(number), ..request });
    assert_eq!(named(by_text(loose(false)), 1).reranker, Some(1));
    assert!(!named(blended(by_text(Content::Id(bare.id.clone()))), 2).rerank_applied, "some have no text");
    assert_eq!(named(by_text(Content::Id(bare.id.clone())), 1).reranker, Some(1));
}
