//! The embed stage: what a point brings becomes what is stored. The command and the server both call it.
//!
//! A vector that is given is never computed anew, and nor are tokens: where a collection keeps them, they come with the vector
//! that is computed. One bad input never fails the others, and batches of any size give the same points.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use firn_index::{self as index, CollectionConfig, NewPoint, Payload, PointId, Text, Tokens};
use firn_model::{Encoder, FusionTokens, Grid, Keep, Pixels, TextEmbedding, picture};
use rayon::prelude::*;
use serde_json::Value;

use crate::ItemError;

/// The vector an image is embedded into.
pub const IMAGE_VECTOR: &str = "image";
/// The vector the texts of a point are embedded into.
pub const TEXT_VECTOR: &str = "text";

/// Inputs whose pixels are in memory at a time: 0.6 MB each at 224 pixels a side.
const CHUNK: usize = 64;
const IMAGES_PER_CALL: usize = 32;
const TEXTS_PER_CALL: usize = 64;

/// What is known of a point before it is embedded.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    pub id: PointId,
    /// An encoded picture.
    pub image: Option<Vec<u8>>,
    pub texts: Vec<Text>,
    pub payload: Payload,
    /// Precomputed vectors by name, any length but zero.
    pub vectors: BTreeMap<String, Vec<f32>>,
    /// Precomputed tokens, by the name of the vector they are kept beside.
    pub tokens: BTreeMap<String, Tokens>,
}

impl Input {
    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        let Input { image, texts, payload, vectors, tokens, .. } = self;
        image.as_ref().map_or(0, Vec::len) + kept_bytes(texts, payload, vectors, tokens)
    }
}

/// A point ready to be written, and what of its texts was not read.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    pub point: NewPoint,
    pub truncations: Vec<Truncation>,
}

/// A text that is longer than the model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Which text of the point.
    pub text: usize,
    pub tokens_used: usize,
    pub tokens_cut: usize,
}

/// Embeds inputs, one answer each, in order.
pub fn points(
    encoder: Option<&dyn Encoder>,
    config: &CollectionConfig,
    inputs: Vec<Input>,
) -> Vec<Result<Embedded, ItemError>> {
    let mut answers = Vec::with_capacity(inputs.len());
    let mut inputs = inputs.into_iter();
    loop {
        let chunk: Vec<Input> = inputs.by_ref().take(CHUNK).collect();
        if chunk.is_empty() {
            return answers;
        }
        let prepared = chunk.into_par_iter().map(|input| prepare(encoder, config, input)).collect();
        answers.extend(finish(encoder, config, prepared, &AtomicBool::new(false)));
    }
}

/// An input that was checked, its picture decoded and preprocessed: what is left needs the network.
#[derive(Clone, Debug)]
pub struct Prepared {
    point: NewPoint,
    pixels: Option<Pixels>,
    embed_texts: bool,
}

impl Prepared {
    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        let NewPoint { texts, payload, vectors, tokens, .. } = &self.point;
        let pixels = self.pixels.as_ref().map_or(0, |pixels| pixels.values.len() * 4);
        pixels + kept_bytes(texts, payload, vectors, tokens)
    }
}

/// Checks one input, decodes and preprocesses its picture. Needs no network, so many threads may do it.
pub fn prepare(encoder: Option<&dyn Encoder>, config: &CollectionConfig, input: Input) -> Result<Prepared, ItemError> {
    index::check_content(&input.id, &input.texts, &input.payload)?;
    check_vectors(config, &input.vectors)?;
    input.tokens.iter().try_for_each(|(of, tokens)| config.check_tokens(of, tokens))?;
    if let Some(text) = input.texts.iter().position(|text| text.text.trim().is_empty()) {
        return Err(ItemError::EmptyText { text });
    }
    let embed_image = needs_image(config, &input)?;
    let embed_texts = needs_texts(config, &input)?;
    let pixels = match input.image {
        Some(bytes) if embed_image => {
            let encoder = ready(encoder, config, IMAGE_VECTOR)?;
            Some(encoder.preprocess(&picture::decode(&bytes)?.rgb)?)
        }
        _ => None,
    };
    if embed_texts {
        ready(encoder, config, TEXT_VECTOR)?;
    }
    let Input { id, texts, payload, vectors, tokens, .. } = input;
    Ok(Prepared { point: NewPoint { id, texts, payload, vectors, tokens }, pixels, embed_texts })
}

