//! Pictures to the numbers a tower takes: resize, centre crop, rescale, normalise.
//!
//! Equal to `CLIPImageProcessor` and `SiglipImageProcessor` of transformers on their Pillow backend, bit for bit (the torchvision one differs from
//! that by up to one grey level). Only what the crop keeps is resized, so a long strip costs no more than a square.

mod resample;

use std::path::Path;

use image::RgbImage;
use serde_json::Value;

pub(crate) use self::resample::Filter;
use self::resample::Window;
use crate::{Error, Pixels, Result, folder};

/// What a processor does where its file is silent.
pub(crate) struct Defaults {
    /// The whole picture becomes the square, whatever its shape; else its shorter side does, and what stands over is cut off.
    squash: bool,
    mean: [f64; 3],
    std: [f64; 3],
}

pub(crate) const CLIP: Defaults = Defaults {
    squash: false,
    mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
    std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
};
pub(crate) const SIGLIP: Defaults = Defaults { squash: true, mean: [0.5; 3], std: [0.5; 3] };
const MAX_SIDE_PX: u64 = 4096;

/// What `preprocessor_config.json` asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Preprocessor {
    resize: Option<Resize>,
    filter: Filter,
    /// Side of the square that is handed on.
    side: usize,
    centring: Centring,
    /// What each grey level of each channel becomes.
    levels: [[f32; 256]; 3],
}

/// Where a crop starts if what it leaves out cannot be halved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Centring {
    /// One to the left, as transformers does.
    Left,
    /// Half of it rounded to an even number, as torchvision does.
    Even,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resize {
    /// The shorter side becomes this long, the other one in proportion.
    ShortestEdge(usize),
    Exact {
        width: usize,
        height: usize,
    },
}

impl Preprocessor {
    /// Reads the file and checks that it yields squares of `side`.
    pub(crate) fn read(path: &Path, side: usize, defaults: &Defaults) -> Result<Preprocessor> {
        let json = folder::read_json(path)?;
        // A processor of transformers 5 keeps the image part of its settings under one key.
        let json = if json["image_processor"].is_object() { &json["image_processor"] } else { &json };
        Preprocessor::from_json(json, side, defaults).map_err(|detail| Error::BadFile { file: path.to_owned(), detail })
    }

    pub(crate) fn from_json(json: &Value, side: usize, defaults: &Defaults) -> Result<Preprocessor, String> {
        if !json.is_object() {
            return Err("expected a JSON object".to_owned());
        }
        let resize =
            if flag(json, "do_resize", true)? { Some(read_resize(&json["size"], side, defaults)?) } else { None };
        let output = if flag(json, "do_center_crop", !defaults.squash)? {
            Some(read_square(&json["crop_size"], 224)?)
        } else {
            resize.and_then(Resize::fixed_square)
        };
        if output != Some(side) {
            let received = output.map_or("pictures of no fixed size".to_owned(), |n| format!("{n} x {n}"));
            return Err(format!(
                "expected to make pictures of {side} x {side}, as config.json says; received {received}"
            ));
        }
        let (filter, levels) = (read_filter(&json["resample"])?, read_levels(json, defaults)?);
        Ok(Preprocessor { resize, filter, side, centring: Centring::Left, levels })
    }

    /// What OpenCLIP does to an image of a tower that takes squares of `side`; FLAME and Long-CLIP do the same.
    pub(crate) fn of_clip(side: usize) -> Preprocessor {
        Preprocessor::from_open_clip(&Value::Null, side).expect("silence is understood")
    }

    /// `preprocess_cfg` of `open_clip_config.json`.
    pub(crate) fn read_open_clip(path: &Path, side: usize) -> Result<Preprocessor> {
        let json = folder::read_json(path)?;
        let bad = |detail| Error::BadFile { file: path.to_owned(), detail: format!("preprocess_cfg.{detail}") };
        Preprocessor::from_open_clip(&json["preprocess_cfg"], side).map_err(bad)
    }

