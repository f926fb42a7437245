//! `firn ingest` as a user drives it: every outcome has its exit code, and a run that is killed or stopped goes on.

mod common;
mod serving;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use common::{Scratch, json};
use firn_index::{Database, Fields, Options, Point};
use serde_json::Value;
use serving::Server;

/// Points of a local collection by id, without the versions and rows that no two runs share.
fn points(data_dir: &Path, collection: &str) -> BTreeMap<String, Point> {
    let db = Database::open(data_dir, Options::default()).unwrap();
    let reader = db.collection(collection).unwrap().reader();
    let (mut points, mut from) = (BTreeMap::new(), Some(0));
    while let Some(row) = from {
        let page =
            reader.scroll(row, 1000, Fields { payload: true, texts: true, vectors: true, tokens: true }).unwrap();
        points.extend(page.points.into_iter().map(|p| (p.id.to_string(), Point { row: 0, version: 0, ..p })));
        from = page.next;
    }
    points
}

/// The same points; their embeddings to the rounding that comes with batches of another size.
fn assert_same(received: &BTreeMap<String, Point>, expected: &BTreeMap<String, Point>) {
    let bare = |p: &Point| Point { vectors: BTreeMap::new(), ..p.clone() };
    let without_vectors = |points: &BTreeMap<String, Point>| points.values().map(bare).collect::<Vec<_>>();
    assert_eq!(without_vectors(received), without_vectors(expected));
    let numbers = |points: &BTreeMap<String, Point>| {
        points.values().flat_map(|p| p.vectors.values().flatten().copied()).collect::<Vec<f32>>()
    };
    let (received, expected) = (numbers(received), numbers(expected));
    assert_eq!(received.len(), expected.len());
    let largest = received.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest < 1e-5, "embeddings differ by {largest}");
}

/// Rows with vectors, so that no model is needed.
fn rows(n: usize) -> String {
    let row = |n: usize| format!("{{\"id\": {n}, \"n\": {n}, \"vectors\": {{\"image\": [{}, 1, 0.5]}}}}\n", n % 97);
    (0..n).map(row).collect()
}

fn counts(report: &Value) -> [u64; 5] {
    ["read", "written", "unchanged", "duplicates", "skipped"].map(|name| report[name].as_u64().unwrap())
}

#[test]
fn a_folder_is_written_once_and_found_by_its_texts() {
    let scratch = Scratch::new();
    for (name, colour) in [("red", [255, 0, 0]), ("green", [0, 255, 0]), ("blue", [0, 0, 255])] {
        fs::create_dir_all(scratch.path().join("photos/sub")).unwrap();
        let picture = image::RgbImage::from_pixel(64, 48, image::Rgb(colour));
        picture.save(scratch.path().join(format!("photos/sub/{name}.png"))).unwrap();
        fs::write(scratch.path().join(format!("photos/sub/{name}.txt")), format!("a {name} square")).unwrap();
    }
    let ingest = ["ingest", "photos", "--collection", "c", "--json"];
    let report = json(&scratch.ok(&ingest));
    assert_eq!(counts(&report), [3, 3, 0, 0, 0]);
    assert_eq!(report["sources"][0]["kind"], "folder");
    let before = points(&scratch.path().join("firn-data"), "c");
    assert!(before.values().all(|p| p.vectors.len() == 2 && p.texts.len() == 1), "{before:?}");

    assert_eq!(counts(&json(&scratch.ok(&ingest))), [3, 0, 3, 0, 0]);
    assert_same(&points(&scratch.path().join("firn-data"), "c"), &before);
    let restarted = json(&scratch.ok(&[&ingest[..], &["--restart"]].concat()));
    assert_eq!(counts(&restarted), [3, 3, 0, 0, 0]);
    assert_same(&points(&scratch.path().join("firn-data"), "c"), &before);

    let found =
        json(&scratch.ok(&["query", "c", "--text", "a green square", "--using", "text", "--limit", "1", "--json"]));
    assert_eq!(found["hits"][0]["payload"]["path"], "sub/green.png");
    let said = scratch.ok(&["ingest", "photos", "--collection", "c"]);
    assert!(said.contains("0 points written to c") && said.contains("3  unchanged"), "{said}");
}

