//! Hubs: images that lie near to many texts, and texts that lie near to many images, and so come first where they do not belong.
//!
//! How much of a hub an item is, its hubness, is the mean of its products with the nearest of a crowd of those that usually ask. What is
//! taken off the cosine for it gives the place back to what is near to one text alone (cross-domain similarity local scaling,
//! arXiv 1710.04087, section 2.3; a bank of queries, arXiv 2112.12777).

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use candle_core::{Device, Tensor};
use half::f16;
use rayon::prelude::*;

use super::{Direction, Items, Pairs};
use crate::{Error, Result, builtin::layers::View, learn::tensors::numbers, product::Product};

/// Most members of a crowd: of more, some are drawn.
pub const MAX_CROWD: usize = 4096;
/// Members for one that counts as near: the nearest 20 of 4096.
const MEMBERS_FOR_ONE_NEAR: usize = 200;
/// Items whose usual hubness is taken as that of all.
const N_USUAL: usize = 256;

/// Texts and images that were learnt from, by named vector: (n, dim) each, of unit length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hubs {
    /// Who looks for images.
    pub texts: BTreeMap<String, Items>,
    /// Who looks for texts.
    pub images: BTreeMap<String, Items>,
}

/// Those that look for the items of one side, in the space where the product is the blended cosine.
#[derive(Clone, Debug, PartialEq)]
pub struct Crowd {
    dim: usize,
    n: usize,
    /// (dim, n): the order that the product reads fastest.
    vectors: Vec<f32>,
    /// What is taken off, so that a usual item has none.
    usual: f32,
}

impl Hubs {
    /// Those that look for images, and those that look for texts; `None` if the blend has a vector that was not there when they were
    /// drawn.
    pub fn crowds(&self, blend: &BTreeMap<String, f32>) -> Option<Crowds> {
        let (texts, images) = (beside(&self.texts, blend)?, beside(&self.images, blend)?);
        let usual = |of: &Items| of.vectors[..of.vectors.len().min(N_USUAL * of.dim)].to_vec();
        let (some_texts, some_images) = (usual(&texts), usual(&images));
        let parts = shares(blend).map(|(name, share)| Some((name.clone(), share, self.texts.get(name)?.dim)));
        let (texts, images) = (Crowd::new(texts, &some_images), Crowd::new(images, &some_texts));
        Some(Crowds { parts: parts.collect::<Option<_>>()?, texts, images })
    }

    pub(super) fn tensors(&self) -> candle_core::Result<Vec<(String, Tensor)>> {
        let sides = [("texts", &self.texts), ("images", &self.images)];
        let all = sides.into_iter().flat_map(|(side, of)| of.iter().map(move |(name, items)| (side, name, items)));
        let tensor = |(side, name, items): (&str, &String, &Items)| {
            let halves: Vec<f16> = items.vectors.iter().map(|&x| f16::from_f32(x)).collect();
            let tensor = Tensor::from_vec(halves, (items.n(), items.dim), &Device::Cpu)?;
            Ok((format!("{PREFIX}{side}.{name}"), tensor))
        };
        all.map(tensor).collect()
    }

    /// What `tensors` gave, if it is there; each side with the same named vectors, and of one length within a side.
    pub(super) fn of_tensors(tensors: &HashMap<String, Tensor>, file: &Path) -> Result<Option<Hubs>> {
        let bad = |detail: String| Error::BadFile { file: file.to_owned(), detail };
        let mut hubs = Hubs::default();
        for (key, tensor) in tensors {
            let Some(key_of) = key.strip_prefix(PREFIX) else { continue };
            let (side, name) =
                key_of.split_once('.').ok_or_else(|| bad(format!("{key}: expected a side and a name")))?;
            let (n, dim) = tensor.dims2().map_err(|error| bad(format!("{key}: {error}")))?;
            if n == 0 || n > MAX_CROWD || dim == 0 || dim > 1 << 16 {
                return Err(bad(format!("{key}: expected 1 to {MAX_CROWD} vectors, received {n} of {dim} numbers")));
            }
            let vectors: Vec<f32> = numbers::<f16>(tensors, key, &[n, dim], file)?.iter().map(|x| x.to_f32()).collect();
            if vectors.iter().any(|x| !x.is_finite()) {
                return Err(bad(format!("{key}: expected finite numbers, received NaN or infinity")));
            }
            let side = match side {
                "texts" => &mut hubs.texts,
                "images" => &mut hubs.images,
                _ => return Err(bad(format!("{key}: expected texts or images"))),
            };
            side.insert(name.to_owned(), Items { dim, vectors, ..Items::default() });
        }
        let shapes =
            |of: &BTreeMap<String, Items>| of.iter().map(|(name, items)| (name.clone(), items.dim)).collect::<Vec<_>>();
        let is_even = |of: &BTreeMap<String, Items>| of.values().all(|items| of.values().all(|o| o.n() == items.n()));
        if shapes(&hubs.texts) != shapes(&hubs.images) || !is_even(&hubs.texts) || !is_even(&hubs.images) {
            return Err(bad("expected hubs of the same vectors on both sides".to_owned()));
        }
        Ok((!hubs.texts.is_empty()).then_some(hubs))
    }
}

