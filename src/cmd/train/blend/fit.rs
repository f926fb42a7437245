//! Weights for several vectors, chosen on some points and judged on others. Plain numbers in, plain numbers out.
//!
//! A question is right if no other point scores as high as the one that it describes. All weights of a grid are tried on each question,
//! so that what follows is choosing among columns of rights and wrongs.

use serde::{Deserialize, Serialize};

/// Most combinations of weights that are tried.
const MAX_GRID: usize = 1000;
/// Finest step of a weight, as a part of their sum.
const FINEST: usize = 20;
const N_RESAMPLED: usize = 1000;

/// Weights that sum up to 1, in equal steps: every combination, as fine as there may be. The first ones weigh one vector alone.
pub fn grid(n_vectors: usize) -> Vec<Vec<f32>> {
    let n_steps = (1..=FINEST).rev().find(|&n| n_combinations(n, n_vectors) <= MAX_GRID).unwrap_or(1);
    let mut all = Vec::new();
    combine(n_steps, n_vectors, &mut Vec::new(), &mut all);
    let weight = |steps: &usize| *steps as f32 / n_steps as f32;
    let mut all: Vec<Vec<f32>> = all.iter().map(|steps| steps.iter().map(weight).collect()).collect();
    let alone = |weights: &Vec<f32>| weights.iter().position(|&weight| weight == 1.0).unwrap_or(usize::MAX);
    all.sort_by_key(alone);
    all
}

/// Ways to share n steps among so many.
fn n_combinations(n_steps: usize, n_vectors: usize) -> usize {
    (1..n_vectors).fold(1, |ways, at| ways * (n_steps + at) / at)
}

fn combine(left: usize, n_more: usize, begun: &mut Vec<usize>, all: &mut Vec<Vec<usize>>) {
    if n_more == 1 {
        all.push([&begun[..], &[left]].concat());
        return;
    }
    for steps in 0..=left {
        begun.push(steps);
        combine(left - steps, n_more - 1, begun, all);
        begun.pop();
    }
}

/// For each weights of the grid, whether the question is right. `cosines`: a row for each vector, (points).
pub fn rights(grid: &[Vec<f32>], cosines: &[Vec<f32>], owner: usize) -> Vec<bool> {
    let n_points = cosines[0].len();
    // Who is behind in every vector is behind in every blend.
    let is_rival = |point: usize| point != owner && cosines.iter().any(|of| of[point] >= of[owner]);
    let rivals: Vec<usize> = (0..n_points).filter(|&point| is_rival(point)).collect();
    let score = |weights: &[f32], point: usize| -> f32 {
        weights.iter().zip(cosines).map(|(weight, of)| if *weight > 0.0 { weight * of[point] } else { 0.0 }).sum()
    };
    let is_right = |weights: &Vec<f32>| {
        let own = score(weights, owner);
        rivals.iter().all(|&rival| score(weights, rival) < own)
    };
    grid.iter().map(is_right).collect()
}

/// The questions: whose each is, and what the weights of the grid make of it.
#[derive(Default)]
pub struct Questions {
    pub owners: Vec<usize>,
    /// (questions, grid)
    pub rights: Vec<Vec<bool>>,
}

/// What was chosen, and how good that is on points it was not chosen on.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// The place in the grid of what is best on all points.
    pub chosen: usize,
    /// For each question, whether the weights that are best without the fold of its point get it right.
    pub crossed: Vec<bool>,
}

/// Chooses weights on all points, and on all but each of the folds.
pub fn fit(grid: &[Vec<f32>], questions: &Questions, fold_of: &[usize]) -> Fit {
    let n_folds = fold_of.iter().max().map_or(0, |last| last + 1);
    let without: Vec<usize> = (0..n_folds).map(|fold| best(grid, questions, |owner| fold_of[owner] != fold)).collect();
    let crossed = questions.owners.iter().zip(&questions.rights);
    let crossed = crossed.map(|(owner, rights)| rights[without[fold_of[*owner]]]).collect();
    Fit { chosen: best(grid, questions, |_| true), crossed }
}