#[test]
fn a_run_ends_with_the_index_built() {
    let scratch = Scratch::new();
    scratch.ok(&["collection", "create", "c", "--vector", "image=2"]);
    let row = |i: u32| format!("{{\"id\": {i}, \"vectors\": {{\"image\": [1, {}]}}}}\n", f64::from(i) / 10_000.0);
    scratch.write("rows.jsonl", (0..9000).map(row).collect::<String>());
    scratch.ok(&["ingest", "rows.jsonl", "--collection", "c"]);
    let info = json(&scratch.ok(&["collection", "get", "c", "--json"]));
    assert_eq!((info["points_count"].as_u64(), info["status"].as_str()), (Some(9000), Some("ready")), "{info}");
    assert!(
        info["segments_count"].as_u64() > Some(0) && info["buffered_vectors_count"].as_u64() < Some(4096),
        "{info}"
    );
}

#[test]
fn every_outcome_has_its_exit_code() {
    let scratch = Scratch::new();
    scratch.write("rows.jsonl", rows(10));
    scratch.write("some.jsonl", &(rows(2) + "{nonsense\n"));
    scratch.write("letter.txt", "dear");
    scratch.write("journal", "dear diary\n");
    scratch.write("odd.csv", "a,b\n1,2\n");
    let mut integers = npy("(1, 2)", &[1.0, 2.0]);
    let at = integers.windows(3).position(|bytes| bytes == b"<f4").unwrap();
    integers[at + 1] = b'i';
    scratch.write("whole.npy", integers);
    scratch.write("two.npy", npy("(1, 2)", &[1.0, 2.0]));
    scratch.ok(&["collection", "create", "c", "--vector", "image=3"]);
    scratch.fails(
        4,
        &["ingest", "rows.jsonl", "--no-create", "--collection", "nothing"],
        "no collection named \"nothing\"",
    );
    scratch.fails(2, &["ingest", "two.npy", "--collection", "c"], "expected 3 dimensions, received 2");
    scratch.fails(2, &["ingest", "two.npy", "--vector-name", "v", "--collection", "c"], "no vector named \"v\"");
    scratch.fails(2, &["ingest", "letter.txt", "--collection", "c"], "not a source");
    scratch.fails(2, &["ingest", "missing.jsonl", "--collection", "c"], "missing.jsonl");
    scratch.fails(1, &["ingest", "rows.jsonl", "--collection", "c", "--journal", "journal"], "is not a journal");
    let other_run = fs::File::create(scratch.path().join("held")).unwrap();
    other_run.try_lock().unwrap();
    scratch.fails(5, &["ingest", "rows.jsonl", "--collection", "c", "--journal", "held"], "in use by another run");
    scratch.fails(1, &["ingest", "two.npy", "--collection", "new", "--journal", "journal"], "is not a journal");
    assert!(!scratch.ok(&["collection", "list"]).contains("new"), "a run that cannot begin makes no collection");
    scratch.fails(2, &["ingest", "rows.jsonl", "--collection", "c", "--images", "nowhere"], "--images nowhere");
    scratch.fails(2, &["ingest", "odd.csv", "--collection", "c"], "expected a header line");
    scratch.fails(2, &["ingest", "whole.npy", "--collection", "c"], "received <i4");
    scratch.fails(2, &["ingest", "rows.jsonl", "--collection", "c", "--batch", "0"], "--batch");
    scratch.fails(2, &["ingest", "--collection", "c"], "SOURCE");
    let partly = scratch.command().args(["ingest", "some.jsonl", "--collection", "c", "--json"]).output().unwrap();
    assert_eq!(partly.status.code(), Some(3));
    assert_eq!(counts(&json(std::str::from_utf8(&partly.stdout).unwrap())), [3, 2, 0, 0, 1]);
    assert_eq!(counts(&json(&scratch.ok(&["ingest", "rows.jsonl", "--collection", "c", "--json"]))), [10, 8, 2, 0, 0]);
}

