//! `firn train`: one side against the other, as a user runs it, and what is refused.

mod common;
mod serving;

use common::{Scratch, json};

/// Eight images that another encoder embedded, of which two are held out, with captions in two languages.
fn scratch_with_frozen_images() -> Scratch {
    let scratch = Scratch::new();
    let header = "{'descr': '|i1', 'fortran_order': False, 'shape': (8, 4), }\n";
    let numbers: Vec<u8> = (0..32u8).map(|i| i.wrapping_mul(37)).collect();
    let length = (header.len() as u16).to_le_bytes();
    scratch.write("x.npy", [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &numbers].concat());
    scratch.write("x.ids.json", r#"{"ids": ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"]}"#);
    let row = |i: usize| {
        let split = if i < 6 { "train" } else { "val" };
        let captions = serde_json::json!([{ "lang": "en", "text": format!("number {i}") }, { "lang": "de", "text": format!("Zahl {i}") }]);
        serde_json::json!({ "id": format!("p{i}"), "split": split, "captions": captions }).to_string()
    };
    scratch.write("c.jsonl", (0..8).map(row).collect::<Vec<_>>().join("\n"));
    scratch
}

#[test]
fn a_text_tower_learns_against_frozen_images_is_stopped_and_goes_on() {
    let scratch = scratch_with_frozen_images();
    let align = |out: &'static str, more: &[&'static str]| {
        let start = ["train", "align", "--frozen", "image", "--embeddings", "x.npy", "--captions", "c.jsonl"];
        let sizes = ["--steps", "4", "--table-rows", "64", "--plain-dim", "8", "--text-dim", "8", "--dim", "8"];
        scratch.ok(&[&start[..], &sizes, &["--out", out], more].concat());
        std::fs::read(scratch.path().join(out).join("aligned.safetensors")).unwrap()
    };
    let straight = align("a", &[]);
    let half = align("b", &["--stop-after", "2"]);
    assert!(straight != half && straight == align("b", &["--resume"]));
    assert!(straight != align("c", &["--seed", "2"]));
    let data = ["--embeddings", "x.npy", "--captions", "c.jsonl"];
    let said = scratch.ok(&[&["train", "evaluate", "--aligned", "a"], &data[..]].concat());
    assert!(said.contains("| de | 2 |") && said.contains("| en | 2 |"), "{said}");
    let rows = json(&scratch.ok(&[&["train", "evaluate", "--json", "--aligned", "a"], &data[..]].concat()));
    assert_eq!((&rows[0]["language"], &rows[0]["text_to_image"]["n_queries"]), (&"de".into(), &2.into()));

    // What was learnt takes texts, and images are brought to where they are sought.
    let said = scratch.ok(&["train", "project", "--aligned", "a", "--embeddings", "x.npy", "--out", "y.npy"]);
    assert_eq!(said, "8 images of 16 numbers in y.npy\n");
    scratch.ok(&["ingest", "y.npy", "--collection", "y", "--model", "a"]);
    let found = json(&scratch.ok(&["query", "y", "--text", "number 3", "--json"]));
    assert_eq!(found["hits"].as_array().map(Vec::len), Some(8), "{found}");
    let refused: [(&[&str], &str); 5] = [
        (&["--embeddings", "x.npy", "--out", "x.npy"], "expected another file than --embeddings"),
        (&["--embeddings", "x.npy", "--out", "../DIR/x.npy"], "expected another file than --embeddings"),
        (&["--embeddings", "x.npy", "--ids", "y.ids.txt", "--out", "y.npy"], "expected another file than --ids"),
        (&["--embeddings", "x.npy", "--out", "y.bin"], "expected a .npy file"),
        (
            &["--embeddings", "y.npy", "--out", "z.npy"],
            "expected 4 numbers and 0 x 0 tokens, as in training, received 16",
        ),
    ];
    for (args, expected) in refused {
        let dir = scratch.path().file_name().unwrap().to_str().unwrap();
        let args: Vec<String> = args.iter().map(|arg| arg.replace("DIR", dir)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        scratch.fails(2, &[&["train", "project", "--aligned", "a"], &args[..]].concat(), expected);
    }
    let before = std::fs::read(scratch.path().join("x.npy")).unwrap();
    assert!(before.len() < 256, "an input is as it was");
    scratch.write("v.tokens.npy", "of something else");
    let args = ["train", "project", "--aligned", "a", "--embeddings", "x.npy", "--out", "v.npy"];
    scratch.fails(2, &args, "v.tokens.npy is there already");
    let start = ["train", "align", "--frozen", "image", "--captions", "c.jsonl", "--embeddings"];
    scratch.fails(2, &[&start[..], &["x.npy", "--out", "a"]].concat(), "--resume goes on with it");
    scratch.fails(2, &[&start[..], &["no.npy", "--out", "n"]].concat(), "no.npy: there is no such file");
    // Data that it did not learn from are not passed over.
    let args = [&["train", "evaluate", "--aligned", "a", "--images", "x.npy"], &data[..]].concat();
    scratch.fails(2, &args, "--images: not read for a, which learnt texts against frozen images");
    // The bytes of the array can be ingested as they are.
    scratch.write("own.npy", &before);
    scratch.ok(&["ingest", "own.npy", "--collection", "own"]);
    // A model of another kind is in the way; where both stand, all take the same one.
    let held = "expected a folder without a model of another kind, received one with";
    scratch.fails(2, &["train", "align", "--scenes", "--out", "a"], "--resume goes on with it");
    scratch.write("r/config.json", "{}");
    let ridge = ["train", "ridge", "--embeddings", "x.npy", "--captions", "c.jsonl", "--out", "r"];
    scratch.fails(2, &ridge, &format!("r: {held} config.json"));
    std::fs::remove_file(scratch.path().join("r/config.json")).unwrap();
    scratch.ok(&ridge);
    scratch.fails(2, &["train", "align", "--scenes", "--out", "r"], &format!("r: {held} ridge.safetensors"));
    scratch.write("a/model.toml", "[text]\nmodel = \"nowhere\"\n");
    scratch.fails(4, &[&["train", "evaluate", "--aligned", "a"], &data[..]].concat(), "no model at");
    scratch.fails(2, &[&start[..], &["x.npy", "--out", "a", "--resume"]].concat(), &format!("a: {held} model.toml"));
    scratch.write("zero.npy", [&before[..before.len() - 4], &[0; 4]].concat());
    scratch.write("zero.ids.json", std::fs::read(scratch.path().join("x.ids.json")).unwrap());
    let none = ["--projection", "none", "--steps", "2", "--table-rows", "64", "--plain-dim", "8", "--text-dim", "8"];
    scratch.ok(&[&start[..], &["zero.npy", "--out", "p"], &none[..]].concat());
    assert!(scratch.ok(&["model", "info", "p"]).contains("bytes a point of a text"));
    scratch.ok(&["model", "check", "r", "--family", "ridge"]);
    let (code, report) = scratch.answer(&["model", "check", "r", "--family", "aligned", "--json"]);
    assert_eq!((code, &report["missing_files"][0]), (Some(6), &"aligned.safetensors".into()));
    let args = ["train", "project", "--aligned", "p", "--embeddings", "zero.npy", "--out", "w.npy"];
    scratch.fails(2, &args, "image \"p7\": expected a vector of some length, received zeros alone");
}

#[test]
fn a_text_tower_learns_against_what_embed_wrote() {
    let scratch = scratch_with_frozen_images();
    for i in 0..8u8 {
        image::RgbImage::from_pixel(32, 32, image::Rgb([30 * i, 90, 0]))
            .save(scratch.path().join(format!("p{i}.png")))
            .unwrap();
    }
    let row = |i| serde_json::json!({ "id": format!("p{i}"), "image": format!("p{i}.png") }).to_string();
    scratch.write("e.jsonl", (0..8).map(row).collect::<Vec<_>>().join("\n"));
    scratch.ok(&["embed", "e.jsonl", "--out", "e", "--tokens", "4x4"]);
    let align = ["train", "align", "--frozen", "image", "--embeddings", "e", "--captions", "c.jsonl", "--out", "a"];
    let sizes = ["--steps", "2", "--table-rows", "64", "--plain-dim", "8", "--text-dim", "8", "--dim", "8"];
    scratch.ok(&[&align[..], &sizes].concat());
    let said = scratch.ok(&["train", "project", "--aligned", "a", "--embeddings", "e", "--out", "y.npy"]);
    assert_eq!(said, "8 images of 16 numbers in y.npy\n");
    // With the tokens that were kept of them, found by texts, here and at a server.
    scratch.ok(&["ingest", "y.npy", "--collection", "y", "--model", "a"]);
    let found = json(&scratch.ok(&["query", "y", "--text", "number 3", "--with-tokens", "--json"]));
    assert_eq!(found["hits"][7]["tokens"]["image"]["n"], 16, "{found}");
    let server = serving::Server::start_with_model(
        &scratch.path().join("other"),
        scratch.path().join("a").to_str().unwrap(),
        &[],
    );
    scratch.ok(&[
        "ingest",
        "y.npy",
        "--collection",
        "y",
        "--server",
        &server.grpc,
        "--model",
        scratch.path().join("a").to_str().unwrap(),
    ]);
    let found =
        json(&scratch.ok(&["query", "y", "--text", "number 3", "--with-tokens", "--json", "--server", &server.grpc]));
    assert_eq!(found["hits"][7]["tokens"]["image"]["n"], 16, "{found}");
    let refused = ["train", "project", "--aligned", "a", "--embeddings", "e", "--ids", "x.ids.json", "--out", "z.npy"];
    scratch.fails(2, &refused, "--tokens and --ids: e has its own");
}

#[test]
fn what_one_side_cannot_learn_from_is_said() {
    let scratch = scratch_with_frozen_images();
    let check = |args: &[&str], expected: &str| {
        let start = ["train", "align", "--out", "o"];
        scratch.fails(2, &[&start[..], args].concat(), expected);
    };
    check(&["--frozen", "text"], "--images is missing: --frozen text needs it");
    check(&["--frozen", "image", "--embeddings", "x.npy"], "--captions is missing: --frozen image needs it");
    let image = ["--frozen", "image", "--embeddings", "x.npy", "--captions", "c.jsonl"];
    let with = |more: &[&'static str]| [&image[..], more].concat();
    let ignored: [(&[&str], &str); 9] = [
        (&["--side-px", "224"], "--side-px: not read with --frozen image"),
        (&["--shuffle", "10000"], "--shuffle: not read with --frozen image"),
        (&["--teacher", "6"], "--teacher: not read with --frozen image"),
        (&["--facets", "nowhere"], "--facets: not read with --frozen image"),
        (&["--images", "nowhere.tar"], "--images: not read with --frozen image"),
        (&["--block", "nowhere"], "--block: not read with --frozen image"),
        (&["--scenes"], "--scenes: not read with --frozen image"),
        (&["--decline", "3"], "--decline: not read with --frozen image"),
        (&["--steps", "6", "--warm-up", "100"], "--warm-up: expected at most the 6 of --steps, received 100"),
    ];
    for (flags, expected) in ignored {
        check(&[&image[..], flags].concat(), expected);
    }
    check(&["--scenes", "--captions", "c.jsonl"], "--captions: goes with --frozen text, image or none");
    check(&with(&["--hidden", "0"]), "hidden: expected 1 to 65536, received 0");
    check(&with(&["--stop-after", "0"]), "invalid value '0' for '--stop-after <STEPS>'");
    check(&with(&["--text-heads", "3"]), "text_heads: expected a divisor of the width, 128, received 3");
    check(&["--scenes", "--hidden", "512"], "--hidden: goes with --frozen text, image or none");
    check(
        &["--frozen", "none", "--images", "p.tar", "--captions", "c.jsonl", "--block", "nowhere", "--batch", "2"],
        "--block nowhere: expected the folder of a decoder, received none",
    );
    check(&with(&["--dropout", "1"]), "--dropout: expected 0 to less than 1, received 1");
    check(&with(&["--projection", "none", "--dim", "7"]), "dim: expected that of the images, 4, received 7");
}
