//! Every refusal, as its caller sees it; and that a refused call changes nothing.

use std::collections::BTreeMap;

use firn_index::*;

fn vectors(list: &[(&str, &[f32])]) -> BTreeMap<String, Vec<f32>> {
    list.iter().map(|(name, numbers)| ((*name).to_owned(), numbers.to_vec())).collect()
}

fn point(id: impl Into<PointId>, list: &[(&str, &[f32])]) -> NewPoint {
    let tokens = BTreeMap::new();
    NewPoint { id: id.into(), texts: Vec::new(), payload: Payload::new(), vectors: vectors(list), tokens }
}

fn good(id: u64) -> NewPoint {
    point(id, &[("a", &[3.0, 4.0])])
}

fn config(list: &[(&str, usize)]) -> CollectionConfig {
    let vectors = list.iter().map(|(name, dim)| ((*name).to_owned(), VectorConfig::new(*dim))).collect();
    CollectionConfig { vectors, ..CollectionConfig::default() }
}

fn with_tokens(config: CollectionConfig, list: &[(&str, usize, usize)]) -> CollectionConfig {
    let tokens = list.iter().map(|&(of, n, dim)| (of.to_owned(), TokenConfig { n, dim })).collect();
    CollectionConfig { tokens, ..config }
}

fn tokens(n: usize, dim: usize, values: &[f32]) -> Tokens {
    Tokens { n, dim, values: values.iter().map(|x| half::f16::from_f32(*x)).collect() }
}

fn database() -> (tempfile::TempDir, Database) {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(dir.path(), Options { min_free_bytes: 0, ..Options::default() }).unwrap();
    (dir, database)
}

fn message<T>(result: Result<T>) -> String {
    result.err().map_or("no error".to_owned(), |error| error.to_string())
}

