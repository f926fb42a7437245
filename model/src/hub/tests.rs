//! The hub is a thread on the loopback that answers as the real one does: listings, redirects to a store, ranges, etags.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::testing::fixture;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const REPO: &str = "org/tiny";

#[derive(Clone, Debug, PartialEq)]
struct Request {
    method: String,
    path: String,
    range: Option<String>,
    token: Option<String>,
}

/// What the stand-in does, and what it was asked.
#[derive(Default)]
struct Script {
    files: HashMap<String, Vec<u8>>,
    /// Where large files are kept, if elsewhere.
    store: Option<String>,
    needs_token: bool,
    /// The next body of weights ends after this many bytes.
    cut_after: Option<usize>,
    /// Bytes that are served in place of the weights.
    forged: Option<Vec<u8>>,
    log: Vec<Request>,
}

struct StandIn {
    script: Arc<Mutex<Script>>,
    address: String,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    fn start(script: Script) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let script = Arc::new(Mutex::new(script));
        let shared = script.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if !serve(stream.unwrap(), &shared) {
                    break;
                }
            }
        });
        StandIn { script, address, thread: Some(thread) }
    }

    fn with_model(folder: &str) -> StandIn {
        let mut files = HashMap::new();
        read_files(&fixture(folder), "", &mut files);
        StandIn::start(Script { files, ..Script::default() })
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    fn log(&self) -> Vec<Request> {
        std::mem::take(&mut self.script.lock().unwrap().log)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // A connection without a request ends the thread.
        drop(TcpStream::connect(&self.address));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn read_files(folder: &Path, within: &str, files: &mut HashMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = join(within, path.file_name().unwrap().to_str().unwrap());
        match path.is_dir() {
            true => read_files(&path, &name, files),
            false => _ = files.insert(name, std::fs::read(path).unwrap()),
        }
    }
}

/// Answers one request; false when there was none.
fn serve(stream: TcpStream, script: &Mutex<Script>) -> bool {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(|line| line.ok());
    let Some(first) = lines.next() else { return false };
    let headers: HashMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned())))
        .collect();
    let mut words = first.split(' ');
    let request = Request {
        method: words.next().unwrap().to_owned(),
        path: words.next().unwrap().to_owned(),
        range: headers.get("range").cloned(),
        token: headers.get("authorization").cloned(),
    };
    let mut script = script.lock().unwrap();
    script.log.push(request.clone());
    let answer = script.answer(&request);
    // The other side may hang up first.
    let _ = (&stream).write_all(&answer);
    true
}

impl Script {
    fn answer(&mut self, request: &Request) -> Vec<u8> {
        if self.needs_token && request.token.as_deref() != Some("Bearer hf_right") {
            return answer("401 Unauthorized", "", b"");
        }
        if let Some(rest) = request.path.strip_prefix("/api/models/org/tiny/revision/") {
            let known = rest == "main" || rest == "refs%2Fpr%2F1" || rest == COMMIT;
            return if known {
                answer("200 OK", "", self.listing().as_bytes())
            } else {
                answer("404 Not Found", "", b"")
            };
        }
        let of_repo = format!("/{REPO}/resolve/{COMMIT}/");
        let name =
            request.path.strip_prefix(&of_repo).or(request.path.strip_prefix("/store/")).unwrap_or("").to_owned();
        let Some(content) = self.files.get(&name).cloned() else { return answer("404 Not Found", "", b"") };
        if !request.path.starts_with("/store/") && name.ends_with(".safetensors") {
            let store = self.store.clone().unwrap_or_default();
            let etag = hex(&Sha256::digest(&content));
            let more = format!(
                "location: {store}/store/{name}\r\nx-linked-etag: \"{etag}\"\r\nx-linked-size: {}\r\n",
                content.len()
            );
            return answer("302 Found", &more, b"moved");
        }
        self.file(&name, content, request)
    }

