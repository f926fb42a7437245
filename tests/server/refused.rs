//! What a server refuses, and how it says so.

use tonic::codec::CompressionEncoding;

use super::{stream::open_stream, *};

#[tokio::test]
async fn collections_that_cannot_be_are_refused() {
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let client = server.client().await;
    axes(&client).await;
    use Code::*;
    let plain = || plain_collection("d", 3);
    let create =
        async |request, code, reason, field| check(client.create_collection(request).await, code, reason, field);
    create(plain_collection("c", 3), AlreadyExists, "COLLECTION_EXISTS", "").await;
    create(plain_collection("", 3), InvalidArgument, "MISSING_FIELD", "collection_name").await;
    create(plain_collection(".d", 3), InvalidArgument, "INVALID_NAME", "collection_name").await;
    create(plain_collection("d e", 3), InvalidArgument, "INVALID_NAME", "collection_name").await;
    let none = v1::CreateCollectionRequest { collection_name: "d".into(), ..Default::default() };
    create(none, FailedPrecondition, "MODEL_NOT_LOADED", "").await;
    let unknown = v1::CreateCollectionRequest { model: "hf:a/b".into(), ..plain() };
    create(unknown, FailedPrecondition, "MODEL_NOT_LOADED", "").await;
    for (m, ef_construction, ef_search) in [(3, 0, 0), (65, 0, 0), (0, 199, 0), (0, 2001, 0), (0, 0, 4097)] {
        let hnsw = Some(v1::HnswConfig { m, ef_construction, ef_search });
        let error = client.create_collection(v1::CreateCollectionRequest { hnsw, ..plain() }).await.unwrap_err();
        assert_eq!((error.code, error.reason.as_str()), (InvalidArgument, "INVALID_SETTING"), "{error}");
        assert!(error.fields[0].field.starts_with("hnsw."), "{error:?}");
    }
    for dim in [0, 16_385] {
        create(plain_collection("d", dim), InvalidArgument, "INVALID_SETTING", "vectors.dim").await;
    }
    let vectors = [("a b".to_owned(), v1::VectorConfig { dim: 3, ..Default::default() })].into();
    create(v1::CreateCollectionRequest { vectors, ..plain() }, InvalidArgument, "INVALID_NAME", "vectors").await;
    check(client.get_collection("d").await, NotFound, "COLLECTION_NOT_FOUND", "");
    check(client.delete_collection("d").await, NotFound, "COLLECTION_NOT_FOUND", "");
    check(client.update_aliases(vec![]).await, InvalidArgument, "OUT_OF_RANGE", "changes");
    let empty = v1::AliasChange { change: None };
    check(client.update_aliases(vec![empty]).await, InvalidArgument, "MISSING_FIELD", "changes[0]");
    let delete = v1::AliasChange { change: Some(v1::alias_change::Change::Delete("x".into())) };
    check(client.update_aliases(vec![delete]).await, NotFound, "ALIAS_NOT_FOUND", "");
    let list = v1::ListCollectionsRequest { limit: 1001, ..Default::default() };
    let listed = client.collections_service().list(list).await.map_err(Into::into);
    check(listed, InvalidArgument, "OUT_OF_RANGE", "limit");
}