/// Items that are embedded between two looks at whether to stop. On a CPU an item may take seconds; eight a core are as many
/// as make it faster.
pub fn step(encoder: Option<&dyn Encoder>) -> usize {
    let on_cpu = encoder.is_some_and(|encoder| encoder.info().device == "cpu");
    if on_cpu { (8 * rayon::current_num_threads()).min(CHUNK) } else { CHUNK }
}

/// Embeds what `prepare` left to do, in batches across items; one answer each, in order. When `stop` is set meanwhile, the
/// batch that is on its way is the last, and what it leaves undone is `ItemError::Stopped`.
pub fn finish(
    encoder: Option<&dyn Encoder>,
    config: &CollectionConfig,
    prepared: Vec<Result<Prepared, ItemError>>,
    stop: &AtomicBool,
) -> Vec<Result<Embedded, ItemError>> {
    let mut answers: Vec<_> = prepared
        .into_iter()
        .map(|item| item.map(|p| (Embedded { point: p.point, truncations: Vec::new() }, p.pixels, p.embed_texts)))
        .collect();
    let Some(encoder) = encoder else {
        return answers.into_iter().map(|answer| answer.map(|(embedded, ..)| embedded)).collect();
    };
    embed_images(encoder, keep(config, IMAGE_VECTOR), &mut answers, stop);
    embed_texts(encoder, keep(config, TEXT_VECTOR), &mut answers, stop);
    answers.into_iter().map(|answer| answer.map(|(embedded, ..)| embedded)).collect()
}

/// What a collection keeps beside that vector. A grid says nothing of texts.
fn keep(config: &CollectionConfig, vector: &str) -> Keep {
    let Some(shape) = config.tokens.get(vector) else { return Keep::Nothing };
    let grid = Grid::ALL.into_iter().find(|grid| grid.cells() * grid.cells() == shape.n);
    Keep::Tokens(grid.unwrap_or(Grid::Four))
}

type Answer = Result<(Embedded, Option<Pixels>, bool), ItemError>;

fn embed_images(encoder: &dyn Encoder, keep: Keep, answers: &mut [Answer], stop: &AtomicBool) {
    let (places, pixels): (Vec<usize>, Vec<Pixels>) = answers
        .iter_mut()
        .enumerate()
        .filter_map(|(place, answer)| Some((place, answer.as_mut().ok()?.1.take()?)))
        .unzip();
    let embeddings = each(&pixels, IMAGES_PER_CALL, stop, |batch| encoder.embed_images(batch, keep));
    for (place, embedding) in places.into_iter().zip(embeddings) {
        set(&mut answers[place], embedding, |answer, embedding| {
            answer.point.vectors.insert(IMAGE_VECTOR.to_owned(), embedding.embedding);
            add_tokens(&mut answer.point, IMAGE_VECTOR, embedding.fusion_tokens);
            Ok(())
        });
    }
}

/// Texts of all items go through the encoder sorted by length: a batch is padded to its longest.
fn embed_texts(encoder: &dyn Encoder, keep: Keep, answers: &mut [Answer], stop: &AtomicBool) {
    let mut texts: Vec<(usize, &str)> = Vec::new();
    for (place, answer) in answers.iter().enumerate() {
        if let Ok((embedded, _, true)) = answer {
            texts.extend(embedded.point.texts.iter().map(|text| (place, text.text.as_str())));
        }
    }
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&at| texts[at].1.len());
    let sorted: Vec<&str> = order.iter().map(|&at| texts[at].1).collect();
    let embeddings = each(&sorted, TEXTS_PER_CALL, stop, |batch| encoder.embed_texts(batch, keep));

    let mut by_text: Vec<Option<Result<TextEmbedding, ItemError>>> = (0..texts.len()).map(|_| None).collect();
    for (at, embedding) in order.into_iter().zip(embeddings) {
        by_text[at] = Some(embedding);
    }
    let mut by_place: BTreeMap<usize, Vec<Result<TextEmbedding, ItemError>>> = BTreeMap::new();
    let places: Vec<usize> = texts.iter().map(|&(place, _)| place).collect();
    for (place, embedding) in places.into_iter().zip(by_text.into_iter().flatten()) {
        by_place.entry(place).or_default().push(embedding);
    }
    for (place, embeddings) in by_place {
        set(&mut answers[place], in_order(embeddings), |answer, embeddings| {
            answer.truncations = truncations(&embeddings);
            answer.point.vectors.insert(TEXT_VECTOR.to_owned(), mean(&embeddings)?);
            add_tokens(&mut answer.point, TEXT_VECTOR, mean_tokens(embeddings)?);
            Ok(())
        });
    }
}

