//! What the terminal and the server share: the open database and the encoders that go with its collections.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use firn_index::{CollectionConfig, Database, Embeds, HnswConfig, ModelRef, Side, TokenConfig, VectorConfig};
use firn_ingest::makers::{IMAGE_VECTOR, Maker, TEXT_VECTOR, makers, vectors_of};
use firn_model::{Device, Encoder, Grid, ModelInfo, TokenShape};

use crate::reranker::Cache;

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
    /// The same, where one was named that every collection must be made with.
    Named(Device),
    /// In the server: only what it was started with. A client must not make it read a folder.
    Fixed(Device),
}

impl Loading {
    fn device(self) -> Device {
        match self {
            Loading::OnDemand(device) | Loading::Named(device) | Loading::Fixed(device) => device,
        }
    }
}

/// The database and the encoders.
pub struct Engine {
    db: Database,
    encoders: Mutex<Vec<Arc<dyn Encoder>>>,
    loading: Loading,
    rerankers: Cache,
}

impl Engine {
    pub fn new(db: Database, encoders: Vec<Arc<dyn Encoder>>, loading: Loading) -> Self {
        Engine { db, encoders: Mutex::new(encoders), loading, rerankers: Cache::new(loading.device()) }
    }

    pub fn db(&self) -> &Database {
        &self.db
    }

    /// Where networks compute.
    pub fn device(&self) -> Device {
        self.loading.device()
    }

    /// The fusion networks of its collections.
    pub fn rerankers(&self) -> &Cache {
        &self.rerankers
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
        let is_named = matches!(self.loading, Loading::Named(_));
        match (self.loaded(model), self.models().first()) {
            (Some(encoder), _) => Ok(Some(encoder)),
            (None, Some(named)) if is_named => Err(mismatch(model, named.as_ref())),
            (None, default) => match (self.encoder_by(model), default) {
                (Err(Error::NotLoaded { .. }), Some(default)) => Err(mismatch(model, default.as_ref())),
                (found, _) => found.map(Some),
            },
        }
    }

    /// The encoder in whose space the vectors of that name are; none if they are brought to none.
    pub fn encoder_for(&self, config: &CollectionConfig, vector: &str) -> Result<Option<Arc<dyn Encoder>>, Error> {
        match config.vectors.get(vector).and_then(|vector| vector.embeds.as_ref()) {
            Some(embeds) => self.encoder_by(&embeds.model).map(Some),
            None => self.encoder_of(config),
        }
    }

    /// The encoders of those makers of a collection's vectors that are wanted.
    pub fn encoders_for(
        &self,
        config: &CollectionConfig,
        is_wanted: impl Fn(&Maker<'_>) -> bool,
    ) -> Result<Vec<Arc<dyn Encoder>>, Error> {
        let mut encoders: Vec<Arc<dyn Encoder>> = Vec::new();
        for maker in makers(config).into_iter().filter(is_wanted) {
            let encoder = self.encoder_for(config, maker.vectors[0])?.expect("a maker has a model");
            if encoders.iter().all(|known| known.info().hash != encoder.info().hash) {
                encoders.push(encoder);
            }
        }
        Ok(encoders)
    }

    fn loaded(&self, model: &ModelRef) -> Option<Arc<dyn Encoder>> {
        self.models().into_iter().find(|encoder| encoder.info().hash == model.hash)
    }

    fn encoder_by(&self, model: &ModelRef) -> Result<Arc<dyn Encoder>, Error> {
        if let Some(encoder) = self.loaded(model) {
            return Ok(encoder);
        }
        let encoder = match self.encoder(Some(&model.name)) {
            Err(Error::Model(firn_model::Error::UnknownModel { .. })) => {
                return Err(Error::ModelGone { name: model.name.clone(), hash: model.hash.clone() });
            }
            found => found?,
        };
        if encoder.info().hash != model.hash {
            return Err(mismatch(model, encoder.as_ref()));
        }
        Ok(encoder)
    }

    fn load(&self, name: &str) -> Result<Arc<dyn Encoder>, Error> {
        let (Loading::OnDemand(device) | Loading::Named(device)) = self.loading else {
            return Err(Error::NotLoaded { name: name.to_owned() });
        };
        let encoder = firn_model::load(name, device)?;
        self.encoders.lock().expect("no holder of this lock panics").push(encoder.clone());
        Ok(encoder)
    }
}

/// The vectors of texts that lie in the space of a vector of images.
pub fn texts_beside<'a>(config: &'a CollectionConfig, image: &str) -> Vec<&'a str> {
    let space = |name: &str| Some((&config.model_of(name)?.hash, config.vectors.get(name)?.dim));
    let mut texts = vectors_of(config, Side::Text);
    texts.retain(|name| space(name).is_some() && space(name) == space(image));
    texts
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

/// A vector that a model makes. Of one that takes no images, points bring those of images.
pub fn made_vector(model: &ModelInfo, side: Side) -> Result<VectorConfig, Error> {
    if side == Side::Text && model.max_text_tokens == 0 {
        return Err(firn_model::Error::NoTextSide { model: model.name.clone() }.into());
    }
    Ok(VectorConfig { dim: model.dim, embeds: Some(Embeds { side, model: model_ref(model) }) })
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
        let config = |(name, _): (&str, bool)| (name.to_owned(), VectorConfig::new(dim));
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
        let TokenShape { n, dim } = shape.filter(|_| vectors.get(of).is_some_and(|vector| vector.embeds.is_none()))?;
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
