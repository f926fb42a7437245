//! Every family that a folder can be checked against, and what a folder looks like.

use std::path::Path;

use crate::{Error, Result, decoder, join, pair, sentence};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Pair(pair::Family),
    Sentences(sentence::Family),
    Decoder(decoder::Family),
}

/// How a folder is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Join,
    Sentences,
    Decoder,
    Pair,
}

impl Family {
    pub(super) fn of_name(name: &str) -> Result<Family> {
        let known = Family::all().find(|family| family.name() == name);
        known.ok_or_else(|| Error::UnknownFamily {
            expected: Family::all().map(Family::name).collect::<Vec<_>>().join(", "),
            received: name.to_owned(),
        })
    }

    fn all() -> impl Iterator<Item = Family> {
        let pairs = pair::Family::ALL.into_iter().map(Family::Pair);
        let sentences = sentence::Family::ALL.into_iter().map(Family::Sentences);
        pairs.chain(sentences).chain(decoder::Family::all().map(Family::Decoder))
    }

    fn name(self) -> &'static str {
        match self {
            Family::Pair(family) => family.name(),
            Family::Sentences(family) => family.name(),
            Family::Decoder(family) => family.name(),
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Family::Pair(_) => Kind::Pair,
            Family::Sentences(_) => Kind::Sentences,
            Family::Decoder(_) => Kind::Decoder,
        }
    }

    pub(super) fn pair(self) -> Option<pair::Family> {
        if let Family::Pair(family) = self { Some(family) } else { None }
    }

    pub(super) fn sentences(self) -> Option<sentence::Family> {
        if let Family::Sentences(family) = self { Some(family) } else { None }
    }

    pub(super) fn decoder(self) -> Option<decoder::Family> {
        if let Family::Decoder(family) = self { Some(family) } else { None }
    }

    /// Where there is nothing to tell it by, a pair of towers.
    pub(super) fn kind_of(folder: &Path) -> Kind {
        if join::is_in(folder) {
            Kind::Join
        } else if sentence::Layout::is_in(folder) {
            Kind::Sentences
        } else if decoder::is_in(folder) {
            Kind::Decoder
        } else {
            Kind::Pair
        }
    }
}
