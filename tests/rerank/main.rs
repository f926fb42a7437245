//! What networks make of candidates, found or given, in both directions: judged by the network itself over stored points.

#[path = "../common/mod.rs"]
mod common;
#[path = "../serving/mod.rs"]
mod serving;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use firn::{
    query::{self, Content, Given, Item, OnFailure, Request, Which},
    reranker::{self, Judging, Stage, Training},
};
use firn_client::{Client, v1};
use firn_index::{Point, PointId};
use firn_model::{
    Grid, Keep,
    fusion::{Direction, Kind},
    scenes,
};
use serving::Server;
use world::{Judged, N, World, assert_near, named, request, scratch, text};

#[test]
fn an_image_that_asks_for_texts_is_answered_by_the_network() {
    let world = World::new();
    let image = world.bare();
    let mut expected = world.judged(image, &world.described());
    let by_cosine = {
        let mut all = expected.clone();
        all.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
        all
    };
    expected.sort_by(|a, b| b.score().total_cmp(&a.score()));
    let ids = |all: &[Judged]| all.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
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
            assert_eq!(hit.id, expected.id, "{content:?}");
            assert_near(hit.cosine, expected.cosine, "cosine");
            assert_near(hit.fusion.unwrap(), expected.logit, "logit");
            assert_near(hit.hubness.unwrap(), expected.hubness, "hubness");
            assert_near(hit.score, expected.score(), "score");
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

    // Given one by one they are scored alike, in whatever form.
    let described = world.described();
    let ids: Vec<Item> = described.iter().map(|point| Item::Id(point.id.clone())).collect();
    let vectors = described.iter().map(|point| Item::Vectors(named(point, "text", &["image"]))).collect();
    let texts = described.iter().map(|point| Item::Text(point.texts[0].text.clone())).collect();
    for candidates in [ids, vectors, texts] {
        for asker in [Item::Id(image.id.clone()), Item::Image(world.picture(image))] {
            let scores = world.score(Direction::ImageToText, asker, candidates.clone());
            for (received, expected) in scores.iter().zip(&expected) {
                assert_eq!(described[received.index].id, expected.id);
                assert_near(received.score, expected.score(), "score");
                assert_near(received.cosine, expected.cosine, "cosine");
                assert_near(received.logit.unwrap(), expected.logit, "logit");
                assert_near(received.hubness.unwrap(), expected.hubness, "hubness");
            }
        }
    }
}

#[test]
fn given_images_are_scored_as_in_a_query() {
    let world = World::new();
    let words = "a red circle above a blue square";
    let answer = world.ask(&Request { limit: Some(20), ..request(text(words), "image") });
    assert_eq!(answer.reranker, Some(2));
    let point = |id: &PointId| world.points.iter().find(|point| point.id == *id).unwrap();
    let found: Vec<&Point> = answer.hits.iter().map(|hit| point(&hit.id)).collect();
    // Not in the order that is expected.
    let places: Vec<usize> = (0..found.len()).rev().collect();
    let of = |item: &dyn Fn(&Point) -> Item| places.iter().map(|&at| item(found[at])).collect::<Vec<Item>>();
    let mixed = places.iter().map(|&at| match at % 3 {
        0 => Item::Id(found[at].id.clone()),
        1 => Item::Image(world.picture(found[at])),
        _ => Item::Vectors(named(found[at], "image", &["image"])),
    });
    let forms =
        [of(&|point| Item::Id(point.id.clone())), of(&|point| Item::Image(world.picture(point))), mixed.collect()];
    for candidates in forms {
        let scores = world.score(Direction::TextToImage, Item::Text(words.into()), candidates);
        assert_eq!(scores.len(), answer.hits.len());
        for (received, hit) in scores.iter().zip(&answer.hits) {
            assert_eq!(found[places[received.index]].id, hit.id);
            assert_near(received.score, hit.score, "score");
            assert_near(received.logit.unwrap(), hit.fusion.unwrap(), "logit");
            assert_near(received.hubness.unwrap(), hit.hubness.unwrap(), "hubness");
            assert_near(received.cosine, hit.cosine, "cosine");
            assert_eq!(received.relevance.is_some(), hit.relevance.is_some());
        }
    }
}

