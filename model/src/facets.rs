//! Facets of a text (FLAME, arXiv 2411.11927): a frozen decoder LLM reads a caption once and is asked several things
//! about it; the state behind each question is a facet, their mean the embedding.
//!
//! All facets go through the decoder together, behind one shared prefix, each blind to the others (facet-decoupled
//! attention): prefix + facets tokens in place of facets x (prefix + facet). Rows of a batch do not see each other nor
//! any padding.

mod prompt;
mod side;
mod template;
mod tokenizer;

use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};

pub(crate) use self::side::{Facets, files};
pub use self::template::Template;
use self::{
    prompt::{Batch, Prompt},
    tokenizer::Tokenizer,
};
use crate::{
    Device, Embedding, Error, Memory, Result,
    decoder::{self, Config, Decoder, Depth, Pass},
    pair::TOKENIZER_FILE,
};

/// Captions that go through the decoder together. On the CPU one alone fills its matrix products, and none is padded.
const CPU_BATCH: usize = 1;
const CUDA_BATCH: usize = 16;
/// Tokens of a long caption with FLAME's template around it.
const LONG_CAPTION: usize = 1024;

pub struct FacetEncoder {
    decoder: Decoder,
    tokenizer: Tokenizer,
    template: Template,
    mode: Mode,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub template: Template,
    /// Blocks at the end that are left out; FLAME reads the state before the last one.
    pub n_blocks_left_out: usize,
    pub mode: Mode,
    pub device: Device,
    /// See [`decoder::Options::dtype`]; FLAME used f16.
    pub dtype: Option<DType>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A batch gives what single calls give, and a caption past the limit is refused.
    #[default]
    Exact,
    /// The published arithmetic: the whole call is one batch, padded on the left and not hidden from the texts, and a
    /// caption past the limit is cut. Equal to `Exact` for one caption at a time.
    Reference,
}

/// A text by its facets.
#[derive(Clone, Debug, PartialEq)]
pub struct FacetedText {
    /// Unit length: the mean of the facets, scaled.
    pub embedding: Embedding,
    /// (facets, dim), as the decoder left them.
    pub facets: Vec<Vec<f32>>,
    /// Template and caption.
    pub tokens_used: usize,
}

impl Options {
    /// FLAME's for retrieval: seven facets, the state before the last block.
    pub fn flame() -> Options {
        let template = Template::flame("flame-7").expect("the bundled templates are well-formed");
        Options { template, n_blocks_left_out: 1, mode: Mode::Exact, device: Device::Auto, dtype: None }
    }
}

impl FacetEncoder {
    /// From a folder in the Hugging Face layout, or a `.gguf` file with a tokenizer.json beside it.
    pub fn load(path: &Path, options: &Options) -> Result<FacetEncoder> {
        let Options { ref template, n_blocks_left_out, mode, device, dtype } = *options;
        // Before the weights, which take long.
        let tokenizer = Tokenizer::read(&tokenizer_path(path))?;
        if template.needs_bos() {
            tokenizer.bos()?;
        }
        let depth = Depth::BlocksBut(n_blocks_left_out);
        let decoder = Decoder::load(path, &decoder::Options { depth, device, dtype })?;
        let template = within(template, &tokenizer, path, decoder.config().max_tokens)?;
        let tokenizer = tokenizer.within(decoder.config().vocab_size);
        Ok(FacetEncoder { decoder, tokenizer, template, mode })
    }

    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// `Error::EmptyText` for a caption without a word, `Error::TooManyTokens` for one past the template's limit.
    pub fn embed(&self, captions: &[&str]) -> Result<Vec<FacetedText>> {
        let prompt = |caption: &&str| Prompt::new(&self.template, &self.tokenizer, caption, self.mode);
        let prompts = captions.iter().map(prompt).collect::<Result<Vec<_>>>()?;
        let size = match self.mode {
            Mode::Reference => prompts.len().max(1),
            Mode::Exact if self.decoder.device().is_cuda() => CUDA_BATCH,
            Mode::Exact => CPU_BATCH,
        };
        // Neighbours of like length waste little on padding.
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&i| prompts[i].n_tokens());
        let mut texts = Vec::with_capacity(prompts.len());
        for piece in order.chunks(size) {
            let prompts: Vec<&Prompt> = piece.iter().map(|&i| &prompts[i]).collect();
            texts.extend(piece.iter().copied().zip(self.embed_together(&prompts)?));
        }
        texts.sort_by_key(|(i, _)| *i);
        Ok(texts.into_iter().map(|(_, text)| text).collect())
    }

    fn embed_together(&self, prompts: &[&Prompt]) -> Result<Vec<FacetedText>> {
        let batch = Batch::new(prompts, self.mode, self.decoder.device())?;
        let pass = Pass { ids: &batch.ids, positions: &batch.positions, mask: Some(&batch.mask) };
        let states = self.decoder.states(&pass, &[self.decoder.n_blocks()], None)?.remove(0); // (batch, tokens, dim)
        let rows = prompts.iter().zip(&batch.facet_columns).enumerate();
        rows.map(|(row, (prompt, columns))| {
            let columns = Tensor::new(columns.as_slice(), states.device())?;
            let facets = states.get(row)?.index_select(&columns, 0)?.to_dtype(DType::F32)?.to_vec2()?; // (facets, dim)
            Ok(FacetedText { embedding: pooled(&facets)?, facets, tokens_used: prompt.n_tokens() })
        })
        .collect()
    }
}

