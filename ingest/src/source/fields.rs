//! A JSON object read as an item: the names that mean something are taken, every other one is payload.

use std::collections::BTreeMap;

use firn_index::{Payload, PointId, Text};
use serde_json::Value;

use super::{Fault, Item};

/// An object's fields. `image` names a picture, it is not one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields {
    pub id: Option<PointId>,
    pub image: Option<String>,
    pub texts: Vec<Text>,
    pub payload: Payload,
    pub vectors: BTreeMap<String, Vec<f32>>,
}

impl Fields {
    pub fn parse(json: &[u8]) -> Result<Fields, Fault> {
        let json = std::str::from_utf8(json).map_err(|_| Fault::NotUtf8 { what: "the JSON" })?;
        Fields::take(serde_json::from_str(json).map_err(Fault::InvalidJson)?)
    }

    pub fn take(mut object: Payload) -> Result<Fields, Fault> {
        let language = take_language(&mut object)?;
        let mut texts = Vec::new();
        for field in ["text", "caption", "texts", "captions"] {
            if let Some(value) = object.remove(field) {
                texts_of(field, value, &language, &mut texts)?;
            }
        }
        let id = object.remove("id").map(id_of).transpose()?.flatten();
        let image = object.remove("image").map(|value| string("image", value)).transpose()?.flatten();
        let vectors = object.remove("vectors").map(vectors_of).transpose()?.unwrap_or_default();
        Ok(Fields { id, image, texts, payload: object, vectors })
    }

    /// The item without its picture.
    pub fn into_item(self, name: String) -> Item {
        let Fields { id, texts, payload, vectors, .. } = self;
        Item { name, id, texts, payload, vectors, ..Item::default() }
    }
}

/// Says where a picture came from, unless the item says something of that name itself.
pub fn set_path(payload: &mut Payload, path: &str) {
    payload.entry("path").or_insert_with(|| Value::from(path));
}

/// A text as it stands in a file: UTF-8, without the white space around it.
pub fn text_file(bytes: &[u8]) -> Result<Text, Fault> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| Fault::NotUtf8 { what: "the text" })?;
    Ok(Text { text: text.trim().to_owned(), language: String::new() })
}

fn id_of(value: Value) -> Result<Option<PointId>, Fault> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if !text.is_empty() => Ok(Some(PointId::Text(text))),
        Value::Number(ref number) if number.is_u64() => Ok(number.as_u64().map(PointId::Num)),
        other => Err(invalid("id", "a whole number from 0 or a string", &other)),
    }
}

fn texts_of(field: &str, value: Value, language: &str, texts: &mut Vec<Text>) -> Result<(), Fault> {
    match value {
        Value::Array(values) => values.into_iter().try_for_each(|value| text_of(field, value, language, texts)),
        value => text_of(field, value, language, texts),
    }
}

fn text_of(field: &str, value: Value, language: &str, texts: &mut Vec<Text>) -> Result<(), Fault> {
    match value {
        Value::Null => {}
        Value::String(text) => texts.push(Text { text, language: language.to_owned() }),
        Value::Object(mut object) => {
            let own = take_language(&mut object)?;
            let text = object.remove("text").or_else(|| object.remove("caption")).unwrap_or_default();
            let Value::String(text) = text else { return Err(invalid(field, "a \"text\" in each object", &text)) };
            texts.push(Text { text, language: if own.is_empty() { language.to_owned() } else { own } });
        }
        other => return Err(invalid(field, "a string, or an object with a \"text\"", &other)),
    }
    Ok(())
}

fn take_language(object: &mut Payload) -> Result<String, Fault> {
    for field in ["language", "lang"] {
        if let Some(language) = object.remove(field).map(|value| string(field, value)).transpose()?.flatten() {
            return Ok(language);
        }
    }
    Ok(String::new())
}

fn string(field: &str, value: Value) -> Result<Option<String>, Fault> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        other => Err(invalid(field, "a string", &other)),
    }
}

