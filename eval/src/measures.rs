//! Numbers of merit: of one ranking, and of many questions with their errors.
//!
//! Questions about one document are not independent: standard errors and resamples are of clusters of them.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use crate::results::{Direction, Question};

/// First places that count for nDCG.
pub const NDCG_AT: usize = 10;
const N_RESAMPLES: usize = 4000;

/// The place, from 1, of the first that belongs. `grades` of what belongs, by place in the gallery.
pub fn first_rank(ranking: &[usize], grades: &BTreeMap<usize, u32>) -> Option<u32> {
    ranking.iter().position(|item| grades.contains_key(item)).map(|place| place as u32 + 1)
}

/// nDCG of the first `cut` with gains as graded, discounted by log2(place + 1) (Järvelin and Kekäläinen 2002; trec_eval's ndcg_cut).
pub fn ndcg(ranking: &[usize], grades: &BTreeMap<usize, u32>, cut: usize) -> f64 {
    let gained = |gains: &mut dyn Iterator<Item = u32>| -> f64 {
        gains.take(cut).enumerate().map(|(place, gain)| f64::from(gain) / (place as f64 + 2.0).log2()).sum()
    };
    let mut ideal: Vec<u32> = grades.values().copied().collect();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    let best = gained(&mut ideal.into_iter());
    let reached = gained(&mut ranking.iter().map(|item| grades.get(item).copied().unwrap_or(0)));
    if best > 0.0 { reached / best } else { 0.0 }
}

/// A mean over questions, and its standard error, which is NaN (null in JSON) if all are about one document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    pub value: f64,
    pub error: f64,
}

/// What one method reached; shares of questions from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    /// What belongs is among the first 1, 5, 10.
    pub at_1: Estimate,
    pub at_5: Estimate,
    pub at_10: Estimate,
    /// One over the place of the first that belongs; 0 if it is not within the depth.
    pub mrr: Estimate,
    /// Of the first `NDCG_AT`.
    pub ndcg: Estimate,
}

/// How much better one answers than another, on the same questions. Interval and p are NaN (null in JSON) if all are about one document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Gain {
    pub difference: f64,
    /// 95 %, by paired bootstrap over clusters.
    pub interval: [f64; 2],
    /// Two-sided: twice the share of resamples on the rarer side of no difference, at most 1. Who is compared with whom does not matter.
    pub p: f64,
}

/// Words of the text that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Up to 16.
    Short,
    /// 17 to 64.
    Medium,
    /// 65 to 128: beyond what a CLIP reads.
    Long,
    /// More than 128.
    VeryLong,
}

impl Length {
    pub const ALL: [Length; 4] = [Length::Short, Length::Medium, Length::Long, Length::VeryLong];

    pub fn of(n_words: usize) -> Length {
        match n_words {
            0..=16 => Length::Short,
            17..=64 => Length::Medium,
            65..=128 => Length::Long,
            _ => Length::VeryLong,
        }
    }

    pub fn in_words(self) -> &'static str {
        match self {
            Length::Short => "to 16 words",
            Length::Medium => "17 to 64 words",
            Length::Long => "65 to 128 words",
            Length::VeryLong => "over 128 words",
        }
    }
}

/// Questions of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    pub direction: Direction,
    /// Whether all texts of a document ask as one; of documents that ask, no.
    pub is_joined: bool,
    /// Empty: all.
    pub language: String,
    /// None: all.
    pub length: Option<Length>,
    pub n_questions: usize,
    pub n_clusters: usize,
    /// By method.
    pub methods: Vec<Measured>,
    /// Of each method over the first, in R@1.
    pub gains: Vec<Gain>,
    pub gains_at_5: Vec<Gain>,
    pub gains_at_10: Vec<Gain>,
    pub gains_in_mrr: Vec<Gain>,
}

