//! What re-ranks: several networks that are asked as one, since each errs in its own way and their mean errs less; and what tells hubs.

use std::path::Path;

use candle_core::Tensor;

use super::{
    Hubs, Items, Network, Scorer, Shape,
    network::{About, KEY},
};
use crate::{
    Error, Result,
    learn::tensors::{parse_tensors, serialize},
};

/// Most networks of one.
pub const MAX_MEMBERS: usize = 32;

/// One network, or several that look at the same pairs, and perhaps what tells hubs; or that alone.
pub struct Ensemble {
    members: Vec<Network>,
    hubs: Option<Hubs>,
}

impl Ensemble {
    /// `Err` if there is none, too many, or one was made for other sizes.
    pub fn new(members: Vec<Network>) -> std::result::Result<Ensemble, String> {
        let fits = |network: &Network| network.shape() == members[0].shape();
        match (1..=MAX_MEMBERS).contains(&members.len()) && members.iter().all(fits) {
            true => Ok(Ensemble { members, hubs: None }),
            false => Err(format!("expected 1 to {MAX_MEMBERS} networks of one shape, received {}", members.len())),
        }
    }

    /// No network.
    pub fn of_hubs(hubs: Hubs) -> Ensemble {
        Ensemble { members: Vec::new(), hubs: Some(hubs) }
    }

    pub fn with_hubs(self, hubs: Option<Hubs>) -> Ensemble {
        Ensemble { hubs, ..self }
    }

    pub fn hubs(&self) -> Option<&Hubs> {
        self.hubs.as_ref()
    }

    pub fn into_hubs(self) -> Option<Hubs> {
        self.hubs
    }

    /// What its networks read, if there are any.
    pub fn shape(&self) -> Option<&Shape> {
        self.members.first().map(Network::shape)
    }

    /// Numbers that are learnt, of all.
    pub fn n_parameters(&self) -> usize {
        self.members.iter().map(Network::n_parameters).sum()
    }

    /// As safetensors: the names of each network's tensors begin with its place, those of the hubs with `hubs`.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let named = |(at, network): (usize, &Network)| {
            let named = |(name, tensor)| (format!("{at}.{name}"), tensor);
            network.tensors().into_iter().map(named).collect::<Vec<(String, Tensor)>>()
        };
        let mut tensors: Vec<(String, Tensor)> = self.members.iter().enumerate().flat_map(named).collect();
        if let Some(hubs) = &self.hubs {
            tensors.extend(hubs.tensors()?);
        }
        let about: Vec<&About> = self.members.iter().map(Network::about).collect();
        let about = serde_json::to_string(&about).expect("plain numbers and names");
        serialize(&tensors, (KEY, &about)).map_err(|detail| Error::BadPairs { detail })
    }

    /// What `bytes` gave; every tensor of its shape and finite. `name` is what errors call it.
    pub fn of_bytes(bytes: &[u8], name: &Path, device: crate::Device) -> Result<Ensemble> {
        let device = &crate::device::open(device)?;
        let bad = |detail: String| Error::BadFile { file: name.to_owned(), detail };
        let (about, tensors) = parse_tensors(bytes, name, KEY, device)?;
        let about: Vec<About> = serde_json::from_str(&about).map_err(|e| bad(e.to_string()))?;
        let open =
            |(at, about): (usize, &About)| Network::of_tensors(about, &format!("{at}."), (&tensors, name), device);
        let members = about.iter().take(MAX_MEMBERS).enumerate().map(open).collect::<Result<Vec<_>>>()?;
        match (members.is_empty(), Hubs::of_tensors(&tensors, name)?) {
            (true, Some(hubs)) => Ok(Ensemble::of_hubs(hubs)),
            (_, hubs) => Ok(Ensemble::new(members).map_err(bad)?.with_hubs(hubs)),
        }
    }

    /// The same in f32 and without a shortcut: the judge of `scorer`.
    pub fn as_written(&self) -> Box<dyn Scorer + '_> {
        Box::new(AsWritten(&self.members))
    }

    /// The fastest way to score with these weights, as they are now; none without a network.
    pub fn scorer(&self) -> Result<Option<Box<dyn Scorer + Send + Sync>>> {
        Ok(match &self.members[..] {
            [] => None,
            [only] => Some(only.scorer()?),
            members => Some(Box::new(Mean(members.iter().map(Network::scorer).collect::<Result<_>>()?))),
        })
    }
}

/// Each pair's mean logit.
struct Mean(Vec<Box<dyn Scorer + Send + Sync>>);

struct AsWritten<'a>(&'a [Network]);

impl Scorer for Mean {
    fn score(&self, images: &Items, texts: &Items, pairs: &[(usize, usize)]) -> Result<Vec<f32>> {
        mean(self.0.iter().map(|member| member.score(images, texts, pairs)), pairs.len())
    }
}

impl Scorer for AsWritten<'_> {
    fn score(&self, images: &Items, texts: &Items, pairs: &[(usize, usize)]) -> Result<Vec<f32>> {
        mean(self.0.iter().map(|member| member.score(images, texts, pairs)), pairs.len())
    }
}

fn mean(of_members: impl ExactSizeIterator<Item = Result<Vec<f32>>>, n: usize) -> Result<Vec<f32>> {
    let (mut sums, share) = (vec![0.0; n], 1.0 / of_members.len() as f32);
    for logits in of_members {
        sums.iter_mut().zip(logits?).for_each(|(sum, logit)| *sum += logit);
    }
    sums.iter_mut().for_each(|sum| *sum *= share);
    Ok(sums)
}
