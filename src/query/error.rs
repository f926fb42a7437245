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
    #[error("the answer is larger than {max_bytes} bytes: ask for fewer hits, or for less of each")]
    AnswerTooLarge { max_bytes: usize },
    #[error(transparent)]
    Index(#[from] firn_index::Error),
    #[error(transparent)]
    Model(#[from] firn_model::Error),
    #[error(transparent)]
    Engine(#[from] crate::engine::Error),
}
