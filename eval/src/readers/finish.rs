//! What all data sets share: pictures are there, blank texts are left out, ids are unique, and counts stand beside the
//! published ones.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::RangeInclusive,
};

use super::{
    DataSet, Options, Protocol,
    catalog::Published,
    files,
    gathered::{Entry, Gathered, Said},
};
use crate::dataset::{Content, Dataset, Document, Error, Judgement, Query};

/// Documents and texts as a data set: queries in the order of their documents, joined ones after a document's others.
pub fn finish(
    gathered: Gathered,
    data_set: &DataSet,
    protocol: &Protocol,
    options: &Options,
) -> Result<Dataset, Error> {
    if !options.without_pictures {
        check_pictures(&gathered)?;
    }
    let counts = check_counts(&gathered)?;
    let has_languages = check_languages(&gathered, options)?;
    let mut dataset = Dataset {
        name: data_set.name.to_owned(),
        protocol: protocol.name.to_owned(),
        about: about(&gathered, protocol, counts, options),
        is_as_published: is_whole(&gathered, protocol, counts, options),
        notes: notes(&gathered, protocol, counts),
        ..Dataset::default()
    };
    let mut ids = HashSet::new();
    for entry in gathered.documents {
        let document = dataset.documents.len();
        for mut query in queries(&entry, has_languages, options) {
            // Only where ids themselves end like that of a query.
            while !ids.insert(query.id.clone()) {
                query.id.push('\'');
            }
            dataset.judgements.push(Judgement { query: dataset.queries.len(), document, grade: 1 });
            dataset.queries.push(query);
        }
        dataset.documents.push(Document { id: entry.id, content: entry.content });
    }
    Ok(dataset)
}

fn check_pictures(gathered: &Gathered) -> Result<(), Error> {
    let all = counted(gathered.documents.len());
    match &gathered.missing[..] {
        [] => Ok(()),
        [only] => Err(files::missing(only, &format!("a picture, the only one of {all} that is missing"))),
        [first, ..] => {
            let n = counted(gathered.missing.len());
            Err(files::missing(first, &format!("a picture, the first of {n} of {all} that are missing")))
        }
    }
}

/// Documents, and texts that are not blank.
fn check_counts(gathered: &Gathered) -> Result<(usize, usize), Error> {
    let documents = gathered.documents.len();
    let texts = said(gathered).count();
    if texts == 0 {
        let received = format!("{} documents with no text", counted(documents));
        return Err(files::odd(&gathered.from, "documents and texts", received));
    }
    Ok((documents, texts))
}

fn said(gathered: &Gathered) -> impl Iterator<Item = &Said> {
    gathered.documents.iter().flat_map(|entry| &entry.texts).filter(|said| !is_blank(said))
}

fn is_blank(said: &Said) -> bool {
    said.text.trim().is_empty()
}

/// Whether the texts differ in their language; all languages that are asked for are there.
fn check_languages(gathered: &Gathered, options: &Options) -> Result<bool, Error> {
    let languages: BTreeSet<&str> = said(gathered).map(|said| said.language.as_str()).collect();
    let named: Vec<&str> = languages.iter().copied().filter(|language| !language.is_empty()).collect();
    match options.languages.iter().find(|language| !named.contains(&language.as_str())) {
        None => Ok(languages.len() > 1),
        Some(language) => {
            let expected = match &named[..] {
                [] => "none, because the data names no language".to_owned(),
                named => format!("one of {}", named.join(", ")),
            };
            Err(Error::Choice { what: "language", expected, received: language.clone() })
        }
    }
}

fn queries(entry: &Entry, has_languages: bool, options: &Options) -> Vec<Query> {
    let mut queries = Vec::new();
    let mut of_language: Vec<(&str, usize, Vec<&str>)> = Vec::new();
    for said in &entry.texts {
        let language = said.language.as_str();
        let at = of_language.iter().position(|(known, ..)| *known == language).unwrap_or(of_language.len());
        if at == of_language.len() {
            of_language.push((language, 0, Vec::new()));
        }
        let (_, n, texts) = &mut of_language[at];
        *n += 1;
        if is_blank(said) || !is_asked_for(language, options) {
            continue;
        }
        texts.push(&said.text);
        queries.push(query(entry, language, has_languages, &n.to_string(), said.text.clone()));
    }
    for (language, _, texts) in of_language.iter().filter(|(.., texts)| options.joined && texts.len() > 1) {
        let joined = query(entry, language, has_languages, "joined", texts.join(" "));
        queries.push(Query { is_joined: true, ..joined });
    }
    queries
}

fn is_asked_for(language: &str, options: &Options) -> bool {
    options.languages.is_empty() || options.languages.iter().any(|asked| asked == language)
}

