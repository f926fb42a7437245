//! Captions: which true things to say about a scene, and in which order.

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    Background, Group, Scene,
    lexicon::{Case, noun_phrase},
    templates::{Templates, templates},
};

/// Languages of the captions.
pub const LANGUAGES: [&str; 10] = ["en", "de", "fr", "es", "it", "pt", "nl", "zh", "ja", "ar"];
/// A long caption has at least 40 words; a few more are aimed at.
const AIMED_WORDS: usize = 44;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One phrase, such as "three red stars above a blue house".
    Short,
    /// 40 to 200 words that tell the whole scene.
    Long,
}

/// Words as people count them: between spaces; in Chinese and Japanese, which have no spaces, two letters are one word.
pub fn count_words(language: &str, text: &str) -> usize {
    if matches!(language, "zh" | "ja") {
        return text.chars().filter(|letter| letter.is_alphanumeric()).count().div_ceil(2);
    }
    text.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric)).count()
}

pub fn write(scene: &Scene, language: &str, style: Style, variant: u64) -> String {
    let mut writer = Writer::new(scene, language, u64::from(style == Style::Long), variant);
    match style {
        Style::Short => writer.short(scene),
        Style::Long => writer.long(scene),
    }
}

/// Two groups and how they stand to each other.
pub fn relation(scene: &Scene, language: &str, variant: u64) -> String {
    Writer::new(scene, language, 0, variant).relation(scene, Case::Nominative, false).expect("two groups or more")
}

struct Writer<'a> {
    language: &'a str,
    words: &'static Templates,
    rng: ChaCha8Rng,
}

impl<'a> Writer<'a> {
    fn new(scene: &Scene, language: &'a str, style: u64, variant: u64) -> Writer<'a> {
        let number = LANGUAGES.iter().position(|&known| known == language).unwrap_or(0) as u64;
        let seed =
            scene.seed ^ scene.index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ variant.wrapping_mul(0xd1b5_4a32_d192_ed03);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(2 * number + style);
        Writer { language, words: templates(language), rng }
    }
}

impl Writer<'_> {
    fn short(&mut self, scene: &Scene) -> String {
        let detail = self.rng.random_bool(0.5);
        let kind = self.rng.random_range(0..4);
        match (scene.groups.len(), kind) {
            (1, 0) => self.phrase(&scene.groups[0], Case::Nominative, detail),
            (1, _) => self.placed(&scene.groups[0], detail),
            (2..=3, 0) => self.listed(scene, detail),
            (_, 1) => {
                let group = self.rng.random_range(0..scene.groups.len());
                self.placed(&scene.groups[group], true)
            }
            _ => self.relation(scene, Case::Nominative, detail).unwrap_or_default(),
        }
    }

    fn long(&mut self, scene: &Scene) -> String {
        let mut sentences = vec![self.pick(self.words.intro).to_owned(), self.background(scene.background)];
        let mut groups: Vec<&Group> = scene.groups.iter().collect();
        groups.shuffle(&mut self.rng);
        sentences.extend(groups.iter().map(|group| self.group(group)));
        if let Some(relation) = self.relation(scene, Case::Object, false) {
            sentences.push(self.pick(self.words.related).replace("{r}", &relation));
        }
        let total: u32 = scene.groups.iter().map(|group| u32::from(group.count)).sum();
        if total > 2 && scene.groups.len() > 1 {
            let sentence = self.pick(self.words.total).replace("{n}", &total.to_string());
            sentences.push(sentence.replace("{g}", &scene.groups.len().to_string()));
        }
        self.lengthen(scene, &mut sentences);
        sentences.iter().map(|sentence| capitalised(sentence)).collect::<Vec<_>>().join(self.words.gap)
    }

    /// Says where nothing is, then the usual things, until the caption is long enough.
    fn lengthen(&mut self, scene: &Scene, sentences: &mut Vec<String>) {
        let free: Vec<usize> = (0..9).filter(|&cell| scene.groups.iter().all(|group| cell_of(group) != cell)).collect();
        if self.rng.random_bool(0.5) && scene.groups.len() > 1 {
            let cell = free[self.rng.random_range(0..free.len())];
            sentences.push(self.pick(self.words.empty).replace("{place}", self.words.places[cell]));
        }
        let mut fillers = self.words.fillers.to_vec();
        fillers.shuffle(&mut self.rng);
        let mut fillers = fillers.into_iter();
        while count_words(self.language, &sentences.join(" ")) < AIMED_WORDS {
            match fillers.next() {
                Some(filler) => sentences.push(filler.to_owned()),
                None => break,
            }
        }
    }

    fn background(&mut self, background: Background) -> String {
        let (list, a, b) = match background {
            Background::Plain(tone) => (self.words.plain, tone, tone),
            Background::Gradient(top, bottom) => (self.words.gradient, top, bottom),
            Background::Ground(sky, ground) => (self.words.ground, sky, ground),
        };
        let (a, b) = (self.words.tones[a as usize], self.words.tones[b as usize]);
        self.pick(list).replace("{a}", a).replace("{b}", b)
    }

    fn group(&mut self, group: &Group) -> String {
        let object = self.phrase(group, Case::Object, true);
        let sentence = self.pick(self.words.group).replace("{np}", &object);
        sentence.replace("{place}", self.words.places[cell_of(group)])
    }

    fn placed(&self, group: &Group, detail: bool) -> String {
        let phrase = self.phrase(group, Case::Nominative, detail);
        self.words.placed.replace("{np}", &phrase).replace("{place}", self.words.places[cell_of(group)])
    }