/// A .npy file of f32, format version 1.
fn npy(shape: &str, numbers: &[f32]) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.as_bytes());
    npy.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    npy
}

#[test]
fn one_bad_file_is_named_and_stops_nothing() {
    let scratch = Scratch::new();
    scratch.write("rows.jsonl", rows(10));
    scratch.write("two.npy", npy("(1, 2)", &[1.0, 2.0]));
    scratch.write("three.npy", npy("(1, 3)", &[1.0, 2.0, 3.0]));
    scratch.write("cut.tar", b"a.jpg, and then nothing");
    scratch.write("letter.txt", "dear");
    let ingest = |sources: &[&str]| scratch.answer(&[&["ingest", "--collection", "c", "--json"], sources].concat());
    let reasons = |report: &Value| -> Vec<String> {
        let items = report["skipped_items"].as_array().unwrap();
        items
            .iter()
            .map(|item| format!("{} {}", item["item"].as_str().unwrap(), item["reason"].as_str().unwrap()))
            .collect()
    };
    let (code, report) = ingest(&["three.npy", "two.npy"]);
    assert_eq!((code, counts(&report)), (Some(3), [2, 1, 0, 0, 1]), "the first says which dimension: {report}");
    assert_eq!(reasons(&report), ["two.npy wrong_dimension"]);

    let (code, report) = ingest(&["two.npy", "cut.tar", "rows.jsonl", "letter.txt", "nowhere.csv"]);
    assert_eq!((code, counts(&report)), (Some(3), [14, 10, 0, 0, 4]), "{report}");
    let all = [
        "cut.tar truncated",
        "letter.txt unreadable_source",
        "nowhere.csv unreadable_source",
        "two.npy wrong_dimension",
    ];
    assert_eq!(reasons(&report), all);

    for (code, source, reason) in [
        (2, "two.npy", "two.npy wrong_dimension"),
        (2, "cut.tar", "cut.tar truncated"),
        (2, "letter.txt", "letter.txt unreadable_source"),
    ] {
        let (received, report) = ingest(&[source]);
        assert_eq!((received, counts(&report)), (Some(code), [1, 0, 0, 0, 1]), "alone it is an error, with a report");
        assert_eq!(reasons(&report), [reason]);
    }
    assert_eq!(ingest(&["two.npy", "cut.tar"]).0, Some(2), "none is left");
}

#[test]
fn shards_without_ids_are_kept_apart_also_in_two_runs() {
    let scratch = Scratch::new();
    scratch.write("0.npy", npy("(2, 3)", &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]));
    scratch.write("1.npy", npy("(2, 3)", &[0.0, 0.0, 1.0, 1.0, 1.0, 0.0]));
    let ingest = |sources: &[&str]| json(&scratch.ok(&[&["ingest", "--collection", "c", "--json"], sources].concat()));
    assert_eq!(counts(&ingest(&["0.npy", "0.npy"])), [4, 2, 0, 2, 0]);
    assert_eq!(counts(&ingest(&["1.npy"])), [2, 2, 0, 0, 0]);
    assert_eq!(counts(&ingest(&["0.npy", "1.npy"])), [4, 0, 4, 0, 0]);
    let stored = points(&scratch.path().join("firn-data"), "c");
    assert!(stored.keys().eq(["0:0", "0:1", "1:0", "1:1"]), "{:?}", stored.keys());
}

