//! JSON Lines: an object a line, with the fields of `fields` and a picture by name or id.

use std::{io::BufRead, path::Path, sync::Arc};

use super::{
    Fault, Item, MAX_LINE_BYTES, Next, Progress, SourceError, SourceOptions,
    fields::{Fields, set_path},
    pictures::Pictures,
    stream::{self, Line, read_line},
};

pub struct Jsonl {
    from: Box<dyn BufRead + Send>,
    pictures: LinePictures,
    line: Vec<u8>,
    number: u64,
    ended: bool,
}

impl Jsonl {
    pub fn open(path: &Path, options: &SourceOptions, progress: Arc<Progress>) -> Result<Jsonl, SourceError> {
        let io = |error| SourceError::Io { path: path.to_owned(), error };
        let from = stream::open(path, Some(progress)).map_err(io)?;
        let pictures = LinePictures::open(path, options)?;
        Ok(Jsonl { from, pictures, line: Vec::new(), number: 0, ended: false })
    }

    fn item(&mut self) -> Result<Item, Fault> {
        let fields = Fields::parse(&self.line)?;
        self.pictures.item(fields, format!("line {}", self.number))
    }
}

impl Iterator for Jsonl {
    type Item = Next;

    fn next(&mut self) -> Option<Next> {
        if let Some(fault) = self.pictures.fault() {
            return Some(Err(fault.at("--images")));
        }
        while !self.ended {
            self.number += 1;
            let name = format!("line {}", self.number);
            match read_line(&mut self.from, &mut self.line, MAX_LINE_BYTES) {
                Ok(Line::End) => break,
                Ok(Line::TooLong(received)) => {
                    let max = MAX_LINE_BYTES as u64;
                    return Some(Err(Fault::TooLarge { what: "a line", max, received }.at(name)));
                }
                Ok(Line::Read) => {
                    if self.number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                        self.line.drain(..3);
                    }
                    if !self.line.trim_ascii().is_empty() {
                        return Some(self.item().map_err(|fault| fault.at(name)));
                    }
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(Fault::from(error).at(name)));
                }
            }
        }
        None
    }
}

/// The pictures of a file of lines: beside it, or where `--images` says.
pub struct LinePictures {
    pictures: Pictures,
    /// `--images` was given: a line without a name has the picture of its id. It may do without if it brings texts or vectors.
    by_id: bool,
}

impl LinePictures {
    pub fn open(file: &Path, options: &SourceOptions) -> Result<LinePictures, SourceError> {
        let pictures = match &options.images {
            Some(images) => Pictures::open(images)?,
            None => Pictures::Folder(file.parent().unwrap_or(Path::new("")).to_owned()),
        };
        Ok(LinePictures { pictures, by_id: options.images.is_some() })
    }

    /// Once, that the tar of pictures is cut off.
    pub fn fault(&mut self) -> Option<Fault> {
        match &mut self.pictures {
            Pictures::Tar(tar) => tar.truncated.take().map(|detail| Fault::Truncated { detail }),
            Pictures::Folder(_) => None,
        }
    }

    pub fn item(&mut self, mut fields: Fields, name: String) -> Result<Item, Fault> {
        let needs_picture = fields.texts.is_empty() && fields.vectors.is_empty();
        let found = match (fields.image.take(), &fields.id) {
            (Some(image), _) => Some((image.clone(), self.pictures.named(&image)?)),
            (None, Some(id)) if self.by_id => match self.pictures.of_id(&id.to_string()) {
                Err(Fault::MissingImage { .. }) if !needs_picture => None,
                found => Some(found?),
            },
            _ => None,
        };
        let mut item = fields.into_item(name);
        if let Some((path, bytes)) = found {
            set_path(&mut item.payload, &path);
            item.image = Some(bytes);
        }
        Ok(item)
    }
}
