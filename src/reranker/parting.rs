//! Which points a network learns from, and which it is judged on: by the fields of their payloads.

use firn_index::Point;
use serde::{Deserialize, Serialize};

use super::{Error, train::within};

/// How points fall into those learnt from and those judged on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parting {
    /// The field of the payload that says `train` or anything else; where it is there, it decides.
    pub split: String,
    /// The field whose equal values are never parted; none: each point is its own group.
    pub group: Option<String>,
    /// Share of groups that is judged on where no split is said.
    pub held_out: f64,
    /// Share of the groups to learn from that only says when to stop.
    pub stop: f64,
    /// A judged text is asked among the images of its own group alone.
    pub among_group: bool,
}

impl Default for Parting {
    fn default() -> Parting {
        Parting { split: "split".to_owned(), group: None, held_out: 0.1, stop: 0.1, among_group: false }
    }
}

/// Where a point belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Train,
    Stop,
    Judged,
}

impl Parting {
    pub fn check(&self) -> Result<(), Error> {
        let is_fit = !self.among_group || self.group.is_some();
        within("among-group", "none", is_fit, "a --group to ask among")?;
        let held_out = self.held_out;
        within("held-out", held_out, held_out > 0.0 && held_out <= 0.5, "more than 0 and at most 0.5")
    }

    /// Whether a network is judged on it, and never learns from it.
    pub fn is_judged(&self, point: &Point) -> bool {
        self.of(point).0 == Part::Judged
    }

    /// By its split, where one is said; else by its group, which is told too.
    pub(super) fn of(&self, point: &Point) -> (Part, String) {
        let word = |field: &str| {
            point.payload.get(field).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        let group = self.group.as_deref().and_then(word).unwrap_or_else(|| point.id.to_string());
        let number = u32::from_le_bytes(blake3::hash(group.as_bytes()).as_bytes()[..4].try_into().expect("32 bytes"));
        let place = f64::from(number) / f64::from(u32::MAX);
        let part = match word(&self.split) {
            Some(split) if split != "train" => Part::Judged,
            None if place < self.held_out => Part::Judged,
            // Another stretch of the same numbers, from the other end.
            _ if place > 1.0 - self.stop => Part::Stop,
            _ => Part::Train,
        };
        (part, group)
    }
}

/// Which of the fields that part points were seen in any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    split: bool,
    group: bool,
}

impl Seen {
    pub fn look(&mut self, point: &Point, parting: &Parting) {
        let has = |field: &str| point.payload.contains_key(field);
        self.split |= has(&parting.split);
        self.group |= parting.group.as_deref().is_some_and(has);
    }

    /// A field that is named and that no point has is a slip of the pen: without it images are parted that belong together.
    pub fn check(self, parting: &Parting) -> Result<(), Error> {
        let Parting { split, group, .. } = parting;
        let lacks_split = !self.split && *split != Parting::default().split;
        let lacks_group = group.as_ref().filter(|_| !self.group);
        let lacking = lacks_group.map(|group| ("group", group)).or_else(|| lacks_split.then_some(("split", split)));
        lacking.map_or(Ok(()), |(field, name)| {
            let expected = "a field of payloads that points with texts have".to_owned();
            Err(Error::Setting { field, expected, received: format!("{name:?}, which none has") })
        })
    }
}
