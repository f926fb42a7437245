//! Tests that spoil what is on disk behind the database's back, and see what it makes of it.

use std::{ops::ControlFlow, path::Path, time::Duration};

use crate::{
    store::{Changes, Store, Tree},
    *,
};

const DIM: usize = 8;
const N: u64 = 300;
const TOKENS: TokenConfig = TokenConfig { n: 3, dim: 5 };

fn open(dir: &Path) -> Database {
    let options = Options { buffer_limit: 100, build_threads: 1, min_free_bytes: 0, ..Options::default() };
    Database::open(dir, options).unwrap()
}

fn vector(i: u64) -> Vec<f32> {
    (0..DIM as u64).map(|j| ((i * 31 + j * 17 + i * j) % 101) as f32 - 50.5).collect()
}

fn point(i: u64) -> NewPoint {
    let texts = vec![Text { text: format!("text {i}"), language: String::new() }];
    let (vectors, tokens) = ([("v".to_owned(), vector(i))].into(), [("v".to_owned(), tokens(i))].into());
    NewPoint { id: i.into(), texts, payload: Payload::new(), vectors, tokens }
}

fn tokens(i: u64) -> Tokens {
    let number = |j: usize| half::f16::from_f32((i * 13 + j as u64) as f32 / 4.0);
    Tokens { n: TOKENS.n, dim: TOKENS.dim, values: (0..TOKENS.n * TOKENS.dim).map(number).collect() }
}

/// Two collections of N points each, both in one segment.
fn two_collections(dir: &Path) {
    let database = open(dir);
    for name in ["one", "two"] {
        let vectors = [("v".to_owned(), VectorConfig::new(DIM))].into();
        let tokens = [("v".to_owned(), TOKENS)].into();
        let config = CollectionConfig { vectors, tokens, ..CollectionConfig::default() };
        let collection = database.create_collection(name, config).unwrap();
        collection.upsert((0..N).map(point).collect()).unwrap();
        collection.optimize().unwrap();
    }
    database.update_aliases(&[AliasChange::Set { alias: "alias".into(), collection: "one".into() }]).unwrap();
    database.close().unwrap();
}

/// Changes the first value under a prefix; None removes it.
fn spoil(dir: &Path, tree: Tree, prefix: &[u8], change: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let store = Store::open(&dir.join("store"), 1 << 20).unwrap();
    let mut changes = Changes::new();
    store
        .scan(tree, prefix, |key, value| {
            changes.insert(key.to_vec(), change(value));
            Ok(ControlFlow::Break(()))
        })
        .unwrap();
    assert_eq!(changes.len(), 1, "there is something to spoil");
    store.commit(tree, changes).unwrap();
    store.close().unwrap();
}

fn flip(value: &[u8]) -> Option<Vec<u8>> {
    let mut value = value.to_vec();
    *value.last_mut().expect("every value has a header") ^= 4;
    Some(value)
}

fn cut(value: &[u8]) -> Option<Vec<u8>> {
    Some(value[..value.len() / 2].to_vec())
}

fn remove(_: &[u8]) -> Option<Vec<u8>> {
    None
}

/// What becomes of a value; None: it is removed.
type Spoil = fn(&[u8]) -> Option<Vec<u8>>;

const SPOILS: [Spoil; 3] = [flip, cut, remove];

fn check_serves(database: &Database, name: &str) {
    let collection = database.collection(name).unwrap();
    let reader = collection.reader();
    assert_eq!(reader.count(), N);
    for i in 0..N {
        let vector = vector(i);
        let hits = reader.search(&Search { vector: &vector, using: "v", limit: 5, ef: Some(5), exact: false }).unwrap();
        assert!(hits[0].score > 0.999_99, "{name}: {i} finds {hits:?}");
        let fields = Fields { texts: true, tokens: true, ..Fields::default() };
        let point = reader.get(&[i.into()], fields).unwrap().pop().unwrap();
        assert_eq!((point.texts.len(), &point.tokens["v"]), (1, &tokens(i)));
        assert_eq!(point.n_bytes, point.texts[0].text.len() + TOKENS.bytes());
    }
}

#[test]
fn a_damaged_segment_is_built_anew() {
    for prefix in key::owned_segments(0) {
        for change in SPOILS {
            let dir = tempfile::tempdir().unwrap();
            two_collections(dir.path());
            spoil(dir.path(), Tree::Segments, &prefix, change);
            let database = open(dir.path());
            check_serves(&database, "one");
            check_serves(&database, "two");
            let collection = database.collection("one").unwrap();
            assert!(collection.wait_until_indexed(Duration::MAX));
            let info = collection.info();
            assert_eq!((info.status, info.segments_count, info.buffered_vectors_count), (Status::Ready, 1, 0));
            assert_eq!(collection.verify().unwrap().damages, []);
            check_serves(&database, "one");
            database.close().unwrap();
            // It is whole on disk as well.
            assert_eq!(open(dir.path()).collection("one").unwrap().verify().unwrap().damages, []);
        }
    }
}

