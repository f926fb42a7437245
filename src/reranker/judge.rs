//! What a network is worth: held-out questions in both directions, by language and length, with and without it.

use std::collections::{BTreeMap, BTreeSet};

use firn_model::fusion::{Calibration, Crowds, Direction, Gain, LEAST_OF_LOT, Reranking, Scorer, Weight, Weights};

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
    judged.iter().filter(|row| row.is_of_all()).any(|row| row.gain.interval[0] > 0.0) && worse(judged).next().is_none()
}

/// Where significantly fewer are found, of all texts that look for images, or of images that look for the texts of a language; one of few
/// images says nothing.
pub fn worse(judged: &[Judged]) -> impl Iterator<Item = &Judged> {
    let counts =
        |row: &Judged| row.is_of_all() || row.direction == Direction::ImageToText && row.gain.n_images >= LEAST_OF_LOT;
    judged.iter().filter(move |row| counts(row) && row.gain.interval[1] < 0.0)
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

    let rounds = rounds(gathered, &texts, &languages);
    let n_questions = rounds.iter().flatten().map(|(queries, _)| queries.len()).sum();
    let mut n_asked = 0;
    let mut ask = |direction, rounds: &[Round]| -> Result<Option<Vec<Reranking>>, Error> {
        let mut all = Vec::with_capacity(rounds.len());
        for (queries, gallery) in rounds {
            let told = &mut |n| {
                n_asked += n;
                report(Stage::Judging(n_asked, n_questions))
            };
            let asked = Reranking::ask(network, pairs, &base, direction, (queries, gallery), candidates, told)?;
            let Some(asked) = asked else { return Ok(None) };
            all.push(asked);
        }
        Ok(Some(all))
    };
    let [there, among_all, back] = &rounds;
    let Some(there) = ask(Direction::TextToImage, there)? else { return Ok(None) };
    let Some(among_all) = ask(Direction::TextToImage, among_all)? else { return Ok(None) };
    let Some(back) = ask(Direction::ImageToText, back)? else { return Ok(None) };
    let there = Reranking::of_all(there);
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
        calibration: among_all.first().unwrap_or(&there).calibration(weight, N_FOLDS, seed),
        judged,
    }))
}

/// Who asks, among whom.
type Round = (Vec<usize>, Vec<usize>);

/// Texts that look for images; the same among all, if they look among their group alone, since a query does and that is what relevance is
/// told of; and images that look for texts, of one language each.
fn rounds(gathered: &Gathered, texts: &[usize], languages: &BTreeSet<&str>) -> [Vec<Round>; 3] {
    let Gathered { pairs, judged, judged_groups, .. } = gathered;
    let among_all = (texts.to_vec(), judged.clone());
    let of_language = |language: &&str| {
        let is_of = |text: &usize| gathered.languages[*text] == **language && !pairs.is_joined(*text);
        let gallery: Vec<usize> = texts.iter().copied().filter(is_of).collect();
        let described: BTreeSet<usize> = gallery.iter().map(|&text| pairs.owner_of[text]).collect();
        (described.into_iter().collect(), gallery)
    };
    let back = languages.iter().map(of_language).collect();
    let Some(groups) = judged_groups else { return [vec![among_all], Vec::new(), back] };
    let mut texts_of = vec![Vec::new(); pairs.images.n()];
    texts.iter().for_each(|&text| texts_of[pairs.owner_of[text]].push(text));
    let of_group =
        |group: &Vec<usize>| (group.iter().flat_map(|&image| texts_of[image].iter().copied()).collect(), group.clone());
    [groups.iter().map(of_group).collect(), vec![among_all], back]
}

#[cfg(test)]
mod tests {
    use firn_model::fusion::Found;

    use super::*;

    #[test]
    fn a_gain_counts_unless_something_is_lost() {
        let row = |direction, language: &str, n_images: usize, interval: [f64; 2]| Judged {
            direction,
            language: language.to_owned(),
            length: Length::Single,
            gain: Gain {
                n_questions: n_images,
                n_images,
                cosine: Found::default(),
                without_logit: Found::default(),
                reranked: Found::default(),
                interval,
                interval_of_logit: [0.0; 2],
                p: 0.5,
                weights: Vec::new(),
            },
        };
        let (there, back) = (Direction::TextToImage, Direction::ImageToText);
        let gains = row(there, "", 500, [0.01, 0.02]);
        let check =
            |other: Judged, is_fit: bool| assert_eq!(is_better(&[gains.clone(), other.clone()]), is_fit, "{other:?}");
        check(row(there, "", 500, [-0.01, 0.01]), true);
        check(row(there, "", 500, [-0.02, -0.01]), false);
        check(row(back, "en", 500, [-0.01, 0.01]), true);
        check(row(back, "en", 500, [-0.02, -0.01]), false);
        check(row(back, "nl", 60, [-0.02, -0.01]), true);
        assert!(!is_better(&[row(there, "", 500, [0.0, 0.01])]));
        assert!(!is_better(&[row(back, "en", 500, [0.01, 0.02])]));
    }
}
