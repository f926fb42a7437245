//! Named vectors with models of their own, as a user makes, fills and asks them: here and at a server.

mod common;
mod serving;

use common::{Scratch, json};
use firn_model::scenes::{self, Style};
use serving::Server;

const N: u64 = 12;

/// Pictures with captions; vectors of as many by another encoder, a text side "ridge" that was solved against them, and in
/// projected.npy where it finds them.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    for index in 0..N {
        let scene = scenes::scene(7, index);
        scratch.write(&format!("photos/{index}.png"), []);
        scene.draw(64).save(scratch.path().join(format!("photos/{index}.png"))).unwrap();
        scratch.write(&format!("photos/{index}.txt"), scene.caption("en", Style::Short));
    }
    scratch.write("photos.npy", npy(N as usize, 4));
    scratch.write("photos.ids.txt", (0..N).map(|i| format!("p{i}")).collect::<Vec<_>>().join("\n"));
    let row = |i: u64| {
        let (text, split) = (scenes::scene(7, i).caption("en", Style::Short), if i < 9 { "train" } else { "val" });
        serde_json::json!({ "id": format!("p{i}"), "text": text, "language": "en", "split": split }).to_string()
    };
    scratch.write("captions.jsonl", (0..N).map(row).collect::<Vec<_>>().join("\n"));
    scratch.ok(&["train", "ridge", "--embeddings", "photos.npy", "--captions", "captions.jsonl", "--out", "ridge"]);
    let project = ["train", "project", "--aligned", "ridge", "--embeddings", "photos.npy", "--out", "projected.npy"];
    scratch.ok(&project);
    scratch
}

/// Rows that differ, (n, dim).
fn npy(n: usize, dim: usize) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {dim}), }}\n");
    let number = |i: usize| ((i * 37 + i / dim * 11) as u8 as i8).to_le_bytes()[0] as i8;
    let numbers = (0..n * dim).flat_map(|i| f32::from(number(i)).to_le_bytes());
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes()].concat().into_iter().chain(numbers).collect()
}

const VECTORS: [&str; 6] =
    ["--vector", "image=image:builtin", "--vector", "text=text:builtin", "--vector", "mirror=image:ridge"];

/// How many points of "c" have an answer to this text in that vector.
fn n_found(scratch: &Scratch, using: &str, at: &[&str]) -> usize {
    let ask = ["query", "c", "--text", "a red circle", "--using", using, "--limit", "50", "--json"];
    json(&scratch.ok(&[&ask, at].concat()))["hits"].as_array().unwrap().len()
}

#[test]
fn each_vector_is_embedded_and_asked_by_its_own_model() {
    let scratch = scratch();
    let made = scratch.ok(&[&["collection", "create", "c"], &VECTORS[..]].concat());
    assert!(made.contains("mirror, ") && made.contains("images by ") && made.contains("texts by builtin"), "{made}");
    let described = json(&scratch.ok(&["collection", "get", "c", "--json"]));
    assert!(described["config"]["model"].is_null());
    let vectors = &described["config"]["vectors"];
    assert_eq!(
        (&vectors["image"]["embeds"]["side"], &vectors["text"]["embeds"]["side"]),
        (&"image".into(), &"text".into())
    );
    assert_eq!(vectors["mirror"]["embeds"]["model"]["name"], scratch.path().join("ridge").to_str().unwrap());

    scratch.ok(&["ingest", "photos", "--collection", "c"]);
    let counts = ["image", "text", "mirror"].map(|using| n_found(&scratch, using, &[]));
    assert_eq!(counts, [12, 12, 0], "the ridge takes no images");
    scratch.ok(&["ingest", "projected.npy", "--collection", "c", "--vector-name", "mirror"]);
    assert_eq!(["image", "mirror"].map(|using| n_found(&scratch, using, &[])), [12, 12]);
    let picture = ["query", "c", "--image", "photos/3.png", "--limit", "1", "--json"];
    assert!(json(&scratch.ok(&picture))["hits"][0]["cosine"].as_f64().unwrap() > 0.999);
    scratch.fails(2, &[&picture[..], &["--using", "mirror"]].concat(), "takes no images");
}

