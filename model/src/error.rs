//! What can go wrong, by what the caller can do about it.

use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("no model at {name:?}: expected `builtin`, a folder, or `hf:org/name@revision`")]
    UnknownModel { name: String },
    #[error("{folder}: {file} is missing")]
    MissingFile { folder: PathBuf, file: String },
    #[error("{file}: tensor {tensor}: expected {expected}, received {received}")]
    WrongTensor { file: PathBuf, tensor: String, expected: String, received: String },
    #[error("{file}: {detail}")]
    BadFile { file: PathBuf, detail: String },
    /// Something that a user wants learnt from, no part of a model.
    #[error("{file}: {detail}")]
    BadData { file: PathBuf, detail: String },
    #[error("no pairs to learn from: {detail}")]
    BadPairs { detail: String },
    #[error("the device gave up the network")]
    GivenUp,
    /// The file is not there where a user named the family.
    #[error("{}model family {received:?} is not known: expected one of {expected}", prefix(file))]
    UnknownFamily { file: Option<PathBuf>, expected: String, received: String },
    #[error("model {model} takes no images")]
    NoImageSide { model: String },
    #[error("model {model} takes no texts")]
    NoTextSide { model: String },
    #[error("model {model}: images become {image_dim} numbers, texts {text_dim}: expected as many")]
    SidesDisagree { model: String, image_dim: usize, text_dim: usize },
    #[error("tokens {received:?} are not known: expected 4x4 or 7x7")]
    UnknownGrid { received: String },
    #[error("device {received:?} is not known: expected auto, cpu or cuda")]
    UnknownDevice { received: String },
    #[error("device {device} cannot be used: {detail}")]
    NoDevice { device: String, detail: String },
    #[error(
        "{file}: needs {needed_bytes} bytes of memory, {available_bytes} are available; hint: a GGUF file of the same model is smaller"
    )]
    TooLittleMemory { file: PathBuf, needed_bytes: u64, available_bytes: u64 },
    #[error("the text is empty")]
    EmptyText,
    #[error("the text has {bytes} bytes: at most {max_bytes}")]
    TextTooLong { bytes: usize, max_bytes: usize },
    #[error("the text has {n_tokens} tokens: at most {max_tokens}")]
    TooManyTokens { n_tokens: usize, max_tokens: usize },
    #[error("the text cannot be tokenized: {detail}")]
    Tokenizer { detail: String },
    #[error("pixels of {received_px} x {received_px}: expected {expected_px} x {expected_px}")]
    WrongPixels { expected_px: usize, received_px: usize },
    #[error("inference: an embedding is not finite; hint: the weights are damaged, see `firn model check`")]
    NotFinite,
    #[error("the image is empty")]
    EmptyImage,
    #[error("the image is {width} x {height} pixels: at most {max_side} a side and {max_pixels} in all")]
    ImageTooLarge { width: u32, height: u32, max_side: u32, max_pixels: u64 },
    #[error("the image needs {needs_mib} MiB to decode: at most {max_mib}")]
    ImageTooHeavy { needs_mib: u64, max_mib: u64 },
    #[error("not a picture that can be read ({detail}): expected JPEG, PNG, WebP or GIF")]
    UnknownImage { detail: String },
    #[error("the {format} image is broken: {detail}")]
    BrokenImage { format: &'static str, detail: String },
    #[error("model {repo}@{revision} is not in the cache, and the network is off")]
    Offline { repo: String, revision: String },
    #[error("{url}: {detail}")]
    Hub { url: String, detail: String },
    #[error("{file}: checksum: expected {expected}, received {received}")]
    Checksum { file: PathBuf, expected: String, received: String },
    #[error("inference: {0}")]
    Inference(#[from] candle_core::Error),
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
}

impl Error {
    /// With the file that says so, where it is only known further out.
    pub(crate) fn said_by(self, path: &Path) -> Error {
        match self {
            Error::UnknownFamily { file: None, expected, received } => {
                Error::UnknownFamily { file: Some(path.to_owned()), expected, received }
            }
            other => other,
        }
    }
}

fn prefix(file: &Option<PathBuf>) -> String {
    file.as_ref().map(|file| format!("{}: ", file.display())).unwrap_or_default()
}