    fn listed(&self, scene: &Scene, detail: bool) -> String {
        let mut phrases: Vec<String> =
            scene.groups.iter().map(|group| self.phrase(group, Case::Nominative, detail)).collect();
        let last = phrases.pop().unwrap_or_default();
        [phrases.join(self.words.comma), last].join(self.words.and)
    }

    /// Two groups and how they stand to each other; `None` when there is only one.
    fn relation(&mut self, scene: &Scene, case: Case, detail: bool) -> Option<String> {
        let mut pair: Vec<&Group> = scene.groups.iter().collect();
        pair.shuffle(&mut self.rng);
        let [one, other, ..] = pair[..] else { return None };
        let (right, down) = (step(one.place.column, other.place.column), step(one.place.row, other.place.row));
        let upright =
            right == 0 || (down.abs() >= right.abs() && (down != right || self.rng.random_bool(0.5)) && down != 0);
        let relation = match (upright, right > 0, down > 0) {
            (false, true, _) => 0,
            (false, false, _) => 1,
            (true, _, true) => 2,
            (true, _, false) => 3,
        };
        let (x, y) = (self.phrase(one, case, detail), self.phrase(other, Case::Beside, detail));
        Some(elide(&self.words.relations[relation].replace("{x}", &x), &y))
    }

    fn phrase(&self, group: &Group, case: Case, detail: bool) -> String {
        noun_phrase(self.language, group, case, detail)
    }

    fn pick(&mut self, list: &'static [&'static str]) -> &'static str {
        list[self.rng.random_range(0..list.len())]
    }
}

fn cell_of(group: &Group) -> usize {
    usize::from(group.place.row * 3 + group.place.column)
}

/// How far from one to the other, forwards.
fn step(from: u8, to: u8) -> i8 {
    to as i8 - from as i8
}

/// French: "à gauche d'une étoile", but "à gauche de trois étoiles".
fn elide(template: &str, y: &str) -> String {
    if y.starts_with('u') {
        template.replace("{y}", y)
    } else {
        template.replace("d'{y}", &format!("de {y}")).replace("{y}", y)
    }
}

fn capitalised(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};

    #[test]
    fn long_captions_have_40_to_200_words_and_nothing_is_left_unfilled() {
        for index in 0..300 {
            let scene = scene(7, index);
            for language in LANGUAGES {
                let long = scene.caption(language, Style::Long);
                let words = count_words(language, &long);
                assert!((40..=200).contains(&words), "{language} {index}: {words} words: {long}");
                let short = scene.caption(language, Style::Short);
                assert!(!short.is_empty() && count_words(language, &short) < 24, "{language} {index}: {short}");
                assert!(!(long + &short).contains(['{', '}']), "{language} {index}");
            }
        }
    }

    #[test]
    fn grammar_agrees() {
        let group = |shape, colour, count| Group {
            shape,
            colour,
            count,
            size: Size::Medium,
            pattern: Pattern::Plain,
            place: Place { column: 0, row: 0 },
            jitter: [0; 5],
        };
        let check = |language: &str, group: &Group, case, expected: &str| {
            assert_eq!(noun_phrase(language, group, case, true), expected, "{language}");
        };
        let (stars, house) = (group(Shape::Star, Colour::Red, 3), group(Shape::House, Colour::Blue, 1));
        check("en", &stars, Case::Nominative, "three red stars");
        check("en", &group(Shape::Fish, Colour::Orange, 1), Case::Object, "an orange fish");
        check("de", &stars, Case::Nominative, "drei rote Sterne");
        check("de", &stars, Case::Beside, "drei roten Sternen");
        check("de", &house, Case::Beside, "einem blauen Haus");
        check("de", &group(Shape::Ball, Colour::Green, 1), Case::Object, "einen grünen Ball");
        check("fr", &stars, Case::Beside, "trois étoiles rouges");
        check("es", &house, Case::Object, "una casa azul");
        check("it", &group(Shape::Fish, Colour::White, 2), Case::Object, "due pesci bianchi");
        check("pt", &group(Shape::Star, Colour::Yellow, 2), Case::Object, "duas estrelas amarelas");
        check("nl", &house, Case::Object, "een blauw huis");
        check("zh", &stars, Case::Object, "三颗红色的星星");
        check("ja", &stars, Case::Object, "三つの赤い星");
        check("ar", &stars, Case::Object, "ثلاث نجوم حمراء");
        check("ar", &group(Shape::Star, Colour::Red, 2), Case::Beside, "نجمتين حمراوين");
        check("ar", &house, Case::Beside, "بيت أزرق");
    }

    #[test]
    fn french_elides_before_a_vowel_only() {
        assert_eq!(elide("deux croix à gauche d'{y}", "une étoile"), "deux croix à gauche d'une étoile");
        assert_eq!(elide("deux croix à gauche d'{y}", "trois étoiles"), "deux croix à gauche de trois étoiles");
    }

    #[test]
    fn a_short_relation_is_true() {
        let mut n_seen = 0;
        for index in 0..400 {
            let scene = scene(11, index);
            let caption = scene.caption("en", Style::Short);
            let Some((above, below)) = caption.split_once(" above ") else { continue };
            let row = |phrase: &str| {
                let named = |group: &&Group| {
                    [true, false].iter().any(|&detail| noun_phrase("en", group, Case::Object, detail) == phrase)
                };
                scene.groups.iter().find(named).map(|group| group.place.row)
            };
            assert!(row(above) < row(below), "{caption}");
            n_seen += 1;
        }
        assert!(n_seen > 20, "only {n_seen} captions said above");
    }
}
