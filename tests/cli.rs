//! The executable as a user drives it, on a local data directory.

mod common;
mod serving;

use common::{Scratch, json};

/// A collection without a model, with three points that bring their vectors.
fn scratch_with_points() -> Scratch {
    let scratch = Scratch::new();
    scratch.ok(&["collection", "create", "c", "--vector", "image=3"]);
    scratch.write(
        "points.jsonl",
        r#"{"id": 1, "vectors": {"image": [1, 0, 0]}, "colour": "red"}
{"id": "two", "vectors": {"image": [0, 2, 0]}, "colour": "green"}
{"id": 3, "vectors": {"image": [0.6, 0.8, 0]}, "text": "between the two", "colour": "olive"}
"#,
    );
    scratch.ok(&["ingest", "points.jsonl", "--collection", "c"]);
    scratch
}

#[test]
fn collections_are_made_listed_described_and_deleted() {
    let scratch = Scratch::new();
    scratch.ok(&["collection", "create", "photos"]);
    scratch.ok(&["collection", "create", "vectors", "--vector", "a=3", "--vector", "b=5", "--ef-search", "32"]);
    let list = json(&scratch.ok(&["collection", "list", "--json"]));
    let names: Vec<_> = list["collections"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["photos", "vectors"]);
    let photos = json(&scratch.ok(&["collection", "get", "photos", "--json"]));
    assert_eq!((photos["points_count"].as_u64(), photos["status"].as_str()), (Some(0), Some("ready")));
    assert_eq!(photos["config"]["model"]["name"], "builtin");
    let vectors = json(&scratch.ok(&["collection", "get", "vectors", "--json"]));
    assert_eq!(vectors["config"]["vectors"]["b"]["dim"], 5);
    assert_eq!(vectors["config"]["hnsw"]["ef_search"], 32);
    assert!(vectors["config"]["model"].is_null());
    let deleted = json(&scratch.ok(&["collection", "delete", "vectors", "--yes", "--json"]));
    assert_eq!(deleted["deleted"], "vectors");
    scratch.fails(4, &["collection", "get", "vectors"], "no collection named \"vectors\"");
}

#[test]
fn a_query_finds_by_vector_and_by_id() {
    let scratch = scratch_with_points();
    scratch.write("query.json", "[1.0, 0.1, 0.0]");
    let by_vector = json(&scratch.ok(&["query", "c", "--vector", "query.json", "--json"]));
    let ids: Vec<String> = by_vector["hits"].as_array().unwrap().iter().map(|h| h["id"].to_string()).collect();
    assert_eq!(ids, ["1", "3", "\"two\""]);
    assert_eq!(by_vector["hits"][0]["payload"]["colour"], "red");
    let cosine = by_vector["hits"][0]["cosine"].as_f64().unwrap();
    assert!((cosine - 1.0 / 1.01f64.sqrt()).abs() < 1e-6, "{cosine}");
    assert_eq!(by_vector["rerank_applied"], false);
    assert!(by_vector["timings"]["total_us"].is_u64());

    let by_id = json(&scratch.ok(&["query", "c", "--id", "two", "--limit", "1", "--with-texts", "--json"]));
    assert_eq!(by_id["hits"].as_array().unwrap().len(), 1, "as many as asked for");
    assert_eq!(by_id["hits"][0]["id"], 3, "the point that asks is not an answer");
    assert_eq!(by_id["hits"][0]["texts"][0]["text"], "between the two");
    let far = json(&scratch.ok(&["query", "c", "--id", "two", "--score-threshold", "0.9", "--exact", "--json"]));
    assert_eq!(far["hits"].as_array().unwrap().len(), 0);
    let table = scratch.ok(&["query", "c", "--id", "two"]);
    assert!(table.contains("0.8000") && table.contains("colour=olive"), "{table}");
}

