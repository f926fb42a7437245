//! Every command of the README, run in its order in an empty folder, as a new user would.

mod common;
mod serving;

use common::{Scratch, json};
use firn_model::scenes::{self, Style};
use serving::Server;

/// The lines of the README's `sh` blocks.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

/// A folder `photos` with a picture and a text each, of both kinds of sidecars.
fn photos(scratch: &Scratch) {
    for index in 0..12 {
        let scene = scenes::scene(7, index);
        scratch.write(&format!("photos/{index}.png"), []);
        scene.draw(96).save(scratch.path().join(format!("photos/{index}.png"))).unwrap();
        if index % 2 == 0 {
            scratch.write(&format!("photos/{index}.txt"), scene.caption("en", Style::Long));
        } else {
            let text = serde_json::json!({ "text": scene.caption("de", Style::Long), "language": "de" });
            scratch.write(&format!("photos/{index}.json"), serde_json::json!({ "texts": [text] }).to_string());
        }
    }
}

/// Vectors of forty pictures that another encoder might have made, with ids and captions.
fn embedded_photos(scratch: &Scratch) {
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (40, 4), }\n";
    let numbers: Vec<u8> = (0..160u8).flat_map(|i| f32::from(i.wrapping_mul(37) as i8).to_le_bytes()).collect();
    let length = (header.len() as u16).to_le_bytes();
    scratch.write("photos.npy", [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &numbers].concat());
    let ids: Vec<String> = (0..40).map(|i| format!("p{i}")).collect();
    scratch.write("photos.ids.txt", ids.join("\n"));
    let row = |i: u64| {
        let (text, split) = (scenes::scene(7, i).caption("en", Style::Short), if i < 30 { "train" } else { "val" });
        serde_json::json!({ "id": format!("p{i}"), "text": text, "language": "en", "split": split }).to_string()
    };
    scratch.write("captions.jsonl", (0..40).map(row).collect::<Vec<_>>().join("\n"));
}

/// The same array with its first rows alone.
fn first_rows(npy: &[u8], n: usize) -> Vec<u8> {
    let length = usize::from(u16::from_le_bytes([npy[8], npy[9]]));
    let header = String::from_utf8(npy[10..10 + length].to_vec()).unwrap();
    let shape = header.split("'shape': (").nth(1).unwrap().split(')').next().unwrap();
    let numbers: Vec<usize> = shape.split(',').map(|number| number.trim().parse().unwrap()).collect();
    let fewer = header.replace(&format!("({shape})"), &format!("({n}, {})", numbers[1]));
    let bytes = &npy[10 + length..][..n * numbers[1] * (npy.len() - 10 - length) / (numbers[0] * numbers[1])];
    [&npy[..8], &(fewer.len() as u16).to_le_bytes(), fewer.as_bytes(), bytes].concat()
}

/// A command line split at white space, with double quotes honoured.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate().flat_map(|(at, part)| match at % 2 {
        1 => vec![part.to_owned()],
        _ => part.split_whitespace().map(str::to_owned).collect(),
    });
    parts.collect()
}

fn run(scratch: &Scratch, line: &str) -> String {
    let words = words(line);
    scratch.ok(&words.iter().skip(1).map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn the_readme_works() {
    let scratch = Scratch::new();
    photos(&scratch);
    embedded_photos(&scratch);
    let mut server = None;
    for line in commands() {
        match line.as_str() {
            // The toolchain's own, and this very test.
            "cargo test" | "cargo install --path ." => {}
            "cargo run --release -- demo" => {
                let said = scratch.ok(&["demo", "--pictures", "120"]);
                assert!(said.contains("came first") && said.contains("hf:openai/clip-vit-base-patch32"), "{said}");
                let found = said.lines().find_map(|line| line.strip_prefix("Of 200 sentences, ")).expect("the gain");
                let numbers: Vec<u32> = found.split(' ').filter_map(|word| word.parse().ok()).collect();
                assert!(numbers[1] > numbers[0] + 15, "{found}");
            }
            line if line.contains("hf:") => {
                let offline = [("HF_HUB_OFFLINE", "1"), ("HF_HOME", "no-such-cache")];
                let words = words(line);
                let args: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
                scratch.fails_with(&offline, 1, &args, "is not in the cache, and the network is off");
            }
            line if line.starts_with("firn train align") => {
                run(&scratch, &format!("{line} --steps 2 --table-rows 64"));
            }
            line if line.starts_with("firn train fusion") => {
                let said = run(&scratch, &format!("{line} --steps 5"));
                assert!(said.contains("version 1") && said.contains("text to image, en"), "{said}");
            }
            line if line.starts_with("firn train evaluate") => {
                assert!(run(&scratch, line).contains("| en | 10 |"));
            }
            line if line.starts_with("firn model check") => {
                let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/model/fixtures/clip-quick");
                let said = run(&scratch, &line.replace("./clip-vit-base-patch32", folder));
                assert!(said.contains("clip"), "{said}");
            }
            line if line.starts_with("firn eval jsonl") => {
                // Any vectors of the right length are the captions'.
                let ids: Vec<String> = (30..40).map(|i| format!("p{i}#1")).collect();
                scratch.write("asked.ids.txt", ids.join("\n"));
                let found = std::fs::read(scratch.path().join("found.npy")).unwrap();
                scratch.write("asked.npy", first_rows(&found, 10));
                assert!(run(&scratch, line).contains("Text to image"));
            }
            "firn serve" => {
                server = Some(Server::start_with_model(&scratch.path().join("firn-data"), "builtin", &[]));
            }
            line if line.contains("--server") => {
                let address = server.as_ref().expect("the README starts a server before it asks one").grpc.clone();
                assert!(run(&scratch, &line.replace("http://127.0.0.1:50051", &address)).contains("path="));
            }
            line => {
                assert!(line.starts_with("firn "), "who runs {line:?}?");
                run(&scratch, line);
            }
        }
    }
    // The server has the directory; without it the terminal may look again.
    drop(server);
    let photos = json(&scratch.ok(&["collection", "get", "photos", "--json"]));
    assert_eq!(photos["points_count"], 12);
}
