//! Fusion networks as a user trains, judges and switches them: here and at a server.

mod common;
mod serving;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use common::{Scratch, json};
use firn::{
    engine::{Engine, Loading},
    query::{self, Given, Item},
};
use firn_client::{
    Client,
    v1::{EvaluateRerankerRequest, Job, JobState, RerankerParting, RerankerRecipe, TrainRerankerRequest},
};
use firn_index::{Database, Fields, Options, Point};
use firn_model::{Device, fusion::Direction};
use serving::Server;

const N: usize = 120;
const DIM: usize = 12;
const THINGS: [&str; DIM] =
    ["dog", "ball", "tree", "sea", "car", "house", "bird", "boat", "snow", "night", "flower", "horse"];

/// What image `at` shows.
fn shown(at: usize) -> Vec<usize> {
    (0..DIM).filter(|thing| (at * 7919 + thing * 104_729 + at * thing * 31) % 97 < 24).chain([at % DIM]).collect()
}

/// Vectors and tokens that another encoder might have made of images, captions in two languages, and a text side "ridge" that was
/// solved against them. Ingested as "c", with the encoder's own vectors under "raw".
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    let number = |at: usize, thing: usize| f32::from(u8::from(shown(at).contains(&thing)));
    let noise = |at: usize, i: usize| ((at * 31 + i * 17) % 11) as f32 * 0.02;
    let rows = || (0..N).flat_map(|at| (0..DIM).map(move |i| number(at, i) + noise(at, i)));
    scratch.write("photos.npy", npy(&[N, DIM], rows()));
    let tokens =
        (0..N).flat_map(|at| (0..4 * 6).map(move |i| number(at, i % DIM) * (1 + i / DIM) as f32 + noise(at, i)));
    scratch.write("grid.npy", npy(&[N, 4, 6], tokens));
    scratch.write("photos.ids.txt", (0..N).map(|at| format!("p{at}")).collect::<Vec<_>>().join("\n"));
    let row = |at: usize| {
        let names: Vec<&str> = shown(at).into_iter().map(|thing| THINGS[thing]).collect();
        let split = if at.is_multiple_of(5) { "val" } else { "train" };
        let captions = [
            ("en", format!("a {}", names.join(" and a "))),
            ("en", format!("{} here", names[0])),
            ("de", names.join(" und ")),
        ];
        let captions: Vec<_> =
            captions.iter().map(|(lang, text)| serde_json::json!({ "lang": lang, "text": text })).collect();
        serde_json::json!({ "id": format!("p{at}"), "split": split, "captions": captions }).to_string()
    };
    scratch.write("captions.jsonl", (0..N).map(row).collect::<Vec<_>>().join("\n"));
    scratch.ok(&["train", "ridge", "--embeddings", "photos.npy", "--captions", "captions.jsonl", "--out", "ridge"]);
    let images = ["--embeddings", "photos.npy", "--tokens", "grid.npy"];
    scratch.ok(&[&["train", "project", "--aligned", "ridge", "--out", "projected.npy"], &images[..]].concat());
    let shape = ["--vector", "image=12", "--vector", "text=12", "--vector", "raw=12", "--token-shape", "image=4x6"];
    scratch.ok(&[&["collection", "create", "c", "--model", "ridge"], &shape[..]].concat());
    let ingest = ["ingest", "projected.npy", "--collection", "c", "--captions", "captions.jsonl"];
    scratch.ok(&[&ingest[..], &["--also", "raw=photos.npy"]].concat());
    scratch
}

fn npy(shape: &[usize], numbers: impl Iterator<Item = f32>) -> Vec<u8> {
    let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}\n", shape.join(", "));
    let length = (header.len() as u16).to_le_bytes();
    let numbers = numbers.flat_map(f32::to_le_bytes);
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes()].concat().into_iter().chain(numbers).collect()
}

const SMALL: [&str; 10] = ["--steps", "12", "--lists", "8", "--dim", "16", "--wide", "16", "--evaluate-every", "6"];