#[test]
fn mistakes_are_named_and_have_their_exit_codes() {
    let scratch = scratch_with_points();
    scratch.write("short.json", "[1, 2]");
    scratch.write("nan.txt", "1 NaN 2");
    scratch.write("zero.txt", "0 0 0");
    scratch.write("words.txt", "three little words");
    scratch.write("bad.toml", "colour = 'red'");
    let cases: [(i32, &[&str], &str); 18] = [
        (4, &["query", "nowhere", "--text", "x"], "no collection named \"nowhere\""),
        (2, &["query", "c", "--vector", "short.json"], "expected 3 dimensions, received 2"),
        (2, &["query", "c", "--vector", "nan.txt"], "not finite"),
        (2, &["query", "c", "--vector", "zero.txt"], "length zero"),
        (2, &["query", "c", "--vector", "words.txt"], "\"three\" is not a number"),
        (2, &["query", "c", "--vector", "missing.json"], "missing.json"),
        (2, &["query", "c", "--text", "x"], "has no model"),
        (4, &["query", "c", "--id", "9"], "no point with id 9"),
        (2, &["query", "c", "--id", "1", "--limit", "0"], "limit: expected 1 to 1000, received 0"),
        (2, &["query", "c", "--id", "1", "--using", "text"], "using: expected one of [\"image\"]"),
        (2, &["query", "c"], "--text"),
        (2, &["--config", "bad.toml", "collection", "list"], "unknown field `colour`"),
        (2, &["--device", "gpu", "collection", "list"], "expected auto, cpu or cuda"),
        (2, &["collection", "create", ".hidden"], "\".hidden\" is not a name"),
        (2, &["collection", "create", "d", "--vector", "a=2", "--vector", "a=3"], "--vector a is given twice"),
        (2, &["collection", "delete", "c"], "say --yes"),
        (4, &["rebuild", "c", "nowhere"], "no collection named \"nowhere\""),
        (4, &["verify", "c", "nowhere"], "no collection named \"nowhere\""),
    ];
    for (code, args, part) in cases {
        scratch.fails(code, args, part);
    }
    scratch.fails(2, &["--data-dir", "elsewhere", "collection", "list"], "no data directory at elsewhere");
    scratch.fails(2, &["collection", "create", "c"], "exists");
    assert_eq!(json(&scratch.ok(&["collection", "get", "c", "--json"]))["points_count"], 3, "nothing was lost");
}

