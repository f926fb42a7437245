//! Fusion networks as a user trains, judges and switches them: here and at a server.

#[path = "../common/mod.rs"]
mod common;
mod server;
#[path = "../serving/mod.rs"]
mod serving;
mod world;

use std::collections::BTreeMap;

use common::json;
use firn::{
    engine::{Engine, Loading},
    query::{self, Given, Item},
};
use firn_index::{Database, Fields, Options, Point};
use firn_model::{Device, fusion::Direction};
use world::{N, SMALL, scratch};

#[test]
fn networks_are_trained_judged_switched_and_asked() {
    let scratch = scratch();
    let train = |kind: &str, rest: &[&str]| {
        let start = ["train", "fusion", "c", "--kind", kind, "--json"];
        json(&scratch.ok(&[&start[..], &SMALL, rest].concat()))["version"].clone()
    };
    let encoder = || -> BTreeMap<_, Vec<u8>> {
        let files = std::fs::read_dir(scratch.path().join("ridge")).unwrap().map(|file| file.unwrap().path());
        files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    };
    let before = encoder();
    let mlp = train("mlp", &["--extra", "raw"]);
    assert_eq!((mlp["number"].as_u64(), mlp["reads"]["extra"].as_str()), (Some(1), Some("raw")));
    let one_way = train("facet-fusion-1way", &["--candidates", "20", "--image-to-text", "0.3"]);
    assert_eq!((one_way["number"].as_u64(), one_way["reads"]["tokens"].as_bool()), (Some(2), Some(true)));
    assert!(before.len() > 1 && encoder() == before, "an encoder was changed");

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
    scratch.fails(6, &[&start[..], &SMALL, &["--seed", "2"]].concat(), "made with other settings");
    let resumed = json(&scratch.ok(&[&start[..], &SMALL].concat()));
    assert!(!scratch.path().join("run").exists(), "what is done is not gone on with");
    let whole = json(&scratch.ok(&[&["train", "fusion", "c", "--kind", "mlp", "--json"], &SMALL[..]].concat()));
    assert_eq!(resumed["version"]["judged"], whole["version"]["judged"]);

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
    let slip = "expected a field of payloads that points with texts have, received \"famly\", which none has";
    check(&["c", "--kind", "hubs", "--group", "famly"], 2, &format!("--group: {slip}"));
    check(&["c", "--kind", "hubs", "--group", "famly", "--among-group"], 2, &format!("--group: {slip}"));
    check(&["c", "--kind", "hubs", "--split", "famly"], 2, &format!("--split: {slip}"));
    check(&["c", "--using", "picture"], 2, "--using: expected one of [\"image\", \"raw\", \"text\"]");
    check(&["c", "--using", "text"], 2, "keeps no tokens beside \"text\"");
    check(&["c", "--heads", "3"], 2, "that the heads divide");
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
    // A verdict may be told alone, and then changes nothing.
    let told = json(&scratch.ok(&["reranker", "evaluate", "c", "2", "--report-only", "--json"]));
    assert_eq!(told["version"]["weights"], hubs["weights"]);
    let kept = json(&scratch.ok(&["reranker", "show", "c", "2", "--json"]));
    assert_eq!(kept["version"]["weights"], about["weights"]);
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
    // What it gained elsewhere is no reason to use it here.
    assert_eq!(brought["version"]["judged_elsewhere"], true);
    assert!(scratch.ok(&["reranker", "list", "alike"]).contains("elsewhere: R@1 of single texts"));
    scratch.fails(
        2,
        &["reranker", "activate", "alike", "1"],
        "version 1 was judged in another collection\nhint: `firn reranker evaluate alike 1`",
    );
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
    assert_eq!(judged["version"]["judged_elsewhere"], false);
    scratch.fails(2, &["reranker", "activate", "two", "1"], "is not significantly better than cosine");
}

#[test]
fn what_no_model_makes_is_brought_or_refused() {
    let scratch = scratch();
    scratch.ok(&[&["train", "fusion", "c", "--kind", "mlp", "--extra", "raw"], &SMALL[..]].concat());
    let ridge = firn_model::load(scratch.path().join("ridge").to_str().unwrap(), Device::Cpu).unwrap();
    let db = Database::open(&scratch.path().join("firn-data"), Options::default()).unwrap();
    let engine = Engine::new(db, vec![ridge], Loading::Fixed(firn_model::Device::Cpu));
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
