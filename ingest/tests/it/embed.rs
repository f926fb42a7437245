//! The embed stage: what is computed, what is kept, what is refused; batches give what single calls give.

use std::sync::atomic::Ordering::Relaxed;

use firn_index::{CollectionConfig, Embeds, ModelRef, Payload, Side, Text, Tokens, VectorConfig};
use firn_ingest::{
    ItemError,
    embed::{Embedded, Input, Truncation, points},
};
use firn_model::{Encoder, FusionTokens};

use crate::support::{DIM, FakeEncoder, config, embedding_of, png, tokens_of, with_tokens};

fn input(id: u64) -> Input {
    Input {
        id: id.into(),
        image: None,
        texts: Vec::new(),
        payload: Payload::new(),
        vectors: Default::default(),
        tokens: Default::default(),
    }
}

fn texts(texts: &[&str]) -> Vec<Text> {
    texts.iter().map(|&text| Text { text: text.to_owned(), language: String::new() }).collect()
}

fn one(config: &CollectionConfig, input: Input) -> Result<Embedded, ItemError> {
    points(&[&FakeEncoder::new()], config, vec![input]).remove(0)
}

#[test]
fn images_and_texts_become_vectors() {
    let config = config(&["image", "text"]);
    let embedded = one(&config, Input { image: Some(png(1)), texts: texts(&["a b", "c"]), ..input(1) }).unwrap();
    let pixels: Vec<u8> = image::load_from_memory(&png(1)).unwrap().to_rgb8().into_raw();
    assert_eq!(embedded.point.vectors["image"], embedding_of(&pixels));

    let sum: Vec<f32> = embedding_of(b"a b").iter().zip(embedding_of(b"c")).map(|(a, b)| a + b).collect();
    let length = sum.iter().map(|n| n * n).sum::<f32>().sqrt();
    for (received, expected) in embedded.point.vectors["text"].iter().zip(sum) {
        assert!((received - expected / length).abs() < 1e-6);
    }
    assert_eq!(embedded.point.texts, texts(&["a b", "c"]));
}

#[test]
fn tokens_come_with_the_vectors_where_a_collection_keeps_them() {
    let both = with_tokens(config(&["image", "text"]));
    let whole = Input { image: Some(png(1)), texts: texts(&["a b", "c"]), ..input(1) };
    let point = one(&both, whole.clone()).unwrap().point;
    let plain = |tokens: FusionTokens| Tokens { n: tokens.n, dim: tokens.dim, values: tokens.values };
    let pixels: Vec<u8> = image::load_from_memory(&png(1)).unwrap().to_rgb8().into_raw();
    assert_eq!(point.tokens["image"], plain(tokens_of(&pixels, 16)));
    let mean = FusionTokens::mean(&[tokens_of(b"a b", 8), tokens_of(b"c", 8)]).unwrap();
    assert_eq!(point.tokens["text"], plain(mean), "slot by slot");
    assert!(one(&config(&["image", "text"]), whole.clone()).unwrap().point.tokens.is_empty());
    let seven = CollectionConfig {
        tokens: [("image".to_owned(), firn_index::TokenConfig { n: 49, dim: DIM })].into(),
        ..both.clone()
    };
    let point = one(&seven, whole.clone()).unwrap().point;
    assert_eq!((point.tokens["image"].n, point.tokens.len()), (49, 1));

    let given = Tokens { n: 16, dim: DIM, values: vec![half::f16::ONE; 16 * DIM] };
    let with = Input { tokens: [("image".to_owned(), given.clone())].into(), ..whole };
    let point = one(&both, with).unwrap().point;
    assert_eq!((&point.tokens["image"], point.tokens.len()), (&given, 2), "given tokens stay");
}

#[test]
fn given_vectors_are_not_computed_anew() {
    let encoder = FakeEncoder::new();
    let given = Input {
        image: Some(b"not even a picture".to_vec()),
        texts: texts(&["a"]),
        vectors: [("image".to_owned(), vec![0.5; DIM]), ("text".to_owned(), vec![0.25; DIM])].into(),
        ..input(1)
    };
    let embedded = points(&[&encoder], &config(&["image", "text"]), vec![given.clone()]).remove(0).unwrap();
    assert_eq!(embedded.point.vectors, given.vectors);
    assert_eq!(encoder.image_calls.load(Relaxed) + encoder.preprocessed.load(Relaxed), 0);
}