fn query(entry: &Entry, language: &str, has_languages: bool, n: &str, text: String) -> Query {
    let id = match has_languages && !language.is_empty() {
        true => format!("{}#{language}#{n}", entry.id),
        false => format!("{}#{n}", entry.id),
    };
    Query { id, text, language: language.to_owned(), is_joined: false }
}

fn about(gathered: &Gathered, protocol: &Protocol, (documents, texts): (usize, usize), options: &Options) -> String {
    let file = gathered.from.file_name().map(|name| format!("{}: ", name.to_string_lossy())).unwrap_or_default();
    let thing = thing(gathered);
    let found = in_words(&(documents..=documents), &(texts..=texts), thing);
    let mut about = format!("{file}{}; {found}", protocol.about);
    about += &match &protocol.published {
        None => ", no count is published".to_owned(),
        Some(published) if is_as_published(published, documents, texts) => ", as published".to_owned(),
        Some(Published { documents, texts }) => format!(", published are {}", in_words(documents, texts, thing)),
    };
    if !options.languages.is_empty() {
        about += &format!("; of these only texts in {}", options.languages.join(", "));
    }
    about
}

fn thing(gathered: &Gathered) -> &'static str {
    let is_text = gathered.documents.iter().any(|entry| matches!(entry.content, Content::Text(_)));
    if is_text { "document" } else { "picture" }
}

fn notes(gathered: &Gathered, protocol: &Protocol, (documents, texts): (usize, usize)) -> Vec<String> {
    let mut notes = gathered.notes.clone();
    if let Some(published) = &protocol.published
        && !is_as_published(published, documents, texts)
    {
        let thing = thing(gathered);
        let expected = in_words(&published.documents, &published.texts, thing);
        let found = in_words(&(documents..=documents), &(texts..=texts), thing);
        notes.push(format!("expected {expected} as published, found {found}"));
    }
    let blank = gathered.documents.iter().filter(|entry| entry.texts.iter().any(is_blank));
    let blank: Vec<&str> = blank.map(|entry| entry.id.as_str()).collect();
    let silent = gathered.documents.iter().filter(|entry| entry.texts.iter().all(is_blank));
    let silent: Vec<&str> = silent.map(|entry| entry.id.as_str()).collect();
    let repeated: Vec<&str> = gathered.repeated.iter().map(String::as_str).collect();
    notes.extend(named(&blank, "blank texts were left out of"));
    notes.extend(named(&silent, "no text looks for"));
    notes.extend(named(&repeated, "named more than once, and read as one with all its texts:"));
    match n_shared(gathered) {
        0 => {}
        1 => notes.push("1 text belongs to several documents: only the one it was given for is right".to_owned()),
        n => notes.push(format!(
            "{} texts belong to several documents: only the one each was given for is right",
            counted(n)
        )),
    }
    notes
}

/// What happened to a document, and to how many others.
fn named(ids: &[&str], what: &str) -> Option<String> {
    match ids {
        [] => None,
        [only] => Some(format!("{what} {only}")),
        [first, others @ ..] => Some(format!("{what} {first} and {} more", counted(others.len()))),
    }
}

/// Different texts that are the same for more than one document.
fn n_shared(gathered: &Gathered) -> usize {
    let mut first: HashMap<&str, usize> = HashMap::new();
    let mut shared = HashSet::new();
    for (place, entry) in gathered.documents.iter().enumerate() {
        for said in entry.texts.iter().filter(|said| !is_blank(said)) {
            if *first.entry(&said.text).or_insert(place) != place {
                shared.insert(said.text.as_str());
            }
        }
    }
    shared.len()
}

/// As published, with no language left out.
fn is_whole(gathered: &Gathered, protocol: &Protocol, (documents, texts): (usize, usize), options: &Options) -> bool {
    let has_counts = protocol.published.as_ref().is_some_and(|published| is_as_published(published, documents, texts));
    has_counts && said(gathered).all(|said| is_asked_for(&said.language, options))
}

fn is_as_published(published: &Published, documents: usize, texts: usize) -> bool {
    published.documents.contains(&documents) && published.texts.contains(&texts)
}

fn in_words(documents: &RangeInclusive<usize>, texts: &RangeInclusive<usize>, thing: &str) -> String {
    let words = |n: &RangeInclusive<usize>, thing: &str| match (*n.start(), *n.end()) {
        (1, 1) => format!("1 {thing}"),
        (start, end) if start == end => format!("{} {thing}s", counted(start)),
        (start, end) => format!("{} to {} {thing}s", counted(start), counted(end)),
    };
    match documents == texts {
        true => words(documents, "pair"),
        false => format!("{} and {}", words(documents, thing), words(texts, "text")),
    }
}

/// With a comma before each three digits.
pub fn counted(n: usize) -> String {
    let digits = n.to_string();
    let mut counted = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            counted.push(',');
        }
        counted.push(digit);
    }
    counted
}