#[test]
fn a_blend_is_weighed_as_in_a_query() {
    let blend = [("image", 1.0), ("text", 0.5)];
    let world = World::judged_by(&blend);
    let weights = blend.map(|(name, weight)| (name.to_owned(), weight)).into();
    let asked = Request { using: None, blend: Some(weights), limit: Some(100), ..request(text("a blue ring"), "") };
    let answer = world.ask(&asked);
    assert_eq!((answer.reranker, answer.hits.len() as u64), (Some(2), N + 4), "those without a text too");
    let candidates = answer.hits.iter().map(|hit| Item::Id(hit.id.clone())).collect();
    for (at, received) in
        world.score(Direction::TextToImage, Item::Text("a blue ring".into()), candidates).iter().enumerate()
    {
        assert_eq!(received.index, at);
        assert_near(received.score, answer.hits[at].score, "score");
        assert_near(received.cosine, answer.hits[at].cosine, "cosine");
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
    let given = Given {
        collection: "c".into(),
        direction: Direction::ImageToText,
        asker: Item::Id(described.id.clone()),
        candidates: vec![Item::Id(described.id.clone()), Item::Id(bare.id.clone())],
        version: None,
    };
    let error = query::score(&world.engine, &given).unwrap_err().to_string();
    assert!(error.contains("candidates[1].id: expected a vector \"text\""), "{error}");

    // A network that is named reads whatever lies where it was made for; one that reads no tokens needs none.
    let named = |request, number| world.ask(&Request { rerank: version(number), ..request });
    assert_eq!(named(by_text(loose(false)), 1).reranker, Some(1));
    assert!(!named(blended(by_text(Content::Id(bare.id.clone()))), 2).rerank_applied, "some have no text");
    assert_eq!(named(by_text(Content::Id(bare.id.clone())), 1).reranker, Some(1));
}

#[tokio::test]
async fn a_server_scores_what_is_given_and_names_what_is_wrong() {
    let scratch = scratch(&[("image", 1.0)]);
    let data = scratch.path().join("firn-data");
    let server = Server::start_with_model(&data, "builtin", &[]);
    let client = server.client().await;
    let picture = |at: u64| {
        let folder = if at < N { "photos" } else { "bare" };
        v1::rerank_item::Kind::Image(std::fs::read(scratch.path().join(format!("{folder}/{at}.png"))).unwrap().into())
    };
    let asked = || v1::QueryRequest {
        collection_name: "c".into(),
        query: Some(firn_client::text("a green star", "en")),
        using: "image".into(),
        limit: 12,
        ..Default::default()
    };
    let found = client.query(asked()).await.unwrap();
    assert_eq!(found.reranker, Some(2));
    let by_id = |hit: &v1::Hit| item(v1::rerank_item::Kind::Id(hit.id.clone().unwrap()));
    let words = |words: &str| v1::rerank_item::Kind::Text(words.to_owned());
    let given = |query, candidates: Vec<v1::RerankItem>| v1::RerankRequest {
        collection_name: "c".into(),
        query: Some(item(query)),
        candidates,
        ..Default::default()
    };
    let scored = client.rerank(given(words("a green star"), found.hits.iter().map(by_id).collect())).await.unwrap();
    assert_eq!((scored.scores.len(), scored.reranker, scored.truncations.len()), (12, 2, 0));
    for ((at, score), hit) in scored.scores.iter().enumerate().zip(&found.hits) {
        assert_eq!(score.index as usize, at, "the order of the query is the best one");
        assert_near(score.score, hit.score, "score");
        assert_near(score.relevance.unwrap_or_default(), hit.relevance.unwrap_or_default(), "relevance");
    }
    // An image asks about texts, by the version that is named; a long text is said to be cut.
    let long = "a red circle and ".repeat(400);
    let request = given(picture(N), vec![item(words("a red circle")), item(words(&long))]);
    let scored = client.rerank(v1::RerankRequest { version: Some(1), ..request }).await.unwrap();
    assert_eq!((scored.scores.len(), scored.reranker), (2, 1));
    assert!(scored.scores.iter().all(|score| score.relevance.is_none()));
    assert_eq!(scored.truncations.iter().map(|cut| cut.candidate).collect::<Vec<_>>(), [Some(1)]);
    // The same at Query.
    let v1::rerank_item::Kind::Image(bytes) = picture(N) else { panic!("a picture") };
    let query = Some(firn_client::image(bytes.to_vec()));
    let answer = client.query(v1::QueryRequest { query, using: "text".into(), ..asked() }).await.unwrap();
    assert!(answer.rerank_applied && answer.hits.iter().all(|hit| hit.fusion.is_some() && hit.relevance.is_none()));
    refused(&client, &found.hits[0], &picture).await;
}

fn item(kind: v1::rerank_item::Kind) -> v1::RerankItem {
    v1::RerankItem { kind: Some(kind) }
}

async fn refused(client: &Client, hit: &v1::Hit, picture: &dyn Fn(u64) -> v1::rerank_item::Kind) {
    use firn_client::Code::*;
    use v1::rerank_item::Kind;
    let id = || item(Kind::Id(hit.id.clone().unwrap()));
    let text = |text: &str| item(Kind::Text(text.to_owned()));
    let vectors = |name: &str, numbers: &[f32], tokens: Option<v1::Tokens>| {
        let vectors = [(name.to_owned(), firn_client::pack(numbers))].into();
        item(Kind::Vectors(v1::NamedVectors {
            vectors,
            tokens: tokens.map(|of| ("image".to_owned(), of)).into_iter().collect(),
        }))
    };
    let good = || v1::RerankRequest {
        collection_name: "c".into(),
        query: Some(text("a star")),
        candidates: vec![id()],
        ..Default::default()
    };
    let with = |candidate| v1::RerankRequest { candidates: vec![id(), candidate], ..good() };
    let asks = |query| v1::RerankRequest { query, ..good() };
    let dim = client.info().await.unwrap().models[0].dim as usize;
    let (ones, few) = (vec![1.0; dim], firn_client::tokens(1, 2, &[1.0, 2.0].map(firn_client::f16::from_f32)));
    let backwards = v1::RerankDirection::ImageToText.into();
    let unknown = firn_client::id("nobody");
    let cases = [
        (
            v1::RerankRequest { collection_name: "".into(), ..good() },
            InvalidArgument,
            "MISSING_FIELD",
            "collection_name",
        ),
        (v1::RerankRequest { collection_name: "x".into(), ..good() }, NotFound, "COLLECTION_NOT_FOUND", ""),
        (asks(None), InvalidArgument, "MISSING_FIELD", "query"),
        (asks(Some(id())), InvalidArgument, "MISSING_FIELD", "direction"),
        (asks(Some(text(" "))), InvalidArgument, "EMPTY_TEXT", "query.text"),
        (v1::RerankRequest { direction: 7, ..good() }, InvalidArgument, "OUT_OF_RANGE", "direction"),
        (v1::RerankRequest { direction: backwards, ..good() }, InvalidArgument, "WRONG_SIDE", "query.text"),
        (v1::RerankRequest { version: Some(9), ..good() }, InvalidArgument, "UNKNOWN_VERSION", "version"),
        (v1::RerankRequest { candidates: vec![], ..good() }, InvalidArgument, "OUT_OF_RANGE", "candidates"),
        (v1::RerankRequest { candidates: vec![id(); 1001], ..good() }, InvalidArgument, "OUT_OF_RANGE", "candidates"),
        (
            v1::RerankRequest { candidates: vec![item(picture(0)); 257], ..good() },
            InvalidArgument,
            "OUT_OF_RANGE",
            "candidates",
        ),
        (with(v1::RerankItem::default()), InvalidArgument, "MISSING_FIELD", "candidates[1]"),
        (with(text("a star")), InvalidArgument, "WRONG_SIDE", "candidates[1].text"),
        (with(item(Kind::Id(v1::PointId::default()))), InvalidArgument, "MISSING_FIELD", "candidates[1].id"),
        (with(item(Kind::Id(unknown))), NotFound, "POINT_NOT_FOUND", ""),
        (with(item(Kind::Image(Vec::new().into()))), InvalidArgument, "MISSING_FIELD", "candidates[1].image"),
        (
            with(item(Kind::Image(b"no picture".to_vec().into()))),
            InvalidArgument,
            "UNKNOWN_IMAGE",
            "candidates[1].image",
        ),
        (with(vectors("other", &ones, None)), InvalidArgument, "NOT_RERANKED", "candidates[1]"),
        (with(vectors("image", &ones, None)), InvalidArgument, "NOT_RERANKED", "candidates[1]"),
        (with(vectors("image", &[1.0], None)), InvalidArgument, "WRONG_DIMENSION", "candidates[1].vectors[\"image\"]"),
        (
            with(vectors("image", &vec![0.0; dim], None)),
            InvalidArgument,
            "ZERO_VECTOR",
            "candidates[1].vectors[\"image\"]",
        ),
        (
            with(vectors("image", &ones, Some(few))),
            InvalidArgument,
            "WRONG_TOKENS",
            "candidates[1].vectors.tokens[\"image\"]",
        ),
    ];
    for (request, code, reason, field) in cases {
        let error = client.rerank(request).await.unwrap_err();
        let named = error.fields.first().map_or("", |violation| violation.field.as_str());
        assert_eq!((error.code, error.reason.as_str(), named), (code, reason, field), "{error}");
    }
    let error = client.rerank(with(item(Kind::Id(firn_client::id("nobody"))))).await.unwrap_err();
    assert!(error.message.starts_with("candidates[1].id: "), "{error}");
    client.roll_back_reranker("c").await.unwrap();
    let error = client.rerank(good()).await.unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (FailedPrecondition, "NO_RERANKER"));
    let named = v1::RerankRequest { version: Some(2), ..good() };
    assert_eq!(client.rerank(named).await.unwrap().reranker, 2, "a version that is named need not be active");
}