#[test]
fn nothing_to_ingest_makes_nothing_and_says_what_was_looked_for() {
    let scratch = Scratch::new();
    scratch.write("shards/rows.jsonl", rows(3));
    scratch.write("blank.jsonl", "\n\n");
    scratch.write("bad.jsonl", "{\n");
    let ingest = |source: &str| {
        let output = scratch.command().args(["ingest", source, "--collection", "c", "--json"]).output().unwrap();
        let report = json(std::str::from_utf8(&output.stdout).unwrap());
        (output.status.code().unwrap(), counts(&report), String::from_utf8(output.stderr).unwrap())
    };
    let (code, counted, said) = ingest("shards");
    assert_eq!((code, counted), (0, [0; 5]));
    assert!(said.contains("hint: shards holds no pictures") && said.contains(".jsonl"), "{said}");
    let (code, counted, said) = ingest("blank.jsonl");
    assert_eq!((code, counted, said.as_str()), (0, [0; 5], "hint: blank.jsonl holds no items\n"));
    let (code, counted, _) = ingest("bad.jsonl");
    assert_eq!((code, counted), (3, [1, 0, 0, 0, 1]));
    assert!(!scratch.path().join("firn-data").exists(), "no collection, not even a data directory");
}

#[test]
fn what_was_deleted_or_lost_with_a_backup_is_written_again() {
    let scratch = Scratch::new();
    scratch.write("rows.jsonl", rows(30));
    scratch.write("more.jsonl", rows(50));
    let data = scratch.path().join("firn-data");
    let ingest = |source: &str| {
        let output = scratch.command().args(["ingest", source, "--collection", "c", "--json"]).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        counts(&json(std::str::from_utf8(&output.stdout).unwrap()))
    };
    scratch.ok(&["collection", "create", "c", "--vector", "image=3"]);
    assert_eq!(ingest("rows.jsonl"), [30, 30, 0, 0, 0]);
    let backup = scratch.path().join("backup");
    assert!(Command::new("cp").args(["-r".as_ref(), data.as_os_str(), backup.as_os_str()]).status().unwrap().success());

    let db = Database::open(&data, Options::default()).unwrap();
    db.collection("c").unwrap().delete(&[3.into(), 4.into(), 7.into()]).unwrap();
    db.close().unwrap();
    assert_eq!(ingest("rows.jsonl"), [30, 3, 27, 0, 0]);
    assert_eq!(ingest("more.jsonl"), [50, 20, 30, 0, 0]);

    fs::remove_dir_all(&data).unwrap();
    fs::rename(&backup, &data).unwrap();
    assert_eq!(ingest("more.jsonl"), [50, 20, 30, 0, 0], "the backup has the first thirty");
    assert_eq!(ingest("more.jsonl"), [50, 0, 50, 0, 0]);
}

/// More points than a page of a server's answer holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_deleted_at_a_server_is_written_again() {
    let scratch = Scratch::new();
    scratch.write("rows.jsonl", rows(2500));
    let server = Server::start(&scratch.path().join("served"), &["--http-listen", "none"]);
    let at = ["--server", &server.grpc];
    scratch.ok(&[&["collection", "create", "c", "--vector", "image=3"][..], &at].concat());
    let ingest = || {
        let args = [&["ingest", "rows.jsonl", "--collection", "c", "--json"][..], &at].concat();
        counts(&json(&scratch.ok(&args)))
    };
    assert_eq!(ingest(), [2500, 2500, 0, 0, 0]);
    let deleted = [0u64, 1000, 2499].map(firn_client::id).to_vec();
    server.client().await.delete("c", deleted).await.unwrap();
    assert_eq!(ingest(), [2500, 3, 2497, 0, 0]);
    assert_eq!(ingest(), [2500, 0, 2500, 0, 0]);
}

/// Deeper than the wire takes, and than the protocol itself can carry: no reason to end the stream.
#[test]
fn one_deep_payload_is_refused_and_the_rest_is_sent() {
    let scratch = Scratch::new();
    let nested = |levels: usize| {
        let list = "[".repeat(levels) + &"]".repeat(levels);
        format!("{{\"id\": \"deep\", \"vectors\": {{\"image\": [1, 1, 1]}}, \"deep\": {list}}}\n")
    };
    scratch.write(
        "deep.jsonl",
        rows(2)
            + &nested(60)
            + &nested(20).replace("\"deep\",", "1000,")
            + "{\"id\": 7, \"vectors\": {\"image\": [1, 2, 3]}}\n",
    );
    scratch.write("fits.jsonl", nested(19));
    let server = Server::start(&scratch.path().join("served"), &["--http-listen", "none"]);
    let at = ["--server", &server.grpc];
    scratch.ok(&[&["collection", "create", "c", "--vector", "image=3"][..], &at].concat());
    let ingest = |source: &str| scratch.answer(&[&["ingest", source, "--collection", "c", "--json"][..], &at].concat());
    let (code, report) = ingest("deep.jsonl");
    assert_eq!((code, counts(&report)), (Some(3), [5, 3, 0, 0, 2]), "{report}");
    assert_eq!(report["skipped_by_reason"]["limit_exceeded"], 2);
    let (code, report) = ingest("fits.jsonl");
    assert_eq!((code, counts(&report)), (Some(0), [1, 1, 0, 0, 0]), "{report}");
}