/// The weights with the most right among these points; of several, those nearest to equal ones, then the first.
fn best(grid: &[Vec<f32>], questions: &Questions, is_in: impl Fn(usize) -> bool) -> usize {
    let mut n_right = vec![0usize; grid.len()];
    let within = questions.owners.iter().zip(&questions.rights).filter(|(owner, _)| is_in(**owner));
    for (_, rights) in within {
        n_right.iter_mut().zip(rights).for_each(|(n, right)| *n += usize::from(*right));
    }
    let unevenness = |at: usize| grid[at].iter().map(|weight| weight * weight).sum::<f32>();
    let better = |a: &usize, b: &usize| {
        n_right[*b].cmp(&n_right[*a]).then(unevenness(*a).total_cmp(&unevenness(*b))).then(a.cmp(b))
    };
    (0..grid.len()).min_by(better).expect("a grid has weights")
}

/// So many folds of as many points each, drawn by the seed.
pub fn folds(n_points: usize, n_folds: usize, seed: u64) -> Vec<usize> {
    let mut random = Random(seed);
    let mut folds: Vec<usize> = (0..n_points).map(|point| point % n_folds).collect();
    for at in (1..n_points).rev() {
        folds.swap(at, random.below(at + 1));
    }
    folds
}

/// A difference of shares of right questions, and where 95 of 100 resamples of the points put it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    pub gain: f64,
    pub low: f64,
    pub high: f64,
}

/// What `a` has right more than `b`. Points are drawn, not questions: those of one point are alike.
pub fn gain(owners: &[usize], a: &[bool], b: &[bool], seed: u64) -> Gain {
    let n_points = owners.iter().max().map_or(0, |last| last + 1);
    let mut by_point = vec![(0i64, 0i64); n_points];
    for ((owner, a), b) in owners.iter().zip(a).zip(b) {
        by_point[*owner].0 += i64::from(*a) - i64::from(*b);
        by_point[*owner].1 += 1;
    }
    by_point.retain(|(_, n)| *n > 0);
    let share = |(more, n): (i64, i64)| more as f64 / n.max(1) as f64;
    let sum = |points: &mut dyn Iterator<Item = (i64, i64)>| points.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let mut random = Random(seed);
    let mut drawn: Vec<f64> = (0..N_RESAMPLED)
        .map(|_| share(sum(&mut (0..by_point.len()).map(|_| by_point[random.below(by_point.len())]))))
        .collect();
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| drawn[((N_RESAMPLED - 1) as f64 * share).round() as usize];
    Gain { gain: share(sum(&mut by_point.iter().copied())), low: at(0.025), high: at(0.975) }
}