    fn from_open_clip(json: &Value, side: usize) -> Result<Preprocessor, String> {
        let resize = match json["resize_mode"].as_str() {
            None | Some("shortest") => Resize::ShortestEdge(side),
            Some("squash") => Resize::Exact { width: side, height: side },
            Some(other) => return Err(format!("resize_mode: expected shortest or squash, received {other:?}")),
        };
        let filter = match json["interpolation"].as_str() {
            None | Some("bicubic") => Filter::Bicubic,
            Some("bilinear") => Filter::Bilinear,
            Some(other) => return Err(format!("interpolation: expected bicubic or bilinear, received {other:?}")),
        };
        let size = &json["size"];
        let sides = if let Some(pair) = size.as_array() { &pair[..] } else { std::slice::from_ref(size) };
        if !size.is_null() && sides.iter().any(|n| n.as_u64() != Some(side as u64)) {
            return Err(format!("size: expected {side}, as the image tower takes; received {size}"));
        }
        let (mean, std) = (read_triple(json, "mean", CLIP.mean)?, read_deviations(json, "std", CLIP.std)?);
        // In the precision of torchvision, f32 from the start.
        let level = |channel: usize, grey: usize| (grey as f32 / 255.0 - mean[channel] as f32) / std[channel] as f32;
        let levels = std::array::from_fn(|channel| std::array::from_fn(|grey| level(channel, grey)));
        Ok(Preprocessor { resize: Some(resize), filter, side, centring: Centring::Even, levels })
    }

    /// (3, side, side), channel first.
    pub(crate) fn apply(&self, picture: &RgbImage) -> Pixels {
        let n = self.side * self.side;
        let rgb = self.crop(picture);
        let mut values = vec![0.0; 3 * n];
        for (channel, plane) in values.chunks_exact_mut(n).enumerate() {
            let levels = &self.levels[channel];
            for (value, pixel) in plane.iter_mut().zip(rgb.chunks_exact(3)) {
                *value = levels[usize::from(pixel[channel])];
            }
        }
        Pixels { side: self.side, values }
    }

    /// (side, side, 3): resized, then cropped; black where the crop is larger than the picture.
    fn crop(&self, picture: &RgbImage) -> Vec<u8> {
        let side = self.side;
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let mut square = vec![0; side * side * 3];
        if width == 0 || height == 0 {
            return square;
        }
        let (new_width, new_height) = self.resize.map_or((width, height), |resize| resize.size(width, height));
        let (across, down) =
            (Crop::centre(new_width, side, self.centring), Crop::centre(new_height, side, self.centring));
        let window = Window { width: new_width, height: new_height, columns: across.source(), rows: down.source() };
        let part = resample::resize(picture, &window, self.filter);
        for (y, row) in part.chunks_exact(across.length * 3).enumerate() {
            let at = ((down.target + y) * side + across.target) * 3;
            square[at..at + row.len()].copy_from_slice(row);
        }
        square
    }
}

impl Resize {
    fn size(self, width: usize, height: usize) -> (usize, usize) {
        match self {
            Resize::Exact { width, height } => (width, height),
            Resize::ShortestEdge(edge) if width <= height => (edge, edge * height / width),
            Resize::ShortestEdge(edge) => (edge * width / height, edge),
        }
    }

    fn fixed_square(self) -> Option<usize> {
        match self {
            Resize::Exact { width, height } if width == height => Some(width),
            _ => None,
        }
    }
}

impl Centring {
    /// Of so many that are left out.
    fn start(self, n: usize) -> usize {
        match self {
            Centring::Left => n / 2,
            Centring::Even => n / 2 + usize::from(n % 4 == 3),
        }
    }
}

/// Where a centred crop takes from and where it puts it, along one side.
struct Crop {
    from: usize,
    target: usize,
    length: usize,
}

impl Crop {
    fn centre(have: usize, want: usize, centring: Centring) -> Crop {
        if have >= want {
            Crop { from: centring.start(have - want), target: 0, length: want }
        } else {
            Crop { from: 0, target: (want - have).div_ceil(2), length: have }
        }
    }

