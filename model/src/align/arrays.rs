//! Arrays of numbers from files of others: NumPy's `.npy`, one tensor of a safetensors file, and the single tensor that
//! `torch.save` wrote (`.pth`, `.pt`).

use std::{fs::File, io::BufReader, path::Path};

use candle_core::{DType, Device, Tensor};
use half::f16;
use safetensors::SafeTensors;

use crate::{Error, Result, folder};

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 64 << 30;

pub(super) struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// By the file's extension. A safetensors file must hold one tensor, or one called `name`.
pub(super) fn read(path: &Path, name: &str) -> Result<Array> {
    there(path)?;
    let array = match path.extension().and_then(|e| e.to_str()) {
        Some("npy") => of_npy(&folder::read(path, MAX_FILE_BYTES)?).map_err(|detail| bad(path, detail))?,
        Some("safetensors") => of_safetensors(path, name)?,
        Some("pth" | "pt") => {
            let (shape, values) = crate::read_tensor(path, MAX_FILE_BYTES as usize / 2)?;
            Array { shape, values }
        }
        _ => return Err(bad(path, "expected a .npy, .safetensors, .pth or .pt file".to_owned())),
    };
    match array.values.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(bad(path, format!("expected finite numbers, received {} at {at}", array.values[at]))),
        None => Ok(array),
    }
}

pub(super) fn bad(path: &Path, detail: String) -> Error {
    Error::BadData { file: path.to_owned(), detail }
}

/// Magic, version, header length, then a Python dictionary; little-endian, C order.
fn of_npy(bytes: &[u8]) -> Result<Array, String> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("not a .npy file")?;
    let (length, start) = match (rest.first(), rest.len()) {
        (Some(1), 4..) => (usize::from(u16::from_le_bytes([rest[2], rest[3]])), 4),
        (Some(2 | 3), 6..) => (u32::from_le_bytes([rest[2], rest[3], rest[4], rest[5]]) as usize, 6),
        _ => return Err("format version: expected 1 to 3".to_owned()),
    };
    let header = rest.get(start..start + length).ok_or("the file ends within its header")?;
    let header = String::from_utf8_lossy(header).into_owned();
    let value = |key: &str| {
        let rest = header.split_once(&format!("'{key}':"))?.1;
        Some(rest.trim_start())
    };
    if !value("fortran_order").is_some_and(|value| value.starts_with("False")) {
        return Err("expected C order; hint: numpy.ascontiguousarray".to_owned());
    }
    let shape = value("shape").and_then(|s| s.strip_prefix('(')?.split(')').next()).ok_or("no shape")?;
    let shape: Result<Vec<usize>, _> =
        shape.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::parse).collect();
    let shape = shape.map_err(|e| format!("shape: {e}"))?;
    let kind = value("descr").and_then(|s| s.strip_prefix('\'')?.split('\'').next()).unwrap_or("a structure");
    let data = &rest[start + length..];
    let values: Vec<f32> = match kind {
        "|i1" => data.iter().map(|&byte| f32::from(byte as i8)).collect(),
        "<f2" => numbers(data, |b| f16::from_le_bytes(b).to_f32()),
        "<f4" => numbers(data, f32::from_le_bytes),
        "<f8" => numbers(data, |b| f64::from_le_bytes(b) as f32),
        other => return Err(format!("expected numbers of |i1, <f2, <f4 or <f8, received {other}")),
    };
    let expected = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    if expected != Some(values.len()) {
        return Err(format!("expected the numbers of shape {shape:?}, received {}", values.len()));
    }
    Ok(Array { shape, values })
}

fn numbers<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    data.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
}

fn of_safetensors(path: &Path, name: &str) -> Result<Array> {
    let bytes = folder::read(path, MAX_FILE_BYTES)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| bad(path, e.to_string()))?;
    let names = tensors.names();
    let name = match names[..] {
        [only] => only,
        _ if names.contains(&name) => name,
        _ => return Err(bad(path, format!("expected one tensor, or one called {name:?}, received {}", names.len()))),
    };
    of_tensor(&candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?[name])
}

pub(super) fn of_tensor(tensor: &Tensor) -> Result<Array> {
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(Array { shape: tensor.dims().to_vec(), values })
}

/// Ids of rows: one a line, a JSON list, or a JSON object with such a list under `ids`.
pub(super) fn read_ids(path: &Path) -> Result<Vec<String>> {
    if path.extension().is_some_and(|e| e == "json") {
        let json: serde_json::Value =
            serde_json::from_reader(BufReader::new(open(path)?)).map_err(|e| bad(path, e.to_string()))?;
        let list = if json.is_object() { &json["ids"] } else { &json };
        let list = list.as_array().ok_or_else(|| bad(path, "expected a list of ids".to_owned()))?;
        let id = |id: &serde_json::Value| id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        return Ok(list.iter().map(id).collect());
    }
    there(path)?;
    let text = String::from_utf8(folder::read(path, 1 << 30)?).map_err(|e| bad(path, e.to_string()))?;
    Ok(text.lines().map(|line| line.trim_end().to_owned()).collect())
}

pub(super) fn open(path: &Path) -> Result<File> {
    there(path)?;
    folder::open(path)
}

/// What is read here are data that a user names, not parts of a model.
fn there(path: &Path) -> Result<()> {
    if path.is_file() { Ok(()) } else { Err(bad(path, "there is no such file".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn numbers_of_numpy() {
        let array = of_npy(&npy("|i1", "(2, 2)", &[1, 0xff, 0x80, 5])).unwrap();
        assert_eq!((array.shape, array.values), (vec![2, 2], vec![1.0, -1.0, -128.0, 5.0]));
        let halves: Vec<u8> = [0.5f32, -2.0].iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        assert_eq!(of_npy(&npy("<f2", "(2,)", &halves)).unwrap().values, [0.5, -2.0]);
        let check = |bytes: &[u8], expected: &str| {
            let error = of_npy(bytes).err().expect("an error");
            assert!(error.contains(expected), "{error}");
        };
        check(&npy("<f4", "(2,)", &[0; 4]), "expected the numbers of shape [2], received 1");
        check(&npy("<i8", "(1,)", &[0; 8]), "received <i8");
        check(b"PK", "not a .npy file");
    }

    #[test]
    fn a_tensor_of_torch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pth");
        std::fs::write(&path, crate::testing::torch_tensor()).unwrap();
        let array = read(&path, "").unwrap();
        assert_eq!(array.shape, [3, 4]);
        assert_eq!(array.values, (0..12).map(|i| i as f32 / 4.0 - 1.0).collect::<Vec<_>>());
        std::fs::write(&path, b"no zip").unwrap();
        let error = read(&path, "").err().unwrap().to_string();
        assert!(error.contains("key.pth: not a zip file of torch.save"), "{error}");
    }

    #[test]
    fn ids_in_three_ways() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("a.txt", "x\ny\n"), ("a.json", r#"["x", "y"]"#), ("b.json", r#"{"ids": ["x", "y"]}"#)] {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_ids(&path).unwrap(), ["x", "y"], "{name}");
        }
    }
}
