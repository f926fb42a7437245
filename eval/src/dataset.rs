//! A data set as it is asked: documents, queries, and which belongs to which.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use crate::trec;

/// What is read of a published data set by one of its protocols.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// Such as "urban1k".
    pub name: String,
    /// Which of the published ways to read it, as a flag says it; results of different protocols are never compared.
    pub protocol: String,
    /// The protocol in a sentence: which files, which texts, how many.
    pub about: String,
    /// It is whole: the counts are those that the protocol publishes, and nothing was left out.
    pub is_as_published: bool,
    /// It was judged anew, by a file of the user's own.
    pub own_judgements: bool,
    pub documents: Vec<Document>,
    pub queries: Vec<Query>,
    /// Sorted by query, then document; each pair once.
    pub judgements: Vec<Judgement>,
    /// What was odd in the files and how it was read, such as a caption whose first line is blank.
    pub notes: Vec<String>,
}

/// What is looked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Unique among the documents.
    pub id: String,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A picture's file, which was there when the data set was read.
    Picture(PathBuf),
    Text(String),
}

/// A text that looks for documents. In the other direction documents look for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Unique among the queries.
    pub id: String,
    pub text: String,
    /// Such as "en"; empty if it is not known.
    pub language: String,
    /// All texts of a document and language in one.
    pub is_joined: bool,
}

/// How well a document answers a query; what is not judged does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Judgement {
    /// Places.
    pub query: usize,
    pub document: usize,
    /// 1 or more: it belongs, the better the higher.
    pub grade: u32,
}

/// Why a data set cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: expected {expected}, it is not there")]
    Missing { path: PathBuf, expected: String },
    #[error("{path}: expected {expected}, received {received}")]
    Odd { path: PathBuf, expected: String, received: String },
    /// Not as a source: whoever prints the chain of causes would say it twice.
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{what}: expected {expected}, received {received}")]
    Choice { what: &'static str, expected: String, received: String },
}

impl Dataset {
    /// Judges anew by TREC judgements, graded ones too, whose topics are queries; ids as `trec` writes them. What they do not name belongs to
    /// nothing. `Error::Odd` if they name none of the queries, or a document that is not there.
    pub fn judge(&mut self, path: &Path) -> Result<(), Error> {
        let qrels = trec::read_qrels(path)?;
        let places: HashMap<String, usize> =
            self.documents.iter().enumerate().map(|(place, document)| (trec::escaped(&document.id), place)).collect();
        let mut judgements = Vec::new();
        for (query, asked) in self.queries.iter().enumerate() {
            for (id, &grade) in
                qrels.get(&trec::escaped(&asked.id)).into_iter().flatten().filter(|(_, grade)| **grade > 0)
            {
                let document = *places.get(id).ok_or_else(|| {
                    let (expected, received) = ("documents of the data set".to_owned(), format!("{id:?}"));
                    Error::Odd { path: path.to_owned(), expected, received }
                })?;
                judgements.push(Judgement { query, document, grade: grade as u32 });
            }
        }
        if judgements.is_empty() {
            let expected = "judgements of queries such as ".to_owned()
                + &self.queries.first().map_or_else(String::new, |query| format!("{:?}", query.id));
            return Err(Error::Odd { path: path.to_owned(), expected, received: "none".to_owned() });
        }
        judgements.sort_unstable();
        self.judgements = judgements;
        self.own_judgements = true;
        let n = self.documents_of().iter().filter(|of| !of.is_empty()).count();
        self.notes.push(format!("judged by {}: {n} of {} queries", path.display(), self.queries.len()));
        Ok(())
    }

    /// BLAKE3 of what is asked, in hex: names, ids, texts, judgements; of a picture the id, not where it lies.
    pub fn hash(&self) -> String {
        let mut hash = Hash::default();
        hash.texts([&self.name, &self.protocol]);
        hash.number(self.documents.len());
        for Document { id, content } in &self.documents {
            match content {
                Content::Picture(_) => hash.texts(["picture", id]),
                Content::Text(text) => hash.texts(["text", id, text]),
            }
        }
        hash.number(self.queries.len());
        for Query { id, text, language, is_joined } in &self.queries {
            hash.texts([id, text, language]);
            hash.number(usize::from(*is_joined));
        }
        for Judgement { query, document, grade } in &self.judgements {
            [*query, *document, *grade as usize].into_iter().for_each(|number| hash.number(number));
        }
        hash.0.finalize().to_hex().to_string()
    }

