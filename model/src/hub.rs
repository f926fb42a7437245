//! Models by hub name: `hf:org/name@revision`, kept in the cache that Hugging Face's own tools use.
//!
//! Only the files that a model is loaded from are fetched; each is resumed after a cut, checked against the hub's checksum,
//! and appears in the cache whole or not at all. What others put into the cache is used as it is.

mod cache;
mod http;

use std::path::{Path, PathBuf};

use serde_json::Value;

use self::{
    cache::{Cache, Part},
    http::{Answer, Failure, Http},
};
use crate::{
    Error, Result, decoder, facets,
    folder::join,
    pair::{Candidates, Layout, WEIGHT_FILES, shard_names},
    sentence,
};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const MAX_LIST_BYTES: u64 = 32 << 20;
/// Largest file that is fetched: 64 GiB.
const MAX_FILE_BYTES: u64 = 64 << 30;
/// How often a cut download is taken up again before it is given up.
const MAX_TRIES: usize = 5;

/// The folder of a model, fetched if need be.
pub(crate) fn fetch(repo: &str, revision: &str) -> Result<PathBuf> {
    Hub::from_vars(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?.fetch(repo, revision)
}

/// `org/name`, each of letters, digits, `-`, `_` and `.`, as the hub itself allows them.
pub(crate) fn is_repo(repo: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
            && !part.contains("..")
            && !part.contains("--")
    };
    repo.split_once('/').is_some_and(|(org, name)| is_part(org) && is_part(name))
}

/// A branch, a tag, `refs/pr/1` or a commit.
pub(crate) fn is_revision(revision: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+'))
    };
    revision.len() <= 128 && revision.split('/').all(is_part) && !revision.contains("..")
}

/// Settings, from the environment variables of Hugging Face's own tools.
struct Hub {
    http: Http,
    /// The folder that holds `models--org--name`.
    cache: PathBuf,
    offline: bool,
}

impl Hub {
    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Hub> {
        let home = cache_home(&var)?;
        let token = var("HF_TOKEN").or_else(|| {
            let path = var("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
            std::fs::read_to_string(path).ok()
        });
        let token = token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let offline = var("HF_HUB_OFFLINE").is_some_and(|v| matches!(&*v.to_lowercase(), "1" | "true" | "yes" | "on"));
        let cache = var("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        Ok(Hub { http: Http::new(endpoint.trim_end_matches('/'), token), cache, offline })
    }

    fn fetch(&self, repo: &str, revision: &str) -> Result<PathBuf> {
        let cache = Cache::new(&self.cache, repo);
        let cached = cache.snapshot(revision).filter(|folder| is_whole(folder));
        if let Some(folder) = cached.as_ref().filter(|_| is_commit(revision) || self.offline) {
            return Ok(folder.clone());
        }
        if self.offline {
            return Err(Error::Offline { repo: repo.to_owned(), revision: revision.to_owned() });
        }
        match (self.list(repo, revision), cached) {
            (Ok(listing), _) => Download { hub: self, repo, revision, listing, cache: &cache }.run(),
            (Err(failure), Some(folder)) if failure.unreachable => {
                tracing::warn!("{}; using the cached {repo}@{revision}", Error::from(failure));
                Ok(folder)
            }
            (Err(failure), _) => Err(failure.into()),
        }
    }

    /// What the hub has under a revision.
    fn list(&self, repo: &str, revision: &str) -> Result<Listing, Failure> {
        let path = format!("/api/models/{repo}/revision/{}", revision.replace('/', "%2F"));
        let bytes = self.http.read(&path, MAX_LIST_BYTES)?;
        Listing::parse(&bytes).map_err(|detail| self.http.failure(&path, detail))
    }

    fn download_file(&self, repo: &str, file: &str, commit: &str, cache: &Cache) -> Result<()> {
        if cache.folder(commit).join(file).is_file() {
            return Ok(());
        }
        let path = format!("/{repo}/resolve/{commit}/{file}");
        let about = self.http.about(&path)?;
        if about.length.is_some_and(|n| n > MAX_FILE_BYTES) {
            return Err(self.http.failure(&path, format!("expected at most {MAX_FILE_BYTES} bytes")).into());
        }
        if !cache.blob(&about.etag).is_file() {
            tracing::info!(repo, file, bytes = about.length, "fetching");
            let mut part = cache.part(&about.etag)?;
            // Another process may have finished it while this one waited for its turn.
            if !cache.blob(&about.etag).is_file() {
                self.fill(&path, about.length, &mut part)?;
                part.check(&about.etag)?;
                part.publish(&cache.blob(&about.etag))?;
            }
        }
        cache.link(commit, file, &about.etag)
    }

    /// Fetches what a part still lacks, going on where a cut left it.
    fn fill(&self, path: &str, length: Option<u64>, part: &mut Part) -> Result<()> {
        let mut last = None;
        for _ in 0..MAX_TRIES {
            if length.is_some_and(|n| part.length() > n) {
                part.clear()?;
            }
            if length.is_some_and(|n| part.length() == n) {
                return Ok(());
            }
            match self.http.get_from(path, part.length()) {
                Ok(Answer::Rest(body)) => last = part.append(body, MAX_FILE_BYTES)?,
                Ok(Answer::Whole(body)) => {
                    part.clear()?;
                    last = part.append(body, MAX_FILE_BYTES)?;
                }
                Ok(Answer::NothingThere) => part.clear()?,
                Err(failure) if failure.unreachable => last = Some(failure.detail),
                Err(failure) => return Err(failure.into()),
            }
            if length.is_none() && last.is_none() {
                return Ok(());
            }
        }
        if length.is_some_and(|n| part.length() == n) {
            return Ok(());
        }
        let cut = last.unwrap_or_else(|| "it ends too early".to_owned());
        let detail = format!("{} bytes received, then: {cut}; hint: try again, it goes on from there", part.length());
        Err(self.http.failure(path, detail).into())
    }
}

/// A model on its way into the cache.
struct Download<'a> {
    hub: &'a Hub,
    repo: &'a str,
    revision: &'a str,
    listing: Listing,
    cache: &'a Cache,
}

impl Download<'_> {
    /// What the first file says decides which others are read.
    fn run(&self) -> Result<PathBuf> {
        match self.listing.has(sentence::MODULES_FILE) {
            true => self.sentences()?,
            false => self.towers_or_decoder()?,
        }
        self.cache.remember(self.revision, &self.listing.commit)?;
        Ok(self.folder())
    }

