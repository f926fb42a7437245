//! A folder that `align` wrote, as a model: what was learnt of it. An image tower is opened as FLAME's, whose names it has; a
//! text tower is a text side of its own.

use std::{path::Path, sync::Arc};

use super::{ALIGNED_FILE, Aligned, BlockPlan, ImagePlan, TextPlan, TextSizes};
use crate::{
    FusionTokens, Keep, Memory, Result, TEXT_TOKENS, TextEmbedding, TokenShape,
    decoder::FinalNorm,
    folder,
    fusion_tokens::pool_rows,
    pair::{self, FrozenBlock},
    side::{Opened, Sides, TextInfo, TextSide, Want},
};

/// As many as an ingest brings in a call.
const TEXTS_AT_ONCE: usize = 64;

pub(crate) const FAMILY: &str = "aligned";

pub(crate) fn is_in(folder: &Path) -> bool {
    folder.join(ALIGNED_FILE).is_file()
}

/// Frozen sides are not there.
pub(crate) fn open(folder: &Path, want: Want, device: &candle_core::Device) -> Result<Opened> {
    let path = folder.join(ALIGNED_FILE);
    let mut opened = Opened {
        sides: Sides::default(),
        family: FAMILY.to_owned(),
        hash: folder::hash(&[(ALIGNED_FILE.to_owned(), path.clone())])?,
        sigmoid: None,
    };
    let aligned = Aligned::open(folder, device)?;
    if let (ImagePlan::Tower { .. }, true) = (&aligned.plan().image, want != Want::Text) {
        let images = pair::open(&path, Want::Image, aligned.block(folder).as_ref(), device)?;
        (opened.sides.image, opened.hash) = (images.sides.image, images.hash);
    }
    if let (TextPlan::Tower(sizes), true) = (&aligned.plan().text, want != Want::Image) {
        let parameters = aligned.parts().1.n_text_parameters() as u64;
        let info = TextInfo {
            dim: aligned.plan().embedding_dim(),
            max_tokens: sizes.max_tokens,
            tokens: TokenShape { n: TEXT_TOKENS, dim: sizes.dim },
            parameters,
            memory: memory(sizes, parameters),
        };
        opened.sides.text = Some(Arc::new(Texts { info, aligned }));
    }
    Ok(opened)
}

impl Aligned {
    /// The batch of whichever side takes more.
    pub(crate) fn memory(&self) -> Vec<Memory> {
        let parameters = self.n_parameters() as u64;
        let texts = match &self.plan().text {
            TextPlan::Tower(sizes) => memory(sizes, parameters).batch_bytes,
            TextPlan::Facets { .. } => 0,
        };
        let images = match &self.plan().image {
            ImagePlan::Tower { sizes, .. } => {
                pair::tower_memory(sizes.dim, sizes.n_heads(), sizes.n_patches() + 1, parameters)
            }
            ImagePlan::Frozen(_) => Vec::new(),
        };
        let on = |device: &'static str| {
            let of_images = images.iter().find(|memory| memory.device == device).map_or(0, |memory| memory.batch_bytes);
            Memory { device, dtype: "f32", weights_bytes: 4 * parameters, batch_bytes: texts.max(of_images) }
        };
        ["cpu", "cuda"].map(on).to_vec()
    }

    /// The frozen block in the image tower of a folder.
    pub(crate) fn block(&self, folder: &Path) -> Option<FrozenBlock> {
        let ImagePlan::Tower { block: Some(BlockPlan { ref decoder, index, .. }), .. } = self.plan().image else {
            return None;
        };
        let mappers = folder.join(ALIGNED_FILE);
        Some(FrozenBlock { decoder: decoder.clone(), index, norm: FinalNorm::Ones, mappers })
    }
}

/// Weights, and the widest states of a call: those of the MLP, some copies of the hidden ones, and the scores of all heads.
fn memory(sizes: &TextSizes, n_parameters: u64) -> Memory {
    let TextSizes { dim, n_heads, max_tokens, .. } = *sizes;
    let numbers = TEXTS_AT_ONCE * max_tokens * (4 * dim + 6 * dim + 2 * n_heads * max_tokens);
    Memory { device: "cpu", dtype: "f32", weights_bytes: 4 * n_parameters, batch_bytes: 4 * numbers as u64 }
}

struct Texts {
    info: TextInfo,
    aligned: Aligned,
}

impl TextSide for Texts {
    fn info(&self) -> &TextInfo {
        &self.info
    }

    fn embed(&self, texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        let mut embeddings = self.aligned.embed_texts(texts)?;
        if keep != Keep::Nothing {
            for (embedding, states) in embeddings.iter_mut().zip(self.aligned.word_states(texts)?) {
                let TokenShape { n, dim } = self.info.tokens;
                embedding.fusion_tokens = Some(FusionTokens::new(&pool_rows(&states, dim, n), dim)?);
            }
        }
        Ok(embeddings)
    }
}
