//! Ranks, weights and gains of questions whose cosines, logits and hubness are given.

use super::*;

fn question(image: usize, cosines: &[f32], logits: &[f32], own: Option<usize>, rank: usize) -> Question {
    let belongs = (0..cosines.len()).map(|at| Some(at) == own).collect();
    Question {
        query: image,
        lot: 0,
        image,
        cosines: cosines.to_vec(),
        logits: logits.to_vec(),
        hubness: vec![0.0; cosines.len()],
        belongs,
        rank,
        n_belong: 1,
    }
}

#[test]
fn ranks_follow_the_blend() {
    let asked = question(0, &[0.9, 0.8, 0.7], &[0.0, 1.0, 3.0], Some(2), 2);
    let of_logit = |logit: f32| Weight { logit, ..Weight::NONE };
    assert_eq!([0.0, 0.05, 0.1, 1.0].map(|w| asked.rank_by(of_logit(w))), [2, 2, 0, 0]);
    // Equal scores stand before the own one, and so do candidates that are no better than it.
    assert_eq!(question(0, &[0.5, 0.5], &[1.0, 1.0], Some(1), 1).rank_by(of_logit(0.3)), 1);
    // What is not among the candidates stays where it is.
    assert_eq!(question(0, &[0.5, 0.4], &[1.0, 1.0], None, 77).rank_by(of_logit(0.3)), 77);
    // By hand: of two that belong, the first and the third of three.
    let two =
        Question { belongs: vec![true, false, true], n_belong: 2, ..question(0, &[0.9, 0.8, 0.7], &[0.0; 3], None, 0) };
    assert!((two.ndcg_by(Weight::NONE) - (1.0 + 0.5) / (1.0 + 1.0 / 3f64.log2())).abs() < 1e-9);
}

#[test]
fn a_network_that_knows_nothing_gets_no_weight() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let asked = |image: usize| question(image, &[0.9, 0.8, 0.7], &[0.0, 4.0, 2.0], Some(0), 0);
    let reranking = Reranking { questions: (0..40).map(asked).collect() };
    let gain = reranking.gain(&Weights::default(), 10, 1);
    assert_eq!((gain.cosine.at_1, gain.reranked.at_1, gain.interval), (1.0, 1.0, [0.0; 2]));
    assert_eq!(gain.weights, vec![Weight::NONE; 10]);
    assert_eq!(gain.p, 1.0);
    // Chance gives no gain that would be called one.
    let noise = |image: usize, rng: &mut ChaCha8Rng| {
        let logits: Vec<f32> = (0..10).map(|_| rng.random_range(-1.0..1.0)).collect();
        let own = image % 10;
        question(image, &[0.9, 0.88, 0.87, 0.86, 0.85, 0.84, 0.83, 0.82, 0.81, 0.8], &logits, Some(own), own)
    };
    let questions = (0..400).map(|image| noise(image, &mut rng)).collect();
    let gain = Reranking { questions }.gain(&Weights::default(), 10, 1);
    assert!(gain.interval[0] <= 0.0, "{gain:?}");
}

/// Hubness is taken first; a network that knows no more than it is left out, and what it adds is told apart.
#[test]
fn hubs_stand_back() {
    let asked = |image: usize, logit: f32| match image % 3 {
        0 => Question { hubness: vec![0.4, 0.0], ..question(image, &[0.9, 0.8], &[0.0, 0.1], Some(1), 1) },
        1 => Question { hubness: vec![0.0, 0.0], ..question(image, &[0.9, 0.8], &[0.0, logit], Some(1), 1) },
        _ => Question { hubness: vec![0.1, 0.0], ..question(image, &[0.9, 0.6], &[0.0, 0.0], Some(0), 0) },
    };
    let gain = |logit: f32| {
        let reranking = Reranking { questions: (0..300).map(|image| asked(image, logit)).collect() };
        reranking.gain(&Weights::default(), 5, 1)
    };
    let alone = gain(-1.0);
    assert!(alone.weights.iter().all(|weight| weight.logit == 0.0 && weight.hubness > 0.0), "{alone:?}");
    assert_eq!(alone.without_logit, alone.reranked);
    assert_eq!((alone.interval_of_logit, alone.cosine.at_1 < alone.reranked.at_1), ([0.0; 2], true));
    let both = gain(4.0);
    assert!(both.weights.iter().all(|weight| weight.logit > 0.0 && weight.hubness > 0.0), "{both:?}");
    assert_eq!((both.without_logit, both.reranked.at_1), (alone.reranked, 1.0));
    assert!(both.interval_of_logit[0] > 0.2);
}

#[test]
fn a_network_that_knows_is_seen_to() {
    let asked = |image: usize| match image % 4 {
        0 => question(image, &[0.9, 0.8], &[0.0, 5.0], Some(1), 1),
        _ => question(image, &[0.9, 0.8], &[5.0, 0.0], Some(0), 0),
    };
    let gain = Reranking { questions: (0..200).map(asked).collect() }.gain(&Weights::default(), 5, 1);
    assert_eq!((gain.n_questions, gain.n_images, gain.cosine.at_1, gain.reranked.at_1), (200, 200, 0.75, 1.0));
    assert!(gain.interval[0] > 0.15 && gain.interval[1] < 0.35 && gain.p == 0.0, "{gain:?}");
    assert!(gain.weights.iter().all(|weight| weight.logit > 0.0));
}

/// One image in a hundred found better is chance, whatever the weight; and lots are told apart.
#[test]
fn a_gain_by_chance_is_not_taken() {
    let asked = |image: usize| match image {
        0 => question(image, &[0.9, 0.8], &[0.0, 5.0], Some(1), 1),
        _ => question(image, &[0.9, 0.8], &[5.0, 0.0], Some(0), 0),
    };
    let lucky = Reranking { questions: (0..100).map(asked).collect() };
    assert!(lucky.best_weight(Weight::NONE, &Weights::default()).logit > 0.0);
    assert_eq!(lucky.sure_weight(&Weights::default()), Weight::NONE);
    let both = Reranking::of_all(vec![lucky.clone(), lucky]);
    assert_eq!(both.gain_of(&both.choose(&Weights::default(), 5, 1), 1, |lot, _| lot == 1).n_questions, 100);

    // What gains much in one language may not lose in another.
    let good = |image: usize| question(image, &[0.9, 0.8], &[0.0, 5.0], Some(1), 1);
    let bad = |image: usize| question(image, &[0.9, 0.8], &[0.0, if image < 20 { 5.0 } else { 0.0 }], Some(0), 0);
    let lot = |asked: &dyn Fn(usize) -> Question, n: usize| Reranking { questions: (0..n).map(asked).collect() };
    let sure = |all: Vec<Reranking>| Reranking::of_all(all).sure_weight(&Weights::default()).logit;
    assert!(sure(vec![lot(&good, 400)]) > 0.0);
    assert_eq!(sure(vec![lot(&good, 400), lot(&bad, 300)]), 0.0);
    assert!(sure(vec![lot(&good, 400), lot(&bad, 100)]) > 0.0, "too few to tell");
    let hardly = |image: usize| match image {
        0 => good(image),
        1 | 2 => bad(image),
        _ => Question { image, ..bad(99) },
    };
    assert!(sure(vec![lot(&good, 400), lot(&hardly, 300)]) > 0.0, "two lost and one won is chance");
}
