//! The networks of a collection as they are kept with it: one attachment says what there is, and one each holds the weights.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use firn_index::{Collection, ModelRef};
use firn_model::fusion::{Calibration, Direction, Gain, Weight};
use serde::{Deserialize, Serialize};

use super::{
    Error, Parting, Verdict,
    judge::{is_better, worse},
};

/// The attachment that says what there is.
const STATE: &str = "rerankers";
/// Versions that are kept; the oldest that is not in use gives way.
pub const MAX_VERSIONS: usize = 32;

/// All versions of a collection, and which of them queries use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub versions: Vec<Version>,
    pub active: Option<u32>,
    /// What was active before, oldest first; none stands for plain cosine.
    pub before: Vec<Option<u32>>,
    /// Of the next version; numbers are never used again.
    next: u32,
}

/// A trained network, and all that has to be known to serve it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    pub number: u32,
    /// Such as "mlp+facet-fusion-1way", or "hubs" if there is no network; so many networks of each kind are asked as one.
    pub kind: String,
    pub members: u32,
    pub parameters: u64,
    pub seed: u64,
    pub steps: u64,
    /// Seconds since 1970.
    pub made_at: u64,
    pub reads: Reads,
    /// Cosines that the first order is made by: weights by named vector.
    pub blend: BTreeMap<String, f32>,
    /// What counts beside the cosine when a text looks for images, and when an image looks for texts; 0 of what made nothing better.
    pub weights: [Weight; 2],
    /// Which points it learnt from, so that it is never judged on one of them.
    pub parting: Parting,
    /// Candidates that it was judged with.
    pub candidates: usize,
    /// From score to the probability that a candidate belongs.
    pub calibration: Option<Calibration>,
    pub judged: Vec<Judged>,
    /// The uuid of the collection whose points it was judged on: what it gained there says nothing of another.
    #[serde(default)]
    pub judged_in: String,
}

/// What a network reads of points and questions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// The named vector of images that is compared with texts by `model`, with its tokens if `tokens`.
    pub image: String,
    /// A named vector of images that no text is compared with.
    pub extra: Option<String>,
    pub tokens: bool,
    /// What embeds the texts.
    pub model: ModelRef,
}

/// Held-out questions of one kind, with and without re-ranking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// `text_to_image` or `image_to_text`.
    pub direction: Direction,
    /// Empty: all.
    pub language: String,
    pub length: Length,
    pub gain: Gain,
}

/// How much text asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Each text of a point.
    Single,
    /// All texts of a point and language in one.
    Joined,
}

impl State {
    pub fn of(collection: &Collection) -> Result<State, Error> {
        let Some(bytes) = collection.attachment(STATE)? else { return Ok(State { next: 1, ..State::default() }) };
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::Unreadable { what: STATE.to_owned(), detail: error.to_string() })
    }

    /// The version of that number; `Error::UnknownVersion`.
    pub fn version(&self, number: u32) -> Result<&Version, Error> {
        let found = self.versions.iter().find(|version| version.number == number);
        found.ok_or_else(|| Error::UnknownVersion {
            received: number,
            expected: self.versions.iter().map(|version| version.number).collect(),
        })
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain numbers and names")
    }

    /// The version that was added last.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn newest(&self) -> &Version {
        self.versions.last().expect("one was added")
    }

    /// Keeps a network under the next number, and makes room if there are too many.
    pub fn add(mut self, collection: &Collection, mut version: Version, weights: Vec<u8>) -> Result<State, Error> {
        let number = self.next;
        version.number = number;
        self.next += 1;
        let mut changes = vec![(attachment(number), Some(weights))];
        self.versions.push(version);
        while self.versions.len() > MAX_VERSIONS {
            let in_use =
                |other: u32| self.active == Some(other) || self.before.contains(&Some(other)) || other == number;
            let Some(at) = self.versions.iter().position(|version| !in_use(version.number)) else { break };
            changes.push((attachment(self.versions.remove(at).number), None));
        }
        changes.push((STATE.to_owned(), Some(self.bytes())));
        collection.attach(changes)?;
        Ok(self)
    }

    /// Queries use this version from now on. `Error::NotJudged` if it comes from another collection, `Error::NoGain` if it is not
    /// significantly better than cosine, unless it is forced.
    pub fn activate(mut self, collection: &Collection, number: u32, is_forced: bool) -> Result<State, Error> {
        let version = self.version(number)?;
        if !is_forced && !version.is_judged_in(collection) {
            return Err(Error::NotJudged { version: number, collection: collection.name().to_owned() });
        }
        if !is_forced && !is_better(&version.judged) {
            return Err(Error::NoGain { version: number, detail: no_gain_in_words(&version.judged) });
        }
        if self.active != Some(number) {
            self.before.push(self.active.replace(number));
            let too_many = self.before.len().saturating_sub(MAX_VERSIONS);
            self.before.drain(..too_many);
        }
        self.write(collection)
    }

    /// What was active before is active again: another version, or plain cosine. `Error::NothingBefore`.
    pub fn roll_back(mut self, collection: &Collection) -> Result<State, Error> {
        self.active = self.before.pop().ok_or(Error::NothingBefore)?;
        self.write(collection)
    }

    /// Takes the verdict on a version, with this first order, in the place of the one before.
    pub fn judge(
        mut self,
        collection: &Collection,
        number: u32,
        blend: BTreeMap<String, f32>,
        verdict: Verdict,
    ) -> Result<State, Error> {
        self.version(number)?;
        let version = self.versions.iter_mut().find(|version| version.number == number).expect("it was just found");
        *version = version.clone().judged(collection, blend, verdict);
        self.write(collection)
    }

    fn write(self, collection: &Collection) -> Result<State, Error> {
        collection.attach(vec![(STATE.to_owned(), Some(self.bytes()))])?;
        Ok(self)
    }
}

