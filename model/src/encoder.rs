//! The one face of every frozen encoder, and how a name becomes one.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use image::RgbImage;

use crate::{
    Error, Result, align, decoder, device,
    fusion_tokens::{FusionTokens, Grid, Keep, TokenShape, TokenShapes},
    hub, join,
    kind::Kind,
    pair::{self, FrozenBlock},
    sentence,
    side::{Opened, Want},
};

/// Unit length, `ModelInfo::dim` numbers.
pub type Embedding = Vec<f32>;

/// A picture as the network takes it: resized, cropped, normalised; (3, side, side), channel first.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    pub side: usize,
    pub values: Vec<f32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ImageEmbedding {
    pub embedding: Embedding,
    /// If they were wanted.
    pub fusion_tokens: Option<FusionTokens>,
}

/// An embedded text, with what was read of it.
#[derive(Clone, Debug, PartialEq)]
pub struct TextEmbedding {
    pub embedding: Embedding,
    pub tokens_used: usize,
    /// Tokens beyond the model's limit, which were not read.
    pub tokens_cut: usize,
    /// If they were wanted.
    pub fusion_tokens: Option<FusionTokens>,
}

/// What an encoder is.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ModelInfo {
    /// As given: `builtin`, a folder, or `hf:org/name@rev`.
    pub name: String,
    /// Such as `clip`, `siglip` or `builtin`.
    pub family: String,
    /// First 32 hexadecimal digits of the BLAKE3 hash of every file that shapes an embedding.
    pub hash: String,
    pub dim: usize,
    /// 0: it takes no images.
    pub image_side_px: usize,
    /// 0: it takes no texts.
    pub max_text_tokens: usize,
    /// Width of the tokens that are kept of an image for fusion.
    pub image_token_dim: usize,
    /// Those that are kept of a text.
    pub text_tokens: Option<TokenShape>,
    pub parameters: u64,
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// What it takes in memory there: its weights, and beside them the largest batch on its way through.
    pub weights_bytes: u64,
    pub batch_bytes: u64,
    /// Of a model that was trained to say whether an image and a text belong together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigmoid: Option<Sigmoid>,
}

impl ModelInfo {
    /// What is kept for fusion, if the patches of an image are pooled to `grid`.
    pub fn token_shapes(&self, grid: Grid) -> TokenShapes {
        let n = grid.cells() * grid.cells();
        let image = (self.image_token_dim > 0).then_some(TokenShape { n, dim: self.image_token_dim });
        TokenShapes { image, text: self.text_tokens }
    }
}

/// What makes a probability of a cosine: two learnt numbers, as the weights hold them.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Sigmoid {
    /// The logarithm of what the cosine is multiplied with.
    pub logit_scale: f32,
    pub logit_bias: f32,
}

impl Sigmoid {
    /// That an image and a text whose embeddings have this cosine belong together.
    pub fn probability(&self, cosine: f32) -> f32 {
        1.0 / (1.0 + (-(cosine * self.logit_scale.exp() + self.logit_bias)).exp())
    }
}

/// A frozen encoder of images, of texts, or of both into one space. Batches give the same embeddings as single calls.
pub trait Encoder: Send + Sync {
    fn info(&self) -> &ModelInfo;

    /// Resizes, crops and normalises one picture; safe to call from many threads while a batch is embedded.
    /// `Error::NoImageSide` if the model takes texts only.
    fn preprocess(&self, picture: &RgbImage) -> Result<Pixels>;

    /// `Error::NoImageSide`, `Error::WrongPixels`.
    fn embed_images(&self, images: &[Pixels], keep: Keep) -> Result<Vec<ImageEmbedding>>;

    /// `Error::EmptyText` for a text without a word, `Error::NoTextSide` if the model takes images only.
    fn embed_texts(&self, texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>>;

    /// Each text as if the item of its id had not been among those that the model was made from, as far as the model can
    /// tell: a tower that was solved in folds can. What is learnt on top of a model is learnt from these. Errors as `embed_texts`.
    fn embed_unseen_texts(&self, _ids: &[&str], texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        self.embed_texts(texts, keep)
    }

    /// The part of the items that the model was made from that holds this one, where `embed_unseen_texts` embeds the texts of each part by
    /// what was made from all others. Images of other parts are then seen ones to a text, and lie otherwise for it than new ones do.
    fn fold_of(&self, _id: &str) -> Result<Option<usize>> {
        Ok(None)
    }

    /// Of a model whose tokens of texts are facets: a hash of the decoder that makes them and of how deep it is read. Facets of several
    /// templates lie in one space if it is the same.
    fn decoder(&self) -> Option<&str> {
        None
    }
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSpec {
    Builtin,
    Folder(PathBuf),
    /// `hf:org/name` or `hf:org/name@revision`.
    Hub {
        repo: String,
        revision: String,
    },
}

impl FromStr for ModelSpec {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let Some(hub) = name.strip_prefix("hf:") else {
            return Ok(if name == "builtin" { ModelSpec::Builtin } else { ModelSpec::Folder(name.into()) });
        };
        let (repo, revision) = hub.split_once('@').unwrap_or((hub, "main"));
        if !hub::is_repo(repo) || !hub::is_revision(revision) {
            return Err(Error::UnknownModel { name: name.to_owned() });
        }
        Ok(ModelSpec::Hub { repo: repo.to_owned(), revision: revision.to_owned() })
    }
}

/// Where a network computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// CUDA if this binary has it and a card answers, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda,
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda),
            _ => Err(Error::UnknownDevice { received: name.to_owned() }),
        }
    }
}

