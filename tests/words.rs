//! Words in the texts of points, as a user looks for them: here and at a server, beside the vectors and alone.

mod common;
mod serving;

use common::{Scratch, json};
use serving::Server;

const POINTS: &str = r#"{"id": 1, "vectors": {"v": [1, 0]}, "texts": [{"text": "A red kite over a beach", "language": "en"}, {"text": "Un cerf-volant", "language": "fr"}]}
{"id": 2, "vectors": {"v": [0.8, 0.6]}, "texts": [{"text": "一只猫在沙滩上", "language": "zh"}]}
{"id": 3, "vectors": {"v": [0, 1]}, "texts": [{"text": "A cat on a beach, a beach", "language": "en"}]}
{"id": 4, "vectors": {"v": [-1, 0]}}
"#;

fn ids(answer: &serde_json::Value) -> Vec<u64> {
    answer["hits"].as_array().unwrap().iter().map(|hit| hit["id"].as_u64().unwrap()).collect()
}

#[test]
fn words_are_looked_for_here_and_at_a_server() {
    let scratch = Scratch::new();
    scratch.write("points.jsonl", POINTS);
    scratch.write("v.json", "[1, 0]");
    let server = Server::start(&scratch.path().join("data"), &[]);
    for at in [&[][..], &["--server", &server.grpc]] {
        let ok = |args: &[&str]| scratch.ok(&[args, at].concat());
        ok(&["collection", "create", "c", "--vector", "v=2"]);
        ok(&["ingest", "points.jsonl", "--collection", "c"]);
        let alone = |text: &str| {
            let ask = ["query", "c", "--text", text, "--words", "--words-weight", "1", "--json"];
            json(&ok(&ask))
        };
        assert_eq!(ids(&alone("BEACH")), [3, 1], "twice counts more");
        assert_eq!(ids(&alone("猫")), [2]);
        assert_eq!(ids(&alone("volant cerf")), [1]);
        assert_eq!(ids(&alone("nowhere")), [0; 0]);
        let first = &alone("beach")["hits"][0];
        assert!(first["bm25"].as_f64().unwrap() > 0.0 && first["score"] == 1.0 && first["cosine"] == 0.0, "{first}");

        let ask = |more: &[&str]| json(&ok(&[&["query", "c", "--vector", "v.json", "--json"], more].concat()));
        assert_eq!(ids(&ask(&[])), [1, 2, 3, 4]);
        assert_eq!(ids(&ask(&["--words", "beach"])), [1, 3, 2, 4]);
        assert_eq!(ids(&ask(&["--words", "beach", "--words-weight", "0.1"])), [1, 2, 3, 4]);
        assert_eq!(ids(&ask(&["--words", "cat", "--words-merge", "ranks"])), [3, 1, 2, 4]);
        let table = ok(&["query", "c", "--vector", "v.json", "--words", "beach"]);
        assert!(table.contains("(cosine 1.0000, words "), "{table}");

        ok(&["collection", "get", "c"]);
        let fails = |args: &[&str], part: &str| scratch.fails(2, &[args, at].concat(), part);
        fails(&["query", "c", "--vector", "v.json", "--words"], "full_text.text: expected words to look for");
        fails(&["query", "c", "--text", "x", "--words", "--words-weight", "0"], "above 0, to 1");
        fails(&["query", "c", "--text", "x", "--words-weight", "0.5"], "--words");
        fails(&["query", "c", "--text", "x", "--words", "--words-merge", "both"], "ranks");
    }
    drop(server);
    let verified = scratch.ok(&["verify"]);
    assert!(verified.contains("3 indexed texts"), "{verified}");
    let rebuilt = scratch.ok(&["rebuild", "c"]);
    assert!(rebuilt.contains("full text of 3 points"), "{rebuilt}");
}
