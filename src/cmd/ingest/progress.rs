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

/// Where a run is told of; none: there is no terminal, and lines follow each other.
#[derive(Clone)]
pub struct Bar(Option<ProgressBar>);

impl Bar {
    /// `quiet` shows lines only, for programs that read standard error.
    pub fn new(quiet: bool) -> Bar {
        Bar((std::io::stderr().is_terminal() && !quiet).then(bar))
    }

    /// A line that stays, above the bar.
    pub fn say(&self, line: &str) {
        match &self.0 {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }
}

/// Starts to show how far it is.
pub fn start(watch: Arc<Watch>, bar: &Bar) -> Progress {
    let (stop, stopped) = channel();
    let Bar(bar) = bar.clone();
    let every = if bar.is_some() { BAR_EVERY } else { LINE_EVERY };
    let thread = thread::spawn(move || {
        let started = Instant::now();
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(every) {
            let glance = watch.glance();
            let (done, line) = (fraction_done(glance), line(glance, started.elapsed()));
            match &bar {
                Some(bar) => {
                    bar.set_position((done * PARTS as f64) as u64);
                    bar.set_message(line);
                }
                None => eprintln!("{:.0} %: {line}", done * 100.0),
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
    // What does not fit is cut, not wrapped: a wrapped line would stay on the screen.
    let style = ProgressStyle::with_template("{bar:12} {percent:>3} %  {wide_msg}").expect("a template that is fixed");
    ProgressBar::new(PARTS).with_style(style)
}

/// What is settled, as a part of all that the sources seem to hold.
fn fraction_done(glance: Glance) -> f64 {
    let settled = glance.written + glance.unchanged + glance.skipped;
    glance.fraction * settled as f64 / glance.read.max(1) as f64
}

/// The most important first.
fn line(glance: Glance, elapsed: Duration) -> String {
    let rate = glance.written as f64 / elapsed.as_secs_f64().max(1e-9);
    let decimals = if rate > 0.0 && rate < 9.95 { 1 } else { 0 };
    let mut line = format!("{} written, {rate:.decimals$}/s", glance.written);
    if let Some(seconds) = seconds_left(glance, rate) {
        line += &format!(", {} left", clock(seconds));
    }
    for (n, what) in [(glance.unchanged, "unchanged"), (glance.skipped, "skipped")] {
        if n > 0 {
            line += &format!(", {n} {what}");
        }
    }
    line
}

/// As if all that is left had to be written: what is unchanged costs next to nothing, and says nothing of the rest.
fn seconds_left(glance: Glance, rate: f64) -> Option<u64> {
    let done = fraction_done(glance);
    if rate == 0.0 || done == 0.0 || done >= 1.0 {
        return None;
    }
    let total = glance.read as f64 / glance.fraction;
    Some((total * (1.0 - done) / rate).ceil() as u64)
}

fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let check = |glance, seconds, expected: &str| {
            assert_eq!(line(glance, Duration::from_secs(seconds)), expected);
        };
        let glance = Glance { read: 500, written: 500, fraction: 0.25, ..Glance::default() };
        check(glance, 50, "500 written, 10/s, 2:30 left");
        check(Glance { read: 600, fraction: 0.3, ..glance }, 50, "500 written, 10/s, 2:30 left");
        check(Glance { read: 600, fraction: 1.0, ..glance }, 50, "500 written, 10/s, 0:10 left");
        check(Glance { fraction: 1.0, ..glance }, 50, "500 written, 10/s");
        check(glance, 5000, "500 written, 0.1/s, 4:10:00 left");
        check(
            Glance { read: 10_000, skipped: 2, unchanged: 9498, fraction: 0.5, ..glance },
            50,
            "500 written, 10/s, 16:40 left, 9498 unchanged, 2 skipped",
        );
        check(Glance { read: 70, ..Glance::default() }, 1, "0 written, 0/s");
        check(Glance::default(), 0, "0 written, 0/s");
    }
}