fn vectors_of(value: Value) -> Result<BTreeMap<String, Vec<f32>>, Fault> {
    let Value::Object(object) = value else {
        return if value.is_null() { Ok(BTreeMap::new()) } else { Err(invalid("vectors", "an object", &value)) };
    };
    object.into_iter().map(|(name, value)| Ok((name, numbers(value)?))).collect()
}

fn numbers(value: Value) -> Result<Vec<f32>, Fault> {
    let Value::Array(values) = value else { return Err(invalid("vectors", "a list of numbers a name", &value)) };
    let number = |value: &Value| value.as_f64().map(|n| n as f32).ok_or_else(|| invalid("vectors", "numbers", value));
    values.iter().map(number).collect()
}

fn invalid(field: &str, expected: &'static str, received: &Value) -> Fault {
    let mut received = received.to_string();
    if received.len() > 60 {
        received = received.chars().take(57).chain("...".chars()).collect();
    }
    Fault::InvalidField { field: field.to_owned(), expected, received }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(text: &str, language: &str) -> Text {
        Text { text: text.to_owned(), language: language.to_owned() }
    }

    fn parse(value: Value) -> Result<Fields, Fault> {
        Fields::parse(value.to_string().as_bytes())
    }

    #[test]
    fn texts_in_every_spelling() {
        let check = |value: Value, expected: &[Text]| {
            assert_eq!(parse(value.clone()).expect("valid").texts, expected, "{value}");
        };
        check(json!({}), &[]);
        check(json!({"text": null}), &[]);
        check(json!({"text": "a"}), &[text("a", "")]);
        check(json!({"text": "a", "lang": "de"}), &[text("a", "de")]);
        check(json!({"caption": "a", "language": "de"}), &[text("a", "de")]);
        check(
            json!({"captions": ["a", {"caption": "b", "lang": "fr", "source": "x"}]}),
            &[text("a", ""), text("b", "fr")],
        );
        check(
            json!({"language": "en", "texts": [{"text": "a"}, {"text": "b", "language": "fr"}]}),
            &[text("a", "en"), text("b", "fr")],
        );
        check(json!({"captions": "c", "text": "a", "texts": ["b"]}), &[text("a", ""), text("b", ""), text("c", "")]);
        check(json!({"text": ""}), &[text("", "")]);
    }

    #[test]
    fn every_other_field_is_payload() {
        let fields = parse(
            json!({"id": 7, "image": "a.jpg", "text": "t", "vectors": {"v": [1, 0.5]}, "split": "train", "n": 1}),
        );
        let fields = fields.expect("valid");
        assert_eq!(fields.id, Some(PointId::Num(7)));
        assert_eq!(fields.image.as_deref(), Some("a.jpg"));
        assert_eq!(fields.vectors["v"], [1.0, 0.5]);
        assert_eq!(Value::Object(fields.payload), json!({"split": "train", "n": 1}));
    }

    #[test]
    fn wrong_fields_are_named() {
        let check = |json: &str, expected: &str| {
            let fault = Fields::parse(json.as_bytes()).expect_err(json);
            assert!(fault.to_string().contains(expected), "{json}: {fault}");
        };
        check(r#"{"id": -1}"#, "\"id\": expected a whole number");
        check(r#"{"id": 1.5}"#, "\"id\"");
        check(r#"{"id": ""}"#, "\"id\"");
        check(r#"{"text": 5}"#, "\"text\": expected a string");
        check(r#"{"captions": [{"txt": "a"}]}"#, "\"captions\"");
        check(r#"{"image": 5}"#, "\"image\"");
        check(r#"{"vectors": [1]}"#, "\"vectors\"");
        check(r#"{"vectors": {"v": [null]}}"#, "expected numbers, received null");
        check(r#"{"lang": 3}"#, "\"lang\"");
        check(r#"[1]"#, "not JSON");
        check(r#"{"text": "#, "not JSON");
    }
}
