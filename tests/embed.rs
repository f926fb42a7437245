//! `firn embed` as a user drives it: what it writes is ingested without the model as if the source had been ingested itself.

mod common;
mod serving;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::SystemTime,
};

use common::{Scratch, json};
use firn_index::{Database, Fields, Limits, Options, Point};
use serde_json::Value;
use serving::Server;

const PICTURES: u8 = 7;

fn photos(n: u8) -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path().join("photos")).unwrap();
    for i in 0..n {
        let shade = |x: u32, y: u32| image::Rgb([i.wrapping_mul(30), (x * 3) as u8, (y * 4) as u8]);
        let picture = image::RgbImage::from_fn(64, 48, shade);
        picture.save(scratch.path().join(format!("photos/{i}.png"))).unwrap();
        // The last one has no text.
        if i + 1 < n {
            scratch.write(&format!("photos/{i}.txt"), format!("a red square and {i} cats"));
            scratch.write(&format!("photos/{i}.json"), format!("{{\"text\": \"zwei Hunde\", \"n\": {i}}}"));
        }
    }
    scratch
}

fn points(scratch: &Scratch, collection: &str) -> BTreeMap<String, Point> {
    let db = Database::open(&scratch.path().join("firn-data"), Options::default()).unwrap();
    let reader = db.collection(collection).unwrap().reader();
    let page = reader.scroll(0, 1000, Fields { payload: true, texts: true, vectors: true, tokens: true }).unwrap();
    page.points.into_iter().map(|p| (p.id.to_string(), Point { row: 0, version: 0, ..p })).collect()
}

fn counts(report: &Value) -> [u64; 4] {
    ["read", "written", "unchanged", "skipped"].map(|name| report[name].as_u64().unwrap())
}

/// Every file of a folder but the journal, with its content and when it was written.
fn files(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let kept = entries.filter(|path| path.extension().is_none_or(|extension| extension != "journal"));
    kept.map(|path| (path.clone(), (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap())))
        .collect()
}

#[test]
fn embeddings_are_ingested_as_the_source_itself() {
    let scratch = photos(PICTURES);
    let embed = ["embed", "photos", "--out", "out", "--tokens", "4x4", "--shard-rows", "3", "--json"];
    let report = json(&scratch.ok(&embed));
    assert_eq!(counts(&report), [7, 7, 0, 0]);
    let written = files(&scratch.path().join("out"));
    let names: Vec<_> = written.keys().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    let shards = ["shard-00000", "shard-00001", "shard-00002"];
    let expected = shards.iter().flat_map(|shard| [format!("{shard}.jsonl"), format!("{shard}.safetensors")]);
    assert_eq!(names, [vec!["embeddings.json".to_owned()], expected.collect()].concat());
    let manifest = json(&fs::read_to_string(scratch.path().join("out/embeddings.json")).unwrap());
    assert_eq!((&manifest["model"]["name"], &manifest["complete"]), (&"builtin".into(), &true.into()));

    let again = json(&scratch.ok(&embed));
    assert_eq!(counts(&again), [7, 0, 7, 0]);
    assert!(files(&scratch.path().join("out")) == written, "a repeated run changes nothing");

    scratch.ok(&["ingest", "photos", "--collection", "direct", "--tokens", "4x4"]);
    assert_eq!(counts(&json(&scratch.ok(&["ingest", "out", "--collection", "read", "--json"]))), [7, 7, 0, 0]);
    let (direct, read) = (points(&scratch, "direct"), points(&scratch, "read"));
    assert_eq!(direct.len(), usize::from(PICTURES));
    assert!(direct.values().any(|point| point.tokens.len() == 2 && point.texts.len() == 2));
    assert!(direct.values().any(|point| point.tokens.len() == 1 && point.texts.is_empty()));
    assert_same(&read, &direct);
    let get = |name: &str| json(&scratch.ok(&["collection", "get", name, "--json"]))["config"].clone();
    assert_eq!(get("direct"), get("read"));
    assert_eq!(counts(&json(&scratch.ok(&["ingest", "out", "--collection", "read", "--json"]))), [7, 0, 7, 0]);
}

