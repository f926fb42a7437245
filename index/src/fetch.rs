//! Reading rows, records and vectors from disk, checked.

use std::fmt;

use crate::{Error, PointId, Result, Row, TokenConfig, Tokens, key, record, store::Store, store::Tree, stored};

/// The row that `id` has now.
pub fn row_on_disk(store: &Store, collection: u32, id: &PointId) -> Result<Option<Row>> {
    let key = key::row_of(collection, id);
    match store.get(Tree::Points, &key)? {
        None => Ok(None),
        Some(value) => decode_row(&key, &value).map(Some),
    }
}

/// The record of `row` as it is now; a row whose record is missing is damaged.
pub fn record_on_disk(store: &Store, collection: u32, row: Row) -> Result<Vec<u8>> {
    let key = key::point(collection, row);
    let value = store.get(Tree::Points, &key)?.ok_or_else(|| missing(format!("point in row {row}")))?;
    Ok(record::unseal(&key, &value, || format!("point in row {row}"))?.to_vec())
}

/// The vector of `row` at a place of the configuration, if it is there.
pub fn vector_on_disk(store: &Store, collection: u32, place: u8, row: Row, dim: usize) -> Result<Option<Vec<f32>>> {
    let key = key::vector(collection, place, row);
    let Some(value) = store.get(Tree::Points, &key)? else { return Ok(None) };
    let mut vector = Vec::with_capacity(dim);
    let bytes = record::unseal(&key, &value, || vector_name(place, row))?;
    stored::decode_vector(bytes, dim, &mut vector)?;
    Ok(Some(vector))
}

/// How damage calls a vector of a row.
pub fn vector_name(place: impl fmt::Display, row: Row) -> String {
    format!("vector {place} in row {row}")
}

/// The tokens of `row` at a place of the configuration's tokens, if they are there.
pub fn tokens_on_disk(
    store: &Store,
    collection: u32,
    place: u8,
    row: Row,
    shape: TokenConfig,
) -> Result<Option<Tokens>> {
    let key = key::tokens(collection, place, row);
    let Some(value) = store.get(Tree::Points, &key)? else { return Ok(None) };
    let bytes = record::unseal(&key, &value, || tokens_name(place, row))?;
    stored::decode_tokens(bytes, shape).map(Some)
}

/// How damage calls the tokens of a row.
pub fn tokens_name(place: impl fmt::Display, row: Row) -> String {
    format!("tokens {place} in row {row}")
}

/// The row in the value of a `row_of` key.
pub fn decode_row(key: &[u8], value: &[u8]) -> Result<Row> {
    let what = || format!("row of an id, key {}", hex(key));
    let bytes = record::unseal(key, value, what)?;
    decode_u32(bytes)
        .ok_or_else(|| Error::Damaged { what: what(), detail: format!("expected 4 bytes, received {}", bytes.len()) })
}

pub fn decode_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

pub fn decode_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn missing(what: String) -> Error {
    Error::Damaged { what, detail: "it is missing".to_owned() }
}
