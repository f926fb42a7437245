//! Long texts: Urban-1k, DCI, DOCCI, ShareGPT4V, ImageInWords.

use firn_eval::readers::Options;

use crate::{Folder, ask, check, shared};

#[test]
fn urban1k_takes_the_first_line_that_is_not_blank() {
    let folder = Folder::with(&[
        ("caption/10.txt", "A red tram.\r\nsecond line"),
        ("caption/9.txt", "\n  \nA café, at night.\n"),
        ("caption/1.txt", " \n"),
        ("caption/.DS_Store", "\u{0}"),
    ])
    .pictures(&["image/1.jpg", "image/9.jpg", "image/10.jpg", "image/Thumbs.db"]);
    let expected = "
        1.jpg = image/1.jpg
        9.jpg = image/9.jpg
        10.jpg = image/10.jpg
        9.jpg#1 [en] \"A café, at night.\" -> 9.jpg
        10.jpg#1 [en] \"A red tram.\" -> 10.jpg
        note: caption/9.txt starts with a blank line: its line 3 was read
        note: expected 1,000 pairs as published, found 3 pictures and 2 texts
        note: blank texts were left out of 1.jpg
        note: no text looks for 1.jpg";
    check(&folder.read("urban1k", ""), expected);
}

#[test]
fn urban1k_is_found_in_its_archives_folder_and_counted() {
    let folder = Folder::with(&[]);
    for n in 1..=1_000 {
        folder.put(&format!("Urban1k/caption/{n}.txt"), format!("Street {n}.").as_bytes());
        folder.put(&format!("Urban1k/image/{n}.jpg"), b"");
    }
    let dataset = ask("urban1k", &folder.options("first-line")).unwrap();
    assert_eq!((dataset.name.as_str(), dataset.protocol.as_str()), ("urban1k", "first-line"));
    assert_eq!(dataset.notes, [""; 0]);
    let about = "Urban1k: image/{n}.jpg and the first line of caption/{n}.txt; 1,000 pairs, as published";
    assert_eq!(dataset.about, about);
    assert_eq!(dataset.documents[998].id, "999.jpg");
    assert!(dataset.is_as_published);
    let elsewhere = Options { data: folder.path("Urban1k"), without_pictures: true, ..Options::default() };
    assert_eq!(ask("urban1k", &elsewhere).unwrap().hash(), dataset.hash());
    std::fs::remove_file(folder.path("Urban1k/image/1000.jpg")).unwrap();
    std::fs::remove_file(folder.path("Urban1k/caption/1000.txt")).unwrap();
    let part = ask("urban1k", &folder.options("first-line")).unwrap();
    assert!(!part.is_as_published && part.hash() != dataset.hash());
    folder.put("Urban1k/caption/1000.txt", b"Street 1000.");
    folder.put("Urban1k/image/1000.jpg", b"");
    std::fs::remove_file(folder.path("Urban1k/image/7.jpg")).unwrap();
    let error =
        "error: Urban1k/image/7.jpg: expected a picture, the only one of 1,000 that is missing, it is not there";
    check(&folder.read("urban1k", ""), error);
    std::fs::remove_file(folder.path("Urban1k/image/70.jpg")).unwrap();
    let error =
        "error: Urban1k/image/7.jpg: expected a picture, the first of 2 of 1,000 that are missing, it is not there";
    check(&folder.read("urban1k", ""), error);
}

#[test]
fn urban1k_names_a_caption_that_is_missing_or_is_no_text() {
    let folder = Folder::with(&[("caption/1.txt", "A.")]).pictures(&["image/1.jpg", "image/2.jpg"]);
    check(&folder.read("urban1k", ""), "error: caption/2.txt: expected a caption of Urban-1k, it is not there");
    folder.put("caption/2.txt", b"caf\xe9");
    let error = "error: caption/2.txt: expected a caption of Urban-1k, received bytes that are not UTF-8";
    check(&folder.read("urban1k", ""), error);
}

