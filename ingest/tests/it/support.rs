//! An encoder that is a hash, a sink that is a map, and pictures to feed them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use firn_index::{CollectionConfig, ModelRef, PointId, TokenConfig, VectorConfig};
use firn_ingest::{
    embed::Input,
    sink::{Outcome, Sink, SinkError, Ticket},
};
use firn_model::{
    Embedding, Encoder, Error, FusionTokens, ImageEmbedding, Keep, ModelInfo, Pixels, TEXT_TOKENS, TextEmbedding,
    TokenShape,
};
use image::RgbImage;

pub const DIM: usize = 8;
pub const MAX_TOKENS: usize = 5;

/// Embeds by hashing: equal inputs have equal embeddings, different ones hardly ever. A text's words are its tokens; a
/// text that is `?` has none.
pub struct FakeEncoder {
    pub info: ModelInfo,
    /// Before what is hashed: another model's embeddings are others.
    pub salt: &'static [u8],
    pub image_calls: AtomicUsize,
    pub preprocessed: AtomicUsize,
}

impl FakeEncoder {
    pub fn new() -> Self {
        FakeEncoder {
            info: ModelInfo {
                name: "fake".to_owned(),
                family: "fake".to_owned(),
                hash: "f".repeat(32),
                dim: DIM,
                image_side_px: 4,
                max_text_tokens: MAX_TOKENS,
                image_token_dim: DIM,
                text_tokens: Some(TokenShape { n: TEXT_TOKENS, dim: DIM }),
                parameters: 0,
                device: "cpu".to_owned(),
                weights_bytes: 0,
                batch_bytes: 0,
                sigmoid: None,
            },
            salt: b"",
            image_calls: AtomicUsize::new(0),
            preprocessed: AtomicUsize::new(0),
        }
    }
}

impl FakeEncoder {
    /// Another model, whose hash is its name.
    pub fn named(name: &'static str) -> Self {
        let fake = FakeEncoder::new();
        let info = ModelInfo { name: name.to_owned(), hash: name.to_owned(), ..fake.info };
        FakeEncoder { info, salt: name.as_bytes(), ..fake }
    }
}

pub fn embedding_of(bytes: &[u8]) -> Embedding {
    let hash = blake3::hash(bytes);
    let numbers: Vec<f32> = hash.as_bytes()[..DIM].iter().map(|&byte| f32::from(byte) - 127.5).collect();
    let length = numbers.iter().map(|n| n * n).sum::<f32>().sqrt();
    numbers.into_iter().map(|n| n / length).collect()
}

/// `n` tokens of `DIM` numbers, hashed like the embedding.
pub fn tokens_of(bytes: &[u8], n: usize) -> FusionTokens {
    let rows = (0..n).flat_map(|row| embedding_of(&[bytes, &[row as u8]].concat()));
    FusionTokens::new(&rows.collect::<Vec<f32>>(), DIM).unwrap()
}

/// The same collection, with the tokens of the fake model.
pub fn with_tokens(config: CollectionConfig) -> CollectionConfig {
    let all = [("image", 16), ("text", TEXT_TOKENS)].into_iter().filter(|(of, _)| config.vectors.contains_key(*of));
    let tokens = all.map(|(of, n)| (of.to_owned(), TokenConfig { n, dim: DIM })).collect();
    CollectionConfig { tokens, ..config }
}

impl Encoder for FakeEncoder {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn preprocess(&self, picture: &RgbImage) -> Result<Pixels, Error> {
        self.preprocessed.fetch_add(1, Relaxed);
        Ok(Pixels { side: 4, values: picture.as_raw().iter().map(|&byte| f32::from(byte)).collect() })
    }

    fn embed_images(&self, images: &[Pixels], keep: Keep) -> Result<Vec<ImageEmbedding>, Error> {
        self.image_calls.fetch_add(1, Relaxed);
        let bytes = |image: &Pixels| image.values.iter().map(|&value| value as u8).collect::<Vec<u8>>();
        let one = |image| {
            let bytes = bytes(image);
            let fusion_tokens = match keep {
                Keep::Nothing => None,
                Keep::Tokens(grid) => Some(tokens_of(&bytes, grid.cells() * grid.cells())),
            };
            ImageEmbedding { embedding: embedding_of(&[self.salt, &bytes].concat()), fusion_tokens }
        };
        Ok(images.iter().map(one).collect())
    }

