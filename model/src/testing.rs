//! What several tests share: the fixtures of `model/fixtures/make.py` and its picture by formula.

use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use serde_json::Value;

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

pub(crate) fn fixture_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

/// The same formula stands in `make.py`.
pub(crate) fn formula_picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let value = |c: u32| x * 7 + y * 13 + c * 29 + (x * y) / 3 + ((x / 5 + y / 4) % 2) * 90;
        Rgb([0, 1, 2].map(|c| (value(c) % 256) as u8))
    })
}

/// A copy of a fixture folder that a test may break.
pub(crate) fn copy_of_fixture(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&fixture(name), dir.path());
    dir
}

/// (3, 4) in f16, (i / 4 - 1) each, of `make.py`.
pub(crate) fn torch_tensor() -> Vec<u8> {
    std::fs::read(fixture("torch-tensor.pth")).unwrap()
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => _ = std::fs::copy(entry.path(), target).unwrap(),
        }
    }
}
