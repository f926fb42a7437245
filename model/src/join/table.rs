//! `model.toml` as it is written, and what it means: each side is of exactly one kind.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Error, Result, folder};

pub(crate) const FILE: &str = "model.toml";
const MAX_FILE_BYTES: u64 = 1 << 20;

/// At least one side is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub image: Option<Image>,
    pub text: Option<TextKind>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub kind: ImageKind,
    pub block: Option<Block>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ImageKind {
    /// The image side of a model by its name.
    Model(String),
    /// A checkpoint of FLAME's image side.
    Checkpoint(PathBuf),
}

/// A frozen block of a decoder LLM inside the image tower (LM4VisualEncoding).
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Block {
    /// By its name: a folder, a `.gguf` file or a hub's.
    pub decoder: String,
    /// From 0.
    pub index: usize,
    pub mappers: PathBuf,
    #[serde(default)]
    pub norm: Norm,
}

/// The decoder's final norm, which follows the block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Norm {
    /// As in the released code, whose weights were never loaded.
    #[default]
    Ones,
    Loaded,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TextKind {
    /// The text side of a model by its name.
    Model(String),
    Facets(Facets),
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
    facets: Option<String>,
    template: Option<String>,
    templates: Option<PathBuf>,
    blocks_left_out: Option<usize>,
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
        let about_facets = self.template.is_some() || self.templates.is_some() || self.blocks_left_out.is_some();
        match (self.model, self.facets) {
            (Some(_), None) if about_facets => {
                Err("text: template, templates and blocks_left_out go with facets, received model".to_owned())
            }
            (Some(model), None) => Ok(TextKind::Model(model)),
            (None, Some(name)) => Ok(TextKind::Facets(Facets {
                name,
                template: self.template.unwrap_or_else(|| "flame-7".to_owned()),
                templates: self.templates,
                blocks_left_out: self.blocks_left_out.unwrap_or(1),
            })),
            (Some(_), Some(_)) => Err("text: expected model or facets, received both".to_owned()),
            (None, None) => Err("text: expected model or facets, received neither".to_owned()),
        }
    }
}