/// By direction, and whether texts are joined: all, then each language if there are several, then each length if there are several.
pub fn groups(questions: &[Question], n_methods: usize) -> Vec<Group> {
    let mut kinds = Vec::new();
    for direction in [Direction::ToDocument, Direction::ToQuery] {
        for is_joined in [false, true] {
            let of_kind = |q: &&Question| q.direction == direction && q.is_joined == is_joined;
            let all: Vec<&Question> = questions.iter().filter(of_kind).collect();
            let languages: BTreeSet<&str> = all.iter().map(|q| q.language.as_str()).collect();
            let lengths: BTreeSet<Length> = all.iter().filter_map(|q| length_of(q)).collect();
            let mut add = |language: &str, length: Option<Length>| {
                let wanted = |q: &&&Question| {
                    (language.is_empty() || q.language == language) && (length.is_none() || length_of(q) == length)
                };
                let some: Vec<&Question> = all.iter().filter(wanted).copied().collect();
                kinds.push(((direction, is_joined), (language.to_owned(), length), some));
            };
            add("", None);
            if languages.len() > 1 {
                languages.iter().filter(|language| !language.is_empty()).for_each(|language| add(language, None));
            }
            if lengths.len() > 1 {
                lengths.iter().for_each(|&length| add("", Some(length)));
            }
        }
    }
    // The resamples of each take their time.
    let measured = kinds.into_par_iter().map(|(kind, part, questions)| group(kind, part, &questions, n_methods));
    measured.flatten_iter().collect()
}

fn length_of(question: &Question) -> Option<Length> {
    (question.n_words > 0).then(|| Length::of(question.n_words))
}

fn group(
    (direction, is_joined): (Direction, bool),
    (language, length): (String, Option<Length>),
    questions: &[&Question],
    n_methods: usize,
) -> Option<Group> {
    if questions.is_empty() {
        return None;
    }
    let clusters = Clusters::of(questions);
    let measured = |method: usize| {
        let share = |of: &dyn Fn(&Question) -> f64| clusters.estimate(questions, of);
        let within = |cut: u32| share(&move |q: &Question| hit(q, method, cut));
        Measured {
            at_1: within(1),
            at_5: within(5),
            at_10: within(10),
            mrr: share(&|q: &Question| worth(q, method)[3]),
            ndcg: share(&|q: &Question| q.ndcg.get(method).copied().unwrap_or(0.0)),
        }
    };
    let gains = |method: usize| clusters.gains(questions.iter().map(|q| minus(worth(q, method), worth(q, 0))));
    let gains: Vec<[Gain; 4]> = (0..n_methods).map(gains).collect();
    let gains_in = |measure: usize| gains.iter().map(|of| of[measure]).collect();
    Some(Group {
        direction,
        is_joined,
        language,
        length,
        n_questions: questions.len(),
        n_clusters: clusters.n(),
        methods: (0..n_methods).map(measured).collect(),
        gains: gains_in(0),
        gains_at_5: gains_in(1),
        gains_at_10: gains_in(2),
        gains_in_mrr: gains_in(3),
    })
}

fn rank(question: &Question, method: usize) -> Option<u32> {
    question.ranks.get(method).copied().flatten()
}

/// 1 if what belongs is among the first `cut`, else 0.
fn hit(question: &Question, method: usize, cut: u32) -> f64 {
    f64::from(u8::from(rank(question, method).is_some_and(|rank| rank <= cut)))
}

/// What an answer adds to R@1, R@5, R@10 and MRR.
fn worth(question: &Question, method: usize) -> [f64; 4] {
    let hit = |cut: u32| hit(question, method, cut);
    [hit(1), hit(5), hit(10), rank(question, method).map_or(0.0, |rank| 1.0 / f64::from(rank))]
}

fn minus(a: [f64; 4], b: [f64; 4]) -> [f64; 4] {
    std::array::from_fn(|at| a[at] - b[at])
}

/// R@k for k from 1 to `longest`.
pub fn curve<'a>(questions: impl Iterator<Item = &'a Question>, method: usize, longest: usize) -> Vec<f64> {
    let (mut counts, mut n) = (vec![0usize; longest + 1], 0);
    for question in questions {
        n += 1;
        if let Some(rank) = rank(question, method).filter(|&rank| rank as usize <= longest) {
            counts[rank as usize] += 1;
        }
    }
    let mut found = 0;
    counts[1..]
        .iter()
        .map(|count| {
            found += count;
            found as f64 / (n.max(1)) as f64
        })
        .collect()
}

/// How two runs differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub direction: Direction,
    pub is_joined: bool,
    pub n_questions: usize,
    /// R@1 of each.
    pub at_1: [Estimate; 2],
    /// Of the second over the first, in R@1.
    pub gain: Gain,
    pub gain_at_5: Gain,
    pub gain_at_10: Gain,
    pub gain_in_mrr: Gain,
}