fn add_tokens(point: &mut NewPoint, vector: &str, tokens: Option<FusionTokens>) {
    if let Some(FusionTokens { n, dim, values }) = tokens {
        point.tokens.entry(vector.to_owned()).or_insert(Tokens { n, dim, values });
    }
}

/// Puts a result into an answer, or its error in the answer's place.
fn set<T>(
    answer: &mut Answer,
    result: Result<T, ItemError>,
    put: impl FnOnce(&mut Embedded, T) -> Result<(), ItemError>,
) {
    let Ok((embedded, ..)) = answer else { return };
    if let Err(error) = result.and_then(|value| put(embedded, value)) {
        *answer = Err(error);
    }
}

/// Calls `embed` on batches; a batch that fails is done again one by one, so that the error lands where it belongs.
fn each<I, O>(
    inputs: &[I],
    per_call: usize,
    stop: &AtomicBool,
    embed: impl Fn(&[I]) -> Result<Vec<O>, firn_model::Error>,
) -> Vec<Result<O, ItemError>> {
    let one = |input: &I| {
        let mut answer = embed(std::slice::from_ref(input))?;
        Ok(answer.pop().expect("an encoder gives one embedding an input"))
    };
    inputs
        .chunks(per_call)
        .flat_map(|batch| {
            if stop.load(Relaxed) {
                return batch.iter().map(|_| Err(ItemError::Stopped)).collect::<Vec<_>>();
            }
            match embed(batch) {
                Ok(embeddings) => {
                    assert_eq!(embeddings.len(), batch.len(), "an encoder gives one embedding an input");
                    embeddings.into_iter().map(Ok).collect()
                }
                Err(_) => batch.iter().map(one).collect(),
            }
        })
        .collect()
}

fn in_order(embeddings: Vec<Result<TextEmbedding, ItemError>>) -> Result<Vec<TextEmbedding>, ItemError> {
    let named = |(text, embedding)| match embedding {
        Err(ItemError::Model(firn_model::Error::EmptyText)) => Err(ItemError::EmptyText { text }),
        other => other,
    };
    embeddings.into_iter().enumerate().map(named).collect()
}

fn truncations(embeddings: &[TextEmbedding]) -> Vec<Truncation> {
    let cut = embeddings.iter().enumerate().filter(|(_, embedding)| embedding.tokens_cut > 0);
    cut.map(|(text, e)| Truncation { text, tokens_used: e.tokens_used, tokens_cut: e.tokens_cut }).collect()
}

/// The mean of unit vectors, scaled to unit length.
fn mean(embeddings: &[TextEmbedding]) -> Result<Vec<f32>, ItemError> {
    let mut sum = vec![0f64; embeddings[0].embedding.len()];
    for embedding in embeddings {
        for (total, &number) in sum.iter_mut().zip(&embedding.embedding) {
            *total += f64::from(number);
        }
    }
    let length = sum.iter().map(|number| number * number).sum::<f64>().sqrt();
    if length < 1e-6 {
        return Err(index::Error::ZeroVector { vector: TEXT_VECTOR.to_owned() }.into());
    }
    Ok(sum.into_iter().map(|number| (number / length) as f32).collect())
}

/// Slot by slot over the texts of a point; none if the model gave none.
fn mean_tokens(embeddings: Vec<TextEmbedding>) -> Result<Option<FusionTokens>, ItemError> {
    let all: Option<Vec<FusionTokens>> = embeddings.into_iter().map(|embedding| embedding.fusion_tokens).collect();
    Ok(all.map(|all| FusionTokens::mean(&all)).transpose()?)
}