#[tokio::test]
async fn points_that_cannot_be_are_refused_by_their_field() {
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let client = server.client().await;
    axes(&client).await;
    use Code::*;
    let good = || vector_point(9, &AXES[0]);
    let vectors = |name: &str, vector: v1::Vector| v1::PointInput { vectors: [(name.into(), vector)].into(), ..good() };
    let packed = |bytes: &[u8]| v1::Vector { values: vec![], packed: bytes.to_vec().into() };
    let mut deep = json!(1);
    for _ in 0..28 {
        deep = json!({ "k": deep });
    }
    let cases = [
        (v1::PointInput { id: None, ..good() }, InvalidArgument, "MISSING_FIELD", "points[1].id"),
        (v1::PointInput { id: Some(firn_client::id("")), ..good() }, InvalidArgument, "INVALID_ID", "points[1].id"),
        (v1::PointInput { id: Some(firn_client::id(8)), ..good() }, InvalidArgument, "DUPLICATE_ID", "points[1].id"),
        (vectors("v", packed(&[0; 5])), InvalidArgument, "INVALID_VECTOR", "points[1].vectors[\"v\"].packed"),
        (vectors("v", v1::Vector::default()), InvalidArgument, "MISSING_FIELD", "points[1].vectors[\"v\"]"),
        (vectors("v", firn_client::pack(&[1.0])), InvalidArgument, "WRONG_DIMENSION", "points[1].vectors[\"v\"]"),
        (vectors("v", firn_client::pack(&[0.0; 3])), InvalidArgument, "ZERO_VECTOR", "points[1].vectors[\"v\"]"),
        (
            vectors("v", firn_client::pack(&[1.0, f32::NAN, 0.0])),
            InvalidArgument,
            "NOT_FINITE",
            "points[1].vectors[\"v\"]",
        ),
        (vectors("w", firn_client::pack(&AXES[0])), InvalidArgument, "UNKNOWN_VECTOR", "points[1].vectors[\"w\"]"),
        (v1::PointInput { vectors: Default::default(), ..good() }, InvalidArgument, "EMPTY_POINT", "points[1]"),
        (v1::PointInput { image: png().into(), ..good() }, InvalidArgument, "NO_IMAGE_VECTOR", "points[1].image"),
        (
            v1::PointInput { texts: vec![v1::Text::default()], ..good() },
            InvalidArgument,
            "EMPTY_TEXT",
            "points[1].texts[0].text",
        ),
        (
            v1::PointInput { payload: payload(json!({"k": "x".repeat(1 << 20)})), ..good() },
            InvalidArgument,
            "LIMIT_EXCEEDED",
            "points[1]",
        ),
        (v1::PointInput { payload: payload(deep), ..good() }, InvalidArgument, "INVALID_PAYLOAD", "points[1].payload"),
    ];
    for (point, code, reason, field) in cases {
        check(client.upsert("c", vec![vector_point(8, &AXES[1]), point]).await, code, reason, field);
    }
    let many = (0..1001).map(|id| vector_point(id, &AXES[0])).collect();
    check(client.upsert("c", many).await, InvalidArgument, "OUT_OF_RANGE", "points");
    check(client.upsert("c", vec![]).await, InvalidArgument, "OUT_OF_RANGE", "points");
    check(client.upsert("x", vec![good()]).await, NotFound, "COLLECTION_NOT_FOUND", "");
    check(client.upsert("", vec![good()]).await, InvalidArgument, "MISSING_FIELD", "collection_name");
    check(client.delete("c", vec![]).await, InvalidArgument, "OUT_OF_RANGE", "ids");
    check(client.delete("c", vec![v1::PointId::default()]).await, InvalidArgument, "MISSING_FIELD", "ids[0]");
    let many = nums(&vec![1; 10_001]);
    check(client.get("c", many, v1::Include::default()).await, InvalidArgument, "OUT_OF_RANGE", "ids");
    let scroll = v1::ScrollRequest { collection_name: "c".into(), limit: 1001, ..Default::default() };
    check(client.scroll(scroll.clone()).await, InvalidArgument, "OUT_OF_RANGE", "limit");
    let scroll = v1::ScrollRequest { limit: 1, page: u64::MAX, ..scroll };
    check(client.scroll(scroll).await, InvalidArgument, "OUT_OF_RANGE", "page");
    assert_eq!(client.count("c").await.unwrap(), 3, "all or none: nothing was written");
}

#[tokio::test]
async fn questions_that_cannot_be_are_refused_by_their_field() {
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let client = server.client().await;
    axes(&client).await;
    use Code::*;
    let good = || query("c", firn_client::vector(&AXES[0]));
    let asked = |content| query("c", content);
    let cases = [
        (v1::QueryRequest { query: None, ..good() }, InvalidArgument, "MISSING_FIELD", "query"),
        (asked(v1::QueryContent { kind: None }), InvalidArgument, "MISSING_FIELD", "query"),
        (asked(firn_client::image(vec![])), InvalidArgument, "MISSING_FIELD", "query.image"),
        (asked(firn_client::vector(&[])), InvalidArgument, "MISSING_FIELD", "query.vector"),
        (asked(firn_client::vector(&[1.0, 2.0])), InvalidArgument, "WRONG_DIMENSION", "query.vector"),
        (asked(firn_client::vector(&[f32::NAN, 0.0, 0.0])), InvalidArgument, "NOT_FINITE", "query.vector"),
        (asked(firn_client::vector(&[0.0; 3])), InvalidArgument, "ZERO_VECTOR", "query.vector"),
        (asked(firn_client::stored(v1::PointId::default())), InvalidArgument, "MISSING_FIELD", "query.id"),
        (asked(firn_client::stored(firn_client::id(77))), NotFound, "POINT_NOT_FOUND", ""),
        (asked(firn_client::text("snow", "en")), FailedPrecondition, "NO_MODEL", ""),
        (asked(firn_client::text(&"x".repeat(300_000), "")), InvalidArgument, "TEXT_TOO_LONG", "query.text"),
        (v1::QueryRequest { using: "w".into(), ..good() }, InvalidArgument, "OUT_OF_RANGE", "using"),
        (v1::QueryRequest { limit: 1001, ..good() }, InvalidArgument, "OUT_OF_RANGE", "limit"),
        (v1::QueryRequest { offset: 10_000, ..good() }, InvalidArgument, "OUT_OF_RANGE", "offset"),
        (v1::QueryRequest { candidates: 10_001, ..good() }, InvalidArgument, "OUT_OF_RANGE", "candidates"),
        (
            v1::QueryRequest { score_threshold: Some(f32::NAN), ..good() },
            InvalidArgument,
            "OUT_OF_RANGE",
            "score_threshold",
        ),
        (
            v1::QueryRequest { params: Some(v1::SearchParams { hnsw_ef: 4097, exact: false }), ..good() },
            InvalidArgument,
            "OUT_OF_RANGE",
            "params.hnsw_ef",
        ),
        (
            v1::QueryRequest { collection_name: String::new(), ..good() },
            InvalidArgument,
            "MISSING_FIELD",
            "collection_name",
        ),
        (query("x", firn_client::vector(&AXES[0])), NotFound, "COLLECTION_NOT_FOUND", ""),
    ];
    for (request, code, reason, field) in cases {
        check(client.query(request).await, code, reason, field);
    }
    check(client.query_batch(vec![]).await, InvalidArgument, "OUT_OF_RANGE", "queries");
    check(client.query_batch(vec![good(); 101]).await, InvalidArgument, "OUT_OF_RANGE", "queries");
    check(client.count("x").await, NotFound, "COLLECTION_NOT_FOUND", "");
    check(client.embed("", vec![]).await, FailedPrecondition, "MODEL_NOT_LOADED", "");
}

