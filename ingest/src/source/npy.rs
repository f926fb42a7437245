//! Precomputed embeddings in NumPy's format: (n, dim) rows, format versions 1 to 3, i1 or little-endian f2, f4 or f8, C order. Whole numbers are
//! taken as they are: a vector of int8 is the one that was rounded to them, up to its length.
//!
//! Ids stand in `x.ids.txt` (one a line) or `x.ids.json` (a list), else they are `x:0`, `x:1` and so on. `x.tokens.npy`, of shape
//! (rows, n, dim), holds the tokens beside the vectors.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use firn_index::{Limits, PointId, TokenConfig, Tokens};

use super::{Fault, Item, Next, Progress, SourceError, kind::row_id, stream};

/// Longest header that is read, and most bytes of a file of ids.
const MAX_HEADER_BYTES: u32 = 1 << 20;
const MAX_IDS_BYTES: u64 = 1 << 30;

pub struct Npy {
    from: Box<dyn BufRead + Send>,
    header: Header,
    path: PathBuf,
    ids: Option<Vec<PointId>>,
    tokens: Option<TokenRows>,
    vector_name: String,
    row: usize,
    ended: bool,
    progress: Arc<Progress>,
}

/// The file beside it that holds tokens.
struct TokenRows {
    from: Box<dyn BufRead + Send>,
    number: Number,
    shape: TokenConfig,
}

/// Number types that rows are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    I8,
    F16,
    Bf16,
    F32,
    F64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    number: Number,
    shape: Vec<usize>,
}

/// What is wrong with a header: the file, or what was asked of it.
#[derive(Debug, thiserror::Error)]
enum HeaderFault {
    #[error("{0}")]
    Damaged(String),
    #[error("expected {expected}, received {received}")]
    Unsupported { expected: String, received: String },
}

impl From<String> for HeaderFault {
    fn from(detail: String) -> Self {
        HeaderFault::Damaged(detail)
    }
}

impl Npy {
    pub fn open(path: &Path, vector_name: &str, progress: Arc<Progress>) -> Result<Npy, SourceError> {
        let io = |error| SourceError::Io { path: path.to_owned(), error };
        let damaged = |detail| SourceError::Damaged { path: path.to_owned(), detail };
        let mut from = stream::open(path, None).map_err(io)?;
        let unsupported = |expected, received| SourceError::Unsupported { path: path.to_owned(), expected, received };
        let header = Header::read(&mut from).map_err(|fault| match fault {
            HeaderFault::Damaged(detail) => damaged(detail),
            HeaderFault::Unsupported { expected, received } => unsupported(expected, received),
        })?;
        if header.shape.len() != 2 || header.shape[1] == 0 {
            let expected = "shape (n, dim) (hint: tokens (n, tokens, dim) go into x.tokens.npy beside x.npy)";
            return Err(unsupported(expected.to_owned(), format!("shape {:?}", header.shape)));
        }
        let tokens = TokenRows::beside(path, header.shape[0])?;
        let ids = read_ids(path)?;
        if let Some(ids) = &ids
            && ids.len() != header.shape[0]
        {
            return Err(damaged(format!("{} rows, but {} ids beside it", header.shape[0], ids.len())));
        }
        progress.expect(header.shape[0] as u64);
        let (path, vector_name) = (path.to_owned(), vector_name.to_owned());
        Ok(Npy { from, header, path, ids, tokens, vector_name, row: 0, ended: false, progress })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn vector_name(&self) -> &str {
        &self.vector_name
    }

    pub fn n_rows(&self) -> usize {
        self.header.shape[0]
    }

    /// Those that stand beside it.
    pub fn ids(&self) -> Option<&[PointId]> {
        self.ids.as_deref()
    }

    pub fn dim(&self) -> usize {
        self.header.shape[1]
    }

    pub fn tokens(&self) -> Option<TokenConfig> {
        self.tokens.as_ref().map(|tokens| tokens.shape)
    }

    fn item(&mut self, name: String) -> Result<Item, Fault> {
        let dim = self.dim();
        let vector = self.header.number.read(&mut self.from, dim)?;
        let mut tokens = BTreeMap::new();
        if let Some(TokenRows { from, number, shape }) = &mut self.tokens {
            tokens.insert(self.vector_name.clone(), number.read_tokens(from, shape.n, shape.dim)?);
        }
        let id = match &self.ids {
            Some(ids) => ids[self.row].clone(),
            None => row_id(&self.path, self.row),
        };
        Ok(Item { name, id: Some(id), vectors: [(self.vector_name.clone(), vector)].into(), tokens, ..Item::default() })
    }
}

impl Iterator for Npy {
    type Item = Next;