impl Version {
    /// Whether its figures are of that collection.
    pub fn is_judged_in(&self, collection: &Collection) -> bool {
        self.judged_in == collection.uuid()
    }

    /// With another verdict, of that collection and this first order.
    pub fn judged(self, collection: &Collection, blend: BTreeMap<String, f32>, verdict: Verdict) -> Version {
        let Verdict { weights, calibration, judged } = verdict;
        Version { blend, weights, calibration, judged, judged_in: collection.uuid().to_owned(), ..self }
    }

    /// What counts beside the cosine.
    pub fn weight(&self, direction: Direction) -> Weight {
        match direction {
            Direction::TextToImage => self.weights[0],
            Direction::ImageToText => self.weights[1],
        }
    }

    /// Of its kind, and how many of each.
    pub fn kind_in_words(&self) -> String {
        kind_in_words(&self.kind, self.members)
    }

    /// How likely it is that a candidate of that score belongs; only known of images that a text looks for.
    pub fn relevance(&self, direction: Direction, score: f32) -> Option<f32> {
        let calibration = self.calibration.as_ref().filter(|_| direction == Direction::TextToImage);
        calibration.map(|calibration| calibration.relevance(score))
    }
}

/// Such as "3 x mlp+facet-fusion-1way".
pub fn kind_in_words(kind: &str, members: u32) -> String {
    match members {
        0 | 1 => kind.to_owned(),
        n => format!("{n} x {kind}"),
    }
}

/// R@1 of all texts that look for images, with and without the network.
pub fn gain_in_words(judged: &[Judged]) -> String {
    let say = |row: &Judged| format!("R@1 of {} {}", row.length.in_words(), row.in_numbers());
    judged.iter().filter(|row| row.is_of_all()).map(say).collect::<Vec<_>>().join(", ")
}

/// Why it is not to be used: where less is found, else what all texts gain.
fn no_gain_in_words(judged: &[Judged]) -> String {
    let say = |row: &Judged| match row.direction {
        Direction::TextToImage => format!("R@1 of {} {}", row.length.in_words(), row.in_numbers()),
        Direction::ImageToText => {
            format!("R@1 of images that look for texts of {:?} {}", row.language, row.in_numbers())
        }
    };
    let worse: Vec<String> = worse(judged).map(say).collect();
    if worse.is_empty() { gain_in_words(judged) } else { worse.join(", ") }
}

impl Judged {
    /// Texts of all languages that look for images.
    pub fn is_of_all(&self) -> bool {
        self.direction == Direction::TextToImage && self.language.is_empty()
    }

    fn in_numbers(&self) -> String {
        let [before, after] = [self.gain.cosine.at_1, self.gain.reranked.at_1].map(|share| 100.0 * share);
        let [low, high] = self.gain.interval.map(|share| 100.0 * share);
        format!("{before:.1} to {after:.1} (95 % {low:+.1} to {high:+.1})")
    }
}

impl Length {
    pub fn in_words(self) -> &'static str {
        match self {
            Length::Single => "single texts",
            Length::Joined => "joined texts",
        }
    }
}

/// Where a version's weights stand.
pub fn attachment(number: u32) -> String {
    format!("reranker.{number}")
}

pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