    fn source(&self) -> std::ops::Range<usize> {
        self.from..self.from + self.length
    }
}

fn flag(json: &Value, name: &str, default: bool) -> Result<bool, String> {
    match &json[name] {
        Value::Null => Ok(default),
        Value::Bool(flag) => Ok(*flag),
        other => Err(format!("{name}: expected true or false, received {other}")),
    }
}

fn read_resize(size: &Value, side: usize, defaults: &Defaults) -> Result<Resize, String> {
    if size.is_null() {
        let exact = Resize::Exact { width: side, height: side };
        return Ok(if defaults.squash { exact } else { Resize::ShortestEdge(side) });
    }
    if let Some(edge) = pixels(size).or_else(|| pixels(&size["shortest_edge"])) {
        if !size["longest_edge"].is_null() {
            return Err(format!("size: longest_edge is not known here; received {size}"));
        }
        return Ok(Resize::ShortestEdge(edge));
    }
    match (pixels(&size["height"]), pixels(&size["width"])) {
        (Some(height), Some(width)) => Ok(Resize::Exact { width, height }),
        _ => Err(format!("size: expected a number, shortest_edge, or height and width, received {size}")),
    }
}

fn read_square(size: &Value, default: usize) -> Result<usize, String> {
    if size.is_null() {
        return Ok(default);
    }
    match (pixels(size), pixels(&size["height"]), pixels(&size["width"])) {
        (Some(side), _, _) => Ok(side),
        (None, Some(height), Some(width)) if height == width => Ok(height),
        _ => Err(format!("crop_size: expected a number, or equal height and width, received {size}")),
    }
}

fn pixels(value: &Value) -> Option<usize> {
    value.as_u64().filter(|n| (1..=MAX_SIDE_PX).contains(n)).map(|n| n as usize)
}

fn read_filter(resample: &Value) -> Result<Filter, String> {
    match resample.as_u64() {
        None if resample.is_null() => Ok(Filter::Bicubic),
        Some(2) => Ok(Filter::Bilinear),
        Some(3) => Ok(Filter::Bicubic),
        _ => Err(format!("resample: expected 2 (bilinear) or 3 (bicubic), received {resample}")),
    }
}

/// The same steps in the same precision as the reference: scaled in f64, then f32.
fn read_levels(json: &Value, defaults: &Defaults) -> Result<[[f32; 256]; 3], String> {
    let factor = match &json["rescale_factor"] {
        Value::Null => 1.0 / 255.0,
        value => value.as_f64().ok_or_else(|| format!("rescale_factor: expected a number, received {value}"))?,
    };
    let factor = if flag(json, "do_rescale", true)? { factor } else { 1.0 };
    let (mean, std) = if flag(json, "do_normalize", true)? {
        (read_triple(json, "image_mean", defaults.mean)?, read_deviations(json, "image_std", defaults.std)?)
    } else {
        ([0.0; 3], [1.0; 3])
    };
    let level =
        |channel: usize, level: usize| ((level as f64 * factor) as f32 - mean[channel] as f32) / std[channel] as f32;
    Ok(std::array::from_fn(|channel| std::array::from_fn(|grey| level(channel, grey))))
}

fn read_deviations(json: &Value, name: &str, default: [f64; 3]) -> Result<[f64; 3], String> {
    let std = read_triple(json, name, default)?;
    if std.iter().any(|&s| s as f32 <= 0.0) {
        return Err(format!("{name}: expected numbers above 0, received {std:?}"));
    }
    Ok(std)
}

fn read_triple(json: &Value, name: &str, default: [f64; 3]) -> Result<[f64; 3], String> {
    let value = &json[name];
    match value {
        Value::Null => return Ok(default),
        Value::Number(_) => return value.as_f64().map(|x| [x; 3]).ok_or_else(|| format!("{name}: not a number")),
        _ => {}
    }
    let numbers: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
    numbers
        .and_then(|list| <[f64; 3]>::try_from(list).ok())
        .ok_or_else(|| format!("{name}: expected three numbers, received {value}"))
}

#[cfg(test)]
mod tests;
