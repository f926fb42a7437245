//! Lying bars with what they say at their ends, and 95 % intervals if they have any.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Canvas, INK, PALETTE, Plot, SOFT, drawn, text};

pub struct Bar {
    pub label: String,
    pub value: f64,
    pub interval: Option<[f64; 2]>,
    /// The value in words.
    pub said: String,
}

const WIDTH: u32 = 640;
/// Of a bar and the space around it.
const STEP: u32 = 26;
/// Title and axis.
const FRAME: u32 = 116;
/// About how wide a letter of a label is.
const LETTER_PX: f64 = 7.5;
/// An axis does not go further, nor is it shorter than its inverse.
const LIMIT: f64 = 1e9;

/// None if there is no bar that can be drawn.
pub fn plot(title: String, axis: &str, bars: &[Bar]) -> Option<Plot> {
    let bars: Vec<&Bar> = bars.iter().filter(|bar| is_drawable(bar.value)).collect();
    if bars.is_empty() {
        return None;
    }
    let caption = title.clone();
    drawn(title, (WIDTH, FRAME + STEP * bars.len() as u32), |canvas| draw(canvas, &caption, axis, &bars))
}

fn draw(canvas: &Canvas, caption: &str, axis: &str, bars: &[&Bar]) -> Result<(), Box<dyn std::error::Error>> {
    let longest = bars.iter().map(|bar| bar.label.chars().count()).max().unwrap_or(0);
    let n = bars.len() as f64;
    let (low, high) = range(bars);
    let mut chart = ChartBuilder::on(canvas)
        .caption(caption, text(17.0))
        .margin(12)
        .margin_right(24)
        .x_label_area_size(50)
        .y_label_area_size((longest as f64 * LETTER_PX) as u32 + 20)
        .build_cartesian_2d(low..high, n..0.0)?;
    // Enough to tell the labels apart.
    let decimals = (1.0 - (high - low).log10()).ceil().clamp(0.0, 9.0) as usize;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc(axis)
        .x_labels(8)
        .x_label_formatter(&|x| format!("{x:.decimals$}"))
        .axis_desc_style(text(15.0))
        .label_style(text(14.0))
        .light_line_style(TRANSPARENT)
        .bold_line_style(SOFT)
        .axis_style(INK)
        .draw()?;
    let colour = PALETTE[5];
    let boxes = bars.iter().enumerate().map(|(place, bar)| {
        Rectangle::new([(0.0, place as f64 + 0.18), (bar.value, place as f64 + 0.82)], colour.filled())
    });
    chart.draw_series(boxes)?;
    chart.draw_series([PathElement::new([(0.0, 0.0), (0.0, n)], INK)])?;
    chart.draw_series(bars.iter().enumerate().filter_map(|(place, bar)| {
        let [from, to] = bar.interval.filter(|ends| ends.iter().all(|&end| is_drawable(end)))?;
        Some(ErrorBar::new_horizontal(place as f64 + 0.5, from, bar.value, to, INK.filled(), 8))
    }))?;
    let beside = |h_pos| text(14.0).pos(Pos::new(h_pos, VPos::Center));
    chart.draw_series(bars.iter().enumerate().map(|(place, bar)| {
        EmptyElement::at((low, place as f64 + 0.5)) + Text::new(bar.label.clone(), (-10, 0), beside(HPos::Right))
    }))?;
    chart.draw_series(bars.iter().enumerate().map(|(place, bar)| {
        EmptyElement::at((end(bar), place as f64 + 0.5)) + Text::new(bar.said.clone(), (8, 0), beside(HPos::Left))
    }))?;
    Ok(())
}

/// From nothing, or the lowest end, to the highest, with room for words.
fn range(bars: &[&Bar]) -> (f64, f64) {
    let ends = bars.iter().flat_map(|bar| [bar.value].into_iter().chain(bar.interval.into_iter().flatten()));
    let reach = |(low, high): (f64, f64), end: f64| (low.min(end), high.max(end));
    let (low, high) = ends.filter(|&end| is_drawable(end)).fold((0.0, 0.0), reach);
    let span = if high - low > 1.0 / LIMIT { high - low } else { 1.0 };
    (if low < 0.0 { low - 0.04 * span } else { 0.0 }, high + 0.18 * span)
}

/// Where a bar and its interval end to the right.
fn end(bar: &Bar) -> f64 {
    let to = bar.interval.map_or(0.0, |ends| ends[1]);
    bar.value.max(0.0).max(if is_drawable(to) { to } else { 0.0 })
}

fn is_drawable(value: f64) -> bool {
    value.abs() < LIMIT
}
