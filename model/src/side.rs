//! A model joined from two sides, each of which may come from elsewhere: one takes images, one takes texts, and both lead to one
//! space.

use std::sync::Arc;

use image::RgbImage;

use crate::{
    Encoder, Error, ImageEmbedding, Keep, Memory, ModelInfo, Pixels, Result, Sigmoid, TextEmbedding, device,
    fusion_tokens::TokenShape,
};

pub(crate) trait ImageSide: Send + Sync {
    fn info(&self) -> &ImageInfo;
    fn preprocess(&self, picture: &RgbImage) -> Pixels;
    fn embed(&self, images: &[Pixels], keep: Keep) -> Result<Vec<ImageEmbedding>>;
}

pub(crate) trait TextSide: Send + Sync {
    fn info(&self) -> &TextInfo;
    fn embed(&self, texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>>;

    /// As `Encoder::embed_unseen_texts`.
    fn embed_unseen(&self, _ids: &[&str], texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        self.embed(texts, keep)
    }

    /// As `Encoder::fold_of`.
    fn fold_of(&self, _id: &str) -> Result<Option<usize>> {
        Ok(None)
    }

    /// As `Encoder::decoder`.
    fn decoder(&self) -> Option<&str> {
        None
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ImageInfo {
    pub dim: usize,
    pub side_px: usize,
    /// Width of the tokens for fusion.
    pub token_dim: usize,
    pub parameters: u64,
    pub memory: Memory,
}

#[derive(Clone, Debug)]
pub(crate) struct TextInfo {
    pub dim: usize,
    pub max_tokens: usize,
    /// Those for fusion.
    pub tokens: TokenShape,
    pub parameters: u64,
    pub memory: Memory,
}

/// Either side may be missing, not both.
#[derive(Clone, Default)]
pub(crate) struct Sides {
    pub image: Option<Arc<dyn ImageSide>>,
    pub text: Option<Arc<dyn TextSide>>,
}

/// Which sides are wanted of a model that has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Both,
    Image,
    Text,
}

/// A model that is loaded, before anybody calls it by a name.
pub(crate) struct Opened {
    pub sides: Sides,
    pub family: String,
    pub hash: String,
    pub sigmoid: Option<Sigmoid>,
}

impl Opened {
    /// `name` is what the user called it.
    pub(crate) fn joined(self, name: &str, device: &candle_core::Device) -> Result<Arc<dyn Encoder>> {
        let Opened { sides, family, hash, sigmoid } = self;
        let about = About { name: name.to_owned(), family, hash, device: device::label(device), sigmoid };
        Ok(Arc::new(Joined::new(about, sides)?))
    }
}

/// How the joined model is called, and what only the whole has.
pub(crate) struct About {
    /// As the user wrote it.
    pub name: String,
    pub family: String,
    pub hash: String,
    pub device: String,
    pub sigmoid: Option<Sigmoid>,
}

pub(crate) struct Joined {
    info: ModelInfo,
    sides: Sides,
}

impl Joined {
    /// `Error::SidesDisagree` if images and texts become vectors of different length.
    pub(crate) fn new(about: About, sides: Sides) -> Result<Joined> {
        let (image, text) = (sides.image.as_ref().map(|side| side.info()), sides.text.as_ref().map(|side| side.info()));
        if let (Some(image), Some(text)) = (image, text)
            && image.dim != text.dim
        {
            return Err(Error::SidesDisagree { model: about.name, image_dim: image.dim, text_dim: text.dim });
        }
        let dim = image.map(|side| side.dim).or(text.map(|side| side.dim)).expect("a model has at least one side");
        let parameters = image.map_or(0, |side| side.parameters) + text.map_or(0, |side| side.parameters);
        let memory = || image.map(|side| &side.memory).into_iter().chain(text.map(|side| &side.memory));
        let info = ModelInfo {
            name: about.name,
            family: about.family,
            hash: about.hash,
            dim,
            image_side_px: image.map_or(0, |side| side.side_px),
            max_text_tokens: text.map_or(0, |side| side.max_tokens),
            image_token_dim: image.map_or(0, |side| side.token_dim),
            text_tokens: text.map(|side| side.tokens),
            parameters,
            device: about.device,
            weights_bytes: memory().map(|memory| memory.weights_bytes).sum(),
            batch_bytes: memory().map(|memory| memory.batch_bytes).max().unwrap_or(0),
            sigmoid: about.sigmoid,
        };
        Ok(Joined { info, sides })
    }

    fn image_side(&self) -> Result<&dyn ImageSide> {
        self.sides.image.as_deref().ok_or_else(|| Error::NoImageSide { model: self.info.name.clone() })
    }

    fn text_side(&self) -> Result<&dyn TextSide> {
        self.sides.text.as_deref().ok_or_else(|| Error::NoTextSide { model: self.info.name.clone() })
    }
}

impl Encoder for Joined {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn preprocess(&self, picture: &RgbImage) -> Result<Pixels> {
        Ok(self.image_side()?.preprocess(picture))
    }

    fn embed_images(&self, images: &[Pixels], keep: Keep) -> Result<Vec<ImageEmbedding>> {
        let (image_side, side) = (self.image_side()?, self.info.image_side_px);
        match images.iter().find(|image| image.side != side || image.values.len() != 3 * side * side) {
            Some(image) => Err(Error::WrongPixels { expected_px: side, received_px: image.side }),
            None => image_side.embed(images, keep),
        }
    }

    fn embed_texts(&self, texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        self.text_side()?.embed(texts, keep)
    }

    fn embed_unseen_texts(&self, ids: &[&str], texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        self.text_side()?.embed_unseen(ids, texts, keep)
    }

    fn fold_of(&self, id: &str) -> Result<Option<usize>> {
        self.text_side()?.fold_of(id)
    }

    fn decoder(&self) -> Option<&str> {
        self.sides.text.as_ref()?.decoder()
    }
}
