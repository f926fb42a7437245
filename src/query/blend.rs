//! Weights of named vectors that are searched together, and those that a collection keeps for its queries.

use std::collections::BTreeMap;

use firn_index::{Collection, CollectionConfig, Limits};
use serde::{Deserialize, Serialize};

use super::{Error, request::invalid};

/// The attachment of a collection that holds its blend.
const ATTACHMENT: &str = "blend";

/// How much each of several named vectors counts: a score is the weighted mean of their cosines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blend {
    pub weights: BTreeMap<String, f32>,
    /// If it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitted: Option<Fitted>,
}

/// How weights were fitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fitted {
    pub points: usize,
    pub questions: usize,
    pub folds: usize,
    pub seed: u64,
    /// Share of questions whose point came first, by weights that were chosen on other points.
    pub recall_at_1: f64,
    /// The same by each vector alone.
    pub recall_at_1_alone: BTreeMap<String, f64>,
}

impl Blend {
    /// Weights that somebody set.
    pub fn new(weights: BTreeMap<String, f32>) -> Blend {
        Blend { weights, fitted: None }
    }

    /// Each name is one of the collection's, each weight finite and none negative, one at least more than 0.
    pub fn check(&self, config: &CollectionConfig) -> Result<(), Error> {
        check_weights(&self.weights)?;
        match self.weights.keys().find(|name| !config.vectors.contains_key(*name)) {
            None => Ok(()),
            Some(unknown) => {
                let names: Vec<&String> = config.vectors.keys().collect();
                Err(invalid("blend", format!("names of {names:?}"), format!("{unknown:?}")))
            }
        }
    }

    /// The one a collection keeps, if it keeps one.
    pub fn read(collection: &Collection) -> Result<Option<Blend>, firn_index::Error> {
        let Some(bytes) = collection.attachment(ATTACHMENT)? else { return Ok(None) };
        let damaged =
            |detail: String| firn_index::Error::Damaged { what: format!("attachment {ATTACHMENT:?}"), detail };
        let blend: Blend = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        blend.check(collection.config()).map_err(|error| damaged(error.to_string()))?;
        Ok(Some(blend))
    }

    /// Keeps it with the collection, in the place of the one before.
    pub fn write(&self, collection: &Collection) -> Result<(), Error> {
        self.check(collection.config())?;
        let json = serde_json::to_vec(self).expect("plain data can be written");
        collection.attach(vec![(ATTACHMENT.to_owned(), Some(json))])?;
        Ok(())
    }

    /// The collection keeps none any more.
    pub fn clear(collection: &Collection) -> Result<(), Error> {
        collection.attach(vec![(ATTACHMENT.to_owned(), None)])?;
        Ok(())
    }
}

/// What can be said of weights without knowing the collection.
pub(super) fn check_weights(weights: &BTreeMap<String, f32>) -> Result<(), Error> {
    let max = Limits::MAX_VECTORS_PER_POINT;
    if !(1..=max).contains(&weights.len()) {
        return Err(invalid("blend", format!("1 to {max} names"), weights.len().to_string()));
    }
    if let Some((name, weight)) = weights.iter().find(|(_, weight)| !weight.is_finite() || **weight < 0.0) {
        return Err(invalid("blend", "finite weights, none below 0".to_owned(), format!("{weight} for {name:?}")));
    }
    if weights.values().all(|weight| *weight == 0.0) {
        return Err(invalid("blend", "a weight above 0".to_owned(), "none".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use firn_index::{Database, Options, VectorConfig};

    use super::*;

    fn blend(weights: &[(&str, f32)]) -> Blend {
        Blend::new(weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect())
    }

    #[test]
    fn a_collection_keeps_its_blend() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(dir.path(), Options { min_free_bytes: 0, ..Options::default() }).unwrap();
        let vectors = ["a", "b"].map(|name| (name.to_owned(), VectorConfig::new(2))).into();
        let config = CollectionConfig { vectors, ..CollectionConfig::default() };
        let collection = db.create_collection("c", config).unwrap();
        assert_eq!(Blend::read(&collection).unwrap(), None);
        let kept = blend(&[("a", 1.0), ("b", 0.5)]);
        kept.write(&collection).unwrap();
        assert_eq!(Blend::read(&collection).unwrap(), Some(kept));
        assert!(blend(&[("c", 1.0)]).write(&collection).is_err());
        Blend::clear(&collection).unwrap();
        assert_eq!(Blend::read(&collection).unwrap(), None);

        for json in ["{", r#"{"weights": {"c": 1}}"#, r#"{"weights": {"a": 0}}"#] {
            collection.attach(vec![(ATTACHMENT.to_owned(), Some(json.into()))]).unwrap();
            let error = Blend::read(&collection).unwrap_err().to_string();
            assert!(error.contains("attachment \"blend\""), "{json}: {error}");
        }
    }

    #[test]
    fn weights_are_numbers_above_nothing() {
        let names: Vec<String> = (0..17).map(|n| format!("v{n}")).collect();
        let many: Vec<(&str, f32)> = names.iter().map(|name| (name.as_str(), 1.0)).collect();
        let cases: [(&[(&str, f32)], &str); 6] = [
            (&[], "1 to 16 names, received 0"),
            (&many, "received 17"),
            (&[("a", -1.0), ("b", 1.0)], "received -1 for \"a\""),
            (&[("a", f32::NAN)], "received NaN"),
            (&[("a", f32::INFINITY)], "received inf"),
            (&[("a", 0.0), ("b", 0.0)], "a weight above 0, received none"),
        ];
        for (weights, part) in cases {
            let error = check_weights(&blend(weights).weights).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(check_weights(&blend(&[("a", 0.0), ("b", 1e-3)]).weights).is_ok());
    }
}
