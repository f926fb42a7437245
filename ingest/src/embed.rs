//! The embed stage: what a point brings becomes what is stored. The command and the server both call it.
//!
//! A vector that is given is never computed anew, and nor are tokens: where a collection keeps them, they come with the vector
//! that is computed. One bad input never fails the others, and batches of any size give the same points.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use firn_index::{self as index, CollectionConfig, NewPoint, Payload, PointId, Side, Text, Tokens};
use firn_model::{Encoder, FusionTokens, Grid, Keep, Pixels, TextEmbedding, picture};
use rayon::prelude::*;
use serde_json::Value;

pub use crate::makers::{IMAGE_VECTOR, TEXT_VECTOR};
use crate::{
    ItemError,
    makers::{Maker, makers, vectors_of},
};

/// The encoders that are at hand, told apart by their hashes.
pub type Encoders<'a> = &'a [&'a dyn Encoder];

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
    encoders: Encoders<'_>,
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
        let prepared = chunk.into_par_iter().map(|input| prepare(encoders, config, input)).collect();
        answers.extend(finish(encoders, config, prepared, &AtomicBool::new(false)));
    }
}

/// An input that was checked, its picture decoded and preprocessed: what is left needs the networks.
#[derive(Clone, Debug)]
pub struct Prepared {
    point: NewPoint,
    /// By the place of their maker.
    pixels: BTreeMap<usize, Pixels>,
    /// The makers that embed the texts.
    text_makers: BTreeSet<usize>,
}

impl Prepared {
    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        let NewPoint { texts, payload, vectors, tokens, .. } = &self.point;
        let pixels: usize = self.pixels.values().map(|pixels| pixels.values.len() * 4).sum();
        pixels + kept_bytes(texts, payload, vectors, tokens)
    }
}

/// Checks one input, decodes and preprocesses its picture. Needs no network, so many threads may do it.
pub fn prepare(encoders: Encoders<'_>, config: &CollectionConfig, input: Input) -> Result<Prepared, ItemError> {
    index::check_content(&input.id, &input.texts, &input.payload)?;
    check_vectors(config, &input.vectors)?;
    input.tokens.iter().try_for_each(|(of, tokens)| config.check_tokens(of, tokens))?;
    if let Some(text) = input.texts.iter().position(|text| text.text.trim().is_empty()) {
        return Err(ItemError::EmptyText { text });
    }
    let makers = makers(config);
    let image_makers = image_makers(config, &makers, &input)?;
    let text_makers = text_makers(config, &makers, &input)?;
    let of = |place: &usize| (*place, &makers[*place]);
    let pixels = pixels(encoders, config, image_makers.iter().map(of).collect(), &input)?;
    text_makers.iter().try_for_each(|&place| ready(encoders, config, &makers[place]).map(drop))?;
    let Input { id, texts, payload, vectors, tokens, .. } = input;
    Ok(Prepared { point: NewPoint { id, texts, payload, vectors, tokens }, pixels, text_makers })
}