    fn file(&mut self, name: &str, content: Vec<u8>, request: &Request) -> Vec<u8> {
        let mut git = Sha1::new_with_prefix(format!("blob {}\0", content.len()));
        git.update(&content);
        let etag = format!("etag: \"{}\"\r\n", hex(&git.finalize()));
        let is_weights = name.ends_with(".safetensors");
        let content = self.forged.clone().filter(|_| is_weights).unwrap_or(content);
        let from = request.range.as_ref().map_or(0, |r| r["bytes=".len()..r.len() - 1].parse::<usize>().unwrap());
        let (status, more) = match request.range {
            Some(_) => ("206 Partial Content", format!("{etag}content-range: bytes {from}-{0}/{0}\r\n", content.len())),
            None => ("200 OK", etag),
        };
        let mut whole = answer(status, &more, &content[from..]);
        if request.method == "HEAD" {
            whole.truncate(whole.len() - (content.len() - from));
        } else if let Some(n) = self.cut_after.take_if(|_| is_weights) {
            whole.truncate(whole.len() - (content.len() - from) + n);
        }
        whole
    }

    fn listing(&self) -> String {
        let siblings: Vec<Value> = self.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string()
    }
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A client with its own empty cache.
struct Client {
    home: TempDir,
    vars: HashMap<&'static str, String>,
}

impl Client {
    fn of(stand_in: &StandIn) -> Client {
        let home = tempfile::tempdir().unwrap();
        let vars = HashMap::from([("HF_HOME", home.path().display().to_string()), ("HF_ENDPOINT", stand_in.url())]);
        Client { home, vars }
    }

    fn with(mut self, name: &'static str, value: &str) -> Client {
        self.vars.insert(name, value.to_owned());
        self
    }

    fn fetch(&self, revision: &str) -> Result<PathBuf> {
        Hub::from_vars(|name| self.vars.get(name).cloned()).unwrap().fetch(REPO, revision)
    }

    fn repo(&self) -> PathBuf {
        self.home.path().join("hub/models--org--tiny")
    }

    fn error(&self, stand_in: &StandIn, revision: &str) -> String {
        self.fetch(revision).unwrap_err().to_string().replace(&stand_in.url(), "HUB")
    }
}

const MODELS: [&str; 6] =
    ["clip-quick", "clip-gelu", "siglip-2", "sentence-xlm-roberta", "sentence-distilbert", "decoder-mistral"];

#[test]
fn a_model_is_fetched_once_into_the_usual_layout() {
    for model in MODELS {
        let hub = StandIn::with_model(model);
        let client = Client::of(&hub);
        let folder = client.fetch("main").unwrap();
        assert_eq!(folder, client.repo().join("snapshots").join(COMMIT));
        assert_eq!(std::fs::read_to_string(client.repo().join("refs/main")).unwrap(), COMMIT);
        let names = |folder: &Path| files(folder).unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&folder), names(&fixture(model)));
        for (name, path) in files(&folder).unwrap() {
            assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(fixture(model).join(&name)).unwrap(), "{name}");
            #[cfg(unix)]
            assert!(
                std::fs::read_link(&path).unwrap().starts_with("../".repeat(2 + name.matches('/').count()) + "blobs")
            );
        }
        // Only what is needed was asked for, and nothing half-done stays.
        assert!(!folder.join("expected.safetensors").exists());
        let blobs = || std::fs::read_dir(client.repo().join("blobs")).unwrap().map(|e| e.unwrap().file_name());
        assert!(blobs().all(|name| !name.to_str().unwrap().contains('.')));

        hub.log();
        assert_eq!(client.fetch("main").unwrap(), folder);
        assert_eq!(hub.log().len(), 1, "the revision is asked for, the files are there");
        assert_eq!(client.fetch(COMMIT).unwrap(), folder);
        assert_eq!(hub.log(), [], "a commit never changes");
        assert_eq!(client.fetch("refs/pr/1").unwrap(), folder);
    }
}

