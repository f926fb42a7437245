//! A network of a collection, ready to look at candidates.

use std::path::Path;

use firn_index::Collection;
use firn_model::{
    Device,
    fusion::{Network, Scorer},
};

use super::{Error, Version, attachment};

pub struct Reranker {
    pub version: Version,
    scorer: Box<dyn Scorer + Send + Sync>,
}

impl Reranker {
    /// Reads the weights of a version. `Error::Unreadable` if they are not there or not whole.
    pub fn open(collection: &Collection, version: &Version, device: Device) -> Result<Reranker, Error> {
        let name = attachment(version.number);
        let unreadable = |detail: String| Error::Unreadable { what: name.clone(), detail };
        let bytes = collection.attachment(&name)?.ok_or_else(|| unreadable("it is not there".to_owned()))?;
        let network = Network::of_bytes(&bytes, Path::new(&name), device).map_err(|error| unreadable(error.to_string()))?;
        Ok(Reranker { version: version.clone(), scorer: network.scorer()? })
    }

    pub fn scorer(&self) -> &dyn Scorer {
        self.scorer.as_ref()
    }
}
