//! Every error of the crates below as what a client sees: a code, a stable reason, the field, and when to try again.

use std::time::Duration;

use firn_index as index;
use firn_ingest::ItemError;
use firn_model as model;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{engine, query, reranker};

/// The domain of `google.rpc.ErrorInfo`.
const DOMAIN: &str = "firn";

/// Why a call, or one item of it, is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: Code,
    /// Stable, in UPPER_SNAKE.
    pub reason: &'static str,
    pub message: String,
    /// The path of the field of the request that is wrong; empty when no field is.
    pub field: String,
    /// When the same call may succeed.
    pub retry: Option<Duration>,
}

impl Problem {
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Problem { code, reason, message: message.into(), field: String::new(), retry: None }
    }

    /// A request that can never succeed as it is.
    pub fn invalid(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Problem { field: field.into(), ..Problem::new(Code::InvalidArgument, reason, message) }
    }

    /// Puts `parent` before the field.
    pub fn within(mut self, parent: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => parent.to_owned(),
            field => format!("{parent}.{field}"),
        };
        self
    }

    /// The message, with the field if there is one.
    pub fn text(&self) -> String {
        match self.field.as_str() {
            "" => self.message.clone(),
            field => format!("{field}: {}", self.message),
        }
    }

    fn in_query(self) -> Self {
        if self.field.is_empty() { self } else { self.within("query") }
    }

    fn after(self, retry: Duration) -> Self {
        Problem { retry: Some(retry), ..self }
    }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let mut details = ErrorDetails::with_error_info(problem.reason, DOMAIN, []);
        if problem.code == Code::InvalidArgument && !problem.field.is_empty() {
            details.add_bad_request_violation(problem.field.as_str(), problem.message.as_str());
        }
        if let Some(retry) = problem.retry {
            details.set_retry_info(Some(retry));
        }
        Status::with_error_details(problem.code, problem.text(), details)
    }
}

/// The server has not opened its data yet.
pub fn starting() -> Problem {
    Problem::new(Code::Unavailable, "STARTING", "the server is starting").after(Duration::from_millis(500))
}

pub fn shutting_down() -> Problem {
    Problem::new(Code::Unavailable, "SHUTTING_DOWN", "the server is shutting down").after(Duration::from_secs(1))
}

pub fn too_many_requests(max: usize) -> Problem {
    let message = format!("{max} calls are in work: expected to be asked again");
    Problem::new(Code::ResourceExhausted, "TOO_MANY_REQUESTS", message).after(Duration::from_millis(100))
}

pub fn too_many_bytes() -> Problem {
    let message = "the points in work are as many bytes as fit: expected to be asked again";
    Problem::new(Code::ResourceExhausted, "TOO_MANY_REQUESTS", message).after(Duration::from_millis(100))
}

pub fn deadline_exceeded() -> Problem {
    Problem::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the deadline of the call has passed")
}

pub fn message_too_large(message: &str) -> Problem {
    Problem::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message)
}

pub fn reply_too_large(max: usize) -> Problem {
    let message = format!("the reply is larger than {max} bytes: ask for fewer points, or for less of each");
    Problem::new(Code::ResourceExhausted, "REPLY_TOO_LARGE", message)
}

/// A bug of ours that was caught; the log has the rest.
pub fn internal(message: impl Into<String>) -> Problem {
    Problem::new(Code::Internal, "INTERNAL", message)
}

/// What tonic says of a message that it could not take, in our words. Other statuses stay as they are.
pub fn of_transport(status: Status) -> Status {
    match (status.code(), status.message()) {
        (Code::OutOfRange, message) => message_too_large(message.trim_start_matches("Error, ")).into(),
        (Code::ResourceExhausted, message) if message.starts_with("Error decompressing") => {
            message_too_large(message).into()
        }
        (Code::Internal, message) if is_malformed(message) => {
            Problem::new(Code::InvalidArgument, "MALFORMED_MESSAGE", message).into()
        }
        _ => status,
    }
}

fn is_malformed(message: &str) -> bool {
    message.starts_with("failed to decode Protobuf") || message.starts_with("Error decompressing")
}

