//! Anyone's own files of JSON lines.

use std::io::Write;

use firn_eval::readers::Options;
use flate2::{Compression, write::GzEncoder};

use crate::{Folder, ask, check, shared};

fn packed(text: &str) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap()
}

const ROWS: &str = r#"
{"id": "naïve 猫", "image": "bilder/猫.jpg", "text": "A cat."}
{"id": 7, "image": "7.png", "texts": ["Seven.", {"text": "Sieben.", "language": "de"}, ""], "language": "en"}
{"image": "bilder/ß.webp", "caption": "Sharp s.", "split": "test"}
{"id": "text", "document": "A long text.", "texts": [{"text": "short", "lang": "en"}]}
{"id": "unseen", "image": "gone.jpg", "text": "Never.", "split": "train"}
{"id": "by-id", "captions": [{"lang": "en", "source": "people", "text": "By its id."}]}
{"id": "by-id", "caption": "Again."}
{"id": "silent", "image": "./7.png"}
"#;

const EXPECTED: &str = r#"
    naïve 猫 = bilder/猫.jpg
    7 = 7.png
    bilder/ß.webp = bilder/ß.webp
    text : A long text.
    by-id = images/by-id.jpeg
    silent = ./7.png
    naïve 猫#1 [] "A cat." -> naïve 猫
    7#en#1 [en] "Seven." -> 7
    7#de#1 [de] "Sieben." -> 7
    bilder/ß.webp#1 [] "Sharp s." -> bilder/ß.webp
    text#en#1 [en] "short" -> text
    by-id#en#1 [en] "By its id." -> by-id
    by-id#1 [] "Again." -> by-id
    note: rows of the split train were left out: 1
    note: blank texts were left out of 7
    note: no text looks for silent"#;

#[test]
fn rows_are_read_whether_packed_or_not_with_or_without_a_mark() {
    let pictures = ["bilder/猫.jpg", "7.png", "bilder/ß.webp", "images/by-id.jpeg"];
    for (name, bytes) in [
        ("rows.jsonl", ROWS.as_bytes().to_vec()),
        ("rows.jsonl", format!("\u{feff}{}", ROWS.trim()).replace('\n', "\r\n").into_bytes()),
        ("rows.jsonl.gz", packed(ROWS)),
    ] {
        let folder = Folder::with(&[]).pictures(&pictures);
        folder.put(name, &bytes);
        check(&folder.read("jsonl", ""), EXPECTED);
        let file = Options { data: folder.path(name), ..Options::default() };
        check(&folder.read_with("jsonl", &file), EXPECTED);
        let about = ask("jsonl", &file).unwrap().about;
        let expected = "all rows but those whose split is train; 6 documents and 7 texts, no count is published";
        assert_eq!(about, format!("{name}: {expected}"));
    }
}