#[test]
fn points_that_cannot_be_kept() {
    let (_dir, database) = database();
    let config = with_tokens(config(&[("a", 2), ("b", 3)]), &[("a", 2, 3)]);
    let collection = database.create_collection("c", config).unwrap();
    collection.upsert(vec![good(1)]).unwrap();
    let text = |text: String| NewPoint { texts: vec![Text { text, language: String::new() }], ..good(2) };
    let with = |of: &str, tokens| NewPoint { tokens: [(of.to_owned(), tokens)].into(), ..good(2) };
    let payload = |json: &str| NewPoint { payload: serde_json::from_str(json).unwrap(), ..good(2) };
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(20), "]".repeat(20));
    let cases: Vec<(NewPoint, &str)> = vec![
        (point("", &[("a", &[1.0, 0.0])]), "id of 0 bytes: expected 1 to 512"),
        (point("x".repeat(513).as_str(), &[("a", &[1.0, 0.0])]), "id of 513 bytes: expected 1 to 512"),
        (point(2, &[]), "point 2 has no vector"),
        (point(2, &[("c", &[1.0])]), r#"no vector named "c": expected one of ["a", "b"]"#),
        (point(2, &[("a", &[1.0])]), r#"vector "a": expected 2 dimensions, received 1"#),
        (point(2, &[("a", &[1.0, 0.0]), ("b", &[])]), r#"vector "b": expected 3 dimensions, received 0"#),
        (point(2, &[("a", &[1.0, f32::NAN])]), r#"vector "a": the number at position 1 is not finite"#),
        (point(2, &[("a", &[f32::NEG_INFINITY, 0.0])]), r#"vector "a": the number at position 0 is not finite"#),
        (point(2, &[("a", &[0.0, -0.0])]), r#"vector "a" has length zero: it has no direction to compare"#),
        (text("x".repeat(256 * 1024 + 1)), "bytes of a text: at most 262144, received 262145"),
        (
            NewPoint { texts: vec![Text { text: String::new(), language: "x".repeat(65) }], ..good(2) },
            "bytes of a language: at most 64, received 65",
        ),
        (NewPoint { texts: vec![Text::default(); 257], ..good(2) }, "texts of a point: at most 256, received 257"),
        (
            payload(&format!("{{\"a\":\"{}\"}}", "x".repeat(1024 * 1024))),
            "bytes of a payload: at most 1048576, received 1048584",
        ),
        (payload(&deep), "levels of a payload: at most 20, received 21"),
        (with("b", tokens(2, 3, &[0.0; 6])), r#"no tokens named "b": expected one of ["a"]"#),
        (with("a", tokens(3, 2, &[0.0; 6])), r#"tokens "a": expected 2 x 3 numbers, received 3 x 2"#),
        (with("a", tokens(2, 3, &[0.0; 7])), r#"tokens "a": expected 2 x 3 numbers, received 7"#),
        (with("a", tokens(2, 3, &[])), r#"tokens "a": expected 2 x 3 numbers, received 0"#),
        (
            with("a", tokens(2, 3, &[0.0, 0.0, 0.0, 0.0, 1e9, 0.0])),
            r#"tokens "a": the number at position 4 is not finite"#,
        ),
    ];
    for (new, expected) in cases {
        assert_eq!(message(collection.check(&new)), expected);
        assert_eq!(message(collection.upsert(vec![good(3), new])), expected);
    }
    assert_eq!(message(collection.upsert(vec![good(4), good(5), good(4)])), "id 4 stands twice in one batch");
    assert_eq!(collection.reader().count(), 1);
}

#[test]
fn limits_themselves_are_allowed() {
    let (_dir, database) = database();
    let config = with_tokens(config(&[("a", 2)]), &[("a", 256, 2048)]);
    let collection = database.create_collection("c", config).unwrap();
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(19), "]".repeat(19));
    let points = vec![
        point("x".repeat(512).as_str(), &[("a", &[f32::MAX, f32::MAX])]),
        point(1, &[("a", &[1e-45, 0.0])]),
        NewPoint { payload: serde_json::from_str(&deep).unwrap(), ..good(2) },
        NewPoint { texts: vec![Text { text: "x".repeat(256 * 1024), language: "en".into() }; 3], ..good(3) },
        NewPoint { tokens: [("a".to_owned(), tokens(256, 2048, &[65_504.0; 256 * 2048]))].into(), ..good(4) },
    ];
    collection.upsert(points.clone()).unwrap();
    let ids: Vec<PointId> = points.iter().map(|p| p.id.clone()).collect();
    let all = Fields { payload: true, texts: true, vectors: true, tokens: true };
    let stored = collection.reader().get(&ids, all).unwrap();
    assert_eq!(stored[4].tokens, points[4].tokens);
    assert_eq!(stored[4].n_bytes, 1024 * 1024 + 2 * 4 + 2);
    assert_eq!(
        stored.iter().map(|p| &p.payload).collect::<Vec<_>>(),
        points.iter().map(|p| &p.payload).collect::<Vec<_>>()
    );
    assert_eq!(stored[3].texts, points[3].texts);
    assert_eq!(stored[1].vectors["a"], [1.0, 0.0]);
    collection.upsert(Vec::new()).unwrap();
}

#[test]
fn searches_that_mean_nothing() {
    let (_dir, database) = database();
    let collection = database.create_collection("c", config(&[("a", 2)])).unwrap();
    collection.upsert(vec![good(1)]).unwrap();
    let reader = collection.reader();
    let base = Search { vector: &[1.0, 0.0], using: "a", limit: 1, ef: None, exact: false };
    let cases = [
        (Search { using: "b", ..base.clone() }, r#"no vector named "b": expected one of ["a"]"#),
        (Search { vector: &[1.0], ..base.clone() }, r#"vector "a": expected 2 dimensions, received 1"#),
        (
            Search { vector: &[0.0, 0.0], ..base.clone() },
            r#"vector "a" has length zero: it has no direction to compare"#,
        ),
        (Search { vector: &[0.0, f32::NAN], ..base.clone() }, r#"vector "a": the number at position 1 is not finite"#),
        (Search { limit: 0, ..base.clone() }, "limit: expected 1 to 10000, received 0"),
        (Search { limit: 10_001, ..base.clone() }, "limit: expected 1 to 10000, received 10001"),
        (Search { ef: Some(0), ..base.clone() }, "ef: expected 1 to 4096, received 0"),
        (Search { ef: Some(4097), ..base.clone() }, "ef: expected 1 to 4096, received 4097"),
    ];
    for (search, expected) in cases {
        assert_eq!(message(reader.search(&search)), expected);
    }
    assert_eq!(message(reader.vector(&1.into(), "b")), r#"no vector named "b": expected one of ["a"]"#);
    assert_eq!(message(reader.tokens(0, "a")), r#"no tokens named "a": expected one of []"#);
    assert_eq!(message(reader.vector(&2.into(), "a")), "no point with id 2");
    assert_eq!(message(reader.scroll(0, 10_001, Fields::default())), "points of a page: at most 10000, received 10001");
    let missing = collection.set_payload(&[1.into(), "1".into()], Payload::new(), PayloadChange::Overwrite);
    assert_eq!(message(missing), "no point with id 1");
}

#[test]
fn names_and_settings() {
    let (_dir, database) = database();
    let not_a_name =
        |name: &str| format!("{name:?} is not a name: 1 to 128 of a-z A-Z 0-9 . _ -, not starting with a dot");
    for name in ["", ".a", "a/b", "ü", "a b", &"x".repeat(129)] {
        let shown: String = name.chars().take(128).collect();
        assert_eq!(message(database.create_collection(name, config(&[("a", 2)]))), not_a_name(&shown));
    }
    let hnsw = |m, ef_construction, ef_search| HnswConfig { m, ef_construction, ef_search };
    let many: Vec<(String, usize)> = (0..17).map(|i| (format!("v{i}"), 2)).collect();
    let many: Vec<(&str, usize)> = many.iter().map(|(name, dim)| (name.as_str(), *dim)).collect();
    let cases = [
        (config(&[]), "vectors: expected 1 to 16, received 0".to_owned()),
        (config(&many), "vectors: expected 1 to 16, received 17".to_owned()),
        (config(&[("", 2)]), not_a_name("")),
        (config(&[("a", 0)]), "dim: expected 1 to 16384, received 0".to_owned()),
        (config(&[("a", 16_385)]), "dim: expected 1 to 16384, received 16385".to_owned()),
        (
            with_tokens(config(&[("a", 2)]), &[("b", 2, 2)]),
            r#"tokens: expected the name of a vector, one of ["a"], received "b""#.to_owned(),
        ),
        (with_tokens(config(&[("a", 2)]), &[("a", 0, 2)]), "tokens.n: expected 1 to 256, received 0".into()),
        (with_tokens(config(&[("a", 2)]), &[("a", 257, 2)]), "tokens.n: expected 1 to 256, received 257".into()),
        (with_tokens(config(&[("a", 2)]), &[("a", 2, 0)]), "tokens.dim: expected 1 to 16384, received 0".into()),
        (
            with_tokens(config(&[("a", 2)]), &[("a", 2, 16_385)]),
            "tokens.dim: expected 1 to 16384, received 16385".into(),
        ),
        (
            with_tokens(config(&[("a", 2)]), &[("a", 256, 2049)]),
            "bytes of tokens: at most 1048576, received 1049088".into(),
        ),
        (CollectionConfig { hnsw: hnsw(3, 200, 64), ..config(&[("a", 2)]) }, "m: expected 4 to 64, received 3".into()),
        (
            CollectionConfig { hnsw: hnsw(16, 199, 64), ..config(&[("a", 2)]) },
            "ef_construction: expected 200 to 2000, received 199".into(),
        ),
        (
            CollectionConfig { hnsw: hnsw(16, 200, 0), ..config(&[("a", 2)]) },
            "ef_search: expected 1 to 4096, received 0".into(),
        ),
    ];
    for (config, expected) in cases {
        assert_eq!(message(database.create_collection("c", config)), expected);
    }
    let dir = tempfile::tempdir().unwrap();
    let no_buffer = Options { buffer_limit: 0, ..Options::default() };
    assert_eq!(message(Database::open(dir.path(), no_buffer)), "buffer_limit: expected 1 to 4294967294, received 0");
    assert!(database.collections().is_empty());
}

#[test]
fn collections_and_aliases() {
    let (dir, database) = database();
    let set = |alias: &str, collection: &str| AliasChange::Set { alias: alias.into(), collection: collection.into() };
    let delete = |alias: &str| AliasChange::Delete { alias: alias.into() };
    for name in ["one", "two"] {
        database.create_collection(name, config(&[("a", 2)])).unwrap();
    }
    database.update_aliases(&[set("now", "one"), set("old", "two")]).unwrap();
    let cases: [(&[AliasChange], &str); 5] = [
        (&[set("new", "one"), delete("none")], r#"no alias named "none""#),
        (&[set("new", "none")], r#"no collection named "none""#),
        (&[set("new", "now")], r#"no collection named "now""#),
        (&[set("one", "two")], r#"a collection or alias named "one" exists"#),
        (&[set("a b", "two")], r#""a b" is not a name: 1 to 128 of a-z A-Z 0-9 . _ -, not starting with a dot"#),
    ];
    for (changes, expected) in cases {
        assert_eq!(message(database.update_aliases(changes)), expected);
        assert_eq!(message(database.collection("new")), r#"no collection named "new""#);
    }
    for name in ["one", "now"] {
        let again = database.create_collection(name, config(&[("a", 2)]));
        assert_eq!(message(again), format!("a collection or alias named {name:?} exists"));
    }
    database.update_aliases(&[delete("old"), set("now", "two")]).unwrap();
    assert_eq!(database.collection("now").unwrap().name(), "two");
    assert_eq!(database.collection_info("now").unwrap().aliases, ["now"]);

    let two = database.collection("two").unwrap();
    two.upsert(vec![good(1)]).unwrap();
    let (uuid, reader) = (two.info().uuid, two.reader());
    let refused = r#"collection_name: expected the collection's own name, received the alias "now""#;
    assert_eq!(message(database.delete_collection("now")), refused);
    database.delete_collection("two").unwrap();
    assert_eq!(message(database.collection("now")), r#"no collection named "now""#);
    assert_eq!(message(two.upsert(vec![good(2)])), r#"no collection named "two""#);
    // Whoever reads it may finish.
    assert_eq!(reader.get(&[1.into()], Fields::default()).unwrap().len(), 1);
    drop((reader, two));
    database.create_collection("two", config(&[("a", 2)])).unwrap();
    assert_ne!(database.collection_info("two").unwrap().uuid, uuid);

    database.close().unwrap();
    assert_eq!(message(database.create_collection("three", config(&[("a", 2)]))), "the database is closed");
    assert_eq!(message(database.collection("one")), "the database is closed");
    let database = Database::open(dir.path(), Options { min_free_bytes: 0, ..Options::default() }).unwrap();
    let names: Vec<(String, u64)> = database.collections().into_iter().map(|c| (c.name, c.points_count)).collect();
    assert_eq!(names, [("one".to_owned(), 0), ("two".to_owned(), 0)]);
}