/// What flows by cannot be opened twice; it was taken for an empty source.
#[cfg(unix)]
#[test]
fn a_pipe_is_no_source() {
    let scratch = Scratch::new();
    let mut child = scratch
        .command()
        .args(["ingest", "/dev/stdin", "--collection", "c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may be gone before it reads.
    let _ = child.stdin.take().unwrap().write_all(rows(10).as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("/dev/stdin: not a file or folder: save it first"), "{said}");
}

#[test]
fn a_name_does_not_command_the_terminal() {
    let scratch = Scratch::new();
    scratch.write("rows.npy", npy("(1, 2)", &[1.0, 2.0]));
    let output =
        scratch.command().args(["ingest", "rows.npy", "\u{1b}[2J\n.txt", "--collection", "c"]).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(said.iter().all(|text| text.contains("␛[2J␊.txt: ") && !text.contains('\u{1b}')), "{said:?}");
}

#[test]
fn embeddings_alone_make_a_collection_without_a_model() {
    let scratch = Scratch::new();
    scratch.write("v.npy", npy("(2, 3)", &[1.0, 0.0, 0.0, 0.0, 3.0, 4.0]));
    scratch.write("v.ids.txt", "left\nright\n");
    scratch.ok(&["ingest", "v.npy", "--collection", "v", "--vector-name", "image"]);
    let about = json(&scratch.ok(&["collection", "get", "v", "--json"]));
    assert!(about["config"]["model"].is_null());
    assert_eq!(
        (about["points_count"].as_u64(), about["config"]["vectors"]["image"]["dim"].as_u64()),
        (Some(2), Some(3))
    );
    let stored = points(&scratch.path().join("firn-data"), "v");
    assert_eq!(stored["right"].vectors["image"], [0.0, 0.6, 0.8]);
}

/// `firn ingest` of `rows.jsonl` in small batches, in the background.
fn start(scratch: &Scratch, more: &[&str]) -> Child {
    scratch
        .command()
        .args(["ingest", "rows.jsonl", "--collection", "c", "--batch", "8", "--journal", "journal", "--json"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the journal has so many lines, or the child has ended.
fn wait_for_lines(scratch: &Scratch, child: &mut Child, lines: usize) {
    let have =
        || fs::read(scratch.path().join("journal")).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count();
    while have() < lines && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
}

const N: usize = 6000;

fn scratch_with_rows() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("rows.jsonl", rows(N));
    scratch.ok(&["collection", "create", "c", "--vector", "image=3"]);
    scratch
}

fn points_at_once() -> BTreeMap<String, Point> {
    let scratch = scratch_with_rows();
    scratch.ok(&["ingest", "rows.jsonl", "--collection", "c", "--journal", "journal"]);
    points(&scratch.path().join("firn-data"), "c")
}

#[test]
fn a_killed_run_goes_on_and_ends_as_one_that_was_not() {
    let scratch = scratch_with_rows();
    for lines in [100, 700, 1500] {
        let mut child = start(&scratch, &[]);
        wait_for_lines(&scratch, &mut child, lines);
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success(), "killed before its end");
    }
    let report = json(&scratch.ok(&["ingest", "rows.jsonl", "--collection", "c", "--journal", "journal", "--json"]));
    let [read, written, unchanged, duplicates, skipped] = counts(&report);
    assert_eq!((read, written + unchanged, duplicates + skipped), (N as u64, N as u64, 0));
    assert!(unchanged >= 1499, "{unchanged} unchanged");
    assert!(points(&scratch.path().join("firn-data"), "c") == points_at_once(), "in four runs as in one");
    let again = json(&scratch.ok(&["ingest", "rows.jsonl", "--collection", "c", "--journal", "journal", "--json"]));
    assert_eq!(counts(&again), [N as u64, 0, N as u64, 0, 0]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_cleanly_and_the_next_run_does_the_rest() {
    let scratch = scratch_with_rows();
    let mut child = start(&scratch, &[]);
    wait_for_lines(&scratch, &mut child, 200);
    let kill = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    let first = report["written"].as_u64().unwrap();
    assert_eq!(points(&scratch.path().join("firn-data"), "c").len() as u64, first);
    let report = json(&scratch.ok(&["ingest", "rows.jsonl", "--collection", "c", "--journal", "journal", "--json"]));
    assert_eq!(counts(&report), [N as u64, N as u64 - first, first, 0, 0]);
}

#[test]
fn a_collection_made_anew_starts_afresh() {
    let scratch = Scratch::new();
    scratch.write("rows.jsonl", rows(5));
    let ingest = ["ingest", "rows.jsonl", "--collection", "c", "--journal", "journal", "--json"];
    for _ in 0..2 {
        scratch.ok(&["collection", "create", "c", "--vector", "image=3"]);
        assert_eq!(counts(&json(&scratch.ok(&ingest))), [5, 5, 0, 0, 0]);
        scratch.ok(&["collection", "delete", "c", "--yes"]);
    }
}

/// A server on an address that an earlier one had.
struct Again(Child);

impl Again {
    fn start(scratch: &Scratch, address: &str) -> Again {
        let address = address.trim_start_matches("http://");
        let args = ["serve", "--model", "none", "--data-dir", "served", "--http-listen", "none", "--listen", address];
        let quiet =
            scratch.command().args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Again(quiet.unwrap())
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn through_a_server_that_is_killed_and_started_again() {
    let scratch = Scratch::new();
    scratch.write("rows.jsonl", rows(N) + "{\"id\": \"bad\", \"vectors\": {\"image\": [1]}}\n");
    let server = Server::start(&scratch.path().join("served"), &[]);
    let address = server.grpc.clone();
    let at = ["--server", &address];
    scratch.ok(&[&["collection", "create", "c", "--vector", "image=3"][..], &at].concat());
    let mut run = start(&scratch, &at);
    wait_for_lines(&scratch, &mut run, 1000);
    server.kill();
    let _again = Again::start(&scratch, &address);
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "finished, with one item skipped");
    let said = String::from_utf8(output.stderr).unwrap();
    let lost = said.find(&format!("the server at {address} does not answer ("));
    let back = said.find(&format!("the server at {address} answers again\n"));
    assert!(lost.is_some() && lost < back && said.contains("; trying again for 60 s\n"), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(counts(&report), [N as u64 + 1, N as u64, 0, 0, 1]);
    assert_eq!(report["skipped_by_reason"]["wrong_dimension"], 1);
    let about = json(&scratch.ok(&[&["collection", "get", "c", "--json"][..], &at].concat()));
    assert_eq!(about["points_count"], N);

    let mut run = start(&scratch, &[&at[..], &["--restart"]].concat());
    wait_for_lines(&scratch, &mut run, 1000);
    run.kill().unwrap();
    run.wait().unwrap();
    let resume = [&["ingest", "rows.jsonl", "--collection", "c", "--journal", "journal", "--json"][..], &at].concat();
    let output = scratch.command().args(resume).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [read, written, unchanged, duplicates, skipped] = counts(&report);
    assert_eq!((read, written + unchanged, duplicates, skipped), (N as u64 + 1, N as u64, 0, 1));
    let about = json(&scratch.ok(&[&["collection", "get", "c", "--json"][..], &at].concat()));
    assert_eq!(about["points_count"], N);
}
