//! A pair of towers, or the one of them that is wanted.

use std::path::Path;

use super::{CheckReport, family::Family};
use crate::{
    Error,
    pair::{self, CONFIG_FILE, Config, Layout, TOKENIZER_FILE, Tokenizer, Weights, flame, n_numbers},
    side::Want,
};

impl CheckReport {
    /// Of a folder, or of a checkpoint that stands alone.
    pub(super) fn look_at_towers(&mut self, path: &Path, asked: Option<Family>, want: Want) {
        let (folder, layout) = Layout::at(path);
        let folder = folder.as_path();
        match self.keep(layout.flame(folder)) {
            None => return,
            Some(Some(checkpoint)) => {
                self.compare_family(checkpoint.display(), asked, flame::FAMILY);
                return self.look_at_flame(&checkpoint);
            }
            Some(None) => {}
        }
        let Some(family) = self.family_of_towers(folder, &layout, asked) else { return };
        let config = family.and_then(|family| self.keep(layout.config(folder, family)));
        let weights = self.keep(layout.weights(folder));
        match config {
            Some(config) => self.look_at_parts(folder, &layout, &config, weights.as_ref(), want),
            None => {
                let is_there = |name: &str| folder.join(name).is_file();
                let small = layout.small_files(is_there).into_iter().skip(1).map(str::to_owned);
                // A config that names no family may be one of texts alone.
                let is_of_texts = |name: &String| name == TOKENIZER_FILE;
                let is_unknown = family.is_none() && is_there(CONFIG_FILE);
                self.look_at_files(folder, small.filter(|name| !is_unknown || is_of_texts(name)));
            }
        }
    }

    /// None: it is another one, and there is no more to say. An inner none: nothing says which.
    fn family_of_towers(
        &mut self,
        folder: &Path,
        layout: &Layout,
        asked: Option<Family>,
    ) -> Option<Option<pair::Family>> {
        if let Some(asked) = asked {
            self.look_at_family_of_towers(folder, layout, asked);
            let Family::Pair(asked) = asked else { return None };
            let family = if *layout == Layout::HuggingFace { asked } else { pair::Family::Clip };
            self.family = Some(family.name().to_owned());
            return Some(Some(family));
        }
        let family = layout.family(folder);
        if let Err(Error::UnknownFamily { received, .. }) = &family {
            self.family = Some(received.clone());
            self.keep(family);
            return None;
        }
        let family = self.keep(family);
        self.family = family.map(|family| family.name().to_owned());
        Some(family)
    }

    /// A family that was asked for is the one of the folder, if anything says which that is.
    fn look_at_family_of_towers(&mut self, folder: &Path, layout: &Layout, asked: Family) {
        let config = folder.join(CONFIG_FILE);
        match layout {
            Layout::HuggingFace if config.is_file() => self.look_at_family(&config, asked.name()),
            Layout::HuggingFace if asked != Family::Flame => {}
            Layout::HuggingFace => {
                self.faults.push(format!("{}: expected a checkpoint of FLAME, received none", folder.display()))
            }
            Layout::OpenClip | Layout::Alone(_) => {
                self.compare_family(folder.display(), Some(asked), pair::Family::Clip.name());
            }
        }
    }

    fn look_at_parts(
        &mut self,
        folder: &Path,
        layout: &Layout,
        config: &Config,
        weights: Option<&Weights>,
        want: Want,
    ) {
        if want != Want::Image {
            self.keep(Tokenizer::read(&folder.join(TOKENIZER_FILE), &config.text));
        }
        if want != Want::Text {
            self.keep(layout.preprocessor(folder, config));
        }
        let known = config.tensors();
        let is_wanted = |name: &str| match want {
            Want::Both => true,
            Want::Image => pair::is_of_images(name),
            Want::Text => !pair::is_of_images(name),
        };
        let needed: Vec<_> = known.iter().filter(|(name, _)| is_wanted(name)).cloned().collect();
        let parameters = needed.iter().map(n_numbers).sum();
        let mut memory = pair::memory(config);
        memory.iter_mut().for_each(|memory| memory.weights_bytes = 4 * parameters);
        self.add(parameters, memory);
        if let Some(weights) = weights {
            self.look_at_tensors(weights, &needed, &known, pair::is_known_spare);
        }
    }

    fn look_at_flame(&mut self, checkpoint: &Path) {
        self.family = Some(flame::FAMILY.to_owned());
        let Some(weights) = self.keep(Weights::open_file(checkpoint)) else { return };
        let Some(config) = self.keep(flame::Config::of_tensors(&weights)) else { return };
        let tensors = config.tensors();
        self.add(config.n_parameters(), flame::memory(&config));
        self.look_at_tensors(&weights, &tensors, &tensors, flame::is_spare);
    }
}
