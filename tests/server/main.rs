//! The server from outside: every call, every refusal, health, limits, and how it stops.

mod refused;
#[path = "../serving/mod.rs"]
mod serving;
mod stream;

use std::{collections::BTreeMap, io::Cursor};

use firn_client::{Client, Code, json, v1};
use serde_json::json;
use tokio_stream::StreamExt as _;

use serving::{Server, plain_collection, vector_point};

const AXES: [[f32; 3]; 3] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

fn data() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    (dir, path)
}

fn payload(value: serde_json::Value) -> Option<prost_types::Struct> {
    Some(json::to_struct(value.as_object().unwrap().clone()))
}

fn nums(ids: &[u64]) -> Vec<v1::PointId> {
    ids.iter().map(|id| firn_client::id(*id)).collect()
}

fn query(collection: &str, content: v1::QueryContent) -> v1::QueryRequest {
    v1::QueryRequest { collection_name: collection.into(), query: Some(content), limit: 3, ..Default::default() }
}

fn hit_ids(reply: &v1::QueryResponse) -> Vec<v1::PointId> {
    reply.hits.iter().map(|hit| hit.id.clone().unwrap()).collect()
}

/// A collection "c" of three axes, ids 1 to 3.
async fn axes(client: &Client) {
    client.create_collection(plain_collection("c", 3)).await.unwrap();
    let points = AXES.iter().zip(1..).map(|(axis, id)| v1::PointInput {
        payload: payload(json!({"n": id, "half": 0.5})),
        texts: vec![v1::Text { text: format!("axis {id}"), language: "en".into() }],
        ..vector_point(id, axis)
    });
    let reply = client.upsert("c", points.collect()).await.unwrap();
    assert_eq!((reply.upserted_count, reply.durability()), (3, v1::Durability::Fsynced));
}

