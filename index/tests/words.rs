//! Full text: judged by BM25 written down plainly, on points that come, change and go, in memory and on disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::Path,
};

use firn_index::*;
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

/// So many rows are buffered before they go to disk.
const BUFFER: usize = 40;

fn seed() -> u64 {
    let seed = std::env::var("FIRN_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("FIRN_TEST_SEED={seed}");
    seed
}

type Texts = BTreeMap<u64, String>;

fn open(dir: &Path) -> Database {
    Database::open(dir, Options { buffer_limit: BUFFER, min_free_bytes: 0, ..Options::default() }).unwrap()
}

fn collection(database: &Database) -> Collection {
    let vectors = [("v".to_owned(), VectorConfig::new(1))].into();
    let config = CollectionConfig { vectors, ..CollectionConfig::default() };
    database.collection("c").or_else(|_| database.create_collection("c", config)).unwrap()
}

fn point(id: u64, text: &str) -> NewPoint {
    let text = Text { text: text.to_owned(), language: String::new() };
    NewPoint {
        id: PointId::Num(id),
        texts: vec![text],
        payload: Payload::new(),
        vectors: [("v".to_owned(), vec![1.0])].into(),
        tokens: BTreeMap::new(),
    }
}

fn search(collection: &Collection, text: &str, limit: usize) -> Vec<(u64, f32)> {
    let reader = collection.reader();
    let found = reader.search_text(&TextSearch { text, limit }).unwrap();
    let id = |row| match reader.fetch(&[row], Fields::default()).unwrap()[0].id {
        PointId::Num(id) => id,
        PointId::Text(_) => unreachable!("all ids are numbers"),
    };
    found.into_iter().map(|candidate| (id(candidate.row), candidate.score)).collect()
}

/// BM25 of every text that holds one of the words; the texts have fewer words than lengths are rounded at.
fn judged(texts: &Texts, asked: &str) -> BTreeMap<u64, f32> {
    let words: Vec<(u64, Vec<&str>)> = texts.iter().map(|(id, text)| (*id, text.split(' ').collect())).collect();
    let n = words.len() as f32;
    let mean = words.iter().map(|(_, words)| words.len()).sum::<usize>() as f32 / n;
    let mut scores = BTreeMap::new();
    for term in asked.split(' ') {
        let n_with = words.iter().filter(|(_, words)| words.contains(&term)).count() as f32;
        let idf = (1.0 + (n - n_with + 0.5) / (n_with + 0.5)).ln();
        for (id, words) in words.iter().filter(|(_, words)| words.contains(&term)) {
            let tf = words.iter().filter(|word| **word == term).count() as f32;
            let norm = 1.2 * (1.0 - 0.75 + 0.75 * words.len() as f32 / mean);
            *scores.entry(*id).or_default() += idf * 2.2 * tf / (tf + norm);
        }
    }
    scores
}

/// Few words, some of them rare.
fn some_words(rng: &mut ChaCha8Rng, n: usize) -> String {
    let word = |rng: &mut ChaCha8Rng| {
        let top = rng.random_range(1..40);
        format!("w{}", rng.random_range(0..top))
    };
    (0..n).map(|_| word(rng)).collect::<Vec<_>>().join(" ")
}

#[test]
fn texts_are_found_by_bm25_wherever_they_are_kept() {
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let dir = tempfile::tempdir().unwrap();
    let mut database = open(dir.path());
    let mut texts = Texts::new();
    for round in 0..60 {
        let collection = collection(&database);
        match rng.random_range(0..10) {
            0..6 => {
                let n = rng.random_range(1..2 * BUFFER);
                let ids: BTreeSet<u64> = (0..n).map(|_| rng.random_range(0..2000)).collect();
                let text = |id| {
                    let n = rng.random_range(1..30);
                    (id, some_words(&mut rng, n))
                };
                let new: Texts = ids.into_iter().map(text).collect();
                collection.upsert(new.iter().map(|(id, text)| point(*id, text)).collect()).unwrap();
                texts.extend(new);
            }
            6..8 => {
                let ids: Vec<u64> = texts.keys().copied().filter(|_| rng.random_bool(0.3)).collect();
                collection.delete(&ids.iter().map(|id| PointId::Num(*id)).collect::<Vec<_>>()).unwrap();
                ids.iter().for_each(|id| drop(texts.remove(id)));
            }
            8 => assert!(collection.wait_until_indexed(std::time::Duration::from_secs(60))),
            _ => {
                drop(collection);
                database.close().unwrap();
                database = open(dir.path());
            }
        }
        let collection = self::collection(&database);
        let asked = some_words(&mut rng, 3);
        let expected: BTreeSet<u64> = judged(&texts, &asked).into_keys().collect();
        let found = search(&collection, &asked, 10_000);
        assert_eq!(found.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>(), expected, "round {round}, {asked:?}");
        // What the background removes of the dead changes all scores a little.
        assert!(collection.wait_until_indexed(std::time::Duration::from_secs(60)));
        let (first, found) = (search(&collection, &asked, 5), search(&collection, &asked, 10_000));
        assert_eq!(first.len(), found.len().min(5));
        assert!(first.iter().zip(&found).all(|(few, all)| (few.1 - all.1).abs() < 1e-5), "round {round}, {asked:?}");
        assert_eq!(collection.verify().unwrap().damages, [], "round {round}");
    }
    // Nothing dead is counted in a new index: then the scores are those of the texts that are there.
    let collection = collection(&database);
    assert_eq!(collection.rebuild().unwrap().texts_indexed, texts.len() as u64);
    let more: Texts = (5000..5000 + BUFFER as u64 / 2).map(|id| (id, some_words(&mut rng, 20))).collect();
    collection.upsert(more.iter().map(|(id, text)| point(*id, text)).collect()).unwrap();
    texts.extend(more);
    for n in 1..6 {
        let asked = some_words(&mut rng, n);
        let expected = judged(&texts, &asked);
        let found = search(&collection, &asked, 10_000);
        assert_eq!(found.len(), expected.len(), "{asked:?}");
        assert!(found.is_sorted_by(|a, b| a.1 >= b.1));
        for (id, score) in found {
            assert!((score - expected[&id]).abs() < 1e-4, "{asked:?}: {id} {score} {}", expected[&id]);
        }
    }
}

#[test]
fn words_of_any_language_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path());
    let collection = collection(&database);
    let texts = ["Ein Mädchen läuft", "L'homme à vélo", "一只猫在睡觉", "แมวดำ", "un perro, dos PERROS", "..."];
    collection.upsert(texts.iter().zip(1..).map(|(text, id)| point(id, text)).collect()).unwrap();
    let check = |asked: &str, expected: &[u64]| {
        let found: Vec<u64> = search(&collection, asked, 10).into_iter().map(|(id, _)| id).collect();
        assert_eq!(found, expected, "{asked:?}");
    };
    check("madchen", &[1]);
    check("HOMME", &[2]);
    check("猫", &[3]);
    check("睡觉", &[3]);
    check("แมว", &[4]);
    check("perro", &[5]);
    check("perros perro laeuft", &[5]);
    check("kein", &[]);
    check("", &[]);
    check("!!", &[]);
    let reader = collection.reader();
    assert_eq!(reader.search_text(&TextSearch { text: "猫", limit: 0 }).unwrap(), []);
    let too_many = reader.search_text(&TextSearch { text: "猫", limit: Limits::MAX_LIMIT + 1 });
    assert!(matches!(too_many, Err(Error::LimitExceeded { .. })));
    let too_long = "x ".repeat(Limits::MAX_TEXT_BYTES);
    assert!(matches!(reader.search_text(&TextSearch { text: &too_long, limit: 1 }), Err(Error::LimitExceeded { .. })));
}