#[test]
fn files_that_bring_every_vector_need_no_model() {
    let scratch = scratch();
    scratch.ok(&[&["collection", "create", "c"], &VECTORS[..]].concat());
    std::fs::rename(scratch.path().join("ridge"), scratch.path().join("moved")).unwrap();
    scratch.ok(&["ingest", "projected.npy", "--collection", "c", "--vector-name", "mirror"]);
    scratch.fails(4, &["query", "c", "--text", "x", "--using", "mirror"], "which is not there any more");
    scratch.fails(4, &["ingest", "photos", "--collection", "c"], "which is not there any more");
}

#[test]
fn mistakes_are_named() {
    let scratch = Scratch::new();
    let create = |vector| ["collection", "create", "c", "--vector", vector];
    scratch.fails(2, &create("mirror=sound:builtin"), "NAME=image:MODEL");
    scratch.fails(4, &create("mirror=image:nowhere"), "nowhere");
}

#[test]
fn a_server_has_the_models_it_was_started_with() {
    let scratch = scratch();
    let folder = scratch.path().join("ridge");
    let folder = folder.to_str().unwrap();
    let server = Server::start_with_model(&scratch.path().join("data"), "builtin", &["--also-model", folder]);
    let at = ["--server", &server.grpc];
    let vectors = format!("mirror=image:{folder}");
    let create = ["collection", "create", "c", "--vector", "image=image:builtin", "--vector", &vectors];
    let made = scratch.ok(&[&create[..], &at].concat());
    assert!(made.contains("images by builtin") && made.contains(folder), "{made}");
    scratch.ok(&[&["ingest", "photos", "--collection", "c"][..], &at].concat());
    scratch.ok(&[&["ingest", "projected.npy", "--collection", "c", "--vector-name", "mirror"][..], &at].concat());
    assert_eq!(["image", "mirror"].map(|using| n_found(&scratch, using, &at)), [12, 12]);
    let other = ["collection", "create", "d", "--vector", "mirror=image:other"];
    scratch.fails(4, &[&other[..], &at].concat(), "model \"other\" is not loaded here");
    let both = json(&scratch.ok(&[&["collection", "get", "c", "--json"][..], &at].concat()));
    let here = json(&scratch.ok(&["model", "info", "builtin", "--json"]));
    assert_eq!(both["config"]["vectors"]["image"]["embeds"]["model"]["hash"], here["hash"]);
}

/// "c" with vectors "a" and "b" of three points; the third has no "b".
const POINTS: &str = r#"{"id": 1, "vectors": {"a": [1, 0], "b": [0, 1, 0]}}
{"id": 2, "vectors": {"a": [0.6, 0.8], "b": [0, 0.6, 0.8]}}
{"id": 3, "vectors": {"a": [0, 1]}}
"#;

/// Ids and scores of an answer.
fn hits(answer: &serde_json::Value) -> Vec<(u64, f64)> {
    let hit =
        |hit: &serde_json::Value| (hit["id"].as_u64().unwrap(), (hit["score"].as_f64().unwrap() * 1e4).round() / 1e4);
    answer["hits"].as_array().unwrap().iter().map(hit).collect()
}

