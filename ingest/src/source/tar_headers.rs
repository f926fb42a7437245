//! A bound on the headers before a tar's member. The tar crate reads long names and pax records whole, whatever size they
//! announce, and a few compressed bytes can announce gigabytes.

use std::{
    cell::Cell,
    io::{self, Read, Seek, SeekFrom},
    rc::Rc,
};

/// Paths and attributes of one member take a few thousand.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// The bytes of a tar; reading fails where the headers of a member go on for too long.
pub struct Bounded<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

/// Says where headers begin.
pub struct Headers {
    left: Rc<Cell<u64>>,
}

pub fn bounded<R>(inner: R) -> (Bounded<R>, Headers) {
    let left = Rc::new(Cell::new(MAX_HEADER_BYTES));
    (Bounded { inner, left: left.clone() }, Headers { left })
}

/// Bytes of a member in the tar. A sparse file is larger by its holes.
pub fn on_disk(entry: &tar::Entry<'_, impl Read>) -> u64 {
    match entry.header().entry_type().is_gnu_sparse() {
        true => entry.header().entry_size().unwrap_or(0),
        false => entry.size(),
    }
}

impl Headers {
    /// The next ones come after a member of which so much will be read.
    pub fn begin_after(&self, member: u64) {
        self.left.set(member.saturating_add(MAX_HEADER_BYTES));
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        match self.left.get().checked_sub(n as u64) {
            Some(left) => self.left.set(left),
            None => {
                let message = format!("a member's headers take more than {MAX_HEADER_BYTES} bytes");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
            }
        }
        Ok(n)
    }
}

impl<R: Seek> Seek for Bounded<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}
