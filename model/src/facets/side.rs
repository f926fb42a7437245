//! The text side of a FLAME: facets are its tokens for fusion, as the decoder left them.

use std::path::{Path, PathBuf};

use super::{FacetEncoder, FacetedText, Mode, Options, memory, tokenizer_path};
use crate::{
    FusionTokens, Keep, Memory, Result, TextEmbedding, TokenShape, decoder, folder,
    pair::TOKENIZER_FILE,
    side::{TextInfo, TextSide},
};

pub(crate) struct Facets {
    info: TextInfo,
    encoder: FacetEncoder,
    /// As `Encoder::decoder`.
    hash: String,
}

impl Facets {
    pub(crate) fn load(path: &Path, options: &Options) -> Result<Facets> {
        let encoder = FacetEncoder::load(path, options)?;
        let decoder = &encoder.decoder;
        let dim = decoder.config().hidden_size;
        let info = TextInfo {
            dim,
            max_tokens: encoder.template.max_caption_tokens,
            tokens: TokenShape { n: encoder.template.facets.len(), dim },
            parameters: decoder.n_parameters(),
            memory: Memory::on(decoder.device(), memory(decoder.config(), decoder.is_gguf(), |_| decoder.n_bytes())),
        };
        let whole = format!("{} but {}", folder::hash(&files(path)?)?, options.n_blocks_left_out);
        Ok(Facets { info, encoder, hash: blake3::hash(whole.as_bytes()).to_hex()[..32].to_owned() })
    }

    /// Such as `mistral`.
    pub(crate) fn family(&self) -> &'static str {
        self.encoder.decoder.config().family.name()
    }
}

/// Every file that shapes a facet, as (name, path).
pub(crate) fn files(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files = decoder::files(path)?;
    files.push((TOKENIZER_FILE.to_owned(), tokenizer_path(path)));
    Ok(files)
}

impl TextSide for Facets {
    fn info(&self) -> &TextInfo {
        &self.info
    }

    fn decoder(&self) -> Option<&str> {
        Some(&self.hash)
    }

    /// `Error::TooManyTokens` for a caption past the template's limit: a cut one would be another caption.
    fn embed(&self, texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        let dim = self.info.dim;
        let tokens = |facets: &[Vec<f32>]| FusionTokens::new(&facets.concat(), dim);
        let whole = |FacetedText { embedding, facets, tokens_used }| {
            let fusion_tokens = (keep != Keep::Nothing).then(|| tokens(&facets)).transpose()?;
            Ok(TextEmbedding { embedding, tokens_used, tokens_cut: 0, fusion_tokens })
        };
        // As published, what stands beside a text in its batch changes it: alone it is what it is, wherever it comes from.
        let at_once = if self.encoder.mode == Mode::Reference { 1 } else { texts.len().max(1) };
        let mut embeddings = Vec::with_capacity(texts.len());
        for texts in texts.chunks(at_once) {
            embeddings.extend(self.encoder.embed(texts)?.into_iter().map(whole).collect::<Result<Vec<_>>>()?);
        }
        Ok(embeddings)
    }
}
