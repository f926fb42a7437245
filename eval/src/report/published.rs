//! Published R@1 of other methods, to stand beside a run's own.
//!
//! Only figures of the same data set and protocol are comparable; all others say why they are not.

mod rows;

pub use rows::ROWS;

/// What one method is said to reach in R@1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    pub method: &'static str,
    pub asked: Asked,
    /// Image to text, in percent.
    pub to_query: Option<Figure>,
    /// Text to image, in percent.
    pub to_document: Option<Figure>,
    /// The paper or repository the figures were read in.
    pub source: &'static str,
}

/// Which questions a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub dataset: &'static str,
    /// As our flag says it; empty if it is none of ours, or not known.
    pub protocol: &'static str,
    pub about: &'static str,
}

/// A figure in percent, or its range where sources differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    pub low: f64,
    pub high: f64,
}

impl Figure {
    pub fn in_words(&self) -> String {
        if self.low == self.high { format!("{:.1}", self.low) } else { format!("{:.1} to {:.1}", self.low, self.high) }
    }
}

/// Languages a mean over Crossmodal-3600 is of.
pub const XM3600_LANGUAGES: usize = 36;

/// What is published of a data set by a protocol, the best first.
pub fn comparable(dataset: &str, protocol: &str) -> Vec<&'static Row> {
    sorted(ROWS.iter().filter(|row| row.asked.dataset == dataset && row.asked.protocol == protocol))
}

/// What is published of a data set by other protocols, one protocol after another.
pub fn of_other_protocols(dataset: &str, protocol: &str) -> Vec<(Asked, Vec<&'static Row>)> {
    let mut others: Vec<(Asked, Vec<&'static Row>)> = Vec::new();
    for row in ROWS.iter().filter(|row| row.asked.dataset == dataset && row.asked.protocol != protocol) {
        match others.iter_mut().find(|(asked, _)| *asked == row.asked) {
            Some((_, rows)) => rows.push(row),
            None => others.push((row.asked, vec![row])),
        }
    }
    others.into_iter().map(|(asked, rows)| (asked, sorted(rows.into_iter()))).collect()
}

/// By the mean of both directions, so far as they are known.
fn sorted(rows: impl Iterator<Item = &'static Row>) -> Vec<&'static Row> {
    let mean = |row: &Row| {
        let known: Vec<f64> = [row.to_query, row.to_document].iter().flatten().map(|figure| figure.low).collect();
        known.iter().sum::<f64>() / known.len().max(1) as f64
    };
    let mut rows: Vec<&Row> = rows.collect();
    rows.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole() {
        let protocols = [
            ("urban1k", vec!["first-line"]),
            ("dci", vec!["flame", "long-dci", "goal"]),
            ("docci", vec!["test", "test-and-qual"]),
            ("sharegpt4v", vec!["1k", "10k"]),
            ("flickr30k", vec!["karpathy", "clip-benchmark", "karpathy-31k"]),
            ("coco", vec!["karpathy", "clip-benchmark"]),
            ("xm3600", vec!["first", "all"]),
        ];
        for row in ROWS {
            let (_, known) = protocols.iter().find(|(name, _)| *name == row.asked.dataset).expect(row.asked.dataset);
            assert!(row.asked.protocol.is_empty() || known.contains(&row.asked.protocol), "{row:?}");
            assert!(row.to_query.is_some() || row.to_document.is_some(), "{row:?}");
            for figure in [row.to_query, row.to_document].into_iter().flatten() {
                assert!(0.0 < figure.low && figure.low <= figure.high && figure.high < 100.0, "{row:?}");
            }
            assert!(!row.asked.about.is_empty() && row.method.chars().count() <= 32, "{row:?}");
            assert!(row.source.chars().count() <= 46, "{row:?}");
            let twin = |other: &&Row| other.method == row.method && other.asked == row.asked;
            assert_eq!(ROWS.iter().filter(twin).count(), 1, "{row:?}");
        }
    }

    #[test]
    fn figures_are_found_by_protocol() {
        let first = |dataset, protocol| comparable(dataset, protocol)[0].method;
        assert_eq!(first("dci", "flame"), "DeBias-CLIP L/14");
        // Long-CLIP asks with more pictures than Karpathy lists.
        assert!(comparable("flickr30k", "karpathy-31k").is_empty());
        let (asked, rows) = &of_other_protocols("flickr30k", "karpathy-31k")[1];
        assert!(asked.about.contains("31,783") && rows[0].method == "Long-CLIP L/14", "{asked:?}");
        assert!(comparable("dci", "goal").iter().all(|row| row.method.contains("fine-tuned")));
        assert!(comparable("nothing", "").is_empty() && of_other_protocols("nothing", "").is_empty());
        let others = of_other_protocols("dci", "flame");
        assert!(others.iter().all(|(asked, rows)| asked.protocol != "flame" && !rows.is_empty()));
        let daggers = others.iter().find(|(asked, _)| asked.about.contains("64.1/67.8")).unwrap();
        assert!(daggers.0.protocol.is_empty() && daggers.1[0].method == "HyFL-CLIP L/14", "{daggers:?}");
    }
}
