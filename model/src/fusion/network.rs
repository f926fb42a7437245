//! The networks. All take a text and an image by their vectors and tokens, and the cosine of the two; all give one number.

use std::path::Path;

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::Items;
use crate::{
    Error,
    learn::{
        layers::{Linear, Norm, Pass},
        ops,
        parameters::{Maker, Parameter},
        tensors::{read_tensors, take, write_tensors},
    },
    pair::is_finite,
};

/// What a network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// FrEVL as the paper has it: one vector a side. Of one key the shares are always 1, so this is an MLP with residuals.
    Frevl,
    /// The same on the tokens of both sides, with a null key that lets a token look at nothing.
    FacetFusion,
    /// Only the text's tokens are changed; keys and values follow from the image alone.
    #[serde(rename = "facet-fusion-1way")]
    FacetFusionOneWay,
    /// The baseline of as many weights: the head over two vectors.
    Mlp,
    /// The baseline of late interaction: each text token's best image token (ColBERT, arXiv 2004.12832).
    MaxSim,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Frevl, Kind::FacetFusion, Kind::FacetFusionOneWay, Kind::Mlp, Kind::MaxSim];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Frevl => "frevl",
            Kind::FacetFusion => "facet-fusion",
            Kind::FacetFusionOneWay => "facet-fusion-1way",
            Kind::Mlp => "mlp",
            Kind::MaxSim => "maxsim",
        }
    }

    fn reads_tokens(self) -> bool {
        !matches!(self, Kind::Frevl | Kind::Mlp)
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Kind, String> {
        let all = Kind::ALL.map(Kind::name).join(", ");
        Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| format!("expected one of {all}, received {name:?}"))
    }
}

/// What comes in: numbers of a vector, tokens of a side, and numbers of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    pub dim: usize,
    pub image_tokens: [usize; 2],
    pub text_tokens: [usize; 2],
}

impl Shape {
    fn check(&self) -> std::result::Result<(), String> {
        let within = |n: usize, most: usize| n <= most;
        let fits = |[n, dim]: [usize; 2]| within(n, 1 << 12) && within(dim, 1 << 15);
        match (1..=1 << 16).contains(&self.dim) && fits(self.image_tokens) && fits(self.text_tokens) {
            true => Ok(()),
            false => Err(format!("expected sizes in range, received {self:?}")),
        }
    }

    pub fn of(images: &Items, texts: &Items) -> Shape {
        let tokens = |items: &Items| [items.n_tokens, items.token_dim];
        Shape { dim: images.dim, image_tokens: tokens(images), text_tokens: tokens(texts) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Sizes {
    pub dim: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    /// Of the MLP behind each attention, and of the head.
    pub wide: usize,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { dim: 128, n_layers: 2, n_heads: 4, wide: 256 }
    }
}

impl Sizes {
    pub fn check(&self) -> std::result::Result<(), String> {
        let Sizes { dim, n_layers, n_heads, wide } = *self;
        let fits = (1..=1 << 13).contains(&dim) && (1..=64).contains(&n_layers) && (1..=1 << 15).contains(&wide);
        match fits && n_heads > 0 && dim.is_multiple_of(n_heads) {
            true => Ok(()),
            false => Err(format!("expected sizes in range and a dim that the heads divide, received {self:?}")),
        }
    }
}

/// First share of what is added to the cosine.
const FIRST_SHARE: f64 = 0.2;
/// What the cosine is multiplied with at first.
const FIRST_SCALE: f32 = 20.0;

pub struct Network {
    about: About,
    pub(super) parameters: Vec<Parameter>,
    image: Side,
    text: Side,
    layers: Vec<Layer>,
    head: Head,
    log_scale: Var,
    bias: Var,
    device: Device,
}

/// What the weights are the weights of.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct About {
    kind: Kind,
    shape: Shape,
    sizes: Sizes,
}

const KEY: &str = "firn.fusion";

/// Some items on the device, projected: rows of the tokens, the pooled vector's first. (items, 1 + tokens, dim)
struct Projected(Tensor);

impl Network {
    /// The first weights follow from the seed.
    pub fn new(kind: Kind, shape: &Shape, sizes: &Sizes, seed: u64, device: &Device) -> Result<Network> {
        let mut make = Maker { device, seed, made: Vec::new() };
        let side = |make: &mut Maker, name: &str, tokens: [usize; 2]| {
            let tokens = if kind.reads_tokens() { tokens } else { [0, 0] };
            Side::new(make, name, shape.dim, tokens, sizes.dim)
        };
        let image = side(&mut make, "image", shape.image_tokens)?;
        let text = side(&mut make, "text", shape.text_tokens)?;
        let n_layers = if matches!(kind, Kind::Mlp | Kind::MaxSim) { 0 } else { sizes.n_layers };
        let layers = (0..n_layers).map(|i| Layer::new(&mut make, i, kind, sizes)).collect::<Result<_>>()?;
        let head = match kind {
            Kind::MaxSim => Head::MaxSim(make.constant("head.maxsim_scale", &[], 0.0)?),
            _ => Head::Joined {
                up: Linear::new(&mut make, "head.up", [4 * sizes.dim, sizes.wide])?,
                out: Linear::new(&mut make, "head.out", [sizes.wide, 1])?,
            },
        };
        let log_scale = make.constant("logit_scale", &[], FIRST_SCALE.ln())?;
        let bias = make.constant("logit_bias", &[], -FIRST_SCALE / 2.0)?;
        let about = About { kind, shape: *shape, sizes: *sizes };
        Ok(Network { about, parameters: make.made, image, text, layers, head, log_scale, bias, device: device.clone() })
    }