#[test]
fn what_a_server_would_ignore_is_refused() {
    let scratch = Scratch::new();
    let nobody = ["--server", "http://127.0.0.1:1"];
    let check = |args: &[&str], flag: &str| {
        let expected = format!("{flag} says nothing to the server at http://127.0.0.1:1");
        scratch.fails(2, &[args, &nobody].concat(), &expected);
    };
    check(&["query", "c", "--text", "x", "--model", "builtin"], "--model");
    check(&["--device", "cpu", "query", "c", "--text", "x"], "--device");
    check(&["collection", "list", "--data-dir", "d"], "--data-dir");
    check(&["collection", "get", "c", "--model", "m"], "--model");
    check(&["collection", "create", "c", "--device", "cpu"], "--device");
    scratch.write("rows.jsonl", r#"{"id": 1, "text": "x"}"#);
    check(&["ingest", "rows.jsonl", "--collection", "c", "--data-dir", "d"], "--data-dir");
    // Nobody is there: what is only set for other commands is no reason.
    let set = [("FIRN_MODEL", "m"), ("FIRN_DATA_DIR", "d"), ("FIRN_DEVICE", "cpu")];
    scratch.fails_with(&set, 1, &[&["query", "c", "--text", "x"][..], &nobody].concat(), "no server at");
}

#[test]
fn every_exit_code_of_the_readme_is_met() {
    let readme = include_str!("../README.md");
    let codes: Vec<i32> =
        readme.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok()).collect();
    assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6]);
    let scratch = scratch_with_points();
    let served = tempfile::tempdir().unwrap();
    let server = serving::Server::start(&served.path().join("data"), &["--max-message-bytes", "65536"]);
    let at = server.grpc.as_str();
    scratch.write("big.png", vec![0; 100_000]);
    scratch.write("words.txt", "three little words");
    scratch.write("half.jsonl", "{\"id\": 5, \"vectors\": {\"image\": [1, 2, 3]}}\n{nonsense\n");
    scratch.write("bare/model.safetensors", "");
    scratch.write("far/model.toml", "[text]\nmodel = \"hf:nobody/nothing\"\n");
    let cases: [(i32, &[&str], &str); 23] = [
        (0, &["collection", "get", "c"], ""),
        (1, &["query", "c", "--id", "1", "--server", "http://127.0.0.1:1"], "no server at"),
        (1, &["model", "check", "hf:nobody/nothing"], "is not in the cache, and the network is off"),
        (1, &["model", "info", "hf:nobody/nothing"], "is not in the cache, and the network is off"),
        (1, &["model", "check", "far"], ""),
        (1, &["model", "info", "far"], "is not in the cache, and the network is off"),
        (2, &["query", "c", "--image", "missing.png"], "missing.png"),
        (2, &["ingest", "missing.jsonl", "--collection", "c"], "missing.jsonl"),
        (2, &["query", "c", "--vector", "words.txt"], "is not a number"),
        (2, &["model", "check", "bare", "--family", "nonsense"], "mistral, qwen2, qwen3, aligned, ridge"),
        (2, &["ingest", "words.txt", "--collection", "c"], "not a source"),
        (2, &["query", "c", "--text", "x"], "has no model"),
        (2, &["query", "c", "--image", "big.png", "--server", at], "hint: `firn serve --max-message-bytes N`"),
        (2, &["collection", "create", "n", "--model", "none"], "hint: name each with its dimension"),
        (2, &["collection", "list", "--data-dir", "nowhere"], "hint: --data-dir names another"),
        (3, &["ingest", "half.jsonl", "--collection", "c"], ""),
        (4, &["query", "nowhere", "--text", "x"], "no collection named"),
        (4, &["query", "nowhere", "--text", "x", "--server", at], "no collection named"),
        (4, &["collection", "create", "m", "--model", "other"], "no model at"),
        (4, &["collection", "create", "m", "--model", "other", "--server", at], "hint: `firn serve --model NAME`"),
        (4, &["query", "c", "--id", "9"], "no point with id 9"),
        (6, &["model", "check", "bare"], ""),
        (6, &["model", "info", "bare"], "is missing"),
    ];
    let offline = [("HF_HUB_OFFLINE", "1"), ("HF_HOME", "no-such-cache")];
    for (code, args, part) in cases {
        let output = scratch.command().envs(offline).args(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "firn {args:?}\n{stderr}");
        assert!(stderr.contains(part), "firn {args:?}: expected {part:?} in\n{stderr}");
    }
    let data = served.path().join("data").display().to_string();
    scratch.fails(5, &["collection", "list", "--data-dir", &data], "hint: if that is a server, ask it with --server");
}