#[tokio::test]
async fn collections_are_made_named_listed_and_removed() {
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let client = server.client().await;
    for name in ["b", "a", "c"] {
        let made = client.create_collection(plain_collection(name, 3)).await.unwrap();
        assert_eq!((made.name.as_str(), made.status()), (name, v1::CollectionStatus::Ready));
        assert_eq!((made.hnsw.unwrap().m, made.vectors["v"].dim, made.model.as_str()), (16, 3, ""));
    }
    let set = v1::SetAlias { alias: "now".into(), collection_name: "b".into() };
    let change = |change| v1::AliasChange { change: Some(change) };
    client.update_aliases(vec![change(v1::alias_change::Change::Set(set))]).await.unwrap();
    assert_eq!(client.get_collection("now").await.unwrap().aliases, ["now"]);
    assert!(client.collection_exists("now").await.unwrap());
    assert!(!client.collection_exists("later").await.unwrap());

    let mut service = client.collections_service();
    let first = service.list(v1::ListCollectionsRequest { limit: 2, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(first.collections.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let second = v1::ListCollectionsRequest { limit: 2, page: first.next_page };
    let second = service.list(second).await.unwrap().into_inner();
    assert_eq!((second.collections[0].name.as_str(), second.next_page.as_str()), ("c", ""));

    client.update_aliases(vec![change(v1::alias_change::Change::Delete("now".into()))]).await.unwrap();
    client.delete_collection("b").await.unwrap();
    assert_eq!(client.list_collections().await.unwrap().len(), 2);
    assert_eq!(client.get_collection("b").await.unwrap_err().reason, "COLLECTION_NOT_FOUND");
}

#[tokio::test]
async fn points_are_written_read_changed_and_removed() {
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let client = server.client().await;
    axes(&client).await;
    assert_eq!(client.count("c").await.unwrap(), 3);

    let all = v1::Include { payload: true, texts: true, vectors: true, tokens: true };
    let points = client.get("c", nums(&[3, 9, 1]), all).await.unwrap();
    assert_eq!(points.iter().map(|p| p.id.clone().unwrap()).collect::<Vec<_>>(), nums(&[3, 1]));
    assert_eq!(firn_client::unpack(&points[0].vectors["v"]), AXES[2]);
    assert_eq!(points[0].texts[0].text, "axis 3");
    let read = json::from_struct(points[0].payload.clone().unwrap()).unwrap();
    assert_eq!(serde_json::Value::Object(read), json!({"n": 3, "half": 0.5}));

    let change = v1::SetPayloadRequest {
        collection_name: "c".into(),
        ids: nums(&[1]),
        payload: payload(json!({"half": null, "new": [1, "two"]})),
        overwrite: false,
    };
    assert_eq!(client.set_payload(change.clone()).await.unwrap().updated_count, 1);
    let read = client.get("c", nums(&[1]), v1::Include { payload: true, ..Default::default() }).await.unwrap();
    let changed = json::from_struct(read[0].payload.clone().unwrap()).unwrap();
    assert_eq!(serde_json::Value::Object(changed), json!({"n": 1, "new": [1, "two"]}));
    assert!(read[0].vectors.is_empty() && read[0].texts.is_empty());
    let missing = v1::SetPayloadRequest { ids: nums(&[1, 77]), ..change };
    assert_eq!(client.set_payload(missing).await.unwrap_err().reason, "POINT_NOT_FOUND");

    let page = v1::ScrollRequest { collection_name: "c".into(), limit: 2, ..Default::default() };
    let first = client.scroll(page.clone()).await.unwrap();
    let second = client.scroll(v1::ScrollRequest { page: first.next_page, ..page }).await.unwrap();
    let mut walked: Vec<_> = first.points.into_iter().chain(second.points).map(|p| format!("{:?}", p.id)).collect();
    walked.sort();
    walked.dedup();
    assert_eq!((walked.len(), second.next_page), (3, 0));

    let deleted = client.delete("c", nums(&[1, 1000])).await.unwrap();
    assert_eq!((deleted.deleted_count, deleted.durability()), (1, v1::Durability::Fsynced));
    assert_eq!(client.count("c").await.unwrap(), 2);
}

#[tokio::test]
async fn tokens_are_kept_beside_vectors_and_given_when_asked_for() {
    let (_dir, data) = data();
    let server = Server::start(&data, &["--max-message-bytes", "65536"]);
    let client = server.client().await;
    let shape = v1::TokenShape { n: 2, dim: 2 };
    let request = v1::CreateCollectionRequest { tokens: [("v".into(), shape)].into(), ..plain_collection("c", 3) };
    assert_eq!(client.create_collection(request).await.unwrap().tokens["v"], shape);
    assert_eq!(client.get_collection("c").await.unwrap().tokens["v"], shape);
    let tokens = |n| firn_client::tokens(2, 2, &[0.0, 1.0, 2.0, n].map(firn_client::f16::from_f32));
    let with = |id, tokens| v1::PointInput { tokens: [("v".to_owned(), tokens)].into(), ..vector_point(id, &AXES[0]) };
    client.upsert("c", vec![with(1, tokens(7.0)), with(2, tokens(8.0)), vector_point(3, &AXES[1])]).await.unwrap();

    let asked = v1::Include { tokens: true, ..Default::default() };
    let points = client.get("c", nums(&[1, 2, 3]), asked).await.unwrap();
    assert_eq!((&points[0].tokens["v"], &points[1].tokens["v"]), (&tokens(7.0), &tokens(8.0)));
    assert!(points[2].tokens.is_empty());
    let all = v1::Include { payload: true, texts: true, vectors: true, tokens: false };
    assert!(client.get("c", nums(&[1]), all).await.unwrap()[0].tokens.is_empty());
    let page = v1::ScrollRequest { collection_name: "c".into(), include: Some(asked), ..Default::default() };
    assert_eq!(client.scroll(page).await.unwrap().points[1].tokens["v"], tokens(8.0));
    let ask = v1::QueryRequest { include: Some(asked), ..query("c", firn_client::vector(&AXES[0])) };
    assert_eq!(client.query(ask).await.unwrap().hits[0].tokens["v"], tokens(7.0));

    let wrong = firn_client::tokens(1, 2, &[firn_client::f16::ONE; 2]);
    let cut = v1::Tokens { packed: vec![0; 7].into(), ..tokens(0.0) };
    for (bad, reason) in [(wrong, "WRONG_TOKENS"), (cut, "WRONG_TOKENS"), (tokens(f32::NAN), "NOT_FINITE")] {
        let error = client.upsert("c", vec![with(4, bad)]).await.unwrap_err();
        assert_eq!(error.reason, reason);
        assert!(error.fields[0].field.starts_with("points[0].tokens[\"v\"]"), "{error:?}");
    }
}

#[tokio::test]
async fn replies_are_no_larger_for_their_tokens() {
    let (_dir, data) = data();
    let server = Server::start(&data, &["--max-message-bytes", "65536"]);
    let client = server.client().await;
    let shape = v1::TokenShape { n: 10, dim: 2000 };
    let request = v1::CreateCollectionRequest { tokens: [("v".into(), shape)].into(), ..plain_collection("c", 3) };
    client.create_collection(request).await.unwrap();
    let tokens = firn_client::tokens(10, 2000, &[firn_client::f16::ONE; 20_000]);
    for id in 1..3 {
        let point = v1::PointInput { tokens: [("v".to_owned(), tokens.clone())].into(), ..vector_point(id, &AXES[0]) };
        client.upsert("c", vec![point]).await.unwrap();
    }
    let asked = v1::Include { tokens: true, ..Default::default() };
    assert_eq!(client.get("c", nums(&[1, 2]), asked).await.unwrap_err().reason, "REPLY_TOO_LARGE");
    assert_eq!(client.get("c", nums(&[1, 2]), Default::default()).await.unwrap().len(), 2);
    let page = v1::ScrollRequest { collection_name: "c".into(), include: Some(asked), ..Default::default() };
    let page = client.scroll(page).await.unwrap();
    assert_eq!((page.points.len(), page.next_page > 0), (1, true), "a page ends early");
    let ask = |limit| v1::QueryRequest { limit, include: Some(asked), ..query("c", firn_client::vector(&AXES[0])) };
    assert_eq!(client.query(ask(2)).await.unwrap_err().reason, "REPLY_TOO_LARGE");
    assert_eq!(client.query(ask(1)).await.unwrap().hits[0].tokens["v"], tokens);
}

#[tokio::test]
async fn a_write_nobody_waits_for_says_so_and_arrives() {
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let client = server.client().await;
    axes(&client).await;
    let points = vec![vector_point(4, &[1.0, 1.0, 0.0])];
    let request = v1::UpsertRequest { collection_name: "c".into(), points, no_wait: true };
    let reply = client.points_service().upsert(request).await.unwrap().into_inner();
    assert_eq!(reply.durability(), v1::Durability::Buffered);
    server.terminate();
    assert!(server.ended().0.success());
    let server = Server::start(&data, &[]);
    assert_eq!(server.client().await.count("c").await.unwrap(), 4);
}

#[tokio::test]
async fn the_nearest_are_found_by_vector_and_by_id() {
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let client = server.client().await;
    axes(&client).await;
    let near_two = firn_client::vector(&[0.1, 2.0, 0.3]);
    for exact in [false, true] {
        let params = Some(v1::SearchParams { hnsw_ef: 32, exact });
        let reply = client.query(v1::QueryRequest { params, ..query("c", near_two.clone()) }).await.unwrap();
        assert_eq!(hit_ids(&reply), nums(&[2, 3, 1]));
        assert!(reply.hits[0].cosine > 0.98 && reply.hits[0].score == reply.hits[0].cosine);
        assert!(reply.hits[0].payload.is_some() && reply.hits[0].vectors.is_empty() && !reply.rerank_applied);
        assert!(reply.timings.unwrap().total_us > 0);
    }
    let by_id = client.query(query("c", firn_client::stored(firn_client::id(2)))).await.unwrap();
    assert_eq!(by_id.hits.len(), 2, "the point that asks is not an answer");
    let second = v1::QueryRequest { offset: 1, limit: 1, ..query("c", near_two.clone()) };
    assert_eq!(hit_ids(&client.query(second).await.unwrap()), nums(&[3]));
    let above = v1::QueryRequest { score_threshold: Some(0.5), ..query("c", near_two.clone()) };
    assert_eq!(hit_ids(&client.query(above).await.unwrap()), nums(&[2]));
    let values = v1::Vector { values: vec![0.1, 2.0, 0.3], packed: Default::default() };
    let content = v1::QueryContent { kind: Some(v1::query_content::Kind::Vector(values)) };
    assert_eq!(hit_ids(&client.query(query("c", content)).await.unwrap()), nums(&[2, 3, 1]));

    let queries =
        vec![query("c", near_two.clone()), query("nowhere", near_two), query("c", firn_client::vector(&[1.0]))];
    let results = client.query_batch(queries).await.unwrap();
    let said: Vec<_> = results
        .into_iter()
        .map(|result| match result.result.unwrap() {
            v1::query_result::Result::Response(reply) => (0, format!("{} hits", reply.hits.len())),
            v1::query_result::Result::Error(error) => (error.code, error.reason),
        })
        .collect();
    let expected = [(0, "3 hits"), (5, "COLLECTION_NOT_FOUND"), (3, "WRONG_DIMENSION")];
    assert_eq!(said, expected.map(|(code, words)| (code, words.to_owned())));
}

fn png() -> Vec<u8> {
    let picture = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, 90]));
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[tokio::test]
async fn texts_and_images_are_embedded_stored_and_found() {
    let (_dir, data) = data();
    let server = Server::start_with_model(&data, "builtin", &[]);
    let client = server.client().await;
    let info = client.info().await.unwrap();
    let dim = info.models[0].dim;
    assert_eq!((info.models[0].name.as_str(), info.limits.unwrap().max_embed_inputs), ("builtin", 256));

    let made = v1::CreateCollectionRequest { collection_name: "m".into(), ..Default::default() };
    let made = client.create_collection(made).await.unwrap();
    assert_eq!((made.model.as_str(), made.vectors["image"].dim, made.vectors["text"].dim), ("builtin", dim, dim));
    assert_eq!(made.model_hash, info.models[0].hash);

    let text = |words: &str| v1::Text { text: words.to_owned(), language: "en".into() };
    let long = "snow ".repeat(5000);
    let point = |id: u64, image: Vec<u8>, texts| v1::PointInput {
        id: Some(firn_client::id(id)),
        image: image.into(),
        texts,
        ..Default::default()
    };
    let points =
        vec![point(1, png(), vec![text("a gradient")]), point(2, Vec::new(), vec![text("a cat"), text(&long)])];
    let reply = client.upsert("m", points).await.unwrap();
    let cut = &reply.truncations[0];
    assert_eq!((reply.truncations.len(), cut.id.clone(), cut.text), (1, Some(firn_client::id(2)), 1));
    assert!(cut.tokens_cut > 0 && cut.tokens_used > 0);

    let by_image = client.query(query("m", firn_client::image(png()))).await.unwrap();
    assert_eq!(hit_ids(&by_image), nums(&[1]), "only one point has an image");
    assert!(by_image.hits[0].cosine > 0.999);
    let using = v1::QueryRequest { using: "text".into(), ..query("m", firn_client::text("a gradient", "en")) };
    let by_text = client.query(using.clone()).await.unwrap();
    assert_eq!((by_text.hits.len(), by_text.hits[0].id.clone()), (2, Some(firn_client::id(1))));
    assert!(by_text.hits[0].cosine > 0.999 && by_text.timings.unwrap().encode_us > 0 && by_text.truncation.is_none());
    let cut = v1::QueryRequest { query: Some(firn_client::text(&long, "")), ..using };
    assert!(client.query(cut).await.unwrap().truncation.unwrap().tokens_cut > 0);

    let input = |kind| v1::EmbedInput { kind: Some(kind) };
    let inputs =
        vec![input(v1::embed_input::Kind::Text("a cat".into())), input(v1::embed_input::Kind::Image(png().into()))];
    let embedded = client.embed("", inputs.clone()).await.unwrap();
    let norm = |e: &v1::Embedding| firn_client::unpack(e.vector.as_ref().unwrap()).iter().map(|x| x * x).sum::<f32>();
    assert!(embedded.iter().all(|e| (norm(e) - 1.0).abs() < 1e-3));
    assert!(embedded[0].tokens_used > 0 && embedded[1].tokens_used == 0);

    let stream = inputs.into_iter().chain([input(v1::embed_input::Kind::Image(vec![1, 2, 3].into()))]);
    let stream = stream.map(|input| v1::EmbedStreamRequest {
        model: "builtin".into(),
        input: Some(input),
        ..Default::default()
    });
    let stream: Vec<_> = stream.collect();
    let replies = client.inference_service().embed_stream(tokio_stream::iter(stream)).await.unwrap().into_inner();
    let replies: Vec<_> = replies.map(|reply| reply.unwrap().result.unwrap()).collect().await;
    use v1::embed_stream_response::Result::{Embedding, Error};
    let [Embedding(first), Embedding(second), Error(third)] = replies.as_slice() else { panic!("{replies:?}") };
    assert_eq!((first, second), (&embedded[0], &embedded[1]));
    assert_eq!((third.code, third.reason.as_str()), (3, "UNKNOWN_IMAGE"));

    let queries = ["a cat", "a gradient", " "].map(|words| query("m", firn_client::text(words, "")));
    let results = client.query_batch(queries.into()).await.unwrap();
    let is_answer = |r: &v1::QueryResult| matches!(r.result, Some(v1::query_result::Result::Response(_)));
    assert_eq!(results.iter().map(is_answer).collect::<Vec<_>>(), [true, true, false]);
    assert!(server.get("/metrics").1.contains("firn_inference_batch_inputs_count"));
}

#[tokio::test]
async fn a_model_s_tokens_are_made_stored_and_given() {
    let (_dir, data) = data();
    let server = Server::start_with_model(&data, "builtin", &[]);
    let client = server.client().await;
    let model = client.info().await.unwrap().models.remove(0);
    let (image, text) = (v1::TokenShape { n: 16, dim: model.image_token_dim }, model.text_tokens.unwrap());
    let made = v1::CreateCollectionRequest {
        collection_name: "m".into(),
        token_grid: v1::TokenGrid::TokenGrid4x4.into(),
        ..Default::default()
    };
    let described = client.create_collection(made.clone()).await.unwrap();
    assert_eq!((described.tokens["image"], described.tokens["text"]), (image, text));

    let words = |words: &str| v1::Text { text: words.to_owned(), language: "en".into() };
    let image_of = |id, image: Vec<u8>, texts| v1::PointInput {
        id: Some(firn_client::id(id)),
        image: image.into(),
        texts,
        ..Default::default()
    };
    client.upsert("m", vec![image_of(1, png(), vec![words("a cat")]), image_of(2, png(), vec![])]).await.unwrap();
    let asked = v1::Include { tokens: true, ..Default::default() };
    let points = client.get("m", nums(&[1, 2]), asked).await.unwrap();

    use v1::embed_input::Kind;
    let inputs = [Kind::Image(png().into()), Kind::Text("a cat".into())];
    let inputs: Vec<_> = inputs.into_iter().map(|kind| v1::EmbedInput { kind: Some(kind) }).collect();
    let grid = v1::TokenGrid::TokenGrid4x4;
    let embedded = client.embed_with_tokens("", inputs.clone(), grid).await.unwrap();
    let close = |a: &v1::Tokens, b: &v1::Tokens| {
        let (x, y) = (firn_client::unpack_tokens(a), firn_client::unpack_tokens(b));
        let near = |(x, y): (&firn_client::f16, &firn_client::f16)| (x.to_f32() - y.to_f32()).abs() < 0.01;
        x.len() == y.len() && x.iter().zip(&y).all(near)
    };
    assert!(close(&points[0].tokens["image"], embedded[0].tokens.as_ref().unwrap()));
    assert!(close(&points[0].tokens["text"], embedded[1].tokens.as_ref().unwrap()));
    assert_eq!(points[1].tokens.keys().collect::<Vec<_>>(), ["image"]);
    assert!(client.embed("", inputs).await.unwrap()[0].tokens.is_none());

    let named = |name: &str| v1::CreateCollectionRequest { collection_name: name.into(), ..Default::default() };
    let of = |tokens: &[(&str, v1::TokenShape)]| tokens.iter().map(|(of, shape)| ((*of).to_owned(), *shape)).collect();
    let both = v1::CreateCollectionRequest { tokens: of(&[("image", image)]), ..made };
    let both = v1::CreateCollectionRequest { collection_name: "n".into(), ..both };
    let wrong =
        v1::CreateCollectionRequest { tokens: of(&[("image", v1::TokenShape { n: 15, ..image })]), ..named("n") };
    let no_model = v1::CreateCollectionRequest { token_grid: grid.into(), ..plain_collection("n", 3) };
    let unknown = v1::CreateCollectionRequest { token_grid: 9, ..named("n") };
    for (request, reason, field) in [
        (both, "INVALID_SETTING", "token_grid"),
        (wrong, "WRONG_TOKENS", "tokens[\"image\"]"),
        (no_model, "NO_MODEL", "token_grid"),
        (unknown, "OUT_OF_RANGE", "token_grid"),
    ] {
        check(client.create_collection(request).await, Code::InvalidArgument, reason, field);
    }
    let right = v1::CreateCollectionRequest { tokens: of(&[("image", image)]), ..named("n") };
    assert_eq!(client.create_collection(right).await.unwrap().tokens.len(), 1);
}

/// What a call is refused with: its code, reason and first field.
#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, firn_client::Error>, code: Code, reason: &str, field: &str) {
    let error = result.expect_err(reason);
    let received = error.fields.first().map_or("", |violation| violation.field.as_str());
    assert_eq!((error.code, error.reason.as_str(), received), (code, reason, field), "{error}");
    assert!(!error.message.is_empty());
}