    pub fn kind(&self) -> Kind {
        self.about.kind
    }

    pub fn shape(&self) -> &Shape {
        &self.about.shape
    }

    /// Safetensors, whole or not at all.
    pub fn write(&self, path: &Path) -> crate::Result<()> {
        let tensors: Vec<(String, Tensor)> =
            self.parameters.iter().map(|p| (p.name.clone(), p.var.as_tensor().clone())).collect();
        let about = serde_json::to_string(&self.about).expect("plain numbers and names");
        write_tensors(path, &tensors, (KEY, &about))
    }

    /// What `write` wrote; every tensor of its shape and finite.
    pub fn read(path: &Path, device: &Device) -> crate::Result<Network> {
        let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
        let (about, tensors) = read_tensors(path, KEY, device)?;
        let About { kind, shape, sizes } = serde_json::from_str(&about).map_err(|e| bad(e.to_string()))?;
        sizes.check().and(shape.check()).map_err(bad)?;
        let network = Network::new(kind, &shape, &sizes, 0, device)?;
        for parameter in &network.parameters {
            let tensor = take(&tensors, &parameter.name, parameter.var.dims(), path)?;
            if !is_finite(&tensor)? {
                return Err(bad(format!("{}: expected finite numbers, received NaN or infinity", parameter.name)));
            }
            parameter.var.set(&tensor)?;
        }
        Ok(network)
    }

