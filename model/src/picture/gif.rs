//! The block structure of a GIF, read only as far as its second frame.

pub(super) fn has_second_frame(bytes: &[u8]) -> bool {
    count_frames(bytes).is_some_and(|n| n > 1)
}

/// Frames up to the second; `None` where the blocks do not follow the format.
fn count_frames(bytes: &[u8]) -> Option<usize> {
    let mut at = 13 + colour_table_bytes(*bytes.get(10)?);
    let mut n_frames = 0;
    while n_frames < 2 {
        match *bytes.get(at)? {
            // Extension: label, then sub-blocks.
            0x21 => at = skip_sub_blocks(bytes, at + 2)?,
            // Image: descriptor, colour table, code size, then sub-blocks.
            0x2c => {
                n_frames += 1;
                let data = at + 10 + colour_table_bytes(*bytes.get(at + 9)?) + 1;
                at = skip_sub_blocks(bytes, data).unwrap_or(bytes.len());
            }
            _ => break,
        }
        if at >= bytes.len() {
            break;
        }
    }
    Some(n_frames)
}

fn colour_table_bytes(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

fn skip_sub_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            length => at += 1 + length,
        }
    }
}
