//! Requests to the hub: redirects followed by hand, so that the token goes to the hub's own host and nowhere else.

use std::{io::Read, time::Duration};

use ureq::{Agent, Body, http::Response};

use crate::Error;

const MAX_REDIRECTS: usize = 5;

pub(super) struct Http {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// A request that did not lead to what was asked for.
pub(super) struct Failure {
    pub url: String,
    pub detail: String,
    /// The hub was not reached, or is not well; another try may do.
    pub unreachable: bool,
}

/// What the hub says of a file before it is fetched.
pub(super) struct About {
    /// Checksum, and name in the cache.
    pub etag: String,
    pub length: Option<u64>,
}

pub(super) enum Answer {
    /// From the asked-for byte on.
    Rest(Box<dyn Read>),
    /// From the start, whatever was asked for.
    Whole(Box<dyn Read>),
    /// The file ends before the asked-for byte.
    NothingThere,
}

impl Http {
    pub(super) fn new(endpoint: &str, token: Option<String>) -> Http {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .user_agent(concat!("firn/", env!("CARGO_PKG_VERSION")))
            .build();
        Http { agent: config.new_agent(), endpoint: endpoint.to_owned(), token }
    }

    pub(super) fn failure(&self, path: &str, detail: String) -> Failure {
        Failure { url: format!("{}{path}", self.endpoint), detail, unreachable: false }
    }

    /// A small answer as a whole.
    pub(super) fn read(&self, path: &str, max_bytes: u64) -> Result<Vec<u8>, Failure> {
        let answer = self.follow("GET", path, 0)?;
        let read = answer.into_body().into_with_config().limit(max_bytes).read_to_vec();
        read.map_err(|e| Failure { unreachable: true, ..self.failure(path, e.to_string()) })
    }

    pub(super) fn about(&self, path: &str) -> Result<About, Failure> {
        let answer = self.follow("HEAD", path, 0)?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let etag = header("x-linked-etag").or_else(|| header("etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if etag.is_empty() || etag.len() > 128 || !etag.chars().all(is_plain) {
            return Err(self.failure(path, format!("expected a checksum as etag, received {etag:?}")));
        }
        // The length of a redirect is its own, not the file's.
        let length = header("x-linked-size").or_else(|| header("content-length").filter(|_| answer.status() == 200));
        Ok(About { etag, length: length.and_then(|n| n.parse().ok()) })
    }

    pub(super) fn get_from(&self, path: &str, from: u64) -> Result<Answer, Failure> {
        let answer = self.follow("GET", path, from)?;
        let range = answer.headers().get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
        match answer.status().as_u16() {
            206 if range.starts_with(&format!("bytes {from}-")) => {
                Ok(Answer::Rest(Box::new(answer.into_body().into_reader())))
            }
            206 => Err(self.failure(path, format!("expected bytes from {from}, received {range:?}"))),
            416 => Ok(Answer::NothingThere),
            _ => Ok(Answer::Whole(Box::new(answer.into_body().into_reader()))),
        }
    }

    /// The answer at the end of the redirects; of a HEAD, the first one that names a checksum.
    fn follow(&self, method: &str, path: &str, from: u64) -> Result<Response<Body>, Failure> {
        let mut url = format!("{}{path}", self.endpoint);
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send(method, &url, from)?;
            let named = method == "HEAD" && answer.headers().contains_key("x-linked-etag");
            match answer.status().as_u16() {
                200 | 206 | 416 => return Ok(answer),
                301 | 302 | 303 | 307 | 308 if named => return Ok(answer),
                301 | 302 | 303 | 307 | 308 => url = next_url(&url, &answer)?,
                status => return Err(refusal(url, status, self.token.is_some())),
            }
        }
        Err(Failure { url, detail: format!("more than {MAX_REDIRECTS} redirects"), unreachable: false })
    }

    fn send(&self, method: &str, url: &str, from: u64) -> Result<Response<Body>, Failure> {
        let mut request = if method == "HEAD" { self.agent.head(url) } else { self.agent.get(url) };
        request = request.header("accept-encoding", "identity");
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| origin(url) == origin(&self.endpoint)) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.call().map_err(|e| Failure { url: url.to_owned(), detail: e.to_string(), unreachable: true })
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::Hub { url: failure.url, detail: failure.detail }
    }
}

fn next_url(url: &str, answer: &Response<Body>) -> Result<String, Failure> {
    let failure = |detail: String| Failure { url: url.to_owned(), detail, unreachable: false };
    let location = answer.headers().get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let next = match location {
        l if l.starts_with("//") => return Err(failure(format!("expected a full address, received {l:?}"))),
        l if l.starts_with('/') => format!("{}{l}", origin(url)),
        l if l.starts_with("https://") || l.starts_with("http://") => l.to_owned(),
        l => return Err(failure(format!("expected an address to go on to, received {l:?}"))),
    };
    if url.starts_with("https://") && next.starts_with("http://") {
        return Err(failure(format!("redirected to the unprotected {next}")));
    }
    Ok(next)
}

fn refusal(url: String, status: u16, has_token: bool) -> Failure {
    let detail = match (status, has_token) {
        (401 | 403, false) => {
            format!("status {status}: private, gated or not there; hint: set HF_TOKEN to a token that may read it")
        }
        (401 | 403, true) => format!("status {status}: not there, or the token may not read it; hint: check HF_TOKEN"),
        (404, _) => "status 404: no such model, revision or file".to_owned(),
        _ => format!("status {status}"),
    };
    Failure { url, detail, unreachable: status == 429 || status >= 500 }
}

/// Scheme, host and port.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    &url[..end]
}
