//! What is stored: points and their names.

use std::{collections::BTreeMap, fmt};

use half::f16;
use serde::{Deserialize, Serialize};

/// The JSON object kept with a point.
pub type Payload = serde_json::Map<String, serde_json::Value>;

/// The place of one version of a point. Rows only grow: a point that is replaced gets a new row.
pub type Row = u32;

/// The name of a point, chosen by whoever writes it. `Num(7)` and `Text("7")` are different.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PointId {
    Num(u64),
    /// 1 to 512 bytes.
    Text(String),
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PointId::Num(n) => n.fmt(f),
            PointId::Text(t) => t.fmt(f),
        }
    }
}

impl From<u64> for PointId {
    fn from(n: u64) -> Self {
        PointId::Num(n)
    }
}

impl From<&str> for PointId {
    fn from(t: &str) -> Self {
        PointId::Text(t.to_owned())
    }
}

/// A text and its language (BCP 47, may be empty).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    pub text: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub language: String,
}

/// The short sequence that is kept of an image or a text for fusion, in half precision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    pub n: usize,
    pub dim: usize,
    /// (n, dim), row after row.
    #[serde(with = "as_numbers")]
    pub values: Vec<f16>,
}

/// Half precision written as numbers, for people and other programs.
mod as_numbers {
    use half::f16;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(values: &[f16], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(|value| value.to_f32()))
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<f16>, D::Error> {
        let values = Vec::<f32>::deserialize(from)?;
        Ok(values.into_iter().map(f16::from_f32).collect())
    }
}

/// A point to write. Vectors are scaled to unit length on the way in.
#[derive(Clone, Debug, PartialEq)]
pub struct NewPoint {
    pub id: PointId,
    pub texts: Vec<Text>,
    pub payload: Payload,
    /// By vector name; at least one, each with the collection's dimension.
    pub vectors: BTreeMap<String, Vec<f32>>,
    /// By vector name; each as the collection's configuration has it, or left out.
    pub tokens: BTreeMap<String, Tokens>,
}

/// A stored point. Fields that were not asked for are empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub id: PointId,
    pub row: Row,
    /// The commit sequence of its last change.
    pub version: u64,
    pub texts: Vec<Text>,
    pub payload: Payload,
    pub vectors: BTreeMap<String, Vec<f32>>,
    pub tokens: BTreeMap<String, Tokens>,
    /// Size of the texts, the payload as JSON, the vectors and the tokens that were asked for.
    pub n_bytes: usize,
}

/// Which fields of a stored point to read. The id, row and version are always there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub payload: bool,
    pub texts: bool,
    pub vectors: bool,
    pub tokens: bool,
}

/// A stretch of points in the order they were written.
#[derive(Clone, Debug)]
pub struct Page {
    pub points: Vec<Point>,
    /// Where the next page starts; none on the last.
    pub next: Option<Row>,
}
