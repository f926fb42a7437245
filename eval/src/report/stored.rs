//! A run as files for machines: `results.json`, and `questions.jsonl` with a question a line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dataset::Error;
use crate::measures::Group;
use crate::report::Report;
use crate::results::{Question, Results};

#[derive(Serialize)]
struct Stored<'a> {
    #[serde(flatten)]
    results: &'a Results,
    n_questions: usize,
    groups: &'a [Group],
}

/// What says whether `questions.jsonl` is whole.
#[derive(Deserialize)]
struct Counted {
    n_questions: usize,
}

pub fn results(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let Report { results, groups } = report;
    let stored = Stored { results, n_questions: results.questions.len(), groups };
    serde_json::to_writer_pretty(&mut *out, &stored)?;
    out.write_all(b"\n")
}

pub fn questions(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for question in &report.results.questions {
        serde_json::to_writer(&mut *out, question)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Writes a file beside its name and renames it, so that nobody meets half of it.
pub fn write_whole(folder: &Path, name: &str, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let part = folder.join(format!(".{name}.part"));
    let path = folder.join(name);
    let written = fill(&part, write).and_then(|()| std::fs::rename(&part, &path));
    written.map_err(|error| {
        // It may never have been made.
        let _ = std::fs::remove_file(&part);
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    })
}

fn fill(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    write(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// The results of a folder that [`crate::report::write`] wrote.
pub fn read(folder: &Path) -> Result<Results, Error> {
    let path = folder.join("results.json");
    let mut text = String::new();
    io::Read::read_to_string(&mut open(&path, "the results of a run")?, &mut text)
        .map_err(|error| Error::Io { path: path.clone(), error })?;
    let odd = |error: serde_json::Error| odd(&path, "the results of a run".to_owned(), error.to_string());
    let mut results: Results = serde_json::from_str(&text).map_err(odd)?;
    let Counted { n_questions } = serde_json::from_str(&text).map_err(odd)?;
    results.questions = read_questions(&folder.join("questions.jsonl"), results.methods.len())?;
    if results.questions.len() != n_questions {
        let received = results.questions.len().to_string();
        return Err(self::odd(&folder.join("questions.jsonl"), format!("{n_questions} questions"), received));
    }
    Ok(results)
}

fn read_questions(path: &Path, n_methods: usize) -> Result<Vec<Question>, Error> {
    let file = open(path, "a run's questions")?;
    let parsed = |(place, line): (usize, io::Result<String>)| {
        let line = line.map_err(|error| Error::Io { path: path.to_owned(), error })?;
        let odd = |received: String| odd(path, format!("a question on line {}", place + 1), received);
        let question: Question = serde_json::from_str(&line).map_err(|error| odd(error.to_string()))?;
        if question.ranks.len() != n_methods || question.ndcg.len() != n_methods {
            let (ranks, ndcg) = (question.ranks.len(), question.ndcg.len());
            return Err(odd(format!("{ranks} ranks and {ndcg} nDCG for {n_methods} methods")));
        }
        if question.ranks.contains(&Some(0)) {
            return Err(odd("rank 0, where ranks count from 1".to_owned()));
        }
        Ok(question)
    };
    file.lines().enumerate().map(parsed).collect()
}

fn open(path: &Path, expected: &str) -> Result<BufReader<File>, Error> {
    File::open(path).map(BufReader::new).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.to_owned(), expected: expected.to_owned() },
        _ => Error::Io { path: path.to_owned(), error },
    })
}

fn odd(path: &Path, expected: String, received: String) -> Error {
    Error::Odd { path: PathBuf::from(path), expected, received }
}
