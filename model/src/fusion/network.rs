//! The networks. All take a text and an image by their vectors and tokens, and the cosine of the two; all give one number.

use std::{collections::HashMap, path::Path};

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::{
    Items, Scorer,
    folded::Folded,
    looking::Layer,
    side::{Projected, Side},
};
use crate::{
    Error,
    learn::{
        layers::{Linear, Pass},
        ops,
        parameters::{Maker, Parameter, cast},
        tensors::weights,
    },
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

    pub fn reads_tokens(self) -> bool {
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

/// What comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    /// Numbers of a vector, of either side.
    pub dim: usize,
    pub image: SideShape,
    pub text: SideShape,
}

/// What one side brings beside its vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SideShape {
    /// Numbers that no cosine reads; 0 for none.
    pub extra: usize,
    /// How many, and numbers of each.
    pub tokens: [usize; 2],
}

impl Shape {
    fn check(&self) -> std::result::Result<(), String> {
        let fits = |side: SideShape| side.extra <= 1 << 16 && side.tokens[0] <= 1 << 12 && side.tokens[1] <= 1 << 15;
        match (1..=1 << 16).contains(&self.dim) && fits(self.image) && fits(self.text) {
            true => Ok(()),
            false => Err(format!("expected sizes in range, received {self:?}")),
        }
    }

    pub fn of(images: &Items, texts: &Items) -> Shape {
        let side = |items: &Items| SideShape { extra: items.extra_dim, tokens: [items.n_tokens, items.token_dim] };
        Shape { dim: images.dim, image: side(images), text: side(texts) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Sizes {
    pub dim: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    /// Of the MLP behind each attention, and of the head.
    pub wide: usize,
    /// The tokens alone are looked at; vectors are only compared. Learns faster what vectors hardly tell.
    #[serde(default)]
    pub tokens_only: bool,
    /// What each layer adds to the states, and the head to the cosine, is multiplied with: the less, the longer the cosine leads.
    #[serde(default = "first_share")]
    pub share: f64,
}

fn first_share() -> f64 {
    FIRST_SHARE
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { dim: 128, n_layers: 2, n_heads: 4, wide: 256, tokens_only: false, share: FIRST_SHARE }
    }
}

impl Sizes {
    /// About as many as a network of any kind has, without what brings vectors and tokens to its width.
    pub fn n_weights(&self) -> usize {
        let Sizes { dim, n_layers, wide, .. } = *self;
        let of_layer =
            dim.saturating_mul(2).saturating_mul(dim.saturating_mul(4).saturating_add(wide.saturating_mul(2)));
        n_layers.saturating_mul(of_layer).saturating_add(dim.saturating_mul(wide).saturating_mul(4))
    }

    pub fn check(&self) -> std::result::Result<(), String> {
        let Sizes { dim, n_layers, n_heads, wide, share, .. } = *self;
        /// A gibibyte of them, and of each of what an optimiser keeps beside them.
        const MAX_WEIGHTS: usize = 1 << 28;
        if !(share > 0.0 && share <= 10.0) {
            return Err(format!("expected a share of more than 0 and at most 10, received {share}"));
        }
        let fits = (1..=1 << 13).contains(&dim) && (1..=64).contains(&n_layers) && (1..=1 << 15).contains(&wide);
        if !fits || n_heads == 0 || !dim.is_multiple_of(n_heads) {
            return Err(format!(
                "expected a dim of 1 to 8192 that the heads divide, 1 to 64 layers, and 1 to 32768 wide: received dim {dim}, {n_heads} heads, {n_layers} layers, {wide} wide"
            ));
        }
        let n_weights = self.n_weights();
        if n_weights > MAX_WEIGHTS {
            return Err(format!(
                "expected sizes of at most {MAX_WEIGHTS} weights, received {n_weights} by dim {dim}, {n_layers} layers, {wide} wide"
            ));
        }
        Ok(())
    }
}

/// Usual share of what is added to the cosine.
const FIRST_SHARE: f64 = 0.2;
/// Of what is added to a vector of unit length.
pub(super) const BEND_SHARE: f64 = 0.2;
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
    /// What it multiplies in, if it only serves; else it learns, in f32.
    serves_in: Option<DType>,
}

/// What a network is made of.
pub(super) struct Parts<'a> {
    pub image: &'a Side,
    pub text: &'a Side,
    pub layers: &'a [Layer],
    pub head: &'a Head,
    pub log_scale: &'a Var,
}