fn needs_image(config: &CollectionConfig, input: &Input) -> Result<bool, ItemError> {
    if input.image.is_none() || input.vectors.contains_key(IMAGE_VECTOR) {
        return Ok(false);
    }
    if !config.vectors.contains_key(IMAGE_VECTOR) {
        return Err(ItemError::NoImageVector { vectors: config.vectors.keys().cloned().collect() });
    }
    Ok(true)
}

/// Texts are embedded where the collection can; where it cannot they are only kept, beside a vector the point has.
fn needs_texts(config: &CollectionConfig, input: &Input) -> Result<bool, ItemError> {
    let other = input.image.is_some() || !input.vectors.is_empty();
    if input.texts.is_empty() {
        return if other { Ok(false) } else { Err(ItemError::EmptyPoint) };
    }
    if input.vectors.contains_key(TEXT_VECTOR) {
        return Ok(false);
    }
    if !config.vectors.contains_key(TEXT_VECTOR) {
        let vectors = config.vectors.keys().cloned().collect();
        return if other { Ok(false) } else { Err(ItemError::NoTextVector { vectors }) };
    }
    Ok(config.model.is_some() || !other)
}

/// The encoder, if it is the one the collection was made with.
fn ready<'a>(
    encoder: Option<&'a dyn Encoder>,
    config: &CollectionConfig,
    vector: &'static str,
) -> Result<&'a dyn Encoder, ItemError> {
    let what = if vector == IMAGE_VECTOR { "an image" } else { "a text" };
    let model = config.model.as_ref().ok_or(ItemError::NoModel { what })?;
    let encoder = encoder.ok_or_else(|| ItemError::ModelNotLoaded { what, model: model.name.clone() })?;
    let info = encoder.info();
    if info.hash != model.hash {
        let received = format!("{} ({})", info.name, info.hash);
        return Err(ItemError::WrongModel { expected: format!("{} ({})", model.name, model.hash), received });
    }
    check_dimension(config, vector, info.dim)?;
    Ok(encoder)
}

fn check_vectors(config: &CollectionConfig, vectors: &BTreeMap<String, Vec<f32>>) -> Result<(), ItemError> {
    for (name, vector) in vectors {
        check_dimension(config, name, vector.len())?;
        if let Some(position) = vector.iter().position(|number| !number.is_finite()) {
            return Err(index::Error::NotFinite { vector: name.clone(), position }.into());
        }
        if vector.iter().all(|&number| number == 0.0) {
            return Err(index::Error::ZeroVector { vector: name.clone() }.into());
        }
    }
    Ok(())
}

fn check_dimension(config: &CollectionConfig, name: &str, received: usize) -> Result<(), ItemError> {
    let Some(vector) = config.vectors.get(name) else {
        let expected = config.vectors.keys().cloned().collect();
        return Err(index::Error::UnknownVector { expected, received: name.to_owned() }.into());
    };
    if vector.dim != received {
        return Err(index::Error::WrongDimension { vector: name.to_owned(), expected: vector.dim, received }.into());
    }
    Ok(())
}

fn kept_bytes(
    texts: &[Text],
    payload: &Payload,
    vectors: &BTreeMap<String, Vec<f32>>,
    tokens: &BTreeMap<String, Tokens>,
) -> usize {
    /// An id, names, and what collections take around their content.
    const AROUND: usize = 256;
    let texts: usize = texts.iter().map(|text| text.text.len() + text.language.len()).sum();
    let vectors: usize = vectors.values().map(|vector| vector.len() * 4).sum();
    let tokens: usize = tokens.values().map(|tokens| tokens.values.len() * 2).sum();
    texts + payload_bytes(payload) + vectors + tokens + AROUND
}

fn payload_bytes(payload: &Payload) -> usize {
    payload.iter().map(|(name, value)| size_of::<String>() + name.len() + json_bytes(value)).sum()
}

fn json_bytes(value: &Value) -> usize {
    let inside = match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(json_bytes).sum(),
        Value::Object(fields) => payload_bytes(fields),
        _ => 0,
    };
    size_of::<Value>() + inside
}