    fn embed_texts(&self, texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>, Error> {
        let one = |text: &&str| {
            let tokens = text.split_whitespace().filter(|&word| word != "?").count();
            if tokens == 0 {
                return Err(Error::EmptyText);
            }
            Ok(TextEmbedding {
                embedding: embedding_of(&[self.salt, text.as_bytes()].concat()),
                tokens_used: tokens.min(MAX_TOKENS),
                tokens_cut: tokens.saturating_sub(MAX_TOKENS),
                fusion_tokens: (keep != Keep::Nothing).then(|| tokens_of(text.as_bytes(), TEXT_TOKENS)),
            })
        };
        texts.iter().map(one).collect()
    }
}

/// Named vectors of `DIM` dimensions, made by the fake model.
pub fn config(vectors: &[&str]) -> CollectionConfig {
    CollectionConfig {
        model: Some(ModelRef { name: "fake".to_owned(), hash: "f".repeat(32) }),
        vectors: vectors.iter().map(|&name| (name.to_owned(), VectorConfig::new(DIM))).collect(),
        ..CollectionConfig::default()
    }
}

/// Keeps points, and refuses those whose payload has the field "refuse".
#[derive(Default)]
pub struct MapSink {
    pub points: BTreeMap<PointId, Input>,
    /// Points of earlier runs.
    pub before: BTreeSet<PointId>,
    pub needs_vectors: bool,
    pub batches: Vec<usize>,
    /// Fails when this many points are in.
    pub full_at: Option<usize>,
    /// Answers come a batch late.
    pub is_late: bool,
    pub owed: Vec<(Ticket, Outcome)>,
}

impl MapSink {
    /// The same place in the next run: what was written is there, and `points` are the new ones.
    pub fn next_run(self) -> MapSink {
        let before = self.before.into_iter().chain(self.points.into_keys()).collect();
        MapSink { before, needs_vectors: self.needs_vectors, ..MapSink::default() }
    }
}

impl Sink for MapSink {
    fn needs_vectors(&self) -> bool {
        self.needs_vectors
    }

    fn each_id(&mut self, see: &mut dyn FnMut(&PointId)) -> Result<(), SinkError> {
        self.before.iter().chain(self.points.keys()).for_each(see);
        Ok(())
    }

    fn put(&mut self, batch: Vec<(Ticket, Input)>, settled: &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError> {
        settled.append(&mut self.owed);
        if !batch.is_empty() {
            self.batches.push(batch.len());
        }
        if self.full_at.is_some_and(|full| self.points.len() + batch.len() > full) {
            return Err("the sink is full".into());
        }
        for (ticket, input) in batch {
            let outcome = match input.payload.get("refuse") {
                Some(why) => Outcome::Refused { reason: "refused".to_owned(), message: why.to_string() },
                None => {
                    self.points.insert(input.id.clone(), input);
                    Outcome::Written { truncated_texts: 0 }
                }
            };
            if self.is_late { &mut self.owed } else { &mut *settled }.push((ticket, outcome));
        }
        Ok(())
    }

    /// One answer at a time.
    fn wait(&mut self, settled: &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError> {
        settled.extend(self.owed.pop());
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        assert!(self.owed.is_empty(), "finished before every point was settled");
        Ok(())
    }
}

/// A small PNG; every seed is another picture.
pub fn png(seed: u32) -> Vec<u8> {
    let shade = |x: u32, y: u32| image::Rgb([seed as u8, (seed >> 8) as u8, (x * 16 + y) as u8]);
    let mut bytes = Vec::new();
    let format = image::ImageFormat::Png;
    RgbImage::from_fn(4, 4, shade).write_to(&mut std::io::Cursor::new(&mut bytes), format).unwrap();
    bytes
}

/// Writes files below a folder.
pub fn write(folder: &Path, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Straight into the header: the builder itself refuses names with `..`, which is what some tests are about.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A .npy file, format version 1.
pub fn npy(shape: &str, descr: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

pub fn f32_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}