/// Two runs over the same questions, a method of each; `Err` says where they are not the same.
pub fn compare(
    (one, of_one): (&[Question], usize),
    (two, of_two): (&[Question], usize),
) -> Result<Vec<Comparison>, String> {
    // In the order of their ids, whichever run is first: resamples are drawn by place.
    let [first, second] = [one, two].map(by_id);
    if first.len() != second.len() {
        return Err(format!("expected the same questions, received {} and {}", first.len(), second.len()));
    }
    let mut kinds: BTreeMap<(Direction, bool), Vec<(&Question, &Question)>> = BTreeMap::new();
    for (key, question) in first {
        let other = second.get(&key).ok_or_else(|| format!("{:?} is asked in one run only", question.id))?;
        kinds.entry((question.direction, question.is_joined)).or_default().push((question, other));
    }
    let compared = |((direction, is_joined), pairs): ((Direction, bool), Vec<(&Question, &Question)>)| {
        let first: Vec<&Question> = pairs.iter().map(|pair| pair.0).collect();
        let clusters = Clusters::of(&first);
        let worths: Vec<[[f64; 4]; 2]> = pairs.iter().map(|(a, b)| [worth(a, of_one), worth(b, of_two)]).collect();
        let at_1 = [0, 1].map(|run| clusters.estimate_of(worths.iter().map(|worth| worth[run][0])));
        let gains = clusters.gains(worths.iter().map(|[a, b]| minus(*b, *a)));
        let [gain, gain_at_5, gain_at_10, gain_in_mrr] = gains;
        Comparison { direction, is_joined, n_questions: pairs.len(), at_1, gain, gain_at_5, gain_at_10, gain_in_mrr }
    };
    Ok(kinds.into_iter().map(compared).collect())
}

fn by_id(questions: &[Question]) -> BTreeMap<(Direction, bool, &str), &Question> {
    questions.iter().map(|q| ((q.direction, q.is_joined, q.id.as_str()), q)).collect()
}

/// Which questions are about one document.
struct Clusters {
    /// The cluster of each question.
    of: Vec<usize>,
    sizes: Vec<f64>,
}

impl Clusters {
    fn of(questions: &[&Question]) -> Clusters {
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        let mut sizes = Vec::new();
        let mut place = |cluster| {
            let place = *places.entry(cluster).or_insert(sizes.len());
            if place == sizes.len() {
                sizes.push(0.0);
            }
            sizes[place] += 1.0;
            place
        };
        let of = questions.iter().map(|question| place(question.cluster.as_str())).collect();
        Clusters { of, sizes }
    }

    fn n(&self) -> usize {
        self.sizes.len()
    }