#[tokio::test]
async fn health_is_watched_until_the_server_stops() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    const SERVING: i32 = 1;
    const NOT_SERVING: i32 = 2;
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let mut health = HealthClient::new(server.channel().await);
    let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "firn.v1.Points", "firn.v1.Rerankers", "firn.v1.Collections", "firn.v1.Inference"] {
        assert_eq!(health.check(of(service)).await.unwrap().into_inner().status, SERVING, "{service}");
    }
    assert_eq!(health.check(of("nobody")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(server.get("/healthz"), ("HTTP/1.1 200 OK".to_owned(), "alive\n".to_owned()));
    assert_eq!(server.get("/readyz").0, "HTTP/1.1 200 OK");

    let mut watch = health.watch(of("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, SERVING);
    server.terminate();
    assert_eq!(watch.message().await.unwrap().unwrap().status, NOT_SERVING);
    assert!(watch.message().await.unwrap().is_none(), "the watch ends with the server");
    let (status, said) = server.ended();
    assert!(status.success(), "{said}");
}

#[tokio::test]
async fn reflection_lists_what_there_is() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("firn.v1.Points".into())),
        ask(MessageRequest::FileByFilename("google/protobuf/struct.proto".into())),
    ];
    let mut client = ServerReflectionClient::new(server.channel().await);
    let replies = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let replies: Vec<_> = replies.map(|reply| reply.unwrap().message_response.unwrap()).collect().await;
    let MessageResponse::ListServicesResponse(list) = &replies[0] else { panic!("{replies:?}") };
    let mut names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "firn.v1.Collections",
            "firn.v1.Inference",
            "firn.v1.Points",
            "firn.v1.Rerankers",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection"
        ]
    );
    for reply in &replies[1..] {
        assert!(matches!(reply, MessageResponse::FileDescriptorResponse(_)), "{reply:?}");
    }
}

