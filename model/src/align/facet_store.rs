//! Facets that a decoder made beforehand: (n, dim) rows for each image, as FLAME published them one `.pth` an image, or
//! together in one safetensors file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor, safetensors::MmapedSafetensors};

use super::arrays::{self, Array, bad};
use crate::{Error, Result, builtin::layers::dot, learn::tensors::write_tensors};

const EXTENSIONS: [&str; 4] = ["pth", "pt", "safetensors", "npy"];
/// FLAME's folders below the root: the first letters of a key.
const PREFIX_LETTERS: usize = 5;

pub(super) struct FacetStore {
    place: Place,
    /// Numbers that every facet must have, once it is known.
    dim: Option<usize>,
}

enum Place {
    /// A file an image: `KEY.pth`, below a folder of the key's first five letters, or of what stands before its first `_`.
    Folder(PathBuf),
    /// A tensor an image, called by its key.
    File(PathBuf, MmapedSafetensors),
}

/// (n, dim), each row of unit length.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Facets {
    pub dim: usize,
    pub values: Vec<f32>,
}

impl Facets {
    pub(super) fn n(&self) -> usize {
        self.values.len() / self.dim
    }

    pub(super) fn row(&self, at: usize) -> &[f32] {
        &self.values[at * self.dim..][..self.dim]
    }

    /// Unit length: what a text is found by.
    pub(super) fn mean(&self) -> Vec<f32> {
        let mut mean = vec![0.0; self.dim];
        (0..self.n()).for_each(|at| mean.iter_mut().zip(self.row(at)).for_each(|(mean, x)| *mean += x));
        make_unit(&mut mean);
        mean
    }
}

/// Facets of one image, in memory: (n, dim).
#[derive(Clone, Debug, PartialEq)]
pub struct FacetRows {
    pub dim: usize,
    pub values: Vec<f32>,
}

/// One file of many, a tensor an image, as `TextFiles::Facets` reads it.
pub fn write_facets(path: &Path, all: &BTreeMap<String, FacetRows>) -> Result<()> {
    let tensor = |(key, FacetRows { dim, values }): (&String, &FacetRows)| -> Result<(String, Tensor)> {
        let shape = (values.len() / (*dim).max(1), *dim);
        Ok((key.clone(), Tensor::from_slice(values, shape, &Device::Cpu)?))
    };
    let tensors = all.iter().map(tensor).collect::<Result<Vec<_>>>()?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Error::Io { path: folder.to_owned(), error })?;
    }
    write_tensors(path, &tensors, ("firn.facets", "1"))
}

pub(super) fn make_unit(row: &mut [f32]) {
    let length = dot(row, row).sqrt().max(1e-12);
    row.iter_mut().for_each(|x| *x /= length);
}

/// Lengths whose squares a float holds, with room for a million of them.
const LENGTHS: std::ops::RangeInclusive<f64> = 1e-9..=1e15;

/// Of rows that are to be compared; a row of zeros is left to the caller. `what` calls a row by its name.
pub(super) fn check_lengths(
    values: &[f32],
    dim: usize,
    what: impl Fn(usize) -> String,
) -> std::result::Result<(), String> {
    for (at, row) in values.chunks_exact(dim).enumerate() {
        let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if length != 0.0 && !LENGTHS.contains(&length) {
            let expected = format!("expected a vector of length {:e} to {:e}", LENGTHS.start(), LENGTHS.end());
            return Err(format!("{}: {expected}, received {:e}", what(at), length as f32));
        }
    }
    Ok(())
}

impl FacetStore {
    pub(super) fn open(path: &Path, dim: Option<usize>) -> Result<FacetStore> {
        if path.is_dir() {
            return Ok(FacetStore { place: Place::Folder(path.to_owned()), dim });
        }
        arrays::open(path)?;
        // SAFETY: the map is only read; a file that is written to while it is trained on is outside the contract.
        let file = unsafe { MmapedSafetensors::new(path) };
        let file = file.map_err(|e| bad(path, format!("expected a folder or a safetensors file of facets: {e}")))?;
        Ok(FacetStore { place: Place::File(path.to_owned(), file), dim })
    }

