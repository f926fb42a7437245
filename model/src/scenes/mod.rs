//! firn's own generated pictures: a grammar of scenes, their drawing, and captions in ten languages.
//!
//! Everything follows from (seed, index) by integer arithmetic and IEEE f32, so a scene is the same on every platform.
//! A scene's *combination* (which things, colours and counts it shows) decides whether training may see it, so the sample
//! set and the evaluation hold only combinations that no training run has met.

mod caption;
mod draw;
mod family;
mod lexicon;
mod templates;

use image::RgbImage;
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

pub use caption::{LANGUAGES, Style, count_words};
pub use family::{Exchanged, FAMILY_SIZE, family};

/// Side of the pictures of `sample_set`.
pub const SAMPLE_SIDE_PX: u32 = 288;
/// Seed of the bundled sample set.
pub const SAMPLE_SEED: u64 = 0x5a3b1e;
/// Largest side that is drawn.
pub const MAX_DRAW_SIDE_PX: u32 = 2048;
const MAX_GROUPS: usize = 5;
/// One combination in ten is kept from training.
const UNSEEN_ONE_IN: u64 = 10;

/// What a scene is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Shape {
    Ball,
    Square,
    Triangle,
    Star,
    Heart,
    Ring,
    Cross,
    Hexagon,
    Moon,
    Diamond,
    Flower,
    House,
    Tree,
    Fish,
    Boat,
    Cloud,
}

impl Shape {
    pub const ALL: [Shape; 16] = [
        Shape::Ball,
        Shape::Square,
        Shape::Triangle,
        Shape::Star,
        Shape::Heart,
        Shape::Ring,
        Shape::Cross,
        Shape::Hexagon,
        Shape::Moon,
        Shape::Diamond,
        Shape::Flower,
        Shape::House,
        Shape::Tree,
        Shape::Fish,
        Shape::Boat,
        Shape::Cloud,
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
    Brown,
    Black,
    White,
    Grey,
    Turquoise,
}

impl Colour {
    pub const ALL: [Colour; 12] = [
        Colour::Red,
        Colour::Orange,
        Colour::Yellow,
        Colour::Green,
        Colour::Blue,
        Colour::Purple,
        Colour::Pink,
        Colour::Brown,
        Colour::Black,
        Colour::White,
        Colour::Grey,
        Colour::Turquoise,
    ];

    pub fn rgb(self) -> [u8; 3] {
        match self {
            Colour::Red => [214, 32, 36],
            Colour::Orange => [245, 134, 20],
            Colour::Yellow => [248, 216, 30],
            Colour::Green => [38, 146, 60],
            Colour::Blue => [30, 84, 204],
            Colour::Purple => [124, 50, 160],
            Colour::Pink => [246, 132, 184],
            Colour::Brown => [128, 78, 38],
            Colour::Black => [22, 22, 24],
            Colour::White => [250, 250, 250],
            Colour::Grey => [136, 138, 142],
            Colour::Turquoise => [42, 190, 186],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Size {
    Small,
    Medium,
    Large,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    Plain,
    Striped,
    Dotted,
}

/// A cell of the three by three grid that a group stands in; (0, 0) is the top left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub column: u8,
    pub row: u8,
}

/// Like things that stand together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub shape: Shape,
    pub colour: Colour,
    /// 1 to 6.
    pub count: u8,
    pub size: Size,
    pub pattern: Pattern,
    pub place: Place,
    /// Shift inside the cell, in 64ths of the side, and a shift of the colour: never spoken of.
    jitter: [i8; 5],
}

/// Backgrounds have colours of their own, so that they are not confused with those of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tone {
    White,
    LightBlue,
    Cream,
    LightGreen,
    LightGrey,
    DarkBlue,
    Black,
}

impl Tone {
    const ALL: [Tone; 7] =
        [Tone::White, Tone::LightBlue, Tone::Cream, Tone::LightGreen, Tone::LightGrey, Tone::DarkBlue, Tone::Black];

