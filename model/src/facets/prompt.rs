//! A caption as the decoder reads it: the prefix, then all facets one behind the other, and who of them sees whom.
//! Several captions lie as the rows of one rectangle.

use candle_core::{Device, Tensor};

use super::{
    Mode,
    template::{Template, clean},
    tokenizer::{Token, Tokenizer},
};
use crate::{Error, Result, decoder};

pub(super) struct Prompt {
    pub ids: Vec<u32>,
    /// Tokens up to the end of the prefix, then up to the end of each facet.
    pub ends: Vec<usize>,
    /// Of each token: 0 in the prefix, else 1 + the facet it belongs to.
    pieces: Vec<usize>,
}

/// Prompts padded to one length.
pub(super) struct Batch {
    /// (batch, tokens)
    pub ids: Tensor,
    /// (batch, tokens)
    pub positions: Tensor,
    /// (batch, 1, tokens, tokens)
    pub mask: Tensor,
    /// (batch, facets): columns of each facet's last token.
    pub facet_columns: Vec<Vec<u32>>,
}

impl Prompt {
    pub(super) fn new(template: &Template, tokenizer: &Tokenizer, caption: &str, mode: Mode) -> Result<Prompt> {
        let plain = tokenizer.plain(caption, template.max_caption_tokens, mode == Mode::Reference)?;
        let bos = if template.needs_bos() { tokenizer.bos()? } else { String::new() };
        let filled = template.fill(&clean(&plain), &bos);
        let tokens = tokenizer.encode(&filled.text)?;
        let ends = filled.ends.iter().map(|&end| n_tokens_before(&tokens, end));
        let ends = ends.collect::<Option<Vec<usize>>>().filter(|ends| ends.is_sorted_by(|a, b| a < b));
        let ends = ends.ok_or_else(|| Error::BadFile {
            file: tokenizer.path().to_owned(),
            detail: "expected tokens that end where the prefix and each facet end, received one across".to_owned(),
        })?;
        let pieces = (0..tokens.len()).map(|i| ends.partition_point(|&end| end <= i)).collect();
        Ok(Prompt { ids: tokens.into_iter().map(|token| token.id).collect(), ends, pieces })
    }

    pub(super) fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    fn n_facets(&self) -> usize {
        self.ends.len() - 1
    }

    /// Facet-decoupled attention: what comes before, in the prefix or in the same facet.
    fn sees(&self, row: usize, column: usize) -> bool {
        column <= row && (self.pieces[column] == 0 || self.pieces[column] == self.pieces[row])
    }
}

/// What a prompt takes beside its caption and the start token, which counts as the caption's.
pub(super) fn n_own_tokens(template: &Template, tokenizer: &Tokenizer) -> Result<usize> {
    let bos = if template.needs_bos() { tokenizer.bos()? } else { String::new() };
    Ok(tokenizer.encode(&template.fill(&clean(""), &bos).text)?.len() - tokenizer.n_start())
}

/// `None` if a token stands across that byte.
fn n_tokens_before(tokens: &[Token], byte: usize) -> Option<usize> {
    let n = tokens.partition_point(|token| token.end <= byte);
    tokens.get(n).is_none_or(|next| next.begin >= byte).then_some(n)
}

impl Batch {
    /// Pads stand on the right, seen by nobody. The published code has them on the left, where they count as positions,
    /// and with several facets it hides the rows of pads instead of their columns, so that each text sees its padding.
    pub(super) fn new(prompts: &[&Prompt], mode: Mode, device: &Device) -> Result<Batch> {
        let width = prompts.iter().map(|prompt| prompt.n_tokens()).max().unwrap_or(0);
        let n_left = |prompt: &Prompt| if mode == Mode::Reference { width - prompt.n_tokens() } else { 0 };
        let id = |prompt: &Prompt, column: usize| {
            column.checked_sub(n_left(prompt)).and_then(|i| prompt.ids.get(i)).copied().unwrap_or(0)
        };
        let sees = |batch: usize, row: usize, column: usize| {
            let prompt = prompts[batch];
            let place = |column: usize| column.checked_sub(n_left(prompt)).filter(|&i| i < prompt.n_tokens());
            match (place(row), place(column)) {
                (Some(row), Some(column)) => prompt.sees(row, column),
                (Some(_), None) => mode == Mode::Reference && prompt.n_facets() > 1,
                (None, _) => false,
            }
        };
        let ids: Vec<u32> = prompts.iter().flat_map(|p| (0..width).map(|column| id(p, column))).collect();
        let columns = |prompt: &Prompt| prompt.ends[1..].iter().map(|end| (n_left(prompt) + end - 1) as u32).collect();
        Ok(Batch {
            ids: Tensor::from_vec(ids, (prompts.len(), width), device)?,
            positions: Tensor::arange(0, width as u32, device)?.repeat((prompts.len(), 1))?,
            mask: decoder::mask((prompts.len(), width, width), device, sees)?,
            facet_columns: prompts.iter().map(|prompt| columns(prompt)).collect(),
        })
    }
}
