//! A teacher for scenes: a fixed vector for what a scene holds, made of random codes by its grammar.
//!
//! A contrastive loss alone says little for many steps, while all embeddings are still alike. The teacher says at once what
//! each picture, each patch of it and each caption should lead to. It is used in training only.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::scenes::{Background, Group, Scene, Tone};

/// What the scene as a whole and each of its patches should lead to, all of unit length.
pub struct Lesson {
    pub whole: Vec<f32>,
    /// (grid * grid, dim)
    pub patches: Vec<f32>,
    /// How much each patch counts: those without a thing count less.
    pub patch_weights: Vec<f32>,
}

/// A patch of plain background.
const BACKGROUND_WEIGHT: f32 = 0.15;

pub fn lesson(scene: &Scene, dim: usize, grid: usize) -> Lesson {
    let background = of_background(scene.background, dim);
    let groups: Vec<Vec<f32>> = scene.groups.iter().map(|group| of_group(group, dim)).collect();
    let mut whole = background.clone();
    groups.iter().for_each(|code| add_scaled(&mut whole, code, 1.0));
    let (mut patches, mut patch_weights) = (Vec::new(), Vec::new());
    for patch in 0..grid * grid {
        let place = |at: usize| (at as f32 + 0.5) / grid as f32;
        let (x, y) = (place(patch % grid), place(patch / grid));
        let covering = scene.groups.iter().position(|group| {
            let [left, top, right, bottom] = scene.box_of(group);
            (left..right).contains(&x) && (top..bottom).contains(&y)
        });
        patch_weights.push(if covering.is_some() { 1.0 } else { BACKGROUND_WEIGHT });
        let mut code = covering.map_or_else(|| background.clone(), |at| groups[at].clone());
        make_unit(&mut code);
        patches.extend(code);
    }
    make_unit(&mut whole);
    Lesson { whole, patches, patch_weights }
}

fn of_group(group: &Group, dim: usize) -> Vec<f32> {
    let (shape, colour) = (group.shape as u64, group.colour as u64);
    let place = u64::from(group.place.row * 3 + group.place.column);
    let mut sum = vec![0.0; dim];
    let facts = [
        (1.0, [1, shape, 0]),
        (1.0, [2, colour, 0]),
        (0.9, [3, shape, colour]),
        (0.6, [4, shape, u64::from(group.count)]),
        (0.5, [5, shape, place]),
        (0.6, [6, colour, place]),
        (0.3, [7, shape, group.size as u64]),
        (0.4, [8, colour, group.pattern as u64]),
    ];
    facts.iter().for_each(|&(weight, fact)| add_scaled(&mut sum, &code(fact, dim), weight));
    sum
}

fn of_background(background: Background, dim: usize) -> Vec<f32> {
    let (kind, top, bottom) = match background {
        Background::Plain(tone) => (0, tone, tone),
        Background::Gradient(top, bottom) => (1, top, bottom),
        Background::Ground(sky, ground) => (2, sky, ground),
    };
    let mut sum = vec![0.0; dim];
    let tone = |tone: Tone| tone as u64;
    let facts = [(0.3, [10, kind, 0]), (0.7, [11, tone(top), 0]), (0.5, [12, tone(bottom), 0])];
    facts.iter().for_each(|&(weight, fact)| add_scaled(&mut sum, &code(fact, dim), weight));
    sum
}

/// Random signs, the same for a fact always.
fn code(fact: [u64; 3], dim: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(0x7eac_4e12);
    rng.set_stream(fact[0] << 40 | fact[1] << 20 | fact[2]);
    (0..dim).map(|_| if rng.random_bool(0.5) { 1.0 } else { -1.0 }).collect()
}

fn add_scaled(to: &mut [f32], from: &[f32], scale: f32) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from * scale);
}

fn make_unit(vector: &mut [f32]) {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|value| *value /= length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenes;

    #[test]
    fn lessons_tell_scenes_apart_and_have_unit_length() {
        let lessons: Vec<Lesson> = (0..50).map(|index| lesson(&scenes::seen_scene(1, index), 192, 8)).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        for (at, one) in lessons.iter().enumerate() {
            assert!((dot(&one.whole, &one.whole) - 1.0).abs() < 1e-4);
            assert_eq!((one.patches.len(), one.patch_weights.len()), (64 * 192, 64));
            assert!(one.patch_weights.iter().filter(|&&weight| weight == 1.0).count() >= 4);
            for other in &lessons[..at] {
                assert!(dot(&one.whole, &other.whole) < 0.95);
            }
        }
    }
}
