//! A network as it is shown: one of the local directory, or of a server.

use std::collections::BTreeMap;

use firn_index::Collection;
use firn_model::fusion::{Direction, Weight};
use serde::Serialize;

use crate::{
    cmd::table,
    reranker::{Judged, Length, Parting, Reads, Version, gain_in_words, kind_in_words},
    settings::Settings,
};

/// What is known of a version, without what only serving it needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    pub number: u32,
    pub kind: String,
    pub members: u32,
    pub parameters: u64,
    pub seed: u64,
    pub steps: u64,
    /// Seconds since 1970.
    pub made_at: u64,
    pub reads: Reads,
    pub blend: BTreeMap<String, f32>,
    pub weights: [Weight; 2],
    pub parting: Parting,
    pub candidates: usize,
    /// Mean difference between `relevance` and what was so.
    pub calibration_error: Option<f64>,
    pub judged: Vec<Judged>,
    /// The verdict is of another collection.
    pub judged_elsewhere: bool,
}

impl Shown {
    /// A version of that collection.
    pub fn of(version: &Version, collection: &Collection) -> Shown {
        let judged_elsewhere = !version.is_judged_in(collection);
        let Version { number, kind, members, parameters, seed, steps, made_at, .. } = version.clone();
        let Version { reads, blend, weights, parting, candidates, calibration, judged, .. } = version.clone();
        let calibration_error = calibration.map(|calibration| calibration.error);
        Shown {
            number,
            kind,
            members,
            parameters,
            seed,
            steps,
            made_at,
            reads,
            blend,
            weights,
            parting,
            candidates,
            calibration_error,
            judged,
            judged_elsewhere,
        }
    }
}

/// All versions, oldest first, and the number of the active one.
pub fn print_list(versions: &[Shown], active: Option<u32>, settings: &Settings) {
    if settings.json {
        println!("{}", serde_json::json!({ "versions": versions, "active": active }));
        return;
    }
    if versions.is_empty() {
        println!("no networks; hint: firn train fusion makes one");
        return;
    }
    let row = |version: &Shown| {
        let is_active = if active == Some(version.number) { "active" } else { "" };
        vec![
            version.number.to_string(),
            kind_in_words(&version.kind, version.members),
            version.parameters.to_string(),
            is_active.to_owned(),
            format!("{}{}", if version.judged_elsewhere { "elsewhere: " } else { "" }, gain_in_words(&version.judged)),
        ]
    };
    let rows: Vec<Vec<String>> = versions.iter().map(row).collect();
    table::print(&["VERSION", "KIND", "WEIGHTS", "", "GAIN"], &rows);
}

/// One version with the verdict on it.
pub fn print(version: &Shown, is_active: bool, settings: &Settings) {
    if settings.json {
        println!("{}", serde_json::json!({ "version": version, "active": is_active }));
        return;
    }
    let Shown { number, parameters, seed, steps, reads, blend, candidates, weights, .. } = version;
    let of_blend: Vec<String> = blend.iter().map(|(name, weight)| format!("{name} {weight}")).collect();
    let mut read = vec![format!("{:?}", reads.image)];
    read.extend(reads.tokens.then(|| "its tokens".to_owned()));
    read.extend(reads.extra.as_ref().map(|extra| format!("{extra:?}")));
    println!(
        "version {number}{}: {}, {parameters} weights, seed {seed}, {steps} steps",
        if is_active { " (active)" } else { "" },
        kind_in_words(&version.kind, version.members)
    );
    println!("reads {}; re-ranks the first {candidates} by cosine of {}", read.join(", "), of_blend.join(" + "));
    for (weight, asks) in weights.iter().zip(["texts look for images", "images look for texts"]) {
        println!("when {asks}: {}", score_in_words(*weight));
    }
    if version.judged_elsewhere {
        println!("judged in another collection: `firn reranker evaluate` judges it in this one");
    }
    println!();
    // Where hubness or the network counts alone, the gain is its own.
    let are_both = weights.iter().any(|weight| weight.logit > 0.0 && weight.hubness > 0.0);
    let mut head = vec!["QUESTIONS", "N", "R@1", "R@5", "R@10", "MRR", "nDCG@10", "GAIN IN R@1 (95 %), P"];
    head.extend(are_both.then_some("BY THE NETWORK"));
    let row = |judged: &Judged| judged_row(judged).into_iter().take(head.len()).collect();
    let rows: Vec<Vec<String>> = version.judged.iter().map(row).collect();
    table::print(&head, &rows);
    println!();
    if are_both {
        println!("BY THE NETWORK: what its logit adds to R@1 by cosine and hubness alone (95 %)");
    }
    if let Some(error) = version.calibration_error {
        println!("relevance is off by {:.1} points on average (expected calibration error)", 100.0 * error);
    }
}

/// Which version is active now.
pub fn say_active(active: Option<u32>, settings: &Settings) {
    match (settings.json, active) {
        (true, active) => println!("{}", serde_json::json!({ "active": active })),
        (false, Some(number)) => println!("version {number} is active"),
        (false, None) => println!("no version is active: hits are ordered by cosine"),
    }
}

/// Such as "cosine + 0.02 logit - 0.6 hubness".
fn score_in_words(Weight { logit, hubness }: Weight) -> String {
    let of = |sign: &str, weight: f32, what: &str| match weight {
        0.0 => String::new(),
        weight => format!(" {sign} {weight:.2} {what}"),
    };
    format!("cosine{}{}", of("+", logit, "logit"), of("-", hubness, "hubness"))
}

fn judged_row(judged: &Judged) -> Vec<String> {
    let Judged { direction, language, length, gain } = judged;
    let language = if language.is_empty() { "all" } else { language };
    let what = match (direction, length) {
        (Direction::TextToImage, Length::Single) => format!("text to image, {language}"),
        (Direction::TextToImage, Length::Joined) => format!("joined text to image, {language}"),
        (Direction::ImageToText, _) => format!("image to text, {language}"),
    };
    let (before, after) = (&gain.cosine, &gain.reranked);
    let both = |before: f64, after: f64| format!("{:.1} > {:.1}", 100.0 * before, 100.0 * after);
    let [low, high] = gain.interval.map(|share| 100.0 * share);
    let [least, most] = gain.interval_of_logit.map(|share| 100.0 * share);
    let added = 100.0 * (after.at_1 - gain.without_logit.at_1);
    let points = 100.0 * (after.at_1 - before.at_1);
    let relative = if before.at_1 > 0.0 { format!("{:+.1} %", points / before.at_1) } else { "-".to_owned() };
    vec![
        what,
        gain.n_questions.to_string(),
        both(before.at_1, after.at_1),
        both(before.at_5, after.at_5),
        both(before.at_10, after.at_10),
        both(before.mrr, after.mrr),
        both(before.ndcg, after.ndcg),
        format!("{points:+.2} ({low:+.2} to {high:+.2}), {relative}, p {:.3}", gain.p),
        format!("{added:+.2} ({least:+.2} to {most:+.2})"),
    ]
}
