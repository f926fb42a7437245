//! Several text sides as one: their embeddings stand side by side, each scaled by what it weighs, so that a cosine is the weighted mean
//! of theirs. Images come to the same place by `align::project`.

use std::{path::Path, sync::Arc};

use candle_core::Device;

use super::{Part, open_named, table};
use crate::{
    Keep, Memory, Result, TextEmbedding,
    side::{Opened, TextInfo, TextSide, Want},
};

impl table::Stack {
    pub(super) fn open(&self, folder: &Path, device: &Device) -> Result<super::Side<dyn TextSide>> {
        let (mut sides, mut meaning, mut families) = (Vec::new(), Vec::new(), Vec::new());
        for (name, scale) in self.models.iter().zip(self.scales()) {
            let Opened { sides: found, family, hash, .. } = open_named(name, folder, Want::Text, device)?;
            let side = found.text.ok_or_else(|| crate::Error::NoTextSide { model: name.clone() })?;
            meaning.push(("text.stack", format!("{hash} {scale}")));
            families.push(family);
            sides.push((side, scale));
        }
        let side = Arc::new(StackSide { info: info(&sides), sides });
        Ok((side, Part { family: format!("stack of {}", families.join(", ")), meaning, sigmoid: None }))
    }
}

struct StackSide {
    info: TextInfo,
    sides: Vec<(Arc<dyn TextSide>, f32)>,
}

fn info(sides: &[(Arc<dyn TextSide>, f32)]) -> TextInfo {
    let infos = || sides.iter().map(|(side, _)| side.info());
    let (first, memory) = (sides[0].0.info(), || infos().map(|info| &info.memory));
    TextInfo {
        dim: infos().map(|info| info.dim).sum(),
        max_tokens: infos().map(|info| info.max_tokens).min().expect("a stack has a part"),
        tokens: first.tokens,
        parameters: infos().map(|info| info.parameters).sum(),
        memory: Memory {
            weights_bytes: memory().map(|memory| memory.weights_bytes).sum(),
            batch_bytes: memory().map(|memory| memory.batch_bytes).max().unwrap_or(0),
            ..first.memory
        },
    }
}

impl StackSide {
    /// The first part's tokens are the stack's.
    fn joined(
        &self,
        n: usize,
        keep: Keep,
        embed: impl Fn(&dyn TextSide, Keep) -> Result<Vec<TextEmbedding>>,
    ) -> Result<Vec<TextEmbedding>> {
        let mut all: Vec<TextEmbedding> = Vec::with_capacity(n);
        for (at, (side, scale)) in self.sides.iter().enumerate() {
            let parts = embed(side.as_ref(), if at == 0 { keep } else { Keep::Nothing })?;
            if at == 0 {
                all = parts;
                all.iter_mut().for_each(|text| text.embedding.iter_mut().for_each(|x| *x *= scale));
                continue;
            }
            for (text, part) in all.iter_mut().zip(parts) {
                text.embedding.extend(part.embedding.iter().map(|x| x * scale));
                text.tokens_cut = text.tokens_cut.max(part.tokens_cut);
            }
        }
        Ok(all)
    }
}

impl TextSide for StackSide {
    fn info(&self) -> &TextInfo {
        &self.info
    }

    fn embed(&self, texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        self.joined(texts.len(), keep, |side, keep| side.embed(texts, keep))
    }

    fn embed_unseen(&self, ids: &[&str], texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        self.joined(texts.len(), keep, |side, keep| side.embed_unseen(ids, texts, keep))
    }

    /// By the first part that knows; those that were solved in as many folds have the same ones.
    fn fold_of(&self, id: &str) -> Result<Option<usize>> {
        self.sides.iter().find_map(|(side, _)| side.fold_of(id).transpose()).transpose()
    }
}
