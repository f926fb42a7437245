//! Text to token ids: `tokenizer.json`, cut to the model's length with the end token kept, and padded to it where the tower
//! wants every text at full length.

use std::{ops::Range, path::Path};

use super::config::{Pooling, TextConfig};
use crate::{Error, Result, folder};

/// Longest text that is looked at, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 1 << 20;
/// Largest tokenizer.json that is read.
const MAX_FILE_BYTES: u64 = 256 << 20;
const END: &str = "</s>";
const PAD: &str = "<pad>";

pub(crate) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_tokens: usize,
    vocab_size: usize,
    pooling: Pooling,
    /// Start and end tokens that every text gets.
    n_special: usize,
    /// For a tower that wants every text at full length.
    padding: Option<Padding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Padding {
    id: u32,
    /// In front of the text, where a file says so.
    left: bool,
}

/// A text as the tower reads it.
pub(crate) struct Tokens {
    pub ids: Vec<u32>,
    /// Those that are not padding.
    pub n_used: usize,
    /// Tokens beyond the limit, which were not read.
    pub n_cut: usize,
    /// Where the token stands whose state becomes the embedding.
    pub pooled_at: usize,
    /// How many pads stand in front.
    pub n_left: usize,
}

impl Tokens {
    /// Places that are neither padding nor behind the pooled token.
    pub(crate) fn text(&self) -> Range<usize> {
        self.n_left..(self.n_left + self.n_used).min(self.pooled_at + 1)
    }
}

/// A tokenizer.json.
pub(crate) fn open(path: &Path) -> Result<tokenizers::Tokenizer> {
    let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
    let bytes = folder::read(path, MAX_FILE_BYTES)?;
    // tokenizers panics at some keys that are no UTF-8.
    let text = String::from_utf8(bytes).map_err(|e| bad(e.to_string()))?;
    tokenizers::Tokenizer::from_bytes(text).map_err(|e| bad(e.to_string()))
}

impl Tokenizer {
    pub(crate) fn read(path: &Path, config: &TextConfig) -> Result<Tokenizer> {
        let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
        let mut inner = open(path)?;
        let said = inner.get_padding().cloned();
        // Both are done here: the file's own settings differ from model to model, and hide what was cut.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| bad(e.to_string()))?;
        let frame = Frame::of(&inner).map_err(bad)?;
        frame.check(config.pooling).map_err(bad)?;
        let padding = match config.pooling {
            Pooling::Last => Some(Padding::of(said, &inner, &frame, config.vocab_size).map_err(bad)?),
            Pooling::LargestId | Pooling::First(_) => None,
        };
        let n_special = inner.encode_fast("", true).map_err(|e| bad(e.to_string()))?.len();
        let max_tokens = config.max_position_embeddings;
        if n_special >= max_tokens {
            return Err(bad(format!("{n_special} special tokens leave no room among {max_tokens}")));
        }
        Ok(Tokenizer { inner, max_tokens, vocab_size: config.vocab_size, pooling: config.pooling, n_special, padding })
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
        let n_cut = cut(&mut ids, self.max_tokens, self.n_special);
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            let detail = format!("token {id}: expected ids below {}", self.vocab_size);
            return Err(Error::Tokenizer { detail });
        }
        let n_used = ids.len();
        let n_left = self.padding.map_or(0, |padding| padding.fill(&mut ids, self.max_tokens));
        let pooled_at = self.pooling.position(&ids).ok_or_else(|| {
            let detail = format!("expected the token that is pooled ({:?}) in each text, received none", self.pooling);
            Error::Tokenizer { detail }
        })?;
        Ok(Tokens { ids, n_used, n_cut, pooled_at, n_left })
    }
}

/// Leaves as many as the model takes, the end token among them, and says how many went.
pub(crate) fn cut(ids: &mut Vec<u32>, max_tokens: usize, n_special: usize) -> usize {
    let n_cut = ids.len().saturating_sub(max_tokens);
    if n_cut > 0 {
        let end = ids[ids.len() - 1];
        ids.truncate(max_tokens);
        if n_special > 0 {
            ids[max_tokens - 1] = end;
        }
    }
    n_cut
}

