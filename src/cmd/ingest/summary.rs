//! The end of a run in words: how many, how long, what was skipped and why.

use firn_ingest::report::Report;

/// Skipped items that are named; JSON names all.
const NAMED: usize = 10;

pub fn print(report: &Report) {
    print!("{}", text(report));
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{} points written to {} in {:.1} s ({:.1}/s)\n",
        report.written, report.collection, report.seconds, report.points_per_second
    );
    let counts = [
        (report.unchanged, "unchanged since an earlier run"),
        (report.duplicates, "the same as an earlier item"),
        (report.truncated_texts, "texts longer than the model reads: their ends were not embedded"),
        (report.ignored_files, "other files ignored"),
        (report.skipped, "skipped"),
    ];
    for (n, what) in counts {
        if n > 0 {
            text += &format!("  {n:>8}  {what}\n");
        }
    }
    for (reason, n) in &report.skipped_by_reason {
        text += &format!("  {n:>8}    {reason}\n");
    }
    for item in report.skipped_items.iter().take(NAMED) {
        text += &format!("  {}: {}: {} ({})\n", item.source.display(), item.item, item.message, item.reason);
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

#[cfg(test)]
mod tests {
    use firn_ingest::report::SkippedItem;

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
        report.skipped = 12;
        report.skipped_by_reason.insert("broken_image".to_owned(), 12);
        report.skipped_items = (0..12).map(skipped).collect();
        let text = text(&report);
        assert!(text.contains("        12  skipped\n        12    broken_image\n"), "{text}");
        assert!(text.contains("photos: 9.jpg: the jpeg image is broken: cut off (broken_image)\n"), "{text}");
        assert!(!text.contains("10.jpg") && text.ends_with("... and 2 more; --json names them\n"), "{text}");
    }
}
