//! A point as bytes, and back.
//!
//! The first bytes have a fixed place (version, then which vectors and tokens the point has), so that opening a collection
//! reads them without decoding the rest: id, texts and payload in postcard, the payload as JSON.

use half::f16;
use serde::{Deserialize, Serialize};

use crate::{Error, Payload, PointId, Result, Text, TokenConfig, Tokens};

const PREFIX_BYTES: usize = 12;

/// What a stored point says besides its vectors and tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPoint {
    pub prefix: Prefix,
    pub id: PointId,
    pub texts: Vec<Text>,
    pub payload: Payload,
    /// Size of the parts that were read.
    pub n_bytes: usize,
}

/// The fixed beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub version: u64,
    pub vectors: Places,
    pub tokens: Places,
}

/// Which of the vectors, or of the tokens, of its collection a point has: bit i is set for the i-th.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places(pub u16);

impl Places {
    pub fn has(self, place: usize) -> bool {
        self.0 >> place & 1 == 1
    }

    /// Those of `0..n` that are set.
    pub fn of(self, n: usize) -> impl Iterator<Item = usize> {
        (0..n).filter(move |&place| self.has(place))
    }
}

impl FromIterator<u8> for Places {
    fn from_iter<T: IntoIterator<Item = u8>>(places: T) -> Places {
        Places(places.into_iter().fold(0, |bits, place| bits | 1 << place))
    }
}

#[derive(Serialize, Deserialize)]
struct Rest<'a> {
    #[serde(borrow)]
    id: StoredId<'a>,
    /// Text and language.
    #[serde(borrow)]
    texts: Vec<(&'a str, &'a str)>,
    payload_json: &'a [u8],
}

#[derive(Serialize, Deserialize)]
enum StoredId<'a> {
    Num(u64),
    Text(&'a str),
}

/// What follows the prefix; it does not depend on when the point is written.
pub fn encode_rest(id: &PointId, texts: &[Text], payload: &Payload) -> Vec<u8> {
    let json = serde_json::to_vec(payload).expect("a JSON object with string keys can be written");
    let id = match id {
        PointId::Num(number) => StoredId::Num(*number),
        PointId::Text(text) => StoredId::Text(text),
    };
    let texts = texts.iter().map(|t| (t.text.as_str(), t.language.as_str())).collect();
    postcard::to_stdvec(&Rest { id, texts, payload_json: &json }).expect("plain data can be written")
}

pub fn with_prefix(prefix: Prefix, rest: &[u8]) -> Vec<u8> {
    let Prefix { version, vectors, tokens } = prefix;
    [&version.to_le_bytes()[..], &vectors.0.to_le_bytes(), &tokens.0.to_le_bytes(), rest].concat()
}

pub fn decode_prefix(bytes: &[u8]) -> Result<Prefix> {
    let prefix = bytes.first_chunk::<PREFIX_BYTES>().ok_or_else(|| damaged("shorter than its prefix"))?;
    let (version, places) = prefix.split_first_chunk::<8>().expect("the prefix has twelve bytes");
    let places = |at: usize| Places(u16::from_le_bytes([places[at], places[at + 1]]));
    Ok(Prefix { version: u64::from_le_bytes(*version), vectors: places(0), tokens: places(2) })
}

/// Reads the parts that are asked for; the others are empty.
pub fn decode(bytes: &[u8], with_texts: bool, with_payload: bool) -> Result<StoredPoint> {
    let prefix = decode_prefix(bytes)?;
    let rest: Rest = postcard::from_bytes(&bytes[PREFIX_BYTES..]).map_err(|e| damaged(&e.to_string()))?;
    let id = match rest.id {
        StoredId::Num(number) => PointId::Num(number),
        StoredId::Text(text) => PointId::Text(text.to_owned()),
    };
    let text = |(text, language): &(&str, &str)| Text { text: (*text).to_owned(), language: (*language).to_owned() };
    let texts = if with_texts { rest.texts.iter().map(text).collect() } else { Vec::new() };
    let payload = match with_payload {
        true => serde_json::from_slice(rest.payload_json).map_err(|e| damaged(&format!("payload: {e}")))?,
        false => Payload::new(),
    };
    let texts_bytes: usize = texts.iter().map(|t: &Text| t.text.len() + t.language.len()).sum();
    let n_bytes = texts_bytes + if with_payload { rest.payload_json.len() } else { 0 };
    Ok(StoredPoint { prefix, id, texts, payload, n_bytes })
}

