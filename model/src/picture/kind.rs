//! Which picture format some bytes are in, and a helpful name for what is not one.

use crate::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Jpeg,
    Png,
    Webp,
    Gif,
}

impl Kind {
    pub(super) fn of(bytes: &[u8]) -> Result<Kind> {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Ok(Kind::Jpeg),
            [0x89, b'P', b'N', b'G', 13, 10, 26, 10, ..] => Ok(Kind::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Kind::Webp),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(Kind::Gif),
            _ => Err(Error::UnknownImage { detail: stranger(bytes) }),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Jpeg => "jpeg",
            Kind::Png => "png",
            Kind::Webp => "webp",
            Kind::Gif => "gif",
        }
    }
}

fn stranger(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(1024)];
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let named = match head {
        [b'B', b'M', ..] => Some("it is a BMP file"),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Some("it is a TIFF file"),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Some("it is an AVIF, HEIC or MP4 file"),
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => Some("it is a JPEG XL file"),
        [b'%', b'P', b'D', b'F', ..] => Some("it is a PDF file"),
        _ if text.contains("<svg") => Some("it is an SVG drawing"),
        _ if text.contains("<html") || text.contains("<!doctype html") => Some("it is a web page"),
        _ if looks_like_text(head) => Some("it is text"),
        _ => None,
    };
    named.map_or_else(|| format!("it starts with {:02x?}", &head[..head.len().min(8)]), str::to_owned)
}

fn looks_like_text(head: &[u8]) -> bool {
    // The head may end within a character.
    let whole = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&head[..e.valid_up_to()]).unwrap_or_default(),
        Err(_) => return false,
    };
    !whole.is_empty() && whole.chars().all(|c| !c.is_control() || c.is_whitespace())
}
