//! Files as streams: gunzipped where they are gzip, counted as they are read, and never read past a limit.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::Arc,
};

use flate2::bufread::MultiGzDecoder;

use super::{Fault, MAX_FILE_BYTES, Progress};

/// Opens a file; gzip is told by its first bytes. Bytes on disk are counted in `progress`.
pub fn open(path: &Path, progress: Option<Arc<Progress>>) -> io::Result<Box<dyn BufRead + Send>> {
    let file = File::open(path)?;
    if let Some(progress) = &progress {
        progress.expect(file.metadata()?.len());
    }
    let mut raw = BufReader::with_capacity(1 << 16, Counted { inner: file, progress });
    if raw.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(raw))));
    }
    Ok(Box::new(raw))
}

struct Counted<R> {
    inner: R,
    progress: Option<Arc<Progress>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if let Some(progress) = &self.progress {
            progress.advance(n as u64);
        }
        Ok(n)
    }
}

/// A whole file, if it is one and no larger than the limit.
pub fn read_file(path: &Path) -> Result<Vec<u8>, Fault> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        return Err(Fault::NotAFile);
    }
    read_limited(&mut File::open(path)?, found.len())
}

/// `size` bytes, or up to the limit if more come than were announced.
pub fn read_limited(from: &mut impl Read, size: u64) -> Result<Vec<u8>, Fault> {
    let too_large = |received| Fault::TooLarge { what: "a file", max: MAX_FILE_BYTES, received };
    if size > MAX_FILE_BYTES {
        return Err(too_large(size));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    from.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

/// What `read_line` found.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    End,
    Read,
    /// Its bytes; they were read over, and the next line is found.
    TooLong(u64),
}

/// Reads one line, without its end, into `line`.
pub fn read_line(from: &mut impl BufRead, line: &mut Vec<u8>, max: usize) -> io::Result<Line> {
    line.clear();
    let mut length = 0u64;
    loop {
        let available = from.fill_buf()?;
        if available.is_empty() && length == 0 {
            return Ok(Line::End);
        }
        let (part, found) = match available.iter().position(|&byte| byte == b'\n') {
            Some(end) => (&available[..end], true),
            None => (available, false),
        };
        let ended = found || available.is_empty();
        length += part.len() as u64 + u64::from(found);
        if line.len() + part.len() <= max {
            line.extend_from_slice(part);
        } else {
            line.clear();
        }
        let consumed = part.len() + usize::from(found);
        from.consume(consumed);
        if ended {
            return Ok(if length > max as u64 + 1 { Line::TooLong(length) } else { Line::Read });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_too_long_ones_read_over() {
        let check = |text: &[u8], expected: &[Result<&str, u64>]| {
            let mut from = BufReader::with_capacity(3, text);
            let mut line = Vec::new();
            let mut seen = Vec::new();
            loop {
                match read_line(&mut from, &mut line, 8).expect("memory can be read") {
                    Line::End => break,
                    Line::Read => seen.push(Ok(String::from_utf8(line.clone()).expect("a test's text"))),
                    Line::TooLong(bytes) => seen.push(Err(bytes)),
                }
            }
            let expected: Vec<_> = expected.iter().map(|line| line.map(str::to_owned)).collect();
            assert_eq!(seen, expected, "{text:?}");
        };
        check(b"", &[]);
        check(b"a", &[Ok("a")]);
        check(b"a\n\nbc\n", &[Ok("a"), Ok(""), Ok("bc")]);
        check(b"12345678\nx", &[Ok("12345678"), Ok("x")]);
        check(b"123456789\nx", &[Err(10), Ok("x")]);
        check(b"1234567890123456789012345\nx\n", &[Err(26), Ok("x")]);
    }
}
