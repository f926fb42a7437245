//! Texts of images: JSON Lines, plain or gzipped. A row is one caption (`id`, `text`, `language`), or an image with all of
//! its `captions`; `split` and `group` say who is held out.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use serde::Deserialize;

use super::arrays::{bad, open};
use crate::{Error, Result};

/// A text that describes an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    pub text: String,
    /// Empty if it is not said.
    pub language: String,
}

/// What is said of one image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Described {
    pub captions: Vec<Caption>,
    pub belonging: Belonging,
}

/// What decides whether an item is held out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Belonging {
    pub split: Option<String>,
    /// Items of a group are never parted.
    pub group: Option<String>,
}

impl Belonging {
    /// What is said of one image in several places, of which `elsewhere` is the first. `Err` where they do not agree: the image would be
    /// learnt from though it is held out.
    pub(super) fn merge(&mut self, other: Belonging, elsewhere: &str) -> std::result::Result<(), String> {
        for (name, known, said) in [("split", &mut self.split, other.split), ("group", &mut self.group, other.group)] {
            match (known.as_deref(), said) {
                (_, None) => {}
                (None, said) => *known = said,
                (Some(known), Some(said)) if known == said => {}
                (Some(known), Some(said)) => {
                    return Err(format!("{name}: expected {known:?}, as {elsewhere} says, received {said:?}"));
                }
            }
        }
        Ok(())
    }

    /// By its split, where one is given; else by its group, which is the item itself where none is given.
    pub fn is_held_out(&self, id: &str, share: f64) -> bool {
        match &self.split {
            Some(split) => split != "train",
            None => {
                let hash = blake3::hash(self.group.as_deref().unwrap_or(id).as_bytes());
                let number = u32::from_le_bytes(hash.as_bytes()[..4].try_into().expect("a hash has 32 bytes"));
                f64::from(number) < share * f64::from(u32::MAX)
            }
        }
    }
}

/// Groups that were met, with the split of each: no group is parted between what is learnt from and what is held out.
#[derive(Default)]
pub(super) struct Groups(HashMap<String, Option<String>>);

impl Groups {
    pub(super) fn check(&mut self, belonging: &Belonging) -> std::result::Result<(), String> {
        let Some(group) = &belonging.group else { return Ok(()) };
        let Some(known) = self.0.get(group) else {
            self.0.insert(group.clone(), belonging.split.clone());
            return Ok(());
        };
        let is_train = |split: &Option<String>| split.as_deref().map(|split| split == "train");
        match is_train(known) == is_train(&belonging.split) {
            true => Ok(()),
            false => {
                let said =
                    |split: &Option<String>| split.as_ref().map_or("none".to_owned(), |split| format!("{split:?}"));
                let (known, received) = (said(known), said(&belonging.split));
                Err(format!("group {group:?}: expected one split of all its items, received {known} and {received}"))
            }
        }
    }
}

#[derive(Deserialize)]
struct Row {
    id: String,
    #[serde(flatten)]
    belonging: Belonging,
    text: Option<String>,
    #[serde(alias = "lang")]
    language: Option<String>,
    #[serde(default)]
    captions: Vec<Nested>,
}

#[derive(Deserialize)]
struct Nested {
    text: String,
    #[serde(alias = "lang")]
    language: Option<String>,
}

/// By id. Several rows of one id are added up.
pub fn read(path: &Path) -> Result<HashMap<String, Described>> {
    let file = open(path)?;
    let from: Box<dyn Read> = match path.extension() {
        Some(extension) if extension == "gz" => Box::new(flate2::read::MultiGzDecoder::new(file)),
        _ => Box::new(file),
    };
    let mut all: HashMap<String, Described> = HashMap::new();
    for (number, line) in BufReader::new(from).lines().enumerate() {
        let line = line.map_err(|error| unreadable(path, number, error))?;
        if line.trim().is_empty() {
            continue;
        }
        let row: Row = serde_json::from_str(&line).map_err(|e| bad(path, format!("line {}: {e}", number + 1)))?;
        let described = all.entry(row.id).or_default();
        let merged = described.belonging.merge(row.belonging, "another row of the same id");
        merged.map_err(|what| bad(path, format!("line {}: {what}", number + 1)))?;
        let own = row.text.map(|text| Caption { text, language: row.language.unwrap_or_default() });
        let nested = row.captions.into_iter();
        let nested = nested.map(|n| Caption { text: n.text, language: n.language.unwrap_or_default() });
        described.captions.extend(own.into_iter().chain(nested));
    }
    if all.is_empty() {
        return Err(bad(path, "expected captions, received none".to_owned()));
    }
    Ok(all)
}