#[test]
fn networks_are_trained_judged_switched_and_asked() {
    let scratch = scratch();
    let train = |kind: &str, rest: &[&str]| {
        let start = ["train", "fusion", "c", "--kind", kind, "--json"];
        json(&scratch.ok(&[&start[..], &SMALL, rest].concat()))["version"].clone()
    };
    let before = std::fs::read(scratch.path().join("ridge/ridge.safetensors")).unwrap();
    let mlp = train("mlp", &["--extra", "raw"]);
    assert_eq!((mlp["number"].as_u64(), mlp["reads"]["extra"].as_str()), (Some(1), Some("raw")));
    let one_way = train("facet-fusion-1way", &["--candidates", "20", "--image-to-text", "0.3"]);
    assert_eq!((one_way["number"].as_u64(), one_way["reads"]["tokens"].as_bool()), (Some(2), Some(true)));
    assert_eq!(
        std::fs::read(scratch.path().join("ridge/ridge.safetensors")).unwrap(),
        before,
        "an encoder was changed"
    );

    // Judged by language, length and direction, on points that were not learnt from.
    let rows = one_way["judged"].as_array().unwrap();
    let of = |direction: &str, language: &str, length: &str| {
        let is = |row: &&serde_json::Value| {
            row["direction"] == direction && row["language"] == language && row["length"] == length
        };
        rows.iter().find(is).unwrap_or_else(|| panic!("no row of {direction} {language} {length}"))["gain"].clone()
    };
    assert_eq!(of("text_to_image", "", "single")["n_questions"], 24 * 3);
    assert_eq!(of("text_to_image", "en", "joined")["n_questions"], 24);
    assert_eq!(of("image_to_text", "de", "single")["n_images"], 24);
    for row in rows {
        let (cosine, reranked) = (&row["gain"]["cosine"]["mrr"], &row["gain"]["reranked"]["mrr"]);
        assert!(reranked.as_f64().unwrap() > 0.5 * cosine.as_f64().unwrap(), "{row}");
    }

    // The harness asks the same questions through the database, and finds the same.
    let run =
        ["eval", "collection", "--collection", "c", "--reranker", "2", "--candidates", "2,20", "--joined", "--json"];
    let results = json(&scratch.ok(&run));
    assert_eq!(results["methods"], serde_json::json!(["exact", "hnsw", "rerank@2", "rerank@20"]));
    for (direction, language, length) in
        [("to_document", "", "single"), ("to_document", "", "joined"), ("to_query", "de", "single")]
    {
        let is = |group: &&serde_json::Value| {
            group["direction"] == direction
                && group["language"] == language
                && group["is_joined"] == (length == "joined")
                && group["length"].is_null()
        };
        let group = results["groups"].as_array().unwrap().iter().find(is);
        let group = group.unwrap_or_else(|| panic!("no group {direction} {language} {length}"));
        let judged = of(if direction == "to_document" { "text_to_image" } else { "image_to_text" }, language, length);
        assert_eq!(group["n_questions"], judged["n_questions"]);
        let far = |name: &str| {
            group["methods"][0][name]["value"].as_f64().unwrap() - judged["cosine"][name].as_f64().unwrap()
        };
        assert!(["at_1", "at_5", "mrr"].iter().all(|name| far(name).abs() < 1e-9), "{group} {judged}");
    }

    // A network goes from one collection to another of the same model, and to no other.
    scratch.ok(&["reranker", "export", "c", "2", "--out", "net.safetensors"]);
    scratch.ok(&["collection", "create", "bare", "--model", "ridge", "--vector", "image=12"]);
    scratch.fails(2, &["reranker", "import", "bare", "net.safetensors"], "4 x 6 tokens beside \"image\"");
    scratch.fails(2, &["reranker", "import", "c", "builtin"], "embeddings by the model builtin");
    scratch.fails(6, &["reranker", "import", "c", "nowhere.safetensors"], "nowhere.safetensors");
    let (net, about) =
        (scratch.path().join("net.safetensors"), std::fs::read_to_string(scratch.path().join("net.json")).unwrap());
    scratch.write("odd.safetensors", std::fs::read(net).unwrap());
    scratch.write("odd.json", about.replace("\"candidates\": 20", "\"candidates\": 9000000"));
    scratch.fails(6, &["reranker", "import", "c", "odd.safetensors"], "2 to 1000 candidates");
    let again = json(&scratch.ok(&["reranker", "import", "c", "net.safetensors", "--json"]))["version"].clone();
    assert_eq!((&again["number"], &again["judged"]), (&3.into(), &one_way["judged"]));

    let ask = |rest: &[&str]| {
        let start = ["query", "c", "--text", "a dog and a ball", "--limit", "5", "--json"];
        json(&scratch.ok(&[&start[..], rest].concat()))
    };
    assert_eq!(ask(&[])["rerank_applied"], false, "nothing is active");
    scratch.ok(&["reranker", "activate", "c", "1", "--force"]);
    scratch.ok(&["reranker", "activate", "c", "2", "--force"]);
    let answer = ask(&[]);
    assert_eq!((&answer["rerank_applied"], &answer["reranker"]), (&true.into(), &2.into()));
    let hits = answer["hits"].as_array().unwrap();
    assert!(hits.iter().all(|hit| hit["fusion"].is_f64()));
    let scores: Vec<f64> = hits.iter().map(|hit| hit["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    assert_eq!(ask(&["--rerank", "1"])["reranker"], 1);
    assert_eq!(ask(&["--rerank", "none"])["rerank_applied"], false);

    // What cannot be re-ranked is answered by cosine and said, or fails where that is asked for.
    let by_id = ["query", "c", "--id", "p3", "--json"];
    let answer = json(&scratch.ok(&by_id));
    assert_eq!(answer["rerank_applied"], false);
    assert!(answer["rerank_skipped"].as_str().unwrap().contains("that a text looks for"), "{answer}");
    scratch.fails(1, &[&by_id[..], &["--rerank-or-fail"]].concat(), "cannot be re-ranked");
    let answer = ask(&["--using", "text"]);
    assert!(answer["rerank_skipped"].as_str().unwrap().contains("judged on candidates by image=1"), "{answer}");
    scratch.fails(2, &["query", "c", "--text", "x", "--rerank", "9"], "expected one of the versions [1, 2, 3]");

    let list = scratch.ok(&["reranker", "list", "c"]);
    assert!(
        list.contains("facet-fusion-1way") && list.contains("active") && list.contains("R@1 of single texts"),
        "{list}"
    );
    let again = json(&scratch.ok(&["reranker", "evaluate", "c", "2", "--json"]));
    assert_eq!(again["version"]["judged"], one_way["judged"], "the same points give the same verdict");
    assert!(scratch.ok(&["reranker", "rollback", "c"]).contains("version 1 is active"));
    assert!(scratch.ok(&["reranker", "rollback", "c"]).contains("no version is active"));
    scratch.fails(2, &["reranker", "rollback", "c"], "nothing was active before");
    scratch.fails(4, &["reranker", "activate", "c", "7"], "version 7: expected one of [1, 2, 3]");
    scratch.ok(&["verify"]);
}

#[test]
fn a_candidate_without_tokens_is_said() {
    let scratch = scratch();
    scratch.ok(&[&["train", "fusion", "c"], &SMALL[..]].concat());
    scratch.ok(&["reranker", "activate", "c", "1", "--force"]);
    let vector: Vec<String> = (0
        ..json(&scratch.ok(&["collection", "get", "c", "--json"]))["config"]["vectors"]["image"]["dim"]
            .as_u64()
            .unwrap())
        .map(|at| if at == 0 { "1".to_owned() } else { "0.1".to_owned() })
        .collect();
    scratch.write("one.jsonl", format!("{{\"id\": \"bare\", \"vectors\": {{\"image\": [{}]}}}}", vector.join(",")));
    scratch.ok(&["ingest", "one.jsonl", "--collection", "c", "--model", "ridge"]);
    let answer = json(&scratch.ok(&["query", "c", "--text", "a dog", "--limit", "200", "--json"]));
    assert_eq!((&answer["rerank_applied"], answer["hits"].as_array().unwrap().len()), (&false.into(), N + 1));
    assert!(answer["rerank_skipped"].as_str().unwrap().contains("bare has not tokens \"image\""), "{answer}");
}

#[test]
fn a_stopped_run_goes_on_and_what_cannot_be_learnt_is_refused() {
    let scratch = scratch();
    let start = ["train", "fusion", "c", "--kind", "mlp", "--checkpoint", "run", "--json"];
    scratch.ok(&[&start[..], &SMALL, &["--stop-after", "5"]].concat());
    assert!(json(&scratch.ok(&["reranker", "list", "c", "--json"]))["versions"].as_array().unwrap().is_empty());
    let resumed = json(&scratch.ok(&[&start[..], &SMALL].concat()));
    let whole = json(&scratch.ok(&[&["train", "fusion", "c", "--kind", "mlp", "--json"], &SMALL[..]].concat()));
    assert_eq!(resumed["version"]["judged"], whole["version"]["judged"]);
    scratch.fails(6, &[&start[..], &SMALL, &["--seed", "2"]].concat(), "made with other settings");

    // Several networks stand beside each other, and are asked as one.
    let both = ["train", "fusion", "c", "--kind", "mlp+facet-fusion-1way", "--members", "2", "--json"];
    let stopped = ["--checkpoint", "all", "--checkpoint-every", "5"];
    scratch.ok(&[&both[..], &stopped, &SMALL, &["--stop-after", "17"]].concat());
    let resumed = json(&scratch.ok(&[&both[..], &stopped, &SMALL].concat()))["version"].clone();
    let whole = json(&scratch.ok(&[&both[..], &SMALL].concat()))["version"].clone();
    assert_eq!((&resumed["judged"], &resumed["parameters"]), (&whole["judged"], &whole["parameters"]));
    assert_eq!((whole["kind"].as_str(), whole["members"].as_u64()), (Some("mlp+facet-fusion-1way"), Some(2)));
    let number = whole["number"].to_string();
    let answer =
        json(&scratch.ok(&["query", "c", "--text", "a dog", "--rerank", &number, "--rerank-or-fail", "--json"]));
    assert_eq!(answer["rerank_applied"], true);

    let check = |args: &[&str], code: i32, expected: &str| {
        scratch.fails(code, &[&["train", "fusion"], args].concat(), expected);
    };
    check(&["c", "--kind", "mpl"], 2, "expected one of frevl, facet-fusion");
    check(&["c", "--kind", "mlp+mpl"], 2, "expected one of frevl, facet-fusion");
    check(&["c", "--kind", "mlp+frevl", "--members", "17"], 2, "--members: expected 1 to 32 networks in all");
    check(&["c", "--among-group"], 2, "--group");
    check(&["c", "--using", "picture"], 2, "--using: expected one of [\"image\", \"raw\", \"text\"]");
    check(&["c", "--using", "text"], 2, "keeps no tokens beside \"text\"");
    check(&["c", "--heads", "3"], 2, "a dim that the heads divide");
    check(&["c", "--dropout", "1"], 2, "--dropout: expected 0 to less than 1");
    check(&["nowhere"], 4, "no collection named \"nowhere\"");
    scratch.ok(&["collection", "create", "empty"]);
    check(&["empty", "--kind", "mlp"], 2, "expected points with texts");
}

/// No network is learnt: what lies near to many texts stands back, in every way to ask.
#[test]
fn hubs_are_told_without_a_network() {
    let scratch = scratch();
    let train = ["train", "fusion", "c", "--kind", "hubs"];
    scratch.fails(
        2,
        &[&train[..], &["--crowd", "0"]].concat(),
        "--crowd: expected 1 or more, where there is no network",
    );
    let hubs = json(&scratch.ok(&[&train[..], &["--json"]].concat()))["version"].clone();
    assert_eq!((&hubs["kind"], &hubs["parameters"], &hubs["steps"]), (&"hubs".into(), &0.into(), &0.into()));
    for row in hubs["judged"].as_array().unwrap() {
        let gain = &row["gain"];
        assert_eq!(
            (&gain["without_logit"], &gain["interval_of_logit"]),
            (&gain["reranked"], &serde_json::json!([0.0, 0.0]))
        );
        assert!(gain["weights"].as_array().unwrap().iter().all(|weight| weight["logit"] == 0.0), "{gain}");
    }
    let again = json(&scratch.ok(&["reranker", "evaluate", "c", "1", "--json"]));
    assert_eq!(again["version"]["judged"], hubs["judged"], "the same points give the same verdict");

    // Counted for something, whatever these few images make of it.
    scratch.ok(&["reranker", "export", "c", "1", "--out", "hubs.safetensors"]);
    let about = std::fs::read_to_string(scratch.path().join("hubs.json")).unwrap();
    let mut about: serde_json::Value = serde_json::from_str(&about).unwrap();
    about["weights"][0]["hubness"] = 0.5.into();
    scratch.write("hubs.json", about.to_string());
    scratch.ok(&["reranker", "import", "c", "hubs.safetensors"]);
    scratch.ok(&["reranker", "activate", "c", "2", "--force"]);
    let ask = ["query", "c", "--text", "a dog and a ball", "--limit", "5", "--json"];
    let answer = json(&scratch.ok(&ask));
    assert_eq!((&answer["rerank_applied"], &answer["reranker"]), (&true.into(), &2.into()));
    for hit in answer["hits"].as_array().unwrap() {
        let [score, cosine, hubness] = ["score", "cosine", "hubness"].map(|field| hit[field].as_f64().unwrap());
        assert!((cosine - 0.5 * hubness - score).abs() < 1e-5 && hit["fusion"].is_null(), "{hit}");
    }
    let asked_again = json(&scratch.ok(&ask));
    assert_eq!(asked_again["hits"], answer["hits"]);

    // It goes to another collection that is compared by the same vectors, and only there.
    scratch.ok(&["collection", "create", "alike", "--model", "ridge", "--vector", "image=12"]);
    let brought = json(&scratch.ok(&["reranker", "import", "alike", "hubs.safetensors", "--json"]));
    assert_eq!(brought["version"]["weights"], about["weights"]);
    scratch.ok(&["eval", "collection", "--collection", "c", "--reranker", "2", "--json"]);
    // Where the first order has a vector that it does not know, nothing is told, and that makes nothing worse.
    let shape = ["--vector", "image=12", "--vector", "twin=image:ridge", "--token-shape", "image=4x6"];
    scratch.ok(&[&["collection", "create", "two", "--model", "ridge"], &shape[..]].concat());
    let ingest = ["ingest", "projected.npy", "--collection", "two", "--captions", "captions.jsonl"];
    for name in ["npy", "ids.txt"] {
        scratch
            .write(&format!("twin.{name}"), std::fs::read(scratch.path().join(format!("projected.{name}"))).unwrap());
    }
    scratch.ok(&[&ingest[..], &["--also", "twin=twin.npy"]].concat());
    scratch.ok(&["reranker", "import", "two", "hubs.safetensors"]);
    scratch.ok(&["collection", "blend", "two", "image=1,twin=1"]);
    let judged = json(&scratch.ok(&["reranker", "evaluate", "two", "1", "--json"]));
    assert_eq!(judged["version"]["weights"][0], serde_json::json!({ "logit": 0.0, "hubness": 0.0 }));
}

#[test]
fn what_no_model_makes_is_brought_or_refused() {
    let scratch = scratch();
    scratch.ok(&[&["train", "fusion", "c", "--kind", "mlp", "--extra", "raw"], &SMALL[..]].concat());
    let ridge = firn_model::load(scratch.path().join("ridge").to_str().unwrap(), Device::Cpu).unwrap();
    let db = Database::open(&scratch.path().join("firn-data"), Options::default()).unwrap();
    let engine = Engine::new(db, vec![ridge], Loading::Fixed);
    let fields = Fields { vectors: true, ..Fields::default() };
    let points = engine.db().collection("c").unwrap().reader().scroll(0, 20, fields).unwrap().points;
    let score = |candidates: Vec<Item>| {
        let (collection, asker) = ("c".to_owned(), Item::Text("a dog and a ball".to_owned()));
        let direction = Direction::TextToImage;
        query::score(&engine, &Given { collection, direction, asker, candidates, version: Some(1) })
    };
    let brought = |names: &[&str]| {
        let of = |point: &Point| names.iter().map(|&name| (name.to_owned(), point.vectors[name].clone())).collect();
        points.iter().map(|point| Item::Vectors(BTreeMap::into(of(point)))).collect()
    };
    let stored = score(points.iter().map(|point| Item::Id(point.id.clone())).collect()).unwrap();
    // What is brought is made unit again, which moves its last bits.
    let again = score(brought(&["image", "raw"])).unwrap().scores;
    assert_eq!(stored.scores.len(), again.len());
    for (stored, brought) in stored.scores.iter().zip(again) {
        assert_eq!(stored.index, brought.index);
        assert!(
            (stored.score - brought.score).abs() < 1e-5
                && (stored.logit.unwrap() - brought.logit.unwrap()).abs() < 1e-4
        );
    }
    let refused = |candidates, expected: &str| {
        let error = score(candidates).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(brought(&["image"]), "candidates[0]: expected a vector \"raw\", which the network reads");
    refused(vec![Item::Image(vec![1])], "no model makes the vector \"raw\" of an image");
}

#[tokio::test]
async fn a_server_lists_switches_and_asks() {
    let scratch = scratch();
    for seed in ["1", "2"] {
        scratch.ok(&[&["train", "fusion", "c", "--seed", seed], &SMALL[..]].concat());
    }
    let folder = scratch.path().join("ridge");
    let server = Server::start_with_model(&scratch.path().join("firn-data"), folder.to_str().unwrap(), &[]);
    let client = server.client().await;
    let all = client.rerankers("c").await.unwrap();
    assert_eq!(all.iter().map(|one| (one.version, one.active)).collect::<Vec<_>>(), [(1, false), (2, false)]);
    assert!(all[0].gains.iter().any(|gain| gain.joined && gain.questions_count > 0));
    assert_eq!(client.roll_back_reranker("c").await.unwrap_err().reason, "NOTHING_BEFORE");
    client.activate_reranker("c", 2, true).await.unwrap();
    assert_eq!(client.activate_reranker("c", 5, true).await.unwrap_err().reason, "UNKNOWN_VERSION");

    let ask = ["query", "c", "--text", "a horse in the night", "--json", "--server", &server.grpc];
    let answer = json(&scratch.ok(&ask));
    assert_eq!((&answer["rerank_applied"], &answer["reranker"]), (&true.into(), &2.into()));
    assert!(answer["hits"][0]["fusion"].is_f64() && answer["hits"][0]["relevance"].is_f64(), "{answer}");
    assert_eq!(json(&scratch.ok(&[&ask[..], &["--rerank", "1"]].concat()))["reranker"], 1);
    let few = json(&scratch.ok(&[&ask[..], &["--min-relevance", "1"]].concat()));
    assert!(few["hits"].as_array().unwrap().is_empty(), "{few}");
    // With nothing left to re-rank there is an empty answer.
    let ids = (0..N).map(|at| firn_client::id(format!("p{at}"))).collect();
    assert_eq!(client.delete("c", ids).await.unwrap().deleted_count, N as u64);
    assert!(json(&scratch.ok(&ask))["hits"].as_array().unwrap().is_empty());
    assert_eq!(client.roll_back_reranker("c").await.unwrap(), None);
    assert_eq!(json(&scratch.ok(&ask))["rerank_applied"], false);
}

/// A job once it has come so far.
async fn once(client: &Client, id: &str, is_there: impl Fn(&Job) -> bool) -> Job {
    loop {
        let job = client.job(id).await.unwrap();
        if is_there(&job) {
            return job;
        }
    }
}

fn has_ended(job: &Job) -> bool {
    matches!(job.state(), JobState::Done | JobState::Failed | JobState::Cancelled)
}

#[tokio::test]
async fn a_server_trains_judges_and_is_told_to_end() {
    let scratch = scratch();
    scratch.ok(&["collection", "create", "bare", "--model", "ridge", "--vector", "image=12"]);
    let (data, folder) = (scratch.path().join("firn-data"), scratch.path().join("ridge"));
    let server = Server::start_with_model(&data, folder.to_str().unwrap(), &[]);
    let client = server.client().await;
    let recipe = RerankerRecipe {
        dim: Some(16),
        wide: Some(16),
        lists: Some(8),
        evaluate_every: Some(6),
        ..RerankerRecipe::default()
    };
    let ask = |kind: &str, steps: u64| TrainRerankerRequest {
        collection_name: "c".into(),
        kind: Some(kind.into()),
        steps: Some(steps),
        extra: Some("raw".into()),
        recipe: Some(recipe),
        ..TrainRerankerRequest::default()
    };
    let job = client.train_reranker(ask("mlp", 12)).await.unwrap();
    assert!(!has_ended(&job) && job.collection_name == "c", "{job:?}");
    let job = once(&client, &job.id, has_ended).await;
    assert_eq!((job.state(), job.error_message.as_str()), (JobState::Done, ""));
    assert!(job.recall_without.is_some() && job.loss > 0.0 && job.elapsed_us > 0, "{job:?}");
    let made = job.reranker.unwrap();
    assert_eq!((made.version, made.kind.as_str(), made.active), (1, "mlp", false));
    assert_eq!(client.rerankers("c").await.unwrap(), std::slice::from_ref(&made), "what the job says is what is kept");

    let judge = EvaluateRerankerRequest { collection_name: "c".into(), version: 1, ..Default::default() };
    let judged = client.evaluate_reranker(judge.clone()).await.unwrap();
    let judged = once(&client, &judged.id, has_ended).await;
    assert_eq!(judged.reranker.unwrap().gains, made.gains, "the same points give the same verdict");

    // Ended in the middle, it leaves nothing behind.
    let long = client.train_reranker(ask("facet-fusion-1way", 1_000_000)).await.unwrap();
    let waits = client.train_reranker(ask("mlp", 12)).await.unwrap();
    let begun = once(&client, &long.id, |job| job.state() == JobState::Learning).await;
    assert_eq!(begun.total_count, 1_000_000);
    assert_eq!(client.cancel_job(&waits.id).await.unwrap().state(), JobState::Cancelled);
    client.cancel_job(&long.id).await.unwrap();
    assert_eq!(once(&client, &long.id, has_ended).await.state(), JobState::Cancelled);
    assert_eq!(client.rerankers("c").await.unwrap().len(), 1);

    let refused = |error: firn_client::Error| {
        (error.reason, error.fields.first().map(|field| field.field.clone()).unwrap_or_default())
    };
    let no = |request: TrainRerankerRequest| async { refused(client.train_reranker(request).await.unwrap_err()) };
    let said = |reason: &str, field: &str| (reason.to_owned(), field.to_owned());
    assert_eq!(no(ask("mpl", 12)).await, said("UNKNOWN_KIND", "kind"));
    assert_eq!(no(ask("mlp", 0)).await, said("OUT_OF_RANGE", "steps"));
    assert_eq!(
        no(TrainRerankerRequest { extra: Some("x".into()), ..ask("mlp", 1) }).await,
        said("OUT_OF_RANGE", "extra")
    );
    let bare = TrainRerankerRequest { collection_name: "bare".into(), extra: None, ..ask("facet-fusion", 1) };
    assert_eq!(no(bare.clone()).await, said("NO_TOKENS", ""));
    let parting = RerankerParting { held_out: Some(0.9), ..Default::default() };
    let parted = TrainRerankerRequest { parting: Some(parting), ..ask("mlp", 1) };
    assert_eq!(no(parted).await, said("OUT_OF_RANGE", "held_out"));
    let huge = RerankerRecipe { dim: Some(8192), layers: Some(64), ..recipe };
    assert_eq!(no(TrainRerankerRequest { recipe: Some(huge), ..ask("mlp", 1) }).await, said("OUT_OF_RANGE", "recipe"));
    let wrong = EvaluateRerankerRequest { version: 7, ..judge };
    assert_eq!(refused(client.evaluate_reranker(wrong).await.unwrap_err()), said("UNKNOWN_VERSION", "version"));
    assert_eq!(refused(client.job("1-1").await.unwrap_err()), said("JOB_NOT_FOUND", ""));
    // What only the run finds out is the job's own error.
    let nothing = client.train_reranker(TrainRerankerRequest { kind: Some("mlp".into()), ..bare }).await.unwrap();
    let nothing = once(&client, &nothing.id, has_ended).await;
    assert_eq!((nothing.state(), nothing.error_reason.as_str()), (JobState::Failed, "NO_PAIRS"));
    assert!(nothing.error_message.contains("expected points with texts"), "{nothing:?}");

    // A server that stops does not wait for a job to finish.
    let long = client.train_reranker(ask("mlp", 1_000_000)).await.unwrap();
    once(&client, &long.id, |job| job.state() == JobState::Learning).await;
    server.terminate();
    let (status, log) = server.ended();
    assert!(status.success(), "{log}");
    assert_eq!(json(&scratch.ok(&["reranker", "list", "c", "--json"]))["versions"].as_array().unwrap().len(), 1);
}

/// The same commands, flags and answers as of the local directory, by the work of a server.
#[test]
fn the_terminal_trains_judges_and_switches_at_a_server() {
    let scratch = scratch();
    let train = ["train", "fusion", "c", "--kind", "mlp", "--extra", "raw", "--json"];
    let here = json(&scratch.ok(&[&train[..], &SMALL].concat()))["version"].clone();
    let listed = scratch.ok(&["reranker", "list", "c"]);
    let shown = scratch.ok(&["reranker", "show", "c", "1"]);
    let (data, folder) = (scratch.path().join("firn-data"), scratch.path().join("ridge"));
    let server = Server::start_with_model(&data, folder.to_str().unwrap(), &[]);
    let at = ["--server", server.grpc.as_str()];
    let ok = |args: &[&str]| scratch.ok(&[args, &at].concat());
    assert_eq!((ok(&["reranker", "list", "c"]), ok(&["reranker", "show", "c", "1"])), (listed, shown));

    let there = json(&ok(&[&train[..], &SMALL].concat()));
    let (there, is_active) = (&there["version"], &there["active"]);
    assert_eq!((there["number"].as_u64(), is_active.as_bool()), (Some(2), Some(false)));
    let keys: Vec<&String> = here.as_object().unwrap().keys().collect();
    assert_eq!(keys, there.as_object().unwrap().keys().collect::<Vec<_>>());
    for (key, value) in
        here.as_object().unwrap().iter().filter(|(key, _)| !["number", "made_at"].contains(&key.as_str()))
    {
        assert_eq!(&there[key], value, "{key}");
    }
    let judged = json(&ok(&["reranker", "evaluate", "c", "2", "--json"]));
    assert_eq!(judged["version"]["judged"], here["judged"], "the same points give the same verdict");

    let fails = |code: i32, args: &[&str], expected: &str| scratch.fails(code, &[args, &at].concat(), expected);
    fails(4, &["reranker", "show", "c", "9"], "version 9: expected one of [1, 2]");
    fails(4, &["reranker", "evaluate", "c", "9"], "version 9: expected one of [1, 2]");
    fails(4, &["reranker", "activate", "c", "9"], "version 9: expected one of [1, 2]");
    fails(2, &["reranker", "rollback", "c"], "nothing was active before");
    fails(2, &[&train[..], &["--checkpoint", "run"]].concat(), "--checkpoint is a file of here");
    fails(
        2,
        &["train", "fusion", "c", "--kind", "mlp", "--extra", "rav"],
        "expected one of [\"image\", \"raw\", \"text\"]",
    );
    fails(4, &["reranker", "list", "nowhere"], "no collection named");
    fails(2, &["reranker", "activate", "c", "2"], "version 2");
    assert!(ok(&["reranker", "activate", "c", "2", "--force"]).contains("version 2 is active"));
    assert!(ok(&["reranker", "list", "c"]).contains("active"));
    assert!(ok(&["reranker", "rollback", "c"]).contains("no version is active"));
}

/// Ctrl-C ends the server's work too.
#[cfg(unix)]
#[test]
fn a_run_at_a_server_is_cancelled_from_the_terminal() {
    let scratch = scratch();
    let (data, folder) = (scratch.path().join("firn-data"), scratch.path().join("ridge"));
    let server = Server::start_with_model(&data, folder.to_str().unwrap(), &[]);
    let train = ["train", "fusion", "c", "--kind", "mlp", "--steps", "1000000", "--patience", "1000000"];
    let mut command = scratch.command();
    command.args(train).args(["--server", &server.grpc]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let begun = lines.find(|line| line.contains("Ctrl-C cancels it")).unwrap();
    assert!(Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap().success());
    let said: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{begun} {said:?}");
    assert!(said.iter().any(|line| line.contains("cancelled; the collection is as it was")), "{said:?}");
    assert!(scratch.ok(&["reranker", "list", "c", "--server", &server.grpc]).contains("no networks"));
}
