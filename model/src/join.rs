//! `model.toml`: a model joined from sides that come from different folders or hubs.
//!
//! What is said of each side is read into a kind of its own; a side knows how to load itself and what it is made of.

mod stack;
mod table;

use std::path::{Path, PathBuf};

use candle_core::Device;

pub(crate) use self::table::{FILE, Image, ImageKind, Table, TextKind};
use crate::{
    Error, ModelSpec, Result, Sigmoid, encoder,
    facets::{self, Facets, Template},
    folder, hub,
    pair::{self, FrozenBlock},
    side::{ImageSide, Opened, Sides, TextSide, Want},
};

pub(crate) fn is_in(folder: &Path) -> bool {
    folder.join(FILE).is_file()
}

/// Opens what the file of a folder names.
pub(crate) fn open(folder: &Path, device: &Device) -> Result<Opened> {
    let table = Table::read(folder)?;
    let image = table.image.map(|image| image.open(folder, device)).transpose()?;
    let text = table.text.map(|text| text.open(folder, device)).transpose()?;
    let parts: Vec<&Part> =
        [image.as_ref().map(|(_, part)| part), text.as_ref().map(|(_, part)| part)].into_iter().flatten().collect();
    Ok(Opened {
        family: parts.iter().map(|part| part.family.as_str()).collect::<Vec<_>>().join(" + "),
        hash: hash(&parts),
        sigmoid: sigmoid(&parts),
        sides: Sides { image: image.map(|(side, _)| side), text: text.map(|(side, _)| side) },
    })
}

/// What a side is made of.
struct Part {
    family: String,
    /// What shapes its embeddings, as (what, which): the hash of its files, and settings.
    meaning: Vec<(&'static str, String)>,
    sigmoid: Option<Sigmoid>,
}

/// That of the one model which both sides are taken from; between those of several it would say nothing.
fn sigmoid(parts: &[&Part]) -> Option<Sigmoid> {
    let hash = |part: &Part| part.meaning[0].1.clone();
    let [image, text] = parts else { return None };
    image.sigmoid.filter(|_| hash(image) == hash(text))
}

/// A side, and what it is made of.
type Side<S> = (std::sync::Arc<S>, Part);

impl Image {
    fn open(&self, folder: &Path, device: &Device) -> Result<Side<dyn ImageSide>> {
        let block = self.block.as_ref().map(|block| block.found(folder)).transpose()?;
        let (what, name, opened) = match &self.kind {
            ImageKind::Model(name) => {
                let place = place(name, folder)?;
                let opened = encoder::open_folder(&place, Want::Image, block.as_ref(), device)?;
                ("image.model", name.clone(), opened)
            }
            ImageKind::Checkpoint(file) => {
                let path = checkpoint(file, folder)?;
                (
                    "image.checkpoint",
                    file.display().to_string(),
                    pair::open(&path, Want::Image, block.as_ref(), device)?,
                )
            }
        };
        let side = opened.sides.image.ok_or(Error::NoImageSide { model: name })?;
        Ok((side, Part { family: opened.family, meaning: vec![(what, opened.hash)], sigmoid: opened.sigmoid }))
    }
}

impl table::Block {
    pub(crate) fn found(&self, folder: &Path) -> Result<FrozenBlock> {
        Ok(FrozenBlock {
            decoder: find(&self.decoder, folder, |path| path.exists())?,
            index: self.index,
            norm: self.norm,
            mappers: folder.join(&self.mappers),
        })
    }
}

impl TextKind {
    fn open(&self, folder: &Path, device: &Device) -> Result<Side<dyn TextSide>> {
        match self {
            TextKind::Model(name) => {
                let Opened { sides, family, hash, sigmoid } = open_named(name, folder, Want::Text, device)?;
                let side = sides.text.ok_or_else(|| Error::NoTextSide { model: name.clone() })?;
                Ok((side, Part { family, meaning: vec![("text.model", hash)], sigmoid }))
            }
            TextKind::Checkpoint(file) => {
                let path = checkpoint(file, folder)?;
                let Opened { sides, family, hash, sigmoid } = pair::open(&path, Want::Text, None, device)?;
                let side = sides.text.ok_or_else(|| Error::NoTextSide { model: file.display().to_string() })?;
                Ok((side, Part { family, meaning: vec![("text.checkpoint", hash)], sigmoid }))
            }
            TextKind::Facets(facets) => facets.open(folder, device),
            TextKind::Stack(stack) => stack.open(folder, device),
        }
    }
}

impl table::Facets {
    fn open(&self, folder: &Path, device: &Device) -> Result<Side<dyn TextSide>> {
        let path = self.decoder(folder)?;
        let template = self.template(folder)?;
        let device = if device.is_cuda() { crate::Device::Cuda } else { crate::Device::Cpu };
        let options = facets::Options {
            template: template.clone(),
            n_blocks_left_out: self.blocks_left_out,
            mode: self.mode,
            device,
            ..facets::Options::flame()
        };
        // What does not fit is refused before it is read as a whole.
        let side = Facets::load(&path, &options)?;
        let meaning = vec![
            ("text.facets", folder::hash(&facets::files(&path)?)?),
            ("text.template", serde_json::to_string(&template).expect("a template is plain text")),
            ("text.blocks_left_out", self.blocks_left_out.to_string()),
            ("text.mode", format!("{:?}", self.mode)),
        ];
        let family = format!("facets of {}", side.family());
        Ok((std::sync::Arc::new(side), Part { family, meaning, sigmoid: None }))
    }

