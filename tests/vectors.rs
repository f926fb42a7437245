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