#[test]
fn a_damaged_index_is_seen_and_built_anew() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path());
    let points = |from: u64| (from..from + 3 * BUFFER as u64).map(|id| point(id, &format!("word{id} all"))).collect();
    let made = collection(&database);
    made.upsert(points(0)).unwrap();
    let folder = dir.path().join("text");
    assert!(!folder.exists(), "nothing is indexed that nobody asks for");
    assert_eq!(search(&made, "word7", 3).len(), 1);
    assert!(made.wait_until_indexed(std::time::Duration::from_secs(60)));
    drop(made);
    database.close().unwrap();

    let files = || -> Vec<_> {
        let in_folder = |f: fs::DirEntry| fs::read_dir(f.path()).unwrap().flatten().map(|f| f.path());
        let all = fs::read_dir(&folder).unwrap().flatten().flat_map(in_folder);
        let is_lock = |path: &Path| path.extension().is_some_and(|extension| extension == "lock");
        all.filter(|path| !is_lock(path) && fs::metadata(path).unwrap().len() > 0).collect()
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    for round in 0..30 {
        let files = files();
        let path = files.choose(&mut rng).unwrap();
        let mut bytes = fs::read(path).unwrap();
        let place = rng.random_range(0..bytes.len());
        if rng.random_bool(0.5) {
            bytes[place] ^= 0x55
        } else {
            bytes.truncate(place)
        }
        fs::write(path, bytes).unwrap();
        let database = open(dir.path());
        let collection = collection(&database);
        assert_eq!(search(&collection, "all", 1000).len(), 3 * BUFFER, "round {round}, {}", path.display());
        assert_eq!(collection.verify().unwrap().damages, [], "round {round}, {}", path.display());
        drop(collection);
        database.close().unwrap();
    }

    // Damage that comes while the index is open is for `verify` to find.
    let database = open(dir.path());
    let collection = collection(&database);
    collection.rebuild().unwrap();
    let path = files().into_iter().find(|path| path.extension().is_some_and(|extension| extension == "idx")).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"damage").unwrap();
    let damages = collection.verify().unwrap().damages;
    assert!(damages.len() == 1 && damages[0].what.starts_with("full-text index"), "{damages:?}");
    collection.rebuild().unwrap();
    assert_eq!(collection.verify().unwrap().damages, []);
    assert_eq!(search(&collection, "all", 1000).len(), 3 * BUFFER);
}

