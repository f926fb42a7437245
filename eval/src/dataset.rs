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
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
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
        let n = self.documents_of().iter().filter(|of| !of.is_empty()).count();
        self.notes.push(format!("judged by {}: {n} of {} queries", path.display(), self.queries.len()));
        Ok(())
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