#[test]
fn dci_is_read_in_three_ways_that_differ() {
    let folder = Folder::with(&[
        ("densely_captioned_images/splits.json", r#"{"train": ["b.json", "a.json"], "valid": ["a.json"], "test": ["c.json"]}"#),
        (
            "densely_captioned_images/annotations/a.json",
            r#"{"image": "sa_1.jpg", "short_caption": "A lake. ", "extra_caption": "It is blue.</s>\n Two boats..", "mask_data": {"0": {}}}"#,
        ),
        (
            "densely_captioned_images/annotations/b.json",
            r#"{"image": "sa_2.jpg", "short_caption": "A goat", "extra_caption": ""}"#,
        ),
        (
            "densely_captioned_images/annotations/c.json",
            r#"{"image": "sa_3.jpg", "short_caption": null, "extra_caption": "Only this."}"#,
        ),
        (
            "DCI_test.json",
            r#"[{"filename": "../DCI/some folder/photos/sa_3.jpg", "caption": "GOAL's words."}]"#,
        ),
    ])
    .pictures(&[1, 2, 3].map(|n| format!("densely_captioned_images/photos/sa_{n}.jpg")).each_ref().map(String::as_str));
    let flame = "
        sa_1.jpg = densely_captioned_images/photos/sa_1.jpg
        sa_2.jpg = densely_captioned_images/photos/sa_2.jpg
        sa_3.jpg = densely_captioned_images/photos/sa_3.jpg
        sa_1.jpg#1 [en] \"A lake. It is blue. Two boats\" -> sa_1.jpg
        sa_2.jpg#1 [en] \"A goat\" -> sa_2.jpg
        sa_3.jpg#1 [en] \"Only this\" -> sa_3.jpg
        note: splits.json names 1 annotation files again: each was read once
        note: expected 7,805 pairs as published, found 3 pairs";
    check(&folder.read("dci", ""), flame);
    check(&folder.read("dci", "flame"), flame);
    let long = r#"
        sa_1.jpg = densely_captioned_images/photos/sa_1.jpg
        sa_3.jpg = densely_captioned_images/photos/sa_3.jpg
        sa_1.jpg#1 [en] "It is blue.</s>\n Two boats.." -> sa_1.jpg
        sa_3.jpg#1 [en] "Only this." -> sa_3.jpg
        note: annotations without an extra caption were left out: 1
        note: expected 7,000 to 7,805 pairs as published, found 2 pairs"#;
    check(&folder.read("dci", "long-dci"), long);
    let goal = "
        sa_3.jpg = densely_captioned_images/photos/sa_3.jpg
        sa_3.jpg#1 [en] \"GOAL's words.\" -> sa_3.jpg
        note: expected 1,999 pairs as published, found 1 pair";
    check(&folder.read("dci", "goal"), goal);
    let inside = Options { data: folder.path("densely_captioned_images"), ..Options::default() };
    check(&folder.read_with("dci", &inside), flame);
    folder.put("densely_captioned_images/annotations/c.json", b"{\"short_caption\": 1}");
    let error = folder.read("dci", "");
    let expected = "error: densely_captioned_images/annotations/c.json: expected an annotation of DCI with `image`, \
                    `short_caption` and `extra_caption`, received invalid type: integer `1`";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn docci_keeps_the_splits_of_its_protocol() {
    let row = |split: &str, n: u8, text: &str| {
        format!(
            r#"{{"example_id": "{split}_0000{n}", "split": "{split}", "image_file": "{split}_0000{n}.jpg", "description": "{text}"}}"#
        )
    };
    let rows = [
        row("train", 0, "Never."),
        row("test", 0, "A daisy.\\nIt is tall."),
        String::new(),
        row("qual_test", 0, "Toy horses."),
        row("qual_dev", 0, "Never."),
        row("test", 1, "A daisy.\\nIt is tall."),
    ];
    let folder = Folder::with(&[("docci_descriptions.jsonlines", &rows.join("\n"))]).pictures(&[
        "images/test_00000.jpg",
        "images/test_00001.jpg",
        "images/qual_test_00000.jpg",
    ]);
    let test = "
        test_00000.jpg = images/test_00000.jpg
        test_00001.jpg = images/test_00001.jpg
        test_00000.jpg#1 [en] \"A daisy. It is tall.\" -> test_00000.jpg
        test_00001.jpg#1 [en] \"A daisy. It is tall.\" -> test_00001.jpg
        note: expected 5,000 pairs as published, found 2 pairs
        note: 1 text belongs to several documents: only the one it was given for is right";
    check(&folder.read("docci", ""), test);
    assert!(folder.read("docci", "test-and-qual").contains("qual_test_00000.jpg#1 [en] \"Toy horses.\""));
    folder.put(
        "docci_test.json",
        br#"[{"filename": "change/me/images/qual_test_00000.jpg", "caption": "Toys."},
             {"filename": "change\\me\\images\\test_00001.jpg", "caption": "A daisy."}]"#,
    );
    let goal = Options { data: folder.path("docci_test.json"), ..folder.options("test-and-qual") };
    let expected = "
        qual_test_00000.jpg = images/qual_test_00000.jpg
        test_00001.jpg = images/test_00001.jpg
        qual_test_00000.jpg#1 [en] \"Toys.\" -> qual_test_00000.jpg
        test_00001.jpg#1 [en] \"A daisy.\" -> test_00001.jpg
        note: expected 5,100 pairs as published, found 2 pairs";
    check(&folder.read_with("docci", &goal), expected);
    let goal = Options { protocol: None, ..goal };
    assert!(!folder.read_with("docci", &goal).contains("qual_test_00000.jpg"));
}

#[test]
fn docci_names_the_line_that_is_odd() {
    let folder = Folder::with(&[(
        "docci_descriptions.jsonlines",
        "{\"split\": \"train\", \"image_file\": \"a\", \"description\": \"\"}\n{\"split\": \"test\"}\n",
    )]);
    let error = "error: docci_descriptions.jsonlines: expected a line of DOCCI's descriptions with `split`, `image_file` \
                 and `description`, received line 2: missing field `image_file`";
    check(&folder.read("docci", ""), error);
    folder.put("docci_descriptions.jsonlines", b"");
    let error = "error: docci_descriptions.jsonlines: expected documents and texts, received 0 documents with no text";
    check(&folder.read("docci", ""), error);
}

#[test]
fn sharegpt4v_stops_after_the_entries_of_its_protocol() {
    let entry = |n: usize| {
        format!(
            r#"{{"id": "{n}", "image": "sam/images/sa_{n}.jpg", "conversations": [{{"from": "human", "value": "Say."}}, {{"from": "gpt", "value": "Picture {n}.\n\nIts words."}}]}}"#
        )
    };
    let mut entries: Vec<String> = (0..1_000).map(entry).collect();
    let file = "share-captioner_coco_lcs_sam_1246k_1107.json";
    let folder = Folder::with(&[]);
    (0..1_000).for_each(|n| folder.put(&format!("data/sam/images/sa_{n}.jpg"), b""));
    // What comes after them is not even JSON.
    folder.put(file, format!("[{}, nonsense", entries.join(",\n")).as_bytes());
    let dataset = ask("sharegpt4v", &folder.options("")).unwrap();
    assert_eq!((dataset.documents.len(), dataset.queries.len(), dataset.notes.len()), (1_000, 1_000, 0));
    assert_eq!(dataset.documents[7].id, "sam/images/sa_7.jpg");
    assert_eq!(dataset.queries[7].text, "Picture 7.  Its words.");
    let error = folder.read("sharegpt4v", "10k");
    assert!(error.contains("received expected"), "{error}");
    // A shorter file, one picture twice, one entry without an answer.
    entries.truncate(2);
    entries.push(entry(1));
    folder.put(file, format!("[{}]", entries.join(",")).as_bytes());
    let expected = r#"
        sam/images/sa_0.jpg = data/sam/images/sa_0.jpg
        sam/images/sa_1.jpg = data/sam/images/sa_1.jpg
        sam/images/sa_0.jpg#1 [en] "Picture 0.  Its words." -> sam/images/sa_0.jpg
        sam/images/sa_1.jpg#1 [en] "Picture 1.  Its words." -> sam/images/sa_1.jpg
        sam/images/sa_1.jpg#2 [en] "Picture 1.  Its words." -> sam/images/sa_1.jpg
        note: expected 1,000 pairs as published, found 2 pictures and 3 texts
        note: named more than once, and read as one with all its texts: sam/images/sa_1.jpg"#;
    check(&folder.read("sharegpt4v", ""), expected);
    folder.put(file, br#"[{"image": "a.jpg", "conversations": [{"value": "?"}]}]"#);
    let error = folder.read("sharegpt4v", "");
    assert!(error.contains("received entry 1: only 1 conversations"), "{error}");
}

#[test]
fn sharegpt4v_is_found_as_it_is_put_by_its_repository_and_by_lotlip() {
    let entry = r#"{"image": "IMAGE", "conversations": [{"value": "?"}, {"value": "Words."}]}"#;
    let texts = |image: &str| format!("[{}]", entry.replace("IMAGE", image));
    let file = "share-captioner_coco_lcs_sam_1246k_1107.json";
    let picture = |data: &str, images: &str, file: &str, image: &str, picture: &str| {
        let folder = Folder::with(&[(file, &texts(image))]).pictures(&[picture]);
        let images = (!images.is_empty()).then(|| folder.path(images));
        let options = Options { data: folder.path(data), images, ..Options::default() };
        let shown = folder.read_with("sharegpt4v", &options);
        let found = shown.lines().next().unwrap().split(" = ").nth(1).unwrap_or_else(|| panic!("{shown}")).to_owned();
        let found = std::fs::canonicalize(folder.path(&found)).unwrap();
        assert_eq!(found, std::fs::canonicalize(folder.path(picture)).unwrap());
    };
    let (image, of_repository) = ("sam/images/sa_1.jpg", format!("data/sharegpt4v/{file}"));
    for data in ["", "data", &of_repository] {
        picture(data, "", &of_repository, image, "data/sam/images/sa_1.jpg");
    }
    picture("", "data/sam", &of_repository, image, "data/sam/images/sa_1.jpg");
    picture("", "", file, image, "sam/images/sa_1.jpg");
    picture("data", "", &format!("data/{file}"), image, "data/sam/images/sa_1.jpg");
    // A folder for each archive of SA-1B, named by the entry or not.
    picture("", "", file, image, "sa_000050/images/sa_1.jpg");
    picture("", "", file, image, "data/sam/sa_000007/sa_1.jpg");
    picture("", "SA-1B", file, image, "SA-1B/sa_000007/images/sa_1.jpg");
    let of_lotlip = "sa_000000/images/sa_1.jpg";
    picture("", "SA-1B", "dataloaders/share4v/share4v_sam_10k.json", of_lotlip, "SA-1B/sa_000000/images/sa_1.jpg");
    picture("", "", "share4v_sam_10k.json", of_lotlip, "data/sam/images/sa_1.jpg");
}

fn iiw() -> Folder {
    Folder::with(&[
        (
            "datasets/DCI_TEST/data.jsonl",
            r#"{"IIW": "A plaza.\n\nIt is cold.", "ex_id": "1-data.json", "image": "sa_1.jpg"}"#,
        ),
        (
            "datasets/DOCCI_Test/data.jsonl",
            r#"{"DOCCI": "A toilet.", "IIW": "A white toilet.", "image": "test_00731"}"#,
        ),
        (
            "datasets/IIW-400/data.jsonl",
            r#"{"IIW": "A thistle. ", "IIW-P5B": "A bee.", "image/key": "aar_test_04600", "objects": [{"description": "Blue flowers.", "label": "Flowers"}, {"description": "A sky.", "label": "Sky"}]}"#,
        ),
    ])
}

#[test]
fn iiw_reads_its_parts_with_the_pictures_of_dci_and_docci() {
    let folder = iiw().pictures(&["dci/sa_1.jpg", "images/test_00731.jpg", "images_aar/aar_train_04600.jpg"]);
    let images = Options { images: Some(folder.path("")), ..folder.options("all") };
    let expected = "
        sa_1.jpg = dci/sa_1.jpg
        test_00731 = images/test_00731.jpg
        aar_test_04600 = images_aar/aar_train_04600.jpg
        sa_1.jpg#1 [en] \"A plaza. It is cold\" -> sa_1.jpg
        test_00731#1 [en] \"A white toilet\" -> test_00731
        aar_test_04600#1 [en] \"A thistle\" -> aar_test_04600
        note: pictures found as aar_train_ instead of aar_test_, as LoTLIP does: 1
        note: expected 612 pairs as published, found 3 pairs";
    check(&folder.read_with("iiw", &images), expected);
    check(&folder.read("iiw", ""), expected);
    for (protocol, id, n) in
        [("dci-test", "sa_1.jpg", 112), ("docci-test", "test_00731", 100), ("iiw-400", "aar_test_04600", 400)]
    {
        let shown = folder.read("iiw", protocol);
        assert!(
            shown.starts_with(id) && shown.contains(&format!("expected {n} pairs as published, found 1 pair")),
            "{shown}"
        );
    }
    std::fs::remove_file(folder.path("dci/sa_1.jpg")).unwrap();
    let error = "error: dci/sa_1.jpg: expected a picture, the only one of 3 that is missing, it is not there";
    check(&folder.read("iiw", ""), error);
}

#[test]
fn iiw_texts_look_for_texts() {
    let objects = r#"
        sa_1.jpg : A plaza.

        It is cold.
        test_00731 : A white toilet.
        aar_test_04600 : A thistle.
        aar_test_04600#1 [en] "Blue flowers." -> aar_test_04600
        aar_test_04600#2 [en] "A sky." -> aar_test_04600
        note: no text looks for sa_1.jpg and 1 more"#;
    check(&iiw().read("iiw-text", "").replace("\n\n", "\n").replace(" \n", "\n"), objects);
    let others = iiw().read("iiw-text", "others");
    assert!(others.contains(r#"test_00731#1 [en] "A toilet." -> test_00731"#), "{others}");
    assert!(others.contains(r#"aar_test_04600#1 [en] "A bee." -> aar_test_04600"#), "{others}");
}

#[test]
fn iiw_texts_of_the_measured_data() {
    let Some(data) = shared("iiw_text") else { return };
    for (protocol, n_queries, n_notes) in [("objects", 964, 2), ("others", 96, 1)] {
        let options = Options { data: data.clone(), protocol: Some(protocol.to_owned()), ..Options::default() };
        let dataset = ask("iiw-text", &options).unwrap();
        assert_eq!((dataset.documents.len(), dataset.queries.len()), (301, n_queries));
        assert_eq!(dataset.notes.len(), n_notes, "{:?}", dataset.notes);
    }
}
