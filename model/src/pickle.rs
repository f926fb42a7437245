//! One tensor that `torch.save` wrote: a zip with a pickle in it. The pickle is only read as data: nothing it names is run.

use std::{
    fs::File,
    io::{BufReader, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use candle_core::{
    DType, Device, Tensor,
    pickle::{Object, Stack, TensorInfo},
};
use zip::ZipArchive;

use crate::{Error, Result};

/// What a pickle of one tensor takes is a few hundred bytes.
const MAX_PICKLE_BYTES: u64 = 1 << 20;

/// Shape and numbers, row after row, of a file that holds one tensor of at most `max_numbers`.
pub fn read_tensor(path: &Path, max_numbers: usize) -> Result<(Vec<usize>, Vec<f32>)> {
    let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
    let file = File::open(path).map_err(|error| bad(error.to_string()))?;
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(|error| bad(format!("not a .pth file: {error}")))?;
    // The reader takes its arguments for those of a tensor, and panics where they are not.
    let info = catch_unwind(AssertUnwindSafe(|| tensor_info(&mut zip)));
    let info = info.unwrap_or_else(|_| Err("the pickle is not that of a tensor".to_owned())).map_err(bad)?;
    let layout = &info.layout;
    let n = layout.dims().iter().try_fold(1usize, |n, &side| n.checked_mul(side));
    if n.is_none_or(|n| n > max_numbers) {
        return Err(bad(format!("a tensor of shape {:?}: at most {max_numbers} numbers", layout.dims())));
    }
    if !layout.is_contiguous() {
        return Err(bad("a tensor that is not contiguous (hint: tensor.contiguous() before torch.save)".to_owned()));
    }
    let values = numbers(&mut zip, &info).map_err(bad)?;
    Ok((layout.dims().to_vec(), values))
}

fn tensor_info(zip: &mut ZipArchive<BufReader<File>>) -> Result<TensorInfo, String> {
    let names: Vec<String> = zip.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
    let name = names.iter().find_map(|name| name.strip_suffix("data.pkl"));
    let folder = name.ok_or("not a .pth file: no data.pkl in it")?;
    let pickle = zip.by_name(&format!("{folder}data.pkl")).map_err(|error| error.to_string())?;
    let mut stack = Stack::empty();
    stack
        .read_loop(&mut BufReader::new(pickle.take(MAX_PICKLE_BYTES)))
        .map_err(|error| format!("the pickle cannot be read: {error}"))?;
    let object = stack.finalize().map_err(|error| error.to_string())?;
    let found = object.into_tensor_info(Object::Unicode("tensor".to_owned()), &Path::new(folder).join("data"));
    found.map_err(|error| error.to_string())?.ok_or_else(|| "expected one tensor, received something else".to_owned())
}

fn numbers(zip: &mut ZipArchive<BufReader<File>>, info: &TensorInfo) -> Result<Vec<f32>, String> {
    let mut data = zip.by_name(&info.path).map_err(|error| error.to_string())?;
    let (start, n) = (info.layout.start_offset() as u64, info.layout.shape().elem_count());
    std::io::copy(&mut data.by_ref().take(start), &mut std::io::sink()).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; n * info.dtype.size_in_bytes()];
    data.read_exact(&mut bytes).map_err(|error| error.to_string())?;
    let flat = Tensor::from_raw_buffer(&bytes, info.dtype, &[n], &Device::Cpu);
    let flat = flat.and_then(|tensor| tensor.to_dtype(DType::F32)?.to_vec1());
    flat.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by `fixtures/make_pickle.py`.
    fn fixture(name: &str) -> std::path::PathBuf {
        crate::testing::fixture("pickle").join(name)
    }

    #[test]
    fn one_tensor_is_read_as_torch_wrote_it() {
        let half = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25].to_vec();
        assert_eq!(read_tensor(&fixture("half.pth"), 6).unwrap(), (vec![2, 3], half));
        let view = (3..9).map(|i| i as f32).collect();
        assert_eq!(read_tensor(&fixture("view.pth"), 6).unwrap(), (vec![2, 3], view));
    }

    #[test]
    fn what_is_no_tensor_is_named() {
        let check = |name: &str, max, expected: &str| {
            let error = read_tensor(&fixture(name), max).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(expected), "{error}");
        };
        check("half.pth", 5, "a tensor of shape [2, 3]: at most 5 numbers");
        check("transposed.pth", 9, "not contiguous");
        check("dictionary.pth", 9, "expected one tensor, received something else");
        check("no.pth", 9, "No such file");
        let dir = tempfile::tempdir().unwrap();
        let whole = std::fs::read(fixture("half.pth")).unwrap();
        for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
            let path = dir.path().join("cut.pth");
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(matches!(read_tensor(&path, 6), Err(Error::BadFile { .. })), "cut at {cut}");
        }
        // Whatever a flipped bit makes of it, the answer is a tensor or an error.
        for at in 0..whole.len() {
            let path = dir.path().join("flipped.pth");
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(&path, flipped).unwrap();
            let _ = read_tensor(&path, 6);
        }
    }
}