    fn sentences(&self) -> Result<()> {
        self.get(sentence::MODULES_FILE)?;
        let layout = sentence::Layout::read(&self.folder())?;
        let optional = layout.optional_files().into_iter().filter(|file| self.listing.has(file));
        layout.small_files().into_iter().chain(optional).try_for_each(|file| self.get(&file))?;
        layout.weight_folders().into_iter().try_for_each(|within| self.weights(within, WEIGHT_FILES))
    }

    fn towers_or_decoder(&self) -> Result<()> {
        let layout = self.listing.layout();
        let small = layout.small_files(|name| self.listing.has(name));
        self.get(small[0])?;
        let is_decoder = decoder::is_in(&self.folder());
        let needed = |file: &&&str| !is_decoder || decoder::SMALL_FILES.contains(file);
        small[1..].iter().filter(needed).try_for_each(|file| self.get(file))?;
        self.weights("", layout.weight_files())
    }

    /// Of a folder of the model: the best one file that the hub has, or an index and its shards.
    fn weights(&self, within: &str, candidates: &Candidates) -> Result<()> {
        for (file, index) in candidates {
            let (file, index) = (join(within, file), index.map(|index| join(within, index)));
            if self.listing.has(&file) {
                return self.get(&file);
            }
            if let Some(index) = index.filter(|index| self.listing.has(index)) {
                self.get(&index)?;
                let path = self.folder().join(index);
                let shards = shard_names(&crate::folder::read_json(&path)?);
                let shards = shards.map_err(|detail| Error::BadFile { file: path, detail })?;
                return shards.iter().try_for_each(|shard| self.get(&join(within, shard)));
            }
        }
        Err(self.missing(&join(within, candidates[0].0)))
    }

    fn get(&self, file: &str) -> Result<()> {
        match self.listing.has(file) {
            true => self.hub.download_file(self.repo, file, &self.listing.commit, self.cache),
            false => Err(self.missing(file)),
        }
    }

    fn missing(&self, file: &str) -> Error {
        let folder = PathBuf::from(format!("hf:{}@{}", self.repo, self.revision));
        Error::MissingFile { folder, file: file.to_owned() }
    }

    fn folder(&self) -> PathBuf {
        self.cache.folder(&self.listing.commit)
    }
}

fn cache_home(var: impl Fn(&str) -> Option<String>) -> Result<PathBuf> {
    let under = |base: String, rest: &str| Path::new(&base).join(rest);
    var("HF_HOME")
        .map(PathBuf::from)
        .or_else(|| var("XDG_CACHE_HOME").map(|base| under(base, "huggingface")))
        .or_else(|| var("HOME").or_else(|| var("USERPROFILE")).map(|base| under(base, ".cache/huggingface")))
        .ok_or_else(|| Error::Hub {
            url: "HF_HOME".to_owned(),
            detail: "no home for the cache; hint: set HF_HOME".to_owned(),
        })
}

/// A commit and the files in it.
struct Listing {
    commit: String,
    files: Vec<String>,
}

impl Listing {
    fn parse(bytes: &[u8]) -> Result<Listing, String> {
        let json: Value = serde_json::from_slice(bytes).map_err(|e| format!("not a listing of a model: {e}"))?;
        let commit = json["sha"].as_str().filter(|sha| is_commit(sha)).ok_or("not a listing of a model: no commit")?;
        let files = json["siblings"].as_array().ok_or("not a listing of a model: no files")?;
        let files = files.iter().filter_map(|file| file["rfilename"].as_str()).map(str::to_owned).collect();
        Ok(Listing { commit: commit.to_owned(), files })
    }

    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file == name)
    }

    fn layout(&self) -> Layout {
        Layout::of_files(|name| self.has(name)).unwrap_or(Layout::HuggingFace)
    }
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Everything that loading reads is there.
fn is_whole(folder: &Path) -> bool {
    files(folder).is_ok_and(|files| files.iter().all(|(_, path)| path.is_file()))
}

/// Every file that a folder is loaded from, as (name, path).
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    if sentence::Layout::is_in(folder) {
        sentence::Layout::read(folder)?.files()
    } else if decoder::is_in(folder) {
        facets::files(folder)
    } else {
        Layout::of(folder).files(folder)
    }
}

#[cfg(test)]
mod tests;
