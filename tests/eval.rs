//! `firn eval` as a researcher runs it.

mod common;

use std::path::Path;

use common::{Scratch, json};
use firn_model::{Device, Keep, picture, scenes};
use serde_json::{Value, json as value};

fn npy(dim: usize, rows: &[Vec<f32>]) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {dim}), }}\n", rows.len());
    let length = (header.len() as u16).to_le_bytes();
    let numbers: Vec<u8> = rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &numbers].concat()
}

/// All questions of one direction, single or joined.
fn group<'a>(results: &'a Value, direction: &str, is_joined: bool) -> &'a Value {
    let is = |group: &&Value| {
        group["direction"] == direction
            && group["is_joined"] == is_joined
            && group["language"] == ""
            && group["length"].is_null()
    };
    results["groups"].as_array().unwrap().iter().find(is).unwrap_or_else(|| panic!("no group {direction}"))
}

fn measured(group: &Value, method: usize) -> [f64; 5] {
    let of = &group["methods"][method];
    ["at_1", "at_5", "at_10", "mrr", "ndcg"].map(|name| of[name]["value"].as_f64().unwrap())
}

fn assert_near(received: &[f64], expected: &[f64]) {
    let far = received.iter().zip(expected).any(|(a, b)| (a - b).abs() > 1e-6);
    assert!(!far && received.len() == expected.len(), "{received:?}, expected {expected:?}");
}

/// Vectors in a plane: documents a to d in the directions of a compass, texts near them or not.
fn compass() -> Scratch {
    let scratch = Scratch::new();
    let at = |degrees: f32| vec![degrees.to_radians().cos(), degrees.to_radians().sin()];
    let rows = [
        value!({"id": "a", "image": "a.jpg", "texts": [{"text": "first of a", "language": "en"}, {"text": "second of a", "language": "en"}]}),
        value!({"id": "b ü", "image": "b.jpg", "texts": [{"text": "erster von b", "language": "de"}]}),
        value!({"id": "c", "image": "c.jpg", "texts": [{"text": "first of c", "language": "en"}]}),
        value!({"id": "d", "image": "d.jpg", "texts": []}),
    ];
    scratch.write("own.jsonl", rows.map(|row| row.to_string()).join("\n"));
    scratch.write("documents.npy", npy(2, &[at(0.0), at(90.0), at(180.0), at(270.0)]));
    scratch.write("documents.ids.txt", "a\nb ü\nc\nd");
    // The first of a stands before a; its second before d, then a. That of b is nearest to a, then b. That of c is opposite: d, a, b... is
    // last.
    scratch.write("queries.npy", npy(2, &[at(10.0), at(-50.0), at(44.0), at(1.0)]));
    scratch.write("queries.ids.txt", "a#en#1\na#en#2\nb ü#de#1\nc#en#1");
    scratch
}

const COMPASS: [&str; 9] = [
    "eval",
    "jsonl",
    "--data",
    "own.jsonl",
    "--document-vectors",
    "documents.npy",
    "--query-vectors",
    "queries.npy",
    "--json",
];