/// A run may be broken off whenever it says how far it is, while it learns and while it judges, and then leaves no trace.
#[test]
fn a_run_that_is_broken_off_leaves_no_trace() {
    let world = World::judged_by(&[("image", 1.0)]);
    let collection = world.collection();
    let versions = || world.engine.rerankers().state(&collection).unwrap().versions;
    let before = versions();
    // The encoder that texts went through, on both sides: not one weight of it moves.
    let frozen = || {
        let encoder = &world.engine.models()[0];
        let pixels = encoder.preprocess(&scenes::scene(7, 0).draw(64)).unwrap();
        let images = encoder.embed_images(&[pixels], Keep::Tokens(Grid::Four)).unwrap();
        (images, encoder.embed_texts(&["a green star", "ein Boot"], Keep::Tokens(Grid::Four)).unwrap())
    };
    let embedded = frozen();
    let mut training = Training::new(vec![Kind::Mlp], Some(6), 1);
    (training.plan.n_lists, training.plan.sizes.dim, training.plan.sizes.wide) = (8, 16, 16);
    training.parting.held_out = 0.3;
    // Broken off at the so manieth time, in each kind of stage, until it gets through.
    let mut stages = BTreeSet::new();
    let run = |n_before_the_end: usize, judges: bool, stages: &mut BTreeSet<&str>| {
        let mut n = 0;
        let report = &mut |stage: Stage| {
            stages.insert(match stage {
                Stage::Texts(..) => "texts",
                Stage::Gathered(_) => "gathered",
                Stage::Learning(..) => "learning",
                Stage::Learnt(..) => "learnt",
                Stage::Judging(..) => "judging",
            });
            n += 1;
            if n > n_before_the_end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let (engine, judging) = (&world.engine, Judging { number: 1, seed: 1, keep: true });
        match judges {
            false => reranker::train(engine, &collection, &training, None, report).unwrap(),
            true => reranker::evaluate(engine, &collection, judging, report).unwrap(),
        }
    };
    for (judges, expected) in [(false, before.len() + 1), (true, before.len() + 1)] {
        let was = versions();
        let n = (0..100).find(|&n| {
            let made = run(n, judges, &mut stages);
            assert!(made.is_some() || versions() == was, "broken off after {n}");
            made.is_some()
        });
        assert!(n.is_some_and(|n| n > 4), "{n:?}");
        assert_eq!(versions().len(), expected);
    }
    assert_eq!(stages.len(), 5, "{stages:?}");
    assert_eq!(frozen(), embedded, "an encoder has learnt");
}

/// Many ask at the same time while the active network is switched back and forth: nobody is dropped, nobody waits for a switch, and each answer is whole: by one
/// network, or by cosine.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_switch_drops_no_query() {
    const ASKERS: usize = 6;
    const EACH: usize = 40;
    let scratch = scratch(&[("image", 1.0)]);
    let server = Server::start_with_model(&scratch.path().join("firn-data"), "builtin", &[]);
    let client = server.client().await;
    let ask = |client: Client, at: usize| async move {
        let text = ["a green star", "two red boats", "ein blaues Haus"][at % 3];
        let request = v1::QueryRequest {
            collection_name: "c".into(),
            query: Some(firn_client::text(text, "en")),
            using: "image".into(),
            limit: 12,
            ..Default::default()
        };
        (at % 3, client.query(request).await.unwrap())
    };
    // What each network, and none, answers alone.
    let mut alone = BTreeMap::new();
    for active in [Some(2), Some(1), None] {
        match active {
            Some(number) => client.activate_reranker("c", number, true).await.unwrap(),
            None => while client.roll_back_reranker("c").await.unwrap().is_some() {},
        }
        for at in 0..3 {
            let (_, answer) = ask(client.clone(), at).await;
            assert_eq!(answer.reranker, active);
            alone.insert((active, at), answer.hits);
        }
    }

    let askers: Vec<_> = (0..ASKERS)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for at in 0..EACH {
                    answers.push(ask(client.clone(), at).await);
                }
                answers
            })
        })
        .collect();
    let mut n_switches = 0;
    while !askers.iter().all(|asker| asker.is_finished()) {
        client.activate_reranker("c", 1 + n_switches % 2, true).await.unwrap();
        if n_switches % 5 == 4 {
            client.roll_back_reranker("c").await.unwrap();
        }
        n_switches += 1;
    }
    assert!(n_switches > 2, "{n_switches}");
    let mut seen = BTreeSet::new();
    for asker in askers {
        let answers = asker.await.unwrap();
        assert_eq!(answers.len(), EACH);
        for (at, answer) in answers {
            let ids =
                |hits: &[v1::Hit]| hits.iter().map(|hit| (hit.id.clone(), hit.fusion.is_some())).collect::<Vec<_>>();
            assert_eq!(ids(&answer.hits), ids(&alone[&(answer.reranker, at)]), "{:?} {at}", answer.reranker);
            assert_eq!(answer.rerank_applied, answer.reranker.is_some());
            seen.insert(answer.reranker);
        }
    }
    assert!(seen.len() > 1, "{seen:?}");
}
