//! A report as Markdown, and as plain text for a terminal.

use crate::report::table::{Block, Table};
use crate::report::{Report, content};

/// Columns of a terminal.
const WIDTH: usize = 110;

/// The whole `report.md`.
pub fn document(report: &Report) -> String {
    let mut text = format!("# firn eval: {}\n", escaped(&content::title(report)));
    for block in content::full(report) {
        text.push('\n');
        text.push_str(&marked(&block));
    }
    text
}

fn marked(block: &Block) -> String {
    match block {
        Block::Heading(level, said) => format!("{} {}\n", "#".repeat(*level), escaped(said)),
        Block::Text(said) => format!("{}\n", escaped(said)),
        Block::List(items) => items.iter().map(|item| format!("- {}\n", escaped(item))).collect(),
        Block::Facts(facts) => facts.iter().map(|(term, said)| format!("- **{term}**: {}\n", escaped(said))).collect(),
        Block::Table(table) => marked_table(table),
    }
}

fn marked_table(table: &Table) -> String {
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().map(|cell| escaped(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule: Vec<&str> = (0..table.head.len()).map(|c| if table.is_words(c) { "---" } else { "---:" }).collect();
    let mut text = line(&table.head);
    text.push_str(&format!("| {} |\n", rule.join(" | ")));
    text.extend(table.rows.iter().map(line));
    text
}

/// On one line, with nothing in it that Markdown reads as a sign.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in one_line(text).chars() {
        if matches!(letter, '\\' | '|' | '*' | '`' | '<') {
            safe.push('\\');
        }
        safe.push(letter);
    }
    safe
}

/// Aligned columns, sentences broken into lines, no marks but a rule under heads.
pub fn plain(blocks: &[Block]) -> String {
    let mut text = String::new();
    for (place, block) in blocks.iter().enumerate() {
        if place > 0 {
            text.push('\n');
        }
        let lines = match block {
            Block::Heading(level, said) => ruled(*level, said),
            Block::Text(said) => wrapped("", said),
            Block::List(items) => items.iter().flat_map(|item| wrapped("- ", item)).collect(),
            Block::Facts(facts) => facts.iter().flat_map(|(term, said)| wrapped(&format!("{term:<8}"), said)).collect(),
            Block::Table(table) => table.aligned(),
        };
        lines.iter().for_each(|line| text.extend([line, "\n"]));
    }
    text
}

/// What heads a section has a line below.
fn ruled(level: usize, said: &str) -> Vec<String> {
    let mut lines = wrapped("", said);
    if level < 3 {
        let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        lines.push("=".repeat(width));
    }
    lines
}

/// Lines of up to `WIDTH` letters; what leads the first is blank before the others.
fn wrapped(lead: &str, text: &str) -> Vec<String> {
    let (mut lines, mut line, mut is_begun) = (Vec::new(), lead.to_owned(), false);
    for word in text.split_whitespace() {
        if is_begun && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(std::mem::replace(&mut line, " ".repeat(lead.chars().count())));
            is_begun = false;
        }
        if is_begun {
            line.push(' ');
        }
        line.push_str(word);
        is_begun = true;
    }
    lines.push(line.trim_end().to_owned());
    lines
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<&str>>().join(" ")
}
