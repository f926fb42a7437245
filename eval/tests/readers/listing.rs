//! What there is to choose from, and what a wrong choice is told.

use std::{collections::BTreeSet, fs};

use firn_eval::readers::{data_sets, find_in, unknown_in};

use crate::{Folder, check};

#[test]
fn every_data_set_and_protocol_has_a_name_of_its_own_and_a_line() {
    let names: Vec<&str> = data_sets().iter().map(|data_set| data_set.name).collect();
    assert_eq!(names.join(" "), "urban1k dci docci sharegpt4v iiw iiw-text flickr30k coco xm3600 jsonl");
    for data_set in data_sets() {
        let protocols: BTreeSet<&str> = data_set.protocols.iter().map(|protocol| protocol.name).collect();
        assert_eq!(protocols.len(), data_set.protocols.len(), "{}", data_set.name);
        let lines = data_set.protocols.iter().map(|protocol| protocol.about).chain([data_set.about]);
        lines.for_each(|line| assert!(!line.is_empty() && !line.contains('\n') && !line.ends_with('.'), "{line}"));
    }
}

#[test]
fn a_wrong_choice_is_told_what_there_is() {
    let folder = Folder::with(&[]);
    let names = "urban1k, dci, docci, sharegpt4v, iiw, iiw-text, flickr30k, coco, xm3600, jsonl";
    check(&folder.read("urban2k", ""), &format!("error: data set: expected one of {names}, received urban2k"));
    check(&folder.read("dci", "goals"), "error: protocol: expected one of flame, long-dci, goal, received goals");
}

#[test]
fn data_sets_are_found_by_their_folders() {
    let folder = Folder::with(&[("coco", "a file"), ("docci/x", ""), ("other/x", ""), ("urban1k/x", "")]);
    fs::create_dir(folder.path("jsonl")).unwrap();
    let found = find_in(&folder.path("")).unwrap();
    let expected = ["urban1k", "docci", "jsonl"].map(|name| (name, folder.path(name)));
    assert_eq!(found, expected);
    assert_eq!(unknown_in(&folder.path("")).unwrap(), ["other"]);
    let error = find_in(&folder.path("nowhere")).unwrap_err().to_string();
    assert!(error.ends_with("nowhere: expected a folder with data sets, it is not there"), "{error}");
}

#[test]
fn folders_are_found_however_their_names_are_spelt() {
    let names = ["DCI", "Urban-1k", "Urban1K", "docci", "DOCCI_old", "IIW_Text", "Crossmodal-3600", ".coco", "MS-COCO"];
    let folder = Folder::with(&[]);
    names.iter().for_each(|name| folder.put(&format!("{name}/x"), b""));
    let found = find_in(&folder.path("")).unwrap();
    let expected = [
        ("urban1k", "Urban-1k"),
        ("dci", "DCI"),
        ("docci", "docci"),
        ("iiw-text", "IIW_Text"),
        ("coco", "MS-COCO"),
        ("xm3600", "Crossmodal-3600"),
    ];
    assert_eq!(found, expected.map(|(name, path)| (name, folder.path(path))));
    assert_eq!(unknown_in(&folder.path("")).unwrap(), ["DOCCI_old", "Urban1K"]);
    // A folder of just the name is before others.
    folder.put("urban1k/x", b"");
    assert_eq!(find_in(&folder.path("")).unwrap()[0].1, folder.path("urban1k"));
    assert_eq!(unknown_in(&folder.path("")).unwrap(), ["DOCCI_old", "Urban-1k", "Urban1K"]);
}

#[test]
fn protocols_name_their_files() {
    for (name, file) in [
        ("docci", "docci_descriptions.jsonlines"),
        ("iiw", "data.jsonl"),
        ("flickr30k", "flickr30k"),
        ("coco", "coco"),
        ("xm3600", "captions.jsonl"),
    ] {
        let data_set = data_sets().iter().find(|data_set| data_set.name == name).unwrap();
        data_set.protocols.iter().for_each(|protocol| assert!(protocol.about.contains(file), "{}", protocol.about));
    }
}

#[test]
fn a_folder_without_the_files_is_told_which_is_expected() {
    let folder = Folder::with(&[("x", "")]);
    for (name, protocol, expected) in [
        ("urban1k", "", "caption: expected the folder of Urban-1k's captions"),
        ("dci", "", "densely_captioned_images/annotations: expected the folder of DCI's annotations"),
        ("dci", "goal", "DCI_test.json: expected GOAL's test set of DCI"),
        ("docci", "", "docci_descriptions.jsonlines: expected the descriptions of DOCCI"),
        (
            "sharegpt4v",
            "",
            "share-captioner_coco_lcs_sam_1246k_1107.json: expected ShareGPT4V's list of `image` and `conversations`, \
             the second of which is the caption",
        ),
        ("iiw", "", "DCI_Test/data.jsonl: expected the lines of DCI_Test"),
        ("iiw-text", "", "iiw.jsonl: expected the lines of ImageInWords, here or in DCI_Test, DOCCI_Test, IIW-400"),
        (
            "flickr30k",
            "",
            "dataset_flickr30k.json: expected Karpathy's list of `images` with `filename`, `split` and `sentences`",
        ),
        ("flickr30k", "clip-benchmark", "flickr30k_test_karpathy.txt: expected CLIP_benchmark's captions of Flickr30k"),
        (
            "coco",
            "",
            "dataset_coco.json: expected Karpathy's list of `images` with `filename`, `split` and `sentences`",
        ),
        ("coco", "clip-benchmark", "coco_test_karpathy.json: expected CLIP_benchmark's captions of COCO"),
        ("xm3600", "", "captions.jsonl: expected the captions of Crossmodal-3600"),
        ("jsonl", "", "*.jsonl: expected one file of JSON lines (.jsonl or .jsonl.gz)"),
    ] {
        check(&folder.read(name, protocol), &format!("error: {expected}, it is not there"));
    }
}
