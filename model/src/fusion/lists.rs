//! Lists to learn from: one that belongs and others that nearly do, mined by cosine.

use rand::Rng;
use rayon::prelude::*;

use super::{Items, Pairs};

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
        let belongs = |text: usize, image: usize| pairs.owner_of[text] == image;
        Nearest {
            images_of: lists((&pairs.texts, texts), (&pairs.images, images), n, belongs),
            texts_of: lists((&pairs.images, images), (&pairs.texts, texts), n, |image, text| belongs(text, image)),
        }
    }
}

/// For every item of the first the nearest of the second; empty for those that do not ask.
fn lists(
    (from, queries): (&Items, &[usize]),
    (to, others): (&Items, &[usize]),
    n: usize,
    belongs: impl Fn(usize, usize) -> bool + Sync,
) -> Vec<Vec<u32>> {
    let of_piece = |piece: &[usize]| nearest(piece, &from.cosines(piece, to, others), others, n, &belongs);
    let found: Vec<(usize, Vec<u32>)> = queries.par_chunks(AT_ONCE).flat_map_iter(of_piece).collect();
    let mut lists = vec![Vec::new(); from.n()];
    found.into_iter().for_each(|(query, list)| lists[query] = list);
    lists
}

fn nearest(
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
