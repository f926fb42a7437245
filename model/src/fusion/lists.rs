//! Lists to learn from: one that belongs and others that nearly do, mined by cosine.

use std::collections::BTreeSet;

use rand::{Rng, seq::SliceRandom};
use rayon::prelude::*;

use super::{Items, Pairs};

/// Queries whose scores are held at once.
const AT_ONCE: usize = 256;

/// What finds images of texts where there are too many to compare each with each, such as a collection's index.
pub trait Search: Sync {
    /// For each text the places of images to learn from, nearest first: `n` or more, or as many as there are.
    fn images_of(&self, texts: &[usize], n: usize) -> crate::Result<Vec<Vec<usize>>>;
}

/// Queries that are worth asking, and for each the nearest that do not belong.
#[derive(Default)]
pub(super) struct Nearest {
    /// By query; empty for those that are not asked.
    others_of: Vec<Vec<u32>>,
    /// Those whose own one is near enough for a re-ranker to ever see it.
    pub asked: Vec<usize>,
}

impl Nearest {
    /// Of texts among images of their fold: `n` others, and an own one that fewer than `within` others stand before.
    pub(super) fn images_of(pairs: &Pairs, texts: &[usize], images: &[usize], n: usize, within: usize) -> Nearest {
        let belongs = |text: usize, image: usize| pairs.belongs(text, image);
        let of_fold = |(images, texts): &(Vec<usize>, Vec<usize>)| {
            mine((&pairs.texts, texts), (&pairs.images, images), [n, within], belongs)
        };
        Nearest::of_folds(pairs.by_fold(images, texts).iter().map(of_fold))
    }

    pub(super) fn texts_of(pairs: &Pairs, images: &[usize], texts: &[usize], n: usize, within: usize) -> Nearest {
        let belongs = |image: usize, text: usize| pairs.belongs(text, image);
        let of_fold = |(images, texts): &(Vec<usize>, Vec<usize>)| {
            mine((&pairs.images, images), (&pairs.texts, texts), [n, within], belongs)
        };
        Nearest::of_folds(pairs.by_fold(images, texts).iter().map(of_fold))
    }

    fn of_folds(folds: impl Iterator<Item = Nearest>) -> Nearest {
        let both = |mut all: Nearest, fold: Nearest| {
            for &query in &fold.asked {
                all.others_of[query] = fold.others_of[query].clone();
            }
            all.asked.extend(fold.asked);
            all
        };
        folds.reduce(both).unwrap_or_default()
    }

    /// The same, of what an index finds: one that it overlooks is no negative.
    pub(super) fn found(
        pairs: &Pairs,
        texts: &[usize],
        is_learnt: &[bool],
        search: &dyn Search,
        [n, within]: [usize; 2],
    ) -> crate::Result<Nearest> {
        let (mut others_of, mut asked) = (vec![Vec::new(); pairs.texts.n()], Vec::new());
        // Of those found, only the ones of a fold count.
        let n_folds = pairs.fold_of.iter().collect::<BTreeSet<_>>().len().max(1);
        for (&text, found) in texts.iter().zip(search.images_of(texts, n_folds * (n.max(within) + 1))?) {
            let counts = |image: usize| is_learnt[image] && pairs.fold(image) == pairs.fold(pairs.owner_of[text]);
            let (own, others): (Vec<usize>, Vec<usize>) =
                (0..found.len()).filter(|&at| counts(found[at])).partition(|&at| pairs.belongs(text, found[at]));
            let Some(&first) = own.first() else { continue };
            if others.iter().filter(|&&at| at < first).count() < within && !others.is_empty() {
                others_of[text] = others.into_iter().take(n).map(|at| found[at] as u32).collect();
                asked.push(text);
            }
        }
        Ok(Nearest { others_of, asked })
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

    /// All others of a query, in an order that is drawn.
    pub(super) fn shuffled(&self, query: usize, rng: &mut impl Rng) -> Vec<usize> {
        let mut all: Vec<usize> = self.others_of[query].iter().map(|&other| other as usize).collect();
        all.shuffle(rng);
        all
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
    use std::sync::Arc;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn an_image_with_the_same_text_is_no_hard_negative() {
        let items = || Items { dim: 1, vectors: vec![1.0, 0.9, 0.8, 0.7], ..Items::default() };
        let mut pairs = Pairs { images: items(), texts: items(), owner_of: (0..4).collect(), ..Pairs::default() };
        let all = [0, 1, 2, 3];
        let others = |pairs: &Pairs| {
            let nearest = Nearest::images_of(pairs, &[3], &all, 2, 9);
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
            let mut drawn = nearest.draw(3, 2, &mut rng);
            drawn.sort_unstable();
            drawn
        };
        assert_eq!(others(&pairs), [0, 1]);
        pairs.shared.insert(3, Arc::new([1, 3].into()));
        assert_eq!(others(&pairs), [0, 2]);
    }

    /// An index that finds all gives the lists of comparing all.
    #[test]
    fn lists_by_an_index_are_those_of_comparing_all() {
        struct All(Items);
        impl Search for All {
            fn images_of(&self, texts: &[usize], _n: usize) -> crate::Result<Vec<Vec<usize>>> {
                let n = self.0.n();
                let nearest = |&text: &usize| {
                    let mut images: Vec<usize> = (0..n).collect();
                    let cosine = |image: usize| self.0.product(text, &self.0, image);
                    images.sort_by(|&a, &b| cosine(b).total_cmp(&cosine(a)).then(a.cmp(&b)));
                    images
                };
                Ok(texts.iter().map(nearest).collect())
            }
        }
        let items =
            Items { dim: 2, vectors: (0..40).map(|at| (at * 37 % 23) as f32 * 0.1).collect(), ..Items::default() };
        let mut pairs = Pairs {
            images: items.clone(),
            texts: items.clone(),
            owner_of: (0..20).map(|at| (at + 3) % 20).collect(),
            ..Pairs::default()
        };
        let (texts, learnt): (Vec<usize>, Vec<usize>) = ((0..20).collect(), (0..15).collect());
        let is_learnt: Vec<bool> = (0..20).map(|at| at < 15).collect();
        let asked: Vec<usize> = texts.into_iter().filter(|&text| is_learnt[pairs.owner_of[text]]).collect();
        for (fold_of, within) in [(Vec::new(), 8), ((0..20).map(|at| at % 2).collect(), 4)] {
            pairs.fold_of = fold_of;
            let mut exact = Nearest::images_of(&pairs, &asked, &learnt, 4, within);
            let found = Nearest::found(&pairs, &asked, &is_learnt, &All(items.clone()), [4, within]).unwrap();
            exact.asked.sort_unstable();
            assert!(exact.asked.len() > 3 && exact.asked.len() < asked.len());
            assert_eq!((exact.asked, exact.others_of), (found.asked, found.others_of));
        }
    }
}