/// What the weights are the weights of.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct About {
    kind: Kind,
    shape: Shape,
    sizes: Sizes,
}

pub(super) const KEY: &str = "firn.fusion";

impl Network {
    /// The first weights follow from the seed.
    pub(super) fn new(kind: Kind, shape: &Shape, sizes: &Sizes, seed: u64, device: &Device) -> Result<Network> {
        Network::made_by(Maker::new(device, seed), &About { kind, shape: *shape, sizes: *sizes })
    }

    /// All weights are still to be set.
    pub(super) fn blank(about: &About, matrices: DType, device: &Device) -> Result<Network> {
        Network::made_by(Maker { device, seed: None, matrices, made: Vec::new() }, about)
    }

    fn made_by(mut make: Maker, about: &About) -> Result<Network> {
        let (About { kind, shape, sizes }, device) = (*about, make.device.clone());
        let side = |make: &mut Maker, name: &str, mut side: SideShape| {
            if !kind.reads_tokens() {
                side.tokens = [0, 0];
            }
            let looks_at_vectors = !sizes.tokens_only || side.tokens[0] == 0;
            Side::new(make, name, looks_at_vectors.then_some(shape.dim), side, sizes.dim)
        };
        let image = side(&mut make, "image", shape.image)?;
        let text = side(&mut make, "text", shape.text)?;
        let n_layers = if matches!(kind, Kind::Mlp | Kind::MaxSim) { 0 } else { sizes.n_layers };
        let layers = (0..n_layers).map(|i| Layer::new(&mut make, i, kind, &sizes)).collect::<Result<_>>()?;
        let head = match kind {
            Kind::MaxSim => Head::MaxSim(make.constant("head.maxsim_scale", &[], 0.0)?),
            _ => Head::Joined {
                up: Linear::new(&mut make, "head.up", [4 * sizes.dim, sizes.wide])?,
                out: Linear::new(&mut make, "head.out", [sizes.wide, 1])?,
                bend: Bend::new(&mut make, sizes.dim, shape.dim)?,
                share: sizes.share,
            },
        };
        let log_scale = make.constant("logit_scale", &[], FIRST_SCALE.ln())?;
        let bias = make.constant("logit_bias", &[], -FIRST_SCALE / 2.0)?;
        let (about, parameters, serves_in) = (*about, make.made, None);
        Ok(Network { about, parameters, image, text, layers, head, log_scale, bias, device, serves_in })
    }

    pub fn kind(&self) -> Kind {
        self.about.kind
    }

    pub fn shape(&self) -> &Shape {
        &self.about.shape
    }

    pub fn sizes(&self) -> &Sizes {
        &self.about.sizes
    }

    pub(super) fn about(&self) -> &About {
        &self.about
    }

    pub(super) fn tensors(&self) -> Vec<(String, Tensor)> {
        self.parameters.iter().map(|p| (p.name.clone(), p.var.as_tensor().clone())).collect()
    }

    /// Takes the tensors whose names begin with `prefix`; every one of its shape and finite, or the file is to blame.
    pub(super) fn of_tensors(
        about: &About,
        prefix: &str,
        (tensors, file): (&HashMap<String, Tensor>, &Path),
        device: &Device,
    ) -> crate::Result<Network> {
        let bad = |detail: String| Error::BadFile { file: file.to_owned(), detail };
        about.sizes.check().and(about.shape.check()).map_err(bad)?;
        let network = Network::blank(about, DType::F32, device)?;
        for parameter in &network.parameters {
            let name = format!("{prefix}{}", parameter.name);
            parameter.var.set(&weights(tensors, &name, parameter.var.dims(), file)?)?;
        }
        Ok(network)
    }

    /// The fastest way to score with these weights, as they are now.
    pub fn scorer(&self) -> crate::Result<Box<dyn Scorer + Send + Sync>> {
        match self.device.is_cpu() {
            true => Ok(Box::new(Folded::new(self)?)),
            false => Ok(Box::new(self.serving(DType::BF16)?)),
        }
    }

