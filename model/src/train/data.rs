//! The pairs of each training step. A step's pairs follow from the seed and the step's number alone, so a run that is
//! resumed sees what an unbroken one sees.

use std::collections::{HashMap, HashSet};

use image::RgbImage;
use rand::{Rng, SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{
    Plan,
    emoji::{Concept, STYLES},
    teacher::{self, Lesson},
};
use crate::{
    builtin::{layout::Sizes, preprocess, tokens::Tokens},
    scenes::{self, LANGUAGES, Style},
};

/// Keeps the seeds of training apart from those of the sample set and of the evaluation.
const SCENE_SEEDS: u64 = 0x7a31_0000_0000;

pub struct Pair {
    /// (3, side, side), channel first.
    pub pixels: Vec<f32>,
    pub tokens: Tokens,
    /// Of scenes, when there is a teacher.
    pub lesson: Option<Lesson>,
}

/// What training may draw from.
pub struct Data {
    sizes: Sizes,
    seed: u64,
    with_scenes: bool,
    taught: bool,
    /// Share of a batch that is emoji, when there are scenes as well.
    emoji_share: f32,
    concepts: Vec<Concept>,
    /// Concepts of each group.
    groups: Vec<Vec<usize>>,
}

impl Data {
    /// Only the training fold of `concepts` is kept.
    pub fn new(plan: &Plan, concepts: Vec<Concept>) -> Data {
        let Plan { sizes, seed, emoji_share, scenes: with_scenes, .. } = *plan;
        let concepts: Vec<Concept> = concepts.into_iter().filter(|concept| concept.is_train).collect();
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (at, concept) in concepts.iter().enumerate() {
            let number = *numbers.entry(&concept.group).or_insert(groups.len());
            if number == groups.len() {
                groups.push(Vec::new());
            }
            groups[number].push(at);
        }
        Data { sizes, seed, with_scenes, taught: plan.teacher > 0.0, emoji_share, groups, concepts }
    }

    /// Largest batch that holds no group twice.
    pub fn max_batch(&self) -> usize {
        if self.with_scenes { usize::MAX } else { self.groups.len() }
    }

    /// No two pairs are of the same emoji group, or of scenes with the same combination.
    pub fn batch(&self, step: u64, n: usize) -> Vec<Pair> {
        let mut rng = self.rng(step, 0);
        let share = if self.with_scenes { self.emoji_share } else { 1.0 };
        let n_emoji = ((n as f32 * share).round() as usize).min(self.groups.len());
        let groups = index::sample(&mut rng, self.groups.len(), n_emoji).into_vec();
        let scenes = self.scenes(step, n - n_emoji);
        let n_groups = groups.len();
        let emoji = groups.into_par_iter().enumerate();
        let mut pairs: Vec<Pair> = emoji.map(|(at, group)| self.emoji(group, &mut self.rng(step, 1 + at))).collect();
        let scenes = scenes.into_par_iter().enumerate();
        pairs.par_extend(scenes.map(|(at, scene)| self.scene(&scene, &mut self.rng(step, 1 + n_groups + at))));
        pairs
    }

    fn rng(&self, step: u64, item: usize) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream((step << 20) + item as u64);
        rng
    }

    fn scenes(&self, step: u64, n: usize) -> Vec<scenes::Scene> {
        let mut taken = HashSet::new();
        let candidates = (0..).map(|at| scenes::seen_scene(SCENE_SEEDS + self.seed, (step << 20) + at));
        candidates.filter(|scene| taken.insert(scene.combination())).take(n).collect()
    }

    fn emoji(&self, group: usize, rng: &mut ChaCha8Rng) -> Pair {
        let members = &self.groups[group];
        let concept = &self.concepts[members[rng.random_range(0..members.len())]];
        let picture = &concept.pictures[rng.random_range(0..STYLES.len())];
        let text = concept.texts[rng.random_range(0..concept.texts.len())].draw(rng);
        let view = View {
            zoom: rng.random_range(0.8..1.1),
            shift: [rng.random_range(-5.0..5.0), rng.random_range(-5.0..5.0)],
            gain: tint(rng),
        };
        self.pair(&view.of(picture, self.sizes.side_px()), &text)
    }

    fn scene(&self, scene: &scenes::Scene, rng: &mut ChaCha8Rng) -> Pair {
        let language = LANGUAGES[rng.random_range(0..LANGUAGES.len())];
        let style = if rng.random_bool(0.45) { Style::Short } else { Style::Long };
        let text = scene.caption_variant(language, style, rng.random());
        let view = View {
            zoom: rng.random_range(0.97..1.03),
            shift: [rng.random_range(-1.5..1.5), rng.random_range(-1.5..1.5)],
            gain: std::array::from_fn(|_| rng.random_range(0.94..1.04)),
        };
        let picture = view.of(&scene.draw(self.sizes.side_px() as u32), self.sizes.side_px());
        let lesson = self.taught.then(|| teacher::lesson(scene, self.sizes.embedding, self.sizes.grid));
        Pair { lesson, ..self.pair(&picture, &text) }
    }

    fn pair(&self, picture: &RgbImage, text: &str) -> Pair {
        let tokens = Tokens::read(text, self.sizes.table_rows, self.sizes.max_text_tokens);
        // A name of signs alone (such as "!?") has no word; one word stands in for it.
        let tokens = if tokens.is_empty() { Tokens::read("x", self.sizes.table_rows, 1) } else { tokens };
        Pair { pixels: preprocess(picture, self.sizes.side_px()).values, tokens, lesson: None }
    }
}

/// Half of the drawings keep their white ground, the others get a light one of some colour.
fn tint(rng: &mut ChaCha8Rng) -> [f32; 3] {
    let depth = if rng.random_bool(0.5) { 0.06 } else { 0.35 };
    std::array::from_fn(|_| 1.0 - rng.random_range(0.0..depth))
}

/// A slightly different look at a picture. Never mirrored: left and right mean something.
struct View {
    zoom: f32,
    shift: [f32; 2],
    gain: [f32; 3],
}

impl View {
    /// Bilinear; what lies outside repeats the edge.
    fn of(&self, picture: &RgbImage, side: usize) -> RgbImage {
        let (width, height) = picture.dimensions();
        let middle = side as f32 / 2.0;
        let source = |at: u32, shift: f32, length: u32| {
            let at = ((at as f32 + 0.5 - middle - shift) / self.zoom + middle) * length as f32 / side as f32 - 0.5;
            let at = at.clamp(0.0, length as f32 - 1.0);
            (at as u32, (at as u32 + 1).min(length - 1), at - at as u32 as f32)
        };
        RgbImage::from_fn(side as u32, side as u32, |x, y| {
            let ((left, right, u), (top, bottom, v)) =
                (source(x, self.shift[0], width), source(y, self.shift[1], height));
            image::Rgb(std::array::from_fn(|channel| {
                let at = |x, y| f32::from(picture.get_pixel(x, y).0[channel]);
                let above = at(left, top) * (1.0 - u) + at(right, top) * u;
                let below = at(left, bottom) * (1.0 - u) + at(right, bottom) * u;
                ((above * (1.0 - v) + below * v) * self.gain[channel] + 0.5) as u8
            }))
        })
    }
}