/// A vector as bytes.
pub fn encode_vector(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Appends a stored vector of `dim` numbers to `out`.
pub fn decode_vector(bytes: &[u8], dim: usize, out: &mut Vec<f32>) -> Result<()> {
    if bytes.len() != dim * 4 {
        return Err(Error::Damaged {
            what: "a stored vector".to_owned(),
            detail: format!("expected {} bytes, received {}", dim * 4, bytes.len()),
        });
    }
    out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("chunks of four"))));
    Ok(())
}

/// Tokens as bytes.
pub fn encode_tokens(values: &[f16]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Stored tokens of a shape.
pub fn decode_tokens(bytes: &[u8], shape: TokenConfig) -> Result<Tokens> {
    if bytes.len() != shape.bytes() {
        return Err(Error::Damaged {
            what: "stored tokens".to_owned(),
            detail: format!("expected {} bytes, received {}", shape.bytes(), bytes.len()),
        });
    }
    let (pairs, _) = bytes.as_chunks::<2>();
    Ok(Tokens { n: shape.n, dim: shape.dim, values: pairs.iter().map(|pair| f16::from_le_bytes(*pair)).collect() })
}

fn damaged(detail: &str) -> Error {
    Error::Damaged { what: "a stored point".to_owned(), detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_read_back() {
        let payload: Payload = serde_json::from_str(r#"{"a": [1, null, {"b": "ü"}], "c": 2.5}"#).unwrap();
        let texts = vec![Text { text: "火".into(), language: "ja".into() }, Text::default()];
        for id in [PointId::Num(u64::MAX), "é".into()] {
            let n_bytes = "火ja".len() + r#"{"a":[1,null,{"b":"ü"}],"c":2.5}"#.len();
            let (texts, payload) = (texts.clone(), payload.clone());
            let prefix = Prefix { version: 9, vectors: Places(5), tokens: Places(0x8001) };
            let point = StoredPoint { prefix, id, texts, payload, n_bytes };
            let rest = encode_rest(&point.id, &point.texts, &point.payload);
            let bytes = with_prefix(prefix, &rest);
            assert_eq!(decode(&bytes, true, true).unwrap(), point);
            assert_eq!(decode_prefix(&bytes).unwrap(), prefix);
            let bare = decode(&bytes, false, false).unwrap();
            assert!(bare.texts.is_empty() && bare.payload.is_empty() && bare.n_bytes == 0 && bare.id == point.id);
            for cut in 0..bytes.len() {
                assert!(decode(&bytes[..cut], true, true).is_err(), "cut {cut}");
            }
        }
    }

    #[test]
    fn a_vector_is_read_back() {
        let mut out = vec![0.5];
        decode_vector(&encode_vector(&[1.0, -2.5]), 2, &mut out).unwrap();
        assert_eq!(out, [0.5, 1.0, -2.5]);
        assert!(decode_vector(&[0; 7], 2, &mut out).is_err());
    }

    #[test]
    fn tokens_are_read_back() {
        let values: Vec<f16> = [1.0, -2.5, 65_504.0, 6e-8].map(f16::from_f32).to_vec();
        let shape = TokenConfig { n: 2, dim: 2 };
        let tokens = decode_tokens(&encode_tokens(&values), shape).unwrap();
        assert_eq!(tokens, Tokens { n: 2, dim: 2, values });
        for wrong in [7, 9] {
            assert!(decode_tokens(&vec![0; wrong], shape).is_err());
        }
        assert_eq!(Places(0b1011).of(3).collect::<Vec<_>>(), [0, 1]);
        assert_eq!([0, 15].into_iter().collect::<Places>(), Places(0x8001));
    }
}
