//! Measurements live in `src/bin`; see README.md. Here is what they share.

use std::fs;

/// CPU seconds of this process, user and system (Linux; elsewhere 0).
pub fn process_cpu_s() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name before the last parenthesis may hold spaces; user and system ticks are the 12th and 13th after it.
    let fields: Vec<f64> = text.rsplit(')').next().map_or(Vec::new(), |rest| {
        rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse().ok()).collect()
    });
    fields.iter().sum::<f64>() / 100.0
}