/// What is known of how much of a hub each item is.
#[derive(Clone, Copy, Default)]
pub enum Telling<'a> {
    /// Nothing: hubness is 0.
    #[default]
    Nobody,
    /// Those that look for them, in the space of the first order.
    Crowds(&'a Crowds),
    /// Of every image; that of texts is 0.
    Images(&'a [f32]),
}

impl Telling<'_> {
    pub(super) fn hubness(&self, direction: Direction, items: &Items, at: &[usize]) -> Vec<f32> {
        match (self, direction) {
            (Telling::Crowds(crowds), _) => crowds.who_look(direction).hubness(&items.vectors_of(at)),
            (Telling::Images(hubness), Direction::TextToImage) => at.iter().map(|&at| hubness[at]).collect(),
            _ => vec![0.0; at.len()],
        }
    }
}

impl Pairs {
    /// How much of a hub each image is for the first `n` of these texts that are of its fold, in the pairs' own space; those that belong
    /// to it do not count.
    pub fn tell_hubs(&mut self, texts: &[usize], n: usize) {
        let images: Vec<usize> = (0..self.images.n()).collect();
        let mut hubness = vec![0.0; images.len()];
        for (images, mut texts) in self.by_fold(&images, texts) {
            texts.truncate(n);
            let of_fold = self.hubness_for(&images, &texts);
            let usual = of_fold.iter().sum::<f32>() / of_fold.len().max(1) as f32;
            images.iter().zip(of_fold).for_each(|(&image, of)| hubness[image] = of - usual);
        }
        self.hubness = hubness;
    }

    /// Of each of some images; 0 if there are no texts.
    fn hubness_for(&self, images: &[usize], texts: &[usize]) -> Vec<f32> {
        const AT_ONCE: usize = 64;
        if texts.is_empty() {
            return vec![0.0; images.len()];
        }
        let of_some = |images: &[usize]| {
            let mut products = self.images.cosines(images, &self.texts, texts);
            let rows = images.iter().zip(products.chunks_exact_mut(texts.len()));
            let hubness = |(&image, row): (&usize, &mut [f32])| {
                for (product, &text) in row.iter_mut().zip(texts) {
                    if self.belongs(text, image) {
                        *product = f32::NEG_INFINITY;
                    }
                }
                mean_of_nearest(row)
            };
            rows.map(hubness).collect::<Vec<f32>>()
        };
        images.par_chunks(AT_ONCE).flat_map_iter(of_some).collect()
    }
}

const PREFIX: &str = "hubs.";

/// Of both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Crowds {
    /// Each vector of the blend, what it is multiplied with, and its numbers.
    parts: Vec<(String, f32, usize)>,
    texts: Crowd,
    images: Crowd,
}

impl Crowds {
    /// Who looks, in that direction.
    pub fn who_look(&self, direction: Direction) -> &Crowd {
        match direction {
            Direction::TextToImage => &self.texts,
            Direction::ImageToText => &self.images,
        }
    }

