//! Draws scenes: every shape is a test "is this point inside?", sampled four by four in a pixel.
//!
//! Only + - * / and comparisons of f32 are used, which IEEE 754 fixes to the bit, so a picture is the same everywhere.

use image::{Rgb, RgbImage};

use super::{Background, Group, Pattern, Scene, Shape, Size};

/// Samples along a pixel's side.
const SAMPLES: u32 = 4;
/// Where each of n things stands in its cell, in units of the cell's side, and how large it is.
const LAYOUTS: [&[(f32, f32)]; 6] = [
    &[(0.5, 0.5)],
    &[(0.25, 0.5), (0.75, 0.5)],
    &[(0.5, 0.25), (0.25, 0.75), (0.75, 0.75)],
    &[(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)],
    &[(0.25, 0.22), (0.75, 0.22), (0.17, 0.75), (0.5, 0.75), (0.83, 0.75)],
    &[(0.17, 0.25), (0.5, 0.25), (0.83, 0.25), (0.17, 0.75), (0.5, 0.75), (0.83, 0.75)],
];
const EXTENTS: [f32; 6] = [0.94, 0.5, 0.49, 0.48, 0.35, 0.34];

pub fn scene(scene: &Scene, side_px: u32) -> RgbImage {
    let mut picture = RgbImage::new(side_px, side_px);
    paint_background(&mut picture, scene.background);
    let cell = cell_side(scene);
    for group in &scene.groups {
        paint_group(&mut picture, group, cell);
    }
    picture
}

/// Left, top, right and bottom of where a group stands, in units of the picture's side.
pub fn box_of(scene: &Scene, group: &Group) -> [f32; 4] {
    let cell = cell_side(scene);
    let [left, top] = corner(group, cell);
    [left, top, left + cell, top + cell]
}

/// A lone group has more room.
fn cell_side(scene: &Scene) -> f32 {
    if scene.groups.len() == 1 { 0.5 } else { 1.0 / 3.0 }
}

fn paint_background(picture: &mut RgbImage, background: Background) {
    let side = picture.height();
    for (_, y, pixel) in picture.enumerate_pixels_mut() {
        let colour = match background {
            Background::Plain(tone) => tone.rgb(),
            Background::Gradient(top, bottom) => blend(top.rgb(), bottom.rgb(), y as f32 / (side - 1) as f32),
            Background::Ground(sky, ground) => {
                let covered = (y as f32 - 0.75 * side as f32).clamp(0.0, 1.0);
                blend(sky.rgb(), ground.rgb(), covered)
            }
        };
        *pixel = Rgb(colour);
    }
}

fn blend(from: [u8; 3], to: [u8; 3], share: f32) -> [u8; 3] {
    std::array::from_fn(|channel| {
        (f32::from(from[channel]) * (1.0 - share) + f32::from(to[channel]) * share + 0.5) as u8
    })
}

fn paint_group(picture: &mut RgbImage, group: &Group, cell: f32) {
    let [_, _, tints @ ..] = group.jitter;
    let [left, top] = corner(group, cell);
    let scale = match group.size {
        Size::Small => 0.6,
        Size::Medium => 0.8,
        Size::Large => 1.0,
    };
    let kind = usize::from(group.count - 1);
    let colour = std::array::from_fn(|channel| group.colour.rgb()[channel].saturating_add_signed(tints[channel]));
    for &(x, y) in LAYOUTS[kind] {
        let thing = Thing {
            shape: group.shape,
            pattern: group.pattern,
            colour,
            centre: (left + x * cell, top + y * cell),
            radius: EXTENTS[kind] * cell * scale / 2.0,
        };
        thing.paint(picture);
    }
}

/// Left and top of the group's cell, kept inside the picture.
fn corner(group: &Group, cell: f32) -> [f32; 2] {
    let [dx, dy, ..] = group.jitter;
    let start = |place: u8, shift: i8| {
        let middle = (f32::from(place) + 0.5) / 3.0 + f32::from(shift) / 512.0;
        middle.clamp(cell / 2.0, 1.0 - cell / 2.0) - cell / 2.0
    };
    [start(group.place.column, dx), start(group.place.row, dy)]
}

struct Thing {
    shape: Shape,
    pattern: Pattern,
    colour: [u8; 3],
    /// In units of the picture's side.
    centre: (f32, f32),
    radius: f32,
}

impl Thing {
    fn paint(&self, picture: &mut RgbImage) {
        let side = picture.width();
        let to_px = |at: f32| (at * side as f32).clamp(0.0, side as f32) as u32;
        let last = |at: f32| (to_px(at) + 1).min(side);
        for y in to_px(self.centre.1 - self.radius)..last(self.centre.1 + self.radius) {
            for x in to_px(self.centre.0 - self.radius)..last(self.centre.0 + self.radius) {
                let pixel = picture.get_pixel_mut(x, y);
                pixel.0 = self.cover(pixel.0, x, y, side);
            }
        }
    }

    /// The pixel's colour after this thing was painted over it.
    fn cover(&self, below: [u8; 3], x: u32, y: u32, side: u32) -> [u8; 3] {
        let mut sum = [0u32; 3];
        let step = 1.0 / (SAMPLES * side) as f32;
        for sample in 0..SAMPLES * SAMPLES {
            let px = (x * SAMPLES + sample % SAMPLES) as f32 * step + step / 2.0;
            let py = (y * SAMPLES + sample / SAMPLES) as f32 * step + step / 2.0;
            let (u, v) = ((px - self.centre.0) / self.radius, (py - self.centre.1) / self.radius);
            let colour = if inside(self.shape, u, v) { self.ink(u, v) } else { below };
            (0..3).for_each(|channel| sum[channel] += u32::from(colour[channel]));
        }
        let n = SAMPLES * SAMPLES;
        sum.map(|total| ((total + n / 2) / n) as u8)
    }