    fn next(&mut self) -> Option<Next> {
        if self.ended || self.row == self.header.shape[0] {
            return None;
        }
        let name = format!("row {}", self.row);
        let item = self.item(name.clone()).map_err(|fault| fault.at(name));
        self.ended = item.is_err();
        self.row += 1;
        self.progress.advance(1);
        Some(item)
    }
}

/// The one vector of a small array of shape (dim) or (1, dim), as WebDataset members are.
pub fn vector(mut bytes: &[u8]) -> Result<Vec<f32>, Fault> {
    let header = Header::read(&mut bytes).map_err(|fault| Fault::InvalidArray { detail: fault.to_string() })?;
    match header.shape[..] {
        [dim] | [1, dim] if dim > 0 && dim <= bytes.len() => header.number.read(&mut bytes, dim),
        _ => Err(Fault::InvalidArray { detail: format!("expected shape (dim), received {:?}", header.shape) }),
    }
}

/// Shape and numbers of a small array.
pub fn array(mut bytes: &[u8], max_numbers: usize) -> Result<(Vec<usize>, Vec<f32>), Fault> {
    let header = Header::read(&mut bytes).map_err(|fault| Fault::InvalidArray { detail: fault.to_string() })?;
    let n: usize = header.shape.iter().product();
    if n > max_numbers {
        let detail = format!("shape {:?}: at most {max_numbers} numbers", header.shape);
        return Err(Fault::InvalidArray { detail });
    }
    let values = header.number.read(&mut bytes, n)?;
    Ok((header.shape, values))
}

impl TokenRows {
    /// Of `x.npy`, what `x.tokens.npy` holds, if it is there.
    fn beside(npy: &Path, rows: usize) -> Result<Option<TokenRows>, SourceError> {
        let path = npy.with_extension("tokens.npy");
        if !path.exists() {
            return Ok(None);
        }
        let mut from = stream::open(&path, None).map_err(|error| SourceError::Io { path: path.clone(), error })?;
        let unsupported = |expected, received| SourceError::Unsupported { path: path.clone(), expected, received };
        let header = Header::read(&mut from).map_err(|fault| match fault {
            HeaderFault::Damaged(detail) => SourceError::Damaged { path: path.clone(), detail },
            HeaderFault::Unsupported { expected, received } => unsupported(expected, received),
        })?;
        match header.shape[..] {
            [found, n @ 1..=Limits::MAX_TOKENS, dim] if found == rows && dim > 0 => {
                Ok(Some(TokenRows { from, number: header.number, shape: TokenConfig { n, dim } }))
            }
            _ => {
                let expected = format!("shape ({rows}, 1 to {}, dim)", Limits::MAX_TOKENS);
                Err(unsupported(expected, format!("shape {:?}", header.shape)))
            }
        }
    }
}

impl Number {
    pub fn bytes(self) -> usize {
        match self {
            Number::I8 => 1,
            Number::F16 | Number::Bf16 => 2,
            Number::F32 => 4,
            Number::F64 => 8,
        }
    }

    /// Reads `n` little-endian numbers.
    pub fn read(self, from: &mut impl Read, n: usize) -> Result<Vec<f32>, Fault> {
        let mut raw = vec![0; n * self.bytes()];
        from.read_exact(&mut raw)?;
        let number = |b: &[u8]| match self {
            Number::I8 => f32::from(b[0] as i8),
            Number::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Number::Bf16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Number::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Number::F64 => f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32,
        };
        Ok(raw.chunks_exact(self.bytes()).map(number).collect())
    }

    /// Reads tokens; a number that is too large for half precision becomes infinite, and is refused as such.
    pub fn read_tokens(self, from: &mut impl Read, n: usize, dim: usize) -> Result<Tokens, Fault> {
        let values = self.read(from, n * dim)?;
        Ok(Tokens { n, dim, values: values.into_iter().map(half::f16::from_f32).collect() })
    }
}

impl Header {
    /// NumPy's format: magic, version, header length, then a Python dictionary.
    fn read(from: &mut impl Read) -> Result<Header, HeaderFault> {
        let mut start = [0; 8];
        from.read_exact(&mut start).map_err(|_| "not a .npy file: shorter than its header".to_owned())?;
        if &start[..6] != b"\x93NUMPY" {
            return Err("not a .npy file".to_owned().into());
        }
        let length = match start[6] {
            1 => le::<2>(from)?,
            2 | 3 => le::<4>(from)?,
            version => return Err(format!("format version: expected 1 to 3, received {version}").into()),
        };
        if length > MAX_HEADER_BYTES {
            return Err(format!("header of {length} bytes: at most {MAX_HEADER_BYTES}").into());
        }
        let mut header = vec![0; length as usize];
        from.read_exact(&mut header).map_err(|_| "the file ends within its header".to_owned())?;
        Header::parse(&String::from_utf8_lossy(&header))
    }

