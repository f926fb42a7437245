//! Short ways to say ids, vectors and queries.

use firn_proto::v1::{NamedVectors, PointId, QueryContent, Text, Tokens, Vector, point_id, query_content};
use half::f16;

/// A point id: `id(7)` or `id("cat.jpg")`.
pub fn id(id: impl Into<IdKind>) -> PointId {
    PointId { kind: Some(id.into().0) }
}

/// What `id` takes: a number or a string.
pub struct IdKind(point_id::Kind);

impl From<u64> for IdKind {
    fn from(num: u64) -> Self {
        IdKind(point_id::Kind::Num(num))
    }
}

impl From<&str> for IdKind {
    fn from(text: &str) -> Self {
        IdKind(point_id::Kind::Text(text.to_owned()))
    }
}

impl From<String> for IdKind {
    fn from(text: String) -> Self {
        IdKind(point_id::Kind::Text(text))
    }
}

/// Asks by a text.
pub fn text(text: &str, language: &str) -> QueryContent {
    content(query_content::Kind::Text(Text { text: text.to_owned(), language: language.to_owned() }))
}

/// Asks by an encoded picture.
pub fn image(bytes: impl Into<Vec<u8>>) -> QueryContent {
    content(query_content::Kind::Image(bytes.into().into()))
}

/// Asks by a stored point, which is left out of the hits.
pub fn stored(id: PointId) -> QueryContent {
    content(query_content::Kind::Id(id))
}

/// Asks by a vector.
pub fn vector(values: &[f32]) -> QueryContent {
    content(query_content::Kind::Vector(pack(values)))
}

/// A vector for each named vector that is searched.
pub fn vectors<'a>(vectors: impl IntoIterator<Item = (&'a String, &'a Vec<f32>)>) -> QueryContent {
    let vectors = vectors.into_iter().map(|(name, values)| (name.clone(), pack(values))).collect();
    content(query_content::Kind::Vectors(NamedVectors { vectors, ..Default::default() }))
}

/// A vector in the faster of its two forms on the wire.
pub fn pack(values: &[f32]) -> Vector {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Vector { values: Vec::new(), packed: bytes.into() }
}

/// The numbers of a vector, in whichever form they came.
pub fn unpack(vector: &Vector) -> Vec<f32> {
    if vector.packed.is_empty() {
        return vector.values.clone();
    }
    let (numbers, _) = vector.packed.as_chunks::<4>();
    numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Tokens on the wire: `n` rows of `dim` numbers, row after row.
pub fn tokens(n: usize, dim: usize, values: &[f16]) -> Tokens {
    let packed: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tokens { n: n as u32, dim: dim as u32, packed: packed.into() }
}

/// The numbers of tokens, row after row.
pub fn unpack_tokens(tokens: &Tokens) -> Vec<f16> {
    let (numbers, _) = tokens.packed.as_chunks::<2>();
    numbers.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect()
}

fn content(kind: query_content::Kind) -> QueryContent {
    QueryContent { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_back_in_both_forms() {
        let values = [1.0, -0.5, f32::MIN_POSITIVE];
        assert_eq!(unpack(&pack(&values)), values);
        assert_eq!(unpack(&Vector { values: values.to_vec(), packed: Default::default() }), values);
        assert_eq!(unpack(&Vector::default()), [0.0; 0]);
    }

    #[test]
    fn tokens_come_back() {
        let values = [1.0, -0.5, 6e-8, 65_504.0].map(f16::from_f32);
        let packed = tokens(2, 2, &values);
        assert_eq!((packed.n, packed.dim, unpack_tokens(&packed)), (2, 2, values.to_vec()));
    }

    #[test]
    fn numbers_and_strings_are_different_ids() {
        assert_ne!(id(7), id("7"));
        assert_eq!(id("7"), id("7".to_owned()));
    }
}
