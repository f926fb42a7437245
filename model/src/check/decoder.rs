//! A decoder LLM: whole if it stands alone, without its last blocks if it is asked for facets.

use std::path::Path;

use candle_core::DType;

use super::{CheckReport, Shaped};
use crate::{
    Error,
    decoder::{self, Config, Depth, Family, Store},
    facets, memory,
    pair::{CONFIG_FILE, n_numbers},
};

impl CheckReport {
    pub(super) fn look_at_decoder(&mut self, path: &Path, asked: Option<Family>) {
        self.look_at_depth(path, asked, Depth::Head);
    }

    /// A folder, or a `.gguf` file.
    pub(super) fn look_at_depth(&mut self, path: &Path, asked: Option<Family>, depth: Depth) {
        if path.is_dir() {
            self.look_at_files(path, decoder::SMALL_FILES.map(str::to_owned));
        }
        let store = self.keep(Store::open(path));
        let Some(config) = self.config(path, store.as_ref(), asked) else { return };
        self.family = Some(config.family.name().to_owned());
        let bad = |detail| Error::BadFile { file: place(path), detail };
        let Some(needed) = self.keep(decoder::tensors(&config, depth).map_err(bad)) else { return };
        let parameters = needed.iter().map(n_numbers).sum();
        let is_gguf = store.as_ref().is_some_and(Store::is_gguf);
        let n_bytes = |dtype: DType| match &store {
            Some(store) => store.n_bytes(&needed, dtype),
            None => dtype.size_in_bytes() as u64 * parameters,
        };
        self.add(parameters, facets::memory(&config, is_gguf, n_bytes));
        if let Some(store) = &store {
            self.look_at_store(store, &config, &needed);
            let fits = self.keep(memory::check(path, n_bytes(DType::F32))).is_some();
            // Loading, which would see it, follows where facets are asked for.
            if depth == Depth::Head && fits {
                self.look_at_numbers(store, &needed);
            }
        }
        self.keep(facets::check_tokenizer(path));
    }

    /// None: it says nothing that can be read.
    fn config(&mut self, path: &Path, store: Option<&Store>, asked: Option<Family>) -> Option<Config> {
        if !path.is_dir() {
            let config = self.keep(store?.config(path))?;
            // A Mistral is a Llama in a GGUF file.
            let asked = asked.filter(|asked| (*asked, config.family) != (Family::Mistral, Family::Llama));
            self.compare_family(path.display(), asked.map(super::Family::Decoder), config.family.name());
            return Some(config);
        }
        let path = path.join(CONFIG_FILE);
        if !path.is_file() {
            return None;
        }
        if let Some(asked) = asked {
            self.look_at_family(&path, asked.name());
        }
        self.keep(Config::read_as(&path, asked))
    }

    pub(super) fn look_at_store(&mut self, store: &Store, config: &Config, needed: &[Shaped]) {
        let known = decoder::tensors(config, Depth::Head).expect("a decoder is as deep as it is");
        self.keep_tensor_faults(needed.iter().filter_map(|(name, shape)| store.fault(name, shape)));
        self.keep_unread(store.unread(&known), decoder::is_known_spare);
    }

    /// That all are finite, one tensor in memory at a time.
    fn look_at_numbers(&mut self, store: &Store, needed: &[Shaped]) {
        for (name, shape) in needed.iter().filter(|(name, shape)| store.fault(name, shape).is_none()) {
            self.keep(store.try_tensor(name, shape));
        }
    }
}

/// Where the sizes of a decoder stand.
fn place(path: &Path) -> std::path::PathBuf {
    if path.is_dir() { path.join(CONFIG_FILE) } else { path.to_owned() }
}
