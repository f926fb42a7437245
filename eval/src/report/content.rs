//! What a report says, section by section, before it is known how it will look.

use crate::measures::{Group, NDCG_AT};
use crate::report::table::{Block, Table};
use crate::report::{Report, beside, numbers};
use crate::results::{ALL_QUESTIONS, IndexSettings, Made, Results};

/// Methods side by side in a table of languages or lengths: more do not fit; the first and the last ones do.
const N_SIDE_BY_SIDE: usize = 5;
/// Letters of a name in a table.
const N_NAME_LETTERS: usize = 20;
/// Notes, and letters of each.
const N_NOTES: usize = 50;
const N_NOTE_LETTERS: usize = 600;
/// Rows of bins and of stages.
const N_ROWS: usize = 100;

/// Everything.
pub fn full(report: &Report) -> Vec<Block> {
    let mut blocks = summary(report);
    report.kinds().for_each(|kind| blocks.extend(measured(report, kind)));
    blocks.extend(beside::comparable(report));
    blocks.extend(beside::others(report));
    blocks.extend(calibration(report));
    blocks.extend(stages(report));
    blocks
}

/// All but what is not comparable anyway: it can be read in the files.
pub fn brief(report: &Report) -> Vec<Block> {
    let mut blocks = vec![Block::Heading(1, title(report))];
    blocks.extend(summary(report));
    report.kinds().for_each(|kind| blocks.extend(measured(report, kind)));
    blocks.extend(beside::comparable(report));
    blocks.extend(beside::others_in_brief(report));
    blocks.extend(calibration(report));
    blocks.extend(stages(report));
    blocks
}

pub fn title(report: &Report) -> String {
    format!("{}, protocol {}", report.results.dataset, report.results.protocol)
}

/// What was asked of whom, and what came out in a sentence for each way of asking.
pub fn summary(report: &Report) -> Vec<Block> {
    let Results { about, firn, model, reranker, index, n_documents, n_queries, depth, notes, .. } = report.results;
    let made = |of: &Made| format!("{} ({})", of.name, of.hash);
    let counts = format!(
        "{}, {}",
        numbers::counted(*n_documents, "document", "documents"),
        numbers::counted(*n_queries, "query", "queries")
    );
    let mut facts = vec![
        ("about", about.clone()),
        ("counts", format!("{counts}; looked at to place {}", numbers::count(*depth))),
        ("model", made(model)),
        ("network", reranker.as_ref().map_or("none".to_owned(), made)),
        ("firn", firn.clone()),
    ];
    if let Some(index) = index {
        facts.insert(facts.len() - 1, ("index", settings(index)));
    }
    let mut blocks = vec![Block::Facts(facts)];
    if !notes.is_empty() {
        blocks.push(Block::Text("Notes:".to_owned()));
        blocks.push(Block::List(first_notes(notes)));
    }
    let said: Vec<String> = report.kinds().map(|kind| sentence(report, kind)).collect();
    blocks.push(if said.is_empty() { Block::Text("No question was asked.".to_owned()) } else { Block::List(said) });
    blocks
}

fn settings(IndexSettings { m, ef_construction, ef, limit }: &IndexSettings) -> String {
    let limit = numbers::counted(*limit, "hit", "hits");
    format!("m {m}, ef_construction {ef_construction}, ef {ef}, {limit}")
}

fn first_notes(notes: &[String]) -> Vec<String> {
    let mut first: Vec<String> = notes.iter().take(N_NOTES).map(|note| cut(note, N_NOTE_LETTERS)).collect();
    if notes.len() > N_NOTES {
        first.push(format!("and {} more", numbers::count(notes.len() - N_NOTES)));
    }
    first
}

/// "Text to image: R@1 57.4 ± 1.2 by exact, 62.7 ± 1.1 by rerank@50, a gain of +5.3 [+3.1, +7.5]."
fn sentence(report: &Report, kind: &Group) -> String {
    let names = &report.results.methods;
    let said = |place: usize| format!("{} by {}", at_1(kind, place), names[place]);
    let gained = match names.len() {
        0 => return format!("{}: no method answered.", report.title_of(kind.direction, kind.is_joined)),
        1 => said(0),
        n => format!("{}, {}, a gain of {}", said(0), said(n - 1), gain(kind, n - 1)),
    };
    format!("{}: R@1 {gained}.", report.title_of(kind.direction, kind.is_joined))
}

/// The tables of one way of asking: all questions, each language, each length.
pub fn measured(report: &Report, kind: &Group) -> Vec<Block> {
    let mut blocks = vec![Block::Heading(2, report.title_of(kind.direction, kind.is_joined))];
    let n = numbers::counted(kind.n_questions, "question", "questions");
    let clusters = numbers::counted(kind.n_clusters, "document", "documents");
    blocks.push(Block::Text(format!("{n} about {clusters}; percent ± standard error.")));
    blocks.push(Block::Table(methods_table(report, kind)));
    blocks.extend(explained(report));
    for (part, groups) in [("language", report.languages_of(kind)), ("length", report.lengths_of(kind))] {
        if !groups.is_empty() {
            blocks.push(Block::Heading(3, format!("R@1 by {part}")));
            blocks.push(Block::Table(parts_table(report, part, &groups)));
        }
    }
    blocks
}

