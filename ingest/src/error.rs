//! Why one item was not written. An item's error never stops the others.

use firn_index as index;
use firn_model as model;

/// What is wrong with one item. `reason` is its stable name, in reports and on the wire.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    #[error(transparent)]
    Model(model::Error),
    #[error(transparent)]
    Index(#[from] index::Error),
    #[error("text {text} is empty")]
    EmptyText { text: usize },
    #[error("the point has no image, text or vector")]
    EmptyPoint,
    #[error("an image for a collection without a vector \"image\": its vectors are {vectors:?}")]
    NoImageVector { vectors: Vec<String> },
    #[error("only texts for a collection without a vector \"text\": its vectors are {vectors:?}")]
    NoTextVector { vectors: Vec<String> },
    #[error("{what} for a collection without a model: the point must bring its vectors")]
    NoModel { what: &'static str },
    #[error("{what} to embed, but the model {model:?} is not loaded")]
    ModelNotLoaded { what: &'static str, model: String },
    #[error("the collection was made with model {expected}, this one is {received}")]
    WrongModel { expected: String, received: String },
    /// No fault of the item: the next run reads it again.
    #[error("the run was stopped before this point was embedded")]
    Stopped,
}

impl From<model::Error> for ItemError {
    fn from(error: model::Error) -> Self {
        ItemError::Model(error)
    }
}

impl ItemError {
    /// A stable name in snake_case.
    pub fn reason(&self) -> &'static str {
        match self {
            ItemError::Model(error) => model_reason(error),
            ItemError::Index(error) => index_reason(error),
            ItemError::EmptyText { .. } => "empty_text",
            ItemError::EmptyPoint => "empty_point",
            ItemError::NoImageVector { .. } => "no_image_vector",
            ItemError::NoTextVector { .. } => "no_text_vector",
            ItemError::NoModel { .. } => "no_model",
            ItemError::ModelNotLoaded { .. } => "model_not_loaded",
            ItemError::WrongModel { .. } => "wrong_model",
            ItemError::Stopped => "stopped",
        }
    }
}

fn model_reason(error: &model::Error) -> &'static str {
    use model::Error::*;
    match error {
        EmptyText => "empty_text",
        EmptyImage => "empty_image",
        TextTooLong { .. } | TooManyTokens { .. } => "text_too_long",
        NoImageSide { .. } => "no_image_side",
        NoTextSide { .. } => "no_text_side",
        ImageTooLarge { .. } | ImageTooHeavy { .. } => "image_too_large",
        UnknownImage { .. } => "unknown_image",
        BrokenImage { .. } => "broken_image",
        _ => "inference_failed",
    }
}

fn index_reason(error: &index::Error) -> &'static str {
    use index::Error::*;
    match error {
        InvalidId { .. } => "invalid_id",
        DuplicateId { .. } => "duplicate_id",
        NoVector { .. } => "no_vector",
        UnknownVector { .. } => "unknown_vector",
        WrongDimension { .. } => "wrong_dimension",
        NotFinite { .. } => "not_finite",
        ZeroVector { .. } => "zero_vector",
        UnknownTokens { .. } => "unknown_tokens",
        WrongTokens { .. } => "wrong_tokens",
        TokensNotFinite { .. } => "not_finite",
        LimitExceeded { .. } => "limit_exceeded",
        DiskFull { .. } => "disk_full",
        CollectionNotFound { .. } => "collection_not_found",
        Quarantined { .. } => "quarantined",
        Damaged { .. } => "damaged",
        Closed => "closed",
        _ => "storage_failed",
    }
}