    /// Numbers that are learnt.
    pub fn n_parameters(&self) -> usize {
        self.parameters.iter().map(|p| p.var.elem_count()).sum()
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Logits of pairs without gradients, (text, image) each; in pieces.
    pub fn score(&self, images: &Items, texts: &Items, pairs: &[(usize, usize)]) -> Result<Vec<f32>> {
        const AT_ONCE: usize = 1024;
        let mut logits = Vec::with_capacity(pairs.len());
        for piece in pairs.chunks(AT_ONCE) {
            let (logit, _) = self.forward(images, texts, piece, &Pass::quiet(DType::F32))?;
            logits.extend(logit.detach().to_vec1::<f32>()?);
        }
        Ok(logits)
    }

    /// Logits of pairs, and what is in them beside the cosine; (pairs) each.
    pub(super) fn forward(
        &self,
        images: &Items,
        texts: &Items,
        pairs: &[(usize, usize)],
        pass: &Pass,
    ) -> Result<(Tensor, Tensor)> {
        let (text_at, of_text) = distinct(pairs.iter().map(|pair| pair.0));
        let (image_at, of_image) = distinct(pairs.iter().map(|pair| pair.1));
        let index = |at: Vec<u32>| Tensor::from_vec(at, pairs.len(), &self.device);
        let (of_text, of_image) = (index(of_text)?, index(of_image)?);
        let (text_vectors, image_vectors) =
            (texts.pick_vectors(&text_at, &self.device)?, images.pick_vectors(&image_at, &self.device)?);
        let cosine = (text_vectors.index_select(&of_text, 0)? * image_vectors.index_select(&of_image, 0)?)?.sum(1)?;
        let text = self.text.forward(texts, &text_at, text_vectors, pass)?;
        let image = self.image.forward(images, &image_at, image_vectors, pass)?;

        let added = match self.about.kind {
            Kind::FacetFusionOneWay => self.one_way(text, &image, (&of_text, &of_image), pass)?,
            _ => self.both_ways(text, image, (&of_text, &of_image), pass)?,
        };
        let scaled = cosine.broadcast_mul(&self.log_scale.exp()?)?;
        Ok(((scaled + &added)?.broadcast_add(&self.bias)?, added))
    }

    /// Every pair has its own states of both sides.
    fn both_ways(&self, text: Projected, image: Projected, of: (&Tensor, &Tensor), pass: &Pass) -> Result<Tensor> {
        let (mut text, mut image) = (text.0.index_select(of.0, 0)?, image.0.index_select(of.1, 0)?);
        for layer in &self.layers {
            let from_image = layer.text.keys(&image, pass)?;
            let from_text = layer.image()?.keys(&text, pass)?;
            (text, image) =
                (layer.text.forward(&text, &from_image, pass)?, layer.image()?.forward(&image, &from_text, pass)?);
        }
        self.head.forward(&text, &image, pass)
    }

    /// Keys and values are made once for each image, whatever the pairs.
    fn one_way(&self, text: Projected, image: &Projected, of: (&Tensor, &Tensor), pass: &Pass) -> Result<Tensor> {
        let mut text = text.0.index_select(of.0, 0)?;
        for layer in &self.layers {
            let keys = layer.text.keys(&image.0, pass)?.select(of.1)?;
            text = layer.text.forward(&text, &keys, pass)?;
        }
        self.head.forward(&text, &image.0.index_select(of.1, 0)?, pass)
    }
}

/// The distinct numbers in order of first sight, and the place of each number among them.
fn distinct(numbers: impl Iterator<Item = usize>) -> (Vec<usize>, Vec<u32>) {
    let (mut seen, mut places) = (Vec::new(), std::collections::HashMap::new());
    let at = numbers
        .map(|number| {
            *places.entry(number).or_insert_with(|| {
                seen.push(number);
                (seen.len() - 1) as u32
            })
        })
        .collect();
    (seen, at)
}

/// Brings one side's vector and tokens to the network's width.
struct Side {
    pooled: Linear,
    pooled_norm: Norm,
    tokens: Option<Tokens>,
}

struct Tokens {
    linear: Linear,
    norm: Norm,
    /// What tells a token's place; in the grid of an image, or among the parts of a text.
    places: Var,
}

impl Side {
    fn new(make: &mut Maker, name: &str, dim_in: usize, [n, token_dim]: [usize; 2], dim: usize) -> Result<Side> {
        let tokens = |make: &mut Maker| -> Result<Tokens> {
            Ok(Tokens {
                linear: Linear::new(make, &format!("{name}.tokens"), [token_dim, dim])?,
                norm: Norm::new(make, &format!("{name}.tokens_ln"), dim)?,
                places: make.normal(&format!("{name}.places"), &[n, dim], 0.02)?,
            })
        };
        Ok(Side {
            // A vector of unit length has small numbers.
            pooled: Linear::new(make, &format!("{name}.vector"), [dim_in, dim])?,
            pooled_norm: Norm::new(make, &format!("{name}.vector_ln"), dim)?,
            tokens: (n > 0).then(|| tokens(make)).transpose()?,
        })
    }

    fn forward(&self, items: &Items, at: &[usize], vectors: Tensor, pass: &Pass) -> Result<Projected> {
        let raised = ops::gelu(&(self.pooled.forward(&vectors, pass)? * (items.dim as f64).sqrt())?)?;
        let pooled = pass.drop(&self.pooled_norm.forward(&raised)?)?.unsqueeze(1)?;
        let Some(Tokens { linear, norm, places }) = &self.tokens else { return Ok(Projected(pooled)) };
        // Encoders differ in the size of their states.
        let tokens = ops::standardise(&items.pick_tokens(at, vectors.device())?, 1e-5)?;
        let tokens = norm.forward(&linear.forward(&tokens, pass)?)?.broadcast_add(places)?;
        Ok(Projected(Tensor::cat(&[&pooled, &pass.drop(&tokens)?], 1)?))
    }
}

/// One layer: the text looks at the image, and the image at the text.
struct Layer {
    text: Looking,
    image: Option<Looking>,
}

impl Layer {
    fn new(make: &mut Maker, i: usize, kind: Kind, sizes: &Sizes) -> Result<Layer> {
        let null = kind != Kind::Frevl;
        let image = kind != Kind::FacetFusionOneWay;
        let looking = |make: &mut Maker, who: &str| Looking::new(make, &format!("layers.{i}.{who}"), sizes, null);
        let text = looking(make, "text")?;
        Ok(Layer { text, image: image.then(|| looking(make, "image")).transpose()? })
    }

