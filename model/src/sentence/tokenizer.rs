//! Text to token ids: `tokenizer.json` behind a prompt and lower case where the folder wants them, cut to the model's length
//! with the end token kept.

use std::path::Path;

use tokenizers::{
    NormalizerWrapper,
    normalizers::{Lowercase, Sequence},
};

use super::{config::Config, layout::Reading};
use crate::{
    Error, Result,
    pair::tokenizer::{Frame, MAX_TEXT_BYTES, cut, open},
};

pub(crate) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    config: Config,
    max_tokens: usize,
    /// Start and end tokens that every text gets.
    n_special: usize,
    prompt: String,
}

/// A text as the tower reads it.
pub(crate) struct Tokens {
    pub ids: Vec<u32>,
    /// Rows of the table of places.
    pub places: Vec<u32>,
    /// Tokens beyond the limit, which were not read.
    pub n_cut: usize,
}

impl Tokenizer {
    pub(crate) fn read(path: &Path, config: &Config, reading: &Reading) -> Result<Tokenizer> {
        let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
        let mut inner = open(path)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| bad(e.to_string()))?;
        Frame::of(&inner).and_then(|frame| frame.check_both()).map_err(bad)?;
        if reading.lower_case {
            let then = inner.get_normalizer().cloned();
            let both = [NormalizerWrapper::Lowercase(Lowercase)].into_iter().chain(then).collect();
            inner.with_normalizer(Some(Sequence::new(both))).map_err(|e| bad(e.to_string()))?;
        }
        let n_special = inner.encode_fast("", true).map_err(|e| bad(e.to_string()))?.len();
        let max_tokens = reading.max_tokens.unwrap_or(usize::MAX).min(config.max_tokens());
        if n_special >= max_tokens {
            return Err(bad(format!("{n_special} special tokens leave no room among {max_tokens}")));
        }
        Ok(Tokenizer { inner, config: config.clone(), max_tokens, n_special, prompt: reading.prompt.clone() })
    }

    pub(crate) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// `Error::EmptyText` for a text without a word.
    pub(crate) fn encode(&self, text: &str) -> Result<Tokens> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::TextTooLong { bytes: text.len(), max_bytes: MAX_TEXT_BYTES });
        }
        let ids = |text: &str| match self.inner.encode_fast(text, true) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(Error::Tokenizer { detail: error.to_string() }),
        };
        let mut ids = if self.prompt.is_empty() { ids(text)? } else { ids(&format!("{}{text}", self.prompt))? };
        if ids.len() <= self.n_special || text.trim().is_empty() {
            return Err(Error::EmptyText);
        }
        let n_cut = cut(&mut ids, self.max_tokens, self.n_special);
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            let detail = format!("token {id}: expected ids below {}", self.config.vocab_size);
            return Err(Error::Tokenizer { detail });
        }
        Ok(Tokens { places: self.config.places(&ids), ids, n_cut })
    }
}