    /// An item as one vector, from those it has by the names of the blend; one that is lacking, or of another length, counts as 0.
    pub fn row<'a>(&self, vector_of: impl Fn(&str) -> Option<&'a [f32]>) -> Vec<f32> {
        let mut row = Vec::with_capacity(self.texts.dim);
        for (name, share, dim) in &self.parts {
            match vector_of(name).filter(|vector| vector.len() == *dim) {
                Some(vector) => row.extend(vector.iter().map(|x| x * share)),
                None => row.resize(row.len() + dim, 0.0),
            }
        }
        row
    }
}

impl Crowd {
    fn new(members: Items, some_others: &[f32]) -> Crowd {
        let (n, dim) = (members.n(), members.dim);
        let vectors = (0..dim * n).map(|at| members.vectors[at % n * dim + at / n]).collect();
        let mut crowd = Crowd { dim, n, vectors, usual: 0.0 };
        let of_some = crowd.hubness(some_others);
        crowd.usual = of_some.iter().sum::<f32>() / of_some.len().max(1) as f32;
        crowd
    }

    /// Of items, row by row: how much nearer than usual the nearest of the crowd are.
    pub fn hubness(&self, items: &[f32]) -> Vec<f32> {
        /// Most items whose products are held by a thread.
        const AT_ONCE: usize = 256;
        let n = self.n;
        // A product reads the whole crowd, however few items it has.
        let at_once = (items.len() / self.dim).div_ceil(rayon::current_num_threads()).clamp(1, AT_ONCE);
        let members = View::rows(&self.vectors, n);
        let of_some = |items: &[f32]| {
            let m = items.len() / self.dim;
            let mut products = vec![0.0; m * n];
            let product = Product { size: [m, n, self.dim], scale: 1.0, n_threads: 1 };
            product.write(View::rows(items, self.dim), members, &mut products, n);
            products.chunks_exact_mut(n).map(|row| mean_of_nearest(row) - self.usual).collect::<Vec<f32>>()
        };
        items.par_chunks(at_once * self.dim).flat_map_iter(of_some).collect()
    }
}

/// Of an item's products with a crowd, in an order that changes: the mean of the greatest. What is not finite does not count.
fn mean_of_nearest(products: &mut [f32]) -> f32 {
    let n = (products.len() / MEMBERS_FOR_ONE_NEAR).max(1);
    let (nearest, last, _) = products.select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a));
    let all = nearest.iter().copied().chain([*last]).filter(|product| product.is_finite());
    all.clone().sum::<f32>() / all.count().max(1) as f32
}

/// What each vector of the blend is multiplied with, so that the product of all of them is the weighted mean of the cosines.
fn shares(blend: &BTreeMap<String, f32>) -> impl Iterator<Item = (&String, f32)> {
    let total: f32 = blend.values().sum();
    blend.iter().filter(|(_, weight)| **weight > 0.0).map(move |(name, weight)| (name, (weight / total).sqrt()))
}

