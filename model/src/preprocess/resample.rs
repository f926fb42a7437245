//! Pillow's resize, bit for bit: two passes of an antialiased filter in 22-bit fixed point, rounded to bytes in between.
//!
//! After `Resample.c` of Pillow 13 (older ones always start with the rows: a few grey levels apart, and only for pictures
//! more than twice as high as wide). Each output pixel depends on its own taps alone, so computing only a window of the result
//! changes nothing. The loops run over eight rows, or a stretch of one row, at once, for the vector units.

use std::ops::Range;

use image::RgbImage;

use crate::vector_unit::on_best_unit;

const PRECISION_BITS: u32 = 32 - 8 - 2;
/// Rows that the horizontal pass treats at once.
const ROWS: usize = 8;
/// Bytes of a row that the vertical pass treats at once.
const LANES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    Bilinear,
    Bicubic,
}

/// The part of a resized picture that is wanted.
pub(super) struct Window {
    /// Size of the whole resized picture.
    pub width: usize,
    pub height: usize,
    /// What of it is computed.
    pub columns: Range<usize>,
    pub rows: Range<usize>,
}

/// (rows, columns, 3) of the window.
pub(super) fn resize(picture: &RgbImage, window: &Window, filter: Filter) -> Vec<u8> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let across = Taps::new(filter, width, window.width, window.columns.clone());
    let down = Taps::new(filter, height, window.height, window.rows.clone());
    if vertical_first((width, height), window) {
        let flat = on_best_unit(|| vertical(picture.as_raw(), width * 3, &down, 0));
        return on_best_unit(|| horizontal(&flat, width, &across));
    }
    let source_rows = down.source();
    let rows = &picture.as_raw()[source_rows.start * width * 3..source_rows.end * width * 3];
    let narrow = on_best_unit(|| horizontal(rows, width, &across));
    on_best_unit(|| vertical(&narrow, across.len() * 3, &down, source_rows.start))
}

/// Pillow's rule: where the height loses more than twice what the width loses.
fn vertical_first((width, height): (usize, usize), window: &Window) -> bool {
    let lost_width = width as i64 - window.width as i64;
    let lost_height = height as i64 - window.height as i64;
    lost_height > 0 && lost_height > 2 * lost_width
}

/// Which source pixels each output pixel is made of, along one side.
pub(super) struct Taps {
    /// First source pixel and number of them, for each output pixel.
    spans: Vec<(usize, usize)>,
    /// `stride` weights for each output pixel, in fixed point.
    weights: Vec<i32>,
    stride: usize,
}

impl Taps {
    pub(super) fn new(filter: Filter, in_size: usize, out_size: usize, outputs: Range<usize>) -> Taps {
        let scale = in_size as f64 / out_size as f64;
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let mut taps = Taps { spans: Vec::new(), weights: Vec::new(), stride };
        for output in outputs {
            let centre = (output as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(in_size);
            let weigh = |x: usize| filter.at((x as f64 + first as f64 - centre + 0.5) * (1.0 / filter_scale));
            taps.push(first, (0..end - first).map(weigh).collect());
        }
        taps
    }

    fn push(&mut self, first: usize, weights: Vec<f64>) {
        let sum: f64 = weights.iter().sum();
        let fixed = |w: &f64| {
            let w = if sum != 0.0 { w / sum } else { *w };
            (w * f64::from(1 << PRECISION_BITS) + if w < 0.0 { -0.5 } else { 0.5 }) as i32
        };
        self.spans.push((first, weights.len()));
        self.weights.extend(weights.iter().map(fixed));
        self.weights.resize(self.spans.len() * self.stride, 0);
    }

    fn len(&self) -> usize {
        self.spans.len()
    }

    /// Source pixels that any output needs; spans never run backwards.
    fn source(&self) -> Range<usize> {
        let end = self.spans.iter().map(|(first, n)| first + n).max().unwrap_or(0);
        self.spans.first().map_or(0, |s| s.0)..end
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.spans.iter().zip(self.weights.chunks_exact(self.stride)).map(|(&(first, n), w)| (first, &w[..n]))
    }
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Filter::Bilinear if x < 1.0 => 1.0 - x,
            Filter::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// (rows, width, 3) to (rows, outputs, 3), eight rows side by side.
#[inline(always)]
pub(super) fn horizontal(rows: &[u8], width: usize, taps: &Taps) -> Vec<u8> {
    let (in_bytes, out_bytes) = (width * 3, taps.len() * 3);
    let mut narrow = vec![0; rows.len() / in_bytes * out_bytes];
    let mut block = vec![[0u8; 3 * ROWS]; width];
    for (rows, out) in rows.chunks(in_bytes * ROWS).zip(narrow.chunks_mut(out_bytes * ROWS)) {
        for (i, row) in rows.chunks_exact(in_bytes).enumerate() {
            for (pixel, column) in row.chunks_exact(3).zip(&mut block) {
                column[3 * i..3 * i + 3].copy_from_slice(pixel);
            }
        }
        for (x, (first, weights)) in taps.iter().enumerate() {
            let mut sums = [1 << (PRECISION_BITS - 1); 3 * ROWS];
            for (column, &weight) in block[first..].iter().zip(weights) {
                for (sum, &byte) in sums.iter_mut().zip(column) {
                    *sum += i32::from(byte) * weight;
                }
            }
            let bytes = sums.map(to_byte);
            for (row, pixel) in out.chunks_exact_mut(out_bytes).zip(bytes.chunks_exact(3)) {
                row[3 * x..3 * x + 3].copy_from_slice(pixel);
            }
        }
    }
    narrow
}

/// (source rows, row bytes) to (outputs, row bytes), a stretch of bytes at a time.
#[inline(always)]
pub(super) fn vertical(rows: &[u8], row_bytes: usize, taps: &Taps, first_row: usize) -> Vec<u8> {
    let mut out = vec![0; taps.len() * row_bytes];
    for ((first, weights), out) in taps.iter().zip(out.chunks_exact_mut(row_bytes)) {
        let rows = &rows[(first - first_row) * row_bytes..];
        for (stretch, out) in out.chunks_mut(LANES).enumerate() {
            let mut sums = [1 << (PRECISION_BITS - 1); LANES];
            for (row, &weight) in rows.chunks_exact(row_bytes).zip(weights) {
                let bytes = &row[stretch * LANES..][..out.len()];
                if let Ok(bytes) = <&[u8; LANES]>::try_from(bytes) {
                    add_scaled(&mut sums, bytes, weight);
                } else {
                    add_scaled(&mut sums, bytes, weight);
                }
            }
            for (byte, sum) in out.iter_mut().zip(sums) {
                *byte = to_byte(sum);
            }
        }
    }
    out
}

#[inline(always)]
fn add_scaled(sums: &mut [i32; LANES], bytes: &[u8], weight: i32) {
    for (sum, &byte) in sums.iter_mut().zip(bytes) {
        *sum += i32::from(byte) * weight;
    }
}

#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}