impl From<index::Error> for Problem {
    fn from(error: index::Error) -> Self {
        use index::Error::*;
        let message = error.to_string();
        let invalid = |field: String, reason| Problem::invalid(field, reason, message.clone());
        let with = |code, reason| Problem::new(code, reason, message.clone());
        match &error {
            CollectionNotFound { .. } => with(Code::NotFound, "COLLECTION_NOT_FOUND"),
            CollectionExists { .. } => with(Code::AlreadyExists, "COLLECTION_EXISTS"),
            AliasNotFound { .. } => with(Code::NotFound, "ALIAS_NOT_FOUND"),
            InvalidName { .. } => invalid("collection_name".to_owned(), "INVALID_NAME"),
            InvalidSetting { field, expected, received } => {
                let message = format!("expected {expected}, received {received}");
                Problem::invalid(setting_field(field), "INVALID_SETTING", message)
            }
            PointNotFound { .. } => with(Code::NotFound, "POINT_NOT_FOUND"),
            InvalidId { .. } => invalid("id".to_owned(), "INVALID_ID"),
            DuplicateId { .. } => invalid("id".to_owned(), "DUPLICATE_ID"),
            NoVector { .. } => invalid("vectors".to_owned(), "NO_VECTOR"),
            UnknownVector { received, .. } => invalid(vector_field(received), "UNKNOWN_VECTOR"),
            WrongDimension { vector, .. } => invalid(vector_field(vector), "WRONG_DIMENSION"),
            NotFinite { vector, .. } => invalid(vector_field(vector), "NOT_FINITE"),
            ZeroVector { vector } => invalid(vector_field(vector), "ZERO_VECTOR"),
            UnknownTokens { received, .. } => invalid(tokens_field(received), "UNKNOWN_TOKENS"),
            WrongTokens { tokens, .. } => invalid(tokens_field(tokens), "WRONG_TOKENS"),
            TokensNotFinite { tokens, .. } => invalid(tokens_field(tokens), "NOT_FINITE"),
            LimitExceeded { .. } => invalid(String::new(), "LIMIT_EXCEEDED"),
            DiskFull { .. } => with(Code::ResourceExhausted, "DISK_FULL").after(Duration::from_secs(30)),
            Locked { .. } => with(Code::FailedPrecondition, "LOCKED"),
            Quarantined { .. } => with(Code::DataLoss, "QUARANTINED"),
            Damaged { .. } => with(Code::DataLoss, "DAMAGED"),
            Closed => shutting_down(),
            Storage(_) => with(Code::Internal, "STORAGE"),
            _ => with(Code::Internal, "STORAGE"),
        }
    }
}

/// The index's words for its settings, as the protocol has them.
fn setting_field(field: &str) -> String {
    match field {
        "m" | "ef_construction" | "ef_search" => format!("hnsw.{field}"),
        "dim" => "vectors.dim".to_owned(),
        field => field.to_owned(),
    }
}

fn tokens_field(of: &str) -> String {
    format!("tokens[{of:?}]")
}

fn vector_field(name: &str) -> String {
    format!("vectors[{name:?}]")
}

impl From<model::Error> for Problem {
    fn from(error: model::Error) -> Self {
        use model::Error::*;
        let message = error.to_string();
        let invalid = |field: &str, reason| Problem::invalid(field, reason, message.clone());
        let with = |code, reason| Problem::new(code, reason, message.clone());
        match &error {
            UnknownModel { .. } => invalid("model", "UNKNOWN_MODEL"),
            EmptyText => invalid("text", "EMPTY_TEXT"),
            EmptyImage => invalid("image", "EMPTY_IMAGE"),
            TextTooLong { .. } | TooManyTokens { .. } => invalid("text", "TEXT_TOO_LONG"),
            ImageTooLarge { .. } | ImageTooHeavy { .. } => invalid("image", "IMAGE_TOO_LARGE"),
            UnknownImage { .. } => invalid("image", "UNKNOWN_IMAGE"),
            BrokenImage { .. } => invalid("image", "BROKEN_IMAGE"),
            NoImageSide { .. } => invalid("image", "NO_IMAGE_SIDE"),
            NoTextSide { .. } => invalid("text", "NO_TEXT_SIDE"),
            Inference(_) | GivenUp | NotFinite | Tokenizer { .. } => with(Code::Internal, "INFERENCE_FAILED"),
            _ => with(Code::FailedPrecondition, "MODEL_UNUSABLE"),
        }
    }
}

impl From<ItemError> for Problem {
    fn from(error: ItemError) -> Self {
        let message = error.to_string();
        let invalid = |field: String, reason| Problem::invalid(field, reason, message.clone());
        let precondition = |reason| Problem::new(Code::FailedPrecondition, reason, message.clone());
        match error {
            ItemError::Model(error) => error.into(),
            ItemError::Index(error) => error.into(),
            ItemError::EmptyText { text } => invalid(format!("texts[{text}].text"), "EMPTY_TEXT"),
            ItemError::EmptyPoint => invalid(String::new(), "EMPTY_POINT"),
            ItemError::NoImageVector { .. } => invalid("image".to_owned(), "NO_IMAGE_VECTOR"),
            ItemError::NoTextVector { .. } => invalid("texts".to_owned(), "NO_TEXT_VECTOR"),
            ItemError::NoModel { .. } => precondition("NO_MODEL"),
            ItemError::ModelNotLoaded { .. } => precondition("MODEL_NOT_LOADED"),
            ItemError::WrongModel { .. } => precondition("WRONG_MODEL"),
            other => internal(other.to_string()),
        }
    }
}

