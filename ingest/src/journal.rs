//! What was written, on disk, so that a stopped run goes on where it was and a repeated one changes nothing.
//!
//! An append-only text file. The first line is `firn-ingest-journal 1 UUID`, naming the collection; then, for each item that
//! was settled, `ID CONTENT written` or `ID CONTENT skipped REASON`, with two hashes of 32 hexadecimal digits (`identity`). For
//! one id the last line counts, and only `written` keeps an item from being read again. Lines reach the disk after the points
//! do: a kill between the two writes a point again, with the same content. A torn last line is cut off.
//!
//! Points can go behind the journal's back: they are deleted, or the data directory is restored from a backup. So a run
//! begins by asking which ids are there (`Sink::each_id`) and believes the journal only about those; the others are written
//! again. An id that is there is taken to have the content of its last line: a point that something else has written since,
//! or that a backup holds in an older form, is not told from it (`--restart` writes it anew).

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crate::identity::{Key, hex};

const MAGIC: &str = "firn-ingest-journal 1 ";
/// A longer line is no line of a journal.
const MAX_LINE_BYTES: usize = 256;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    #[error("journal {path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("journal {path} is in use by another run")]
    Locked { path: PathBuf },
    #[error("{path} is not a journal: its first line is not {MAGIC:?} and a collection's uuid")]
    NotAJournal { path: PathBuf },
}

/// The open file. It is locked until it is dropped.
pub struct Journal {
    path: PathBuf,
    file: File,
}

/// Items that an earlier run has written: content by the hash of the id.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written(HashMap<u128, u128>);

impl Written {
    pub fn contains(&self, key: Key) -> bool {
        self.0.get(&key.id) == Some(&key.content)
    }