    /// The same to serve alone: matrices in `dtype`, norms, shares and what is added up in f32; a batch is one way through it.
    pub(super) fn serving(&self, dtype: DType) -> Result<Network> {
        let mut served = Network::blank(&self.about, dtype, &self.device)?;
        for (ours, theirs) in served.parameters.iter().zip(&self.parameters) {
            ours.var.set(&cast(&theirs.var, ours.var.dtype())?)?;
        }
        if self.about.kind == Kind::Frevl {
            for (layer, whole) in served.layers.iter_mut().zip(&self.layers) {
                layer.fold_alone(whole, dtype)?;
            }
        }
        served.serves_in = Some(dtype);
        Ok(served)
    }

    /// Pairs that go through it together.
    pub(super) fn at_once(&self) -> usize {
        if self.serves_in.is_none() {
            return 1024;
        }
        /// The widest states of a batch: a gibibyte in f32.
        const MAX_NUMBERS: usize = 1 << 28;
        let About { shape, sizes, kind } = self.about;
        let n_tokens = if kind.reads_tokens() { shape.image.tokens[0] + shape.text.tokens[0] } else { 0 };
        (MAX_NUMBERS / ((2 + n_tokens) * sizes.wide.max(sizes.dim))).max(1)
    }

    pub(super) fn parts(&self) -> Parts<'_> {
        let Network { image, text, layers, head, log_scale, .. } = self;
        Parts { image, text, layers, head, log_scale }
    }

    /// Numbers that are learnt.
    pub fn n_parameters(&self) -> usize {
        self.parameters.iter().map(|p| p.var.elem_count()).sum()
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// The logit of pairs whose cosines are given, (pairs): those times the scale, what is added, and the bias.
    pub(super) fn logits(&self, cosines: Vec<f32>, added: &Tensor) -> Result<Tensor> {
        let cosines = Tensor::from_vec(cosines, added.dims(), &self.device)?;
        (cosines.broadcast_mul(&self.log_scale.exp()?)? + added)?.broadcast_add(&self.bias)
    }

    /// What pairs are to have in addition to their cosine, (pairs). The second pass drops what comes in of images.
    pub(super) fn forward(
        &self,
        images: &Items,
        texts: &Items,
        pairs: &[(usize, usize)],
        [pass, of_images]: [&Pass; 2],
    ) -> Result<Tensor> {
        let (text_at, of_text) = distinct(pairs.iter().map(|pair| pair.0));
        let (image_at, of_image) = distinct(pairs.iter().map(|pair| pair.1));
        let index = |at: Vec<u32>| Tensor::from_vec(at, pairs.len(), &self.device);
        let (of_text, of_image) = (index(of_text)?, index(of_image)?);
        let (text_vectors, image_vectors) =
            (texts.pick_vectors(&text_at, &self.device)?, images.pick_vectors(&image_at, &self.device)?);
        let text = self.text.forward(texts, &text_at, &text_vectors, [pass, pass])?;
        let image = self.image.forward(images, &image_at, &image_vectors, [pass, of_images])?;

        let (text, image) = match self.about.kind {
            Kind::FacetFusionOneWay => self.one_way(text, &image, (&of_text, &of_image), pass)?,
            _ => self.both_ways(text, image, (&of_text, &of_image), pass)?,
        };
        let vectors = (text_vectors.index_select(&of_text, 0)?, image_vectors.index_select(&of_image, 0)?);
        self.head.forward((&text, &image), vectors, &self.log_scale.exp()?, pass)
    }

    /// What is known of the numbers that come beside the vectors: their mean and deviation over `at`.
    pub(super) fn measure(&self, images: &Items, at: &[usize]) -> Result<()> {
        let extra = self.image.pooled.as_ref().and_then(|pooled| pooled.extra.as_ref());
        extra.map_or(Ok(()), |extra| extra.measure(images, at))
    }

    /// Every pair has its own states of both sides.
    fn both_ways(
        &self,
        text: Projected,
        image: Projected,
        of: (&Tensor, &Tensor),
        pass: &Pass,
    ) -> Result<(Tensor, Tensor)> {
        let (mut text, mut image) = (text.0.index_select(of.0, 0)?, image.0.index_select(of.1, 0)?);
        for layer in &self.layers {
            let from_image = layer.text.keys(&image, pass)?;
            let from_text = layer.image()?.keys(&text, pass)?;
            (text, image) =
                (layer.text.forward(&text, &from_image, pass)?, layer.image()?.forward(&image, &from_text, pass)?);
        }
        Ok((text, image))
    }

    /// Keys and values are made once for each image, whatever the pairs.
    fn one_way(
        &self,
        text: Projected,
        image: &Projected,
        of: (&Tensor, &Tensor),
        pass: &Pass,
    ) -> Result<(Tensor, Tensor)> {
        let mut text = text.0.index_select(of.0, 0)?;
        for layer in &self.layers {
            let keys = layer.text.keys(&image.0, pass)?.select(of.1)?;
            text = layer.text.forward(&text, &keys, pass)?;
        }
        Ok((text, image.0.index_select(of.1, 0)?))
    }
}