#[test]
fn a_damaged_truth_is_quarantined_and_the_neighbour_serves() {
    let prefixes = [key::points(0), key::rows_of(0), key::vectors(0, 0), key::collection(0, "one"), key::next_row(0)];
    let spoils = prefixes.iter().flat_map(|p| SPOILS.into_iter().enumerate().map(move |spoil| (p, spoil)));
    for (prefix, (i, change)) in spoils {
        let is_catalog = prefix == &key::collection(0, "one");
        // A removed catalog record or id is a deletion, as far as anybody can tell.
        let is_removed = i == SPOILS.len() - 1;
        if is_removed && (is_catalog || prefix == &key::rows_of(0)) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        two_collections(dir.path());
        spoil(dir.path(), Tree::Points, prefix, change);
        let database = open(dir.path());
        let error = database.collection("alias").err().expect("it is quarantined");
        assert!(matches!(&error, Error::Quarantined { name, .. } if name == "one"), "{error}");
        let info = database.collection_info("one").unwrap();
        assert!(matches!(&info.status, Status::Quarantined(reason) if !reason.is_empty()));
        assert_eq!((info.aliases, info.config.vectors.len()), (vec!["alias".to_owned()], usize::from(!is_catalog)));
        check_serves(&database, "two");
        database.delete_collection("one").unwrap();
        database.close().unwrap();
        let database = open(dir.path());
        assert_eq!(database.collections().len(), 1);
        check_serves(&database, "two");
    }
}

#[test]
fn verify_names_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    two_collections(dir.path());
    let database = open(dir.path());
    let collection = database.collection("one").unwrap();
    let report = collection.verify().unwrap();
    let checked = (report.points_checked, report.vectors_checked, report.tokens_checked, report.segments_checked);
    assert_eq!(checked, (N, N, N, 1));
    assert_eq!((report.damages, report.unreachable_vectors), (Vec::new(), 0));
    let places = [
        (Tree::Points, key::point(0, 3), "point in row 3"),
        (Tree::Points, key::vector(0, 0, 5), "vector 0 in row 5"),
        (Tree::Points, key::tokens(0, 0, 6), "tokens 0 in row 6"),
        (Tree::Segments, key::chunk(0, 0, collection.first_segment(), 0), "segment"),
    ];
    for (i, (tree, key, what)) in places.into_iter().enumerate() {
        collection.spoil(tree, &key, flip);
        let damages = collection.verify().unwrap().damages;
        assert_eq!(damages.len(), i + 1, "{damages:?}");
        assert!(damages.iter().any(|damage| damage.what.starts_with(what)), "{damages:?}");
    }
    let broken = collection.reader().fetch(&[3], Fields::default());
    assert!(matches!(broken, Err(Error::Damaged { .. })));
    assert_eq!(collection.reader().fetch(&[4], Fields::default()).unwrap().len(), 1);
}

#[test]
fn damaged_tokens_are_named_and_the_rest_serves() {
    for change in SPOILS {
        let dir = tempfile::tempdir().unwrap();
        two_collections(dir.path());
        spoil(dir.path(), Tree::Points, &key::tokens(0, 0, 7), change);
        let database = open(dir.path());
        let collection = database.collection("one").unwrap();
        let reader = collection.reader();
        let damages = collection.verify().unwrap().damages;
        assert_eq!(damages.iter().map(|damage| damage.what.as_str()).collect::<Vec<_>>(), ["tokens 0 in row 7"]);
        let fields = Fields { tokens: true, ..Fields::default() };
        for broken in [reader.tokens(7, "v").map(drop), reader.fetch(&[7], fields).map(drop)] {
            assert!(matches!(&broken, Err(Error::Damaged { what, .. }) if what == "tokens 0 in row 7"), "{broken:?}");
        }
        assert_eq!(reader.tokens(8, "v").unwrap(), Some(tokens(8)));
        assert_eq!(reader.fetch(&[7], Fields { vectors: true, ..Fields::default() }).unwrap().len(), 1);
        collection.upsert(vec![point(7)]).unwrap();
        assert_eq!(collection.verify().unwrap().damages, []);
    }
}

#[test]
fn tokens_count_when_space_is_admitted() {
    let dir = tempfile::tempdir().unwrap();
    let large = TokenConfig { n: 256, dim: 2048 };
    let options = || Options { min_free_bytes: 0, ..Options::default() };
    let config = CollectionConfig {
        vectors: [("v".to_owned(), VectorConfig::new(DIM))].into(),
        tokens: [("v".to_owned(), large)].into(),
        ..CollectionConfig::default()
    };
    let database = Database::open(dir.path(), options()).unwrap();
    database.create_collection("c", config).unwrap();
    database.close().unwrap();
    // Between what the points need with their tokens and without them.
    let free = fs2::available_space(dir.path()).unwrap();
    let database = Database::open(dir.path(), Options { min_free_bytes: free - (32 << 20), ..options() }).unwrap();
    let collection = database.collection("c").unwrap();
    let values = vec![half::f16::ONE; large.n * large.dim];
    let with = |i| NewPoint {
        tokens: [("v".to_owned(), Tokens { n: large.n, dim: large.dim, values: values.clone() })].into(),
        ..point(i)
    };
    let refused = collection.upsert((0..64).map(with).collect());
    assert!(matches!(refused, Err(Error::DiskFull { .. })), "{refused:?}");
    let without = |i| NewPoint { tokens: Default::default(), ..point(i) };
    collection.upsert((0..64).map(without).collect()).unwrap();
    assert_eq!(collection.reader().tokens(3, "v").unwrap(), None);
}

