//! Many short captions: Flickr30k, COCO, Crossmodal-3600.

use firn_eval::readers::Options;

use crate::{Folder, check};

const FLICKR: &str = r#"{"dataset": "flickr30k", "images": [
    {"filename": "1.jpg", "imgid": 0, "sentids": [0, 1], "split": "test", "sentences": [
        {"raw": "Two men.", "tokens": ["two", "men"]}, {"raw": " ", "tokens": []}, {"raw": "Men, two", "tokens": []}]},
    {"filename": "2.jpg", "imgid": 1, "split": "train", "sentences": [{"raw": "A dog."}]},
    {"filename": "3.jpg", "imgid": 2, "split": "test", "sentences": [
        {"raw": "a"}, {"raw": "b"}, {"raw": "c"}, {"raw": "d"}, {"raw": "e"}, {"raw": "the sixth"}]}]}"#;

#[test]
fn flickr30k_takes_five_sentences_of_the_split_or_of_all() {
    let folder = Folder::with(&[("dataset_flickr30k.json", FLICKR)]).pictures(&[
        "flickr30k-images/1.jpg",
        "Images/3.jpg",
        "2.jpg",
    ]);
    let test = r#"
        1.jpg = flickr30k-images/1.jpg
        3.jpg = Images/3.jpg
        1.jpg#1 [en] "Two men." -> 1.jpg
        1.jpg#3 [en] "Men, two" -> 1.jpg
        3.jpg#1 [en] "a" -> 3.jpg
        3.jpg#2 [en] "b" -> 3.jpg
        3.jpg#3 [en] "c" -> 3.jpg
        3.jpg#4 [en] "d" -> 3.jpg
        3.jpg#5 [en] "e" -> 3.jpg
        note: expected 1,000 pictures and 5,000 texts as published, found 2 pictures and 7 texts
        note: blank texts were left out of 1.jpg"#;
    check(&folder.read("flickr30k", ""), test);
    let all = folder.read("flickr30k", "karpathy-31k");
    assert!(all.contains("2.jpg#1 [en] \"A dog.\" -> 2.jpg"), "{all}");
    assert!(
        all.contains("expected 31,014 pictures and 155,070 texts as published, found 3 pictures and 8 texts"),
        "{all}"
    );
    let joined = Options { joined: true, ..folder.options("") };
    let joined = folder.read_with("flickr30k", &joined);
    assert!(joined.contains("1.jpg#joined [en joined] \"Two men. Men, two\" -> 1.jpg\n3.jpg#1 "), "{joined}");
    assert!(joined.contains("3.jpg#joined [en joined] \"a b c d e\" -> 3.jpg"), "{joined}");
    assert!(joined.contains("found 2 pictures and 7 texts"), "{joined}");
}

#[test]
fn flickr30k_of_clip_benchmark_is_split_where_the_name_ends() {
    let text =
        "image,caption\n1.jpg,Two men, one of them \"tall\", wait.\n\n2.jpg,A dog.\n1.jpg,A photo 3.jpg, of men.\n";
    let folder = Folder::with(&[("flickr30k_test_karpathy.txt", text)]).pictures(&["1.jpg", "2.jpg"]);
    let expected = r#"
        1.jpg = 1.jpg
        2.jpg = 2.jpg
        1.jpg#1 [en] "Two men, one of them \"tall\", wait." -> 1.jpg
        1.jpg#2 [en] "A photo 3.jpg, of men." -> 1.jpg
        2.jpg#1 [en] "A dog." -> 2.jpg
        note: expected 1,000 pictures and 5,000 texts as published, found 2 pictures and 3 texts"#;
    check(&folder.read("flickr30k", "clip-benchmark"), expected);
    folder.put("flickr30k_test_karpathy.txt", b"image,caption\n1.jpg,Two.\nno name\n");
    let error =
        "error: flickr30k_test_karpathy.txt: expected a line `{name}.jpg,{caption}`, received line 3: no `.jpg,`";
    check(&folder.read("flickr30k", "clip-benchmark"), error);
}

#[test]
fn coco_is_read_from_either_file() {
    let karpathy = r#"{"images": [
        {"filepath": "val2014", "filename": "COCO_val2014_1.jpg", "cocoid": 1, "split": "test", "sentences": [
            {"raw": "a"}, {"raw": "b"}, {"raw": "c"}, {"raw": "d"}, {"raw": "e"}, {"raw": "f"}]},
        {"filepath": "train2014", "filename": "x.jpg", "split": "restval", "sentences": []}]}"#;
    let of_coco = r#"{"info": {}, "images": [{"id": 1, "file_name": "COCO_val2014_1.jpg"}],
        "annotations": [{"id": 5, "image_id": 1, "caption": "a"}, {"id": 3, "image_id": 1, "caption": "f"}]}"#;
    let folder = Folder::with(&[("dataset_coco.json", karpathy), ("coco_test_karpathy.json", of_coco)])
        .pictures(&["val2014/COCO_val2014_1.jpg"]);
    let shown = folder.read("coco", "");
    assert!(shown.starts_with("COCO_val2014_1.jpg = val2014/COCO_val2014_1.jpg\n"), "{shown}");
    assert!(shown.contains("COCO_val2014_1.jpg#5 [en] \"e\"") && !shown.contains("#6"), "{shown}");
    assert!(
        shown.contains("expected 5,000 pictures and 25,000 texts as published, found 1 picture and 5 texts"),
        "{shown}"
    );
    let expected = r#"
        COCO_val2014_1.jpg = val2014/COCO_val2014_1.jpg
        COCO_val2014_1.jpg#1 [en] "a" -> COCO_val2014_1.jpg
        COCO_val2014_1.jpg#2 [en] "f" -> COCO_val2014_1.jpg
        note: expected 5,000 pictures and 25,010 texts as published, found 1 picture and 2 texts"#;
    check(&folder.read("coco", "clip-benchmark"), expected);
    // The pictures elsewhere, by the folder that has `val2014` or by that folder itself.
    let elsewhere = Folder::with(&[("dataset_coco.json", karpathy)]);
    for images in ["", "val2014"] {
        let options = Options { images: Some(folder.path(images)), ..elsewhere.options("") };
        let shown = elsewhere.read_with("coco", &options);
        assert!(shown.contains("val2014/COCO_val2014_1.jpg\n"), "{shown}");
    }
    folder.put("coco_test_karpathy.json", of_coco.replace("\"image_id\": 1", "\"image_id\": 9").as_bytes());
    let error = folder.read("coco", "clip-benchmark");
    assert!(error.contains("received a caption of image 9, which is not listed"), "{error}");
}