/// Loads an encoder by name: `builtin`, a folder (in the layout of Hugging Face, OpenCLIP or sentence-transformers, with a
/// `model.toml`, or as `align` wrote it), or `hf:org/name@rev`.
pub fn load(name: &str, device: Device) -> Result<Arc<dyn Encoder>> {
    let spec: ModelSpec = name.parse()?;
    let device = device::open(device)?;
    match spec {
        ModelSpec::Builtin => crate::builtin::load(&device),
        ModelSpec::Folder(file) if decoder::is_gguf(&file) => Err(decoder_alone(file)),
        ModelSpec::Folder(folder) if !folder.is_dir() => Err(Error::UnknownModel { name: name.to_owned() }),
        ModelSpec::Folder(folder) => load_folder(name, &folder, &device),
        ModelSpec::Hub { repo, revision } => load_folder(name, &hub::fetch(&repo, &revision)?, &device),
    }
}

fn load_folder(name: &str, folder: &Path, device: &candle_core::Device) -> Result<Arc<dyn Encoder>> {
    open_folder(folder, Want::Both, None, device)?.joined(name, device)
}

/// By what stands in it; the block is for the image tower of a pair.
pub(crate) fn open_folder(
    folder: &Path,
    want: Want,
    block: Option<&FrozenBlock>,
    device: &candle_core::Device,
) -> Result<Opened> {
    match Kind::of(folder) {
        Kind::Join => join::open(folder, device),
        Kind::Aligned => align::side::open(folder, want, device),
        Kind::Ridge => align::ridge::open(folder, want),
        Kind::Sentences => sentence::open(folder, device),
        Kind::Decoder => Err(decoder_alone(folder.join(pair::CONFIG_FILE))),
        Kind::Pair => pair::open(folder, want, block, device),
    }
}

fn decoder_alone(file: PathBuf) -> Error {
    let detail =
        "a decoder alone is no encoder; hint: name its folder or .gguf file as `facets` in a model.toml".to_owned();
    Error::BadFile { file, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{copy_of_fixture, fixture};

    #[test]
    fn names_become_places() {
        let hub = |repo: &str, revision: &str| ModelSpec::Hub { repo: repo.to_owned(), revision: revision.to_owned() };
        for (name, expected) in [
            ("builtin", ModelSpec::Builtin),
            ("./models/clip", ModelSpec::Folder("./models/clip".into())),
            ("hf:openai/clip-vit-base-patch32", hub("openai/clip-vit-base-patch32", "main")),
            ("hf:a/b@v1.0", hub("a/b", "v1.0")),
            ("hf:a/b@refs/pr/3", hub("a/b", "refs/pr/3")),
        ] {
            assert_eq!(name.parse::<ModelSpec>().unwrap(), expected);
        }
        for name in ["hf:", "hf:clip", "hf:../../etc", "hf:a/b@", "hf:a/b@../x", "hf:a/b c", "hf:a/b@x?y", "hf:a/b/c"] {
            let error = name.parse::<ModelSpec>().unwrap_err().to_string();
            assert_eq!(error, format!("no model at {name:?}: expected `builtin`, a folder, or `hf:org/name@revision`"));
        }
    }

    #[test]
    fn devices_have_three_names() {
        assert_eq!("auto".parse::<Device>().unwrap(), Device::Auto);
        assert_eq!("cpu".parse::<Device>().unwrap(), Device::Cpu);
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda);
        let error = "gpu".parse::<Device>().unwrap_err().to_string();
        assert_eq!(error, "device \"gpu\" is not known: expected auto, cpu or cuda");
    }

    #[test]
    fn loading_says_why_not() {
        let check = |name: &str, expected: &str| {
            let error = load(name, Device::Cpu).err().expect("an error").to_string();
            assert!(error.contains(expected), "{name}: {error}");
        };
        check("/no/such/folder", "no model at \"/no/such/folder\"");
        let copy = copy_of_fixture("clip-quick");
        let folder = copy.path().to_str().unwrap();
        let config = |text: &str| std::fs::write(copy.path().join("config.json"), text).unwrap();
        config(r#"{"model_type": "bert"}"#);
        check(folder, "modules.json is missing");
        config(r#"{"model_type": "blip"}"#);
        check(
            folder,
            "config.json: model family \"blip\" is not known: expected one of clip, siglip, flame, xlm-roberta, roberta",
        );
        config(r#"{"model_type": "mistral"}"#);
        check(folder, "config.json: a decoder alone is no encoder; hint: name its folder or .gguf file as `facets`");
        config("{}");
        check(folder, "config.json: model_type: expected a name");
        config("{");
        check(folder, "config.json: not JSON");
        let copy = copy_of_fixture("clip-quick");
        let tokenizer = copy.path().join("tokenizer.json");
        let mut bytes = std::fs::read(&tokenizer).unwrap();
        bytes[1] = 0xff;
        std::fs::write(&tokenizer, bytes).unwrap();
        check(copy.path().to_str().unwrap(), "tokenizer.json: invalid utf-8");
        for (model, family) in [("clip-gelu", "clip"), ("siglip-1", "siglip")] {
            assert_eq!(load(fixture(model).to_str().unwrap(), Device::Cpu).unwrap().info().family, family);
        }
    }
}
