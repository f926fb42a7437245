//! Why a question has no answer.

/// By what the caller can do: mend the request, or the server's choice of model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{field}: expected {expected}, received {received}")]
    Invalid { field: &'static str, expected: String, received: String },
    #[error("collection {collection:?} has no model: ask with a vector or a point id")]
    NoModel { collection: String },
    #[error("point {id} has no vector named {using:?}")]
    NoVector { id: firn_index::PointId, using: String },
    #[error("query.vectors: expected one named {using:?}, received {given:?}")]
    NotGiven { using: String, given: Vec<String> },
    #[error("the answer cannot be re-ranked: {reason}")]
    NotReranked { reason: String },
    #[error("expected {what}, which the network reads")]
    Lacking { what: String },
    #[error("collection {collection:?} has no active network; hint: activate one, or name a version")]
    NoReranker { collection: String },
    /// Of something that is to be scored, by its field of the request.
    #[error("{field}: {error}")]
    Item { field: String, error: Box<Error> },
    #[error("the answer is larger than {max_bytes} bytes: ask for fewer hits, or for less of each")]
    AnswerTooLarge { max_bytes: usize },
    #[error(transparent)]
    Index(#[from] firn_index::Error),
    #[error(transparent)]
    Model(#[from] firn_model::Error),
    #[error(transparent)]
    Engine(#[from] crate::engine::Error),
    #[error(transparent)]
    Reranker(Box<crate::reranker::Error>),
}

impl From<crate::reranker::Error> for Error {
    fn from(error: crate::reranker::Error) -> Error {
        Error::Reranker(Box::new(error))
    }
}

impl Error {
    pub(super) fn not_reranked(reason: impl Into<String>) -> Error {
        Error::NotReranked { reason: reason.into() }
    }
}
