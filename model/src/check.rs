//! `firn model check`: everything that is wrong with a model at once, where `load` stops at the first fault.

use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use serde::Serialize;

use crate::{
    Device, Encoder, Error, Keep, ModelSpec, Result, hub, load,
    pair::{self, Config, Layout, TensorFault, Tokenizer, Weights},
};

/// Names of tensors that are listed of those nobody reads.
const MAX_LISTED: usize = 20;

#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckReport {
    /// As given.
    pub name: String,
    /// Nothing is wrong.
    pub ok: bool,
    pub folder: Option<PathBuf>,
    pub family: Option<String>,
    pub missing_files: Vec<String>,
    /// Tensors that are missing, or have another shape or kind of number than the config asks for.
    pub tensor_faults: Vec<TensorFault>,
    /// What else is wrong, a sentence each.
    pub faults: Vec<String>,
    /// Tensors of the files that nothing reads: no fault, but a hint at another family.
    pub unread_tensors: Vec<String>,
    pub parameters: Option<u64>,
    pub memory: Vec<Memory>,
    pub trial: Option<Trial>,
}

/// What a model takes on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    pub device: &'static str,
    /// The kind of number that weights are computed in there, whatever the files hold.
    pub dtype: &'static str,
    pub weights_bytes: u64,
    /// The largest batch of images or texts on its way through.
    pub batch_bytes: u64,
}

/// One text and one picture, embedded on the CPU.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    pub text: &'static str,
    pub tokens_used: usize,
    pub dim: usize,
    /// First numbers of the embeddings of the text and of a grey picture.
    pub text_embedding_head: Vec<f32>,
    pub image_embedding_head: Vec<f32>,
}

/// Looks at every part of a model. An `Err` means that there is no model to look at.
pub fn check(name: &str) -> Result<CheckReport> {
    let mut report = CheckReport { name: name.to_owned(), ..CheckReport::default() };
    match name.parse()? {
        ModelSpec::Builtin => {}
        ModelSpec::Folder(folder) if !folder.is_dir() => return Err(Error::UnknownModel { name: name.to_owned() }),
        ModelSpec::Folder(folder) => report.look_into(&folder),
        ModelSpec::Hub { repo, revision } => report.look_into(&hub::fetch(&repo, &revision)?),
    }
    if report.has_no_fault()
        && let Some(encoder) = report.keep(load(name, Device::Cpu))
    {
        report.family = Some(encoder.info().family.clone());
        report.parameters = Some(encoder.info().parameters);
        report.trial = report.keep_trial(&*encoder);
    }
    report.ok = report.has_no_fault();
    Ok(report)
}

impl CheckReport {
    fn has_no_fault(&self) -> bool {
        self.missing_files.is_empty() && self.tensor_faults.is_empty() && self.faults.is_empty()
    }