    fn ink(&self, u: f32, v: f32) -> [u8; 3] {
        let marked = match self.pattern {
            Pattern::Plain => false,
            Pattern::Striped => phase(v, 0.5) < 0.5,
            Pattern::Dotted => disc(phase(u, 0.5) - 0.5, phase(v, 0.5) - 0.5, 0.27),
        };
        if !marked {
            return self.colour;
        }
        let light = self.colour.iter().map(|&part| u32::from(part)).sum::<u32>() > 560;
        blend(self.colour, if light { [70, 70, 70] } else { [255, 255, 255] }, 0.7)
    }
}

/// How far into its period a coordinate is, 0 to 1.
fn phase(at: f32, period: f32) -> f32 {
    let turns = (at + 2.0) / period;
    turns - turns as u32 as f32
}

fn disc(u: f32, v: f32, radius: f32) -> bool {
    u * u + v * v <= radius * radius
}

/// Whether a point of the square from -1 to 1 (v grows downwards) belongs to the shape.
fn inside(shape: Shape, u: f32, v: f32) -> bool {
    match shape {
        Shape::Ball => disc(u, v, 0.95),
        Shape::Square => u.abs() <= 0.84 && v.abs() <= 0.84,
        Shape::Triangle => polygon(&TRIANGLE, u, v),
        Shape::Star => polygon(&STAR, u, v),
        Shape::Heart => disc(u + 0.46, v + 0.38, 0.5) || disc(u - 0.46, v + 0.38, 0.5) || polygon(&HEART_POINT, u, v),
        Shape::Ring => disc(u, v, 0.95) && !disc(u, v, 0.52),
        Shape::Cross => (u.abs() <= 0.3 && v.abs() <= 0.95) || (v.abs() <= 0.3 && u.abs() <= 0.95),
        Shape::Hexagon => polygon(&HEXAGON, u, v),
        Shape::Moon => disc(u, v, 0.95) && !disc(u - 0.42, v + 0.1, 0.75),
        Shape::Diamond => u.abs() / 0.68 + v.abs() / 0.98 <= 1.0,
        Shape::Flower => FLOWER.iter().any(|&(x, y)| disc(u - x, v - y, 0.36)) && !disc(u, v, 0.2),
        Shape::House => polygon(&ROOF, u, v) || (u.abs() <= 0.66 && (-0.1..=0.92).contains(&v) && !door(u, v)),
        Shape::Tree => polygon(&CROWN, u, v) || (u.abs() <= 0.16 && (0.4..=0.97).contains(&v)),
        Shape::Fish => {
            let body = (u + 0.22) * (u + 0.22) / 0.53 + v * v / 0.29 <= 1.0;
            (body && !disc(u + 0.58, v + 0.14, 0.11)) || polygon(&TAIL, u, v)
        }
        Shape::Boat => polygon(&HULL, u, v) || polygon(&SAIL, u, v),
        Shape::Cloud => {
            disc(u + 0.5, v - 0.12, 0.42)
                || disc(u - 0.5, v - 0.14, 0.4)
                || disc(u - 0.02, v + 0.14, 0.52)
                || (u.abs() <= 0.5 && (0.0..=0.53).contains(&v))
        }
    }
}

fn door(u: f32, v: f32) -> bool {
    u.abs() <= 0.17 && v >= 0.42
}

/// Even-odd rule.
fn polygon(corners: &[(f32, f32)], u: f32, v: f32) -> bool {
    let mut odd = false;
    let mut previous = corners[corners.len() - 1];
    for &corner in corners {
        let crosses = (corner.1 > v) != (previous.1 > v);
        if crosses && u < (previous.0 - corner.0) * (v - corner.1) / (previous.1 - corner.1) + corner.0 {
            odd = !odd;
        }
        previous = corner;
    }
    odd
}

const TRIANGLE: [(f32, f32); 3] = [(0.0, -0.92), (0.96, 0.8), (-0.96, 0.8)];
const STAR: [(f32, f32); 10] = [
    (0.0, -1.0),
    (0.235, -0.309),
    (0.951, -0.309),
    (0.38, 0.124),
    (0.588, 0.809),
    (0.0, 0.4),
    (-0.588, 0.809),
    (-0.38, 0.124),
    (-0.951, -0.309),
    (-0.235, -0.309),
];
const HEART_POINT: [(f32, f32); 4] = [(-0.92, -0.18), (0.0, -0.5), (0.92, -0.18), (0.0, 0.96)];
const HEXAGON: [(f32, f32); 6] =
    [(0.96, 0.0), (0.48, 0.831), (-0.48, 0.831), (-0.96, 0.0), (-0.48, -0.831), (0.48, -0.831)];
const FLOWER: [(f32, f32); 6] =
    [(0.58, 0.0), (0.29, 0.502), (-0.29, 0.502), (-0.58, 0.0), (-0.29, -0.502), (0.29, -0.502)];
const ROOF: [(f32, f32); 3] = [(0.0, -0.96), (0.96, -0.08), (-0.96, -0.08)];
const CROWN: [(f32, f32); 7] =
    [(0.0, -0.98), (0.46, -0.3), (0.3, -0.3), (0.76, 0.44), (-0.76, 0.44), (-0.3, -0.3), (-0.46, -0.3)];
const TAIL: [(f32, f32); 3] = [(0.34, 0.0), (0.96, -0.5), (0.96, 0.5)];
const HULL: [(f32, f32); 4] = [(-0.96, 0.36), (0.96, 0.36), (0.58, 0.9), (-0.58, 0.9)];
const SAIL: [(f32, f32); 3] = [(-0.06, -0.94), (0.72, 0.22), (-0.06, 0.22)];
