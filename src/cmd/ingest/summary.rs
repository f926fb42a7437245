//! The end of a run in words: how many, how long, what was skipped and why.

use std::path::Path;

use firn_ingest::report::{ItemPlace, Report, SkippedItem};

use crate::cmd::table::printable;

/// Skipped items that are named; JSON names all.
const NAMED: usize = 10;
/// For one text and for several.
const TRUNCATED: [&str; 2] = [
    "text longer than the model reads: its end was not embedded",
    "texts longer than the model reads: their ends were not embedded",
];

pub fn print(report: &Report) {
    print!("{}", text(report));
}

fn text(report: &Report) -> String {
    let points = if report.written == 1 { "point" } else { "points" };
    let mut text = format!(
        "{} {points} written to {} in {:.1} s ({:.1}/s)\n",
        report.written, report.collection, report.seconds, report.points_per_second
    );
    let counts = [
        (report.unchanged, ["unchanged since an earlier run"; 2]),
        (report.duplicates, ["the same as an earlier item"; 2]),
        (report.truncated_texts, TRUNCATED),
        (report.unmet_captions, ["id with captions that no item has", "ids with captions that no item has"]),
        (report.ignored_files, ["other file ignored", "other files ignored"]),
        (report.skipped, ["skipped"; 2]),
    ];
    for (n, [one, several]) in counts {
        if n > 0 {
            text += &format!("  {n:>8}  {}\n", if n == 1 { one } else { several });
        }
        if one == TRUNCATED[0]
            && let Some(ItemPlace { source, item }) = &report.truncated_example
        {
            text += &format!("            such as in {}\n", printable(&place(source, item)));
        }
    }
    for (reason, n) in &report.skipped_by_reason {
        text += &format!("  {n:>8}    {reason}\n");
    }
    for SkippedItem { source, item, reason, message } in report.skipped_items.iter().take(NAMED) {
        text += &format!("  {} ({reason})\n", printable(&format!("{}: {message}", place(source, item))));
    }
    let unnamed = report.skipped.saturating_sub(NAMED as u64);
    if unnamed > 0 {
        text += &format!("  ... and {unnamed} more; --json names them\n");
    }
    if report.interrupted {
        text += "  stopped before the end\n";
    }
    text
}

/// A source that is its own item is named once.
fn place(source: &Path, item: &str) -> String {
    let source = source.display().to_string();
    if item == source { source } else { format!("{source}: {item}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_in_words() {
        let skipped = |n: usize| SkippedItem {
            source: "photos".into(),
            item: format!("{n}.jpg"),
            reason: "broken_image".to_owned(),
            message: "the jpeg image is broken: cut off".to_owned(),
        };
        let mut report = Report {
            collection: "holiday".to_owned(),
            written: 20,
            unchanged: 3,
            seconds: 4.0,
            points_per_second: 5.0,
            ..Report::default()
        };
        assert_eq!(
            text(&report),
            "20 points written to holiday in 4.0 s (5.0/s)\n         3  unchanged since an earlier run\n"
        );
        report.written = 1;
        report.truncated_texts = 1;
        report.truncated_example = Some(ItemPlace { source: "photos".into(), item: "7.jpg".to_owned() });
        report.ignored_files = 2;
        let said = text(&report);
        assert!(said.contains("embedded\n            such as in photos: 7.jpg\n"), "{said}");
        assert!(said.starts_with("1 point written to holiday"), "{said}");
        assert!(said.contains("1  text longer than") && said.contains("2  other files ignored"), "{said}");
        report.skipped = 12;
        report.skipped_by_reason.insert("broken_image".to_owned(), 12);
        report.skipped_items = (0..12).map(skipped).collect();
        report.skipped_items[0].item = "photos".to_owned();
        report.skipped_items[1].item = "\u{1b}[2J\n.jpg".to_owned();
        let text = text(&report);
        assert!(text.contains("  photos: ␛[2J␊.jpg: the jpeg"), "names do not command the terminal: {text}");
        assert!(text.contains("        12  skipped\n        12    broken_image\n"), "{text}");
        assert!(text.contains("photos: 9.jpg: the jpeg image is broken: cut off (broken_image)\n"), "{text}");
        assert!(text.contains("\n  photos: the jpeg image is broken"), "the source itself: {text}");
        assert!(!text.contains("10.jpg") && text.ends_with("... and 2 more; --json names them\n"), "{text}");
    }
}