    /// `None` if there are none for this key.
    pub(super) fn get(&self, key: &str) -> Result<Option<Facets>> {
        let (array, path) = match &self.place {
            Place::Folder(folder) => match places(folder, key).find(|path| path.is_file()) {
                Some(path) => (arrays::read(&path, key)?, path),
                None => return Ok(None),
            },
            Place::File(path, file) if file.get(key).is_ok() => {
                (arrays::of_tensor(&file.load(key, &Device::Cpu)?)?, path.clone())
            }
            Place::File(..) => return Ok(None),
        };
        match (self.dim, array.shape.last()) {
            (Some(expected), Some(&received)) if expected != received => Err(bad(
                &path,
                format!("{key}: expected facets of {expected} numbers, as others have, received {received}"),
            )),
            _ => facets(&path, key, array).map(Some),
        }
    }
}

/// A key is a name within the folder: one that leads out of it has no place.
fn places(folder: &Path, key: &str) -> impl Iterator<Item = PathBuf> {
    let is_within = Path::new(key).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let letters: String = key.chars().take(PREFIX_LETTERS).collect();
    let before = key.split_once('_').map(|(before, _)| before.to_owned());
    let folders = [Some(String::new()), Some(letters), before].into_iter().flatten().filter(move |_| is_within);
    let (folder, key) = (folder.to_owned(), key.to_owned());
    folders.flat_map(move |below| {
        let (folder, key) = (folder.join(below), key.clone());
        EXTENSIONS.into_iter().map(move |extension| folder.join(format!("{key}.{extension}")))
    })
}

fn facets(path: &Path, key: &str, array: Array) -> Result<Facets> {
    let Array { shape, mut values } = array;
    match shape[..] {
        [n, dim] if n > 0 && dim > 0 => {
            check_lengths(&values, dim, |at| format!("{key}: facet {at}")).map_err(|detail| bad(path, detail))?;
            values.chunks_exact_mut(dim).for_each(make_unit);
            Ok(Facets { dim, values })
        }
        _ => Err(bad(path, format!("{key}: expected shape (facets, dim), received {shape:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs};

    use super::*;

    #[test]
    fn facets_are_found_where_flame_put_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = FacetStore::open(folder.path(), None).unwrap();
        for (key, place) in [("a", "a.pth"), ("000001234", "00000/000001234.pth"), ("12_34", "12/12_34.pth")] {
            assert_eq!(store.get(key).unwrap(), None);
            let path = folder.path().join(place);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, crate::testing::torch_tensor()).unwrap();
            let facets = store.get(key).unwrap().expect("facets");
            assert_eq!((facets.n(), facets.dim), (3, 4));
            assert!((0..3).all(|at| (dot(facets.row(at), facets.row(at)) - 1.0).abs() < 1e-6));
        }
    }

    #[test]
    fn a_file_of_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("facets.safetensors");
        let tensor =
            |shape: (usize, usize)| candle_core::Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
        let flat = tensor((1, 4)).squeeze(0).unwrap();
        let all = HashMap::from([("a", tensor((2, 4))), ("b", flat)]);
        candle_core::safetensors::save(&all, &path).unwrap();
        let store = FacetStore::open(&path, None).unwrap();
        assert_eq!(store.get("a").unwrap().unwrap().mean(), [0.5; 4]);
        assert_eq!(store.get("c").unwrap(), None);
        let huge = HashMap::from([("a", (tensor((2, 4)) * 1e30).unwrap())]);
        let path_of_huge = folder.path().join("huge.safetensors");
        candle_core::safetensors::save(&huge, &path_of_huge).unwrap();
        let error = FacetStore::open(&path_of_huge, None).unwrap().get("a").unwrap_err().to_string();
        assert!(error.contains("a: facet 0: expected a vector of length 1e-9 to 1e15, received 2"), "{error}");
        let error = store.get("b").unwrap_err().to_string();
        assert!(error.contains("facets.safetensors: b: expected shape (facets, dim), received [4]"), "{error}");
        let error = FacetStore::open(&path, Some(5)).unwrap().get("a").unwrap_err().to_string();
        assert!(
            error.contains("facets.safetensors: a: expected facets of 5 numbers, as others have, received 4"),
            "{error}"
        );
    }
}