    /// A folder, or a `.gguf` file.
    pub(crate) fn decoder(&self, folder: &Path) -> Result<PathBuf> {
        find(&self.name, folder, |path| path.exists())
    }

    /// By its name, in FLAME's file or the user's.
    pub(crate) fn template(&self, folder: &Path) -> Result<Template> {
        match &self.templates {
            Some(file) => Template::read(&folder.join(file), &self.template),
            None => Template::flame(&self.template),
        }
    }
}

/// Opens one side of a model by its name. A name that leads to another `model.toml` is refused, so that none leads to itself.
fn open_named(name: &str, folder: &Path, want: Want, device: &Device) -> Result<Opened> {
    let place = place(name, folder)?;
    encoder::open_folder(&place, want, None, device)
}

/// The folder of a name; relative ones start from the folder of the file.
pub(crate) fn place(name: &str, folder: &Path) -> Result<PathBuf> {
    let place = find(name, folder, Path::is_dir)?;
    match is_in(&place) {
        true => Err(bad(folder, format!("{name:?} has a {FILE} of its own: expected a model"))),
        false => Ok(place),
    }
}

/// Relative ones start from the folder of the file.
pub(crate) fn checkpoint(file: &Path, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(file);
    match path.is_file() {
        true => Ok(path),
        false => Err(Error::MissingFile { folder: folder.to_owned(), file: file.display().to_string() }),
    }
}

fn find(name: &str, folder: &Path, is_there: impl Fn(&Path) -> bool) -> Result<PathBuf> {
    match name.parse()? {
        ModelSpec::Builtin => Err(bad(folder, "expected a folder or a hub's name, received \"builtin\"".to_owned())),
        ModelSpec::Hub { repo, revision } => hub::fetch(&repo, &revision),
        ModelSpec::Folder(path) => match folder.join(path) {
            path if is_there(&path) => Ok(path),
            _ => Err(Error::UnknownModel { name: name.to_owned() }),
        },
    }
}

fn bad(folder: &Path, detail: String) -> Error {
    Error::BadFile { file: folder.join(FILE), detail }
}

/// First 32 hexadecimal digits of the BLAKE3 hash over what the sides mean, however the file is written.
fn hash(parts: &[&Part]) -> String {
    let mut all = blake3::Hasher::new();
    for (what, which) in parts.iter().flat_map(|part| &part.meaning) {
        all.update(what.as_bytes()).update(&[0]).update(&(which.len() as u64).to_le_bytes()).update(which.as_bytes());
    }
    all.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests;
