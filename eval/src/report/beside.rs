//! A run beside published figures: which are comparable with it, and why others are not.

use std::ops::RangeInclusive;

use crate::readers;
use crate::report::published::{self, Asked, Figure, Row};
use crate::report::table::{Block, Table};
use crate::report::{Report, content, numbers};
use crate::results::{Direction, Results};

/// Rows of one table, and what is asked of them.
type Rows = (Asked, Vec<&'static Row>);

/// What is published of a run's data set.
struct Published {
    /// By the same protocol.
    same: Vec<&'static Row>,
    /// Why not even these are comparable.
    barred: Option<String>,
    others: Vec<Rows>,
}

impl Published {
    fn of(report: &Report) -> Published {
        let Results { dataset, protocol, .. } = report.results;
        Published {
            same: published::comparable(dataset, protocol),
            barred: barred(report),
            others: published::of_other_protocols(dataset, protocol),
        }
    }
}

/// This run among what is published by the same protocol.
pub fn comparable(report: &Report) -> Vec<Block> {
    let Published { same, barred, .. } = Published::of(report);
    if same.is_empty() || barred.is_some() {
        return Vec::new();
    }
    let mut table = table();
    for (place, name) in report.results.methods.iter().enumerate() {
        let said = |direction| {
            let kind = report.kinds().find(|kind| kind.direction == direction && !kind.is_joined);
            kind.and_then(|kind| kind.methods.get(place)).map_or(String::new(), |m| numbers::percent(m.at_1.value))
        };
        let [to_query, to_document] = [Direction::ToQuery, Direction::ToDocument].map(said);
        table.rows.push(vec![content::name(name), to_query, to_document, "this run".to_owned()]);
    }
    table.rows.extend(same.iter().map(|row| cells(row)));
    let said = format!("R@1 of others by the same protocol: {}.", same[0].asked.about);
    vec![Block::Heading(2, "Published figures".to_owned()), Block::Text(said), Block::Table(table)]
}

/// What is published of the data set and not comparable, and why.
pub fn others(report: &Report) -> Vec<Block> {
    let Published { same, barred, others } = Published::of(report);
    let (mut heading, mut tables) = ("Published by another protocol: not comparable", Vec::new());
    if let (Some(why), Some(first)) = (barred, same.first()) {
        heading = "Published figures: not comparable";
        tables.push((format!("{}: {}; but {why}.", first.asked.protocol, first.asked.about), same));
    }
    for (asked, rows) in others {
        let said = if asked.protocol.is_empty() { "None of firn's protocols" } else { asked.protocol };
        tables.push((format!("{said}: {}.", asked.about), rows));
    }
    if tables.is_empty() {
        return Vec::new();
    }
    let blocks = tables.into_iter().flat_map(|(said, rows)| {
        let rows = rows.into_iter().map(cells).collect();
        [Block::Text(said), Block::Table(Table { rows, ..table() })]
    });
    [Block::Heading(2, heading.to_owned())].into_iter().chain(blocks).collect()
}

/// That there are such, in a sentence.
pub fn others_in_brief(report: &Report) -> Option<Block> {
    let Published { same, barred, others } = Published::of(report);
    let n = others.iter().map(|(_, rows)| rows.len()).sum::<usize>();
    let said = |n| numbers::counted(n, "published figure", "published figures");
    Some(Block::Text(match barred.filter(|_| !same.is_empty()) {
        Some(why) => format!("{} cannot be compared: {why}. See report.md.", said(n + same.len())),
        None if n > 0 => format!("{} by another protocol, not comparable: see report.md.", said(n)),
        None => return None,
    }))
}

/// Why nothing at all is comparable with a run.
fn barred(report: &Report) -> Option<String> {
    let Results { own_judgements, is_as_published, dataset, .. } = report.results;
    if *own_judgements {
        return Some("this run was judged by a file of its own, not by the data set's pairs".to_owned());
    }
    let n_languages = report.kinds().map(|kind| report.languages_of(kind).len()).min().unwrap_or(0);
    if dataset == "xm3600" && n_languages != published::XM3600_LANGUAGES {
        return Some(format!("this run asks in {} of {} languages", n_languages.max(1), published::XM3600_LANGUAGES));
    }
    (!is_as_published).then(|| part(report))
}

/// "this run has 999 of 1,000 documents and 999 of 1,000 queries"
fn part(report: &Report) -> String {
    let Results { dataset, protocol, n_documents, n_queries, questions, .. } = report.results;
    let n_joined = questions.iter().filter(|q| q.direction == Direction::ToDocument && q.is_joined).count();
    let n_queries = n_queries.saturating_sub(n_joined);
    match readers::published_counts(dataset, protocol) {
        Some((documents, queries)) if !documents.contains(n_documents) || !queries.contains(&n_queries) => {
            let (documents, queries) = (among(*n_documents, documents), among(n_queries, queries));
            format!("this run has {documents} documents and {queries} queries")
        }
        _ => "this run does not say whether its data set is whole".to_owned(),
    }
}

fn among(n: usize, published: RangeInclusive<usize>) -> String {
    let (from, to) = (numbers::count(*published.start()), numbers::count(*published.end()));
    let published = if from == to { from } else { format!("{from} to {to}") };
    format!("{} of {published}", numbers::count(n))
}

fn table() -> Table {
    Table { ends_in_words: true, ..Table::new(["method", "image to text", "text to image", "source"]) }
}

fn cells(row: &Row) -> Vec<String> {
    let said = |figure: Option<Figure>| figure.map_or("-".to_owned(), |figure| figure.in_words());
    vec![row.method.to_owned(), said(row.to_query), said(row.to_document), row.source.to_owned()]
}
