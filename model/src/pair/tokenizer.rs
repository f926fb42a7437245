//! Text to token ids: `tokenizer.json`, cut to the model's length with the end token kept.

use std::path::Path;

use super::config::{Pooling, TextConfig};
use crate::{Error, Result, folder};

/// Longest text that is looked at, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 1 << 20;
/// Largest tokenizer.json that is read.
const MAX_FILE_BYTES: u64 = 256 << 20;

pub(crate) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_tokens: usize,
    vocab_size: usize,
    pooling: Pooling,
    /// Start and end tokens that every text gets.
    n_special: usize,
}

/// A text as the tower reads it.
pub(crate) struct Tokens {
    pub ids: Vec<u32>,
    /// Tokens beyond the limit, which were not read.
    pub n_cut: usize,
    /// Where the token stands whose state becomes the embedding.
    pub pooled_at: usize,
}

impl Tokenizer {
    pub(crate) fn read(path: &Path, config: &TextConfig) -> Result<Tokenizer> {
        let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
        let bytes = folder::read(path, MAX_FILE_BYTES)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| bad(e.to_string()))?;
        // Both are done here: the file's own settings differ from model to model, and hide what was cut.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| bad(e.to_string()))?;
        let n_special = inner.encode_fast("", true).map_err(|e| bad(e.to_string()))?.len();
        let max_tokens = config.max_position_embeddings;
        if n_special >= max_tokens {
            return Err(bad(format!("{n_special} special tokens leave no room among {max_tokens}")));
        }
        Ok(Tokenizer { inner, max_tokens, vocab_size: config.vocab_size, pooling: config.pooling, n_special })
    }

    /// `Error::EmptyText` for a text without a word.
    pub(crate) fn encode(&self, text: &str) -> Result<Tokens> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::TextTooLong { bytes: text.len(), max_bytes: MAX_TEXT_BYTES });
        }
        let encoding = self.inner.encode_fast(text, true).map_err(|e| Error::Tokenizer { detail: e.to_string() })?;
        let mut ids = encoding.get_ids().to_vec();
        if ids.len() <= self.n_special || text.trim().is_empty() {
            return Err(Error::EmptyText);
        }
        let n_cut = ids.len().saturating_sub(self.max_tokens);
        if n_cut > 0 {
            let end = ids[ids.len() - 1];
            ids.truncate(self.max_tokens);
            ids[self.max_tokens - 1] = end;
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            let detail = format!("token {id}: expected ids below {}", self.vocab_size);
            return Err(Error::Tokenizer { detail });
        }
        let pooled_at = self.pooling.position(&ids);
        Ok(Tokens { ids, n_cut, pooled_at })
    }
}

impl Pooling {
    /// The first of several, and 0 if there is none, as `argmax` answers.
    fn position(self, ids: &[u32]) -> usize {
        let wanted = match self {
            Pooling::LargestId => ids.iter().copied().max().unwrap_or(0),
            Pooling::First(id) => id,
        };
        ids.iter().position(|&id| id == wanted).unwrap_or(0)
    }
}