#[test]
fn an_unreadable_directory_says_what_to_do() {
    let spoils: [fn(&Path); 3] = [
        |db| std::fs::write(db, b"").unwrap(),
        |db| std::fs::write(db, vec![0xa5; std::fs::metadata(db).unwrap().len() as usize]).unwrap(),
        |db| std::fs::remove_dir_all(db.parent().unwrap()).unwrap(),
    ];
    for (i, spoil) in spoils.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        two_collections(dir.path());
        spoil(&dir.path().join("store").join("db"));
        let error = Database::open(dir.path(), Options::default()).err().expect("it cannot be opened");
        assert!(matches!(error, Error::Damaged { .. }), "{i}: {error}");
        assert!(error.to_string().contains("hint: "), "{i}: {error}");
    }
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    two_collections(dir.path());
    let full = Options { min_free_bytes: u64::MAX, ..Options::default() };
    let database = Database::open(dir.path(), full).unwrap();
    let collection = database.collection("one").unwrap();
    assert!(matches!(collection.delete(&[1.into()]), Err(Error::DiskFull { .. })));
    let results = [
        collection.upsert(vec![point(0), point(N)]),
        collection.set_payload(&[2.into()], Payload::new(), PayloadChange::Overwrite),
    ];
    assert!(
        results.iter().all(|result| matches!(result, Err(Error::DiskFull { needed: u64::MAX, .. }))),
        "{results:?}"
    );
    assert!(matches!(collection.rebuild(), Err(Error::DiskFull { .. })));
    assert!(matches!(database.delete_collection("two"), Err(Error::DiskFull { .. })));
    check_serves(&database, "one");
    check_serves(&database, "two");
    database.close().unwrap();
    let database = open(dir.path());
    database.collection("one").unwrap().upsert(vec![point(0)]).unwrap();
    assert_eq!(database.collection("one").unwrap().verify().unwrap().damages, []);
}

#[test]
fn a_full_disk_can_be_freed() {
    let dir = tempfile::tempdir().unwrap();
    two_collections(dir.path());
    let free = fs2::available_space(dir.path()).unwrap();
    let full = Options { min_free_bytes: free.saturating_mul(4), ..Options::default() };
    let database = Database::open(dir.path(), full).unwrap();
    let collection = database.collection("one").unwrap();
    assert!(matches!(collection.upsert(vec![point(N)]), Err(Error::DiskFull { .. })));
    assert_eq!(collection.delete(&[1.into()]).unwrap().changed, 1);
    database.delete_collection("two").unwrap();
    assert_eq!(collection.reader().count(), N - 1);
}

#[test]
fn dropped_rows_leave_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    two_collections(dir.path());
    let database = open(dir.path());
    let collection = database.collection("one").unwrap();
    let reader = collection.reader();
    for _ in 0..3 {
        collection.upsert((0..N).map(point).collect()).unwrap();
    }
    collection.optimize().unwrap();
    assert!(collection.n_keys(&key::points(0)) >= 2 * N as usize, "a reader keeps its rows");
    let fields = Fields { tokens: true, ..Fields::default() };
    let kept = reader.get(&[7.into()], fields).unwrap().pop().unwrap();
    assert_eq!((kept.row, &kept.tokens["v"]), (7, &tokens(7)));
    drop(reader);
    collection.delete(&[0.into()]).unwrap();
    collection.delete(&[1.into()]).unwrap();
    // The row dropped last goes with the next commit; its vector with the segment.
    assert_eq!(collection.n_keys(&key::points(0)), N as usize - 1);
    assert_eq!(collection.n_keys(&key::all_tokens(0, 0)), N as usize - 1);
    assert_eq!(collection.n_keys(&key::vectors(0, 0)), N as usize);
    database.delete_collection("two").unwrap();
    assert!(collection.wait_until_indexed(Duration::MAX));
    for prefix in key::owned(1) {
        assert_eq!(collection.n_keys(&prefix), 0, "of a deleted collection");
    }
}

#[test]
fn rows_that_readers_held_when_it_closed_leave_the_disk_at_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    two_collections(dir.path());
    let database = open(dir.path());
    let reader = database.collection("one").unwrap().reader();
    database.collection("one").unwrap().upsert((0..N).map(point).collect()).unwrap();
    drop(reader);
    database.close().unwrap();
    let database = open(dir.path());
    let collection = database.collection("one").unwrap();
    for prefix in [key::points(0), key::all_tokens(0, 0)] {
        assert_eq!(collection.n_keys(&prefix), N as usize);
    }
    check_serves(&database, "one");
}