#[test]
fn figures_are_those_worked_out_by_hand() {
    let scratch = compass();
    let results = json(&scratch.ok(&[&COMPASS[..], &["--trec"]].concat()));
    assert_eq!((&results["n_documents"], &results["n_queries"]), (&4.into(), &4.into()));
    // Ranks of the four texts: 1, 2, 2, 4.
    let log = |place: f64| 1.0 / (place + 1.0).log2();
    let there = group(&results, "to_document", false);
    let expected = [0.25, 1.0, 1.0, (1.0 + 0.5 + 0.5 + 0.25) / 4.0, (1.0 + 2.0 * log(2.0) + log(4.0)) / 4.0];
    assert_near(&measured(there, 0), &expected);
    // The index finds the same, and no gain is one.
    assert_near(&measured(there, 1), &expected);
    assert_eq!(there["gains"][1]["difference"], 0.0);
    // Texts of a language: a looks among three English ones and finds c's first, then its own two; c finds its own last. b has the only
    // German one.
    let back = group(&results, "to_query", false);
    assert_eq!(back["n_questions"], 3);
    let of_a = (log(2.0) + log(3.0)) / (log(1.0) + log(2.0));
    assert_near(
        &measured(back, 0),
        &[1.0 / 3.0, 1.0, 1.0, (0.5 + 1.0 / 3.0 + 1.0) / 3.0, (of_a + log(3.0) + 1.0) / 3.0],
    );

    // Other tools read the same from the TREC files.
    let folder = "firn-eval/jsonl-rows-vectors/trec";
    let files = [format!("{folder}/qrels.to_document.txt"), format!("{folder}/run.to_document.exact.txt")];
    let printed = scratch.ok(&["eval", "trec", &files[0], &files[1]]);
    let of = |name: &str| -> f64 {
        let line = printed.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in {printed}")).split_whitespace().last().unwrap().parse().unwrap()
    };
    let expected = [expected[0], expected[3], expected[4]].map(|x| (x * 1e4).round() / 1e4);
    assert_near(&["success_1", "recip_rank", "ndcg_cut_10"].map(of), &expected);

    // Judged anew, with grades: for the first of a, c would be best, then a.
    scratch.write("graded.txt", "a#en#1 0 c 3\na#en#1 0 a 1\na#en#1 0 d 0\n");
    let graded = json(&scratch.ok(&[&COMPASS[..], &["--qrels", "graded.txt", "--out", "graded"]].concat()));
    let there = group(&graded, "to_document", false);
    // It finds a, b, d, c.
    assert_near(&measured(there, 0), &[1.0, 1.0, 1.0, 1.0, (1.0 + 3.0 * log(4.0)) / (3.0 + log(2.0))]);
    scratch.write("graded.txt", "a#en#1 0 nobody 1\n");
    scratch.fails(2, &[&COMPASS[..], &["--qrels", "graded.txt"]].concat(), "\"nobody\"");

    // What is there is not written again, and a second run says the same of every question.
    let questions =
        |folder: &str| std::fs::read_to_string(scratch.path().join(folder).join("questions.jsonl")).unwrap();
    scratch.ok(&[&COMPASS[..], &["--out", "again"]].concat());
    assert_eq!(questions("again"), questions("firn-eval/jsonl-rows-vectors"));
    let compared = scratch.ok(&["eval", "compare", "again", "firn-eval/jsonl-rows-vectors"]);
    assert!(compared.contains("25.0 ±"), "{compared}");
    for file in ["report.md", "report.html", "results.json"] {
        assert!(scratch.path().join("again").join(file).is_file(), "{file}");
    }
    // With all texts of a document in one, only a has several; other questions are other runs.
    scratch.fails(2, &["eval", "compare", "again", "again", "--method", "nonsense"], "exact, hnsw");
}

