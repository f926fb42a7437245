//! How a run is going, on standard error: a bar at a terminal, else a line every few seconds.

use std::{
    io::IsTerminal as _,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use firn_ingest::report::{Glance, Watch};
use indicatif::{ProgressBar, ProgressStyle};

/// Parts of the bar: sources tell how far they are as a fraction.
const PARTS: u64 = 10_000;
const BAR_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows progress until it is ended.
pub struct Progress {
    /// None after the end.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts to show; `quiet` shows lines only, for programs that read standard error.
pub fn start(watch: Arc<Watch>, quiet: bool) -> Progress {
    let (stop, stopped) = channel();
    let terminal = std::io::stderr().is_terminal() && !quiet;
    let every = if terminal { BAR_EVERY } else { LINE_EVERY };
    let thread = thread::spawn(move || {
        let started = Instant::now();
        let bar = terminal.then(bar);
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(every) {
            let line = line(watch.glance(), started.elapsed());
            match &bar {
                Some(bar) => {
                    bar.set_position((watch.glance().fraction * PARTS as f64) as u64);
                    bar.set_message(line);
                }
                None => eprintln!("{line}"),
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    });
    Progress { stop: Some(stop), thread: Some(thread) }
}

impl Progress {
    pub fn end(mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It only prints; a panic there is no reason to lose the report.
            let _ = thread.join();
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {percent}%  {msg}").expect("a template that is fixed");
    ProgressBar::new(PARTS).with_style(style)
}

fn line(glance: Glance, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let mut line = format!("{} written, {:.0}/s", glance.written, glance.written as f64 / seconds);
    for (n, what) in [(glance.unchanged, "unchanged"), (glance.skipped, "skipped")] {
        if n > 0 {
            line += &format!(", {n} {what}");
        }
    }
    if glance.fraction > 0.0 && glance.fraction < 1.0 {
        let left = (seconds * (1.0 - glance.fraction) / glance.fraction) as u64;
        line += &format!(", {:.0} % read, about {}:{:02} left", glance.fraction * 100.0, left / 60, left % 60);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let check = |glance, seconds, expected: &str| {
            assert_eq!(line(glance, Duration::from_secs(seconds)), expected);
        };
        let glance = Glance { written: 500, fraction: 0.25, ..Glance::default() };
        check(glance, 50, "500 written, 10/s, 25 % read, about 2:30 left");
        check(
            Glance { skipped: 2, unchanged: 7, fraction: 1.0, ..glance },
            50,
            "500 written, 10/s, 7 unchanged, 2 skipped",
        );
        check(Glance::default(), 0, "0 written, 0/s");
    }
}