impl Scorer for Network {
    /// Without gradients; many pairs in pieces, as memory demands.
    fn score(&self, images: &Items, texts: &Items, pairs: &[(usize, usize)]) -> crate::Result<Vec<f32>> {
        let mut logits = Vec::with_capacity(pairs.len());
        for piece in pairs.chunks(self.at_once()) {
            let quiet = self.serves_in.map_or_else(|| Pass::quiet(DType::F32), Pass::serving);
            logits.extend(self.forward(images, texts, piece, [&quiet, &quiet])?.detach().to_vec1::<f32>()?);
        }
        Ok(logits)
    }
}

/// The distinct numbers in order of first sight, and the place of each number among them.
pub(super) fn distinct(numbers: impl Iterator<Item = usize>) -> (Vec<usize>, Vec<u32>) {
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

/// From the states and vectors of both sides to one number.
pub(super) enum Head {
    /// What bending both vectors by the mean states does to their cosine, and what two layers make of [t; v; t v; |t - v|] of
    /// those.
    Joined {
        up: Linear,
        out: Linear,
        bend: Bend,
        share: f64,
    },
    MaxSim(Var),
}

impl Head {
    /// States (pairs, tokens, dim), vectors (pairs, vector dim), the cosine's scale; to (pairs).
    fn forward(
        &self,
        (text, image): (&Tensor, &Tensor),
        vectors: (Tensor, Tensor),
        scale: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor> {
        match self {
            Head::Joined { up, out, bend, share } => {
                let (t, v) = (text.mean(1)?, image.mean(1)?);
                let joined = Tensor::cat(&[&t, &v, &(&t * &v)?, &(&t - &v)?.abs()?], 1)?;
                let raised = pass.drop(&ops::gelu(&up.forward(&joined, pass)?)?)?;
                let learnt = (cast(&out.forward(&raised, pass)?, DType::F32)? * *share)?.squeeze(1)?;
                let plain = (&vectors.0 * &vectors.1)?.sum(1)?;
                let bent = bend.cosine((&t, &v), vectors, pass)?;
                (bent - plain)?.broadcast_mul(scale)? + learnt
            }
            Head::MaxSim(own_scale) => {
                let cosines = unit(text)?.matmul(&unit(image)?.t()?)?; // (pairs, text tokens, image tokens)
                cosines.max(D::Minus1)?.mean(1)?.broadcast_mul(&own_scale.exp()?)
            }
        }
    }
}

/// Moves the vectors that a cosine compares, by little at first.
pub(super) struct Bend {
    pub text: Linear,
    pub image: Linear,
}

impl Bend {
    fn new(make: &mut Maker, dim: usize, vector_dim: usize) -> Result<Bend> {
        let side = |make: &mut Maker, name: &str| Linear::without_bias(make, name, [dim, vector_dim]);
        Ok(Bend { text: side(make, "bend.text")?, image: side(make, "bend.image")? })
    }

    fn cosine(&self, states: (&Tensor, &Tensor), vectors: (Tensor, Tensor), pass: &Pass) -> Result<Tensor> {
        // The matrix keeps the size of a state's numbers, which are near 1; those of a unit vector are not.
        let share = BEND_SHARE / (vectors.0.dim(1)? as f64).sqrt();
        let moved = |matrix: &Linear, state: &Tensor, vector: Tensor| -> Result<Tensor> {
            unit(&(vector + (cast(&matrix.forward(state, pass)?, DType::F32)? * share)?)?)
        };
        (moved(&self.text, states.0, vectors.0)? * moved(&self.image, states.1, vectors.1)?)?.sum(1)
    }
}

/// Added to a squared length before its root.
pub(super) const UNIT_EPSILON: f64 = 1e-6;

fn unit(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + UNIT_EPSILON)?.sqrt()?)
}
