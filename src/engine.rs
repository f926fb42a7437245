//! What the terminal and the server share: the open database and the encoders that go with its collections.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use firn_index::{CollectionConfig, Database, HnswConfig, ModelRef, TokenConfig, VectorConfig};
use firn_ingest::embed::{IMAGE_VECTOR, TEXT_VECTOR};
use firn_model::{Device, Encoder, Grid, ModelInfo, TokenShape};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Model(#[from] firn_model::Error),
    #[error(
        "model: the collection was made by {expected_name} ({expected_hash}), received {received_name} ({received_hash})"
    )]
    ModelMismatch { expected_name: String, expected_hash: String, received_name: String, received_hash: String },
    #[error("model: the collection was made by {name} ({hash}), which is not there any more")]
    ModelGone { name: String, hash: String },
    #[error("model {name:?} is not loaded here")]
    NotLoaded { name: String },
    #[error("tokens: model {name:?} keeps none that go with the vectors {vectors:?}")]
    NoTokens { name: String, vectors: Vec<String> },
}

/// Whether an encoder that is not there yet may be loaded by the name a collection keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loading {
    /// At the terminal: the user names the files.
    OnDemand(Device),
    /// In the server: only what it was started with. A client must not make it read a folder.
    Fixed,
}

/// The database and the encoders.
pub struct Engine {
    db: Database,
    encoders: Mutex<Vec<Arc<dyn Encoder>>>,
    loading: Loading,
}

impl Engine {
    pub fn new(db: Database, encoders: Vec<Arc<dyn Encoder>>, loading: Loading) -> Self {
        Engine { db, encoders: Mutex::new(encoders), loading }
    }

    pub fn db(&self) -> &Database {
        &self.db
    }

    /// The loaded encoders; the first is the default.
    pub fn models(&self) -> Vec<Arc<dyn Encoder>> {
        self.encoders.lock().expect("no holder of this lock panics").clone()
    }

    /// The encoder of that name, or the default one for none or an empty name.
    pub fn encoder(&self, name: Option<&str>) -> Result<Arc<dyn Encoder>, Error> {
        let loaded = self.models();
        let name = name.filter(|n| !n.is_empty());
        let found = match name {
            None => loaded.first(),
            Some(name) => loaded.iter().find(|e| e.info().name == name || model_ref(e.info()).name == name),
        };
        match found {
            Some(encoder) => Ok(encoder.clone()),
            None => self.load(name.unwrap_or(crate::settings::DEFAULT_MODEL)),
        }
    }

    /// The encoder that made a collection's embeddings; none if the collection has no model.
    pub fn encoder_of(&self, config: &CollectionConfig) -> Result<Option<Arc<dyn Encoder>>, Error> {
        let Some(model) = &config.model else { return Ok(None) };
        if let Some(encoder) = self.models().into_iter().find(|e| e.info().hash == model.hash) {
            return Ok(Some(encoder));
        }
        let encoder = match (self.encoder(Some(&model.name)), self.models().first()) {
            (Err(Error::NotLoaded { .. }), Some(default)) => return Err(mismatch(model, default.as_ref())),
            (Err(Error::Model(firn_model::Error::UnknownModel { .. })), _) => {
                return Err(Error::ModelGone { name: model.name.clone(), hash: model.hash.clone() });
            }
            (found, _) => found?,
        };
        if encoder.info().hash != model.hash {
            return Err(mismatch(model, encoder.as_ref()));
        }
        Ok(Some(encoder))
    }

    fn load(&self, name: &str) -> Result<Arc<dyn Encoder>, Error> {
        let Loading::OnDemand(device) = self.loading else { return Err(Error::NotLoaded { name: name.to_owned() }) };
        let encoder = firn_model::load(name, device)?;
        self.encoders.lock().expect("no holder of this lock panics").push(encoder.clone());
        Ok(encoder)
    }
}

/// How a collection remembers a model: a folder by its full path, so that it is found from anywhere.
pub fn model_ref(info: &ModelInfo) -> ModelRef {
    let folder = std::path::Path::new(&info.name);
    let full = folder.is_dir().then(|| std::fs::canonicalize(folder).ok()).flatten();
    let name = full.and_then(|path| path.to_str().map(str::to_owned)).unwrap_or_else(|| info.name.clone());
    ModelRef { name, hash: info.hash.clone() }
}

fn mismatch(expected: &ModelRef, received: &dyn Encoder) -> Error {
    Error::ModelMismatch {
        expected_name: expected.name.clone(),
        expected_hash: expected.hash.clone(),
        received_name: received.info().name.clone(),
        received_hash: received.info().hash.clone(),
    }
}

/// A collection for a model's embeddings: the given vectors, else "image" and "text" in its dimension, as far as it takes them;
/// with its tokens, if there is a grid for those of images.
pub fn collection_config(
    model: &ModelInfo,
    mut vectors: BTreeMap<String, VectorConfig>,
    hnsw: HnswConfig,
    grid: Option<Grid>,
) -> Result<CollectionConfig, Error> {
    if vectors.is_empty() {
        let ModelInfo { dim, image_side_px, max_text_tokens, .. } = *model;
        let taken = [(IMAGE_VECTOR, image_side_px > 0), (TEXT_VECTOR, max_text_tokens > 0)].into_iter();
        let config = |(name, _): (&str, bool)| (name.to_owned(), VectorConfig { dim });
        vectors = taken.filter(|(_, is_taken)| *is_taken).map(config).collect();
    }
    let tokens = grid.map(|grid| tokens_of(model, &vectors, grid)).transpose()?.unwrap_or_default();
    Ok(CollectionConfig { model: Some(model_ref(model)), vectors, hnsw, tokens })
}

/// The tokens that a model makes beside these vectors, those of images in this grid.
fn tokens_of(
    model: &ModelInfo,
    vectors: &BTreeMap<String, VectorConfig>,
    grid: Grid,
) -> Result<BTreeMap<String, TokenConfig>, Error> {
    let shapes = model.token_shapes(grid);
    let config = |(of, shape): (&str, Option<TokenShape>)| {
        let TokenShape { n, dim } = shape.filter(|_| vectors.contains_key(of))?;
        Some((of.to_owned(), TokenConfig { n, dim }))
    };
    let tokens: BTreeMap<_, _> =
        [(IMAGE_VECTOR, shapes.image), (TEXT_VECTOR, shapes.text)].into_iter().filter_map(config).collect();
    if tokens.is_empty() {
        let (name, vectors) = (model.name.clone(), vectors.keys().cloned().collect());
        return Err(Error::NoTokens { name, vectors });
    }
    Ok(tokens)
}
