//! How a picture becomes a tower's pixels: a random crop in training, the middle in all else; CLIP's mean and deviation.

use image::{RgbImage, imageops::crop_imm};
use rand::Rng;
use serde_json::json;

use crate::{
    Pixels,
    preprocess::{CLIP, Preprocessor},
};

/// Sides of a crop are at most this uneven.
const RATIO: f32 = 4.0 / 3.0;
/// Crops that are tried before the middle is taken.
const N_TRIES: usize = 10;

pub(super) struct Views {
    /// Least share of a picture that a random crop keeps.
    pub least: f32,
    whole: Preprocessor,
    squeezed: Preprocessor,
}

impl Views {
    pub(super) fn new(side: usize, least: f32) -> Views {
        let middle = json!({ "size": { "shortest_edge": side }, "crop_size": side, "resample": 3 });
        let squeezed = json!({ "size": { "width": side, "height": side }, "do_center_crop": false, "resample": 3 });
        let make = |json| Preprocessor::from_json(&json, side, &CLIP).expect("a processor of this side");
        Views { least, whole: make(middle), squeezed: make(squeezed) }
    }

    /// Shorter side to the tower's, bicubic, then the middle.
    pub(super) fn middle(&self, picture: &RgbImage) -> Pixels {
        self.whole.apply(picture)
    }

    /// torchvision's RandomResizedCrop.
    pub(super) fn random(&self, picture: &RgbImage, rng: &mut impl Rng) -> Pixels {
        let (width, height) = picture.dimensions();
        for _ in 0..N_TRIES {
            let area = width as f32 * height as f32 * rng.random_range(self.least..=1.0);
            let ratio = rng.random_range(-RATIO.ln()..=RATIO.ln()).exp();
            let wide = (area * ratio).sqrt().round() as u32;
            let high = (area / ratio).sqrt().round() as u32;
            if (1..=width).contains(&wide) && (1..=height).contains(&high) {
                let (left, top) = (rng.random_range(0..=width - wide), rng.random_range(0..=height - high));
                return self.squeezed.apply(&crop_imm(picture, left, top, wide, high).to_image());
            }
        }
        self.middle(picture)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::testing::formula_picture;

    #[test]
    fn a_random_view_is_of_the_same_picture_and_of_the_same_size() {
        let (views, picture) = (Views::new(24, 0.9), formula_picture(60, 48));
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let [first, second] = [views.random(&picture, &mut rng), views.random(&picture, &mut rng)];
        assert_eq!((first.side, first.values.len()), (24, 3 * 24 * 24));
        assert_ne!(first, second);
        let even = RgbImage::from_pixel(50, 50, image::Rgb([9, 200, 30]));
        assert_eq!(views.random(&even, &mut rng), views.middle(&even));
    }
}