    fn parse(header: &str) -> Result<Header, HeaderFault> {
        let unsupported = |expected: &str, received: String| {
            Err(HeaderFault::Unsupported { expected: expected.to_owned(), received })
        };
        let value = |key: &str| {
            let (_, after) = header.split_once(&format!("'{key}'"))?;
            Some(after.trim_start().strip_prefix(':')?.trim_start())
        };
        let missing = |key| format!("the header has no {key:?}");
        let descr = value("descr").ok_or_else(|| missing("descr"))?;
        let number = match descr.strip_prefix('\'').and_then(|d| d.split('\'').next()) {
            Some("|i1") => Number::I8,
            Some("<f2") => Number::F16,
            Some("<f4") => Number::F32,
            Some("<f8") => Number::F64,
            other => {
                let received = other.unwrap_or("a structure").to_owned();
                return unsupported("numbers of |i1, <f2, <f4 or <f8 (hint: array.astype('<f4'))", received);
            }
        };
        if !value("fortran_order").ok_or_else(|| missing("fortran_order"))?.starts_with("False") {
            return unsupported("C order (hint: numpy.ascontiguousarray)", "Fortran order".to_owned());
        }
        let shape =
            value("shape").and_then(|s| s.strip_prefix('(')?.split(')').next()).ok_or_else(|| missing("shape"))?;
        let shape: Result<Vec<usize>, _> =
            shape.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::parse).collect();
        let shape = shape.map_err(|_| "the header's shape is no list of numbers".to_owned())?;
        let fits = |shape: &[usize]| shape.iter().try_fold(8usize, |product, &n| product.checked_mul(n)).is_some();
        if !fits(&shape) || shape.last().is_some_and(|&dim| dim > firn_index::Limits::MAX_DIM) {
            let expected = format!("at most {} dimensions", firn_index::Limits::MAX_DIM);
            return unsupported(&expected, format!("shape {shape:?}"));
        }
        Ok(Header { number, shape })
    }
}

fn le<const N: usize>(from: &mut impl Read) -> Result<u32, String> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map_err(|_| "the file ends within its header".to_owned())?;
    Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte)))
}

fn read_ids(npy: &Path) -> Result<Option<Vec<PointId>>, SourceError> {
    let text = npy.with_extension("ids.txt");
    let json = npy.with_extension("ids.json");
    if text.exists() {
        return ids_from(&text, |from| {
            let lines = BufReader::new(from).lines().collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
            Ok(lines.into_iter().map(|line| PointId::Text(line.trim_end().to_owned())).collect())
        })
        .map(Some);
    }
    if json.exists() {
        return ids_from(&json, |from| serde_json::from_reader(BufReader::new(from)).map_err(|e| e.to_string()))
            .map(Some);
    }
    Ok(None)
}

fn ids_from(
    path: &PathBuf,
    read: impl Fn(std::io::Take<fs::File>) -> Result<Vec<PointId>, String>,
) -> Result<Vec<PointId>, SourceError> {
    let file = fs::File::open(path).map_err(|error| SourceError::Io { path: path.clone(), error })?;
    read(file.take(MAX_IDS_BYTES)).map_err(|detail| SourceError::Damaged { path: path.clone(), detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_all_versions_and_their_faults() {
        let bytes = |version: u8, header: &str| {
            let length = header.len() as u32;
            let mut bytes = b"\x93NUMPY".to_vec();
            bytes.extend([version, 0]);
            bytes.extend(&length.to_le_bytes()[..if version == 1 { 2 } else { 4 }]);
            bytes.extend(header.as_bytes());
            bytes
        };
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }\n";
        for version in 1..=3 {
            let header = Header::read(&mut &bytes(version, good)[..]).expect("a good header");
            assert_eq!(header, Header { number: Number::F32, shape: vec![3, 4] });
        }
        let check = |bytes: Vec<u8>, expected: &str| {
            let error = Header::read(&mut &bytes[..]).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(bytes(4, good), "format version");
        check(bytes(1, &good.replace("<f4", "|u1")), "expected numbers of |i1, <f2, <f4 or <f8");
        check(bytes(1, &good.replace("<f4", ">f4")), "received >f4");
        check(bytes(1, &good.replace("'<f4'", "[('a', '<f4')]")), "a structure");
        check(bytes(1, &good.replace("False", "True")), "Fortran");
        check(bytes(1, &good.replace("(3, 4)", "(3, x)")), "no list of numbers");
        check(bytes(1, &good.replace("(3, 4)", "(9223372036854775807, 4)")), "shape");
        check(bytes(1, &good.replace("shape", "shap")), "no \"shape\"");
        check(bytes(1, good)[..30].to_vec(), "ends within");
        check(b"PK\x03\x04abcd".to_vec(), "not a .npy");
        check(Vec::new(), "shorter");
    }

    #[test]
    fn numbers_of_all_types() {
        let expected = [0.5f32, -2.0, 1.25];
        let check = |number: Number, bytes: Vec<u8>| {
            assert_eq!(number.read(&mut &bytes[..], 3).expect("three numbers"), expected, "{number:?}");
            assert!(matches!(number.read(&mut &bytes[1..], 3), Err(Fault::Truncated { .. })));
        };
        assert_eq!(Number::I8.read(&mut &[1, 0xff, 0x80][..], 3).expect("three numbers"), [1.0, -1.0, -128.0]);
        check(Number::F16, expected.iter().flat_map(|&n| half::f16::from_f32(n).to_le_bytes()).collect());
        check(Number::Bf16, expected.iter().flat_map(|&n| half::bf16::from_f32(n).to_le_bytes()).collect());
        check(Number::F32, expected.iter().flat_map(|n| n.to_le_bytes()).collect());
        check(Number::F64, expected.iter().flat_map(|&n| f64::from(n).to_le_bytes()).collect());
    }
}