impl From<engine::Error> for Problem {
    fn from(error: engine::Error) -> Self {
        let message = error.to_string();
        match error {
            engine::Error::Model(error) => error.into(),
            engine::Error::ModelMismatch { .. } => Problem::new(Code::FailedPrecondition, "WRONG_MODEL", message),
            engine::Error::NoTokens { .. } => Problem::invalid("token_grid", "NO_TOKENS", message),
            engine::Error::ModelGone { .. } | engine::Error::NotLoaded { .. } => {
                Problem::new(Code::FailedPrecondition, "MODEL_NOT_LOADED", message)
            }
        }
    }
}

impl From<reranker::Error> for Problem {
    fn from(error: reranker::Error) -> Self {
        use reranker::Error::*;
        let message = error.to_string();
        match error {
            Setting { field, expected, received } => {
                let message = format!("expected {expected}, received {received}");
                Problem::invalid(field.replace('-', "_"), "OUT_OF_RANGE", message)
            }
            Closed => shutting_down(),
            Sizes { .. } => Problem::invalid("recipe", "OUT_OF_RANGE", message),
            NoTokens { .. } => Problem::new(Code::FailedPrecondition, "NO_TOKENS", message),
            UnknownVersion { .. } => Problem::invalid("version", "UNKNOWN_VERSION", message),
            Misfit { .. } => Problem::new(Code::FailedPrecondition, "WRONG_MODEL", message),
            NotJudged { .. } => Problem::new(Code::FailedPrecondition, "NOT_JUDGED", message),
            NoGain { .. } => Problem::new(Code::FailedPrecondition, "NO_GAIN", message),
            NothingBefore => Problem::new(Code::FailedPrecondition, "NOTHING_BEFORE", message),
            Lacking { .. } | NotFinite { .. } | TooLate => {
                Problem::new(Code::FailedPrecondition, "NOT_RERANKED", message)
            }
            NoPairs { .. } | Model(model::Error::BadPairs { .. }) => {
                Problem::new(Code::FailedPrecondition, "NO_PAIRS", message)
            }
            NoModel { .. } => Problem::new(Code::FailedPrecondition, "NO_MODEL", message),
            Unreadable { .. } => Problem::new(Code::DataLoss, "DAMAGED", message),
            Index(error) => error.into(),
            Model(error) => error.into(),
            Engine(error) => error.into(),
        }
    }
}

impl From<query::Error> for Problem {
    fn from(error: query::Error) -> Self {
        let message = error.to_string();
        match error {
            query::Error::Invalid { field, expected, received } => {
                let of_both = if field == "offset + limit" { "offset + limit: " } else { "" };
                let message = format!("{of_both}expected {expected}, received {received}");
                Problem::invalid(query_field(field), "OUT_OF_RANGE", message)
            }
            query::Error::NoModel { .. } => Problem::new(Code::FailedPrecondition, "NO_MODEL", message),
            query::Error::NoVector { .. } => Problem::invalid("query.id", "NO_VECTOR", message),
            query::Error::NotGiven { using, given } => {
                let message = format!("expected one named {using:?}, received {given:?}");
                Problem::invalid("query.vectors", "NO_VECTOR", message)
            }
            query::Error::NotReranked { .. } => Problem::new(Code::FailedPrecondition, "NOT_RERANKED", message),
            query::Error::Lacking { .. } => Problem::invalid("", "NOT_RERANKED", message),
            query::Error::NoReranker { .. } => Problem::new(Code::FailedPrecondition, "NO_RERANKER", message),
            query::Error::Item { field, error } => of_item(*error).within(&field),
            query::Error::Reranker(error) => Problem::from(*error),
            query::Error::AnswerTooLarge { max_bytes } => reply_too_large(max_bytes),
            query::Error::Index(error) => of_query_vector(error.into()),
            query::Error::Model(error) => Problem::from(error).in_query(),
            query::Error::Engine(error) => error.into(),
        }
    }
}

/// The fields of a question do not stand in those of an item.
fn of_item(error: query::Error) -> Problem {
    match error {
        query::Error::Index(error @ index::Error::WrongTokens { .. }) => Problem::from(error).within("vectors"),
        query::Error::Index(error) => error.into(),
        query::Error::Model(error) => error.into(),
        error => error.into(),
    }
}

/// The questions' words for their fields, as the protocol has them.
fn query_field(field: &str) -> &str {
    match field {
        "ef" => "params.hnsw_ef",
        "offset + limit" => "offset",
        field => field,
    }
}

