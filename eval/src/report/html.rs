//! A report as one page that needs nothing but itself: no script, no font, no picture of elsewhere.

use crate::report::plots::{self, Plot};
use crate::report::table::{Block, Table};
use crate::report::{Report, beside, content, failures};

const STYLE: &str = include_str!("html/style.css");

/// The whole `report.html`.
pub fn page(report: &Report) -> String {
    let title = escaped(&format!("firn eval: {}", content::title(report)));
    let body = body(report);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

fn body(report: &Report) -> String {
    let mut body = section(&content::summary(report), Vec::new());
    for kind in report.kinds() {
        body.push_str(&section(&content::measured(report, kind), plots::of_kind(report, kind)));
    }
    body.push_str(&section(&beside::comparable(report), Vec::new()));
    body.push_str(&section(&beside::others(report), Vec::new()));
    body.push_str(&section(&content::calibration(report), plots::calibration(report).into_iter().collect()));
    body.push_str(&section(&content::stages(report), plots::stages(report).into_iter().collect()));
    body.push_str(&failures::section(report));
    body
}

fn section(blocks: &[Block], plots: Vec<Plot>) -> String {
    if blocks.is_empty() {
        return String::new();
    }
    let said: String = blocks.iter().map(marked).collect();
    let drawn: String = plots.iter().map(figure).collect();
    let drawn = if drawn.is_empty() { drawn } else { format!("<div class=\"plots\">\n{drawn}</div>\n") };
    format!("<section>\n{said}{drawn}</section>\n")
}

fn figure(plot: &Plot) -> String {
    let labelled = format!("<svg role=\"img\" aria-label=\"{}\" ", escaped(&plot.title));
    format!("<figure class=\"plot\">\n{}</figure>\n", plot.svg.replacen("<svg ", &labelled, 1))
}

fn marked(block: &Block) -> String {
    match block {
        Block::Heading(level, said) => format!("<h{level}>{}</h{level}>\n", escaped(said)),
        Block::Text(said) => format!("<p>{}</p>\n", escaped(said)),
        Block::List(items) => {
            let items: String = items.iter().map(|item| format!("<li>{}</li>\n", escaped(item))).collect();
            format!("<ul>\n{items}</ul>\n")
        }
        Block::Facts(facts) => {
            let fact = |(term, said): &(&str, String)| format!("<dt>{term}</dt><dd>{}</dd>\n", escaped(said));
            format!("<dl>\n{}</dl>\n", facts.iter().map(fact).collect::<String>())
        }
        Block::Table(table) => marked_table(table),
    }
}

fn marked_table(table: &Table) -> String {
    let class = |column: usize| if table.is_words(column) { " class=\"words\"" } else { "" };
    let head = |(column, cell): (usize, &String)| format!("<th scope=\"col\"{}>{}</th>", class(column), escaped(cell));
    let cell = |(column, cell): (usize, &String)| match column {
        0 if table.is_words(0) => format!("<th scope=\"row\" class=\"words\">{}</th>", escaped(cell)),
        _ => format!("<td{}>{}</td>", class(column), escaped(cell)),
    };
    let row = |row: &Vec<String>| format!("<tr>{}</tr>\n", row.iter().enumerate().map(cell).collect::<String>());
    format!(
        "<div class=\"wide\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody>\n</table></div>\n",
        table.head.iter().enumerate().map(head).collect::<String>(),
        table.rows.iter().map(row).collect::<String>()
    )
}

/// With nothing in it that HTML reads as a sign, in a text or in an attribute.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\0' => safe.push('\u{fffd}'),
            letter => safe.push(letter),
        }
    }
    safe
}