#[test]
fn several_vectors_answer_together_here_and_at_a_server() {
    let scratch = Scratch::new();
    scratch.write("points.jsonl", POINTS);
    scratch.write("both.json", r#"{"a": [0, 2], "b": [0, 1, 0]}"#);
    let server = Server::start(&scratch.path().join("data"), &[]);
    for at in [&[][..], &["--server", &server.grpc]] {
        let ok = |args: &[&str]| scratch.ok(&[args, at].concat());
        ok(&["collection", "create", "c", "--vector", "a=2", "--vector", "b=3"]);
        ok(&["ingest", "points.jsonl", "--collection", "c"]);
        let ask = |more: &[&str]| json(&ok(&[&["query", "c", "--vectors", "both.json", "--json"], more].concat()));
        let alike = vec![(2, 0.7), (1, 0.5), (3, 0.5)];
        assert_eq!(hits(&ask(&["--blend", "a=1,b=1"])), alike);
        let answer = ask(&["--blend", "a=1,b=3", "--exact"]);
        assert_eq!(hits(&answer), [(1, 0.75), (2, 0.65), (3, 0.25)], "who has no b has a cosine of 0 there");
        assert_eq!(answer["hits"][2]["cosines"], serde_json::json!({ "a": 1.0 }));
        assert_eq!(hits(&ask(&[])), alike, "without weights all count the same");

        let described = json(&ok(&["collection", "blend", "c", "a=1,b=3", "--json"]));
        assert_eq!(described["blend"]["weights"], serde_json::json!({ "a": 1.0, "b": 3.0 }));
        assert!(ok(&["collection", "get", "c"]).contains("b 3"));
        assert_eq!(hits(&ask(&[]))[0], (1, 0.75));
        assert_eq!(hits(&ask(&["--using", "a"]))[0], (3, 1.0));
        let by_id = json(&ok(&["query", "c", "--id", "3", "--json"]));
        assert_eq!(
            hits(&by_id),
            [(2, 0.2), (1, 0.0)],
            "a vector that the asking point has not counts as a cosine of 0"
        );
        assert!(ok(&["query", "c", "--vectors", "both.json"]).contains("0.7500 (a 0.0000, b 1.0000)"));

        let fails = |args: &[&str], part: &str| scratch.fails(2, &[args, at].concat(), part);
        fails(&["query", "c", "--vectors", "both.json", "--blend", "a=1", "--using", "a"], "either a blend or using");
        fails(&["query", "c", "--vectors", "both.json", "--blend", "a=-1"], "expected finite weights");
        fails(&["query", "c", "--vectors", "both.json", "--blend", "a=1,z=1"], "expected names of [\"a\", \"b\"]");
        fails(&["query", "c", "--vectors", "both.json", "--blend", "a=1,a=1"], "a is weighed twice");
        fails(&["query", "c", "--vectors", "both.json", "--blend", "a"], "expected NAME=WEIGHT");
        fails(&["collection", "blend", "c", "z=1"], "expected names of [\"a\", \"b\"]");
        fails(&["collection", "blend", "c"], "NAME=WEIGHT");
        assert!(json(&ok(&["collection", "blend", "c", "--clear", "--json"]))["blend"].is_null());
        assert_eq!(hits(&ask(&[])), alike);
    }
}

#[test]
fn a_text_is_asked_of_every_model_of_a_blend() {
    let scratch = scratch();
    scratch.ok(&[&["collection", "create", "c"], &VECTORS[..]].concat());
    scratch.ok(&["ingest", "photos", "--collection", "c"]);
    scratch.ok(&["ingest", "projected.npy", "--collection", "c", "--vector-name", "mirror"]);
    let ask = ["query", "c", "--text", "a red circle", "--blend", "image=1,mirror=0.5", "--limit", "50", "--json"];
    let answer = json(&scratch.ok(&ask));
    let cosines =
        |name: &str| answer["hits"].as_array().unwrap().iter().filter(|hit| hit["cosines"][name].is_f64()).count();
    assert_eq!((cosines("image"), cosines("mirror")), (12, 12));
    scratch.fails(2, &["query", "c", "--image", "photos/1.png", "--blend", "image=1,mirror=1"], "takes no images");
    scratch.ok(&["collection", "blend", "c", "image=1,mirror=1"]);
    let found = json(&scratch.ok(&["query", "c", "--image", "photos/1.png", "--limit", "1", "--json"]));
    let score = found["hits"][0]["score"].as_f64().unwrap();
    assert!((score - 0.5).abs() < 1e-3, "the mirror has nothing to say of a picture: {score}");
}

#[test]
fn captions_and_another_array_are_joined_to_rows() {
    let scratch = scratch();
    scratch.write("more.jsonl", "{\"id\": \"nobody\", \"text\": \"lost\"}\n");
    let captions = ["captions.jsonl", "more.jsonl"].map(|name| std::fs::read(scratch.path().join(name)).unwrap());
    scratch.write("all.jsonl", captions.join(&b"\n"[..]));
    let server = Server::start(&scratch.path().join("data"), &[]);
    for at in [&[][..], &["--server", &server.grpc]] {
        let ok = |args: &[&str]| scratch.ok(&[args, at].concat());
        let ingest =
            ["ingest", "photos.npy", "--collection", "c", "--captions", "all.jsonl", "--also", "mirror=projected.npy"];
        let report = json(&ok(&[&ingest[..], &["--json"]].concat()));
        assert_eq!((&report["written"], &report["unmet_captions"]), (&12.into(), &1.into()), "{report}");
        let ask = ["query", "c", "--id", "p10", "--blend", "image=1,mirror=1", "--with-texts", "--json"];
        let hit = &json(&ok(&ask))["hits"][0];
        assert_eq!(hit["cosines"].as_object().unwrap().len(), 2);
        assert!(hit["texts"][0]["text"].is_string() && hit["payload"]["split"].is_string(), "{hit}");
        assert!(ok(&ingest).contains("1  id with captions that no item has"), "and all is unchanged");
        let fails = |args: &[&str], part: &str| scratch.fails(2, &[args, at].concat(), part);
        scratch.write("short.npy", npy(3, 4));
        fails(&["ingest", "photos.npy", "--collection", "c", "--also", "mirror=short.npy"], "expected 12 rows, as in");
        fails(&["ingest", "photos.npy", "--collection", "c", "--also", "image=projected.npy"], "a vector of that name");
        fails(
            &["ingest", "photos.npy", "photos", "--collection", "c", "--also", "m=projected.npy"],
            "expected one source",
        );
        fails(&["ingest", "photos.npy", "--collection", "c", "--captions", "nowhere.jsonl"], "nowhere.jsonl");
    }
}

#[test]
fn captions_are_embedded_where_there_is_a_vector_of_texts() {
    let scratch = scratch();
    scratch.ok(&[&["collection", "create", "c"], &VECTORS[..]].concat());
    scratch.ok(&[
        "ingest",
        "projected.npy",
        "--collection",
        "c",
        "--vector-name",
        "mirror",
        "--captions",
        "captions.jsonl",
    ]);
    assert_eq!(["mirror", "text", "image"].map(|using| n_found(&scratch, using, &[])), [12, 12, 0]);
}

#[test]
fn weights_are_fitted_on_held_out_points() {
    let scratch = scratch();
    let ridge = ["train", "ridge", "--embeddings", "photos.npy", "--captions", "captions.jsonl", "--out", "other"];
    scratch.ok(&[&ridge[..], &["--penalty", "50"]].concat());
    scratch.ok(&["train", "project", "--aligned", "other", "--embeddings", "photos.npy", "--out", "others.npy"]);
    let create = ["collection", "create", "c", "--vector", "text=text:builtin"];
    scratch.ok(&[&create[..], &["--vector", "mirror=image:ridge", "--vector", "other=image:other"]].concat());
    let rows =
        ["ingest", "projected.npy", "--collection", "c", "--vector-name", "mirror", "--also", "other=others.npy"];
    scratch.ok(&[&rows[..], &["--captions", "captions.jsonl"]].concat());

    let fit = ["train", "blend", "c", "--folds", "3", "--json"];
    let tried = json(&scratch.ok(&[&fit[..], &["--dry-run"]].concat()));
    let names: Vec<&str> = tried["vectors"].as_array().unwrap().iter().map(|v| v["vector"].as_str().unwrap()).collect();
    assert_eq!(names, ["mirror", "other"], "questions are not compared with the texts they are made of");
    assert_eq!((&tried["points"], &tried["questions"], &tried["is_stored"]), (&3.into(), &3.into(), &false.into()));
    assert!(tried["vectors"][0]["gain"]["low"].is_f64() && tried["recall_at_1"]["all"].is_f64());
    assert!(json(&scratch.ok(&["collection", "get", "c", "--json"]))["blend"].is_null());

    assert!(scratch.ok(&["train", "blend", "c", "--folds", "3"]).contains("the blend gains"));
    let kept = &json(&scratch.ok(&["collection", "get", "c", "--json"]))["blend"];
    let sum: f64 = kept["weights"].as_object().unwrap().values().map(|weight| weight.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{kept}");
    assert_eq!((&kept["fitted"]["points"], &kept["fitted"]["folds"]), (&3.into(), &3.into()));
    let answer = json(&scratch.ok(&["query", "c", "--text", "a red circle", "--limit", "1", "--json"]));
    assert!(answer["hits"][0]["cosines"].is_object(), "queries go by it");

    scratch.fails(2, &["train", "blend", "c"], "expected 5 points at least with texts and another split than train");
    scratch.fails(2, &["train", "blend", "c", "--split", "test", "--folds", "2"], "split \"test\", received 0");
    scratch.ok(&["collection", "create", "one", "--vector", "mirror=image:ridge"]);
    scratch.fails(2, &["train", "blend", "one"], "expected two vectors at least");
}