#[test]
fn a_model_in_the_layout_of_open_clip_is_fetched_too() {
    let hub = StandIn::with_model("open-clip");
    let client = Client::of(&hub);
    assert!(client.error(&hub, "main").ends_with("tokenizer.json is missing"));
    let tokenizer = std::fs::read(fixture("clip-quick/tokenizer.json")).unwrap();
    hub.change(|script| _ = script.files.insert("tokenizer.json".to_owned(), tokenizer));
    let folder = client.fetch("main").unwrap();
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(
        names,
        ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"],
        "one file of weights"
    );
    hub.change(|script| _ = script.files.remove("open_clip_model.safetensors"));
    let other = Client::of(&hub);
    assert!(other.fetch("main").unwrap().join("open_clip_pytorch_model.bin").is_file());
}

#[test]
fn what_a_module_needs_is_named_if_it_is_missing() {
    for (model, file) in [
        ("sentence-distilbert", "0_Transformer/tokenizer.json"),
        ("sentence-distilbert", "2_Dense/model.safetensors"),
        ("sentence-xlm-roberta", "1_Pooling/config.json"),
        ("decoder-mistral", "tokenizer.json"),
    ] {
        let hub = StandIn::with_model(model);
        hub.change(|script| _ = script.files.remove(file).unwrap());
        assert_eq!(Client::of(&hub).error(&hub, "main"), format!("hf:org/tiny@main: {file} is missing"));
    }
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let hub = StandIn::with_model("clip-quick");
    let client = Client::of(&hub);
    hub.change(|script| script.cut_after = Some(1000));
    let folder = client.fetch("main").unwrap();
    let ranges: Vec<_> = hub.log().into_iter().filter_map(|r| r.range).collect();
    assert_eq!(ranges, ["bytes=1000-"; 2], "asked of the hub, then of the store");
    let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(weights, std::fs::read(fixture("clip-quick/model.safetensors")).unwrap());
}

#[test]
fn what_another_run_left_is_taken_up() {
    let hub = StandIn::with_model("clip-quick");
    let client = Client::of(&hub);
    let weights = std::fs::read(fixture("clip-quick/model.safetensors")).unwrap();
    let part = client.repo().join("blobs").join(format!("{}.incomplete", hex(&Sha256::digest(&weights))));
    std::fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::fs::write(&part, &weights[..500]).unwrap();
    client.fetch("main").unwrap();
    assert!(hub.log().iter().any(|r| r.range.as_deref() == Some("bytes=500-")));
    assert!(!part.exists());
}

#[test]
fn forged_weights_are_refused_and_not_kept() {
    let hub = StandIn::with_model("clip-quick");
    let client = Client::of(&hub);
    let mut forged = std::fs::read(fixture("clip-quick/model.safetensors")).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    hub.change(|script| script.forged = Some(forged));
    let error = client.fetch("main").unwrap_err();
    assert!(matches!(&error, Error::Checksum { expected, received, .. } if expected != received), "{error}");
    assert!(!client.repo().join("snapshots").join(COMMIT).join("model.safetensors").exists());
    hub.change(|script| script.forged = None);
    client.fetch("main").unwrap();
}

#[test]
fn refusals_say_what_to_do() {
    let hub = StandIn::with_model("clip-quick");
    let client = Client::of(&hub);
    assert_eq!(
        client.error(&hub, "v9"),
        "HUB/api/models/org/tiny/revision/v9: status 404: no such model, revision or file"
    );
    hub.change(|script| script.needs_token = true);
    assert_eq!(
        client.error(&hub, "main"),
        "HUB/api/models/org/tiny/revision/main: status 401: private, gated or not there; hint: set HF_TOKEN to a token \
         that may read it"
    );
    let client = client.with("HF_TOKEN", "hf_wrong");
    assert!(client.error(&hub, "main").ends_with("hint: check HF_TOKEN"));
    client.with("HF_TOKEN", "hf_right\n").fetch("main").unwrap();

    hub.change(|script| {
        script.needs_token = false;
        script.files.remove("tokenizer.json");
    });
    assert_eq!(Client::of(&hub).error(&hub, "main"), "hf:org/tiny@main: tokenizer.json is missing");
}

