//! Lists to learn from: one that belongs and others that nearly do, mined by cosine.

use rand::Rng;
use rayon::prelude::*;

use super::Pairs;

/// Queries whose scores are held at once.
const AT_ONCE: usize = 256;

/// The nearest that do not belong, nearest first, for every text among images and for every image among texts.
pub(super) struct Nearest {
    pub images_of: Vec<Vec<u32>>,
    pub texts_of: Vec<Vec<u32>>,
}

impl Nearest {
    /// Only `images` and their texts are looked at; others get empty lists.
    pub(super) fn mine(pairs: &Pairs, images: &[usize], texts: &[usize], n: usize) -> Nearest {
        let mut nearest =
            Nearest { images_of: vec![Vec::new(); pairs.texts.n()], texts_of: vec![Vec::new(); pairs.images.n()] };
        let (all_images, all_texts) = (&pairs.images, &pairs.texts);
        let of_texts: Vec<_> = texts
            .par_chunks(AT_ONCE)
            .flat_map_iter(|piece| {
                let scores = all_texts.cosines(piece, all_images, images);
                lists(piece, &scores, images, n, |text, image| pairs.owner_of[text] == image)
            })
            .collect();
        of_texts.into_iter().for_each(|(text, list)| nearest.images_of[text] = list);
        let of_images: Vec<_> = images
            .par_chunks(AT_ONCE)
            .flat_map_iter(|piece| {
                let scores = all_images.cosines(piece, all_texts, texts);
                lists(piece, &scores, texts, n, |image, text| pairs.owner_of[text] == image)
            })
            .collect();
        of_images.into_iter().for_each(|(image, list)| nearest.texts_of[image] = list);
        nearest
    }
}

fn lists(
    queries: &[usize],
    scores: &[f32],
    others: &[usize],
    n: usize,
    belongs: impl Fn(usize, usize) -> bool,
) -> Vec<(usize, Vec<u32>)> {
    let of_one = |(&query, scores): (&usize, &[f32])| {
        let mut places: Vec<usize> = (0..others.len()).filter(|&at| !belongs(query, others[at])).collect();
        let by_score = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
        if places.len() > n {
            places.select_nth_unstable_by(n, by_score);
            places.truncate(n);
        }
        places.sort_unstable_by(by_score);
        (query, places.into_iter().map(|at| others[at] as u32).collect())
    };
    queries.iter().zip(scores.chunks_exact(others.len().max(1))).map(of_one).collect()
}

/// Draws distinct ones of a list, nearer ones likelier; from the start again if there are too few.
pub(super) fn draw(nearest: &[u32], n: usize, rng: &mut impl Rng) -> Vec<usize> {
    let mut left: Vec<u32> = nearest.to_vec();
    let mut drawn = Vec::with_capacity(n);
    while drawn.len() < n {
        if left.is_empty() {
            left = nearest.to_vec();
        }
        let at = (left.len() as f64 * rng.random::<f64>().powf(1.5)) as usize;
        drawn.push(left.remove(at.min(left.len() - 1)) as usize);
    }
    drawn
}