    fn sums<const N: usize>(&self, values: impl Iterator<Item = [f64; N]>) -> Vec<[f64; N]> {
        let mut sums = vec![[0.0; N]; self.sizes.len()];
        for (&cluster, values) in self.of.iter().zip(values) {
            sums[cluster].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        sums
    }

    fn estimate(&self, questions: &[&Question], value: &dyn Fn(&Question) -> f64) -> Estimate {
        self.estimate_of(questions.iter().map(|question| value(question)))
    }

    /// The mean and its standard error as a ratio of sums over clusters (Cochran 1977, 6.3).
    fn estimate_of(&self, values: impl Iterator<Item = f64>) -> Estimate {
        let sums = self.sums(values.map(|value| [value]));
        let n: f64 = self.sizes.iter().sum();
        let value = sums.iter().map(|[sum]| sum).sum::<f64>() / n;
        let squares: f64 = sums.iter().zip(&self.sizes).map(|([sum], size)| (sum - value * size).powi(2)).sum();
        let clusters = self.sizes.len() as f64;
        let error = if clusters > 1.0 { (squares * clusters / (clusters - 1.0)).sqrt() / n } else { f64::NAN };
        Estimate { value, error }
    }

    /// Of several measures, by the same resamples.
    fn gains<const N: usize>(&self, differences: impl Iterator<Item = [f64; N]>) -> [Gain; N] {
        let sums = self.sums(differences);
        let n: f64 = self.sizes.iter().sum();
        let difference = |measure: usize| sums.iter().map(|sums| sums[measure]).sum::<f64>() / n;
        if sums.len() < 2 {
            let unknown = |measure| Gain { difference: difference(measure), interval: [f64::NAN; 2], p: f64::NAN };
            return std::array::from_fn(unknown);
        }
        if sums.iter().flatten().all(|&sum| sum == 0.0) {
            return [Gain { difference: 0.0, interval: [0.0; 2], p: 1.0 }; N];
        }
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let means: Vec<[f64; N]> = (0..N_RESAMPLES).map(|_| self.resampled(&sums, &mut rng)).collect();
        std::array::from_fn(|at| gain(difference(at), means.iter().map(|means| means[at]).collect()))
    }

    /// The means over as many clusters, drawn with replacement.
    fn resampled<const N: usize>(&self, sums: &[[f64; N]], rng: &mut ChaCha8Rng) -> [f64; N] {
        let (mut drawn, mut size) = ([0.0; N], 0.0);
        for _ in 0..sums.len() {
            let picked = rng.random_range(0..sums.len());
            drawn.iter_mut().zip(sums[picked]).for_each(|(sum, value)| *sum += value);
            size += self.sizes[picked];
        }
        drawn.map(|sum| sum / size)
    }
}

fn gain(difference: f64, mut means: Vec<f64>) -> Gain {
    means.sort_by(f64::total_cmp);
    // As far from one end as from the other, so that the other way round is the same with its sign turned.
    let outside = N_RESAMPLES / 40;
    let share = |is_there: &dyn Fn(f64) -> bool| {
        means.iter().filter(|&&mean| is_there(mean)).count() as f64 / N_RESAMPLES as f64
    };
    let rarer = share(&|mean| mean <= 0.0).min(share(&|mean| mean >= 0.0));
    Gain { difference, interval: [means[outside], means[N_RESAMPLES - 1 - outside]], p: (2.0 * rarer).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(cluster: &str, ranks: [Option<u32>; 2]) -> Question {
        let ndcg = ranks.iter().map(|rank| rank.map_or(0.0, |rank| 1.0 / f64::from(rank + 1).log2())).collect();
        let id = format!("{cluster}{ranks:?}");
        Question { id, cluster: cluster.to_owned(), ranks: ranks.to_vec(), ndcg, n_words: 9, ..Question::default() }
    }

    #[test]
    fn ndcg_knows_grades() {
        let grades = BTreeMap::from([(7, 3), (2, 1)]);
        let check = |ranking: &[usize], expected: f64| {
            assert!((ndcg(ranking, &grades, 10) - expected).abs() < 1e-12, "{ranking:?}");
        };
        let ideal = 3.0 + 1.0 / 3f64.log2();
        check(&[7, 2], 1.0);
        check(&[2, 7], (1.0 + 3.0 / 3f64.log2()) / ideal);
        check(&[5, 6], 0.0);
        check(&[5, 7], 3.0 / 3f64.log2() / ideal);
        assert_eq!(ndcg(&[1], &BTreeMap::new(), 10), 0.0);
        assert_eq!((first_rank(&[5, 7], &grades), first_rank(&[5], &grades)), (Some(2), None));
    }

    #[test]
    fn shares_and_errors_are_those_of_the_formulas() {
        // Without clusters the error is that of a share: sqrt(p (1 - p) / (n - 1)).
        let alone: Vec<Question> =
            (0..10).map(|at| question(&at.to_string(), [Some(if at < 3 { 1 } else { 7 }), None])).collect();
        let group = &groups(&alone, 2)[0];
        let Measured { at_1, at_5, at_10, mrr, .. } = group.methods[0];
        assert!((at_1.value - 0.3).abs() < 1e-12 && (at_1.error - (0.3f64 * 0.7 / 9.0).sqrt()).abs() < 1e-12);
        assert_eq!((at_5.value, at_10.value), (at_1.value, 1.0));
        assert!((mrr.value - (3.0 + 7.0 / 7.0) / 10.0).abs() < 1e-12);
        assert_eq!((group.methods[1].at_10.value, group.gains[0].p, group.gains[1].difference), (0.0, 1.0, -0.3));
        // Ten copies of each question in its cluster teach nothing.
        let copied: Vec<Question> = alone.iter().flat_map(|q| vec![q.clone(); 10]).collect();
        let again = groups(&copied, 2)[0].methods[0].at_1;
        assert!((again.error - at_1.error).abs() < 1e-12 && again.value == at_1.value);
        assert_eq!(curve(alone.iter(), 0, 8), [0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 1.0, 1.0]);
    }

    #[test]
    fn what_differs_by_chance_is_no_gain() {
        let of = |gained: usize, lost: usize| -> Gain {
            let ranks = |at: usize| match at {
                at if at < gained => [Some(2), Some(1)],
                at if at < gained + lost => [Some(1), Some(2)],
                _ => [Some(3), Some(3)],
            };
            let all: Vec<Question> = (0..100).map(|at| question(&at.to_string(), ranks(at))).collect();
            groups(&all, 2)[0].gains[1]
        };
        let (clear, doubtful) = (of(20, 2), of(6, 5));
        assert!((clear.difference - 0.18).abs() < 1e-12 && clear.interval[0] > 0.0 && clear.p < 0.01, "{clear:?}");
        assert!(doubtful.interval[0] < 0.0 && doubtful.p > 0.1, "{doubtful:?}");
        // Near the sign test, which says 0.125 of 6 in 7, whichever way.
        for (gained, lost) in [(6, 1), (1, 6)] {
            let seven = of(gained, lost);
            assert!((0.02..0.2).contains(&seven.p), "{seven:?}");
        }
        assert_eq!(of(20, 2).p, of(2, 20).p);
        assert!((0.8..=1.0).contains(&of(4, 4).p));
    }

    #[test]
    fn other_measures_gain_too() {
        // From place 7 or 3 to 2 or 3: nothing in R@1 and in R@10.
        let all: Vec<Question> = (0..60)
            .map(|at| {
                question(&at.to_string(), [Some(if at < 10 { 7 } else { 3 }), Some(if at % 2 == 0 { 2 } else { 3 })])
            })
            .collect();
        let group = &groups(&all, 2)[0];
        assert_eq!((group.gains[1].difference, group.gains[1].p), (0.0, 1.0));
        assert!((group.gains_at_5[1].difference - 10.0 / 60.0).abs() < 1e-12 && group.gains_at_5[1].p < 0.01);
        assert_eq!(group.gains_at_10[1], Gain { difference: 0.0, interval: [0.0; 2], p: 1.0 });
        let mrr = group.gains_in_mrr[1];
        assert!((mrr.difference - (group.methods[1].mrr.value - group.methods[0].mrr.value)).abs() < 1e-12, "{mrr:?}");
        assert!(
            mrr.interval[0] > 0.0 && mrr.interval[0] < mrr.difference && mrr.difference < mrr.interval[1],
            "{mrr:?}"
        );
        // Two runs say the same, but for which resamples are drawn.
        let two = compare((&all, 0), (&all, 1)).unwrap().remove(0);
        let near = |a: Gain, b: Gain| (a.difference - b.difference).abs() < 1e-12 && (a.p - b.p).abs() < 0.01;
        assert!(near(two.gain_at_5, group.gains_at_5[1]) && near(two.gain_in_mrr, mrr), "{two:?}");
        assert_eq!(two.gain_at_10, group.gains_at_10[1]);
    }

    #[test]
    fn one_document_has_no_error() {
        let all = vec![question("a", [Some(2), Some(1)]), question("a", [Some(3), Some(1)])];
        let group = &groups(&all, 2)[0];
        assert!(group.methods[1].at_1.value == 1.0 && group.methods[1].at_1.error.is_nan());
        assert!(group.gains[1].difference == 1.0 && group.gains[1].p.is_nan() && group.gains[1].interval[0].is_nan());
    }

    #[test]
    fn runs_are_compared_question_by_question() {
        let one: Vec<Question> = (0..8).map(|at| question(&at.to_string(), [Some(1 + at % 2), None])).collect();
        let two: Vec<Question> = one.iter().rev().map(|q| Question { ranks: vec![Some(1)], ..q.clone() }).collect();
        let compared = compare((&one, 0), (&two, 0)).unwrap();
        assert_eq!((compared.len(), compared[0].n_questions, compared[0].gain.difference), (1, 8, 0.5));
        // The other way round says the same, though the questions stand in another order.
        let mixed: Vec<Question> = (0..40)
            .flat_map(|at| {
                let ranks = if at % 5 == 0 { [Some(1), Some(2)] } else { [Some(1 + at % 2), Some(1)] };
                [0, 1].map(|n| Question { id: format!("{at}#{n}"), ..question(&format!("d{}", at % 17), ranks) })
            })
            .collect();
        let other: Vec<Question> = mixed.iter().rev().cloned().collect();
        let there = compare((&mixed, 0), (&other, 1)).unwrap()[0].gain;
        let back = compare((&other, 1), (&mixed, 0)).unwrap()[0].gain;
        assert_eq!((there.p, there.difference), (back.p, -back.difference));
        let [low, high] = back.interval;
        assert_eq!(there.interval, [-high, -low]);
        assert!(there.p > 0.0 && there.p < 1.0, "{there:?}");
        assert!(compare((&one, 0), (&two[1..], 0)).unwrap_err().contains("8 and 7"));
        let mut other = two.clone();
        other[0].id = "x".to_owned();
        assert!(compare((&one, 0), (&other, 0)).unwrap_err().contains("in one run only"));
    }
}