    fn image(&self) -> Result<&Looking> {
        self.image.as_ref().ok_or_else(|| candle_core::Error::msg("a one-way network leaves images as they are"))
    }
}

/// Cross-attention of one side to the other and an MLP, norms first.
struct Looking {
    norm: Norm,
    query: Linear,
    of_norm: Norm,
    key: Linear,
    value: Linear,
    out: Linear,
    mlp_norm: Norm,
    up: Linear,
    down: Linear,
    /// (dim): a key whose value is nothing.
    null: Option<Var>,
    n_heads: usize,
}

/// (items, heads, tokens, head dim) each.
struct Keys {
    key: Tensor,
    value: Tensor,
}

impl Keys {
    fn select(&self, at: &Tensor) -> Result<Keys> {
        Ok(Keys { key: self.key.index_select(at, 0)?, value: self.value.index_select(at, 0)? })
    }
}

impl Looking {
    fn new(make: &mut Maker, name: &str, sizes: &Sizes, null: bool) -> Result<Looking> {
        let Sizes { dim, n_heads, wide, .. } = *sizes;
        let at = |part: &str| format!("{name}.{part}");
        Ok(Looking {
            norm: Norm::new(make, &at("ln_1"), dim)?,
            query: Linear::new(make, &at("query"), [dim, dim])?,
            of_norm: Norm::new(make, &at("ln_other"), dim)?,
            key: Linear::new(make, &at("key"), [dim, dim])?,
            value: Linear::new(make, &at("value"), [dim, dim])?,
            out: Linear::new(make, &at("out"), [dim, dim])?,
            mlp_norm: Norm::new(make, &at("ln_2"), dim)?,
            up: Linear::new(make, &at("up"), [dim, wide])?,
            down: Linear::new(make, &at("down"), [wide, dim])?,
            null: null.then(|| make.normal(&at("null_key"), &[dim], 0.02)).transpose()?,
            n_heads,
        })
    }

    /// Of the other side's states (items, tokens, dim).
    fn keys(&self, other: &Tensor, pass: &Pass) -> Result<Keys> {
        let other = self.of_norm.forward(other)?;
        let heads = |x: Tensor| self.heads(&x);
        Ok(Keys { key: heads(self.key.forward(&other, pass)?)?, value: heads(self.value.forward(&other, pass)?)? })
    }

    /// (items, tokens, dim) to (items, heads, tokens, head dim)
    fn heads(&self, x: &Tensor) -> Result<Tensor> {
        let (n, length, dim) = x.dims3()?;
        x.reshape((n, length, self.n_heads, dim / self.n_heads))?.transpose(1, 2)?.contiguous()
    }

    fn forward(&self, x: &Tensor, keys: &Keys, pass: &Pass) -> Result<Tensor> {
        let (n, length, dim) = x.dims3()?;
        let head_dim = dim / self.n_heads;
        let query = self.heads(&self.query.forward(&self.norm.forward(x)?, pass)?)?;
        let query = (query / (head_dim as f64).sqrt())?;
        let scores = query.matmul(&keys.key.t()?)?; // (n, heads, length, others)
        let n_others = scores.dim(D::Minus1)?;
        let shares = match &self.null {
            Some(null) => {
                let null = null.reshape((1, self.n_heads, 1, head_dim))?;
                let nothing = query.broadcast_mul(&null)?.sum_keepdim(D::Minus1)?;
                ops::shares(&Tensor::cat(&[&scores, &nothing], D::Minus1)?)?
                    .narrow(D::Minus1, 0, n_others)?
                    .contiguous()?
            }
            None => ops::shares(&scores)?,
        };
        let mixed = shares.matmul(&keys.value)?.transpose(1, 2)?.reshape((n, length, dim))?;
        let x = (x + pass.drop(&(self.out.forward(&mixed, pass)? * FIRST_SHARE)?)?)?;
        let raised = ops::gelu(&self.up.forward(&self.mlp_norm.forward(&x)?, pass)?)?;
        &x + pass.drop(&(self.down.forward(&raised, pass)? * FIRST_SHARE)?)?
    }
}

/// From the states of both sides to one number.
enum Head {
    /// [t; v; t v; |t - v|] of the mean states, then two layers.
    Joined {
        up: Linear,
        out: Linear,
    },
    MaxSim(Var),
}

impl Head {
    /// (pairs, tokens, dim) each to (pairs).
    fn forward(&self, text: &Tensor, image: &Tensor, pass: &Pass) -> Result<Tensor> {
        match self {
            Head::Joined { up, out } => {
                let (t, v) = (text.mean(1)?, image.mean(1)?);
                let joined = Tensor::cat(&[&t, &v, &(&t * &v)?, &(&t - &v)?.abs()?], 1)?;
                let raised = pass.drop(&ops::gelu(&up.forward(&joined, pass)?)?)?;
                (out.forward(&raised, pass)? * FIRST_SHARE)?.squeeze(1)
            }
            Head::MaxSim(scale) => {
                let unit = |x: &Tensor| x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + 1e-6)?.sqrt()?);
                let cosines = unit(text)?.matmul(&unit(image)?.t()?)?; // (pairs, text tokens, image tokens)
                cosines.max(D::Minus1)?.mean(1)?.broadcast_mul(&scale.exp()?)
            }
        }
    }
}
