//! A decoder LLM: whole if it stands alone, without its last blocks if it is asked for facets.

use std::path::Path;

use candle_core::Device;

use super::{CheckReport, Memory, Shaped};
use crate::{
    Error,
    decoder::{self, Config, Depth, Family},
    facets,
    pair::{CONFIG_FILE, Weights, n_numbers},
};

/// A long caption with FLAME's template around it.
const N_TOKENS: usize = 1024;
/// Captions that go through a card together; on the CPU it is one.
const CUDA_BATCH: u64 = 16;

impl CheckReport {
    pub(super) fn look_at_decoder(&mut self, folder: &Path, asked: Option<Family>) {
        self.look_at_depth(folder, asked, Depth::Head);
    }

    pub(super) fn look_at_depth(&mut self, folder: &Path, asked: Option<Family>, depth: Depth) {
        self.look_at_files(folder, decoder::SMALL_FILES.map(str::to_owned));
        let path = folder.join(CONFIG_FILE);
        let weights = self.keep(Weights::open(folder));
        if !path.is_file() {
            return;
        }
        if let Some(asked) = asked {
            self.look_at_family(&path, asked.name());
        }
        let Some(config) = self.keep(Config::read_as(&path, asked)) else { return };
        self.family = Some(config.family.name().to_owned());
        let bad = |detail| Error::BadFile { file: path.clone(), detail };
        let Some(needed) = self.keep(decoder::tensors(&config, depth).map_err(bad)) else { return };
        let parameters = needed.iter().map(n_numbers).sum();
        self.add(parameters, memory(&config, parameters));
        if let Some(weights) = weights {
            let known = decoder::tensors(&config, Depth::Head).expect("a decoder is as deep as it is");
            self.look_at_tensors(&weights, &needed, &known, decoder::is_known_spare);
            // Loading, which would see it, follows where facets are asked for.
            if depth == Depth::Head {
                self.look_at_numbers(&weights, &needed);
            }
        }
        self.keep(facets::check_tokenizer(folder));
    }

    /// That all are finite, one tensor in memory at a time.
    fn look_at_numbers(&mut self, weights: &Weights, needed: &[Shaped]) {
        for (name, shape) in needed.iter().filter(|(name, shape)| weights.fault(name, shape).is_none()) {
            self.keep(weights.get(name, shape, &Device::Cpu));
        }
    }
}

/// Weights, and the widest states of a batch: those of the MLP, of all heads and some copies of the hidden ones, and the
/// scores of all heads, which are f32 everywhere.
fn memory(config: &Config, parameters: u64) -> Vec<Memory> {
    let length = N_TOKENS.min(config.max_tokens) as u64;
    let heads = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim;
    let states = length * (2 * config.intermediate_size + heads + 4 * config.hidden_size) as u64;
    let scores = 4 * 2 * length * length * config.n_heads as u64;
    let on = |device, dtype, bytes: u64, batch: u64| Memory {
        device,
        dtype,
        weights_bytes: bytes * parameters,
        batch_bytes: batch * (bytes * states + scores),
    };
    vec![on("cpu", "f32", 4, 1), on("cuda", "bf16", 2, CUDA_BATCH)]
}