#[test]
fn a_server_tells_of_its_model_what_the_terminal_does() {
    let scratch = Scratch::new();
    let fixture = |name: &str| format!("{}/model/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let model = fixture("siglip-1");
    let server = serving::Server::start_with_model(&scratch.path().join("data"), &model, &[]);
    let here = json(&scratch.ok(&["model", "info", &model, "--json"]));
    let there = json(&scratch.ok(&["model", "info", "--server", &server.grpc, "--json"]));
    assert_eq!(here, there);
    assert_eq!(here["weights_bytes"].as_u64(), here["parameters"].as_u64().map(|n| 4 * n));
    assert!(here["batch_bytes"].as_u64().unwrap() > 0 && here["sigmoid"]["logit_bias"].is_f64(), "{here}");
    let by_link = scratch.path().join("link");
    std::os::unix::fs::symlink(&model, &by_link).unwrap();
    let table = scratch.ok(&["model", "info", "--server", &server.grpc, "link"]);
    assert!(table.contains("MiB of weights") && table.contains("sigmoid"), "{table}");
}

#[test]
fn a_collection_may_be_said_to_have_no_model() {
    let scratch = Scratch::new();
    let server = serving::Server::start(&scratch.path().join("served"), &[]);
    scratch.write("rows.jsonl", r#"{"id": 1, "vectors": {"image": [1, 2, 3]}}"#);
    for more in [&[][..], &["--server", &server.grpc]] {
        let create = ["collection", "create", "c", "--model", "none", "--vector", "image=3", "--json"];
        assert!(json(&scratch.ok(&[&create[..], more].concat()))["config"]["model"].is_null());
    }
    let ingest = ["ingest", "rows.jsonl", "--collection", "c", "--model", "none", "--server", &server.grpc, "--json"];
    assert_eq!(json(&scratch.ok(&ingest))["written"], 1);
}

#[test]
fn a_query_that_names_no_vector_searches_one_that_holds_points() {
    let scratch = Scratch::new();
    scratch.ok(&["collection", "create", "texts"]);
    scratch.write("texts.jsonl", r#"{"id": "a", "text": "a yellow star above a boat", "language": "en"}"#);
    scratch.ok(&["ingest", "texts.jsonl", "--collection", "texts"]);
    let found = json(&scratch.ok(&["query", "texts", "--text", "a star", "--json"]));
    assert_eq!(found["hits"][0]["id"], "a", "no point has an image, so the texts are searched");
    let asked = json(&scratch.ok(&["query", "texts", "--text", "a star", "--using", "image", "--json"]));
    assert!(asked["hits"].as_array().unwrap().is_empty(), "what is asked for is done");
}

#[test]
fn a_hint_stands_on_a_line_of_its_own() {
    let scratch = Scratch::new();
    scratch.fails(1, &["model", "info", "--device", "cuda"], "\nhint: build with `--features cuda`");
    scratch.fails(1, &["collection", "list", "--server", "http://127.0.0.1:1"], "\nhint: `firn serve` starts a server");
}

#[test]
fn verify_and_rebuild_say_what_they_read_and_built() {
    let scratch = scratch_with_points();
    let report = json(&scratch.ok(&["verify", "--json"]));
    assert_eq!(report["whole"], true);
    assert_eq!(report["collections"]["c"]["points_checked"], 3);
    let rebuilt = json(&scratch.ok(&["rebuild", "c", "--json"]));
    assert_eq!(rebuilt["collections"]["c"]["vectors_indexed"], 3);
    let by_id = json(&scratch.ok(&["query", "c", "--id", "1", "--json"]));
    assert_eq!(by_id["hits"][0]["id"], 3);
    scratch.fails(4, &["verify", "nowhere"], "no collection named");
}

#[test]
fn settings_come_from_flag_then_variable_then_file() {
    let scratch = Scratch::new();
    scratch.write("firn.toml", "data_dir = 'from-file'\n");
    scratch.run_plain(&[], &["collection", "create", "f", "--vector", "v=2"]);
    scratch.run_plain(&[("FIRN_DATA_DIR", "from-variable")], &["collection", "create", "v", "--vector", "v=2"]);
    let both = [("FIRN_DATA_DIR", "from-variable")];
    scratch.run_plain(&both, &["--data-dir", "from-flag", "collection", "create", "g", "--vector", "v=2"]);
    for (dir, name) in [("from-file", "f"), ("from-variable", "v"), ("from-flag", "g")] {
        let list = json(&scratch.run_plain(&[], &["--data-dir", dir, "collection", "list", "--json"]));
        assert_eq!(list["collections"][0]["name"], name, "{dir}");
        assert_eq!(list["collections"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn every_subcommand_has_help_with_an_example() {
    let scratch = Scratch::new();
    let commands: [&[&str]; 16] = [
        &["query"],
        &["ingest"],
        &["serve"],
        &["demo"],
        &["verify"],
        &["rebuild"],
        &["train", "align"],
        &["train", "evaluate"],
        &["train", "project"],
        &["train", "ridge"],
        &["collection", "create"],
        &["collection", "list"],
        &["collection", "get"],
        &["collection", "delete"],
        &["model", "info"],
        &["model", "check"],
    ];
    for command in commands {
        let help = scratch.ok(&[command, &["--help"]].concat());
        let example = format!("Example: firn {}", command.join(" "));
        assert!(help.contains(&example), "{command:?} has no example:\n{help}");
        let opening = help.lines().next().unwrap_or_default();
        assert!(opening.len() > 10 && !opening.starts_with("Usage"), "{command:?} opens with {opening:?}");
    }
}

#[test]
fn what_a_server_refuses_is_skipped_and_named() {
    let scratch = Scratch::new();
    let server = serving::Server::start(&scratch.path().join("data"), &[]);
    scratch.ok(&["collection", "create", "c", "--vector", "image=2", "--server", &server.grpc]);
    let row = |id: &str| serde_json::json!({ "id": id, "vectors": { "image": [1, 2] } }).to_string();
    scratch.write("rows.jsonl", [row("good"), row(&"x".repeat(600)), row("better")].join("\n"));
    let ingest = ["ingest", "rows.jsonl", "--collection", "c", "--server", &server.grpc, "--json"];
    let (code, report) = scratch.answer(&ingest);
    assert_eq!((code, report["written"].as_u64(), report["skipped"].as_u64()), (Some(3), Some(2), Some(1)), "{report}");
    assert!(report.to_string().contains("invalid_id"), "{report}");
}

#[test]
fn a_collection_refuses_another_model_than_its_own() {
    let scratch = Scratch::new();
    scratch.ok(&["collection", "create", "c"]);
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/model/fixtures/clip-quick");
    scratch.fails(2, &["query", "c", "--text", "a", "--model", other], "the collection was made by builtin");
    scratch.ok(&["query", "c", "--text", "a", "--model", "builtin"]);
}

#[test]
fn a_model_folder_is_found_from_anywhere_and_its_loss_is_told() {
    let scratch = Scratch::new();
    let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("model/fixtures/clip-quick");
    for entry in std::fs::read_dir(fixture).unwrap() {
        let path = entry.unwrap().path();
        scratch.write(&format!("clip/{}", path.file_name().unwrap().display()), std::fs::read(&path).unwrap());
    }
    scratch.ok(&["collection", "create", "c", "--model", "clip"]);
    let elsewhere = scratch.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let mut query = scratch.command();
    query.current_dir(&elsewhere).args(["query", "c", "--text", "a", "--data-dir", "../firn-data"]);
    let output = query.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::rename(scratch.path().join("clip"), scratch.path().join("moved")).unwrap();
    scratch.fails(4, &["query", "c", "--text", "a"], "hint: if its folder was moved, name it with --model FOLDER");
    scratch.ok(&["query", "c", "--text", "a", "--model", "moved"]);
}

#[test]
fn reading_makes_no_data_directory_out_of_a_folder() {
    let scratch = Scratch::new();
    scratch.write("pictures/a.txt", "no picture");
    scratch.fails(2, &["collection", "list", "--data-dir", "pictures"], "no data directory at pictures");
    scratch.fails(2, &["query", "c", "--text", "a", "--data-dir", "pictures"], "no data directory at pictures");
    assert_eq!(std::fs::read_dir(scratch.path().join("pictures")).unwrap().count(), 1);
    scratch.fails(2, &["demo", "--json"], "the demo is for people");
    assert!(!scratch.ok(&["demo", "--help"]).contains("--json"));
}

#[test]
fn a_source_that_cannot_be_read_stops_no_other() {
    let scratch = Scratch::new();
    scratch.ok(&["collection", "create", "c", "--vector", "image=2"]);
    scratch.write("good.jsonl", r#"{"id": 1, "vectors": {"image": [1, 2]}}"#);
    scratch.write("bad.npy", "not an array");
    let (code, report) = scratch.answer(&["ingest", "bad.npy", "good.jsonl", "--collection", "c", "--json"]);
    assert_eq!((code, report["written"].as_u64(), report["skipped"].as_u64()), (Some(3), Some(1), Some(1)), "{report}");
    assert_eq!(report["skipped_items"][0]["item"], "bad.npy");
    scratch.fails(2, &["ingest", "bad.npy", "nowhere", "--collection", "c"], "none of the sources can be read");
}

#[test]
fn a_reader_that_has_had_enough_is_no_fault() {
    let scratch = scratch_with_points();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = scratch.command().args(["collection", "list"]).stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
