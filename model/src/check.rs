//! `firn model check`: everything that is wrong with a model at once, where `load` stops at the first fault.

mod decoder;
mod family;
mod join;
mod sentences;
mod towers;

use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

use image::{Rgb, RgbImage};
use serde::Serialize;

use self::family::Family;
pub(crate) use self::family::unknown_family;
use crate::{
    Device, Encoder, Error, Keep, ModelSpec, Result,
    align::{ALIGNED_FILE, Aligned, RIDGE_FILE, Ridge},
    decoder as decoders, folder, hub,
    kind::Kind,
    load,
    pair::{TensorFault, Weights},
    side::Want,
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
    /// What kept a part from being looked at: a hub that does not answer, too little memory. No fault of the model.
    pub in_the_way: Vec<String>,
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

impl Memory {
    /// That on this device, of what is taken on each kind.
    pub(crate) fn on(device: &candle_core::Device, all: Vec<Memory>) -> Memory {
        let kind = if device.is_cuda() { "cuda" } else { "cpu" };
        all.into_iter().find(|memory| memory.device == kind).expect("every kind of device is listed")
    }
}

/// One text and one picture, as far as the model takes them, embedded on the CPU.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    pub text: &'static str,
    /// 0: it takes no texts.
    pub tokens_used: usize,
    pub dim: usize,
    /// First numbers of the embeddings of the text and of a grey picture; none of what it does not take.
    pub text_embedding_head: Vec<f32>,
    pub image_embedding_head: Vec<f32>,
}

/// Looks at every part of a model. An `Err` means that there is no model to look at.
pub fn check(name: &str) -> Result<CheckReport> {
    look_at(name, None)
}

/// Looks at what is missing to make a model one of a family, such as `clip` or `mistral`. `Error::UnknownFamily` names all.
pub fn check_against(name: &str, family: &str) -> Result<CheckReport> {
    look_at(name, Some(Family::of_name(family)?))
}

fn look_at(name: &str, family: Option<Family>) -> Result<CheckReport> {
    let mut report = CheckReport { name: name.to_owned(), ..CheckReport::default() };
    match name.parse()? {
        ModelSpec::Builtin => report.compare_family(name, family, name),
        ModelSpec::Folder(folder) if !folder.is_dir() && !decoders::is_gguf(&folder) => {
            return Err(Error::UnknownModel { name: name.to_owned() });
        }
        ModelSpec::Folder(folder) => report.look_into(&folder, family),
        ModelSpec::Hub { repo, revision } => report.look_into(&hub::fetch(&repo, &revision)?, family),
    }
    // A decoder alone embeds nothing.
    let is_decoder = report.folder.as_deref().is_some_and(|folder| Kind::of(folder) == Kind::Decoder);
    if report.has_no_fault()
        && report.in_the_way.is_empty()
        && !is_decoder
        && let Some(encoder) = report.keep(load(name, Device::Cpu))
    {
        report.family = Some(encoder.info().family.clone());
        report.parameters = Some(encoder.info().parameters);
        report.trial = report.keep_trial(&*encoder);
    }
    report.ok = report.has_no_fault() && report.in_the_way.is_empty();
    Ok(report)
}

impl CheckReport {
    /// What was looked at is whole.
    pub fn has_no_fault(&self) -> bool {
        self.missing_files.is_empty() && self.tensor_faults.is_empty() && self.faults.is_empty()
    }