/// What gains are over, and what is re-ranked.
fn explained(report: &Report) -> Option<Block> {
    let [plain, _, ..] = &report.results.methods[..] else { return None };
    let mut said = format!("Gains are over {}; p is two-sided, by paired bootstrap over documents.", name(plain));
    if report.results.reranker.is_some() {
        said += " Re-ranked are the first candidates of exact search: what the index loses is not part of it.";
    }
    Some(Block::Text(said))
}

fn methods_table(report: &Report, kind: &Group) -> Table {
    let ndcg = format!("nDCG@{NDCG_AT}");
    let mut table = Table::new(["method", "R@1", "R@5", "R@10", "MRR", &ndcg, "gain in R@1, 95 %", "p"]);
    for (place, (name, measured)) in report.results.methods.iter().zip(&kind.methods).enumerate() {
        let mut row = vec![self::name(name)];
        row.extend([measured.at_1, measured.at_5, measured.at_10, measured.mrr, measured.ndcg].map(numbers::estimate));
        let p = kind.gains.get(place).map_or("-".to_owned(), |gain| numbers::p(gain.p));
        row.extend(if place == 0 { [String::new(), String::new()] } else { [gain(kind, place), p] });
        table.rows.push(row);
    }
    table
}

fn parts_table(report: &Report, part: &str, groups: &[&Group]) -> Table {
    let names = &report.results.methods;
    let from = names.len().saturating_sub(N_SIDE_BY_SIDE - 1).max(1);
    let shown: Vec<usize> = (0..names.len().min(1)).chain(from..names.len()).collect();
    let mut table = Table::new([part, "questions"]);
    table.head.extend(shown.iter().map(|&place| name(&names[place])));
    if names.len() > 1 {
        table.head.push("gain of the last, 95 %".to_owned());
    }
    for group in groups {
        let name = group.length.map_or(group.language.as_str(), |length| length.in_words());
        let mut row = vec![self::name(name), numbers::count(group.n_questions)];
        row.extend(shown.iter().map(|&place| at_1(group, place)));
        if names.len() > 1 {
            row.push(gain(group, names.len() - 1));
        }
        table.rows.push(row);
    }
    table
}

fn at_1(group: &Group, method: usize) -> String {
    group.methods.get(method).map_or("-".to_owned(), |measured| numbers::estimate(measured.at_1))
}

fn gain(group: &Group, method: usize) -> String {
    group.gains.get(method).map_or("-".to_owned(), |&gain| numbers::gain(gain))
}

/// How far the promised relevance can be trusted; nothing if none was promised.
pub fn calibration(report: &Report) -> Vec<Block> {
    let bins = &report.results.calibration;
    let n = bins.iter().fold(0usize, |sum, bin| sum.saturating_add(bin.n));
    if n == 0 {
        return Vec::new();
    }
    let error = bins.iter().map(|bin| bin.n as f64 * (bin.promised - bin.found).abs()).sum::<f64>() / n as f64;
    let candidates = numbers::counted(n, "candidate", "candidates");
    let said = format!("Expected calibration error {} % over {candidates}.", numbers::percent(error));
    let mut table = Table { n_words: 0, ..Table::new(["candidates", "promised, %", "found, %"]) };
    for bin in bins.iter().filter(|bin| bin.n > 0).take(N_ROWS) {
        let shares = [bin.promised, bin.found].map(numbers::percent);
        table.rows.push([numbers::count(bin.n)].into_iter().chain(shares).collect());
    }
    vec![Block::Heading(2, "Calibration".to_owned()), Block::Text(said), Block::Table(table)]
}

/// Who took how long; nothing if nobody was timed.
pub fn stages(report: &Report) -> Vec<Block> {
    let stages = &report.results.stages;
    if stages.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new(["stage", "time", "items", "time / items"]);
    for stage in stages.iter().take(N_ROWS) {
        let each = if stage.n > 0 { numbers::time(stage.seconds / stage.n as f64) } else { "-".to_owned() };
        let row = [name(&stage.name), numbers::time(stage.seconds), numbers::count(stage.n), each];
        table.rows.push(row.to_vec());
    }
    let said = "Wall time, while several questions are asked at once: time / items is not how long one of them waits.";
    let mut blocks = vec![Block::Heading(2, "Time".to_owned()), Block::Text(said.to_owned()), Block::Table(table)];
    if stages.iter().any(|stage| stage.name == ALL_QUESTIONS) {
        blocks.push(Block::Text(format!("\"{ALL_QUESTIONS}\" is the whole of the searches and of re-ranking.")));
    }
    blocks
}

/// A name as it fits into a table.
pub fn name(of: &str) -> String {
    cut(of, N_NAME_LETTERS)
}

/// The first letters of a text, with a mark if there are more.
pub fn cut(text: &str, n_letters: usize) -> String {
    match text.char_indices().nth(n_letters) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}