#[tokio::test]
async fn messages_over_the_limit_are_refused_packed_or_not() {
    let (_dir, data) = data();
    let server = Server::start(&data, &["--max-message-bytes", "65536"]);
    let client = server.client().await;
    axes(&client).await;
    assert_eq!(client.info().await.unwrap().limits.unwrap().max_message_bytes, 65_536);
    let point = |id, bytes: usize| v1::PointInput {
        payload: payload(json!({"k": "x".repeat(bytes)})),
        ..vector_point(id, &AXES[0])
    };
    let request = |bytes: usize| {
        let point = point(5, bytes);
        v1::UpsertRequest { collection_name: "c".into(), points: vec![point], no_wait: false }
    };
    let mut plain = client.points_service();
    let mut gzip = client.points_service().send_compressed(CompressionEncoding::Gzip);
    for service in [&mut plain, &mut gzip] {
        assert_eq!(service.upsert(request(40_000)).await.unwrap().into_inner().upserted_count, 1);
        let refused = service.upsert(request(4_000_000)).await.map_err(firn_client::Error::from);
        check(refused, Code::ResourceExhausted, "MESSAGE_TOO_LARGE", "");
    }
    let stored = v1::Include { payload: true, ..Default::default() };
    assert!(client.get("c", nums(&[5, 5]), stored).await.is_err_and(|error| error.reason == "REPLY_TOO_LARGE"));
    assert!(client.get("c", nums(&[5]), stored).await.is_ok());
    client.upsert("c", vec![point(6, 40_000)]).await.unwrap();
    let ask = |limit| v1::QueryRequest { limit, include: Some(stored), ..query("c", firn_client::vector(&AXES[0])) };
    assert_eq!(client.query(ask(1)).await.unwrap().hits.len(), 1);
    check(client.query(ask(5)).await, Code::ResourceExhausted, "REPLY_TOO_LARGE", "");
}

#[tokio::test]
async fn calls_beyond_the_limit_are_told_when_to_come_again() {
    let (_dir, data) = data();
    let server = Server::start(&data, &["--max-requests", "1"]);
    let client = server.client().await;
    axes(&client).await;
    let (stream, mut replies) = open_stream(&client, "c").await;
    let silent = tokio_stream::pending::<v1::UpsertStreamRequest>();
    let second = client.points_service().upsert_stream(silent).await.map_err(firn_client::Error::from);
    let error = second.map(drop).unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (Code::ResourceExhausted, "TOO_MANY_REQUESTS"));
    assert!(error.retry_after.is_some());
    assert!(client.count("c").await.is_ok(), "an idle stream shuts out no other call");
    drop(stream);
    assert!(replies.message().await.unwrap().is_none());
    assert!(server.get("/metrics").1.contains("method=\"Points/UpsertStream\",code=\"RESOURCE_EXHAUSTED\"} 1"));
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let (_dir, data) = data();
    let _server = Server::start(&data, &[]);
    let second = serving::command(&data, &["--model", "none", "--http-listen", "none"]).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(5), "{said}");
    assert!(said.contains("is in use by another process"), "{said}");
}

#[test]
fn settings_that_cannot_be_are_named() {
    let (_dir, data) = data();
    let check = |args: &[&str], code, words: &str| {
        let ended = serving::command(&data, args).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
    };
    check(&["--max-requests", "0"], 2, "max-requests: expected 1 to 16384, received 0");
    check(&["--http-listen", "nowhere"], 1, "cannot listen on nowhere");
    check(&["--http-listen", "none", "--model", "/no/such/folder"], 4, "no model at");
}

#[tokio::test]
async fn a_message_that_is_no_protobuf_is_the_clients_fault() {
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let client = server.client().await;
    axes(&client).await;
    let mut deep = json!(1);
    for _ in 0..90 {
        deep = json!([deep]);
    }
    // Deeper than any protobuf reader goes: the message is refused before our own limit is met.
    let point = v1::PointInput { payload: payload(json!({ "k": deep })), ..vector_point(5, &AXES[0]) };
    let error = client.upsert("c", vec![point]).await.unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (Code::InvalidArgument, "MALFORMED_MESSAGE"));
}