/// The same, to be learnt from: no group of it is parted.
pub(super) fn read_whole_groups(path: &Path) -> Result<HashMap<String, Described>> {
    let all = read(path)?;
    let mut ids: Vec<&String> = all.keys().collect();
    ids.sort_unstable();
    let mut groups = Groups::default();
    for id in ids {
        groups.check(&all[id].belonging).map_err(|what| bad(path, format!("{id}: {what}")))?;
    }
    Ok(all)
}

/// What was cut short, or is no gzip or no UTF-8, is another fault than a disk that does not answer.
fn unreadable(path: &Path, number: usize, error: std::io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    match error.kind() {
        InvalidData | InvalidInput | UnexpectedEof => {
            bad(path, format!("line {}: cannot be read: {error}", number + 1))
        }
        _ => Error::Io { path: path.to_owned(), error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_both_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.jsonl");
        let text = r#"{"id": "a", "split": "val", "captions": [{"lang": "en", "text": "one"}, {"lang": "de", "text": "eins"}]}
{"id": "b", "group": "g", "text": "two", "language": "en"}

{"id": "b", "group": "g", "text": "zwei", "language": "de"}"#;
        std::fs::write(&path, text).unwrap();
        let all = read(&path).unwrap();
        let caption = |text: &str, language: &str| Caption { text: text.to_owned(), language: language.to_owned() };
        assert_eq!(all["a"].captions, [caption("one", "en"), caption("eins", "de")]);
        assert_eq!(all["b"].captions, [caption("two", "en"), caption("zwei", "de")]);
        assert!(all["a"].belonging.is_held_out("a", 0.0));
        assert_eq!(all["b"].belonging.group.as_deref(), Some("g"));
        // A row that says nothing of the split does not undo what another said; two that differ are refused.
        let rows = [r#"{"id": "a", "split": "val", "text": "x"}"#, r#"{"id": "a", "text": "y"}"#];
        std::fs::write(&path, rows.join("\n")).unwrap();
        assert!(read(&path).unwrap()["a"].belonging.is_held_out("a", 0.0));
        std::fs::write(&path, [rows[0], r#"{"id": "a", "split": "train", "text": "y"}"#].join("\n")).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("line 2: split: expected \"val\""), "{error}");
        // Two archives one behind the other are one file.
        let packed = folder.path().join("c.jsonl.gz");
        let member = |row: &str| {
            let mut pack = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut pack, format!("{row}\n").as_bytes()).unwrap();
            pack.finish().unwrap()
        };
        std::fs::write(&packed, [member(rows[0]), member(rows[1])].concat()).unwrap();
        assert_eq!(read(&packed).unwrap()["a"].captions.len(), 2);
        let whole = std::fs::read(&packed).unwrap();
        std::fs::write(&packed, &whole[..whole.len() - 12]).unwrap();
        let cut = read(&packed).unwrap_err();
        assert!(matches!(cut, Error::BadData { .. }) && cut.to_string().contains("c.jsonl.gz: line "), "{cut}");
        std::fs::write(&path, "{\"id\": 3}").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("c.jsonl: line 1: "), "{error}");
    }

    #[test]
    fn a_group_that_is_parted_by_its_splits_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.jsonl");
        let check = |[a, b]: [&str; 2], expected: Option<&str>| {
            let row = |id: &str, split: &str| {
                let split = if split.is_empty() { String::new() } else { format!(r#""split": "{split}", "#) };
                format!(r#"{{"id": "{id}", {split}"group": "g", "text": "x"}}"#)
            };
            std::fs::write(&path, [row("a", a), row("b", b)].join("\n")).unwrap();
            let error = read_whole_groups(&path).err().map(|error| error.to_string());
            match expected {
                None => assert_eq!(error, None),
                Some(expected) => assert!(error.as_ref().is_some_and(|error| error.ends_with(expected)), "{error:?}"),
            }
        };
        check(["train", "train"], None);
        check(["val", "test"], None);
        check(["", ""], None);
        let expected = "b: group \"g\": expected one split of all its items, received";
        check(["train", "val"], Some(&format!("{expected} \"train\" and \"val\"")));
        check(["val", ""], Some(&format!("{expected} \"val\" and none")));
    }

    #[test]
    fn a_group_is_held_out_whole() {
        let held_out = |id: usize, group: usize| {
            let belonging = Belonging { group: Some(format!("g{group}")), ..Belonging::default() };
            belonging.is_held_out(&format!("i{id}"), 0.1)
        };
        assert!((0..500).all(|group| held_out(1, group) == held_out(2, group)));
        let n = (0..1000).filter(|&group| held_out(0, group)).count();
        assert!((60..140).contains(&n), "{n} of 1000 at a share of 0.1");
    }
}
