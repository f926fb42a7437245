//! Families of scenes that differ only in binding, count or position: what a cosine of pooled embeddings hardly tells apart.

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::{Background, Colour, Group, Pattern, Place, Scene, Shape, Size, Tone, caption, distance, roll_background};

/// Scenes of a family: every way to exchange the colours of its two groups, to take another count of the first, and to exchange
/// their places.
pub const FAMILY_SIZE: usize = 8;

/// What distinguishes a scene of a family from its first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchanged {
    /// Which colour belongs to which thing.
    pub binding: bool,
    pub count: bool,
    pub position: bool,
}

impl Exchanged {
    /// Of the scene at that place of its family.
    pub fn of(member: usize) -> Exchanged {
        Exchanged { binding: member & 1 != 0, count: member & 2 != 0, position: member & 4 != 0 }
    }
}

/// The scenes of the family that (seed, index) stands for, the first unchanged. Either training may see the combinations of all of
/// them, or those of none.
pub fn family(seed: u64, index: u64, is_unseen: bool) -> [Scene; FAMILY_SIZE] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    loop {
        let scenes = roll(seed, index, &mut rng);
        if scenes.iter().all(|scene| scene.is_unseen() == is_unseen) {
            return scenes;
        }
    }
}

fn roll(seed: u64, index: u64, rng: &mut ChaCha8Rng) -> [Scene; FAMILY_SIZE] {
    let background = roll_background(rng);
    let shapes: Vec<Shape> = Shape::ALL.choose_multiple(rng, 2).copied().collect();
    let tones = tones(background);
    let fits = |colour: &&Colour| tones.iter().all(|tone| distance(tone.rgb(), colour.rgb()) >= 90);
    let colours: Vec<Colour> = Colour::ALL.iter().filter(fits).copied().collect();
    let colours: Vec<Colour> = colours.choose_multiple(rng, 2).copied().collect();
    let counts: Vec<u8> = [1, 2, 3, 4, 5, 6].choose_multiple(rng, 2).copied().collect();
    let beside = rng.random_range(1..=6);
    // In one row or one column, so that there is one word for how they stand.
    let (line, ends) = (rng.random_range(0..3), *[(0, 1), (1, 2), (0, 2)].choose(rng).expect("three"));
    let place = |at: u8, is_row: bool| match is_row {
        true => Place { column: at, row: line },
        false => Place { column: line, row: at },
    };
    let is_row = rng.random_bool(0.5);
    let places = [place(ends.0, is_row), place(ends.1, is_row)];
    let group = |at: usize, count: u8| Group {
        shape: shapes[at],
        colour: colours[at],
        count,
        size: Size::Medium,
        pattern: Pattern::Plain,
        place: places[at],
        jitter: [0; 5],
    };
    let first = Scene { seed, index, background, groups: vec![group(0, counts[0]), group(1, beside)] };
    std::array::from_fn(|member| {
        let (mut scene, exchanged) = (first.clone(), Exchanged::of(member));
        if exchanged.binding {
            (scene.groups[0].colour, scene.groups[1].colour) = (first.groups[1].colour, first.groups[0].colour);
        }
        if exchanged.count {
            scene.groups[0].count = counts[1];
        }
        if exchanged.position {
            (scene.groups[0].place, scene.groups[1].place) = (first.groups[1].place, first.groups[0].place);
        }
        // Shifts are never spoken of: each picture has its own.
        scene.groups.iter_mut().for_each(|group| group.jitter = std::array::from_fn(|_| rng.random_range(-8..=8)));
        scene
    })
}

fn tones(background: Background) -> [Tone; 2] {
    match background {
        Background::Plain(tone) => [tone, tone],
        Background::Gradient(one, other) | Background::Ground(one, other) => [one, other],
    }
}

impl Scene {
    /// One phrase that is true of this scene and of no other of its family, such as "two red stars to the left of a blue house"; English for a
    /// language that is none of `LANGUAGES`.
    ///
    /// # Panics
    ///
    /// If it has less than two groups.
    pub fn relation(&self, language: &str, variant: u64) -> String {
        caption::relation(self, language, variant)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::scenes::LANGUAGES;

    #[test]
    fn one_phrase_is_true_of_one_of_a_family() {
        for index in 0..40 {
            let scenes = family(1, index, false);
            for language in LANGUAGES {
                // Either group may be named first, so a phrase has two wordings.
                let wordings = |scene: &Scene| -> HashSet<String> {
                    (0..16).map(|variant| scene.relation(language, variant)).collect()
                };
                let all: Vec<HashSet<String>> = scenes.iter().map(wordings).collect();
                let distinct: HashSet<&String> = all.iter().flatten().collect();
                assert_eq!(distinct.len(), all.iter().map(HashSet::len).sum::<usize>(), "{index} {language}");
            }
            let said: Vec<usize> = scenes.iter().map(|scene| scene.groups.len()).collect();
            assert_eq!(said, [2; FAMILY_SIZE]);
        }
    }

    #[test]
    fn families_are_seen_or_unseen_as_a_whole() {
        for index in 0..5 {
            assert!(family(2, index, true).iter().all(Scene::is_unseen));
            assert!(!family(2, index, false).iter().any(Scene::is_unseen));
        }
        assert_eq!(family(2, 3, true), family(2, 3, true));
    }
}