/// The index calls every vector by its name; in a question there is but one.
fn of_query_vector(mut problem: Problem) -> Problem {
    problem.field = match problem.reason {
        "WRONG_DIMENSION" | "NOT_FINITE" | "ZERO_VECTOR" => "query.vector".to_owned(),
        "UNKNOWN_VECTOR" => "using".to_owned(),
        "WRONG_TOKENS" => format!("query.vectors.{}", problem.field),
        _ => problem.field,
    };
    problem
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;

    #[test]
    fn a_status_names_reason_field_and_retry() {
        let problem = Problem::invalid("vectors[\"a\"]", "NOT_FINITE", "no").within("points[3]");
        let status = Status::from(problem);
        let details = status.get_error_details();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "points[3].vectors[\"a\"]: no");
        assert_eq!(details.error_info().unwrap().reason, "NOT_FINITE");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "points[3].vectors[\"a\"]");

        let details = Status::from(too_many_requests(3)).get_error_details();
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(100)));
    }

    #[test]
    fn index_errors_have_their_codes() {
        let check = |error: index::Error, code, reason| {
            let problem = Problem::from(error);
            assert_eq!((problem.code, problem.reason), (code, reason));
        };
        let name = || "c".to_owned();
        check(index::Error::CollectionNotFound { name: name() }, Code::NotFound, "COLLECTION_NOT_FOUND");
        check(index::Error::CollectionExists { name: name() }, Code::AlreadyExists, "COLLECTION_EXISTS");
        check(index::Error::ZeroVector { vector: name() }, Code::InvalidArgument, "ZERO_VECTOR");
        check(index::Error::Quarantined { name: name(), reason: name() }, Code::DataLoss, "QUARANTINED");
        check(index::Error::Closed, Code::Unavailable, "SHUTTING_DOWN");
        check(index::Error::DiskFull { path: "/".into(), free: 1, needed: 2 }, Code::ResourceExhausted, "DISK_FULL");
    }

    /// The exit code of a command does not depend on whether it asked a server.
    #[test]
    fn an_error_ends_a_command_as_it_would_without_a_server() {
        fn check<E: std::error::Error + Into<Problem> + Send + Sync + 'static>(error: impl Fn() -> E) {
            let answered = firn_client::Error::from(Status::from(error().into()));
            let (here, there) = (anyhow::Error::from(error()), anyhow::Error::from(answered));
            assert_eq!(exit::code_of(&here), exit::code_of(&there), "{here:#}");
        }
        let text = || "x".to_owned();
        check(|| index::Error::CollectionNotFound { name: text() });
        check(|| index::Error::CollectionExists { name: text() });
        check(|| index::Error::InvalidName { name: text() });
        check(|| index::Error::Quarantined { name: text(), reason: text() });
        check(|| index::Error::DiskFull { path: "/".into(), free: 1, needed: 2 });
        check(|| index::Error::Locked { path: "/".into() });
        check(|| index::Error::ZeroVector { vector: text() });
        check(|| model::Error::UnknownModel { name: text() });
        check(|| model::Error::EmptyText);
        check(|| model::Error::MissingFile { folder: "f".into(), file: text() });
        let mismatch = || engine::Error::ModelMismatch {
            expected_name: text(),
            expected_hash: text(),
            received_name: text(),
            received_hash: text(),
        };
        check(mismatch);
        check(|| engine::Error::ModelGone { name: text(), hash: text() });
        check(|| engine::Error::NotLoaded { name: text() });
        check(|| engine::Error::NoTokens { name: text(), vectors: Vec::new() });
        check(|| query::Error::NoModel { collection: text() });
        check(|| query::Error::Engine(mismatch()));
        check(|| query::Error::AnswerTooLarge { max_bytes: 1 });
    }

    #[test]
    fn what_the_transport_refuses_gets_our_reason() {
        let check = |status: Status, code, reason: &str| {
            let status = of_transport(status);
            assert_eq!(status.code(), code);
            assert_eq!(status.get_error_details().error_info().unwrap().reason, reason);
        };
        check(Status::out_of_range("too large"), Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        check(Status::internal("failed to decode Protobuf message: x"), Code::InvalidArgument, "MALFORMED_MESSAGE");
        assert_eq!(of_transport(Status::internal("other")).code(), Code::Internal);
    }

    #[test]
    fn every_reason_stands_in_the_protocol() {
        let protocol = include_str!("../../proto/firn/v1/common.proto");
        let sources = [
            include_str!("status.rs"),
            include_str!("convert.rs"),
            include_str!("rerank.rs"),
            include_str!("rerankers.rs"),
            include_str!("jobs.rs"),
            include_str!("upsert_stream.rs"),
        ];
        let is_reason = |word: &&str| word.len() > 5 && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        let reasons = sources.iter().flat_map(|source| source.split('"')).filter(is_reason);
        let missing: Vec<&str> = reasons.filter(|reason| !protocol.contains(*reason)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
