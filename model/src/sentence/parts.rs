//! What a folder consists of, for those who look at it without loading it.

use std::path::{Path, PathBuf};

use super::{
    config::{Config, Family},
    head::{DenseConfig, Pooling},
    layout::{Layout, Step},
    tokenizer::Tokenizer,
    tower,
};
use crate::{
    Result,
    check::Memory,
    pair::{CONFIG_FILE, CPU_BATCH, CUDA_BATCH, TOKENIZER_FILE, Weights},
};

pub(crate) struct Parts {
    pub config: Config,
    n_tokens: usize,
    projections: Vec<(PathBuf, DenseConfig)>,
}

impl Parts {
    /// Everything but weights; as a family that the config may not name.
    pub(crate) fn read(layout: &Layout, family: Option<Family>) -> Result<Parts> {
        let transformer = layout.transformer();
        let config = Config::read_as(&transformer.join(CONFIG_FILE), family)?;
        let reading = layout.reading()?;
        let tokenizer = Tokenizer::read(&transformer.join(TOKENIZER_FILE), &config, &reading)?;
        let hidden_size = config.tower.hidden_size;
        let mut dim = Pooling::read(&layout.pooling_config(), &reading, hidden_size)?.n_ways() * hidden_size;
        let mut projections = Vec::new();
        for step in &layout.steps {
            if let Step::Dense(within) = step {
                let folder = layout.dense(within);
                let dense = DenseConfig::read(&folder.join(CONFIG_FILE), dim)?;
                dim = dense.n_out;
                projections.push((folder, dense));
            }
        }
        Ok(Parts { config, n_tokens: tokenizer.max_tokens(), projections })
    }

    pub(crate) fn n_parameters(&self) -> u64 {
        self.config.n_parameters() + self.projections.iter().map(|(_, dense)| dense.n_parameters()).sum::<u64>()
    }

    /// Of the transformer, as its files call them.
    pub(crate) fn tensors(&self, weights: &Weights) -> Vec<(String, Vec<usize>)> {
        let prefix = tower::prefix(weights, &self.config);
        let dot = if prefix.is_empty() { "" } else { "." };
        let tensors = self.config.tensors().into_iter();
        tensors.map(|(name, shape)| (format!("{prefix}{dot}{name}"), shape)).collect()
    }

    /// The folder of each projection, and its tensors.
    pub(crate) fn projections(&self) -> impl Iterator<Item = (&Path, Vec<(String, Vec<usize>)>)> {
        self.projections.iter().map(|(folder, dense)| (folder.as_path(), dense.tensors()))
    }

    pub(crate) fn memory(&self) -> Vec<Memory> {
        memory(&self.config, self.n_tokens, self.n_parameters())
    }
}

/// Weights, and the widest states of a batch: those of the MLP beside some copies of the hidden ones. On the CPU the scores of
/// one head are held at a time, on a card those of all.
pub(super) fn memory(config: &Config, length: usize, n_parameters: u64) -> Vec<Memory> {
    let on = |device, numbers: usize, batch: usize| Memory {
        device,
        dtype: "f32",
        weights_bytes: 4 * n_parameters,
        batch_bytes: 4 * (length * numbers * batch) as u64,
    };
    let (wide, dim) = (config.tower.intermediate_size, config.tower.hidden_size);
    let on_card = 2 * wide + 6 * dim + 2 * config.tower.n_heads * length;
    vec![on("cpu", wide + 6 * dim + length, CPU_BATCH * rayon::current_num_threads()), on("cuda", on_card, CUDA_BATCH)]
}

/// What the published files hold besides: a pooler that nobody asks, the heads of other tasks, and indices.
pub(crate) fn is_known_spare(tensor: &str) -> bool {
    const HEADS: [&str; 4] = ["pooler.", "cls.", "lm_head.", "vocab_"];
    let bare = ["roberta.", "bert.", "distilbert."].into_iter().find_map(|prefix| tensor.strip_prefix(prefix));
    let bare = bare.unwrap_or(tensor);
    HEADS.iter().any(|head| bare.starts_with(head)) || bare.ends_with(".position_ids")
}
