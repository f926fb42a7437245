//! Text encoders in the sentence-transformers layout, multilingual ones above all: a transformer of the BERT kind, a pooling,
//! and often a projection into the space of an image encoder.
//!
//! They are a text side alone; `model.toml` joins one with an image side. Judged by sentence-transformers and transformers on
//! the same weights; see `model/fixtures/make_sentence.py`.

mod config;
mod cpu;
mod head;
mod layout;
mod parts;
mod tokenizer;
mod tower;

use std::{path::Path, sync::Arc};

use candle_core::Device;
use rayon::prelude::*;

use self::{
    config::Config,
    cpu::Rows,
    head::Head,
    tokenizer::{Tokenizer, Tokens},
};
pub(crate) use self::{
    config::Family,
    layout::{Layout, MODULES_FILE},
    parts::{Parts, is_known_spare},
};
use crate::{
    Keep, Memory, Result, TEXT_TOKENS, TextEmbedding, TokenShape, folder,
    fusion_tokens::pool_rows,
    pair::{CONFIG_FILE, Encoded, TOKENIZER_FILE, Weights, embed_by_length, on_card, on_cpu},
    side::{Opened, Sides, TextInfo, TextSide},
};

pub(crate) struct Sentences {
    info: TextInfo,
    family: &'static str,
    tokenizer: Tokenizer,
    tower: Tower,
    head: Head,
}

enum Tower {
    Cpu(cpu::Tower),
    Card(tower::Tower, Device),
}

/// Opens a folder as a model that takes texts only.
pub(crate) fn open(folder: &Path, device: &Device) -> Result<Opened> {
    let side = Sentences::load(folder, device)?;
    Ok(Opened {
        family: side.family.to_owned(),
        hash: folder::hash(&Layout::read(folder)?.files()?)?,
        sides: Sides { image: None, text: Some(Arc::new(side)) },
        sigmoid: None,
    })
}

impl Sentences {
    pub(crate) fn load(folder: &Path, device: &Device) -> Result<Sentences> {
        let layout = Layout::read(folder)?;
        let transformer = layout.transformer();
        let config = Config::read(&transformer.join(CONFIG_FILE))?;
        let reading = layout.reading()?;
        let tokenizer = Tokenizer::read(&transformer.join(TOKENIZER_FILE), &config, &reading)?;
        let hidden_size = config.tower.hidden_size;
        let head = Head::load(&layout, &reading, hidden_size)?;
        let tower = tower::Tower::load(&Weights::open(&transformer)?, &config, device)?;
        let tower = match device.is_cuda() {
            true => Tower::Card(tower, device.clone()),
            false => Tower::Cpu(cpu::Tower::new(tower)?),
        };
        let parameters = config.n_parameters() + head.parameters;
        let info = TextInfo {
            dim: head.dim,
            max_tokens: tokenizer.max_tokens(),
            tokens: TokenShape { n: TEXT_TOKENS, dim: hidden_size },
            parameters,
            memory: Memory::on(device, parts::memory(&config, tokenizer.max_tokens(), parameters)),
        };
        Ok(Sentences { info, family: config.family.name(), tokenizer, tower, head })
    }

    /// The states of the tokens are pooled to so many `rows` if they are wanted.
    fn encode(&self, texts: &[Vec<f32>], rows: Option<usize>, n_threads: usize) -> Encoded {
        let dim = self.info.tokens.dim;
        let embeddings = self.head.forward(texts, dim, n_threads);
        let tokens = rows.map(|rows| texts.iter().flat_map(|states| pool_rows(states, dim, rows)).collect());
        Encoded { embeddings, tokens: tokens.unwrap_or_default() }
    }
}

impl TextSide for Sentences {
    fn info(&self) -> &TextInfo {
        &self.info
    }

    fn embed(&self, texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        let tokens = texts.par_iter().map(|text| self.tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        let read = |tokens: &Tokens| (tokens.ids.len(), tokens.n_cut);
        embed_by_length(
            &self.info,
            &tokens,
            |tokens| tokens.ids.len(),
            read,
            |sorted| {
                let rows = keep.rows();
                let wanted = if rows.is_none() && self.head.needs_first_only() { Rows::First } else { Rows::All };
                match &self.tower {
                    Tower::Cpu(tower) => Ok(on_cpu(sorted, |piece, n_threads| {
                        self.encode(&tower.states(piece, tower.n_blocks(), wanted, n_threads), rows, n_threads)
                    })),
                    Tower::Card(tower, device) => on_card(sorted, |piece| {
                        let states = tower.states(piece, tower.blocks.len(), device)?;
                        Ok(self.encode(&states, rows, rayon::current_num_threads()))
                    }),
                }
            },
        )
    }
}

#[cfg(test)]
mod tests;