/// The dot product in eight lanes, which compilers turn into wide instructions.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (wide_a, rest_a) = a.as_chunks::<8>();
    let (wide_b, rest_b) = b.as_chunks::<8>();
    let mut sums = [0f32; 8];
    for (a, b) in wide_a.iter().zip(wide_b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum::<f32>()
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_hold_every_combination() {
        assert_eq!(grid(1), [[1.0]]);
        let two = grid(2);
        assert_eq!((two.len(), &two[0][..], &two[1][..]), (21, &[1.0, 0.0][..], &[0.0, 1.0][..]));
        for n_vectors in 2..=16 {
            let grid = grid(n_vectors);
            assert!(grid.len() <= MAX_GRID && grid.len() > n_vectors, "{n_vectors}: {}", grid.len());
            assert!(grid.iter().all(|weights| (weights.iter().sum::<f32>() - 1.0).abs() < 1e-5));
            let is_alone = |at: usize| grid[at][at] == 1.0;
            assert!((0..n_vectors).all(is_alone), "{n_vectors}");
        }
    }

    #[test]
    fn a_question_is_right_if_nobody_is_as_near() {
        let grid = [vec![1.0, 0.0], vec![0.0, 1.0], vec![0.5, 0.5]];
        let check = |cosines: [[f32; 3]; 2], owner, expected: [bool; 3]| {
            assert_eq!(rights(&grid, &cosines.map(|of| of.to_vec()), owner), expected, "{cosines:?}");
        };
        check([[0.9, 0.5, 0.1], [0.8, 0.2, 0.1]], 0, [true, true, true]);
        check([[0.9, 0.5, 0.1], [0.1, 0.2, 0.1]], 0, [true, false, true]);
        check([[0.5, 0.5, 0.1], [0.9, 0.2, 0.1]], 0, [false, true, true]);
        check([[0.5, 0.5, 0.1], [0.9, 0.9, 0.1]], 2, [false, false, false]);
    }

    /// Two vectors that see the same under noise of their own, nearly normal (the sum of four uniform numbers), and one that is noise.
    fn made_up(n_points: usize) -> (Vec<Vec<f32>>, Questions) {
        let grid = grid(3);
        let mut random = Random(7);
        let mut noise = || (0..4).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).sum::<f32>();
        let mut questions = Questions::default();
        for owner in 0..n_points {
            let mut row = |signal: f32| -> Vec<f32> {
                (0..n_points).map(|point| noise() + if point == owner { signal } else { 0.0 }).collect()
            };
            let cosines = [row(3.0), row(3.0), row(0.0)];
            questions.owners.push(owner);
            questions.rights.push(rights(&grid, &cosines, owner));
        }
        (grid, questions)
    }

    #[test]
    fn what_helps_is_weighed_and_what_does_not_is_left_out() {
        let (grid, questions) = made_up(150);
        let folds = folds(150, 5, 1);
        let fit = fit(&grid, &questions, &folds);
        let [first, second, noise] = grid[fit.chosen][..] else { panic!("three weights") };
        assert!(first > 0.25 && second > 0.25 && noise < 0.2, "{:?}", grid[fit.chosen]);
        let column = |at: usize| questions.rights.iter().map(|rights| rights[at]).collect::<Vec<_>>();
        for alone in 0..3 {
            let gain = gain(&questions.owners, &fit.crossed, &column(alone), 1);
            assert!(gain.low > 0.0 && gain.low < gain.gain && gain.gain < gain.high, "{alone}: {gain:?}");
        }
    }

    #[test]
    fn a_fold_is_judged_by_weights_that_have_not_seen_it() {
        let grid = grid(2);
        let mut questions = Questions { owners: (0..4).collect(), rights: vec![vec![false; grid.len()]; 4] };
        // Each point is found by weights of its own.
        (0..4).for_each(|owner| questions.rights[owner][owner] = true);
        let fit = fit(&grid, &questions, &[0, 1, 2, 3]);
        assert_eq!(fit.crossed, [false; 4], "on the points it was chosen on it would have one right");
    }

    #[test]
    fn folds_are_even_and_drawn() {
        let drawn = folds(103, 5, 3);
        for fold in 0..5 {
            let n = drawn.iter().filter(|&&of| of == fold).count();
            assert!((20..=21).contains(&n), "{n}");
        }
        assert_eq!(drawn, folds(103, 5, 3));
        assert_ne!(drawn, folds(103, 5, 4));
    }

    #[test]
    fn nothing_gained_is_around_zero() {
        let owners: Vec<usize> = (0..300).map(|question| question / 3).collect();
        let mut random = Random(5);
        let mut coins = || (0..300).map(|_| random.below(2) == 0).collect::<Vec<_>>();
        let (a, b) = (coins(), coins());
        let gain = gain(&owners, &a, &b, 1);
        assert!(gain.low < 0.0 && gain.high > 0.0, "{gain:?}");
        assert_eq!(super::gain(&owners, &a, &a, 1), Gain { gain: 0.0, low: 0.0, high: 0.0 });
    }

    #[test]
    fn lanes_add_up() {
        let numbers = |n: usize| (0..n).map(|i| i as f32 - 3.0).collect::<Vec<f32>>();
        for n in [0, 7, 8, 21] {
            let plain: f32 = numbers(n).iter().map(|number| number * number).sum();
            assert_eq!(dot(&numbers(n), &numbers(n)), plain);
        }
    }
}
