//! The keys of the two trees. A kind byte comes first and numbers are big-endian, so that a scan runs in order.

use crate::{PointId, Row};

pub type Key = Vec<u8>;

const SEQUENCE: u8 = 0x00;
const IDENTITY: u8 = 0x01;
const COLLECTION: u8 = 0x02;
const ALIAS: u8 = 0x03;
const DOOMED: u8 = 0x04;
const NEXT_COLLECTION: u8 = 0x05;
const NEXT_ROW: u8 = 0x06;
const POINT: u8 = 0x10;
const ROW_OF: u8 = 0x11;
const VECTOR: u8 = 0x12;
const TOKENS: u8 = 0x13;
const ATTACHMENT: u8 = 0x14;
const MANIFEST: u8 = 0x20;
const CHUNK: u8 = 0x21;

/// The kinds whose keys go on with a collection's number: everything a collection owns in the points tree but its
/// catalog record.
const OWNED: [u8; 6] = [NEXT_ROW, POINT, ROW_OF, VECTOR, TOKENS, ATTACHMENT];

pub fn sequence() -> Key {
    vec![SEQUENCE]
}

/// Which data directory this is.
pub fn identity() -> Key {
    vec![IDENTITY]
}

pub fn next_collection() -> Key {
    vec![NEXT_COLLECTION]
}

/// The catalog record of a collection; its name stands in the key, so that it is known even if the value is damaged.
pub fn collection(collection: u32, name: &str) -> Key {
    [&[COLLECTION][..], &collection.to_be_bytes(), name.as_bytes()].concat()
}

pub fn collections() -> Key {
    vec![COLLECTION]
}

/// Number and name of a collection from its catalog key.
pub fn parse_collection(key: &[u8]) -> Option<(u32, &str)> {
    let (number, name) = key.get(1..)?.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*number), std::str::from_utf8(name).ok()?))
}

pub fn alias(alias: &str) -> Key {
    [&[ALIAS], alias.as_bytes()].concat()
}

pub fn aliases() -> Key {
    vec![ALIAS]
}

pub fn parse_alias(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(1..)?).ok()
}

/// Marks a deleted collection whose data is still to be removed.
pub fn doomed(collection: u32) -> Key {
    of_kind(DOOMED, collection)
}

pub fn all_doomed() -> Key {
    vec![DOOMED]
}

pub fn parse_doomed(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*key.get(1..)?.first_chunk::<4>()?))
}

/// The prefixes of everything a collection owns in the points tree.
pub fn owned(collection: u32) -> [Key; 6] {
    OWNED.map(|kind| of_kind(kind, collection))
}

pub fn next_row(collection: u32) -> Key {
    of_kind(NEXT_ROW, collection)
}

pub fn point(collection: u32, row: Row) -> Key {
    [&points(collection)[..], &row.to_be_bytes()].concat()
}

pub fn points(collection: u32) -> Key {
    of_kind(POINT, collection)
}

pub fn row_of(collection: u32, id: &PointId) -> Key {
    let mut key = rows_of(collection);
    match id {
        PointId::Num(number) => {
            key.push(0);
            key.extend_from_slice(&number.to_be_bytes());
        }
        PointId::Text(text) => {
            key.push(1);
            key.extend_from_slice(text.as_bytes());
        }
    }
    key
}

pub fn rows_of(collection: u32) -> Key {
    of_kind(ROW_OF, collection)
}

pub fn vector(collection: u32, vector: u8, row: Row) -> Key {
    [&vectors(collection, vector)[..], &row.to_be_bytes()].concat()
}

pub fn vectors(collection: u32, vector: u8) -> Key {
    [&of_kind(VECTOR, collection)[..], &[vector]].concat()
}

/// The tokens of a row, at a place of the configuration's tokens.
pub fn tokens(collection: u32, place: u8, row: Row) -> Key {
    [&all_tokens(collection, place)[..], &row.to_be_bytes()].concat()
}

pub fn all_tokens(collection: u32, place: u8) -> Key {
    [&of_kind(TOKENS, collection)[..], &[place]].concat()
}

/// A piece of an attachment. A name holds no zero byte.
pub fn attachment(collection: u32, name: &str, chunk: u32) -> Key {
    [&attachment_chunks(collection, name)[..], &chunk.to_be_bytes()].concat()
}

pub fn attachment_chunks(collection: u32, name: &str) -> Key {
    [&attachments(collection)[..], name.as_bytes(), &[0]].concat()
}

pub fn attachments(collection: u32) -> Key {
    of_kind(ATTACHMENT, collection)
}

/// The name of an attachment from the key of one of its pieces.
pub fn parse_attachment(key: &[u8]) -> Option<&str> {
    let (_, rest) = key.split_at_checked(5)?;
    let (name, chunk) = rest.split_at_checked(rest.len().checked_sub(5)?)?;
    (chunk[0] == 0).then(|| std::str::from_utf8(name).ok())?
}

/// The row at the end of the key of a point, its vector or its tokens.
pub fn parse_row(key: &[u8]) -> Option<Row> {
    Some(Row::from_be_bytes(*key.last_chunk::<4>()?))
}

/// In the segments tree: which segments of a named vector are live.
pub fn manifest(collection: u32, vector: u8) -> Key {
    [&of_kind(MANIFEST, collection)[..], &[vector]].concat()
}

/// In the segments tree: a piece of a segment.
pub fn chunk(collection: u32, vector: u8, segment: u32, chunk: u32) -> Key {
    [&chunks(collection, vector, segment)[..], &chunk.to_be_bytes()].concat()
}

pub fn chunks(collection: u32, vector: u8, segment: u32) -> Key {
    [&chunks_of_vector(collection, vector)[..], &segment.to_be_bytes()].concat()
}

pub fn chunks_of_vector(collection: u32, vector: u8) -> Key {
    [&of_kind(CHUNK, collection)[..], &[vector]].concat()
}

/// The segment of a chunk's key.
pub fn parse_segment(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*key.get(6..)?.first_chunk::<4>()?))
}

/// The prefixes of everything a collection owns in the segments tree.
pub fn owned_segments(collection: u32) -> [Key; 2] {
    [of_kind(MANIFEST, collection), of_kind(CHUNK, collection)]
}

fn of_kind(kind: u8, collection: u32) -> Key {
    [&[kind][..], &collection.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        assert_eq!(parse_collection(&collection(7, "käse")), Some((7, "käse")));
        assert_eq!(parse_alias(&alias("a")), Some("a"));
        assert_eq!(parse_doomed(&doomed(9)), Some(9));
        assert_eq!(parse_row(&point(1, 258)), Some(258));
        assert_eq!(parse_row(&vector(1, 3, 259)), Some(259));
        assert_eq!(parse_row(&tokens(1, 3, 260)), Some(260));
        assert_eq!(parse_segment(&chunk(1, 2, 3, 4)), Some(3));
        assert_eq!(parse_attachment(&attachment(1, "a.b", 0x0001_0000)), Some("a.b"));
    }

    #[test]
    fn rows_sort_as_numbers_and_ids_do_not_collide() {
        assert!(point(1, 255) < point(1, 256));
        assert!(vector(1, 0, u32::MAX) < vector(1, 1, 0));
        assert_ne!(row_of(1, &PointId::Num(0x3131_3131_3131_3131)), row_of(1, &"11111111".into()));
    }
}