impl Padding {
    /// What the file says; else the end token of SigLIP, which goes on to the end, or the padding token of SigLIP 2. The
    /// config is no help: it has the same id for both.
    fn of(
        said: Option<tokenizers::PaddingParams>,
        tokenizer: &tokenizers::Tokenizer,
        frame: &Frame,
        vocab_size: usize,
    ) -> Result<Padding, String> {
        let left = said.as_ref().is_some_and(|p| matches!(p.direction, tokenizers::PaddingDirection::Left));
        let end = tokenizer.token_to_id(END).filter(|&id| frame.end == Some(id));
        let id = said.map(|p| p.pad_id).or(end).or_else(|| tokenizer.token_to_id(PAD));
        match id {
            None => {
                Err(format!("expected padding, {END} at the end of each text, or a token {PAD}; received none of them"))
            }
            Some(id) if id as usize >= vocab_size => {
                Err(format!("padding token: expected an id below {vocab_size}, received {id}"))
            }
            Some(id) => Ok(Padding { id, left }),
        }
    }

    /// How many stand in front.
    fn fill(self, ids: &mut Vec<u32>, length: usize) -> usize {
        let n_missing = length.saturating_sub(ids.len());
        let at = if self.left { 0 } else { ids.len() };
        ids.splice(at..at, std::iter::repeat_n(self.id, n_missing));
        if self.left { n_missing } else { 0 }
    }
}

/// What a tokenizer puts in front of every text, and behind it.
pub(crate) struct Frame {
    start: Option<u32>,
    end: Option<u32>,
    /// Tokens of a short text, as an error shows them.
    example: String,
    largest_id: Option<u32>,
}

impl Frame {
    pub(crate) fn of(tokenizer: &tokenizers::Tokenizer) -> Result<Frame, String> {
        let encoding = tokenizer.encode("a", true).map_err(|e| e.to_string())?;
        let ids = encoding.get_ids();
        let of_frame = |at: usize| (*encoding.get_special_tokens_mask().get(at)? == 1).then(|| ids[at]);
        Ok(Frame {
            start: of_frame(0),
            end: of_frame(ids.len().wrapping_sub(1)),
            example: encoding.get_tokens().join(" "),
            largest_id: ids.iter().max().copied(),
        })
    }

    /// That a tower finds what it pools, and every text begins and ends as those it was trained with.
    fn check(&self, pooling: Pooling) -> Result<(), String> {
        let pooled = match pooling {
            Pooling::LargestId => self.largest_id,
            Pooling::First(id) => Some(id),
            Pooling::Last if self.end.is_some() => return Ok(()),
            Pooling::Last => return Err(self.error("an end token behind each text")),
        };
        let is_framed = self.start.is_some() && self.start != pooled && self.end == pooled;
        let end = match pooling {
            Pooling::First(id) => format!("the end token {id}"),
            _ => "an end token of the largest id".to_owned(),
        };
        if is_framed { Ok(()) } else { Err(self.error(&format!("a start token before each text and {end} behind it"))) }
    }

    /// That there is a start and an end.
    pub(crate) fn check_both(&self) -> Result<(), String> {
        let both = self.start.is_some() && self.end.is_some();
        if both { Ok(()) } else { Err(self.error("a start token before each text and an end token behind it")) }
    }

    fn error(&self, expected: &str) -> String {
        format!("post_processor: expected {expected}, received {:?} of the text \"a\"", self.example)
    }
}

impl Pooling {
    /// The first of several, as `argmax` answers.
    fn position(self, ids: &[u32]) -> Option<usize> {
        let wanted = match self {
            Pooling::LargestId => ids.iter().copied().max()?,
            Pooling::First(id) => id,
            Pooling::Last => return ids.len().checked_sub(1),
        };
        ids.iter().position(|&id| id == wanted)
    }
}