    /// Takes one item over from `other`, if it is there.
    pub fn take(&mut self, other: &mut Written, id: u128) {
        if let Some(content) = other.0.remove(&id) {
            self.0.insert(id, content);
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How an item ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled<'a> {
    Written,
    Skipped(&'a str),
}

impl Journal {
    /// Opens or makes a journal, of whatever collection, and keeps other runs from it. Another kind of file is left alone.
    pub fn lock(path: &Path) -> Result<Journal, JournalError> {
        let io = |error| JournalError::Io { path: path.to_owned(), error };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let journal = Journal { path: path.to_owned(), file };
        journal.header()?;
        Ok(journal)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was written to the collection; a journal of another one starts afresh.
    pub fn load(&mut self, uuid: &str) -> Result<Written, JournalError> {
        if self.header()?.as_deref() != Some(uuid) {
            self.restart(uuid)?;
            return Ok(Written::default());
        }
        self.rest()
    }

    /// Forgets everything.
    pub fn restart(&mut self, uuid: &str) -> Result<(), JournalError> {
        self.file.set_len(0).map_err(|error| self.io(error))?;
        self.append(&format!("{MAGIC}{uuid}\n"))
    }

    /// Adds lines and returns when they are on disk.
    pub fn record(&mut self, settled: &[(Key, Settled<'_>)]) -> Result<(), JournalError> {
        let mut lines = String::new();
        for (key, settled) in settled {
            let (id, content) = (hex(key.id), hex(key.content));
            lines += &match settled {
                Settled::Written => format!("{id} {content} written\n"),
                Settled::Skipped(reason) => format!("{id} {content} skipped {reason}\n"),
            };
        }
        if lines.is_empty() { Ok(()) } else { self.append(&lines) }
    }

    fn append(&mut self, lines: &str) -> Result<(), JournalError> {
        self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data()).map_err(|error| self.io(error))
    }

    /// The collection's uuid in the first line. None if that line is torn, or nothing was written yet.
    fn header(&self) -> Result<Option<String>, JournalError> {
        let mut lines = self.lines()?;
        let first = lines.next().map_err(|error| self.io(error))?.map(str::to_owned);
        let is_torn = MAGIC.as_bytes().starts_with(&lines.line) || lines.line.starts_with(MAGIC.as_bytes());
        match first.as_deref().map(|line| line.strip_prefix(MAGIC)) {
            None if is_torn => Ok(None),
            Some(Some(uuid)) => Ok(Some(uuid.to_owned())),
            _ => Err(JournalError::NotAJournal { path: self.path.clone() }),
        }
    }

    /// What the lines after the first say; a torn last one is cut off.
    fn rest(&mut self) -> Result<Written, JournalError> {
        let mut lines = self.lines()?;
        lines.next().map_err(|error| self.io(error))?;
        let mut written = Written::default();
        while let Some(line) = lines.next().map_err(|error| self.io(error))? {
            match parse(line) {
                Some((key, true)) => drop(written.0.insert(key.id, key.content)),
                Some((key, false)) => drop(written.0.remove(&key.id)),
                None => {}
            }
        }
        let whole = lines.whole;
        self.file.set_len(whole).map_err(|error| self.io(error))?;
        self.file.seek(SeekFrom::End(0)).map_err(|error| self.io(error))?;
        Ok(written)
    }

    fn lines(&self) -> Result<Lines<BufReader<&File>>, JournalError> {
        (&self.file).rewind().map_err(|error| self.io(error))?;
        Ok(Lines { from: BufReader::new(&self.file), line: Vec::new(), whole: 0 })
    }

    fn io(&self, error: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), error }
    }
}

/// Whole lines of a journal, and the bytes they take.
struct Lines<R> {
    from: R,
    line: Vec<u8>,
    whole: u64,
}

impl<R: BufRead> Lines<R> {
    /// None at the end, and at a line that is torn; that one is left in `line`.
    fn next(&mut self) -> io::Result<Option<&str>> {
        self.line.clear();
        loop {
            let limit = (MAX_LINE_BYTES - self.line.len()) as u64;
            let n = io::Read::take(&mut self.from, limit).read_until(b'\n', &mut self.line)?;
            if n == 0 || self.line.ends_with(b"\n") {
                break;
            }
        }
        let Some(line) = self.line.strip_suffix(b"\n") else { return Ok(None) };
        self.whole += self.line.len() as u64;
        Ok(Some(std::str::from_utf8(line).unwrap_or_default()))
    }
}

/// A line's key, and whether it says `written`. None for what is no line: that item is read again.
fn parse(line: &str) -> Option<(Key, bool)> {
    let mut words = line.split(' ');
    let mut number = || words.next().filter(|word| word.len() == 32).and_then(|w| u128::from_str_radix(w, 16).ok());
    let key = Key { id: number()?, content: number()? };
    match words.next()? {
        "written" => Some((key, true)),
        "skipped" => Some((key, false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn key(id: u128) -> Key {
        Key { id, content: id + 1000 }
    }

    fn open(path: &Path, uuid: &str) -> Result<(Journal, Written), JournalError> {
        let mut journal = Journal::lock(path)?;
        let written = journal.load(uuid)?;
        Ok((journal, written))
    }

    fn ids(written: &Written) -> Vec<u128> {
        let mut ids: Vec<u128> = written.0.keys().copied().collect();
        ids.sort();
        ids
    }

    #[test]
    fn what_was_recorded_is_known_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/journal");
        let (mut journal, written) = open(&path, "u1").unwrap();
        assert!(written.is_empty());
        journal.record(&[(key(1), Settled::Written), (key(2), Settled::Skipped("broken_image"))]).unwrap();
        journal.record(&[(key(3), Settled::Written), (key(4), Settled::Written)]).unwrap();
        journal.record(&[(key(4), Settled::Skipped("broken_image"))]).unwrap();
        drop(journal);

        let (journal, written) = open(&path, "u1").unwrap();
        assert_eq!(ids(&written), [1, 3]);
        assert!(written.contains(key(1)) && !written.contains(key(2)));
        assert!(!written.contains(Key { id: 1, content: 5 }), "the same id with other content");
        drop(journal);

        let (_journal, written) = open(&path, "u2").unwrap();
        assert!(written.is_empty(), "another collection starts afresh");
    }

    #[test]
    fn the_last_line_of_an_id_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = open(&path, "u").unwrap();
        let of = |content| Key { id: 1, content };
        journal.record(&[(of(1), Settled::Written), (of(2), Settled::Written)]).unwrap();
        drop(journal);
        let (_journal, written) = open(&path, "u").unwrap();
        assert!(written.contains(of(2)) && !written.contains(of(1)));
    }

    #[test]
    fn every_torn_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = open(&path, "uuid").unwrap();
        journal.record(&[(key(1), Settled::Written), (key(2), Settled::Written)]).unwrap();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        let lines_in = |length: usize| whole[..length].iter().filter(|&&byte| byte == b'\n').count();
        for length in 0..=whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let (mut journal, written) = open(&path, "uuid").unwrap();
            assert_eq!(written.len(), lines_in(length).saturating_sub(1), "cut at {length}");
            journal.record(&[(key(9), Settled::Written)]).unwrap();
            drop(journal);
            let (_journal, again) = open(&path, "uuid").unwrap();
            assert_eq!(again.len(), written.len() + 1, "cut at {length}");
        }
    }

    #[test]
    fn a_second_run_is_refused_and_other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let first = open(&path, "u").unwrap();
        assert!(matches!(open(&path, "u"), Err(JournalError::Locked { .. })));
        drop(first);
        for content in ["a letter\nto a friend\n", "no newline", "firn-ingest-journal 2 u\n", "\n"] {
            fs::write(&path, content).unwrap();
            assert!(matches!(open(&path, "u"), Err(JournalError::NotAJournal { .. })), "{content:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn a_damaged_line_costs_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let line = |id: u128| format!("{} {} written\n", hex(id), hex(id + 1000));
        let text = format!("{MAGIC}u\n{}garbage\n{}{} x written\n{}", line(1), line(2), hex(3), line(4));
        fs::write(&path, text).unwrap();
        let (_journal, written) = open(&path, "u").unwrap();
        assert_eq!(ids(&written), [1, 2, 4]);
    }
}
