//! The envelope of every stored value: magic, format version, length and a checksum over key and payload.
//!
//! The key is part of the checksum, so that a value that lands under another key is noticed too.

use crate::{Error, Result};

const MAGIC: [u8; 2] = *b"fi";
const FORMAT: u16 = 3;
const HEADER_BYTES: usize = 12;

/// Wraps `payload` for storing under `key`.
pub fn seal(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEADER_BYTES + payload.len());
    value.extend_from_slice(&MAGIC);
    value.extend_from_slice(&FORMAT.to_le_bytes());
    value.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    value.extend_from_slice(&checksum(key, payload).to_le_bytes());
    value.extend_from_slice(payload);
    value
}

/// The payload of a stored value. `what` names it in `Error::Damaged`.
pub fn unseal<'a>(key: &[u8], value: &'a [u8], what: impl Fn() -> String) -> Result<&'a [u8]> {
    let damaged = |detail: String| Error::Damaged { what: what(), detail };
    let Some((header, payload)) = value.split_at_checked(HEADER_BYTES) else {
        return Err(damaged(format!("expected at least {HEADER_BYTES} bytes, received {}", value.len())));
    };
    if header[..2] != MAGIC {
        return Err(damaged("the value does not start with the magic bytes".to_owned()));
    }
    let format = u16::from_le_bytes([header[2], header[3]]);
    if format != FORMAT {
        return Err(damaged(format!("format version: expected {FORMAT}, received {format}")));
    }
    let length = le_u32(&header[4..8]) as usize;
    if length != payload.len() {
        return Err(damaged(format!("length: expected {length} bytes, received {}", payload.len())));
    }
    let (expected, received) = (le_u32(&header[8..12]), checksum(key, payload));
    if expected != received {
        return Err(damaged(format!("checksum: expected {expected:08x}, received {received:08x}")));
    }
    Ok(payload)
}

fn checksum(key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

fn le_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("the caller slices four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_unsealed() {
        for payload in [&b""[..], b"x", &[7; 5000]] {
            assert_eq!(unseal(b"key", &seal(b"key", payload), String::new).unwrap(), payload);
        }
    }

    #[test]
    fn every_flipped_bit_cut_and_swap_is_noticed() {
        let good = seal(b"key", b"some payload");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(unseal(b"key", &bad, String::new), Err(Error::Damaged { .. })), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(unseal(b"key", &good[..cut], String::new).is_err(), "cut {cut}");
        }
        assert!(unseal(b"yek", &good, String::new).is_err());
    }
}
