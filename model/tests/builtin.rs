//! The committed weights: what they find, how they treat bad input, and that a batch changes nothing.

use std::{path::Path, sync::Arc};

use firn_model::{
    Device, Embedding, Encoder, Error, Grid, Keep, Pixels, TokenShape, load,
    scenes::{self, Colour, LANGUAGES, Shape, Style, sample_set},
    train::{emoji, evaluate},
};

/// R@1 over 300 unseen scenes, where chance is 0.0033, by long and by short captions.
const LONG_FLOOR: f64 = 0.9;
const SHORT_FLOOR: f64 = 0.35;
/// The card's mean R@5 over styles and languages, text to image and image to text, in per cent.
const EMOJI_MEAN_AT_5: [f64; 2] = [26.17, 28.53];

fn builtin() -> Arc<dyn Encoder> {
    load("builtin", Device::Cpu).unwrap()
}

fn embed_images(encoder: &dyn Encoder, pixels: &[Pixels]) -> Vec<Embedding> {
    encoder.embed_images(pixels, Keep::Nothing).unwrap().into_iter().map(|image| image.embedding).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn it_is_what_the_card_says() {
    let card = include_str!("../weights/MODEL_CARD.md");
    let bytes = include_bytes!("../weights/builtin.safetensors");
    assert!(bytes.len() <= 12_000_000);
    let hash = blake3::hash(bytes).to_hex();
    assert!(card.contains(hash.as_str()), "MODEL_CARD.md: expected the weights' hash {hash}");
    let encoder = builtin();
    assert_eq!(encoder.info().hash, hash[..32]);
    assert_eq!((encoder.info().dim, encoder.info().image_side_px, encoder.info().max_text_tokens), (192, 72, 256));
}

#[test]
fn unseen_scenes_are_found_by_captions_in_every_language() {
    let rows = evaluate::scenes(builtin().as_ref(), 300).unwrap();
    assert_eq!(rows.len(), 2 * LANGUAGES.len());
    for row in rows {
        let floor = if row.what == "long" { LONG_FLOOR } else { SHORT_FLOOR };
        for recall in [row.text_to_image, row.image_to_text] {
            assert_eq!(recall.n, 300);
            let received = recall.at_1;
            assert!(received >= floor, "{} {}: R@1 {received}, expected at least {floor}", row.what, row.language);
        }
    }
}

#[test]
fn the_sample_set_answers_a_question_in_every_language() {
    let encoder = builtin();
    let samples: Vec<_> = sample_set(500).collect();
    let pixels: Vec<Pixels> = samples.iter().map(|sample| encoder.preprocess(&sample.picture).unwrap()).collect();
    let images = embed_images(&*encoder, &pixels);
    let check = |question: &str, shape: Shape, colour: Colour| {
        let text = &encoder.embed_texts(&[question], Keep::Nothing).unwrap()[0].embedding;
        let mut order: Vec<usize> = (0..samples.len()).collect();
        order.sort_by(|&a, &b| cosine(text, &images[b]).total_cmp(&cosine(text, &images[a])));
        let first = order[..5].iter().map(|&at| &samples[at].scene.groups);
        let n_coloured = first.clone().filter(|groups| groups.iter().any(|group| group.colour == colour)).count();
        let is_meant = |group: &scenes::Group| (group.shape, group.colour) == (shape, colour);
        let n_meant = first.filter(|groups| groups.iter().any(is_meant)).count();
        assert!(n_coloured >= 4, "{question}: {n_coloured} of the first five have the colour");
        assert!(n_meant >= 2, "{question}: {n_meant} of the first five have the thing in its colour");
    };
    check("three red stars", Shape::Star, Colour::Red);
    check("drei rote Sterne", Shape::Star, Colour::Red);
    check("trois étoiles rouges", Shape::Star, Colour::Red);
    check("tres estrellas rojas", Shape::Star, Colour::Red);
    check("tre stelle rosse", Shape::Star, Colour::Red);
    check("três estrelas vermelhas", Shape::Star, Colour::Red);
    check("drie rode sterren", Shape::Star, Colour::Red);
    check("三颗红色的星星", Shape::Star, Colour::Red);
    check("三つの赤い星", Shape::Star, Colour::Red);
    check("ثلاث نجوم حمراء", Shape::Star, Colour::Red);
}

#[test]
fn a_batch_gives_what_single_calls_give() {
    let encoder = builtin();
    let samples: Vec<_> = (0..37).map(|index| scenes::unseen_scene(9, index)).collect();
    let pixels: Vec<Pixels> = samples.iter().map(|scene| encoder.preprocess(&scene.draw(100)).unwrap()).collect();
    let texts: Vec<String> = samples.iter().map(|scene| scene.caption("de", Style::Long)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (images, read) = (embed_images(&*encoder, &pixels), encoder.embed_texts(&texts, Keep::Nothing).unwrap());
    for at in 0..samples.len() {
        let image = &embed_images(&*encoder, &pixels[at..=at])[0];
        let text = &encoder.embed_texts(&texts[at..=at], Keep::Nothing).unwrap()[0];
        for (together, alone) in [(&images[at], image), (&read[at].embedding, &text.embedding)] {
            assert!(together.iter().zip(alone).all(|(a, b)| (a - b).abs() <= 1e-5));
            assert!((cosine(alone, alone) - 1.0).abs() < 1e-5);
        }
    }
}

#[test]
fn tokens_for_fusion_have_the_shape_it_says() {
    let encoder = builtin();
    let scene = scenes::unseen_scene(9, 0);
    let pixels = encoder.preprocess(&scene.draw(100)).unwrap();
    for (grid, n) in [(Grid::Four, 16), (Grid::Seven, 49)] {
        let shapes = encoder.info().token_shapes(grid);
        assert_eq!(shapes.image, Some(TokenShape { n, dim: 128 }));
        let image = encoder.embed_images(std::slice::from_ref(&pixels), Keep::Tokens(grid)).unwrap().remove(0);
        assert_eq!(image.fusion_tokens.map(|tokens| tokens.shape()), shapes.image);
        let text = encoder.embed_texts(&["red"], Keep::Tokens(grid)).unwrap().remove(0);
        assert_eq!(text.fusion_tokens.map(|tokens| tokens.shape()), shapes.text);
    }
}

#[test]
fn bad_input_has_an_error_of_its_own() {
    let encoder = builtin();
    for text in ["", "  \n", "?!"] {
        assert!(matches!(encoder.embed_texts(&["red", text], Keep::Nothing), Err(Error::EmptyText)), "{text:?}");
    }
    let long = &encoder.embed_texts(&["word ".repeat(300).as_str()], Keep::Nothing).unwrap()[0];
    assert_eq!((long.tokens_used, long.tokens_cut), (256, 44));
    let wrong = Pixels { side: 10, values: vec![0.0; 300] };
    assert!(encoder.embed_images(&[wrong], Keep::Nothing).unwrap_err().to_string().contains("72 x 72"));
    assert!(
        encoder.embed_images(&[], Keep::Nothing).unwrap().is_empty()
            && encoder.embed_texts(&[], Keep::Nothing).unwrap().is_empty()
    );
}

#[test]
fn pictures_of_any_size_become_pixels() {
    let encoder = builtin();
    for (width, height) in [(1, 1), (3, 500), (72, 72), (400, 30)] {
        let pixels =
            encoder.preprocess(&image::RgbImage::from_pixel(width, height, image::Rgb([255, 0, 128]))).unwrap();
        assert_eq!((pixels.side, pixels.values.len()), (72, 3 * 72 * 72));
        assert!((pixels.values[0] - 1.0).abs() < 0.01 && (pixels.values[72 * 72] + 1.0).abs() < 0.01);
    }
}

#[test]
fn held_out_emoji_are_found_as_the_card_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/emoji");
    if !folder.join("concepts.jsonl").exists() {
        println!("skipped: no emoji data beside the repository");
        return;
    }
    let concepts = emoji::read(&folder).unwrap();
    let rows = evaluate::emoji(builtin().as_ref(), &concepts, &evaluate::emoji_languages(&concepts)).unwrap();
    assert_eq!(rows.len(), 84);
    let mean = |of: fn(&evaluate::Row) -> f64| 100.0 * rows.iter().map(of).sum::<f64>() / rows.len() as f64;
    let received = [mean(|row| row.text_to_image.at_5), mean(|row| row.image_to_text.at_5)];
    let expected = EMOJI_MEAN_AT_5;
    let close = expected.iter().zip(received).all(|(a, b)| (a - b).abs() < 0.3);
    assert!(close, "mean R@5 over languages and styles: expected {expected:?}, received {received:?}");
}
