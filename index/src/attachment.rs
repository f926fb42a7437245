//! Named bytes that are kept with a collection and go with it, such as what was trained on it. The index does not look inside.
//!
//! A value stands in chunks under keys of its own: the first says how long the whole is, all have checksums.

use std::{collections::BTreeMap, ops::ControlFlow};

use crate::{
    Error, Limits, Result,
    key::{self, Key},
    record,
    store::{Store, Tree},
};

const CHUNK_BYTES: usize = 512 << 10;
const LENGTH_BYTES: usize = 8;

/// Keys and payloads, to be sealed.
pub fn encode(collection: u32, name: &str, bytes: &[u8]) -> Vec<(Key, Vec<u8>)> {
    let length = (bytes.len() as u64).to_le_bytes();
    let whole = [&length[..], bytes].concat();
    let chunk = |(at, chunk): (usize, &[u8])| (key::attachment(collection, name, at as u32), chunk.to_vec());
    whole.chunks(CHUNK_BYTES).enumerate().map(chunk).collect()
}

/// The keys that an attachment has on disk.
pub fn keys(store: &Store, collection: u32, name: &str) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    store.scan(Tree::Points, &key::attachment_chunks(collection, name), |key, _| {
        keys.push(key.to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(keys)
}

/// `None` if there is none of that name; `Error::Damaged` if a part is missing or does not match its checksum.
pub fn read(store: &Store, collection: u32, name: &str) -> Result<Option<Vec<u8>>> {
    let what = || format!("attachment {name:?}");
    let damaged = |detail: String| Error::Damaged { what: what(), detail };
    let (mut whole, mut n_chunks) = (Vec::new(), 0);
    store.scan(Tree::Points, &key::attachment_chunks(collection, name), |key, value| {
        if key != key::attachment(collection, name, n_chunks) {
            return Err(damaged(format!("chunk {n_chunks} is missing")));
        }
        whole.extend_from_slice(record::unseal(key, value, what)?);
        n_chunks += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    if n_chunks == 0 {
        return Ok(None);
    }
    let Some((length, bytes)) = whole.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(damaged("it ends within its length".to_owned()));
    };
    let expected = u64::from_le_bytes(*length);
    if expected != bytes.len() as u64 {
        return Err(damaged(format!("expected {expected} bytes, received {}", bytes.len())));
    }
    whole.drain(..LENGTH_BYTES);
    Ok(Some(whole))
}

/// Names of all that a collection has.
pub fn names(store: &Store, collection: u32) -> Result<Vec<String>> {
    let mut names = BTreeMap::new();
    store.scan(Tree::Points, &key::attachments(collection), |key, _| {
        let name = key::parse_attachment(key).ok_or_else(|| Error::Damaged {
            what: format!("attachment, key {}", crate::fetch::hex(key)),
            detail: "the key cannot be read".to_owned(),
        })?;
        names.insert(name.to_owned(), ());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(names.into_keys().collect())
}

pub fn check(name: &str, bytes: Option<&[u8]>) -> Result<()> {
    crate::check::name(name)?;
    let (max, received) = (Limits::MAX_ATTACHMENT_BYTES as u64, bytes.map_or(0, |bytes| bytes.len() as u64));
    if received > max {
        return Err(Error::LimitExceeded { what: "bytes of an attachment", max, received });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{CollectionConfig, Database, Error, Options, VectorConfig, key, store::Tree};

    fn open(dir: &std::path::Path) -> Database {
        Database::open(dir, Options { min_free_bytes: 0, ..Options::default() }).unwrap()
    }

    fn config() -> CollectionConfig {
        CollectionConfig { vectors: [("v".to_owned(), VectorConfig::new(2))].into(), ..CollectionConfig::default() }
    }

    #[test]
    fn attachments_are_kept_replaced_removed_and_go_with_their_collection() {
        let dir = tempfile::tempdir().unwrap();
        let large: Vec<u8> = (0..3 << 20).map(|at: u32| (at * 7 % 251) as u8).collect();
        let db = open(dir.path());
        let c = db.create_collection("c", config()).unwrap();
        assert_eq!(c.attachment("a").unwrap(), None);
        c.attach(vec![("a".into(), Some(large.clone())), ("ab".into(), Some(Vec::new()))]).unwrap();
        assert_eq!(c.attachments().unwrap(), ["a", "ab"]);
        drop((c, db));
        let db = open(dir.path());
        let c = db.collection("c").unwrap();
        assert_eq!(c.attachment("a").unwrap().unwrap(), large);
        assert_eq!(c.attachment("ab").unwrap().unwrap(), Vec::<u8>::new());
        c.attach(vec![("a".into(), Some(b"short".to_vec())), ("ab".into(), None)]).unwrap();
        assert_eq!(
            (c.attachment("a").unwrap().unwrap(), c.attachments().unwrap()),
            (b"short".to_vec(), vec!["a".into()])
        );
        let report = c.verify().unwrap();
        assert!(report.damages.is_empty(), "{report:?}");
        for bad in ["", ".x", "a/b"] {
            assert!(matches!(c.attach(vec![(bad.into(), None)]), Err(Error::InvalidName { .. })), "{bad:?}");
        }
        let other = db.create_collection("d", config()).unwrap();
        assert_eq!(other.attachments().unwrap(), Vec::<String>::new());
        db.delete_collection("c").unwrap();
        assert!(matches!(c.attach(vec![("a".into(), None)]), Err(Error::CollectionNotFound { .. })));
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path());
        let c = db.create_collection("c", config()).unwrap();
        c.attach(vec![("a".into(), Some(vec![7; 2 << 20]))]).unwrap();
        let chunk = key::attachment(0, "a", 1);
        let flip = |value: &[u8]| {
            let mut value = value.to_vec();
            value[100] ^= 1;
            Some(value)
        };
        c.spoil(Tree::Points, &chunk, flip);
        let error = c.attachment("a").unwrap_err().to_string();
        assert!(error.contains("attachment \"a\"") && error.contains("checksum"), "{error}");
        assert_eq!(c.verify().unwrap().damages.len(), 1);
        c.spoil(Tree::Points, &chunk, |_| None);
        let error = c.attachment("a").unwrap_err().to_string();
        assert!(error.contains("chunk 1 is missing"), "{error}");
        // A whole one takes its place.
        c.attach(vec![("a".into(), Some(vec![1]))]).unwrap();
        assert_eq!(c.attachment("a").unwrap(), Some(vec![1]));
    }
}
