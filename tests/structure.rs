//! Who may import whom: the arrows of ARCHITECTURE.md, read off the manifests and the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// Our crates that the manifest of `crate_dir` names outside of its dev-dependencies.
fn imports(crate_dir: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join(crate_dir).join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
    let names = dependencies.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| name.starts_with("firn-")).map(str::to_owned).collect()
}

#[test]
fn crates_import_downwards_only() {
    let allowed: [(&str, &[&str]); 6] = [
        ("proto", &[]),
        ("model", &[]),
        ("index", &[]),
        ("eval", &[]),
        ("ingest", &["firn-index", "firn-model"]),
        ("clients/rust", &["firn-proto"]),
    ];
    for (crate_dir, allowed) in allowed {
        for import in imports(crate_dir) {
            assert!(allowed.contains(&import.as_str()), "{crate_dir} imports {import}");
        }
    }
}

/// No source below `dir` may contain one of `words`.
fn check_absent(dir: &str, words: &[&str]) {
    for path in sources(&root().join(dir)) {
        let text = fs::read_to_string(&path).unwrap();
        for word in words {
            assert!(!text.contains(word), "{} contains {word:?}", path.display());
        }
    }
}

#[test]
fn wire_types_and_async_stay_in_the_skin() {
    let wire = ["firn_proto", "tonic", "async fn", "tokio"];
    for dir in ["src/query", "src/eval", "eval/src", "ingest/src", "index/src", "model/src"] {
        check_absent(dir, &wire);
    }
    check_absent("src/query", &["crate::server", "crate::cmd"]);
    check_absent("src/eval", &["crate::server", "crate::cmd"]);
    check_absent("src/server", &["crate::cmd"]);
}

/// Files whose code names `word`, relative to the root.
fn files_that_name(word: &str) -> Vec<String> {
    let all = ["src", "proto/src", "model/src", "index/src", "ingest/src", "eval/src", "clients/rust/src"];
    let mut found: Vec<String> = all
        .iter()
        .flat_map(|dir| sources(&root().join(dir)))
        .filter(|path| fs::read_to_string(path).unwrap().contains(word))
        .map(|path| path.strip_prefix(root()).unwrap().display().to_string())
        .collect();
    found.sort();
    found
}

#[test]
fn each_engine_is_named_in_one_place() {
    for (word, home) in [
        ("sled::", "index/src/store"),
        ("hnsw_rs::", "index/src/"),
        ("tantivy::", "index/src/words/"),
        ("candle_", "model/src/"),
    ] {
        for file in files_that_name(word) {
            assert!(file.starts_with(home), "{file} names {word}");
        }
    }
}

#[test]
fn each_engine_of_the_index_is_named_in_one_file() {
    for (word, file) in [("hnsw_rs::", "graph/hnsw.rs"), ("sled::", "store.rs")] {
        let naming = sources(&root().join("index/src")).into_iter();
        let naming: Vec<PathBuf> = naming.filter(|path| fs::read_to_string(path).unwrap().contains(word)).collect();
        assert_eq!(naming, [root().join("index/src").join(file)], "{word}");
    }
}