#[test]
fn what_cannot_be_run_is_said() {
    let scratch = compass();
    scratch.fails(2, &["eval", "nonsense", "--data", "."], "jsonl, collection, all");
    scratch.write("texts.jsonl", r#"{"id": "a", "document": "a long text", "text": "a text"}"#);
    let of_texts = ["eval", "jsonl", "--data", "texts.jsonl"];
    scratch.fails(2, &[&of_texts[..], &["--reranker", "builtin"]].concat(), "here texts are looked for");
    assert!(scratch.ok(&of_texts).contains("100.0 ± -"), "one document says nothing of an error");
    scratch.fails(2, &["eval", "urban1k"], "expected --data");
    scratch.fails(2, &["eval", "urban1k", "--data", "."], "caption");
    scratch.fails(2, &["eval", "urban1k", "--data", ".", "--protocol", "other"], "first-line");
    scratch.fails(2, &["eval", "jsonl", "--data", "own.jsonl"], "a.jpg");
    scratch.fails(2, &["eval", "all", "--data", "."], "expected a folder named");
    scratch.fails(2, &["eval", "all", "--data", ".", "--protocol", "flame"], "--protocol is of one data set");
    scratch.fails(2, &["eval", "collection"], "--collection");
    scratch.fails(2, &["eval", "compare", "nowhere", "nowhere"], "results.json");
    scratch.fails(2, &["eval", "trec", "own.jsonl", "own.jsonl"], "line 1");
    scratch.write("queries.ids.txt", "a#en#1\na#en#2\nx\nc#en#1");
    scratch.fails(2, &COMPASS, "\"b ü#de#1\"");
    let listed = scratch.ok(&["eval", "list"]);
    assert!(listed.contains("urban1k") && listed.contains("goal"), "{listed}");
}

/// Pictures through the builtin model: what the database finds is what its embeddings say, and a blank first line is told of.
#[test]
fn a_published_layout_is_embedded_and_asked() {
    let scratch = Scratch::new();
    let n = 12;
    let scenes: Vec<_> = (0..n).map(|at| scenes::family(5, at, false)[0].clone()).collect();
    let texts: Vec<String> = scenes.iter().map(|scene| scene.relation("en", 0)).collect();
    for (at, (scene, text)) in scenes.iter().zip(&texts).enumerate() {
        let mut jpeg = std::io::Cursor::new(Vec::new());
        scene.draw(72).write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
        scratch.write(&format!("Urban1k/image/{}.jpg", at + 1), jpeg.into_inner());
        let blank = if at == 3 { "\n" } else { "" };
        scratch.write(&format!("Urban1k/caption/{}.txt", at + 1), format!("{blank}{text}\nanother line\n"));
    }
    let results = json(&scratch.ok(&["eval", "urban1k", "--data", "Urban1k", "--json"]));
    let notes = results["notes"].to_string();
    assert!(notes.contains("4.txt") && notes.contains("1,000"), "{notes}");

    // The slow way.
    let encoder = firn_model::load("builtin", Device::Cpu).unwrap();
    let pixels = |at: usize| {
        let bytes = std::fs::read(scratch.path().join(format!("Urban1k/image/{}.jpg", at + 1))).unwrap();
        encoder.preprocess(&picture::decode(&bytes).unwrap().rgb).unwrap()
    };
    let images = encoder.embed_images(&(0..n as usize).map(pixels).collect::<Vec<_>>(), Keep::Nothing).unwrap();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let texts = encoder.embed_texts(&texts, Keep::Nothing).unwrap();
    let cosine = |text: usize, image: usize| -> f32 {
        texts[text].embedding.iter().zip(&images[image].embedding).map(|(x, y)| x * y).sum()
    };
    let rank = |text: usize| 1 + (0..n as usize).filter(|&image| cosine(text, image) > cosine(text, text)).count();
    let ranks: Vec<usize> = (0..n as usize).map(rank).collect();
    let share = |cut: usize| ranks.iter().filter(|&&rank| rank <= cut).count() as f64 / n as f64;
    let mrr = ranks.iter().map(|&rank| 1.0 / rank as f64).sum::<f64>() / n as f64;
    let there = group(&results, "to_document", false);
    assert_near(&measured(there, 0)[..4], &[share(1), share(5), share(10), mrr]);

    // What was embedded once is known: in the next run, elsewhere, in another order, and beside what is new.
    let embedded = |results: &serde_json::Value| results["stages"][0]["n"].as_u64().unwrap();
    assert_eq!(embedded(&results), 24);
    assert_eq!(embedded(&json(&scratch.ok(&["eval", "urban1k", "--data", "Urban1k", "--json"]))), 0);
    for at in 0..12 {
        let from = |kind: &str, of: usize| scratch.path().join(format!("Urban1k/{kind}")).join(of.to_string());
        for (kind, extension) in [("image", "jpg"), ("caption", "txt")] {
            let bytes = std::fs::read(from(kind, at + 1).with_extension(extension)).unwrap();
            scratch.write(&format!("other/{kind}/{}.{extension}", 12 - at), bytes);
        }
    }
    scratch.write("other/caption/5.txt", "nothing of the kind\n");
    let moved = json(&scratch.ok(&["eval", "urban1k", "--data", "other", "--out", "moved", "--json"]));
    assert_eq!(embedded(&moved), 1);
    let (here, there) = (group(&results, "to_document", false), group(&moved, "to_document", false));
    assert!((measured(here, 0)[2] - measured(there, 0)[2]).abs() <= 1.0 / 12.0 + 1e-9);

    // Other tools read of every method what the report says.
    let asked =
        ["eval", "urban1k", "--data", "Urban1k", "--reranker", "builtin", "--candidates", "3,8", "--trec", "--json"];
    let results = json(&scratch.ok(&asked));
    let folder = "firn-eval/urban1k-first-line-builtin-builtin/trec";
    for direction in ["to_document", "to_query"] {
        for (at, method) in ["exact", "hnsw", "rerank@3", "rerank@8"].iter().enumerate() {
            let files = [format!("{folder}/qrels.{direction}.txt"), format!("{folder}/run.{direction}.{method}.txt")];
            let read = json(&scratch.ok(&["eval", "trec", &files[0], &files[1], "--json"]));
            let expected = measured(group(&results, direction, false), at);
            let of = |name: &str| read["all"][name].as_f64().unwrap();
            assert_near(
                &[of("success_1"), of("success_5"), of("recip_rank")],
                &[expected[0], expected[1], expected[3]],
            );
        }
    }

    // One picture that cannot be read ends the run, and names it.
    scratch.write("Urban1k/image/7.jpg", "no picture");
    scratch.fails(1, &["eval", "urban1k", "--data", "Urban1k", "--json"], "7.jpg");
}

/// Texts among texts: words are asked for too.
#[test]
fn words_find_what_was_worked_out_by_hand() {
    let scratch = Scratch::new();
    let rows = [
        value!({ "id": "a", "document": "red kite beach", "text": "the KITE" }),
        value!({ "id": "b", "document": "blue ball on grass", "text": "nowhere" }),
        value!({ "id": "c", "document": "red ball beach", "text": "beach, red" }),
    ];
    scratch.write("texts.jsonl", rows.map(|row| row.to_string()).join("\n"));
    let results = json(&scratch.ok(&["eval", "jsonl", "--data", "texts.jsonl", "--json"]));
    assert_eq!(results["methods"], value!(["exact", "hnsw", "words", "hybrid-ranks", "hybrid-scores"]));
    // a is found alone; a and c have both words, and as many; nothing has the last.
    let there = group(&results, "to_document", false);
    assert_near(&measured(there, 2)[..4], &[1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0, 1.5 / 3.0]);
    // Long texts look for short ones: a shares two words with c's and one with its own, c two with its own, b none.
    let back = group(&results, "to_query", false);
    assert_near(&measured(back, 2)[..4], &[1.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0, 1.5 / 3.0]);
}

/// Real vectors of CLIP ViT-B/32: figures that were computed elsewhere.
#[test]
fn figures_of_clip_are_those_computed_elsewhere() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/clip_vitb32_vectors");
    let Ok(about) = std::fs::read_to_string(folder.join("flickr8k.json")) else {
        println!("skipped: {} is not there", folder.display());
        return;
    };
    let scratch = Scratch::new();
    let about = json(&about);
    let ids: Vec<&str> = about["image_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    let (mut texts, mut query_ids) = (std::collections::BTreeMap::<&str, Vec<&str>>::new(), Vec::new());
    for text in about["texts"].as_array().unwrap() {
        let of = texts.entry(text["image_id"].as_str().unwrap()).or_default();
        of.push(text["text"].as_str().unwrap());
        query_ids.push(format!("{}#{}", text["image_id"].as_str().unwrap(), of.len()));
    }
    let row = |id: &&str| {
        let texts = texts.get(id).cloned().unwrap_or_default();
        value!({ "id": id, "image": format!("{id}.jpg"), "texts": texts }).to_string()
    };
    scratch.write("clip.jsonl", ids.iter().map(row).collect::<Vec<_>>().join("\n"));
    for (name, file, ids) in [
        ("images", "flickr8k_image_vectors_f16.npy", ids.join("\n")),
        ("texts", "flickr8k_text_vectors_f16.npy", query_ids.join("\n")),
    ] {
        scratch.write(&format!("{name}.npy"), std::fs::read(folder.join(file)).unwrap());
        scratch.write(&format!("{name}.ids.txt"), ids);
    }
    let vectors = ["--document-vectors", "images.npy", "--query-vectors", "texts.npy", "--json"];
    let results = json(&scratch.ok(&[&["eval", "jsonl", "--data", "clip.jsonl"][..], &vectors].concat()));
    let there = group(&results, "to_document", false);
    let exact = measured(there, 0);
    for (received, expected) in exact.iter().zip([0.574, 0.877, 0.932]) {
        assert!((received - expected).abs() < 0.0005, "{exact:?}");
    }
    for (by_index, exact) in measured(there, 1).iter().zip(exact) {
        assert!((by_index - exact).abs() <= 0.002, "{by_index} {exact}");
    }
}