/// The template with as many tokens for a caption as a decoder of `max_tokens` leaves beside its own; `path` is for the error.
fn within(template: &Template, tokenizer: &Tokenizer, path: &Path, max_tokens: usize) -> Result<Template> {
    let n_own = prompt::n_own_tokens(template, tokenizer)?;
    let max_caption_tokens = template.max_caption_tokens.min(max_tokens.saturating_sub(n_own));
    if max_caption_tokens > tokenizer.n_start() {
        return Ok(Template { max_caption_tokens, ..template.clone() });
    }
    Err(Error::BadFile {
        file: path.to_owned(),
        detail: format!(
            "expected room for a caption; received a template of {n_own} tokens that takes captions of at most {}, and a \
             decoder of at most {max_tokens}",
            template.max_caption_tokens
        ),
    })
}

/// Mean first, then unit length: longer facets weigh more, as published.
fn pooled(facets: &[Vec<f32>]) -> Result<Embedding> {
    let mut sum = vec![0.0; facets[0].len()];
    for facet in facets {
        sum.iter_mut().zip(facet).for_each(|(sum, x)| *sum += x);
    }
    let norm = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
    if !norm.is_finite() || norm == 0.0 {
        return Err(Error::NotFinite);
    }
    Ok(sum.into_iter().map(|x| x / norm).collect())
}

/// Weights, as numbers of each kind take them, and the widest states of a batch of long captions: those of the MLP, of all heads
/// and some copies of the hidden ones, and the scores of all heads, which are f32 everywhere. GGUF computes in f32.
pub(crate) fn memory(config: &Config, is_gguf: bool, weights_bytes: impl Fn(DType) -> u64) -> Vec<Memory> {
    let length = LONG_CAPTION.min(config.max_tokens) as u64;
    let heads = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim;
    let states = length * (2 * config.intermediate_size + heads + 4 * config.hidden_size) as u64;
    let scores = 4 * 2 * length * length * config.n_heads as u64;
    let on = |device, dtype: DType, batch: usize| Memory {
        device,
        dtype: dtype.as_str(),
        weights_bytes: weights_bytes(dtype),
        batch_bytes: batch as u64 * (dtype.size_in_bytes() as u64 * states + scores),
    };
    let on_card = if is_gguf { DType::F32 } else { DType::BF16 };
    vec![on("cpu", DType::F32, CPU_BATCH), on("cuda", on_card, CUDA_BATCH)]
}

/// That the tokenizer of a decoder can be read.
pub(crate) fn check_tokenizer(path: &Path) -> Result<()> {
    Tokenizer::read(&tokenizer_path(path)).map(drop)
}

fn tokenizer_path(path: &Path) -> PathBuf {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    folder.join(TOKENIZER_FILE)
}

#[cfg(test)]
mod tests;