#[test]
fn languages_are_picked_and_others_documents_stay() {
    let folder = Folder::with(&[("rows.jsonl", ROWS)]).pictures(&[
        "bilder/猫.jpg",
        "7.png",
        "bilder/ß.webp",
        "images/by-id.jpeg",
    ]);
    let options = Options { languages: vec!["de".into()], ..folder.options("") };
    let dataset = ask("jsonl", &options).unwrap();
    let queries: Vec<&str> = dataset.queries.iter().map(|query| query.id.as_str()).collect();
    assert_eq!((dataset.documents.len(), queries), (6, vec!["7#de#1"]));
    assert!(dataset.about.ends_with("; of these only texts in de"), "{}", dataset.about);
    let unnamed = Folder::with(&[("rows.jsonl", r#"{"id": 1, "document": "a", "text": "b"}"#)]);
    let options = Options { languages: vec!["de".into()], ..unnamed.options("") };
    let error = "error: language: expected none, because the data names no language, received de";
    check(&unnamed.read_with("jsonl", &options), error);
}

#[test]
fn ids_of_queries_stay_unique() {
    let rows = r#"{"id": "a", "document": "1", "texts": ["x", {"text": "y", "language": "en"}]}
{"id": "a#en", "document": "2", "texts": ["z"]}"#;
    let folder = Folder::with(&[("rows.jsonl", rows)]);
    let ids: Vec<String> =
        ask("jsonl", &folder.options("")).unwrap().queries.into_iter().map(|query| query.id).collect();
    assert_eq!(ids, ["a#1", "a#en#1", "a#en#1'"]);
}

#[test]
fn odd_rows_are_named() {
    let what = "an object with `id`, `image` or `document`, and with `text`, `caption` or a list `texts` or `captions`";
    for (row, received) in [
        ("nonsense", "expected ident"),
        (r#"{"text": "a"}"#, "neither `id` nor `image`"),
        (r#"{"document": "b", "text": "a"}"#, "neither `id` nor `image`"),
        (r#"{"id": [], "text": "a"}"#, "the id [], which is neither a number nor a text that is not empty"),
        (r#"{"id": "", "text": "a"}"#, "the id \"\", which is neither a number nor a text that is not empty"),
        (r#"{"id": 1, "image": "1.jpg", "document": "b"}"#, "both `image` and `document`"),
        (r#"{"id": 0, "document": "another", "text": "a"}"#, "another document of the id 0"),
        (r#"{"id": 0, "image": "0.jpg", "text": "a"}"#, "another document of the id 0"),
        (r#"{"id": 0, "texts": [1]}"#, "data did not match any variant of untagged enum Text"),
    ] {
        let rows = format!("{{\"id\": 0, \"document\": \"one\", \"text\": \"a\"}}\n{row}\n");
        let folder = Folder::with(&[("rows.jsonl", &rows)]);
        let error = format!("error: rows.jsonl: expected {what}, received line 2: {received}");
        check(&folder.read("jsonl", ""), &error);
    }
}

#[test]
fn missing_pictures_and_unclear_folders_are_named() {
    let folder = Folder::with(&[("rows.jsonl", r#"{"id": "a", "text": "b"}"#)]);
    let error = "error: images/a.jpg: expected a picture, the only one of 1 that is missing, it is not there";
    check(&folder.read("jsonl", ""), error);
    folder.put("more.jsonl.gz", b"");
    let error = "error: .: expected one file of JSON lines (.jsonl or .jsonl.gz), received rows.jsonl, more.jsonl.gz: \
                 name one of them";
    check(&folder.read("jsonl", ""), error);
    let gone = Options { data: folder.path("gone"), ..Options::default() };
    check(
        &folder.read_with("jsonl", &gone),
        "error: gone: expected one file of JSON lines (.jsonl or .jsonl.gz), it is not there",
    );
}

#[test]
fn captions_of_the_measured_data_are_read_as_they_stand() {
    let Some(data) = shared("flickr8k_research/captions.jsonl.gz") else { return };
    let ids = ask("jsonl", &Options { data: data.clone(), ..Options::default() }).unwrap_err().to_string();
    assert!(ids.contains("the first of 1,000 of 1,000 that are missing"), "{ids}");
    let (named, _) = ids.split_once(".jpg: expected").expect("a picture is looked for by its id");
    assert!(named.contains("/flickr8k_research/images/"), "{named}");
    let mut rows = String::new();
    std::io::Read::read_to_string(
        &mut flate2::read::MultiGzDecoder::new(std::fs::File::open(&data).unwrap()),
        &mut rows,
    )
    .unwrap();
    let pictures = Folder::with(&[]);
    for row in rows.lines().filter(|row| row.contains(r#""split": "val""#)) {
        let id = row.split('"').nth(3).unwrap();
        pictures.put(&format!("{id}.webp"), b"");
    }
    let options = Options {
        data,
        images: Some(pictures.path("")),
        languages: vec!["en".into(), "nl".into()],
        joined: true,
        ..Options::default()
    };
    let dataset = ask("jsonl", &options).unwrap();
    let n_joined = dataset.queries.iter().filter(|query| query.is_joined).count();
    let n_english = dataset.queries.iter().filter(|query| query.language == "en" && !query.is_joined).count();
    let n_dutch = dataset.queries.iter().filter(|query| query.language == "nl" && !query.is_joined).count();
    assert_eq!((dataset.documents.len(), n_english, n_dutch), (1_000, 5_000, 335));
    assert!(n_joined >= 1_000 && dataset.notes[0] == "rows of the split train were left out: 6,000");
}