    /// The value, or a note of what is wrong.
    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => return Some(value),
            Err(Error::MissingFile { file, .. }) => self.missing_files.push(file),
            Err(error) => self.faults.push(error.to_string()),
        }
        None
    }

    fn look_into(&mut self, folder: &Path) {
        self.folder = Some(folder.to_owned());
        let layout = Layout::of(folder);
        let family = layout.family(folder);
        if let Err(Error::UnknownFamily { received, .. }) = &family {
            self.family = Some(received.clone());
            self.keep(family);
            return;
        }
        let family = self.keep(family);
        self.family = family.map(|family| family.name().to_owned());
        let config = family.and_then(|family| self.keep(layout.config(folder, family)));
        let weights = self.keep(layout.weights(folder));
        match config {
            Some(config) => self.look_at_parts(folder, &layout, &config, weights.as_ref()),
            None => self.look_for_files(folder, &layout),
        }
    }

    fn look_at_parts(&mut self, folder: &Path, layout: &Layout, config: &Config, weights: Option<&Weights>) {
        self.keep(Tokenizer::read(&folder.join(pair::TOKENIZER_FILE), &config.text));
        self.keep(layout.preprocessor(folder, config));
        self.parameters = Some(config.n_parameters());
        self.memory = pair::memory(config);
        if let Some(weights) = weights {
            let tensors = config.tensors();
            for fault in tensors.iter().filter_map(|(name, shape)| weights.fault(name, shape)) {
                // Several tensors may be made of one.
                if !self.tensor_faults.contains(&fault) {
                    self.tensor_faults.push(fault);
                }
            }
            let unread = weights.unread(&tensors).into_iter().filter(|name| !pair::is_known_spare(name));
            self.unread_tensors = unread.take(MAX_LISTED).map(str::to_owned).collect();
        }
    }

    /// Without a config, all that can be said is what is not there.
    fn look_for_files(&mut self, folder: &Path, layout: &Layout) {
        let is_there = |name: &str| folder.join(name).is_file();
        for name in layout.small_files(is_there).into_iter().skip(1) {
            if !folder.join(name).is_file() {
                self.missing_files.push(name.to_owned());
            }
        }
    }

    fn keep_trial(&mut self, encoder: &dyn Encoder) -> Option<Trial> {
        const TEXT: &str = "a photo of a cat";
        let side = encoder.info().image_side_px as u32;
        let grey = self.keep(encoder.preprocess(&RgbImage::from_pixel(side, side, Rgb([128; 3]))))?;
        let text = self.keep(encoder.embed_texts(&[TEXT], Keep::Nothing))?.pop()?;
        let image = self.keep(encoder.embed_images(&[grey], Keep::Nothing))?.pop()?.embedding;
        let head = |embedding: &[f32]| embedding[..embedding.len().min(4)].to_vec();
        Some(Trial {
            text: TEXT,
            tokens_used: text.tokens_used,
            dim: text.embedding.len(),
            text_embedding_head: head(&text.embedding),
            image_embedding_head: head(&image),
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::testing::{copy_of_fixture, fixture};

    fn check_folder(folder: &Path) -> CheckReport {
        check(folder.to_str().unwrap()).unwrap()
    }

    #[test]
    fn a_good_model_passes_with_a_trial() {
        for (model, parameters) in
            [("clip-quick", 48_128), ("clip-gelu", 28_160), ("siglip-1", 32_834), ("siglip-2", 17_322)]
        {
            let report = check_folder(&fixture(model));
            assert!(report.ok, "{report:?}");
            assert_eq!((report.parameters, report.unread_tensors.len()), (Some(parameters), 0));
            assert_eq!((report.memory[0].device, report.memory[0].weights_bytes), ("cpu", 4 * parameters));
            let trial = report.trial.as_ref().unwrap();
            assert_eq!(trial.text_embedding_head.len(), 4);
            let json = serde_json::to_value(&report).unwrap();
            assert_eq!(json["ok"], true);
        }
        assert!(check("builtin").unwrap().ok);
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let copy = copy_of_fixture("clip-gelu");
        std::fs::remove_file(copy.path().join("tokenizer.json")).unwrap();
        std::fs::remove_file(copy.path().join("preprocessor_config.json")).unwrap();
        let config = copy.path().join("config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")).unwrap();
        let report = check_folder(copy.path());
        assert!(!report.ok && report.trial.is_none());
        assert_eq!(report.missing_files, ["tokenizer.json", "preprocessor_config.json"]);
        assert_eq!(report.tensor_faults.len(), 2 * 16, "a layer of each tower");
        assert_eq!(report.tensor_faults[0].received, "no such tensor");
    }

    #[test]
    fn a_folder_of_something_else_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let report = check_folder(dir.path());
        assert_eq!(
            report.missing_files,
            ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"]
        );
        std::fs::write(dir.path().join("config.json"), r#"{"model_type": "siglip2"}"#).unwrap();
        let report = check_folder(dir.path());
        assert_eq!(report.faults, ["model family \"siglip2\" is not known: expected one of clip, siglip"]);
        assert!(matches!(check("/no/such/folder"), Err(Error::UnknownModel { .. })));
        assert!(matches!(check("hf:no-slash"), Err(Error::UnknownModel { .. })));
    }

    /// Seeded damage to every file: whatever comes out, it is an answer.
    #[test]
    fn rubbish_is_answered() {
        const SEED: u64 = 7;
        println!("seed {SEED}");
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let files = ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"];
        for (model, name) in ["clip-quick", "siglip-1"].into_iter().flat_map(|model| files.map(|name| (model, name))) {
            let whole = std::fs::read(fixture(model).join(name)).unwrap();
            let copy = copy_of_fixture(model);
            // Headers and settings stand at the start.
            let n_sensitive = whole.len().min(6000);
            for round in 0..40 {
                let mut damaged = whole.clone();
                match round % 4 {
                    0 => damaged.truncate(rng.random_range(0..whole.len())),
                    _ => (0..round).for_each(|_| damaged[rng.random_range(0..n_sensitive)] = rng.random_range(32..127)),
                }
                std::fs::write(copy.path().join(name), &damaged).unwrap();
                let report = check_folder(copy.path());
                assert!(report.ok || !report.has_no_fault(), "{model} {name} {round}");
            }
        }
    }
}