    fn rgb(self) -> [u8; 3] {
        match self {
            Tone::White => [252, 252, 252],
            Tone::LightBlue => [178, 214, 246],
            Tone::Cream => [248, 236, 204],
            Tone::LightGreen => [196, 232, 190],
            Tone::LightGrey => [208, 210, 214],
            Tone::DarkBlue => [24, 34, 84],
            Tone::Black => [14, 14, 16],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    Plain(Tone),
    /// From the first at the top to the second at the bottom.
    Gradient(Tone, Tone),
    /// A sky above, and a ground of the second tone in the lowest quarter.
    Ground(Tone, Tone),
}

/// A picture's content, before it is drawn or spoken of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    pub seed: u64,
    pub index: u64,
    pub background: Background,
    /// 1 to 5, each in a place of its own.
    pub groups: Vec<Group>,
}

/// One item of the bundled sample set.
pub struct Sample {
    pub id: String,
    pub scene: Scene,
    pub picture: RgbImage,
    /// (language, long caption), one for each of `LANGUAGES`.
    pub texts: Vec<(&'static str, String)>,
}

/// The scene that a seed and an index stand for.
pub fn scene(seed: u64, index: u64) -> Scene {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    roll(seed, index, &mut rng)
}

/// The first scene from (seed, index) on that training may see.
pub fn seen_scene(seed: u64, index: u64) -> Scene {
    scene_where(seed, index, |scene| !scene.is_unseen())
}

/// The first scene from (seed, index) on whose combination no training run sees.
pub fn unseen_scene(seed: u64, index: u64) -> Scene {
    scene_where(seed, index, Scene::is_unseen)
}

/// The demo's pictures with a long caption in every language: the same ones each time, none of which training has seen.
pub fn sample_set(n: usize) -> impl Iterator<Item = Sample> {
    (0..n as u64).map(|index| {
        let scene = unseen_scene(SAMPLE_SEED, index);
        Sample {
            id: format!("scene-{index:05}"),
            picture: scene.draw(SAMPLE_SIDE_PX),
            texts: LANGUAGES.iter().map(|&language| (language, scene.caption(language, Style::Long))).collect(),
            scene,
        }
    })
}

impl Scene {
    /// Draws the scene as a square of `side_px`, which is kept to 16 to `MAX_DRAW_SIDE_PX`.
    pub fn draw(&self, side_px: u32) -> RgbImage {
        draw::scene(self, side_px.clamp(16, MAX_DRAW_SIDE_PX))
    }

    /// A caption in one of `LANGUAGES` (English for any other).
    pub fn caption(&self, language: &str, style: Style) -> String {
        self.caption_variant(language, style, 0)
    }

    /// The same content in other words: each variant picks its sentences anew.
    pub fn caption_variant(&self, language: &str, style: Style, variant: u64) -> String {
        caption::write(self, language, style, variant)
    }

    /// A number for what is shown: things, colours and counts, whatever their order, place, size or pattern.
    pub fn combination(&self) -> u64 {
        let mut parts: Vec<[u8; 3]> =
            self.groups.iter().map(|group| [group.shape as u8, group.colour as u8, group.count]).collect();
        parts.sort_unstable();
        parts
            .iter()
            .flatten()
            .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }

    /// Left, top, right and bottom of where one of its groups stands, in units of the picture's side.
    pub(crate) fn box_of(&self, group: &Group) -> [f32; 4] {
        draw::box_of(self, group)
    }