/// The picture as each of the makers takes it. One whose model takes no images leaves its vectors to those who bring them.
fn pixels(
    encoders: Encoders<'_>,
    config: &CollectionConfig,
    makers: Vec<(usize, &Maker<'_>)>,
    input: &Input,
) -> Result<BTreeMap<usize, Pixels>, ItemError> {
    let ready = |(place, maker)| Ok((place, ready(encoders, config, maker)?));
    let all: Vec<(usize, &dyn Encoder)> = makers.into_iter().map(ready).collect::<Result<_, ItemError>>()?;
    let able = || all.iter().filter(|(_, encoder)| encoder.info().image_side_px > 0);
    match (all.first(), &input.image) {
        (Some((_, encoder)), Some(_)) if able().next().is_none() && !brings_one_of(config, Side::Image, input) => {
            Err(firn_model::Error::NoImageSide { model: encoder.info().name.clone() }.into())
        }
        (Some(_), Some(bytes)) if able().next().is_some() => {
            let picture = picture::decode(bytes)?.rgb;
            able().map(|(place, encoder)| Ok((*place, encoder.preprocess(&picture)?))).collect()
        }
        _ => Ok(BTreeMap::new()),
    }
}

/// Items that are embedded between two looks at whether to stop. On a CPU an item may take seconds; eight a core are as many
/// as make it faster.
pub fn step(encoders: Encoders<'_>) -> usize {
    let on_cpu = encoders.iter().any(|encoder| encoder.info().device == "cpu");
    if on_cpu { (8 * rayon::current_num_threads()).min(CHUNK) } else { CHUNK }
}

/// Embeds what `prepare` left to do, in batches across items; one answer each, in order. When `stop` is set meanwhile, the
/// batch that is on its way is the last, and what it leaves undone is `ItemError::Stopped`.
pub fn finish(
    encoders: Encoders<'_>,
    config: &CollectionConfig,
    prepared: Vec<Result<Prepared, ItemError>>,
    stop: &AtomicBool,
) -> Vec<Result<Embedded, ItemError>> {
    let work = |prepared: Prepared| Work {
        embedded: Embedded { point: prepared.point, truncations: Vec::new() },
        pixels: prepared.pixels,
        text_makers: prepared.text_makers,
    };
    let mut answers: Vec<Answer> = prepared.into_iter().map(|item| item.map(work)).collect();
    for (place, maker) in makers(config).iter().enumerate() {
        // One that is not at hand was not needed by any of these.
        let Some(encoder) = find(encoders, maker) else { continue };
        match maker.side {
            Side::Image => embed_images(encoder, (place, maker), &mut answers, stop),
            Side::Text => embed_texts(encoder, (place, maker), &mut answers, stop),
        }
    }
    answers.into_iter().map(|answer| answer.map(|work| work.embedded)).collect()
}

/// What is kept beside the vectors. A grid says nothing of texts.
fn keep(maker: &Maker<'_>) -> Keep {
    let Some(shape) = maker.tokens else { return Keep::Nothing };
    let grid = Grid::ALL.into_iter().find(|grid| grid.cells() * grid.cells() == shape.n);
    Keep::Tokens(grid.unwrap_or(Grid::Four))
}

/// A point that is being embedded.
struct Work {
    embedded: Embedded,
    pixels: BTreeMap<usize, Pixels>,
    text_makers: BTreeSet<usize>,
}

type Answer = Result<Work, ItemError>;

fn embed_images(
    encoder: &dyn Encoder,
    (maker_place, maker): (usize, &Maker<'_>),
    answers: &mut [Answer],
    stop: &AtomicBool,
) {
    let (places, pixels): (Vec<usize>, Vec<Pixels>) = answers
        .iter_mut()
        .enumerate()
        .filter_map(|(place, answer)| Some((place, answer.as_mut().ok()?.pixels.remove(&maker_place)?)))
        .unzip();
    let embeddings = each(&pixels, IMAGES_PER_CALL, stop, |batch| encoder.embed_images(batch, keep(maker)));
    for (place, embedding) in places.into_iter().zip(embeddings) {
        set(&mut answers[place], embedding, |answer, embedding| {
            add(&mut answer.point, maker, embedding.embedding, embedding.fusion_tokens);
            Ok(())
        });
    }
}

/// Texts of all items go through the encoder sorted by length: a batch is padded to its longest.
fn embed_texts(
    encoder: &dyn Encoder,
    (maker_place, maker): (usize, &Maker<'_>),
    answers: &mut [Answer],
    stop: &AtomicBool,
) {
    let mut texts: Vec<(usize, &str)> = Vec::new();
    for (place, answer) in answers.iter().enumerate() {
        if let Ok(work) = answer
            && work.text_makers.contains(&maker_place)
        {
            texts.extend(work.embedded.point.texts.iter().map(|text| (place, text.text.as_str())));
        }
    }
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&at| texts[at].1.len());
    let sorted: Vec<&str> = order.iter().map(|&at| texts[at].1).collect();
    let embeddings = each(&sorted, TEXTS_PER_CALL, stop, |batch| encoder.embed_texts(batch, keep(maker)));

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
            note_truncations(&mut answer.truncations, &embeddings);
            let vector = mean(maker.vectors[0], &embeddings)?;
            add(&mut answer.point, maker, vector, mean_tokens(embeddings)?);
            Ok(())
        });
    }
}

/// Puts what was made where it is missing.
fn add(point: &mut NewPoint, maker: &Maker<'_>, vector: Vec<f32>, tokens: Option<FusionTokens>) {
    let tokens = tokens.map(|FusionTokens { n, dim, values }| Tokens { n, dim, values });
    for &name in &maker.vectors {
        point.vectors.entry(name.to_owned()).or_insert_with(|| vector.clone());
        if let Some(tokens) = &tokens {
            point.tokens.entry(name.to_owned()).or_insert_with(|| tokens.clone());
        }
    }
}

