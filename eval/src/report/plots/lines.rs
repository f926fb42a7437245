//! Lines over a common axis, each with its own colour and mark.

use plotters::chart::SeriesLabelPosition::{LowerRight, UpperLeft};
use plotters::prelude::*;

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

const SIZE: (u32, u32) = (640, 420);
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
    drawn(title, SIZE, |canvas| draw(canvas, &caption, axes, lowest, &lines))
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
        let drawn = chart.draw_series(LineSeries::new(line.points.clone(), colour.stroke_width(2)))?;
        drawn.label(&line.label).legend(move |(x, y)| {
            EmptyElement::at((x, y))
                + PathElement::new([(0, 0), (24, 0)], colour.stroke_width(2))
                + mark(place, (12, 0))
        });
        let is_marked = |&&(x, _): &&(f64, f64)| axes.is_share || MARKED.contains(&x);
        let marked: Vec<(f64, f64)> = line.points.iter().filter(is_marked).copied().collect();
        chart.draw_series(marked.into_iter().map(|at| EmptyElement::at(at) + mark(place, (0, 0))))?;
    }
    chart
        .configure_series_labels()
        .position(if axes.is_share { UpperLeft } else { LowerRight })
        .margin(12)
        .legend_area_size(32)
        .background_style(WHITE.mix(0.9))
        .border_style(SOFT)
        .label_font(text(14.0))
        .draw()?;
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
