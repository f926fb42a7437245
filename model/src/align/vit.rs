//! The image tower that is trained: FLAME's, a ViT in OpenCLIP's names without a last norm, and the `mm` projector into
//! the space of the texts (papers: arXiv 2411.11927). A frozen block of a decoder LLM may stand between the two.

use candle_core::{DType, Result, Tensor, Var};

use super::{
    bounds::{n_linear, n_of_blocks, within},
    frozen_block::FrozenBlock,
};
use crate::{
    Pixels,
    learn::{
        layers::{Block, Linear, Norm, Pass},
        ops,
        parameters::{Maker, cast},
    },
};

/// Width of a head, as OpenCLIP's.
const HEAD_DIM: usize = 64;

/// Sizes of an image tower.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VitSizes {
    pub side_px: usize,
    pub patch_px: usize,
    pub dim: usize,
    pub n_blocks: usize,
    /// Width inside the projector.
    pub projector: usize,
}

impl VitSizes {
    pub fn check(&self) -> std::result::Result<(), String> {
        let VitSizes { side_px, patch_px, dim, n_blocks, projector } = *self;
        within("side_px", side_px, 1..=4096)?;
        within("patch_px", patch_px, 1..=side_px)?;
        within("image_dim", dim, 1..=1 << 14)?;
        within("image_blocks", n_blocks, 1..=256)?;
        within("projector", projector, 1..=1 << 16)?;
        if !side_px.is_multiple_of(patch_px) {
            return Err(format!("side_px: expected a multiple of the patch, {patch_px}, received {side_px}"));
        }
        if dim > HEAD_DIM && !dim.is_multiple_of(HEAD_DIM) {
            return Err(format!("image_dim: expected at most {HEAD_DIM} or a multiple of it, received {dim}"));
        }
        within("patches", self.n_patches(), 1..=1 << 16)
    }

    /// Numbers that are learnt in a tower that ends in `out`, but for the maps around a frozen block.
    pub(super) fn n_parameters(&self, out: usize) -> u64 {
        let VitSizes { patch_px, dim, n_blocks, projector, .. } = *self;
        let patches = (3 * patch_px * patch_px * dim) as u64;
        // The class, the positions, and two norms.
        let vectors = ((1 + self.n_patches() + 1 + 2) * dim + 2 * out) as u64;
        patches + vectors + n_of_blocks(n_blocks, dim) + n_linear(dim, projector) + n_linear(projector, out)
    }

    pub(super) fn n_heads(&self) -> usize {
        (self.dim / HEAD_DIM).max(1)
    }

    pub(super) fn n_patches(&self) -> usize {
        (self.side_px / self.patch_px).pow(2)
    }
}

pub(super) struct Vit {
    sizes: VitSizes,
    /// (dim, 3 patch patch), as a convolution's weight lies.
    patches: Var,
    class: Var,
    positions: Var,
    first_norm: Norm,
    blocks: Vec<Block>,
    llm: Option<FrozenBlock>,
    projector: (Linear, Linear, Norm),
}

impl Vit {
    pub(super) fn new(make: &mut Maker, sizes: &VitSizes, llm: Option<FrozenBlock>, out: usize) -> Result<Vit> {
        let VitSizes { dim, patch_px, n_blocks, projector, .. } = *sizes;
        let small = (dim as f32).powf(-0.5);
        let n_in = 3 * patch_px * patch_px;
        let block = |make: &mut Maker, i| {
            Block::new(make, &format!("visual.transformer.resblocks.{i}"), dim, sizes.n_heads(), 4 * dim)
        };
        Ok(Vit {
            sizes: sizes.clone(),
            patches: make.normal("visual.conv1.weight", &[dim, 3, patch_px, patch_px], (n_in as f32).powf(-0.5))?,
            class: make.normal("visual.class_embedding", &[dim], small)?,
            positions: make.normal("visual.positional_embedding", &[sizes.n_patches() + 1, dim], small)?,
            first_norm: Norm::new(make, "visual.ln_pre", dim)?,
            blocks: (0..n_blocks).map(|i| block(make, i)).collect::<Result<_>>()?,
            llm: llm.map(|llm| llm.with_mappers(make, dim)).transpose()?,
            projector: (
                Linear::new(make, "mm.0", [dim, projector])?,
                Linear::new(make, "mm.2", [projector, out])?,
                Norm::new(make, "mm.3", out)?,
            ),
        })
    }

    /// Of pictures of the tower's side: (batch, out), not yet of unit length.
    pub(super) fn forward(&self, pictures: &[&Pixels], pass: &Pass) -> Result<Tensor> {
        let patches = self.patches(pictures)?; // (batch, patches, 3 patch patch)
        let (batch, n_patches, n_in) = patches.dims3()?;
        let weight = cast(&self.patches.flatten_from(1)?, pass.dtype)?;
        let x = cast(&patches, pass.dtype)?.reshape(((), n_in))?.matmul(&weight.t()?)?;
        let x = cast(&x, DType::F32)?.reshape((batch, n_patches, ()))?;
        let class = self.class.reshape((1, 1, ()))?.broadcast_as((batch, 1, self.sizes.dim))?;
        let x = Tensor::cat(&[&class.contiguous()?, &x], 1)?.broadcast_add(&self.positions)?;
        let mut x = self.first_norm.forward(&x, pass)?;
        for block in &self.blocks {
            x = block.forward(&x, None, pass)?;
        }
        if let Some(llm) = &self.llm {
            x = llm.forward(&x, pass)?;
        }
        // FLAME projects the class token too, and drops it before the mean; here it is dropped first.
        let x = x.narrow(1, 1, n_patches)?.contiguous()?;
        let (first, second, norm) = &self.projector;
        let x = second.forward(&ops::gelu(&first.forward(&x, pass)?)?, pass)?;
        norm.forward(&x, pass)?.mean(1)
    }

    /// Numbers of the frozen block that stands in the tower, by name.
    pub(super) fn frozen(&self) -> Vec<(String, Tensor)> {
        self.llm.as_ref().map(FrozenBlock::tensors).unwrap_or_default()
    }

    fn patches(&self, pictures: &[&Pixels]) -> Result<Tensor> {
        let VitSizes { side_px: side, patch_px: patch, .. } = self.sizes;
        let grid = side / patch;
        let mut values = Vec::with_capacity(pictures.len() * 3 * side * side);
        for picture in pictures {
            assert_eq!(picture.side, side, "a picture has the tower's side");
            for (top, left) in (0..grid * grid).map(|at| (at / grid * patch, at % grid * patch)) {
                for (channel, y) in (0..3 * patch).map(|at| (at / patch, at % patch)) {
                    let start = (channel * side + top + y) * side + left;
                    values.extend_from_slice(&picture.values[start..start + patch]);
                }
            }
        }
        Tensor::from_vec(values, (pictures.len(), grid * grid, 3 * patch * patch), self.class.device())
    }
}