/// The same points; batches of another size may round an embedding, or a token in half precision, otherwise.
fn assert_same(received: &BTreeMap<String, Point>, expected: &BTreeMap<String, Point>) {
    assert_eq!(received.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (received, expected) in received.values().zip(expected.values()) {
        let bare = |p: &Point| Point { vectors: BTreeMap::new(), tokens: BTreeMap::new(), ..p.clone() };
        assert_eq!(bare(received), bare(expected));
        assert_eq!(received.vectors.keys().collect::<Vec<_>>(), expected.vectors.keys().collect::<Vec<_>>());
        let (a, b) = (received.vectors.values().flatten(), expected.vectors.values().flatten());
        assert!(a.zip(b).all(|(a, b)| (a - b).abs() < 1e-5));
        for (of, tokens) in &expected.tokens {
            let other = &received.tokens[of];
            assert_eq!((other.n, other.dim), (tokens.n, tokens.dim));
            let pairs = other.values.iter().zip(&tokens.values);
            assert!(pairs.clone().all(|(a, b)| (a.to_f32() - b.to_f32()).abs() < 0.01), "{of} of {}", expected.id);
        }
    }
}

#[test]
fn damage_is_named_by_its_shard_and_costs_no_other() {
    let scratch = photos(PICTURES);
    scratch.ok(&["embed", "photos", "--out", "out", "--shard-rows", "3"]);
    let shard = scratch.path().join("out/shard-00001.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    let (code, report) = scratch.answer(&["ingest", "out", "--collection", "c", "--json"]);
    assert_eq!((code, counts(&report)), (Some(3), [5, 4, 0, 1]));
    let skipped = &report["skipped_items"][0];
    assert_eq!((&skipped["item"], &skipped["reason"]), (&"shard-00001".into(), &"damaged_shard".into()));
    assert!(skipped["message"].as_str().unwrap().contains("shard-00001.safetensors: BLAKE3: expected"), "{skipped}");

    let manifest = scratch.path().join("out/embeddings.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("shard-00001", "../../secret")).unwrap();
    scratch.fails(6, &["ingest", "out", "--collection", "d"], "like \"shard-00000\", received \"../../secret\"");
    fs::write(&manifest, text.replace("\"complete\": true", "\"complete\": false")).unwrap();
    scratch.fails(6, &["ingest", "out", "--collection", "d"], "these embeddings are not complete");
    let huge = text.replace("\"image\": ", "\"image\": 99");
    fs::write(&manifest, huge).unwrap();
    scratch.fails(6, &["ingest", "out", "--collection", "d"], "which no collection keeps");
    fs::write(&manifest, "{}").unwrap();
    scratch.fails(6, &["ingest", "out", "--collection", "d"], "not a manifest of embeddings");
    scratch.fails(6, &["embed", "photos", "--out", "out"], "not a manifest of embeddings");
}

#[test]
fn another_source_does_not_complete_what_is_not_done() {
    let scratch = photos(2);
    scratch.write("other/a.txt", "no picture");
    fs::copy(scratch.path().join("photos/0.png"), scratch.path().join("other/b.png")).unwrap();
    let manifest = scratch.path().join("out/embeddings.json");
    let is_complete = || json(&fs::read_to_string(&manifest).unwrap())["complete"].clone();
    let ingest = ["ingest", "out", "--collection", "c"];

    let (code, _) = scratch.answer(&["embed", "photos", "gone", "--out", "out", "--json"]);
    assert_eq!((code, is_complete()), (Some(3), false.into()), "one source was refused");
    scratch.ok(&["embed", "other", "--out", "out"]);
    assert_eq!(is_complete(), false);
    scratch.fails(6, &ingest, "photos (hint: the same `firn embed` goes on");
    scratch.ok(&["embed", "photos", "--out", "out"]);
    assert_eq!(is_complete(), true);

    // As a killed run leaves it.
    let text = fs::read_to_string(&manifest).unwrap().replace("true", "false");
    fs::write(&manifest, text).unwrap();
    scratch.ok(&["embed", "other", "--out", "out"]);
    assert_eq!(is_complete(), false);
    scratch.ok(&["embed", "photos", "--out", "out"]);
    assert_eq!(is_complete(), true);
    scratch.ok(&ingest);
}

#[test]
fn a_source_that_is_given_up_is_waited_for_no_more() {
    let scratch = photos(2);
    fs::create_dir(scratch.path().join("lost")).unwrap();
    fs::copy(scratch.path().join("photos/0.png"), scratch.path().join("lost/a.png")).unwrap();
    scratch.ok(&["embed", "photos", "lost", "--out", "out"]);
    let manifest = scratch.path().join("out/embeddings.json");
    let lost = fs::canonicalize(scratch.path()).unwrap().join("lost").display().to_string();
    // As a killed run leaves it, and then the source is gone for good.
    let text = fs::read_to_string(&manifest).unwrap().replace(&format!("{lost:?}: true"), &format!("{lost:?}: false"));
    fs::write(&manifest, text.replace("\"complete\": true", "\"complete\": false")).unwrap();
    fs::remove_dir_all(&lost).unwrap();

    let forget = |source: &'static str| ["embed", source, "--out", "out", "--forget"];
    scratch.fails(6, &["ingest", "out", "--collection", "c"], "or gives a source up with --forget");
    scratch.fails(2, &forget("photos"), &format!("hint: not done: {lost}"));
    scratch.fails(2, &["embed", "lost", "--out", "nowhere", "--forget"], "no embeddings at nowhere");
    let other_run = fs::File::open(scratch.path().join("out/embeddings.journal")).unwrap();
    other_run.try_lock().unwrap();
    scratch.fails(5, &forget("lost"), "in use by another run");
    drop(other_run);
    let answer = json(&scratch.ok(&[&forget("lost")[..], &["--json"]].concat()));
    assert_eq!(answer, serde_json::json!({ "complete": true, "undone": [] }));
    scratch.fails(2, &forget("lost"), "hint: all of its sources are done");
    assert_eq!(
        counts(&json(&scratch.ok(&["ingest", "out", "--collection", "c", "--json"]))),
        [3, 3, 0, 0],
        "its row stays"
    );
}

#[test]
fn a_server_gets_no_collection_of_sources_that_do_not_fit() {
    let scratch = photos(2);
    scratch.ok(&["embed", "photos", "--out", "out"]);
    scratch.write("two.npy", npy(&[1, 2]));
    scratch.write("bad.npy", "not an array");
    let server = Server::start_with_model(&scratch.path().join("served"), "builtin", &[]);
    let none_is_made = |code: i32, args: &[&str], said: &str| {
        let start = ["ingest", "--collection", "c", "--server", &server.grpc];
        scratch.fails(code, &[&start[..], args].concat(), said);
        scratch.fails(4, &["collection", "get", "c", "--server", &server.grpc], "no collection named");
    };
    none_is_made(2, &["bad.npy"], "not a .npy file");
    none_is_made(2, &["two.npy", "--model", "builtin"], "expected 192 dimensions, received 2");
    none_is_made(4, &["out", "--model", "other"], "expected one of the server's models, builtin; received \"other\"");
    let manifest = scratch.path().join("out/embeddings.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let hash = json(&text)["model"]["hash"].as_str().unwrap().to_owned();
    fs::write(&manifest, text.replace(&hash, &"0".repeat(32))).unwrap();
    none_is_made(2, &["out", "--model", "builtin"], "these embeddings were made by builtin (0000");
    fs::write(&manifest, text).unwrap();
    let ingest = ["ingest", "out", "--collection", "c", "--server", &server.grpc, "--model", "builtin", "--json"];
    assert_eq!(counts(&json(&scratch.ok(&ingest))), [2, 2, 0, 0]);
    scratch.fails(2, &["ingest", "two.npy", "--collection", "c", "--server", &server.grpc], "received 2");
}

#[test]
fn a_repeated_run_makes_damaged_shards_again() {
    let scratch = photos(PICTURES);
    let embed = |rows| ["embed", "photos", "--out", "out", "--json", "--shard-rows", rows];
    scratch.ok(&embed("2"));
    let whole = files(&scratch.path().join("out"));
    let shard = |name: &str| scratch.path().join("out").join(name);
    let check = |rows, made| {
        let report = json(&scratch.ok(&embed(rows)));
        assert_eq!(counts(&report), [7, made, 7 - made, 0], "{report}");
        let (code, report) = scratch.answer(&["ingest", "out", "--collection", "c", "--restart", "--json"]);
        assert_eq!((code, counts(&report)), (Some(0), [7, 7, 0, 0]), "{report}");
    };

    let mut bytes = fs::read(shard("shard-00001.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(shard("shard-00001.safetensors"), bytes).unwrap();
    check("2", 2);
    for (path, (bytes, time)) in files(&scratch.path().join("out")) {
        let is_of_others = path.extension().unwrap() != "json" && !path.display().to_string().contains("00001");
        assert!(bytes.len() == whole[&path].0.len(), "{} is of another size", path.display());
        assert!(!is_of_others || time == whole[&path].1, "{} was written again", path.display());
    }
    fs::remove_file(shard("shard-00000.safetensors")).unwrap();
    fs::write(shard("shard-00002.jsonl"), "").unwrap();
    check("2", 4);
    fs::remove_file(shard("shard-00001.jsonl")).unwrap();
    fs::write(shard("shard-00002.safetensors"), "short").unwrap();
    check("4", 4);
    check("4", 0);
    fs::remove_file(shard("shard-00000.jsonl")).unwrap();
    check("1", 2);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let scratch = photos(2);
    scratch.ok(&["embed", "photos", "--out", "out"]);
    let other = ["embed", "photos", "--out", "out", "--tokens", "4x4"];
    scratch.fails(2, &other, "out holds embeddings of builtin");
    scratch.fails(2, &["embed", "photos", "--out", "out", "--tokens", "5x5"], "expected 4x4 or 7x7");
    let manifest = scratch.path().join("out/embeddings.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let hash = json(&text)["model"]["hash"].as_str().unwrap().to_owned();
    // Made by a model that is nowhere here.
    let gone = text.replace(&hash, &"0".repeat(32)).replace("\"builtin\"", "\"/gone/model\"");
    fs::write(&manifest, gone).unwrap();
    let zeros = "0".repeat(32);
    let refused = format!("these embeddings were made by /gone/model ({zeros})");
    scratch.fails(2, &["ingest", "out", "--collection", "gone", "--model", "builtin"], &refused);
    scratch.fails(4, &["collection", "get", "gone"], "gone");
    scratch.ok(&["ingest", "out", "--collection", "gone"]);
    let got = json(&scratch.ok(&["collection", "get", "gone", "--json"]));
    assert_eq!(got["config"]["model"]["name"], "/gone/model");
    assert_eq!((&got["config"]["model"]["hash"], &got["points_count"]), (&"0".repeat(32).into(), &2.into()));
    scratch.ok(&["collection", "create", "c"]);
    scratch.fails(2, &["ingest", "out", "--collection", "c"], "the collection was made by builtin");

    scratch.write("photos/0.json", "{\"id\": \"0\", \"n\": 1}");
    scratch.ok(&["embed", "photos", "--out", "ids"]);
    scratch.write("photos/0.json", "{\"id\": \"0\", \"n\": 2}");
    let (code, report) = scratch.answer(&["embed", "photos", "--out", "ids", "--json"]);
    assert_eq!((code, counts(&report)), (Some(3), [2, 0, 1, 1]));
    assert_eq!(report["skipped_items"][0]["reason"], "changed");
}

#[test]
fn what_no_collection_takes_is_refused_before_it_is_embedded() {
    let scratch = Scratch::new();
    let rows = [
        format!("{{\"id\": \"{}\", \"text\": \"a\"}}", "i".repeat(Limits::MAX_ID_BYTES + 1)),
        format!("{{\"id\": 1, \"text\": \"a\", \"n\": \"{}\"}}", "n".repeat(Limits::MAX_PAYLOAD_BYTES)),
        format!("{{\"id\": 2, \"text\": \"a\", \"n\": {}1{}}}", "[".repeat(20), "]".repeat(20)),
        format!("{{\"id\": 3, \"text\": \"a\", \"language\": \"{}\"}}", "l".repeat(Limits::MAX_LANGUAGE_BYTES + 1)),
        "{\"id\": 4, \"text\": \"a\"}".to_owned(),
    ];
    scratch.write("rows.jsonl", rows.join("\n"));
    let (code, report) = scratch.answer(&["embed", "rows.jsonl", "--out", "out", "--json"]);
    assert_eq!((code, counts(&report)), (Some(3), [5, 1, 0, 4]), "{report}");
    let reasons = serde_json::json!({"invalid_id": 1, "limit_exceeded": 3});
    assert_eq!(report["skipped_by_reason"], reasons);
    scratch.ok(&["ingest", "out", "--collection", "c"]);
}

#[test]
fn hints_and_help_are_those_of_embed() {
    let scratch = Scratch::new();
    scratch.write("rows.jsonl", "{\"id\": 1, \"vectors\": {\"image\": [1, 2]}}");
    let output = scratch.command().args(["embed", "rows.jsonl", "--out", "out"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("firn collection create"), "{said}");
    let help = scratch.ok(&["embed", "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("[default: the collection's own, else builtin]"), "{help}");
}

/// FLAME's way by commands alone: a decoder's facets of captions, embedded once, are what an image tower learns.
#[test]
fn an_image_tower_learns_from_facets_that_embed_wrote() {
    let scratch = Scratch::new();
    let decoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("model/fixtures/decoder-mistral");
    let mut tar = tar::Builder::new(Vec::new());
    let mut captions = String::new();
    for i in 0..10u8 {
        let mut png = std::io::Cursor::new(Vec::new());
        let picture = image::RgbImage::from_pixel(16, 16, image::Rgb([25 * i, 90, 200 - 20 * i]));
        picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(png.get_ref().len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("k{i}.png"), &png.get_ref()[..]).unwrap();
        captions +=
            &format!("{}\n", serde_json::json!({ "id": format!("k{i}"), "text": format!("a picture of {i} cats") }));
    }
    scratch.write("pictures.tar", tar.into_inner().unwrap());
    scratch.write("captions.jsonl", captions);
    for n in [1, 3] {
        let text = format!("[text]\nfacets = {:?}\ntemplate = \"flame-{n}\"\n", decoder.display().to_string());
        scratch.write(&format!("flame{n}/model.toml"), text);
        let (out, model) = (format!("facets{n}"), format!("flame{n}"));
        scratch.ok(&["embed", "captions.jsonl", "--model", &model, "--tokens", "4x4", "--out", &out]);
    }
    let start = ["train", "align", "--frozen", "text", "--images", "pictures.tar", "--out", "o", "--facets"];
    let sizes = "--steps 2 --batch 4 --side-px 16 --patch-px 8 --image-dim 8 --image-blocks 1 --projector 8 --texts-per-image 3 --held-out 0.3";
    let sizes: Vec<&str> = sizes.split(' ').collect();
    scratch.ok(&[&start[..], &["facets1", "facets3"], &sizes[..]].concat());
    let data = ["--images", "pictures.tar", "--facets", "facets1", "facets3"];
    let said = scratch.ok(&[&["train", "evaluate", "--aligned", "o"], &data[..]].concat());
    assert!(said.contains("| all |"), "{said}");
    // Of two decoders, or of one that is read less deep, facets lie in two spaces.
    let other =
        format!("[text]\nfacets = {:?}\ntemplate = \"flame-1\"\nblocks_left_out = 2\n", decoder.display().to_string());
    scratch.write("other/model.toml", other);
    scratch.ok(&["embed", "captions.jsonl", "--model", "other", "--tokens", "4x4", "--out", "facets-other"]);
    let mixed = [&start[..], &["facets1", "facets-other"], &sizes[..], &["--resume"]].concat();
    scratch.fails(2, &mixed, "expected facets of one decoder, that of facets1, received another in facets-other");
    // Without tokens a text is one row, which is said.
    scratch.ok(&["embed", "captions.jsonl", "--model", "flame3", "--out", "alone"]);
    let args = ["train", "evaluate", "--aligned", "o", "--images", "pictures.tar", "--facets", "alone"];
    let output = scratch.command().args(args).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("alone: no facets were kept, a text has one row"), "{said}");
    scratch.fails(
        2,
        &[&start[..], &["captions.jsonl", "facets1"], &sizes[..], &["--resume"]].concat(),
        "several must be folders of firn embed",
    );
}

#[test]
fn facets_of_flame_are_ingested_without_a_model() {
    let scratch = Scratch::new();
    let facets = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("model/fixtures/pickle/facets.pth")).unwrap();
    scratch.write("facets/00000/000001.pth", &facets);
    scratch.write("facets/00000/000002.pth", &facets[..100]);
    let (code, report) = scratch.answer(&["ingest", "facets", "--collection", "c", "--json"]);
    assert_eq!((code, counts(&report)), (Some(3), [2, 1, 0, 1]));
    assert_eq!(report["skipped_items"][0]["item"], "00000/000002.pth");
    let config = json(&scratch.ok(&["collection", "get", "c", "--json"]))["config"].clone();
    let shapes = serde_json::json!([null, {"text": {"dim": 2, "embeds": null}}, {"text": {"n": 7, "dim": 2}}]);
    assert_eq!(serde_json::json!([config["model"], config["vectors"], config["tokens"]]), shapes);
    let asked = ["query", "c", "--id", "text:000001", "--with-tokens", "--json"];
    assert_eq!(json(&scratch.ok(&asked))["hits"], serde_json::json!([]), "the only point asks");
    scratch.write("query.json", "[1, 1]");
    let hits = json(&scratch.ok(&["query", "c", "--vector", "query.json", "--with-tokens", "--json"]));
    let tokens = &hits["hits"][0]["tokens"]["text"];
    assert_eq!((&tokens["n"], tokens["values"].as_array().unwrap().len()), (&7.into(), 14));
    assert_eq!((&tokens["values"][0], &tokens["values"][13]), (&1.0.into(), &2.625.into()));
    scratch.fails(
        2,
        &["ingest", "facets", "--collection", "d", "--tokens", "4x4"],
        "their tokens are kept as they are",
    );
    scratch.ok(&["collection", "create", "e", "--vector", "text=2"]);
    scratch.fails(2, &["ingest", "facets", "--collection", "e"], "no tokens named \"text\"");
    scratch.fails(2, &["collection", "create", "f", "--vector", "text=2", "--tokens", "4x4"], "made by a model");
}

#[test]
fn a_collection_that_is_there_keeps_its_tokens() {
    let scratch = photos(2);
    let ingest =
        |collection, tokens: &[&'static str]| [&["ingest", "photos", "--collection", collection], tokens].concat();
    scratch.ok(&ingest("none", &[]));
    scratch.fails(2, &ingest("none", &["--tokens", "4x4"]), "\nhint: make a new one with --tokens");
    scratch.ok(&ingest("four", &["--tokens", "4x4"]));
    scratch.ok(&ingest("four", &["--tokens", "4x4"]));
    scratch.fails(2, &ingest("four", &["--tokens", "7x7"]), "this collection keeps image tokens 16 x");
}

#[test]
fn a_refused_first_ingest_makes_no_collection() {
    let scratch = photos(2);
    let facets = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("model/fixtures/pickle/facets.pth")).unwrap();
    scratch.write("facets/00000/000001.pth", &facets);
    // The text vectors and tokens of a model, without which they are refused.
    let info = json(&scratch.ok(&["model", "info", "--json"]));
    let size = |value: &Value| value.as_u64().unwrap() as usize;
    let (dim, tokens) = (size(&info["dim"]), &info["text_tokens"]);
    scratch.write("text.npy", npy(&[1, dim]));
    scratch.write("text.tokens.npy", npy(&[1, size(&tokens["n"]), size(&tokens["dim"])]));
    let plain = ["ingest", "text.npy", "--vector-name", "text", "--collection", "c", "--model", "builtin"];
    let shape = format!("{}x{}", tokens["n"], tokens["dim"]);
    let expected = format!(
        "this collection keeps no tokens, and here are some beside \"text\", {shape}\nhint: make it with --token-shape text={shape}, or --tokens 4x4 for the model's own"
    );
    scratch.fails(2, &plain, &expected);
    scratch.fails(2, &["ingest", "facets", "--collection", "c", "--model", "builtin"], "expected");
    scratch.fails(4, &["collection", "get", "c"], "c");
    scratch.ok(&[&plain[..], &["--tokens", "4x4"]].concat());
}

/// Ones of that shape.
fn npy(shape: &[usize]) -> Vec<u8> {
    let shape_text: Vec<String> = shape.iter().map(usize::to_string).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}\n", shape_text.join(", "));
    let length = (header.len() as u16).to_le_bytes();
    let ones = 1f32.to_le_bytes().repeat(shape.iter().product());
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &ones].concat()
}

#[test]
fn a_model_says_what_tokens_take() {
    let scratch = Scratch::new();
    let info = json(&scratch.ok(&["model", "info", "--json"]));
    let number = |value: &Value| value.as_u64().unwrap();
    let (dim, image) = (number(&info["dim"]), number(&info["image_token_dim"]));
    let text = number(&info["text_tokens"]["n"]) * number(&info["text_tokens"]["dim"]);
    let bytes = &info["bytes_per_point"];
    assert_eq!(number(&bytes["none"]), 8 * dim);
    assert_eq!(number(&bytes["4x4"]), 8 * dim + 2 * (16 * image + text));
    assert_eq!(number(&bytes["7x7"]), 8 * dim + 2 * (49 * image + text));
    let said = scratch.ok(&["model", "info"]);
    assert!(said.contains(&format!("image 16 x {image}, text 8 x")), "{said}");
}

#[test]
fn a_killed_run_goes_on_after_its_last_whole_shard() {
    let scratch = photos(60);
    let out = scratch.path().join("out");
    let args = ["embed", "photos", "--out", "out", "--shard-rows", "2", "--json"];
    let mut child = scratch.command().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let names_a_shard = |text: String| text.contains("shard-00000");
    while !fs::read_to_string(out.join("embeddings.json")).is_ok_and(names_a_shard) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = files(&out);
    let manifest = |out: &Path| json(&fs::read_to_string(out.join("embeddings.json")).unwrap());
    let whole = manifest(&out)["shards"].as_array().unwrap().len();

    let report = json(&scratch.ok(&args));
    let [_, written, unchanged, skipped] = counts(&report);
    assert_eq!((written + unchanged, skipped, unchanged), (60, 0, 2 * whole as u64), "{report}");
    let after = files(&out);
    for shard in 0..whole {
        for extension in ["jsonl", "safetensors"] {
            let path = out.join(format!("shard-{shard:05}.{extension}"));
            assert!(before[&path] == after[&path], "{} was written again", path.display());
        }
    }
    scratch.ok(&["ingest", "out", "--collection", "c"]);
    assert_eq!(points(&scratch, "c").len(), 60);
}
