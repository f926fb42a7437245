//! How well held-out images and their texts find each other. An image may have several texts: each of them looks for it,
//! and it has found its texts when the first of them is there. Intervals are by bootstrap over images, since the texts of
//! one image are not independent.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{builtin::layers::View, product::Product};

const N_RESAMPLES: usize = 1000;
/// Queries whose scores are held at once.
const AT_ONCE: usize = 512;

/// Shares of queries, 0 to 1, with what they belong to among the first 1, 5 and 10.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Found {
    pub n_queries: usize,
    pub at: [f64; 3],
    /// 95 % interval of each.
    pub interval: [[f64; 2]; 3],
}

/// Texts of one language beside all images, both ways.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct FoundRow {
    pub language: String,
    pub n_images: usize,
    pub text_to_image: Found,
    pub image_to_text: Found,
}

pub(super) const CUTS: [usize; 3] = [1, 5, 10];

/// `owner_of` each text is the place of its image. Images without a text are distractors.
pub(super) fn both_ways(images: &[Vec<f32>], texts: &[Vec<f32>], owner_of: &[usize], language: &str) -> FoundRow {
    let of_texts: Vec<(usize, usize)> = ranks(texts, images, |query, item| owner_of[query] == item)
        .into_iter()
        .enumerate()
        .map(|(query, rank)| (owner_of[query], rank))
        .collect();
    let mut described: Vec<usize> = owner_of.to_vec();
    described.sort_unstable();
    described.dedup();
    let queries: Vec<Vec<f32>> = described.iter().map(|&at| images[at].clone()).collect();
    let of_images: Vec<(usize, usize)> = ranks(&queries, texts, |query, item| owner_of[item] == described[query])
        .into_iter()
        .enumerate()
        .map(|(query, rank)| (described[query], rank))
        .collect();
    FoundRow {
        language: language.to_owned(),
        n_images: images.len(),
        text_to_image: Found::of(&of_texts),
        image_to_text: Found::of(&of_images),
    }
}

/// Of each query, how many others stand before the first that it belongs to; of equal scores the own one comes last.
fn ranks(queries: &[Vec<f32>], gallery: &[Vec<f32>], belongs: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    let (Some(dim), n) = (gallery.first().map(Vec::len), gallery.len()) else { return Vec::new() };
    let flat = gallery.concat();
    let mut ranks = Vec::with_capacity(queries.len());
    for (piece, chunk) in queries.chunks(AT_ONCE).enumerate() {
        let (rows, mut scores) = (chunk.concat(), vec![0.0; chunk.len() * n]);
        let product = Product { size: [chunk.len(), n, dim], scale: 1.0, n_threads: 1 };
        product.write(View::rows(&rows, dim), View::rows(&flat, dim).transposed(), &mut scores, n);
        for (at, scores) in scores.chunks_exact(n).enumerate() {
            let query = piece * AT_ONCE + at;
            let own = (0..n).filter(|&item| belongs(query, item)).map(|item| scores[item]).fold(f32::MIN, f32::max);
            // A score that is no number finds nothing.
            let is_before = |item: usize| scores[item].partial_cmp(&own) != Some(std::cmp::Ordering::Less);
            ranks.push((0..n).filter(|&item| !belongs(query, item) && is_before(item)).count());
        }
    }
    ranks
}

impl Found {
    /// Of (image, rank) pairs.
    fn of(ranks: &[(usize, usize)]) -> Found {
        if ranks.is_empty() {
            return Found::default();
        }
        let mut by_image: std::collections::BTreeMap<usize, Vec<usize>> = Default::default();
        ranks.iter().for_each(|&(image, rank)| by_image.entry(image).or_default().push(rank));
        // Of each image its queries, and those that are within each cut.
        let counts: Vec<(usize, [usize; 3])> = by_image
            .values()
            .map(|ranks| (ranks.len(), CUTS.map(|cut| ranks.iter().filter(|&&rank| rank < cut).count())))
            .collect();
        let shares = |picked: &mut dyn Iterator<Item = usize>| {
            let (mut n, mut hits) = (0, [0; 3]);
            for at in picked {
                n += counts[at].0;
                (0..3).for_each(|cut| hits[cut] += counts[at].1[cut]);
            }
            hits.map(|hits| hits as f64 / n as f64)
        };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let resampled: Vec<[f64; 3]> = (0..N_RESAMPLES)
            .map(|_| shares(&mut (0..counts.len()).map(|_| rng.random_range(0..counts.len()))))
            .collect();
        let interval = |cut: usize| {
            let mut all: Vec<f64> = resampled.iter().map(|shares| shares[cut]).collect();
            all.sort_by(f64::total_cmp);
            [all[N_RESAMPLES / 40], all[N_RESAMPLES - 1 - N_RESAMPLES / 40]]
        };
        Found { n_queries: ranks.len(), at: shares(&mut (0..counts.len())), interval: std::array::from_fn(interval) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_with_several_texts_an_image() {
        let unit = |at: usize| (0..3).map(|i| if i == at { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
        let images = vec![unit(0), unit(1), unit(2)];
        // Two texts of image 0, of which one looks like image 1; one text of image 2.
        let texts = vec![unit(0), unit(1), unit(2)];
        let row = both_ways(&images, &texts, &[0, 0, 2], "en");
        assert_eq!((row.text_to_image.n_queries, row.image_to_text.n_queries), (3, 2));
        assert!((row.text_to_image.at[0] - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(row.text_to_image.at[1], 1.0);
        assert_eq!(row.image_to_text.at, [1.0; 3]);
        let [low, high] = row.text_to_image.interval[0];
        assert!(low < 0.7 && high > 0.6, "{low} {high}");
        let equal = vec![vec![1.0, 0.0]; 12];
        let row = both_ways(&equal, &equal, &(0..12).collect::<Vec<_>>(), "");
        assert_eq!(row.text_to_image.at, [0.0; 3]);
        let broken = vec![vec![f32::NAN; 2]; 12];
        let row = both_ways(&broken, &broken, &(0..12).collect::<Vec<_>>(), "");
        assert_eq!((row.text_to_image.at, row.image_to_text.at), ([0.0; 3], [0.0; 3]));
    }
}
