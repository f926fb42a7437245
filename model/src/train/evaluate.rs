//! How well the pair finds: recall in both directions on unseen scenes and on held-out emoji groups.

use std::borrow::Borrow;

use image::RgbImage;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::emoji::{Concept, STYLES};
use crate::{
    Embedding, Encoder, Keep, Result,
    builtin::layers::dot,
    scenes::{self, LANGUAGES, Style},
};

/// Seed of the scenes that are evaluated, which is neither that of training nor that of the sample set.
pub const SCENE_SEED: u64 = 0xe7a1;
const N_RESAMPLES: usize = 1000;

/// Recall one way. Item i of the queries belongs to item i of the gallery.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Recall {
    pub n: usize,
    /// Shares, 0 to 1.
    pub at_1: f64,
    pub at_5: f64,
    /// 95 % interval of `at_1`, by bootstrap over the queries.
    pub at_1_interval: [f64; 2],
}

/// One row of the model card.
#[derive(serde::Serialize)]
pub struct Row {
    pub what: String,
    pub language: String,
    pub text_to_image: Recall,
    pub image_to_text: Recall,
}

/// Every language and style over the first `n` unseen scenes, all of different combinations.
pub fn scenes(encoder: &dyn Encoder, n: usize) -> Result<Vec<Row>> {
    let scenes = unseen(n);
    let side = encoder.info().image_side_px as u32;
    let images = embed_pictures(encoder, scenes.iter().map(|scene| scene.draw(side)))?;
    let mut rows = Vec::new();
    for style in [Style::Long, Style::Short] {
        for language in LANGUAGES {
            let captions: Vec<String> = scenes.iter().map(|scene| scene.caption(language, style)).collect();
            rows.push(row(encoder, &format!("{style:?}").to_lowercase(), language, &captions, &images)?);
        }
    }
    Ok(rows)
}

/// The validation concepts by name and keywords in each of the `languages`, for each drawing style.
pub fn emoji(encoder: &dyn Encoder, concepts: &[Concept], languages: &[&str]) -> Result<Vec<Row>> {
    let held_out: Vec<&Concept> = concepts.iter().filter(|concept| !concept.is_train).collect();
    let mut rows = Vec::new();
    for (style, name) in STYLES.iter().enumerate() {
        let images = embed_pictures(encoder, held_out.iter().map(|concept| &concept.pictures[style]))?;
        for language in languages {
            let named = |concept: &&Concept| {
                let text = concept.texts.iter().find(|text| text.lang == *language);
                text.map_or_else(
                    || "x".to_owned(),
                    |text| [std::slice::from_ref(&text.name), &text.keywords[..]].concat().join(", "),
                )
            };
            let texts: Vec<String> = held_out.iter().map(named).collect();
            rows.push(row(encoder, name, language, &texts, &images)?);
        }
    }
    Ok(rows)
}

/// Languages of the validation concepts.
pub fn emoji_languages(concepts: &[Concept]) -> Vec<&str> {
    let texts = concepts.iter().filter(|concept| !concept.is_train).flat_map(|concept| &concept.texts);
    let mut languages: Vec<&str> = texts.map(|text| text.lang.as_str()).collect();
    languages.sort_unstable();
    languages.dedup();
    languages
}

/// The first `n` unseen scenes of different combinations.
pub fn unseen(n: usize) -> Vec<scenes::Scene> {
    let mut taken = std::collections::HashSet::new();
    let all = (0..).map(|index| scenes::unseen_scene(SCENE_SEED, index));
    all.filter(|scene| taken.insert(scene.combination())).take(n).collect()
}

pub fn embed_pictures<P: Borrow<RgbImage>>(
    encoder: &dyn Encoder,
    pictures: impl Iterator<Item = P>,
) -> Result<Vec<Embedding>> {
    let pixels = pictures.map(|picture| encoder.preprocess(picture.borrow())).collect::<Result<Vec<_>>>()?;
    Ok(encoder.embed_images(&pixels, Keep::Nothing)?.into_iter().map(|image| image.embedding).collect())
}

pub fn embed_words(encoder: &dyn Encoder, texts: &[String]) -> Result<Vec<Embedding>> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Ok(encoder.embed_texts(&texts, Keep::Nothing)?.into_iter().map(|text| text.embedding).collect())
}

fn row(encoder: &dyn Encoder, what: &str, language: &str, texts: &[String], images: &[Embedding]) -> Result<Row> {
    let texts = embed_words(encoder, texts)?;
    Ok(Row {
        what: what.to_owned(),
        language: language.to_owned(),
        text_to_image: recall(&texts, images),
        image_to_text: recall(images, &texts),
    })
}

/// Exact, over the whole gallery; of equal scores the own item comes last.
pub fn recall(queries: &[Embedding], gallery: &[Embedding]) -> Recall {
    let ranks: Vec<usize> = queries
        .iter()
        .enumerate()
        .map(|(own, query)| {
            let score = dot(query, &gallery[own]);
            gallery.iter().enumerate().filter(|(at, other)| *at != own && dot(query, other) >= score).count()
        })
        .collect();
    let share = |k: usize| ranks.iter().filter(|&&rank| rank < k).count() as f64 / ranks.len().max(1) as f64;
    Recall { n: ranks.len(), at_1: share(1), at_5: share(5), at_1_interval: interval(&ranks) }
}

fn interval(ranks: &[usize]) -> [f64; 2] {
    if ranks.is_empty() {
        return [0.0; 2];
    }
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut resample = || {
        let hits = (0..ranks.len()).filter(|_| ranks[rng.random_range(0..ranks.len())] == 0).count();
        hits as f64 / ranks.len() as f64
    };
    let mut shares: Vec<f64> = (0..N_RESAMPLES).map(|_| resample()).collect();
    shares.sort_by(f64::total_cmp);
    [shares[N_RESAMPLES / 40], shares[N_RESAMPLES - 1 - N_RESAMPLES / 40]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_counts_ranks() {
        let unit = |at: usize| (0..3).map(|i| if i == at { 1.0 } else { 0.0 }).collect::<Embedding>();
        let gallery = vec![unit(0), unit(1), unit(2)];
        let all = recall(&gallery, &gallery);
        assert_eq!((all.n, all.at_1, all.at_5, all.at_1_interval), (3, 1.0, 1.0, [1.0, 1.0]));
        let turned = vec![unit(1), unit(2), unit(0)];
        assert_eq!((recall(&turned, &gallery).at_1, recall(&turned, &gallery).at_5), (0.0, 1.0));
        let equal = vec![vec![1.0, 0.0, 0.0]; 3];
        assert_eq!(recall(&equal, &equal).at_1, 0.0);
    }
}
