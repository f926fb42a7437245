//! Lines over a common axis, each with its own colour and mark.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Canvas, INK, PALETTE, Plot, SOFT, drawn, text};

pub struct Line {
    pub label: String,
    pub points: Vec<(f64, f64)>,
}

pub struct Axes {
    pub x: &'static str,
    pub y: &'static str,
    /// Where the horizontal axis ends.
    pub x_to: f64,
    /// Both axes go from 0 to 100, the first line is where others should be.
    pub is_share: bool,
}

const WIDTH: u32 = 640;
/// Without the legend.
const HEIGHT: u32 = 400;
/// A row of the legend, the sign before a name in it, and about how wide a letter is.
const ROW_PX: i32 = 22;
const SIGN_PX: i32 = 24;
const LETTER_PX: f64 = 7.5;
const MARGIN_PX: i32 = 24;
/// Points of a long line that get a mark.
const MARKED: [f64; 8] = [1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0];

/// None if there is no point that can be drawn.
pub fn plot(title: String, axes: &Axes, lines: &[Line]) -> Option<Plot> {
    let is_finite = |(x, y): &&(f64, f64)| x.is_finite() && y.is_finite();
    let lines: Vec<Line> = lines
        .iter()
        .map(|line| Line { label: line.label.clone(), points: line.points.iter().filter(is_finite).copied().collect() })
        .collect();
    let lowest = lines.iter().flat_map(|line| &line.points).map(|point| point.1).reduce(f64::min)?;
    let caption = title.clone();
    let legend = legend(&lines);
    let height = HEIGHT + (legend.last().map_or(0, |(_, (_, y))| y + ROW_PX)) as u32;
    drawn(title, (WIDTH, height), |canvas| {
        let (above, below) = canvas.split_vertically(HEIGHT);
        draw(&above, &caption, axes, lowest, &lines)?;
        draw_legend(&below, &legend)
    })
}

/// Each line's name and where its sign begins, in rows below the axes: inside them it would cover a line, wherever lines are.
fn legend(lines: &[Line]) -> Vec<(&str, (i32, i32))> {
    let (mut x, mut y) = (MARGIN_PX, ROW_PX / 2);
    let place = |Line { label, .. }: &Line| {
        let width = SIGN_PX + 8 + (label.chars().count() as f64 * LETTER_PX) as i32 + 16;
        if x > MARGIN_PX && x + width > WIDTH as i32 - MARGIN_PX / 2 {
            (x, y) = (MARGIN_PX, y + ROW_PX);
        }
        let at = (x, y);
        x += width;
        at
    };
    let places: Vec<(i32, i32)> = lines.iter().map(place).collect();
    lines.iter().map(|line| line.label.as_str()).zip(places).collect()
}

fn draw_legend(canvas: &Canvas, legend: &[(&str, (i32, i32))]) -> Result<(), Box<dyn std::error::Error>> {
    for (place, &(label, (x, y))) in legend.iter().enumerate() {
        let colour = PALETTE[place % PALETTE.len()];
        canvas.draw(&PathElement::new([(x, y), (x + SIGN_PX, y)], colour.stroke_width(2)))?;
        canvas.draw(&mark(place, (x + SIGN_PX / 2, y)))?;
        let style = text(14.0).pos(Pos::new(HPos::Left, VPos::Center));
        canvas.draw(&Text::new(label, (x + SIGN_PX + 8, y), style))?;
    }
    Ok(())
}

fn draw(
    canvas: &Canvas,
    caption: &str,
    axes: &Axes,
    lowest: f64,
    lines: &[Line],
) -> Result<(), Box<dyn std::error::Error>> {
    let from = if axes.is_share { 0.0 } else { (lowest / 10.0).floor().clamp(0.0, 9.0) * 10.0 };
    let mut chart = ChartBuilder::on(canvas)
        .caption(caption, text(17.0))
        .margin(12)
        .margin_right(24)
        .x_label_area_size(50)
        .y_label_area_size(58)
        .build_cartesian_2d(if axes.is_share { 0.0..100.0 } else { 1.0..axes.x_to }, from..100.0)?;
    chart
        .configure_mesh()
        .x_desc(axes.x)
        .y_desc(axes.y)
        .axis_desc_style(text(15.0))
        .label_style(text(14.0))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .light_line_style(TRANSPARENT)
        .bold_line_style(SOFT)
        .axis_style(INK)
        .draw()?;
    for (place, line) in lines.iter().enumerate() {
        let colour = PALETTE[place % PALETTE.len()];
        chart.draw_series(LineSeries::new(line.points.clone(), colour.stroke_width(2)))?;
        let is_marked = |&&(x, _): &&(f64, f64)| axes.is_share || MARKED.contains(&x);
        let marked: Vec<(f64, f64)> = line.points.iter().filter(is_marked).copied().collect();
        chart.draw_series(marked.into_iter().map(|at| EmptyElement::at(at) + mark(place, (0, 0))))?;
    }
    Ok(())
}

/// The sign of a line, so that it is not told by colour alone.
fn mark(place: usize, (x, y): (i32, i32)) -> Polygon<(i32, i32)> {
    let corners: &[(i32, i32)] = match place % 4 {
        0 => &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
        1 => &[(0, -5), (5, 4), (-5, 4)],
        2 => &[(0, -6), (6, 0), (0, 6), (-6, 0)],
        _ => &[(0, 5), (5, -4), (-5, -4)],
    };
    let points: Vec<(i32, i32)> = corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
    Polygon::new(points, PALETTE[place % PALETTE.len()].filled())
}
