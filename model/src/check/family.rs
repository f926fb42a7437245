//! Every family that a folder can be checked against.

use crate::{
    Error, Result, align, decoder,
    kind::Kind,
    pair::{self, flame},
    sentence,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Pair(pair::Family),
    /// Image side alone, from a checkpoint.
    Flame,
    /// What `firn train align` wrote.
    Aligned,
    /// What `firn train ridge` wrote.
    Ridge,
    Sentences(sentence::Family),
    Decoder(decoder::Family),
}

/// Names all that are taken, wherever the name stands.
pub(crate) fn unknown_family(name: &str) -> Error {
    let expected = Family::all().map(Family::name).collect::<Vec<_>>().join(", ");
    Error::UnknownFamily { file: None, expected, received: name.to_owned() }
}

impl Family {
    pub(super) fn of_name(name: &str) -> Result<Family> {
        Family::all().find(|family| family.name() == name).ok_or_else(|| unknown_family(name))
    }

    fn all() -> impl Iterator<Item = Family> {
        let pairs = pair::Family::ALL.into_iter().map(Family::Pair);
        let sentences = sentence::Family::ALL.into_iter().map(Family::Sentences);
        pairs
            .chain([Family::Flame])
            .chain(sentences)
            .chain(decoder::Family::all().map(Family::Decoder))
            .chain([Family::Aligned, Family::Ridge])
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Family::Flame => flame::FAMILY,
            Family::Aligned => align::side::FAMILY,
            Family::Ridge => align::ridge::FAMILY,
            Family::Pair(family) => family.name(),
            Family::Sentences(family) => family.name(),
            Family::Decoder(family) => family.name(),
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Family::Pair(_) | Family::Flame => Kind::Pair,
            Family::Aligned => Kind::Aligned,
            Family::Ridge => Kind::Ridge,
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
}
