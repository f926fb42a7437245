//! A folder in the sentence-transformers layout.

use std::path::Path;

use super::CheckReport;
use crate::{
    pair::{CONFIG_FILE, Weights},
    sentence::{self, Family, Layout},
};

impl CheckReport {
    pub(super) fn look_at_sentences(&mut self, folder: &Path, asked: Option<Family>) {
        let Some(layout) = self.keep(Layout::read(folder)) else { return };
        self.look_at_files(folder, layout.small_files());
        let transformer = layout.transformer();
        let path = transformer.join(CONFIG_FILE);
        if !path.is_file() {
            self.keep(Weights::open(&transformer));
            return;
        }
        if let Some(asked) = asked {
            self.look_at_family(&path, asked.name());
        }
        let Some(parts) = self.keep(sentence::Parts::read(&layout, asked)) else { return };
        self.family = Some(parts.config.family.name().to_owned());
        self.add(parts.n_parameters(), parts.memory());
        if let Some(weights) = self.keep(Weights::open(&transformer)) {
            let tensors = parts.tensors(&weights);
            self.look_at_tensors(&weights, &tensors, &tensors, sentence::is_known_spare);
        }
        for (folder, tensors) in parts.projections() {
            if let Some(weights) = self.keep(Weights::open(folder)) {
                self.look_at_tensors(&weights, &tensors, &tensors, |_| false);
            }
        }
    }
}
