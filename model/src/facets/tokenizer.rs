//! `tokenizer.json` of a decoder LLM: texts to ids with their places, and captions freed of special tokens.

use std::path::{Path, PathBuf};

use crate::{Error, Result, pair::tokenizer::open};

/// Longest caption that is looked at, in bytes.
const MAX_TEXT_BYTES: usize = 1 << 20;

pub(super) struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    /// What the tokenizer puts before every text: a start token, or nothing.
    start: Vec<u32>,
    vocab_size: usize,
}

/// A token, and the bytes of the text it stands for.
pub(super) struct Token {
    pub id: u32,
    pub begin: usize,
    pub end: usize,
}

impl Tokenizer {
    pub(super) fn read(path: &Path) -> Result<Tokenizer> {
        let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
        let mut inner = open(path)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| bad(e.to_string()))?;
        let ids = |special: bool| {
            inner.encode_fast("a", special).map(|e| e.get_ids().to_vec()).map_err(|e| bad(e.to_string()))
        };
        let (bare, framed) = (ids(false)?, ids(true)?);
        let start = framed.windows(bare.len().max(1)).position(|window| window == bare).unwrap_or(0);
        Ok(Tokenizer { path: path.to_owned(), start: framed[..start].to_vec(), inner, vocab_size: usize::MAX })
    }

    /// The same, for a decoder that knows so many tokens.
    pub(super) fn within(self, vocab_size: usize) -> Tokenizer {
        Tokenizer { vocab_size, ..self }
    }

    /// Tokens that stand before every text.
    pub(super) fn n_start(&self) -> usize {
        self.start.len()
    }

    /// The start token as text.
    pub(super) fn bos(&self) -> Result<String> {
        let token = self.start.first().and_then(|&id| self.inner.id_to_token(id));
        token.ok_or_else(|| Error::BadFile {
            file: self.path.clone(),
            detail: "expected a start token for {bos}, received none; hint: use a template without {bos}".to_owned(),
        })
    }

    /// The caption to ids and back, so that special tokens in it fall out; longer ones are refused or cut.
    pub(super) fn plain(&self, caption: &str, max_tokens: usize, cuts: bool) -> Result<String> {
        if caption.len() > MAX_TEXT_BYTES {
            return Err(Error::TextTooLong { bytes: caption.len(), max_bytes: MAX_TEXT_BYTES });
        }
        let mut ids = self.inner.encode_fast(caption, false).map_err(failed)?.get_ids().to_vec();
        let n_tokens = self.start.len() + ids.len();
        if n_tokens > max_tokens && !cuts {
            return Err(Error::TooManyTokens { n_tokens, max_tokens });
        }
        ids.truncate(max_tokens.saturating_sub(self.start.len()));
        let plain = self.inner.decode(&ids, true).map_err(failed)?;
        if plain.trim().is_empty() { Err(Error::EmptyText) } else { Ok(plain) }
    }

    /// With the start token first, which stands for no byte.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<Token>> {
        let encoding = self.inner.encode(text, false).map_err(failed)?;
        let start = self.start.iter().map(|&id| Token { id, begin: 0, end: 0 });
        let words = encoding.get_ids().iter().zip(encoding.get_offsets());
        let tokens: Vec<Token> = start.chain(words.map(|(&id, &(begin, end))| Token { id, begin, end })).collect();
        match tokens.iter().find(|token| token.id as usize >= self.vocab_size) {
            Some(Token { id, .. }) => {
                Err(Error::Tokenizer { detail: format!("token {id}: expected ids below {}", self.vocab_size) })
            }
            None => Ok(tokens),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn failed(error: tokenizers::Error) -> Error {
    Error::Tokenizer { detail: error.to_string() }
}
