//! What a network is worth: held-out questions in both directions, by language and length, with and without it.

use std::collections::{BTreeMap, BTreeSet};

use firn_model::fusion::{Calibration, Crowds, Direction, Gain, Reranking, Scorer, Weight, Weights};

use super::{Error, Gathered, Judged, Length, Report, Stage};

/// Parts of the images that the weight for each is chosen on all others of.
const N_FOLDS: usize = 10;

/// The verdict on a network.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What counts beside the cosine when a text looks for images, and when an image looks for texts.
    pub weights: [Weight; 2],
    /// Of texts that look for images.
    pub calibration: Option<Calibration>,
    /// All languages first, then each.
    pub judged: Vec<Judged>,
}

impl Verdict {
    /// Whether it finds more than chance would, single or joined texts: the lower end of the 95 % interval of R@1 is above 0; and whether
    /// nobody finds less, neither texts that look for images nor images for texts of any language.
    pub fn is_better(&self) -> bool {
        is_better(&self.judged)
    }
}

pub fn is_better(judged: &[Judged]) -> bool {
    let is_there = |row: &&Judged| row.direction == Direction::TextToImage && row.language.is_empty();
    let is_back = |row: &&Judged| row.direction == Direction::ImageToText;
    let is_worse = |row: &Judged| row.gain.interval[1] < 0.0;
    judged.iter().filter(is_there).any(|row| row.gain.interval[0] > 0.0)
        && !judged.iter().filter(is_there).chain(judged.iter().filter(is_back)).any(is_worse)
}

/// Asks all questions about the judged images, of which each sees `candidates`; none if `report` breaks it off. Without a network or what
/// tells hubs, those count nothing.
pub fn judge(
    (network, crowds): (Option<&dyn Scorer>, Option<&Crowds>),
    gathered: &Gathered,
    candidates: usize,
    seed: u64,
    report: &mut Report,
) -> Result<Option<Verdict>, Error> {
    let (pairs, base) = (&gathered.pairs, gathered.base(crowds));
    let is_judged: BTreeSet<usize> = gathered.judged.iter().copied().collect();
    let texts: Vec<usize> =
        (0..pairs.owner_of.len()).filter(|&text| is_judged.contains(&pairs.owner_of[text])).collect();
    let languages: BTreeSet<&str> = texts.iter().map(|&text| gathered.languages[text].as_str()).collect();
    let weights = Weights::default();

    // An image looks for texts of one language.
    let of_language = |language: &&str| {
        let is_of = |text: &usize| gathered.languages[*text] == **language && !pairs.is_joined(*text);
        let gallery: Vec<usize> = texts.iter().copied().filter(is_of).collect();
        let described: BTreeSet<usize> = gallery.iter().map(|&text| pairs.owner_of[text]).collect();
        (described.into_iter().collect(), gallery)
    };
    let from_images: Vec<(Vec<usize>, Vec<usize>)> = languages.iter().map(of_language).collect();
    let n_rounds = if gathered.judged_groups.is_some() { 2 } else { 1 };
    let n_questions = n_rounds * texts.len() + from_images.iter().map(|(images, _)| images.len()).sum::<usize>();
    let mut n_asked = 0;
    let mut ask = |direction, queries: &[usize], gallery: &[usize]| {
        let tell = &mut |n| {
            n_asked += n;
            report(Stage::Judging(n_asked, n_questions))
        };
        Reranking::ask_while(network, pairs, &base, direction, (queries, gallery), candidates, tell)
    };
    let there = match &gathered.judged_groups {
        None => ask(Direction::TextToImage, &texts, &gathered.judged)?,
        Some(groups) => {
            let mut texts_of = vec![Vec::new(); pairs.images.n()];
            texts.iter().for_each(|&text| texts_of[pairs.owner_of[text]].push(text));
            let of = |group: &Vec<usize>| {
                let texts: Vec<usize> = group.iter().flat_map(|&image| texts_of[image].iter().copied()).collect();
                ask(Direction::TextToImage, &texts, group)
            };
            groups.iter().map(of).collect::<Result<Option<_>, _>>()?.map(Reranking::of_all)
        }
    };
    // A query looks among all, so that is what relevance is told of.
    let among_all = gathered.judged_groups.as_ref().map(|_| ask(Direction::TextToImage, &texts, &gathered.judged));
    let among_all = match among_all.transpose()? {
        Some(None) => return Ok(None),
        among_all => among_all.flatten(),
    };
    let back = from_images.iter().map(|(images, gallery)| ask(Direction::ImageToText, images, gallery));
    let (Some(there), Some(back)) = (there, back.collect::<Result<Option<_>, _>>()?) else { return Ok(None) };
    // No language of many images may lose by what others gain.
    let lot_of: BTreeMap<&str, usize> = languages.iter().enumerate().map(|(lot, language)| (*language, lot)).collect();
    let there = there.in_lots(|text| lot_of[gathered.languages[text].as_str()]);
    let chosen = there.choose(&weights, N_FOLDS, seed);
    let mut judged = Vec::new();
    let mut add = |direction, language: &str, length, gain: Gain| {
        if gain.n_questions > 0 {
            judged.push(Judged { direction, language: language.to_owned(), length, gain });
        }
    };
    let all = std::iter::once("").chain(languages.iter().copied().filter(|language| !language.is_empty()));
    for language in all {
        for (length, is_joined) in [(Length::Single, false), (Length::Joined, true)] {
            let is_wanted = |_, text: usize| {
                pairs.is_joined(text) == is_joined && (language.is_empty() || gathered.languages[text] == language)
            };
            add(Direction::TextToImage, language, length, there.gain_of(&chosen, seed, is_wanted));
        }
    }
    let back = Reranking::of_all(back);
    let chosen = back.choose(&weights, N_FOLDS, seed);
    for (lot, language) in languages.iter().enumerate() {
        let gain = back.gain_of(&chosen, seed, |of, _| of == lot);
        add(Direction::ImageToText, language, Length::Single, gain);
    }
    let weight = there.sure_weight(&weights);
    Ok(Some(Verdict {
        weights: [weight, back.sure_weight(&weights)],
        calibration: among_all.as_ref().unwrap_or(&there).calibration(weight, N_FOLDS, seed),
        judged,
    }))
}