#[test]
fn truncation_is_told_for_each_text() {
    let embedded = one(&config(&["text"]), Input { texts: texts(&["a", "a b c d e f g"]), ..input(1) }).unwrap();
    assert_eq!(embedded.truncations, [Truncation { text: 1, tokens_used: 5, tokens_cut: 2 }]);
}

#[test]
fn what_cannot_be_embedded_says_why() {
    let both = config(&["image", "text"]);
    let image = Input { image: Some(png(1)), ..input(1) };
    let text = Input { texts: texts(&["a"]), ..input(1) };
    let vector = |name: &str, vector: Vec<f32>| Input { vectors: [(name.to_owned(), vector)].into(), ..input(1) };
    let with_nan = [vec![1.0; DIM - 1], vec![f32::NAN]].concat();
    let check = |config: &CollectionConfig, input: Input, reason: &str, words: &str| {
        let error = one(config, input).expect_err(reason);
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    check(&both, input(1), "empty_point", "no image, text or vector");
    check(&both, Input { texts: texts(&["a", " \n"]), ..input(1) }, "empty_text", "text 1 is empty");
    check(&both, Input { texts: texts(&["a", "?"]), ..input(1) }, "empty_text", "text 1 is empty");
    check(&both, Input { texts: texts(&["a"; 257]), ..input(1) }, "limit_exceeded", "at most 256");
    check(&both, Input { texts: texts(&["a".repeat(300_000).as_str()]), ..input(1) }, "limit_exceeded", "bytes");
    check(&both, Input { image: Some(b"hello".to_vec()), ..input(1) }, "unknown_image", "JPEG, PNG");
    check(&both, Input { image: Some(Vec::new()), ..input(1) }, "empty_image", "");
    check(&both, Input { image: Some(png(1)[..60].to_vec()), ..input(1) }, "broken_image", "");
    check(&both, vector("image", vec![1.0; 3]), "wrong_dimension", "expected 8 dimensions, received 3");
    check(&both, vector("facet", vec![1.0; DIM]), "unknown_vector", "\"facet\"");
    check(&both, vector("image", with_nan), "not_finite", "position 7");
    check(&both, vector("image", vec![0.0; DIM]), "zero_vector", "length zero");
    check(&config(&["text"]), image.clone(), "no_image_vector", "[\"text\"]");
    check(&config(&["image"]), text.clone(), "no_text_vector", "[\"image\"]");
    let no_model = CollectionConfig { model: None, ..both.clone() };
    check(&no_model, image.clone(), "no_model", "an image for a collection without a model");
    check(&no_model, text.clone(), "no_model", "a text for a collection without a model");
    let mut other = both.clone();
    other.model.as_mut().unwrap().hash = "0".repeat(32);
    check(&other, image.clone(), "wrong_model", "fake");
    let mut wide = both.clone();
    wide.vectors.get_mut("image").unwrap().dim = 9;
    check(&wide, image.clone(), "wrong_dimension", "expected 9 dimensions, received 8");
    let error = points(&[], &both, vec![image]).remove(0).unwrap_err();
    assert_eq!(error.reason(), "model_not_loaded", "{error}");
}

#[test]
fn texts_beside_a_vector_are_kept_where_they_cannot_be_embedded() {
    let given = Input { texts: texts(&["a"]), vectors: [("image".to_owned(), vec![1.0; DIM])].into(), ..input(1) };
    for config in [config(&["image"]), CollectionConfig { model: None, ..config(&["image", "text"]) }] {
        let embedded = points(&[], &config, vec![given.clone()]).remove(0).unwrap();
        assert_eq!(embedded.point.texts, given.texts);
        assert_eq!(embedded.point.vectors, given.vectors);
    }
}

#[test]
fn a_batch_gives_what_single_calls_give_and_one_bad_input_fails_alone() {
    let config = config(&["image", "text"]);
    let inputs: Vec<Input> = (0..300)
        .map(|n| match n % 5 {
            0 => Input { image: Some(png(n)), ..input(n.into()) },
            1 => Input { texts: texts(&[&"word ".repeat(n as usize % 9 + 1), "x"]), ..input(n.into()) },
            2 => Input { image: Some(png(n)), texts: texts(&["y"]), ..input(n.into()) },
            3 => Input { texts: texts(&["a", "?"]), ..input(n.into()) },
            _ => Input { image: Some(vec![n as u8; 9]), ..input(n.into()) },
        })
        .collect();
    let encoder: &dyn Encoder = &FakeEncoder::new();
    let batch = points(&[encoder], &config, inputs.clone());
    assert_eq!(batch.len(), inputs.len());
    let mut refused = 0;
    for (together, input) in batch.into_iter().zip(inputs) {
        match (together, one(&config, input)) {
            (Ok(together), Ok(alone)) => assert_eq!(together, alone),
            (Err(together), Err(alone)) => {
                refused += 1;
                assert_eq!(together.to_string(), alone.to_string());
            }
            (together, alone) => panic!("together {together:?}, alone {alone:?}"),
        }
    }
    assert_eq!(refused, 120);
}

/// "image" and "text" of the fake model, "mirror" of images and "words" of texts by the model `other`.
fn two_models() -> CollectionConfig {
    let model = ModelRef { name: "other".to_owned(), hash: "other".to_owned() };
    let own = |side| VectorConfig { dim: DIM, embeds: Some(Embeds { side, model: model.clone() }) };
    let mut config = config(&["image", "text"]);
    config.vectors.extend([("mirror".to_owned(), own(Side::Image)), ("words".to_owned(), own(Side::Text))]);
    config
}

#[test]
fn named_vectors_are_made_by_models_of_their_own() {
    let (fake, other) = (FakeEncoder::new(), FakeEncoder::named("other"));
    let whole = Input { image: Some(png(1)), texts: texts(&["a b c d e f"]), ..input(1) };
    let embedded = points(&[&fake, &other], &two_models(), vec![whole.clone()]).remove(0).unwrap();
    let pixels: Vec<u8> = image::load_from_memory(&png(1)).unwrap().to_rgb8().into_raw();
    let expected = [
        ("image", embedding_of(&pixels)),
        ("mirror", embedding_of(&[b"other", &pixels[..]].concat())),
        ("text", embedding_of(b"a b c d e f")),
        ("words", embedding_of(b"othera b c d e f")),
    ];
    for (name, expected) in expected {
        let received = &embedded.point.vectors[name];
        assert!(received.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{name}");
    }
    assert_eq!(embedded.truncations, [Truncation { text: 0, tokens_used: 5, tokens_cut: 1 }], "told once");

    let given = vec![0.5; DIM];
    let brought = Input { vectors: [("mirror".to_owned(), given.clone())].into(), ..whole };
    let point = points(&[&fake, &other], &two_models(), vec![brought]).remove(0).unwrap().point;
    assert_eq!((&point.vectors["mirror"], point.vectors.len()), (&given, 4));
    assert_eq!(fake.preprocessed.load(Relaxed), 2);
    assert_eq!(other.preprocessed.load(Relaxed), 1, "a vector that is brought needs no picture");
}

#[test]
fn a_model_of_texts_leaves_its_images_to_those_who_bring_them() {
    let mut texts_only = FakeEncoder::named("other");
    texts_only.info.image_side_px = 0;
    let picture = Input { image: Some(png(1)), ..input(1) };
    let point =
        points(&[&FakeEncoder::new(), &texts_only], &two_models(), vec![picture.clone()]).remove(0).unwrap().point;
    assert_eq!(point.vectors.keys().collect::<Vec<_>>(), ["image"]);

    let mut alone = two_models();
    (alone.model, alone.vectors) = (None, alone.vectors.into_iter().filter(|(name, _)| name == "mirror").collect());
    let error = points(&[&texts_only], &alone, vec![picture.clone()]).remove(0).unwrap_err();
    assert_eq!(error.reason(), "no_image_side", "{error}");
    let vectors = [("mirror".to_owned(), vec![1.0; DIM])].into();
    let brought = Input { vectors, texts: texts(&["a"]), ..input(1) };
    assert!(points(&[], &alone, vec![brought]).remove(0).is_ok(), "nothing is left to embed");
}

#[test]
fn a_model_that_is_missing_is_named() {
    let whole = Input { image: Some(png(1)), texts: texts(&["a"]), ..input(1) };
    let check = |encoders: &[&dyn Encoder], reason: &str, words: &str| {
        let error = points(encoders, &two_models(), vec![whole.clone()]).remove(0).expect_err(reason);
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    check(&[&FakeEncoder::new()], "model_not_loaded", "the model \"other\" is not loaded");
    check(&[&FakeEncoder::named("other")], "wrong_model", "made with model fake");
}
