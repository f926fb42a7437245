//! Both sides of what is trained: each a network, or frozen. Embeddings have unit length and meet in one space. Where both
//! sides have a plain and a deep way, the two embeddings stand side by side, so that a cosine is the mean of two.

use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::{
    Plan,
    feed::{Images, Texts},
    frozen_images::{ImageProjection, Picked, Projection, Rows},
    loss::{self, Owners},
    text_tower::{TextSizes, TextTower, Words},
    vit::{Vit, VitSizes},
};
use crate::learn::{
    layers::Pass,
    parameters::{Maker, Parameter, cast},
};

/// Weight of each way's own loss beside that of both together.
const OWN_WEIGHT: f64 = 0.5;
/// Images or texts that are embedded together without gradients.
const AT_ONCE: usize = 128;

/// What the image side is.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImagePlan {
    /// A ViT and its projector, perhaps with a frozen block of a decoder.
    Tower {
        sizes: VitSizes,
        block: Option<BlockPlan>,
    },
    Frozen(super::FrozenSizes),
}

/// Which block of which decoder stands in the image tower.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BlockPlan {
    pub decoder: std::path::PathBuf,
    pub index: usize,
    /// Of its sizes and weights: with another block the tower that learnt around this one says nothing.
    pub hash: String,
}

/// What the text side is.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextPlan {
    /// Of this dim, made beforehand.
    Facets {
        dim: usize,
    },
    Tower(TextSizes),
}

/// Frozen images as the network takes them.
pub(super) struct FrozenRows {
    /// As they came, of unit length.
    pub plain: Rows,
    pub standardised: Rows,
    pub whitened: Rows,
    pub tokens: Option<Rows>,
}

pub(super) struct Network {
    pub parameters: Vec<Parameter>,
    image: ImageSide,
    text: Option<TextTower>,
    /// Which parameters are the text tower's.
    of_texts: Range<usize>,
    log_scale: Var,
    bias: Var,
    n_ways: usize,
    device: Device,
    dtype: DType,
}

enum ImageSide {
    Tower(Box<Vit>),
    Frozen(Option<ImageProjection>),
}