/// Puts a result into an answer, or its error in the answer's place.
fn set<T>(
    answer: &mut Answer,
    result: Result<T, ItemError>,
    put: impl FnOnce(&mut Embedded, T) -> Result<(), ItemError>,
) {
    let Ok(work) = answer else { return };
    if let Err(error) = result.and_then(|value| put(&mut work.embedded, value)) {
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

/// Of a text that several models cut, the one that read least of it counts.
fn note_truncations(known: &mut Vec<Truncation>, embeddings: &[TextEmbedding]) {
    for (text, &TextEmbedding { tokens_used, tokens_cut, .. }) in embeddings.iter().enumerate() {
        match known.iter_mut().find(|cut| cut.text == text) {
            _ if tokens_cut == 0 => {}
            Some(cut) if cut.tokens_cut >= tokens_cut => {}
            Some(cut) => *cut = Truncation { text, tokens_used, tokens_cut },
            None => known.push(Truncation { text, tokens_used, tokens_cut }),
        }
    }
}

/// The mean of unit vectors, scaled to unit length.
fn mean(vector: &str, embeddings: &[TextEmbedding]) -> Result<Vec<f32>, ItemError> {
    let mut sum = vec![0f64; embeddings[0].embedding.len()];
    for embedding in embeddings {
        for (total, &number) in sum.iter_mut().zip(&embedding.embedding) {
            *total += f64::from(number);
        }
    }
    let length = sum.iter().map(|number| number * number).sum::<f64>().sqrt();
    if length < 1e-6 {
        return Err(index::Error::ZeroVector { vector: vector.to_owned() }.into());
    }
    Ok(sum.into_iter().map(|number| (number / length) as f32).collect())
}

/// Slot by slot over the texts of a point; none if the model gave none.
fn mean_tokens(embeddings: Vec<TextEmbedding>) -> Result<Option<FusionTokens>, ItemError> {
    let all: Option<Vec<FusionTokens>> = embeddings.into_iter().map(|embedding| embedding.fusion_tokens).collect();
    Ok(all.map(|all| FusionTokens::mean(&all)).transpose()?)
}

/// The makers that the picture of a point is for.
fn image_makers(config: &CollectionConfig, makers: &[Maker<'_>], input: &Input) -> Result<Vec<usize>, ItemError> {
    if input.image.is_none() {
        return Ok(Vec::new());
    }
    if vectors_of(config, Side::Image).is_empty() {
        return Err(ItemError::NoImageVector { vectors: config.vectors.keys().cloned().collect() });
    }
    let needed = needed(Side::Image, makers, input);
    match needed.is_empty() && !brings_one_of(config, Side::Image, input) {
        true => Err(ItemError::NoModel { what: what(Side::Image) }),
        false => Ok(needed),
    }
}

/// Texts are embedded where the collection can; where it cannot they are only kept, beside a vector the point has.
fn text_makers(config: &CollectionConfig, makers: &[Maker<'_>], input: &Input) -> Result<BTreeSet<usize>, ItemError> {
    let other = input.image.is_some() || !input.vectors.is_empty();
    if input.texts.is_empty() {
        return if other { Ok(BTreeSet::new()) } else { Err(ItemError::EmptyPoint) };
    }
    let needed = needed(Side::Text, makers, input);
    match needed.is_empty() && !other {
        true if vectors_of(config, Side::Text).is_empty() => {
            Err(ItemError::NoTextVector { vectors: config.vectors.keys().cloned().collect() })
        }
        true => Err(ItemError::NoModel { what: what(Side::Text) }),
        false => Ok(needed.into_iter().collect()),
    }
}

/// The makers of a side that have a vector to make which the point does not bring.
fn needed(side: Side, makers: &[Maker<'_>], input: &Input) -> Vec<usize> {
    let is_brought = |name: &&str| input.vectors.contains_key(*name);
    let of_side = makers.iter().enumerate().filter(|(_, maker)| maker.side == side);
    of_side.filter(|(_, maker)| !maker.vectors.iter().all(is_brought)).map(|(place, _)| place).collect()
}

fn brings_one_of(config: &CollectionConfig, side: Side, input: &Input) -> bool {
    vectors_of(config, side).iter().any(|name| input.vectors.contains_key(*name))
}

fn what(side: Side) -> &'static str {
    match side {
        Side::Image => "an image",
        Side::Text => "a text",
    }
}

fn find<'a>(encoders: Encoders<'a>, maker: &Maker<'_>) -> Option<&'a dyn Encoder> {
    encoders.iter().copied().find(|encoder| encoder.info().hash == maker.model.hash)
}

/// The encoder, if it is the one the vectors are made with.
fn ready<'a>(
    encoders: Encoders<'a>,
    config: &CollectionConfig,
    maker: &Maker<'_>,
) -> Result<&'a dyn Encoder, ItemError> {
    let named = |name: &str, hash: &str| format!("{name} ({hash})");
    let is_own = config.model.as_ref().is_some_and(|model| model.hash == maker.model.hash);
    let found = find(encoders, maker).ok_or_else(|| match encoders.first() {
        Some(other) if is_own => ItemError::WrongModel {
            expected: named(&maker.model.name, &maker.model.hash),
            received: named(&other.info().name, &other.info().hash),
        },
        _ => ItemError::ModelNotLoaded { what: what(maker.side), model: maker.model.name.clone() },
    });
    let encoder = found?;
    maker.vectors.iter().try_for_each(|vector| check_dimension(config, vector, encoder.info().dim))?;
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
