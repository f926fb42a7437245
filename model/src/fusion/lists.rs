//! Lists to learn from: one that belongs and others that nearly do, mined by cosine.

use rand::Rng;
use rayon::prelude::*;

use super::{Items, Pairs};

/// Queries whose scores are held at once.
const AT_ONCE: usize = 256;

/// Queries that are worth asking, and for each the nearest that do not belong.
pub(super) struct Nearest {
    /// By query; empty for those that are not asked.
    others_of: Vec<Vec<u32>>,
    /// Those whose own one is near enough for a re-ranker to ever see it.
    pub asked: Vec<usize>,
}

impl Nearest {
    /// Of texts among images: `n` others, and an own one that fewer than `within` others stand before.
    pub(super) fn images_of(pairs: &Pairs, texts: &[usize], images: &[usize], n: usize, within: usize) -> Nearest {
        let belongs = |text: usize, image: usize| pairs.belongs(text, image);
        mine((&pairs.texts, texts), (&pairs.images, images), [n, within], belongs)
    }

    pub(super) fn texts_of(pairs: &Pairs, images: &[usize], texts: &[usize], n: usize, within: usize) -> Nearest {
        let belongs = |image: usize, text: usize| pairs.belongs(text, image);
        mine((&pairs.images, images), (&pairs.texts, texts), [n, within], belongs)
    }

    /// Draws distinct others of a query, each as likely; from the start again if there are too few.
    pub(super) fn draw(&self, query: usize, n: usize, rng: &mut impl Rng) -> Vec<usize> {
        let all = &self.others_of[query];
        let mut left = Vec::new();
        let mut drawn = Vec::with_capacity(n);
        while drawn.len() < n {
            if left.is_empty() {
                left = all.clone();
            }
            drawn.push(left.swap_remove(rng.random_range(0..left.len())) as usize);
        }
        drawn
    }
}

fn mine(
    (from, queries): (&Items, &[usize]),
    (to, others): (&Items, &[usize]),
    [n, within]: [usize; 2],
    belongs: impl Fn(usize, usize) -> bool + Sync,
) -> Nearest {
    let of_piece = |piece: &[usize]| {
        let scores = from.cosines(piece, to, others);
        let rows = piece.iter().zip(scores.chunks_exact(others.len().max(1)));
        rows.map(|(&query, scores)| (query, nearest(scores, others, n, |other| belongs(query, other))))
            .collect::<Vec<_>>()
    };
    let found: Vec<(usize, (Vec<u32>, usize))> = queries.par_chunks(AT_ONCE).flat_map_iter(of_piece).collect();
    let (mut others_of, mut asked) = (vec![Vec::new(); from.n()], Vec::new());
    for (query, (list, rank)) in found {
        if rank < within && !list.is_empty() {
            others_of[query] = list;
            asked.push(query);
        }
    }
    Nearest { others_of, asked }
}

/// The nearest that do not belong, and how many of them stand before the first that does.
fn nearest(scores: &[f32], others: &[usize], n: usize, belongs: impl Fn(usize) -> bool) -> (Vec<u32>, usize) {
    let (own, mut places): (Vec<usize>, Vec<usize>) = (0..others.len()).partition(|&at| belongs(others[at]));
    let best = own.iter().map(|&at| scores[at]).fold(f32::NEG_INFINITY, f32::max);
    let rank = if own.is_empty() { usize::MAX } else { places.iter().filter(|&&at| scores[at] >= best).count() };
    let by_score = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    if places.len() > n {
        places.select_nth_unstable_by(n, by_score);
        places.truncate(n);
    }
    places.sort_unstable_by(by_score);
    (places.into_iter().map(|at| others[at] as u32).collect(), rank)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn an_image_with_the_same_text_is_no_hard_negative() {
        let items = || Items { dim: 1, vectors: vec![1.0, 0.9, 0.8, 0.7], ..Items::default() };
        let mut pairs = Pairs {
            images: items(),
            texts: items(),
            owner_of: (0..4).collect(),
            joined: vec![false; 4],
            ..Pairs::default()
        };
        let all = [0, 1, 2, 3];
        let others = |pairs: &Pairs| {
            let nearest = Nearest::images_of(pairs, &[3], &all, 2, 9);
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
            let mut drawn = nearest.draw(3, 2, &mut rng);
            drawn.sort_unstable();
            drawn
        };
        assert_eq!(others(&pairs), [0, 1]);
        pairs.also.insert(3, vec![1]);
        assert_eq!(others(&pairs), [0, 2]);
    }
}
