//! `google.protobuf.Struct` to and from JSON objects.
//!
//! A Struct knows only doubles: a whole number below 2^53 becomes an integer again, so that 7 comes back as 7, not 7.0.

use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::{Map, Number};

/// Deepest nesting of objects and lists that is taken.
pub const MAX_DEPTH: usize = 20;

/// Whole numbers below this are exact in a double.
const MAX_EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

/// Why a Struct is not a JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Nested deeper than `MAX_DEPTH`.
    TooDeep,
    /// NaN or an infinity: JSON has no word for it.
    NotFinite { key: String },
    /// A value that says nothing; null is a kind of its own.
    NoKind { key: String },
}

impl std::fmt::Display for JsonError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JsonError::TooDeep => write!(f, "expected at most {MAX_DEPTH} levels, received more"),
            JsonError::NotFinite { key } => write!(f, "{key:?}: expected a finite number, received NaN or an infinity"),
            JsonError::NoKind { key } => write!(f, "{key:?}: expected a value, received one without a kind"),
        }
    }
}

impl std::error::Error for JsonError {}

pub fn from_struct(object: Struct) -> Result<Map<String, serde_json::Value>, JsonError> {
    object_at(object, 1)
}

/// Integers beyond 2^53 lose digits: a Struct keeps doubles.
pub fn to_struct(object: Map<String, serde_json::Value>) -> Struct {
    Struct { fields: object.into_iter().map(|(key, value)| (key, to_value(value))).collect() }
}

fn object_at(object: Struct, depth: usize) -> Result<Map<String, serde_json::Value>, JsonError> {
    if depth > MAX_DEPTH {
        return Err(JsonError::TooDeep);
    }
    let entry = |(key, value): (String, Value)| {
        let value = value_at(value, &key, depth + 1)?;
        Ok((key, value))
    };
    object.fields.into_iter().map(entry).collect()
}

fn value_at(value: Value, key: &str, depth: usize) -> Result<serde_json::Value, JsonError> {
    let no_kind = || JsonError::NoKind { key: key.to_owned() };
    Ok(match value.kind.ok_or_else(no_kind)? {
        Kind::NullValue(_) => serde_json::Value::Null,
        Kind::BoolValue(yes) => serde_json::Value::Bool(yes),
        Kind::StringValue(text) => serde_json::Value::String(text),
        Kind::NumberValue(number) => serde_json::Value::Number(to_number(number, key)?),
        Kind::StructValue(object) => serde_json::Value::Object(object_at(object, depth)?),
        Kind::ListValue(_) if depth > MAX_DEPTH => return Err(JsonError::TooDeep),
        Kind::ListValue(list) => {
            let items = list.values.into_iter().map(|item| value_at(item, key, depth + 1));
            serde_json::Value::Array(items.collect::<Result<_, _>>()?)
        }
    })
}

fn to_number(number: f64, key: &str) -> Result<Number, JsonError> {
    let is_integer = number.fract() == 0.0 && number.abs() < MAX_EXACT_INTEGER;
    if is_integer && !(number == 0.0 && number.is_sign_negative()) {
        return Ok(Number::from(number as i64));
    }
    Number::from_f64(number).ok_or_else(|| JsonError::NotFinite { key: key.to_owned() })
}

fn to_value(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(yes) => Kind::BoolValue(yes),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(items) => {
            Kind::ListValue(ListValue { values: items.into_iter().map(to_value).collect() })
        }
        serde_json::Value::Object(object) => Kind::StructValue(to_struct(object)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: serde_json::Value) -> Map<String, serde_json::Value> {
        value.as_object().unwrap().clone()
    }

    fn nested(levels: usize) -> Struct {
        let mut value = Value { kind: Some(Kind::NullValue(0)) };
        for level in 1..levels {
            let kind = match level % 2 {
                0 => Kind::ListValue(ListValue { values: vec![value] }),
                _ => Kind::StructValue(Struct { fields: [("k".to_owned(), value)].into() }),
            };
            value = Value { kind: Some(kind) };
        }
        Struct { fields: [("k".to_owned(), value)].into() }
    }

    #[test]
    fn objects_come_back_as_they_were() {
        let cases = [
            json!({}),
            json!({"n": 7, "negative": -3, "half": 0.5, "big": 9007199254740991i64, "zero": 0}),
            json!({"t": "snow", "yes": true, "none": null, "list": [1, [2, {"deep": "er"}]], "o": {"a": {}}}),
        ];
        for case in cases {
            assert_eq!(from_struct(to_struct(object(case.clone()))), Ok(object(case)));
        }
    }

    #[test]
    fn a_number_beyond_2_53_stays_a_double() {
        let back = from_struct(to_struct(object(json!({"n": 1e300, "m": 9007199254740992i64})))).unwrap();
        assert!(back["n"].is_f64() && back["m"].is_f64());
    }

    #[test]
    fn depth_is_limited_and_no_deeper() {
        assert!(from_struct(nested(MAX_DEPTH)).is_ok());
        assert_eq!(from_struct(nested(MAX_DEPTH + 1)), Err(JsonError::TooDeep));
        assert_eq!(from_struct(nested(2000)), Err(JsonError::TooDeep));
    }

    #[test]
    fn what_json_cannot_say_is_named() {
        let of = |kind| Struct { fields: [("k".to_owned(), Value { kind })].into() };
        assert_eq!(from_struct(of(None)), Err(JsonError::NoKind { key: "k".into() }));
        for number in [f64::NAN, f64::INFINITY] {
            let received = from_struct(of(Some(Kind::NumberValue(number))));
            assert_eq!(received, Err(JsonError::NotFinite { key: "k".into() }));
        }
    }
}
