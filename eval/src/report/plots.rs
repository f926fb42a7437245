//! Drawings of a report, as SVG on a white ground, in colours that colour-blind readers can tell apart (Okabe and Ito 2008).

mod bars;
mod lines;

use plotters::coord::Shift;
use plotters::prelude::{DrawingArea, IntoDrawingArea, RGBColor, SVGBackend, WHITE};
use plotters::style::{IntoFont, IntoTextStyle, TextStyle};

use crate::measures::{self, Group};
use crate::report::content::cut;
use crate::report::{Report, numbers};
use crate::results::{ALL_QUESTIONS, Question};
use bars::Bar;
use lines::Line;

/// A drawing and what it is called.
pub struct Plot {
    pub title: String,
    pub svg: String,
}

/// Places a curve of R@k goes to.
const LONGEST: usize = 50;
/// Bars of a drawing.
const N_BARS: usize = 60;
const N_LABEL_LETTERS: usize = 20;

const INK: RGBColor = RGBColor(40, 46, 51);
const SOFT: RGBColor = RGBColor(214, 219, 223);
const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

/// What belongs to one way of asking: R@k, and gains by language and by length.
pub fn of_kind(report: &Report, kind: &Group) -> Vec<Plot> {
    let mut plots: Vec<Plot> = curves(report, kind).into_iter().collect();
    plots.extend(gains(report, kind, "text length", &report.lengths_of(kind)));
    plots.extend(gains(report, kind, "language", &report.languages_of(kind)));
    plots
}

fn curves(report: &Report, kind: &Group) -> Option<Plot> {
    let longest = LONGEST.min(report.results.depth);
    let methods = &report.results.methods;
    if longest < 2 || methods.is_empty() {
        return None;
    }
    let is_of = |q: &&Question| (q.direction, q.is_joined) == (kind.direction, kind.is_joined);
    // The plain method and the last ones, as many as there are colours.
    let from = methods.len().saturating_sub(PALETTE.len() - 1).max(1);
    let line = |(place, name): (usize, &String)| {
        let shares = measures::curve(report.results.questions.iter().filter(is_of), place, longest);
        let points = shares.iter().enumerate().map(|(k, share)| (k as f64 + 1.0, 100.0 * share)).collect();
        Line { label: label(name), points }
    };
    let shown = |(place, _): &(usize, &String)| *place == 0 || *place >= from;
    let lines: Vec<Line> = methods.iter().enumerate().filter(shown).map(line).collect();
    let title = format!("{}: R@k", report.title_of(kind.direction, kind.is_joined));
    let axes = lines::Axes { x: "k, places looked at", y: "found, %", x_to: longest as f64, is_share: false };
    lines::plot(title, &axes, &lines)
}

fn gains(report: &Report, kind: &Group, of: &str, groups: &[&Group]) -> Option<Plot> {
    let methods = &report.results.methods;
    if methods.len() < 2 || groups.is_empty() {
        return None;
    }
    let last = methods.len() - 1;
    let bar = |group: &&Group| {
        let gain = group.gains.get(last).copied().unwrap_or_default();
        let name = group.length.map_or(group.language.as_str(), |length| length.in_words());
        Bar {
            label: label(name),
            value: 100.0 * gain.difference,
            interval: Some(gain.interval.map(|end| 100.0 * end)),
            said: numbers::points(gain.difference),
        }
    };
    let bars: Vec<Bar> = groups.iter().take(N_BARS).map(bar).collect();
    let asked = report.title_of(kind.direction, kind.is_joined);
    let title = format!("{asked}: gain of {} by {of}", label(&methods[last]));
    let axis = format!("gain in R@1 over {}, points (line: 95 % interval)", label(&methods[0]));
    bars::plot(title, &axis, &bars)
}

/// What was promised against what was found.
pub fn calibration(report: &Report) -> Option<Plot> {
    let bins = report.results.calibration.iter().filter(|bin| bin.n > 0);
    let percent = |share: f64| 100.0 * share.clamp(0.0, 1.0);
    let mut points: Vec<(f64, f64)> = bins.map(|bin| (percent(bin.promised), percent(bin.found))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    if points.is_empty() {
        return None;
    }
    let right = Line { label: "as promised".to_owned(), points: vec![(0.0, 0.0), (100.0, 100.0)] };
    let found = Line { label: "found".to_owned(), points };
    let axes = lines::Axes { x: "promised relevance, %", y: "share that belongs, %", x_to: 100.0, is_share: true };
    lines::plot("Calibration: promised against found".to_owned(), &axes, &[right, found])
}

/// Seconds of each stage, without the total of some of them.
pub fn stages(report: &Report) -> Option<Plot> {
    let stages = report.results.stages.iter().filter(|stage| stage.name != ALL_QUESTIONS).take(N_BARS);
    let bars: Vec<Bar> = stages
        .map(|stage| Bar {
            label: label(&stage.name),
            value: stage.seconds,
            interval: None,
            said: numbers::time(stage.seconds),
        })
        .collect();
    bars::plot("Time of each stage".to_owned(), "seconds", &bars)
}

fn label(name: &str) -> String {
    cut(name, N_LABEL_LETTERS)
}

/// Letters of a size in pixels, as the SVG will have it.
fn text(px: f64) -> TextStyle<'static> {
    // The SVG backend divides the size by this.
    const BACKEND: f64 = 1.24;
    ("sans-serif", px * BACKEND).into_font().into_text_style(&(640, 400)).color(&INK)
}

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What is drawn on a white ground; none if it cannot be drawn.
fn drawn(
    title: String,
    size: (u32, u32),
    draw: impl FnOnce(&Canvas) -> Result<(), Box<dyn std::error::Error>>,
) -> Option<Plot> {
    let mut svg = String::new();
    let canvas = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    canvas.fill(&WHITE).ok()?;
    draw(&canvas).ok()?;
    canvas.present().ok()?;
    drop(canvas);
    Some(Plot { title, svg })
}