#[tokio::test]
async fn many_clients_at_once_read_what_they_wrote() {
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let client = server.client().await;
    client.create_collection(plain_collection("c", 3)).await.unwrap();
    let work = (0..8u64).map(|worker| {
        let grpc = server.grpc.clone();
        tokio::spawn(async move {
            let client = Client::connect(&grpc).await.unwrap();
            for round in 0..10u64 {
                let id = worker * 100 + round;
                let vector = [1.0 + worker as f32, 1.0 + round as f32, 1.0];
                client.upsert("c", vec![vector_point(id, &vector)]).await.unwrap();
                let found = client.query(query("c", firn_client::vector(&vector))).await.unwrap();
                assert!((found.hits[0].cosine - 1.0).abs() < 1e-5, "{id} is not found");
                assert_eq!(client.get("c", nums(&[id]), v1::Include::default()).await.unwrap().len(), 1);
            }
        })
    });
    for worker in work.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    assert_eq!(client.count("c").await.unwrap(), 80);
    let counted: BTreeMap<String, String> = server
        .get("/metrics")
        .1
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(counted["firn_requests_total{method=\"Points/Query\",code=\"OK\"}"], "80");
    assert_eq!(counted["firn_points_written_total"], "80");
    assert_eq!(counted["firn_collection_points{collection=\"c\"}"], "80");
}
