//! Two runs side by side, in words.

use crate::measures::{self, Comparison};
use crate::report::table::{Block, Table};
use crate::report::{Report, markdown, numbers};
use crate::results::{Made, Results};

/// Letters of a hash that is shown.
const N_HASH_LETTERS: usize = 12;

/// A run to compare, and which of its methods.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// What it is called, such as its folder.
    pub name: &'a str,
    pub results: &'a Results,
    pub method: usize,
}

/// What the second run gains over the first, for a terminal; `Err` says why they cannot be compared.
pub fn compared(runs: [Run; 2]) -> Result<String, String> {
    let [first, second] = runs;
    same("data sets", [&first.results.dataset, &second.results.dataset])?;
    same("protocols", [&first.results.protocol, &second.results.protocol])?;
    let documents = runs.map(|run| numbers::counted(run.results.n_documents, "document", "documents"));
    same("documents", [&documents[0], &documents[1]])?;
    same_data([&first.results.data_hash, &second.results.data_hash])?;
    let [of_first, of_second] = [method(&first)?, method(&second)?];
    let found =
        measures::compare((&first.results.questions, first.method), (&second.results.questions, second.method))?;
    let title = format!("{}, protocol {}", first.results.dataset, first.results.protocol);
    let said = [format!("{of_first} of {}", first.name), format!("{of_second} of {}", second.name)];
    let mut blocks = vec![Block::Heading(2, title), Block::Table(runs_table(runs, &said))];
    blocks.push(Block::Table(gains_table(&first, &found)));
    let said = "R@1 in percent ± standard error; the gain is of B over A, with its 95 % interval; p is two-sided.";
    blocks.push(Block::Text(said.to_owned()));
    Ok(markdown::plain(&blocks))
}

fn same(what: &str, [one, two]: [&String; 2]) -> Result<(), String> {
    if one == two {
        return Ok(());
    }
    Err(format!("runs of different {what} are not comparable: {one} and {two}"))
}

/// Questions of the same ids may ask with other texts, or be judged otherwise; what is empty was written before it was kept.
fn same_data(hashes: [&String; 2]) -> Result<(), String> {
    let [one, two] = hashes.map(|hash| hash.chars().take(N_HASH_LETTERS).collect::<String>());
    if hashes[0] == hashes[1] || hashes.iter().any(|hash| hash.is_empty()) {
        return Ok(());
    }
    Err(format!("runs of different data are not comparable: ids, texts or judgements differ (hashes {one} and {two})"))
}

fn method<'a>(run: &Run<'a>) -> Result<&'a str, String> {
    let of = &run.results.methods;
    of.get(run.method)
        .map(String::as_str)
        .ok_or_else(|| format!("{}: expected one of {} methods, received {}", run.name, of.len(), run.method))
}

fn runs_table(runs: [Run; 2], said: &[String; 2]) -> Table {
    let of = |made: Option<&Made>| made.map_or("none".to_owned(), |made| format!("{} {}", made.name, made.hash));
    let mut table = Table::new(["", "run", "model", "network", "firn"]);
    table.n_words = table.head.len();
    for ((letter, run), said) in ["A", "B"].iter().zip(runs).zip(said) {
        let Results { model, reranker, firn, .. } = run.results;
        table.rows.push(vec![(*letter).into(), said.clone(), of(Some(model)), of(reranker.as_ref()), firn.clone()]);
    }
    table
}

fn gains_table(run: &Run, found: &[Comparison]) -> Table {
    let report = Report { results: run.results, groups: Vec::new() };
    let mut table = Table::new(["", "questions", "R@1 of A", "R@1 of B", "gain", "p"]);
    for Comparison { direction, is_joined, n_questions, at_1, gain, .. } in found {
        table.rows.push(vec![
            report.title_of(*direction, *is_joined),
            numbers::count(*n_questions),
            numbers::estimate(at_1[0]),
            numbers::estimate(at_1[1]),
            numbers::gain(*gain),
            numbers::p(gain.p),
        ]);
    }
    table
}
