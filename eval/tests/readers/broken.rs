//! Files that were damaged: whatever is in them, a reader answers.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use firn_eval::readers::data_sets;

use crate::{Folder, ask};

const SEED: u64 = 20;

const OWN: &str = "own.jsonl";
/// A file for each layout, each of which is read if nothing is damaged.
const FILES: [(&str, &str); 15] = [
    ("caption/1.txt", "A street.\n"),
    ("densely_captioned_images/splits.json", r#"{"test": ["a.json"]}"#),
    (
        "densely_captioned_images/annotations/a.json",
        r#"{"image": "1.jpg", "short_caption": "A lake.", "extra_caption": "It is blue."}"#,
    ),
    ("DCI_test.json", r#"[{"filename": "x/1.jpg", "caption": "GOAL's words."}]"#),
    ("docci_descriptions.jsonlines", r#"{"split": "test", "image_file": "1.jpg", "description": "A daisy."}"#),
    (
        "share-captioner_coco_lcs_sam_1246k_1107.json",
        r#"[{"image": "1.jpg", "conversations": [{"value": "?"}, {"value": "Words."}]}]"#,
    ),
    ("DCI_Test/data.jsonl", r#"{"IIW": "A plaza.", "image": "1.jpg"}"#),
    ("DOCCI_Test/data.jsonl", r#"{"IIW": "A toilet.", "DOCCI": "White.", "image": "1"}"#),
    ("IIW-400/data.jsonl", r#"{"IIW": "A thistle.", "image/key": "1", "objects": [{"description": "A bee."}]}"#),
    (
        "dataset_flickr30k.json",
        r#"{"images": [{"filename": "1.jpg", "split": "test", "sentences": [{"raw": "Men."}]}]}"#,
    ),
    ("flickr30k_test_karpathy.txt", "image,caption\n1.jpg,Two men.\n"),
    (
        "dataset_coco.json",
        r#"{"images": [{"filename": "1.jpg", "filepath": ".", "split": "test", "sentences": [{"raw": "Men."}]}]}"#,
    ),
    (
        "coco_test_karpathy.json",
        r#"{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "Men."}]}"#,
    ),
    ("captions.jsonl", r#"{"image/key": "1", "de": {"caption": ["Haus."]}, "image/locale": "de"}"#),
    (OWN, r#"{"id": 1, "image": "1.jpg", "texts": ["A.", {"text": "B.", "language": "en"}], "split": "val"}"#),
];

#[test]
fn damaged_files_are_answered() {
    println!("seed {SEED}");
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let folder = Folder::with(&FILES).pictures(&["image/1.jpg", "1.jpg", "densely_captioned_images/photos/1.jpg"]);
    let mut n_read = 0;
    for round in 0..60 {
        for (name, text) in FILES {
            let mut bytes = text.as_bytes().to_vec();
            if round > 0 {
                damage(&mut bytes, &mut random);
            }
            folder.put(name, &bytes);
        }
        for data_set in data_sets() {
            for protocol in data_set.protocols {
                let mut options = folder.options(protocol.name);
                if data_set.name == "jsonl" {
                    options.data = folder.path(OWN);
                }
                let answer = ask(data_set.name, &options);
                n_read += usize::from(answer.is_ok());
                assert!(round > 0 || answer.is_ok(), "{answer:?}");
            }
        }
    }
    assert!(n_read > 60, "most damaged files should not be refused outright: {n_read}");
}

fn damage(bytes: &mut Vec<u8>, random: &mut ChaCha8Rng) {
    let place = random.random_range(0..bytes.len());
    match random.random_range(0..5) {
        0 => bytes.truncate(place),
        1 => bytes[place] = random.random(),
        2 => drop(bytes.remove(place)),
        3 => bytes.extend_from_within(place..),
        _ => bytes
            .splice(place..place, [b"[", b"{", b"\"", b"\n", b"9", b"\xff"][random.random_range(0..6)].iter().copied())
            .for_each(drop),
    }
}

#[test]
fn deep_nesting_is_an_error() {
    let folder = Folder::with(&[("rows.jsonl", &"[".repeat(200_000))]);
    let answer = ask("jsonl", &folder.options(""));
    assert!(answer.is_err());
    folder.put("rows.jsonl", format!("{{\"id\": 1, \"other\": {}", "[".repeat(200_000)).as_bytes());
    assert!(ask("jsonl", &folder.options("")).is_err());
}
