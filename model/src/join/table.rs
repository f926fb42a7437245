//! `model.toml` as it is written, and what it means: each side is of exactly one kind.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Error, Result, decoder::FinalNorm, facets::Mode, folder};

pub(crate) const FILE: &str = "model.toml";
const MAX_FILE_BYTES: u64 = 1 << 20;

/// At least one side is there.
#[derive(Debug, PartialEq)]
pub(crate) struct Table {
    pub image: Option<Image>,
    pub text: Option<TextKind>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub kind: ImageKind,
    /// A frozen block of a decoder inside the tower.
    pub block: Option<Block>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ImageKind {
    /// The image side of a model by its name.
    Model(String),
    /// A checkpoint that stands alone: FLAME's, or a Long-CLIP's.
    Checkpoint(PathBuf),
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Block {
    /// Name of the decoder.
    pub decoder: String,
    pub index: usize,
    pub mappers: PathBuf,
    #[serde(default)]
    pub norm: FinalNorm,
}

#[derive(Debug, PartialEq)]
pub(crate) enum TextKind {
    /// The text side of a model by its name.
    Model(String),
    /// A Long-CLIP's own checkpoint, with its tokenizer beside it.
    Checkpoint(PathBuf),
    Facets(Facets),
    Stack(Stack),
}

/// Text sides side by side.
#[derive(Debug, PartialEq)]
pub(crate) struct Stack {
    /// Names, two at least.
    pub models: Vec<String>,
    /// What the cosine of each counts.
    pub weights: Vec<f32>,
}

impl Stack {
    /// What each embedding is multiplied with, so that all together have unit length.
    pub(crate) fn scales(&self) -> Vec<f32> {
        let sum: f32 = self.weights.iter().sum();
        self.weights.iter().map(|weight| (weight / sum).sqrt()).collect()
    }
}

/// Facets of a text by a decoder LLM.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Facets {
    /// Of the decoder.
    pub name: String,
    pub template: String,
    /// Where the template stands, if it is none of FLAME's.
    pub templates: Option<PathBuf>,
    pub blocks_left_out: usize,
    pub mode: Mode,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    image: Option<WrittenImage>,
    text: Option<WrittenText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenImage {
    model: Option<String>,
    checkpoint: Option<PathBuf>,
    block: Option<Block>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenText {
    model: Option<String>,
    checkpoint: Option<PathBuf>,
    facets: Option<String>,
    stack: Option<Vec<String>>,
    weights: Option<Vec<f32>>,
    template: Option<String>,
    templates: Option<PathBuf>,
    blocks_left_out: Option<usize>,
    mode: Option<Mode>,
}

impl Table {
    pub(crate) fn read(folder: &Path) -> Result<Table> {
        let path = folder.join(FILE);
        let bad = |detail: String| Error::BadFile { file: path.clone(), detail };
        let text = String::from_utf8(folder::read(&path, MAX_FILE_BYTES)?).map_err(|e| bad(e.to_string()))?;
        Table::of_toml(&text).map_err(bad)
    }

    pub(super) fn of_toml(text: &str) -> Result<Table, String> {
        let written: Written = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        let image = written.image.map(WrittenImage::meaning).transpose()?;
        let text = written.text.map(WrittenText::meaning).transpose()?;
        match (&image, &text) {
            (None, None) => Err("expected [image], [text] or both, received neither".to_owned()),
            _ => Ok(Table { image, text }),
        }
    }
}

impl WrittenImage {
    fn meaning(self) -> Result<Image, String> {
        let kind = match (self.model, self.checkpoint) {
            (Some(model), None) => ImageKind::Model(model),
            (None, Some(checkpoint)) => ImageKind::Checkpoint(checkpoint),
            (Some(_), Some(_)) => return Err("image: expected model or checkpoint, received both".to_owned()),
            (None, None) => return Err("image: expected model or checkpoint, received neither".to_owned()),
        };
        Ok(Image { kind, block: self.block })
    }
}

impl WrittenText {
    fn meaning(self) -> Result<TextKind, String> {
        let about_facets = self.template.is_some()
            || self.templates.is_some()
            || self.blocks_left_out.is_some()
            || self.mode.is_some();
        if self.stack.is_none() && self.weights.is_some() {
            return Err("text: weights go with a stack".to_owned());
        }
        if let Some(models) = self.stack {
            if about_facets || self.model.is_some() || self.checkpoint.is_some() || self.facets.is_some() {
                return Err("text: expected model, checkpoint, facets or stack, received several".to_owned());
            }
            return stack(models, self.weights).map(TextKind::Stack);
        }
        match (self.model, self.checkpoint, self.facets) {
            (Some(_), None, None) | (None, Some(_), None) if about_facets => {
                Err("text: template, templates, blocks_left_out and mode go with facets, received model or checkpoint"
                    .to_owned())
            }
            (Some(model), None, None) => Ok(TextKind::Model(model)),
            (None, Some(checkpoint), None) => Ok(TextKind::Checkpoint(checkpoint)),
            (None, None, Some(name)) => Ok(TextKind::Facets(Facets {
                name,
                template: self.template.unwrap_or_else(|| "flame-7".to_owned()),
                templates: self.templates,
                blocks_left_out: self.blocks_left_out.unwrap_or(1),
                mode: self.mode.unwrap_or_default(),
            })),
            (None, None, None) => Err("text: expected model, checkpoint, facets or stack, received none".to_owned()),
            _ => Err("text: expected model, checkpoint, facets or stack, received several".to_owned()),
        }
    }
}

const MAX_STACK: usize = 16;

fn stack(models: Vec<String>, weights: Option<Vec<f32>>) -> Result<Stack, String> {
    let n = models.len();
    if !(2..=MAX_STACK).contains(&n) {
        return Err(format!("stack: expected 2 to {MAX_STACK} models, received {n}"));
    }
    let weights = weights.unwrap_or_else(|| vec![1.0; n]);
    if weights.len() != n || !weights.iter().all(|&weight| weight > 0.0 && weight <= 1e6) {
        return Err(format!("weights: expected {n} numbers more than 0, received {weights:?}"));
    }
    Ok(Stack { models, weights })
}
