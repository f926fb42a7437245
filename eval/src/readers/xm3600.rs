//! Crossmodal-3600: `captions.jsonl`, a line for each picture with the captions of every language, and `images/{key}.jpg`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    Options, files,
    gathered::{Gathered, Pictures},
};
use crate::dataset::Error;

const WHAT: &str = "a line of Crossmodal-3600 with `image/key`, and for each language a list `caption`";
const LANGUAGES: usize = 36;

pub fn first(options: &Options) -> Result<Gathered, Error> {
    read(options, 1)
}

pub fn all(options: &Options) -> Result<Gathered, Error> {
    read(options, usize::MAX)
}

fn read(options: &Options, n_each: usize) -> Result<Gathered, Error> {
    let names = ["captions.jsonl", "xm3600/captions.jsonl", "captions/captions.jsonl"];
    let found = files::find(options, &names, "the captions of Crossmodal-3600")?;
    let pictures = Pictures::of(options, &found.folder, &["images", "xm3600/images"]);
    let mut gathered = Gathered::from(&found.file);
    let mut languages = BTreeSet::new();
    for row in files::json_lines(&found.file, WHAT)? {
        let (n, row): (_, Map<String, Value>) = row?;
        let odd = |received: String| files::odd(&found.file, WHAT, format!("line {n}: {received}"));
        let key = row.get("image/key").and_then(Value::as_str).ok_or_else(|| odd("no `image/key`".to_owned()))?;
        if gathered.place(key).is_some() {
            gathered.repeated.push(key.to_owned());
        }
        let place = gathered.picture(key, pictures.locate(&[&format!("{key}.jpg")]));
        for (language, of_language) in row.iter().filter(|(field, _)| !field.starts_with("image/")) {
            let captions =
                captions(of_language).ok_or_else(|| odd(format!("no list `caption` of texts in `{language}`")))?;
            captions.into_iter().take(n_each).for_each(|caption| gathered.say(place, language, caption));
            languages.insert(language.clone());
        }
    }
    if languages.len() != LANGUAGES {
        gathered.notes.push(format!("expected {LANGUAGES} languages as published, found {}", languages.len()));
    }
    Ok(gathered)
}

fn captions(of_language: &Value) -> Option<Vec<&str>> {
    of_language.get("caption")?.as_array()?.iter().map(Value::as_str).collect()
}
