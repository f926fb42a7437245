//! A network as files, to be taken from one collection to another of the same model: weights as safetensors, and beside them what is known of
//! it as JSON.

use std::{
    fs,
    path::{Path, PathBuf},
};

use firn_index::Collection;
use firn_model::{Device, fusion::Ensemble};

use super::{Error, State, Version, attachment};
use crate::engine::Engine;

/// The network that goes with the builtin model.
pub const BUILTIN: &str = "builtin";

/// A network that no collection has yet, or no more.
pub struct Package {
    pub version: Version,
    pub weights: Vec<u8>,
}

impl Package {
    /// The one that is part of the program: `model/weights/MODEL_CARD.md` says how it was made.
    pub fn builtin() -> Package {
        let weights = include_bytes!("../../model/weights/fusion.safetensors").to_vec();
        let about = include_str!("../../model/weights/fusion.json");
        Package { version: serde_json::from_str(about).expect("a test reads it"), weights }
    }

    /// A version of a collection. `Error::UnknownVersion`.
    pub fn of(collection: &Collection, number: u32) -> Result<Package, Error> {
        let version = State::of(collection)?.version(number)?.clone();
        let what = attachment(number);
        let weights = collection.attachment(&what)?;
        let gone = || Error::Unreadable { what, detail: "it is not there".to_owned() };
        Ok(Package { version, weights: weights.ok_or_else(gone)? })
    }

    /// `x.safetensors` and the `x.json` beside it. `Error::Unreadable` names the file.
    pub fn read(path: &Path) -> Result<Package, Error> {
        let read = |path: &Path| fs::read(path).map_err(|error| unreadable(path, error.to_string()));
        let beside = beside(path);
        let (weights, about) = (read(path)?, read(&beside)?);
        let version = serde_json::from_slice(&about).map_err(|error| unreadable(&beside, error.to_string()))?;
        Ok(Package { version, weights })
    }

    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let write =
            |path: &Path, bytes: &[u8]| fs::write(path, bytes).map_err(|error| unreadable(path, error.to_string()));
        write(path, &self.weights)?;
        let about = serde_json::to_string_pretty(&self.version).expect("plain numbers and names");
        write(&beside(path), (about + "\n").as_bytes())
    }

    /// Keeps it with a collection as a new version, if that has what it reads: the same model, vectors and tokens.
    pub fn add(self, engine: &Engine, collection: &Collection, name: &Path) -> Result<Version, Error> {
        let network = Ensemble::of_bytes(&self.weights, name, Device::Cpu)?;
        check(&self.version).map_err(|detail| unreadable(&beside(name), detail))?;
        let Version { reads, blend, .. } = &self.version;
        let config = collection.config();
        let lacks = |what: String| Error::Misfit { name: name.to_owned(), what };
        match config.model_of(&reads.image) {
            Some(model) if model.hash == reads.model.hash => {}
            _ => return Err(lacks(format!("embeddings by the model {} ({})", reads.model.name, reads.model.hash))),
        }
        if let Some(name) = blend.keys().chain(&reads.extra).find(|name| !config.vectors.contains_key(*name)) {
            return Err(lacks(format!("a vector {name:?}")));
        }
        if let Some(shape) = network.shape() {
            let wanted = shape.dim;
            if config.vectors.get(&reads.image).is_none_or(|vector| vector.dim != wanted) {
                return Err(lacks(format!("vectors {:?} of {wanted} numbers", reads.image)));
            }
            let [n, dim] = shape.image.tokens;
            let kept = config.tokens.get(&reads.image).map(|kept| [kept.n, kept.dim]);
            if reads.tokens && kept != Some([n, dim]) {
                return Err(lacks(format!("{n} x {dim} tokens beside {:?}", reads.image)));
            }
        }
        for (name, members) in network.hubs().iter().flat_map(|hubs| &hubs.images) {
            let wanted = members.dim;
            if config.vectors.get(name).is_none_or(|vector| vector.dim != wanted) {
                return Err(lacks(format!("vectors {name:?} of {wanted} numbers, by which it tells hubs")));
            }
        }
        let state = engine.rerankers().change(collection, |state| state.add(collection, self.version, self.weights))?;
        Ok(state.newest().clone())
    }
}

/// What a file says may be anything: numbers that a query would go by have to be in range.
fn check(version: &Version) -> Result<(), String> {
    let Version { blend, weights, candidates, calibration, .. } = version;
    let is_weight = |weight: &f32| weight.is_finite() && *weight >= 0.0;
    let is_sure = calibration.as_ref().is_none_or(|of| of.slope.is_finite() && of.offset.is_finite());
    let is_blend = blend.values().all(is_weight) && blend.values().any(|weight| *weight > 0.0);
    let are_weights = weights.iter().all(|weight| is_weight(&weight.logit) && is_weight(&weight.hubness));
    let fits = is_blend && are_weights && is_sure && (2..=1000).contains(candidates);
    let expected = "expected weights of 0 or more, one of the blend above, finite numbers, and 2 to 1000 candidates";
    fits.then_some(()).ok_or_else(|| format!("{expected}, received {weights:?}, {blend:?}, {candidates}"))
}

fn unreadable(path: &Path, detail: String) -> Error {
    Error::Unreadable { what: path.display().to_string(), detail }
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_network_is_for_the_builtin_model() {
        let Package { version, weights } = Package::builtin();
        let model = firn_model::load("builtin", Device::Cpu).unwrap();
        assert_eq!((version.reads.model.name.as_str(), &version.reads.model.hash), ("builtin", &model.info().hash));
        assert!(version.reads.tokens && version.weights[0].logit > 0.0 && weights.len() <= 8 << 20, "{version:?}");
        let network = Ensemble::of_bytes(&weights, Path::new(BUILTIN), Device::Cpu).unwrap();
        assert_eq!(network.n_parameters() as u64, version.parameters);
    }
}
