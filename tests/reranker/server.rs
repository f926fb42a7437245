//! At a server, by its calls and from the terminal.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use firn_client::{
    Client,
    v1::{EvaluateRerankerRequest, Job, JobState, RerankerParting, RerankerRecipe, TrainRerankerRequest},
};

use crate::{
    common::json,
    serving::Server,
    world::{N, SMALL, scratch},
};

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

/// What a stop breaks off goes on when it is asked for again; what is learnt for a collection that is deleted ends with it.
#[tokio::test]
async fn a_training_goes_on_after_a_stop_and_ends_with_its_collection() {
    let scratch = scratch();
    let (data, folder) = (scratch.path().join("firn-data"), scratch.path().join("ridge"));
    let start = || Server::start_with_model(&data, folder.to_str().unwrap(), &[]);
    let n_kept = || std::fs::read_dir(data.join("trainings")).unwrap().count();
    let (dim, lists) = (Some(16), Some(8));
    let recipe = RerankerRecipe { dim, lists, wide: dim, patience: Some(1_000_000), ..RerankerRecipe::default() };
    let ask = |seed: u64| TrainRerankerRequest {
        collection_name: "c".into(),
        kind: Some("mlp".into()),
        steps: Some(1_000_000),
        seed: Some(seed),
        recipe: Some(recipe),
        ..TrainRerankerRequest::default()
    };
    let learns = |job: &Job| job.state() == JobState::Learning;
    let server = start();
    let client = server.client().await;
    let job = client.train_reranker(ask(1)).await.unwrap();
    let seen = once(&client, &job.id, |job| learns(job) && job.done_count > 9).await;
    server.terminate();
    let (status, log) = server.ended();
    assert!(status.success() && n_kept() == 1, "{log}");

    let server = start();
    let client = server.client().await;
    let again = client.train_reranker(ask(1)).await.unwrap();
    let first = once(&client, &again.id, learns).await;
    assert!(first.done_count > seen.done_count, "{first:?} {seen:?}");
    client.cancel_job(&again.id).await.unwrap();
    assert_eq!(once(&client, &again.id, has_ended).await.state(), JobState::Cancelled);
    assert_eq!(n_kept(), 0, "who cancels does not go on");

    let other = client.train_reranker(ask(2)).await.unwrap();
    once(&client, &other.id, learns).await;
    client.delete_collection("c").await.unwrap();
    let ended = once(&client, &other.id, has_ended).await;
    assert_eq!((ended.state(), ended.error_reason.as_str()), (JobState::Failed, "COLLECTION_NOT_FOUND"));
    assert_eq!(n_kept(), 0);
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