#[test]
fn pictures_are_found_where_archives_are_unpacked_to() {
    let of_coco = r#"{"images": [{"id": 1, "file_name": "COCO_val2014_1.jpg"}],
        "annotations": [{"id": 5, "image_id": 1, "caption": "a"}]}"#;
    let karpathy = |file: &str, filepath: &str| {
        format!(r#"{{"images": [{{{filepath}"filename": "{file}", "split": "test", "sentences": [{{"raw": "a"}}]}}]}}"#)
    };
    let check = |(data_set, protocol): (&str, &str), (file, text): (&str, &str), pictures: &[&str]| {
        for picture in pictures {
            let folder = Folder::with(&[(file, text)]).pictures(&[picture]);
            let shown = folder.read(data_set, protocol);
            assert!(shown.contains(&format!(" = {picture}\n")), "{shown}");
        }
    };
    let flickr = ["flickr30k_images/flickr30k_images/1.jpg", "flickr30k-images/1.jpg", "flickr30k_images/1.jpg"];
    let of_flickr = karpathy("1.jpg", "");
    check(("flickr30k", ""), ("dataset_flickr30k.json", &of_flickr), &flickr);
    check(("flickr30k", ""), ("caption_datasets/dataset_flickr30k.json", &of_flickr), &flickr);
    check(("flickr30k", "clip-benchmark"), ("flickr30k_test_karpathy.txt", "image,caption\n1.jpg,A.\n"), &flickr);
    let coco = ["val2014/COCO_val2014_1.jpg", "images/val2014/COCO_val2014_1.jpg", "images/COCO_val2014_1.jpg"];
    check(("coco", "clip-benchmark"), ("coco_test_karpathy.json", of_coco), &coco);
    let by_karpathy = karpathy("COCO_val2014_1.jpg", r#""filepath": "val2014", "#);
    check(("coco", ""), ("dataset_coco.json", &by_karpathy), &coco);
}

const XM: &str = r#"{"image/key": "000411001ff7dd4f", "image/locale": "ar", "de": {"caption": ["Ein Haus.", "Häuser am See"], "caption/tokenized": ["Ein Haus ."]}, "quz": {"caption": ["wasi"]}}
{"image/key": "b", "image/locale": "de", "de": {"caption": ["Ein Haus."]}, "quz": {"caption": [""]}}
"#;

#[test]
fn xm3600_takes_first_captions_or_all_in_the_languages_asked_for() {
    let folder = Folder::with(&[("captions.jsonl", XM)]).pictures(&["images/000411001ff7dd4f.jpg", "images/b.jpg"]);
    let first = r#"
        000411001ff7dd4f = images/000411001ff7dd4f.jpg
        b = images/b.jpg
        000411001ff7dd4f#de#1 [de] "Ein Haus." -> 000411001ff7dd4f
        000411001ff7dd4f#quz#1 [quz] "wasi" -> 000411001ff7dd4f
        b#de#1 [de] "Ein Haus." -> b
        note: expected 36 languages as published, found 2
        note: expected 3,600 pictures and 129,600 texts as published, found 2 pictures and 3 texts
        note: blank texts were left out of b
        note: 1 text belongs to several documents: only the one it was given for is right"#;
    check(&folder.read("xm3600", ""), first);
    let german = Options { languages: vec!["de".into()], joined: true, ..folder.options("all") };
    let shown = folder.read_with("xm3600", &german);
    let queries = r#"000411001ff7dd4f#de#1 [de] "Ein Haus." -> 000411001ff7dd4f
000411001ff7dd4f#de#2 [de] "Häuser am See" -> 000411001ff7dd4f
000411001ff7dd4f#de#joined [de joined] "Ein Haus. Häuser am See" -> 000411001ff7dd4f
b#de#1 [de] "Ein Haus." -> b
note: "#;
    assert!(shown.contains(queries) && shown.contains("261,375 texts") && !shown.contains("[quz]"), "{shown}");
    let swahili = Options { languages: vec!["de".into(), "sw".into()], ..folder.options("") };
    check(&folder.read_with("xm3600", &swahili), "error: language: expected one of de, quz, received sw");
    folder.put("captions.jsonl", br#"{"image/key": "b", "de": {"caption": "Ein Haus."}}"#);
    let error = folder.read("xm3600", "");
    assert!(error.contains("received line 1: no list `caption` of texts in `de`"), "{error}");
}