#[test]
fn the_token_is_for_the_hub_alone() {
    let store = StandIn::with_model("clip-quick");
    let hub = StandIn::with_model("clip-quick");
    hub.change(|script| {
        script.needs_token = true;
        script.store = Some(store.url());
    });
    // From its file, as `hf auth login` leaves it.
    let client = Client::of(&hub);
    std::fs::write(client.home.path().join("token"), "hf_right").unwrap();
    client.fetch("main").unwrap();
    assert!(hub.log().iter().all(|r| r.token.is_some()));
    let asked = store.log();
    assert!(!asked.is_empty() && asked.iter().all(|r| r.token.is_none()), "{asked:?}");
}

#[test]
fn without_the_network_the_cache_is_enough_or_the_error_says_so() {
    let hub = StandIn::with_model("clip-quick");
    let client = Client::of(&hub).with("HF_HUB_OFFLINE", "1");
    let error = client.fetch("main").unwrap_err();
    assert!(matches!(error, Error::Offline { .. }));
    assert_eq!(error.to_string(), "model org/tiny@main is not in the cache, and the network is off");
    assert_eq!(hub.log(), []);

    let client = client.with("HF_HUB_OFFLINE", "0");
    let folder = client.fetch("main").unwrap();
    hub.log();
    let client = client.with("HF_HUB_OFFLINE", "TRUE");
    assert_eq!(client.fetch("main").unwrap(), folder);
    assert_eq!(hub.log(), []);

    // A hub that does not answer: the cache serves, and an empty one gives the reason.
    drop(hub);
    let client = client.with("HF_HUB_OFFLINE", "");
    assert_eq!(client.fetch("main").unwrap(), folder);
    std::fs::remove_dir_all(client.repo()).unwrap();
    let error = client.fetch("main").unwrap_err();
    assert!(matches!(&error, Error::Hub { url, .. } if url.contains("/api/models/org/tiny")), "{error}");
}

#[test]
fn settings_are_those_of_other_tools() {
    let hub = |vars: &[(&str, &str)]| {
        Hub::from_vars(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())).map(|hub| hub.cache)
    };
    assert_eq!(hub(&[("HF_HOME", "/a")]).unwrap(), Path::new("/a/hub"));
    assert_eq!(hub(&[("HF_HOME", "/a"), ("HF_HUB_CACHE", "/b")]).unwrap(), Path::new("/b"));
    assert_eq!(hub(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).unwrap(), Path::new("/x/huggingface/hub"));
    assert_eq!(hub(&[("HOME", "/h")]).unwrap(), Path::new("/h/.cache/huggingface/hub"));
    assert!(hub(&[]).unwrap_err().to_string().ends_with("hint: set HF_HOME"));
}

#[test]
fn names_that_could_leave_the_cache_are_refused() {
    for (repo, good) in [
        ("openai/clip-vit-base-patch32", true),
        ("a/b.c_d", true),
        ("clip", false),
        ("a/b/c", false),
        ("../b", false),
        ("a/..", false),
        ("a/.b", false),
        ("a/b--c", false),
        ("a b/c", false),
        ("/b", false),
        ("a/", false),
        ("a/b?c", false),
    ] {
        assert_eq!(is_repo(repo), good, "{repo}");
    }
    for (revision, good) in [
        ("main", true),
        ("v1.0", true),
        ("refs/pr/1", true),
        (COMMIT, true),
        ("", false),
        ("../x", false),
        ("a//b", false),
        ("/a", false),
        ("a b", false),
        ("a?b", false),
        (".a", false),
    ] {
        assert_eq!(is_revision(revision), good, "{revision}");
    }
}

#[test]
fn rubbish_listings_are_named() {
    for listing in ["", "[]", "{}", r#"{"sha": "main", "siblings": []}"#, r#"{"sha": "../../../../etc"}"#] {
        let error = Listing::parse(listing.as_bytes()).err().unwrap();
        assert!(error.starts_with("not a listing of a model"), "{error}");
    }
}