    /// The documents that belong to each query, (place, grade).
    pub fn documents_of(&self) -> Vec<Vec<(usize, u32)>> {
        let mut of = vec![Vec::new(); self.queries.len()];
        self.judgements.iter().for_each(|judged| of[judged.query].push((judged.document, judged.grade)));
        of
    }

    /// The queries that belong to each document, (place, grade).
    pub fn queries_of(&self) -> Vec<Vec<(usize, u32)>> {
        let mut of = vec![Vec::new(); self.documents.len()];
        self.judgements.iter().for_each(|judged| of[judged.document].push((judged.query, judged.grade)));
        of
    }
}

/// Lengths go before texts, so that no two data sets are one row of bytes.
#[derive(Default)]
struct Hash(blake3::Hasher);

impl Hash {
    fn number(&mut self, number: usize) {
        self.0.update(&(number as u64).to_le_bytes());
    }

    fn texts<T: AsRef<str>, const N: usize>(&mut self, texts: [T; N]) {
        for text in texts {
            self.number(text.as_ref().len());
            self.0.update(text.as_ref().as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Dataset {
        let document = |id: &str, path: &str| Document { id: id.to_owned(), content: Content::Picture(path.into()) };
        let query = |id: &str, text: &str| Query { id: id.to_owned(), text: text.to_owned(), ..Query::default() };
        Dataset {
            name: "urban1k".to_owned(),
            protocol: "first-line".to_owned(),
            documents: vec![document("a", "x/a.jpg"), document("b", "x/b.jpg")],
            queries: vec![query("a#1", "A tram."), query("b#1", "A street.")],
            judgements: vec![
                Judgement { query: 0, document: 0, grade: 1 },
                Judgement { query: 1, document: 1, grade: 1 },
            ],
            ..Dataset::default()
        }
    }

    #[test]
    fn a_hash_is_of_what_is_asked_and_not_of_where_it_lies() {
        let of = |change: &dyn Fn(&mut Dataset)| {
            let mut dataset = small();
            change(&mut dataset);
            dataset.hash()
        };
        let whole = small().hash();
        assert_eq!(whole.len(), 64);
        let same: [&dyn Fn(&mut Dataset); 3] = [
            &|data| data.documents[0].content = Content::Picture("elsewhere/a.png".into()),
            &|data| data.about = "another file".to_owned(),
            &|data| data.notes.push("odd".to_owned()),
        ];
        same.iter().for_each(|change| assert_eq!(of(change), whole));
        let other: [&dyn Fn(&mut Dataset); 9] = [
            &|data| data.name = "dci".to_owned(),
            &|data| data.protocol = String::new(),
            &|data| data.documents[0].id = "c".to_owned(),
            &|data| data.documents[0].content = Content::Text(String::new()),
            &|data| data.queries[0].text.push('!'),
            &|data| (data.queries[0].id, data.queries[0].text) = ("a#1A".to_owned(), " tram.".to_owned()),
            &|data| data.queries[0].language = "en".to_owned(),
            &|data| data.judgements[1].grade = 2,
            &|data| data.judgements.truncate(1),
        ];
        let hashes: std::collections::HashSet<String> = other.iter().map(|change| of(change)).collect();
        assert!(hashes.len() == other.len() && !hashes.contains(&whole), "{hashes:?}");
    }

    #[test]
    fn what_is_judged_by_another_file_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qrels");
        std::fs::write(&path, "a#1 0 b 1\n").unwrap();
        let mut dataset = small();
        assert!(!dataset.own_judgements);
        dataset.judge(&path).unwrap();
        assert!(dataset.own_judgements && dataset.hash() != small().hash());
    }
}
