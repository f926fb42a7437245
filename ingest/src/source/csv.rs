//! CSV and TSV with a header line: the columns have the names that JSON Lines uses. An empty cell is no value; cells stay text.

use std::{
    io::{self, BufRead, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use csv::{ByteRecord, Reader, ReaderBuilder};
use firn_index::{Payload, PointId};
use serde_json::Value;

use super::{
    Fault, Item, MAX_LINE_BYTES, Next, Progress, SourceError, SourceOptions, fields::Fields, jsonl::LinePictures,
    stream,
};

/// Columns that make a point; a file without any of them is not one of ours.
const CONTENT: [&str; 6] = ["image", "text", "caption", "texts", "captions", "vectors"];

pub struct Csv {
    reader: Reader<Limited>,
    since_record: Arc<AtomicUsize>,
    columns: Vec<String>,
    pictures: LinePictures,
    record: ByteRecord,
    /// Counted as spreadsheets do: the header is row 1.
    row: u64,
    ended: bool,
}

impl Csv {
    pub fn open(
        path: &Path,
        delimiter: u8,
        options: &SourceOptions,
        progress: Arc<Progress>,
    ) -> Result<Csv, SourceError> {
        let io = |error| SourceError::Io { path: path.to_owned(), error };
        let since_record = Arc::new(AtomicUsize::new(0));
        let mut inner = stream::open(path, Some(progress)).map_err(io)?;
        if inner.fill_buf().map_err(io)?.starts_with(b"\xef\xbb\xbf") {
            inner.consume(3);
        }
        let limited = Limited { inner, since_record: since_record.clone() };
        let mut reader = ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(limited);
        let header = reader.byte_headers().map_err(|error| damaged(path, error.to_string()))?;
        let columns = columns(path, header)?;
        let pictures = LinePictures::open(path, options)?;
        Ok(Csv { reader, since_record, columns, pictures, record: ByteRecord::new(), row: 1, ended: false })
    }

    fn item(&mut self, name: &str) -> Result<Item, Fault> {
        let (expected, received) = (self.columns.len() as u64, self.record.len() as u64);
        if expected != received {
            return Err(Fault::WrongFieldCount { expected, received });
        }
        let mut object = Payload::new();
        for (column, cell) in self.columns.iter().zip(&self.record) {
            let cell = std::str::from_utf8(cell).map_err(|_| Fault::NotUtf8 { what: "a cell" })?;
            if !cell.is_empty() {
                object.insert(column.clone(), value(column, cell)?);
            }
        }
        let id = object.remove("id").and_then(|id| id.as_str().map(id_of));
        let fields = Fields { id, ..Fields::take(object)? };
        self.pictures.item(fields, name.to_owned())
    }
}

impl Iterator for Csv {
    type Item = Next;

    fn next(&mut self) -> Option<Next> {
        if self.ended {
            return None;
        }
        if let Some(fault) = self.pictures.fault() {
            return Some(Err(fault.at("--images")));
        }
        self.since_record.store(0, Relaxed);
        self.row += 1;
        let name = format!("row {}", self.row);
        match self.reader.read_byte_record(&mut self.record) {
            Ok(false) => None,
            Ok(true) => Some(self.item(&name).map_err(|fault| fault.at(name))),
            Err(error) => {
                self.ended = true;
                Some(Err(Fault::from(into_io(error)).at(name)))
            }
        }
    }
}

/// Stops a record that never ends (a quote that is not closed) from filling the memory.
struct Limited {
    inner: Box<dyn BufRead + Send>,
    since_record: Arc<AtomicUsize>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.since_record.load(Relaxed) > MAX_LINE_BYTES {
            let detail = format!("a record of more than {MAX_LINE_BYTES} bytes (a quote that is not closed?)");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, detail));
        }
        let n = self.inner.read(buffer)?;
        self.since_record.fetch_add(n, Relaxed);
        Ok(n)
    }
}

fn columns(path: &Path, header: &ByteRecord) -> Result<Vec<String>, SourceError> {
    let name = |cell: &[u8]| String::from_utf8(cell.trim_ascii().to_vec());
    let columns: Vec<String> = header
        .iter()
        .map(name)
        .collect::<Result<_, _>>()
        .map_err(|_| damaged(path, "the header is not UTF-8".into()))?;
    let mut sorted = columns.clone();
    sorted.sort();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(damaged(path, format!("the column {:?} stands twice in the header", twice[0])));
    }
    if !columns.iter().any(|column| CONTENT.contains(&column.as_str())) {
        let expected = format!("a header line with one of the columns {}", CONTENT.join(", "));
        return Err(SourceError::Unsupported { path: path.to_owned(), expected, received: columns.join(", ") });
    }
    Ok(columns)
}

/// A cell's value. Lists and vectors are written as JSON; a list of texts may also be one text.
fn value(column: &str, cell: &str) -> Result<Value, Fault> {
    let json = column == "vectors" || (matches!(column, "texts" | "captions") && cell.trim_start().starts_with('['));
    if json { serde_json::from_str(cell).map_err(Fault::InvalidJson) } else { Ok(Value::from(cell)) }
}

/// CSV knows no types: an id of digits, written as a number would be, is a number.
fn id_of(cell: &str) -> PointId {
    match cell.parse::<u64>() {
        Ok(number) if number.to_string() == cell => PointId::Num(number),
        _ => PointId::Text(cell.to_owned()),
    }
}

fn into_io(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, format!("{other:?}")),
    }
}

fn damaged(path: &Path, detail: String) -> SourceError {
    SourceError::Damaged { path: PathBuf::from(path), detail }
}
