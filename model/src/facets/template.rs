//! What a caption is asked: a prefix that holds it, and the facets that follow. Templates are data, in TOML.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, folder};

const FLAME: &str = include_str!("flame.toml");
const MAX_FILE_BYTES: u64 = 1 << 20;
const MAX_FACETS: usize = 64;
const CAPTION: &str = "{caption}";
const BOS: &str = "{bos}";

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Holds `{caption}` once.
    pub prefix: String,
    /// What is asked after the prefix, each as if it stood there alone.
    pub facets: Vec<String>,
    /// With the tokenizer's start token, as FLAME counts.
    #[serde(default = "flame_limit")]
    pub max_caption_tokens: usize,
}

fn flame_limit() -> usize {
    1024
}

/// A text to tokenize, and where in it, in bytes, the prefix and each facet end.
pub(super) struct Filled {
    pub text: String,
    pub ends: Vec<usize>,
}

impl Template {
    /// `flame-1`, `flame-3` or `flame-7`.
    pub fn flame(name: &str) -> Result<Template> {
        Template::of_toml(FLAME, name).map_err(|detail| Error::BadFile { file: "flame.toml".into(), detail })
    }

    /// By its name in a file of the user's.
    pub fn read(path: &Path, name: &str) -> Result<Template> {
        let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
        let text = String::from_utf8(folder::read(path, MAX_FILE_BYTES)?).map_err(|e| bad(e.to_string()))?;
        Template::of_toml(&text, name).map_err(bad)
    }

    fn of_toml(text: &str, name: &str) -> Result<Template, String> {
        let mut templates: BTreeMap<String, Template> = toml::from_str(text).map_err(|e| format!("not TOML: {e}"))?;
        let Some(template) = templates.remove(name) else {
            let names: Vec<String> = templates.into_keys().collect();
            return Err(format!("expected a template {name:?}, received {}", names.join(", ")));
        };
        template.validated().map_err(|detail| format!("{name}.{detail}"))
    }

    fn validated(self) -> Result<Template, String> {
        let n_facets = self.facets.len();
        match self.prefix.matches(CAPTION).count() {
            1 => (),
            n => return Err(format!("prefix: expected {CAPTION} once, received it {n} times")),
        }
        if n_facets == 0 || n_facets > MAX_FACETS {
            return Err(format!("facets: expected 1 to {MAX_FACETS}, received {n_facets}"));
        }
        if let Some(i) = self.facets.iter().position(|facet| facet.trim().is_empty()) {
            return Err(format!("facets: facet {i} is empty"));
        }
        match self.facets.iter().position(|facet| facet.contains(CAPTION)) {
            Some(i) => Err(format!("facets: expected {CAPTION} in the prefix alone, received it in facet {i}")),
            None => Ok(self),
        }
    }

    pub(super) fn needs_bos(&self) -> bool {
        self.prefix.contains(BOS) || self.facets.iter().any(|facet| facet.contains(BOS))
    }

    /// The whole text about a cleaned caption; `bos` may be empty if it is not needed.
    pub(super) fn fill(&self, caption: &str, bos: &str) -> Filled {
        // The caption comes last, so that braces in it stay what they are.
        let mut text = self.prefix.replace(BOS, bos).replace(CAPTION, caption);
        let mut ends = vec![text.len()];
        for facet in &self.facets {
            text.push_str(&facet.replace(BOS, bos));
            ends.push(text.len());
        }
        Filled { text, ends }
    }
}

/// FLAME's clean-up: a caption ends with a mark, holds no double quote, and asks nothing.
pub(super) fn clean(caption: &str) -> String {
    let closed = if caption.ends_with(['.', '?', '"', '\'']) { "" } else { "." };
    let caption = format!("{caption}{closed}").replace('"', "'");
    match caption.strip_suffix('?') {
        Some(question) => format!("{question}."),
        None => caption,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_cleaned_as_flame_cleans_them() {
        for (caption, cleaned) in [
            ("a cat", "a cat."),
            ("a cat.", "a cat."),
            ("a cat?", "a cat."),
            ("a cat!", "a cat!."),
            ("the sign says \"open\"", "the sign says 'open'"),
            ("it's the cats'", "it's the cats'"),
            ("is it \"open\"?", "is it 'open'."),
            ("a cat \n", "a cat \n."),
        ] {
            assert_eq!(clean(caption), cleaned);
        }
    }

    #[test]
    fn the_templates_of_flame() {
        let single = Template::flame("flame-1").unwrap().fill("A cat.", "");
        assert_eq!(
            single.text,
            "Image description : \"A cat.\" . After thinking step by step , this image description means in just one word:\""
        );
        assert_eq!(single.ends, [60, single.text.len()]);
        for (name, n_facets) in [("flame-1", 1), ("flame-3", 3), ("flame-7", 7)] {
            let template = Template::flame(name).unwrap();
            assert_eq!((template.facets.len(), template.max_caption_tokens), (n_facets, 1024));
            assert_eq!(template.needs_bos(), n_facets > 1);
        }
        let long = Template::flame("flame-7").unwrap().fill("A {bos} cat.", "<s>");
        let start = "Detailed Image description : \"A {bos} cat.\" . After thinking step by step ,";
        assert!(
            long.text
                .starts_with(&format!("{start} <s> this image description means in just one word:\" the category"))
        );
        assert_eq!(long.ends[0], start.len());
        assert_eq!(long.text.matches("means in just one word:\"").count(), 7);
    }

    #[test]
    fn a_file_that_makes_no_template_is_refused() {
        let check = |toml: &str, expected: &str| {
            let error = Template::of_toml(toml, "mine").unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        let facets = "facets = [' the rock is:\"']";
        check("mine", "not TOML");
        check(&format!("[yours]\nprefix = '{{caption}}'\n{facets}"), "expected a template \"mine\", received yours");
        check(
            &format!("[mine]\nprefix = 'none'\n{facets}"),
            "mine.prefix: expected {caption} once, received it 0 times",
        );
        check("[mine]\nprefix = '{caption}'\nfacets = []", "mine.facets: expected 1 to 64, received 0");
        check("[mine]\nprefix = '{caption}'\nfacets = [' ']", "mine.facets: facet 0 is empty");
        check("[mine]\nprefix = '{caption}'\nfacets = ['a', '{caption}']", "prefix alone, received it in facet 1");
        check(&format!("[mine]\nprefix = '{{caption}}'\n{facets}\ncolour = 1"), "unknown field `colour`");
        let mine = format!("[mine]\nprefix = 'Thin section: {{caption}}'\n{facets}\nmax_caption_tokens = 64");
        assert_eq!(Template::of_toml(&mine, "mine").unwrap().max_caption_tokens, 64);
    }
}
