//! What `align` learnt, read back: it embeds texts, pictures, and images that the same frozen encoder embedded.

use std::path::{Path, PathBuf};

use candle_core::Tensor;

use super::{
    ALIGNED_FILE, FoundRow, FrozenImages, ImagePlan, Plan, Sources, TextPlan,
    data::{self, FrozenStatistics},
    feed::Texts,
    frozen_images::Statistics,
    network::Network,
    text_tower::Words,
    trainer::Trainer,
};
use crate::{
    Embedding, Error, Result, TextEmbedding, device,
    learn::{
        parameters::Parameter,
        tensors::{read_tensors, weights, write_tensors},
    },
};

const KEY: &str = "firn.aligned";

pub struct Aligned {
    file: PathBuf,
    plan: Plan,
    network: Network,
    statistics: Option<FrozenStatistics>,
}

impl Aligned {
    /// Names are OpenCLIP's for the towers, and FLAME's for the projector, so others can read them too.
    pub(super) fn write(path: &Path, trainer: &Trainer, statistics: Option<&FrozenStatistics>) -> Result<()> {
        let of = |p: &Parameter| (p.name.clone(), p.var.as_tensor().clone());
        let mut tensors: Vec<(String, Tensor)> = trainer.network.parameters.iter().map(of).collect();
        if let Some(statistics) = statistics {
            tensors.extend(statistics.tensors()?);
        }
        let plan = serde_json::to_string(&trainer.plan)
            .map_err(|e| Error::BadFile { file: path.to_owned(), detail: e.to_string() })?;
        write_tensors(path, &tensors, (KEY, &plan))
    }

    /// From the folder that `align` wrote.
    pub fn read(folder: &Path, device: crate::Device) -> Result<Aligned> {
        Aligned::open(folder, &device::open(device)?)
    }

    pub(super) fn open(folder: &Path, device: &candle_core::Device) -> Result<Aligned> {
        let path = folder.join(ALIGNED_FILE);
        let (plan, tensors) = read_tensors(&path, KEY, device)?;
        let bad = |detail: String| Error::BadFile { file: path.clone(), detail };
        let plan: Plan = serde_json::from_str(&plan).map_err(|e| bad(e.to_string()))?;
        plan.check().map_err(&bad)?;
        // Before anything is made of the plan's sizes: they may be a damaged file's.
        let (expected, received) =
            (plan.n_parameters(), tensors.values().map(|tensor| tensor.elem_count() as u64).sum());
        if expected > received {
            return Err(bad(format!("expected the {expected} numbers of its plan, received {received}")));
        }
        let network = Network::new(&plan, device, plan.precision.dtype())?;
        for parameter in &network.parameters {
            parameter.var.set(&weights(&tensors, &parameter.name, parameter.var.dims(), &path)?)?;
        }
        let statistics = match &plan.image {
            ImagePlan::Frozen(sizes) => Some(FrozenStatistics::read(&tensors, sizes, &path)?),
            ImagePlan::Tower { .. } => None,
        };
        Ok(Aligned { file: path, plan, network, statistics })
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Numbers that were learnt.
    pub fn n_parameters(&self) -> usize {
        self.network.parameters.iter().map(|p| p.var.elem_count()).sum()
    }

    /// `Error::EmptyText` for a text without a word, `Error::NoTextSide` where texts were frozen.
    pub fn embed_texts(&self, texts: &[&str]) -> Result<Vec<TextEmbedding>> {
        let words = self.words(texts)?;
        let counts: Vec<(usize, usize)> = words.iter().map(|words| (words.len(), words.n_cut)).collect();
        let embeddings = self.network.embed_texts(&Texts::Words(words))?;
        let both = embeddings.into_iter().zip(counts);
        Ok(both
            .map(|(embedding, (tokens_used, tokens_cut))| TextEmbedding {
                embedding,
                tokens_used,
                tokens_cut,
                fusion_tokens: None,
            })
            .collect())
    }

    /// Of each text the states of its words after the last block, (words, dim of the text tower); errors as `embed_texts`.
    pub(super) fn word_states(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        Ok(self.network.word_states(&self.words(texts)?)?)
    }

    fn words(&self, texts: &[&str]) -> Result<Vec<Words>> {
        let TextPlan::Tower(sizes) = &self.plan.text else { return Err(no_text_side()) };
        texts.iter().map(|text| Words::read(text, sizes).ok_or(Error::EmptyText)).collect()
    }

    /// Frozen images in the space of the texts, row by row. `Error::BadData` if they are not of the shape that was trained on,
    /// or pictures were.
    pub fn project(&self, images: &FrozenImages) -> Result<Vec<Embedding>> {
        data::project(self, images)
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn parts(&self) -> (&Plan, &Network, Option<&FrozenStatistics>) {
        (&self.plan, &self.network, self.statistics.as_ref())
    }

    pub(super) fn measure(&self, sources: &Sources) -> Result<Vec<FoundRow>> {
        let (held_out, rows) = data::held_out(&self.plan, sources, self.statistics.as_ref())?;
        held_out.by_language(&self.network, rows.as_ref())
    }
}

fn no_text_side() -> Error {
    Error::NoTextSide { model: ALIGNED_FILE.to_owned() }
}

impl FrozenStatistics {
    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let device = &candle_core::Device::Cpu;
        let vector = |name: &str, values: &[f32]| -> Result<(String, Tensor)> {
            Ok((format!("frozen_images.{name}"), Tensor::from_slice(values, values.len(), device)?))
        };
        let n = self.vectors.mean.len();
        let mut all = vec![
            vector("mean", &self.vectors.mean)?,
            vector("inverse_deviation", &self.vectors.inverse)?,
            ("frozen_images.whitening".to_owned(), Tensor::from_slice(&self.whitening, (n, n), device)?),
        ];
        if let Some(tokens) = &self.tokens {
            all.push(vector("tokens.mean", &tokens.mean)?);
            all.push(vector("tokens.inverse_deviation", &tokens.inverse)?);
        }
        Ok(all)
    }

    fn read(
        tensors: &std::collections::HashMap<String, Tensor>,
        sizes: &super::FrozenSizes,
        path: &Path,
    ) -> Result<FrozenStatistics> {
        let get = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
            Ok(weights(tensors, &format!("frozen_images.{name}"), shape, path)?.flatten_all()?.to_vec1()?)
        };
        let (dim, token_dim) = (sizes.dim, sizes.token_dim);
        let tokens = || -> Result<Statistics> {
            let inverse = get("tokens.inverse_deviation", &[token_dim])?;
            Ok(Statistics { mean: get("tokens.mean", &[token_dim])?, inverse })
        };
        Ok(FrozenStatistics {
            vectors: Statistics { mean: get("mean", &[dim])?, inverse: get("inverse_deviation", &[dim])? },
            whitening: get("whitening", &[dim, dim])?,
            tokens: (sizes.n_tokens > 0).then(tokens).transpose()?,
        })
    }
}