/// Rows of all vectors that the blend weighs, one behind the other.
fn beside(by_name: &BTreeMap<String, Items>, blend: &BTreeMap<String, f32>) -> Option<Items> {
    let part = |(name, share)| Some((by_name.get(name)?, share));
    let parts: Vec<(&Items, f32)> = shares(blend).map(part).collect::<Option<_>>()?;
    let n = parts.first()?.0.n();
    let row = |at: usize| {
        parts
            .iter()
            .flat_map(move |(items, share)| items.vectors[at * items.dim..][..items.dim].iter().map(move |x| x * share))
    };
    let dim = parts.iter().map(|(items, _)| items.dim).sum();
    Some(Items { dim, vectors: (0..n).flat_map(row).collect(), ..Items::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat::dot;

    fn unit(seed: usize, dim: usize) -> Vec<f32> {
        let raw: Vec<f32> = (0..dim).map(|i| ((seed * 31 + i * 17) % 29) as f32 - 14.0).collect();
        let length = dot(&raw, &raw).sqrt();
        raw.iter().map(|x| x / length).collect()
    }

    fn items(n: usize, dim: usize, seed: usize) -> Items {
        Items { dim, vectors: (0..n).flat_map(|at| unit(seed + at, dim)).collect(), ..Items::default() }
    }

    fn hubs() -> Hubs {
        let side = |n: usize, seed: usize| {
            BTreeMap::from([("a".to_owned(), items(n, 6, seed)), ("b".to_owned(), items(n, 4, seed + 7))])
        };
        Hubs { texts: side(500, 1), images: side(410, 900) }
    }

    /// By the plain formula, for a blend of two vectors.
    #[test]
    fn hubness_is_the_mean_of_the_nearest() {
        let blend = BTreeMap::from([("a".to_owned(), 3.0), ("b".to_owned(), 1.0)]);
        let (hubs, asked) = (hubs(), [items(70, 6, 40), items(70, 4, 60)]);
        let crowds = hubs.crowds(&blend).unwrap();
        let crowd = crowds.who_look(Direction::TextToImage);
        let shares = [0.75f32.sqrt(), 0.5];
        let row = |at: usize| {
            let part = |items: &Items, share: f32| -> Vec<f32> {
                items.vectors[at * items.dim..][..items.dim].iter().map(|x| x * share).collect()
            };
            [part(&asked[0], shares[0]), part(&asked[1], shares[1])].concat()
        };
        let plain = |of: &[&Items; 2], at: usize| {
            let product = |member: usize| {
                let of_part = |(texts, items): (&Items, &Items)| {
                    dot(
                        &texts.vectors[member * texts.dim..][..texts.dim],
                        &items.vectors[at * items.dim..][..items.dim],
                    )
                };
                0.75 * of_part((&hubs.texts["a"], of[0])) + 0.25 * of_part((&hubs.texts["b"], of[1]))
            };
            let mut products: Vec<f32> = (0..500).map(product).collect();
            products.sort_by(|a, b| b.total_cmp(a));
            (products[0] + products[1]) / 2.0
        };
        let of_images = [&hubs.images["a"], &hubs.images["b"]];
        let usual = (0..N_USUAL).map(|at| plain(&of_images, at)).sum::<f32>() / N_USUAL as f32;
        let received = crowd.hubness(&(0..70).flat_map(row).collect::<Vec<f32>>());
        for (at, received) in received.into_iter().enumerate() {
            let expected = plain(&[&asked[0], &asked[1]], at) - usual;
            assert!((received - expected).abs() < 1e-5, "{at}: {received} {expected}");
        }
        assert_eq!(hubs.crowds(&BTreeMap::from([("c".to_owned(), 1.0)])), None);
    }

    /// The same for images of pairs, where a text is none of its own image's crowd.
    #[test]
    fn an_image_is_no_hub_for_its_own_texts() {
        let texts = items(430, 6, 3);
        let owner_of = (0..430).map(|text| text / 2).collect();
        let mut pairs = Pairs { images: items(215, 6, 77), texts, owner_of, ..Pairs::default() };
        pairs.tell_hubs(&(0..430).collect::<Vec<usize>>(), 420);
        let plain = |image: usize| {
            let others = (0..420).filter(|text| text / 2 != image);
            let mut products: Vec<f32> = others.map(|text| pairs.texts.product(text, &pairs.images, image)).collect();
            products.sort_by(|a, b| b.total_cmp(a));
            (products[0] + products[1]) / 2.0
        };
        let usual = (0..215).map(plain).sum::<f32>() / 215.0;
        for (image, received) in pairs.hubness.iter().enumerate() {
            assert!((received - plain(image) + usual).abs() < 1e-5, "{image}");
        }
    }

    #[test]
    fn hubs_come_back_from_tensors() {
        let (hubs, name) = (hubs(), Path::new("network"));
        let read = |tensors: Vec<(String, Tensor)>| Hubs::of_tensors(&tensors.into_iter().collect(), name);
        let back = read(hubs.tensors().unwrap()).unwrap().unwrap();
        let near = |a: &Items, b: &Items| a.vectors.iter().zip(&b.vectors).all(|(a, b)| (a - b).abs() < 1e-3);
        assert!(near(&back.texts["a"], &hubs.texts["a"]) && near(&back.images["b"], &hubs.images["b"]));
        assert_eq!(read(Vec::new()).unwrap(), None);
        let mut lacking = hubs.tensors().unwrap();
        lacking.pop();
        assert!(read(lacking).is_err());
        let mut uneven = hubs.clone();
        uneven.texts.insert("a".to_owned(), items(3, 6, 1));
        assert!(read(uneven.tensors().unwrap()).is_err());
    }
}