#[test]
fn what_is_deleted_takes_its_index_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path());
    let made = collection(&database);
    made.upsert(vec![point(1, "one")]).unwrap();
    assert_eq!(search(&made, "one", 3).len(), 1);
    let reader = made.reader();
    drop(made);
    database.delete_collection("c").unwrap();
    assert!(reader.search_text(&TextSearch { text: "one", limit: 1 }).is_ok(), "a reader goes on");
    drop(reader);
    let again = collection(&database);
    again.upsert(vec![point(1, "two")]).unwrap();
    assert_eq!((search(&again, "one", 3).len(), search(&again, "two", 3).len()), (0, 1));
    drop(again);
    database.close().unwrap();
    let database = open(dir.path());
    assert!(database.disk_bytes() > 0);
    assert_eq!(fs::read_dir(dir.path().join("text")).unwrap().count(), 1, "only that of the second is left");
}

#[test]
fn what_is_acknowledged_is_found_whatever_else_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path());
    let made = collection(&database);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let write = |writer: u64| {
            let collection = made.clone();
            move || {
                for n in 0..150 {
                    let (id, word) = (writer * 1000 + n % 40, format!("w{writer}n{n}"));
                    collection.upsert(vec![point(id, &format!("{word} all"))]).unwrap();
                    let found = search(&collection, &word, 10);
                    assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id], "{word}");
                    if n % 7 == 0 {
                        collection.delete(&[PointId::Num(id)]).unwrap();
                        assert!(search(&collection, &word, 10).is_empty(), "{word}");
                    }
                }
            }
        };
        let writers: Vec<_> = (0..4).map(|writer| scope.spawn(write(writer))).collect();
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                made.rebuild().unwrap();
                assert_eq!(made.verify().unwrap().damages, []);
            }
        });
        let panicked = writers.into_iter().filter_map(|writer| writer.join().err()).count();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(panicked, 0);
    });
    let n = made.reader().count() as usize;
    assert_eq!(search(&made, "all", 10_000).len(), n);
}