    /// Kept from training.
    pub fn is_unseen(&self) -> bool {
        (self.combination() >> 17).is_multiple_of(UNSEEN_ONE_IN)
    }
}

fn scene_where(seed: u64, index: u64, wanted: impl Fn(&Scene) -> bool) -> Scene {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    loop {
        let scene = roll(seed, index, &mut rng);
        if wanted(&scene) {
            return scene;
        }
    }
}

fn roll(seed: u64, index: u64, rng: &mut ChaCha8Rng) -> Scene {
    let background = roll_background(rng);
    let n_groups = *[1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5].get(rng.random_range(0..12)).unwrap_or(&MAX_GROUPS);
    let mut places: Vec<Place> = (0..9).map(|cell| Place { column: cell % 3, row: cell / 3 }).collect();
    places.shuffle(rng);
    let mut groups: Vec<Group> = Vec::new();
    while groups.len() < n_groups {
        let group = roll_group(places[groups.len()], background, rng);
        let spoken_of = |other: &Group| (other.shape, other.colour) == (group.shape, group.colour);
        if !groups.iter().any(spoken_of) {
            groups.push(group);
        }
    }
    Scene { seed, index, background, groups }
}

fn roll_background(rng: &mut ChaCha8Rng) -> Background {
    let mut tone = || Tone::ALL[rng.random_range(0..Tone::ALL.len())];
    let (first, mut second) = (tone(), tone());
    while second == first {
        second = tone();
    }
    match rng.random_range(0..4) {
        0 => Background::Gradient(first, second),
        1 => Background::Ground(first, second),
        _ => Background::Plain(first),
    }
}

fn roll_group(place: Place, background: Background, rng: &mut ChaCha8Rng) -> Group {
    let tones = match background {
        Background::Plain(tone) => [tone, tone],
        Background::Gradient(top, bottom) => [top, bottom],
        Background::Ground(sky, ground) => [sky, if place.row == 2 { ground } else { sky }],
    };
    let mut colour = Colour::ALL[rng.random_range(0..Colour::ALL.len())];
    while tones.iter().any(|tone| distance(tone.rgb(), colour.rgb()) < 90) {
        colour = Colour::ALL[rng.random_range(0..Colour::ALL.len())];
    }
    let count = [1, 1, 1, 2, 2, 3, 3, 4, 5, 6][rng.random_range(0..10)];
    let sizes = [Size::Medium, Size::Large, if count > 3 { Size::Medium } else { Size::Small }];
    Group {
        shape: Shape::ALL[rng.random_range(0..Shape::ALL.len())],
        colour,
        count,
        size: sizes[rng.random_range(0..3)],
        pattern: [Pattern::Plain, Pattern::Plain, Pattern::Striped, Pattern::Dotted][rng.random_range(0..4)],
        place,
        jitter: std::array::from_fn(|_| rng.random_range(-8..=8)),
    }
}

/// Sum of absolute differences.
fn distance(a: [u8; 3], b: [u8; 3]) -> u32 {
    (0..3).map(|channel| u32::from(a[channel].abs_diff(b[channel]))).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn scenes_and_pictures_follow_from_seed_and_index() {
        for index in 0..20 {
            assert_eq!(scene(1, index), scene(1, index));
            assert_eq!(scene(1, index).draw(72), scene(1, index).draw(72));
        }
        assert_ne!(scene(1, 0), scene(2, 0));
        assert_ne!(scene(1, 0), scene(1, 1));
    }

    #[test]
    fn pictures_are_the_same_on_every_platform() {
        let mut hash = blake3::Hasher::new();
        for sample in sample_set(24) {
            hash.update(sample.picture.as_raw());
            for (_, text) in &sample.texts {
                hash.update(text.as_bytes());
            }
        }
        assert_eq!(hash.finalize().to_hex()[..16], *"ed2b4249abcaa42b");
    }

    #[test]
    fn seen_and_unseen_share_no_combination() {
        let seen: HashSet<u64> = (0..5_000).map(|index| seen_scene(3, index).combination()).collect();
        let unseen: HashSet<u64> = (0..2_000).map(|index| unseen_scene(4, index).combination()).collect();
        assert!(seen.is_disjoint(&unseen));
        assert!(unseen.len() > 1_500, "{}", unseen.len());
    }

    #[test]
    fn things_differ_from_what_is_behind_them_and_stand_apart() {
        for index in 0..500 {
            let scene = scene(5, index);
            let places: HashSet<Place> = scene.groups.iter().map(|group| group.place).collect();
            assert_eq!(places.len(), scene.groups.len());
            assert!((1..=MAX_GROUPS).contains(&scene.groups.len()));
            let picture = scene.draw(72);
            let first = *picture.get_pixel(0, 0);
            assert!(picture.pixels().any(|pixel| distance(pixel.0, first.0) > 60), "{index}: an empty picture");
        }
    }

    #[test]
    fn every_shape_looks_different() {
        let alone = |shape| {
            let group = Group {
                shape,
                colour: Colour::Red,
                count: 1,
                size: Size::Large,
                pattern: Pattern::Plain,
                place: Place { column: 1, row: 1 },
                jitter: [0; 5],
            };
            Scene { seed: 0, index: 0, background: Background::Plain(Tone::White), groups: vec![group] }.draw(72)
        };
        let pictures: HashSet<Vec<u8>> = Shape::ALL.iter().map(|&shape| alone(shape).into_raw()).collect();
        assert_eq!(pictures.len(), Shape::ALL.len());
    }
}