impl Network {
    pub(super) fn new(plan: &Plan, device: &Device, dtype: DType) -> crate::Result<Network> {
        let mut make = Maker::new(device, plan.seed);
        let image = match &plan.image {
            ImagePlan::Tower { sizes, block } => {
                let block = block.as_ref().map(|block| block.open(device)).transpose()?;
                ImageSide::Tower(Box::new(Vit::new(&mut make, sizes, block, plan.dim)?))
            }
            ImagePlan::Frozen(sizes) => ImageSide::Frozen(ImageProjection::new(&mut make, sizes, plan.dim)?),
        };
        let n_of_images = make.made.len();
        let text = match &plan.text {
            TextPlan::Facets { .. } => None,
            TextPlan::Tower(sizes) => Some(TextTower::new(&mut make, sizes, plan.dim)?),
        };
        let of_texts = n_of_images..make.made.len();
        let log_scale = make.constant("logit_scale", &[], plan.first_scale.ln())?;
        let bias = make.constant("logit_bias", &[], plan.first_bias)?;
        let n_ways = plan.n_ways();
        Ok(Network {
            parameters: make.made,
            image,
            text,
            of_texts,
            log_scale,
            bias,
            n_ways,
            device: device.clone(),
            dtype,
        })
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// What the cosines are multiplied with.
    pub(super) fn scale(&self) -> Result<f32> {
        Ok(self.log_scale.to_scalar::<f32>()?.exp())
    }

    /// Between 1 and 100, as FLAME and CLIP have it.
    pub(super) fn clamp_scale(&self) -> Result<()> {
        self.log_scale.set(&self.log_scale.clamp(0f32, 100f32.ln())?)
    }

    /// Weights that must never change.
    pub(super) fn frozen(&self) -> Vec<(String, Tensor)> {
        match &self.image {
            ImageSide::Tower(vit) => vit.frozen(),
            ImageSide::Frozen(_) => Vec::new(),
        }
    }

    /// (images, dim), unit length, f32.
    pub(super) fn images(&self, images: &Images, rows: Option<&FrozenRows>, pass: &Pass) -> Result<Tensor> {
        match (&self.image, images) {
            (ImageSide::Tower(vit), Images::Pictures(pictures)) => {
                self.meet(vit.forward(&pictures.iter().collect::<Vec<_>>(), pass)?, None)
            }
            (ImageSide::Frozen(None), Images::Rows(at)) => frozen(rows).plain.pick(at, &self.device),
            (ImageSide::Frozen(Some(projection)), Images::Rows(at)) => {
                let rows = frozen(rows);
                let pick = |rows: &Rows| rows.pick(at, &self.device);
                let (whitened, standardised) = (pick(&rows.whitened)?, pick(&rows.standardised)?);
                let tokens = rows.tokens.as_ref().map(pick).transpose()?;
                let (plain, deep) = projection.forward(&Picked { whitened, standardised, tokens }, pass)?;
                self.meet(plain, deep)
            }
            _ => unreachable!("a feed gives what the image side takes"),
        }
    }

    /// (texts, dim), unit length, f32.
    pub(super) fn texts(&self, texts: &Texts, pass: &Pass) -> Result<Tensor> {
        match (&self.text, texts) {
            (None, Texts::Facets { dim, values }) => {
                Tensor::from_slice(values, (values.len() / dim, *dim), &self.device)
            }
            (Some(tower), Texts::Words(words)) => {
                let (deep, plain) = tower.forward(&words.iter().collect::<Vec<_>>(), pass)?;
                match plain {
                    Some(plain) => self.meet(plain, Some(deep)),
                    None => self.meet(deep, None),
                }
            }
            _ => unreachable!("a feed gives what the text side takes"),
        }
    }

    fn meet(&self, plain: Tensor, deep: Option<Tensor>) -> Result<Tensor> {
        let plain = cast(&plain, DType::F32)?;
        match deep {
            None => unit(&plain),
            Some(deep) if self.n_ways == 1 => unit(&(plain + cast(&deep, DType::F32)?)?),
            Some(deep) => Tensor::cat(&[unit(&plain)?, unit(&cast(&deep, DType::F32)?)?], 1)? / 2f64.sqrt(),
        }
    }

    /// Of embeddings of unit length.
    pub(super) fn loss(&self, plan: &Plan, images: &Tensor, texts: &Tensor, owners: &Owners) -> Result<Tensor> {
        let of = |images: &Tensor, texts: &Tensor| {
            let numbers = (self.log_scale.as_tensor(), self.bias.as_tensor());
            loss::of(plan.loss, (images, texts), owners, numbers, f64::from(plan.smoothing))
        };
        let mut sum = of(images, texts)?;
        if self.n_ways == 2 {
            let dim = images.dim(1)? / 2;
            for way in 0..2 {
                let half = |x: &Tensor| x.narrow(1, way * dim, dim)?.contiguous()? * 2f64.sqrt();
                sum = (sum + (of(&half(images)?, &half(texts)?)? * OWN_WEIGHT)?)?;
            }
        }
        Ok(sum)
    }

    /// Without gradients, in pieces: the embeddings, row after row.
    pub(super) fn embed_images(&self, images: &Images, rows: Option<&FrozenRows>) -> Result<Vec<Vec<f32>>> {
        let pass = Pass::quiet(self.dtype);
        let pieces: Vec<Images> = match images {
            Images::Pictures(all) => all.chunks(AT_ONCE).map(|piece| Images::Pictures(piece.to_vec())).collect(),
            Images::Rows(all) => all.chunks(AT_ONCE).map(|piece| Images::Rows(piece.to_vec())).collect(),
        };
        in_rows(pieces.iter().map(|piece| self.images(piece, rows, &pass)))
    }

    /// Numbers of the text tower.
    pub(super) fn n_text_parameters(&self) -> usize {
        self.of_texts.clone().map(|at| self.parameters[at].var.elem_count()).sum()
    }

    /// Of each text (words, dim), after the text tower's last norm.
    pub(super) fn word_states(&self, texts: &[Words]) -> Result<Vec<Vec<f32>>> {
        let tower = self.text.as_ref().expect("texts are not frozen");
        tower.word_states(&texts.iter().collect::<Vec<_>>(), &Pass::quiet(self.dtype))
    }

    pub(super) fn embed_texts(&self, texts: &Texts) -> Result<Vec<Vec<f32>>> {
        let pass = Pass::quiet(self.dtype);
        match texts {
            Texts::Facets { .. } => in_rows([self.texts(texts, &pass)].into_iter()),
            Texts::Words(all) => {
                in_rows(all.chunks(AT_ONCE).map(|piece| self.texts(&Texts::Words(piece.to_vec()), &pass)))
            }
        }
    }
}

fn in_rows(pieces: impl Iterator<Item = Result<Tensor>>) -> Result<Vec<Vec<f32>>> {
    let mut rows = Vec::new();
    for piece in pieces {
        rows.extend(piece?.detach().to_vec2::<f32>()?);
    }
    Ok(rows)
}

fn frozen(rows: Option<&FrozenRows>) -> &FrozenRows {
    rows.expect("a frozen side comes with its rows")
}

fn unit(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?)
}

/// Whether both sides have two ways.
pub(super) fn n_ways(image: &ImagePlan, text: &TextPlan) -> usize {
    let deep_images = matches!(image, ImagePlan::Frozen(sizes) if sizes.projection == Projection::Mlp);
    let plain_texts = matches!(text, TextPlan::Tower(sizes) if sizes.plain_dim > 0);
    if deep_images && plain_texts { 2 } else { 1 }
}
