//! Every family that a folder can be checked against, and what a folder looks like.

use std::path::Path;

use crate::{
    Error, Result, align, decoder, join,
    pair::{self, flame},
    sentence,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Pair(pair::Family),
    /// Image side alone, from a checkpoint.
    Flame,
    Sentences(sentence::Family),
    Decoder(decoder::Family),
}

/// Names all that are taken, wherever the name stands.
pub(crate) fn unknown_family(name: &str) -> Error {
    let expected = Family::all().map(Family::name).collect::<Vec<_>>().join(", ");
    Error::UnknownFamily { file: None, expected, received: name.to_owned() }
}

/// How a folder is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Join,
    Aligned,
    Ridge,
    Sentences,
    Decoder,
    Pair,
}

impl Family {
    pub(super) fn of_name(name: &str) -> Result<Family> {
        Family::all().find(|family| family.name() == name).ok_or_else(|| unknown_family(name))
    }

    fn all() -> impl Iterator<Item = Family> {
        let pairs = pair::Family::ALL.into_iter().map(Family::Pair);
        let sentences = sentence::Family::ALL.into_iter().map(Family::Sentences);
        pairs.chain([Family::Flame]).chain(sentences).chain(decoder::Family::all().map(Family::Decoder))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Family::Flame => flame::FAMILY,
            Family::Pair(family) => family.name(),
            Family::Sentences(family) => family.name(),
            Family::Decoder(family) => family.name(),
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Family::Pair(_) | Family::Flame => Kind::Pair,
            Family::Sentences(_) => Kind::Sentences,
            Family::Decoder(_) => Kind::Decoder,
        }
    }

    pub(super) fn sentences(self) -> Option<sentence::Family> {
        if let Family::Sentences(family) = self { Some(family) } else { None }
    }

    pub(super) fn decoder(self) -> Option<decoder::Family> {
        if let Family::Decoder(family) = self { Some(family) } else { None }
    }

    /// A file is a GGUF. Where there is nothing to tell it by, a pair of towers.
    pub(super) fn kind_of(folder: &Path) -> Kind {
        if join::is_in(folder) {
            Kind::Join
        } else if align::side::is_in(folder) {
            Kind::Aligned
        } else if align::ridge::is_in(folder) {
            Kind::Ridge
        } else if sentence::Layout::is_in(folder) {
            Kind::Sentences
        } else if folder.is_file() || decoder::is_in(folder) {
            Kind::Decoder
        } else {
            Kind::Pair
        }
    }
}
