//! What `firn eval` leaves behind: `results.json` and `questions.jsonl` for machines, `report.md` and `report.html` for people.
//!
//! Everything is said of a [`Results`] and nothing else, so a report can be written again from what was stored.

mod beside;
mod compared;
mod content;
mod failures;
mod html;
mod markdown;
mod numbers;
mod plots;
pub mod published;
mod stored;
mod table;

use std::io;
use std::path::Path;

pub use compared::{Run, compared};
pub use stored::read;

use crate::measures::{self, Group};
use crate::results::{Direction, Failure, Question, Results};

/// Results and what is measured of them, which takes seconds if there are many questions.
pub struct Report<'a> {
    results: &'a Results,
    groups: Vec<Group>,
}

impl<'a> Report<'a> {
    /// Measures every group of questions.
    pub fn of(results: &'a Results) -> Report<'a> {
        Report { results, groups: measures::groups(&results.questions, results.methods.len()) }
    }

    /// All four files, each whole or not at all; `results.json` comes last.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        stored::write_whole(folder, "questions.jsonl", |out| stored::questions(self, out))?;
        stored::write_whole(folder, "report.md", |out| out.write_all(markdown::document(self).as_bytes()))?;
        stored::write_whole(folder, "report.html", |out| out.write_all(html::page(self).as_bytes()))?;
        stored::write_whole(folder, "results.json", |out| stored::results(self, out))
    }

    /// For a terminal: aligned columns, readable without colour.
    pub fn table(&self) -> String {
        markdown::plain(&content::brief(self))
    }

    /// What `results.json` holds.
    pub fn json(&self) -> String {
        let mut written = Vec::new();
        stored::results(self, &mut written).expect("memory takes what is written");
        String::from_utf8_lossy(&written).into_owned()
    }

    /// The ways of asking there are questions of.
    fn kinds(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| group.language.is_empty() && group.length.is_none())
    }

    fn languages_of(&self, kind: &Group) -> Vec<&Group> {
        self.parts_of(kind).filter(|group| !group.language.is_empty()).collect()
    }

    fn lengths_of(&self, kind: &Group) -> Vec<&Group> {
        self.parts_of(kind).filter(|group| group.length.is_some()).collect()
    }

    fn parts_of(&self, kind: &Group) -> impl Iterator<Item = &Group> {
        let kind = (kind.direction, kind.is_joined);
        self.groups.iter().filter(move |group| (group.direction, group.is_joined) == kind)
    }

    /// "Text to image", if documents are pictures; joined: all texts of a document ask as one.
    fn title_of(&self, direction: Direction, is_joined: bool) -> String {
        let title = match (direction, self.has_pictures()) {
            (Direction::ToDocument, true) => "Text to image",
            (Direction::ToQuery, true) => "Image to text",
            (Direction::ToDocument, false) => "Query to document",
            (Direction::ToQuery, false) => "Document to query",
        };
        let joined = if is_joined { ", texts joined" } else { "" };
        format!("{title}{joined}")
    }

    /// Whether documents are pictures: what a picture asks has no words.
    fn has_pictures(&self) -> bool {
        let asked = |q: &Question| q.direction == Direction::ToQuery && q.n_words == 0;
        let is_shown = |failure: &Failure| failure.right.picture.is_some() || failure.query.picture.is_some();
        self.results.questions.iter().any(asked)
            || self.results.failures.iter().any(is_shown)
            || published::ROWS.iter().any(|row| row.asked.dataset == self.results.dataset)
    }
}

/// Writes the report's four files into a folder, which is made if it is not there.
pub fn write(folder: &Path, results: &Results) -> io::Result<()> {
    Report::of(results).write(folder)
}

/// The report for a terminal.
pub fn table(results: &Results) -> String {
    Report::of(results).table()
}