    /// The value, or a note of what is wrong.
    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => return Some(value),
            Err(Error::MissingFile { folder, file }) => self.keep_missing(&folder.join(file)),
            Err(
                error @ (Error::Offline { .. }
                | Error::Hub { .. }
                | Error::TooLittleMemory { .. }
                | Error::NoDevice { .. }
                | Error::Io { .. }),
            ) => self.in_the_way.push(error.to_string()),
            Err(error) => self.faults.push(error.to_string()),
        }
        None
    }

    /// Named from the model's folder on.
    fn keep_missing(&mut self, path: &Path) {
        let within = self.folder.as_deref().and_then(|root| path.strip_prefix(root).ok());
        let name = within.unwrap_or(path).display().to_string();
        if !self.missing_files.contains(&name) {
            self.missing_files.push(name);
        }
    }

    fn look_into(&mut self, folder: &Path, family: Option<Family>) {
        self.folder = Some(folder.to_owned());
        match family.map_or_else(|| Kind::of(folder), Family::kind) {
            Kind::Join => self.look_at_join(folder),
            Kind::Aligned => self.look_at_aligned(folder),
            Kind::Ridge => self.look_at_ridge(folder),
            Kind::Sentences => self.look_at_sentences(folder, family.and_then(Family::sentences)),
            Kind::Decoder => self.look_at_decoder(folder, family.and_then(Family::decoder)),
            Kind::Pair => self.look_at_towers(folder, family, Want::Both),
        }
    }

    /// What is wrong with it, loading says.
    fn look_at_aligned(&mut self, folder: &Path) {
        if !folder.join(ALIGNED_FILE).is_file() {
            return self.keep_missing(&folder.join(ALIGNED_FILE));
        }
        let Some(aligned) = self.keep(Aligned::read(folder, Device::Cpu)) else { return };
        let memory = aligned.memory();
        self.add(aligned.n_parameters() as u64, memory);
        if let Some(block) = aligned.block(folder) {
            self.look_at_block(&block);
        }
    }

    /// What is wrong with it, loading says.
    fn look_at_ridge(&mut self, folder: &Path) {
        if !folder.join(RIDGE_FILE).is_file() {
            self.keep_missing(&folder.join(RIDGE_FILE));
        } else if let Some(ridge) = self.keep(Ridge::read(folder)) {
            self.add(ridge.n_parameters() as u64, vec![ridge.memory()]);
            self.keep(ridge.folds());
        }
    }

    /// A family that was asked for is the one that was found, where no config names one.
    fn compare_family(&mut self, at: impl Display, asked: Option<Family>, found: &str) {
        if let Some(asked) = asked.map(Family::name).filter(|asked| *asked != found) {
            self.faults.push(format!("{at}: model family: expected {asked}, received {found}"));
        }
    }

    /// A family that was asked for is the one that the config names.
    fn look_at_family(&mut self, config: &Path, family: &str) {
        let said = folder::read_json(config).unwrap_or_default()["model_type"].clone();
        if said != family {
            self.faults.push(format!("{}: model_type: expected {family}, received {said}", config.display()));
        }
    }

    fn look_at_files(&mut self, folder: &Path, names: impl IntoIterator<Item = String>) {
        for path in names.into_iter().map(|name| folder.join(name)).filter(|path| !path.is_file()) {
            self.keep_missing(&path);
        }
    }

    /// Those that must be there, and whether there are others beside all that are `known`.
    fn look_at_tensors(&mut self, weights: &Weights, needed: &[Shaped], known: &[Shaped], is_spare: fn(&str) -> bool) {
        self.keep_tensor_faults(needed.iter().filter_map(|(name, shape)| weights.fault(name, shape)));
        self.keep_unread(weights.unread(known), is_spare);
    }

    /// Several tensors may be made of one.
    fn keep_tensor_faults(&mut self, faults: impl Iterator<Item = TensorFault>) {
        for fault in faults {
            if !self.tensor_faults.contains(&fault) {
                self.tensor_faults.push(fault);
            }
        }
    }

    fn keep_unread(&mut self, names: Vec<&str>, is_spare: fn(&str) -> bool) {
        let unread = names.into_iter().filter(|name| !is_spare(name)).map(str::to_owned);
        self.unread_tensors.extend(unread.take(MAX_LISTED - self.unread_tensors.len().min(MAX_LISTED)));
    }

    /// Of one more part: its parameters, and what it takes beside the others.
    fn add(&mut self, parameters: u64, memory: Vec<Memory>) {
        self.parameters = Some(self.parameters.unwrap_or(0) + parameters);
        for part in memory {
            match self.memory.iter_mut().find(|memory| (memory.device, memory.dtype) == (part.device, part.dtype)) {
                Some(memory) => {
                    memory.weights_bytes += part.weights_bytes;
                    memory.batch_bytes = memory.batch_bytes.max(part.batch_bytes);
                }
                None => self.memory.push(part),
            }
        }
    }

    /// Of the sides that there are.
    fn keep_trial(&mut self, encoder: &dyn Encoder) -> Option<Trial> {
        const TEXT: &str = "a photo of a cat";
        let head = |embedding: &[f32]| embedding[..embedding.len().min(4)].to_vec();
        let info = encoder.info();
        let mut trial = Trial {
            text: TEXT,
            tokens_used: 0,
            dim: info.dim,
            text_embedding_head: Vec::new(),
            image_embedding_head: Vec::new(),
        };
        if info.max_text_tokens > 0 {
            let text = self.keep(encoder.embed_texts(&[TEXT], Keep::Nothing))?.pop()?;
            (trial.tokens_used, trial.text_embedding_head) = (text.tokens_used, head(&text.embedding));
        }
        if info.image_side_px > 0 {
            let side = info.image_side_px as u32;
            let grey = self.keep(encoder.preprocess(&RgbImage::from_pixel(side, side, Rgb([128; 3]))))?;
            let image = self.keep(encoder.embed_images(&[grey], Keep::Nothing))?.pop()?;
            trial.image_embedding_head = head(&image.embedding);
        }
        Some(trial)
    }
}

/// Name and shape of a tensor.
type Shaped = (String, Vec<usize>);

#[cfg(test)]
mod tests;
