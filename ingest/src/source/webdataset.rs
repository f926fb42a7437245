//! A WebDataset tar: neighbouring members with one name up to the first dot are one item.
//!
//! The tar is streamed (and may be gzipped); members that are no part of an item are not read. Names are only names: nothing
//! they say is opened. A number after the first dot belongs to the name, as in `photo.0001.png`; a word there makes another
//! kind of member, as the mask `photo.seg.png` is one.

use std::{
    io::{self, BufRead as _, Read},
    iter::Peekable,
    path::Path,
    sync::{
        Arc,
        mpsc::{IntoIter, SyncSender, sync_channel},
    },
    thread,
};

use firn_index::Text;

use super::{
    Fault, Item, MAX_FILE_BYTES, Next, Progress, Skipped, SourceError, SourceOptions,
    fields::{self, Fields, set_path},
    kind::{self, PICTURES, extension},
    npy,
    pictures::plain,
    stream::{self, read_limited},
    tar_headers::{bounded, on_disk},
};

/// Members that are read ahead.
const AHEAD: usize = 4;
/// Most that the members of one item may take together: a picture of the largest size and what is said of it.
const MAX_GROUP_BYTES: u64 = 2 * MAX_FILE_BYTES;

pub struct WebDataset {
    members: Peekable<IntoIter<Result<Member, Skipped>>>,
    vector_name: String,
}

struct Member {
    name: String,
    /// None: no part of an item. A file that is too large to read is a fault of its item alone.
    bytes: Option<Result<Vec<u8>, Fault>>,
}

impl Member {
    fn key(&self) -> &str {
        split(&self.name).0
    }
}

/// A member that is part of an item.
struct Part {
    name: String,
    bytes: Result<Vec<u8>, Fault>,
}

/// Neighbours with one key: of those that are parts of an item no more than `MAX_GROUP_BYTES`, of the others a count.
#[derive(Default)]
struct Group {
    parts: Vec<Part>,
    /// What the parts take, with their headers and names.
    size: u64,
    /// Members that would be part of the item by what follows their last dot: how many, and the first of them.
    dotted: Option<(u64, String)>,
}

impl Group {
    fn push(&mut self, Member { name, bytes }: Member) {
        match bytes {
            Some(bytes) => {
                let content = bytes.as_ref().map_or(0, Vec::len);
                self.size += (512 + name.len() + content) as u64;
                self.parts.push(Part { name, bytes });
            }
            None if is_part(&extension(&name)) => self.dotted.get_or_insert((0, name)).0 += 1,
            None => {}
        }
        if self.size > MAX_GROUP_BYTES {
            self.parts.clear();
        }
    }

    fn parts(self) -> Result<Vec<Part>, Fault> {
        match self.dotted {
            _ if self.size > MAX_GROUP_BYTES => {
                Err(Fault::TooLarge { what: "an item's members", max: MAX_GROUP_BYTES, received: self.size })
            }
            Some((n, first)) if self.size == 0 => Err(Fault::DottedNames { n, first }),
            _ => Ok(self.parts),
        }
    }
}

/// A member's key and its extension, which begins at the first dot of its last part that no number follows, or at the last.
fn split(name: &str) -> (&str, &str) {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let Some(first) = name[base..].find('.') else { return (name, "") };
    let mut dot = base + first;
    while let Some(next) = name[dot + 1..].find('.')
        && name[dot + 1..].starts_with(|c: char| c.is_ascii_digit())
    {
        dot += 1 + next;
    }
    (&name[..dot], &name[dot + 1..])
}

/// Whether members with this extension, in lower case, are parts of an item.
fn is_part(extension: &str) -> bool {
    PICTURES.contains(&extension) || matches!(extension, "json" | "txt" | "cls" | "npy")
}

impl WebDataset {
    pub fn open(path: &Path, options: &SourceOptions, progress: Arc<Progress>) -> Result<WebDataset, SourceError> {
        let io = |error| SourceError::Io { path: path.to_owned(), error };
        let mut stream = stream::open(path, Some(progress)).map_err(io)?;
        let begins_as_tar = stream.fill_buf().is_ok_and(kind::begins_as_tar);
        let (sender, receiver) = sync_channel(AHEAD);
        thread::Builder::new().name("tar".to_owned()).spawn(move || send_members(stream, &sender)).map_err(io)?;
        let mut members = receiver.into_iter().peekable();
        if let Some(Err(first)) = members.peek()
            && let Some(error) = unreadable(path, &first.fault, begins_as_tar)
        {
            return Err(error);
        }
        Ok(WebDataset { members, vector_name: options.vector_name.clone() })
    }

    fn item(&self, key: &str, group: Group) -> Result<Item, Fault> {
        let mut item = Item { name: key.to_owned(), ..Item::default() };
        let mut picture: Option<String> = None;
        let mut texts = Vec::new();
        for Part { name, bytes } in group.parts()? {
            let bytes = bytes?;
            match split(&name).1.to_lowercase().as_str() {
                "json" => describe(&mut item, &bytes)?,
                "txt" => texts.push(fields::text_file(&bytes)?),
                "cls" => {
                    item.payload.insert("class".to_owned(), class(&fields::text_file(&bytes)?));
                }
                "npy" => {
                    item.vectors.insert(self.vector_name.clone(), npy::vector(&bytes)?);
                }
                _ if picture.is_some() => {
                    return Err(Fault::TwoImages { first: picture.unwrap_or_default(), second: name });
                }
                _ => {
                    picture = Some(name);
                    item.image = Some(bytes);
                }
            }
        }
        item.texts.splice(0..0, texts);
        set_path(&mut item.payload, picture.as_deref().unwrap_or(key));
        Ok(item)
    }
}

impl Iterator for WebDataset {
    type Item = Next;

    fn next(&mut self) -> Option<Next> {
        let first = match self.members.next()? {
            Ok(member) => member,
            Err(skipped) => return Some(Err(skipped)),
        };
        let key = first.key().to_owned();
        let mut group = Group::default();
        group.push(first);
        while let Some(Ok(member)) = self.members.next_if(|next| matches!(next, Ok(m) if m.key() == key)) {
            group.push(member);
        }
        Some(self.item(&key, group).map_err(|fault| fault.at(key)))
    }
}

/// Why nothing of a tar can be read, told by what is wrong with its first member.
fn unreadable(path: &Path, first: &Fault, begins_as_tar: bool) -> Option<SourceError> {
    let path = path.to_owned();
    match first {
        Fault::Truncated { detail } => Some(SourceError::Truncated { path, detail: detail.clone() }),
        Fault::Unreadable(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Some(SourceError::Damaged { path, detail: error.to_string() })
        }
        Fault::Unreadable(error) if begins_as_tar => Some(SourceError::Truncated { path, detail: error.to_string() }),
        Fault::Unreadable(error) => Some(SourceError::Damaged { path, detail: format!("not a tar: {error}") }),
        _ => None,
    }
}

/// Reads the tar to its end, or until nobody listens.
fn send_members(stream: impl Read, sender: &SyncSender<Result<Member, Skipped>>) {
    let (bounded, headers) = bounded(stream);
    let mut archive = tar::Archive::new(bounded);
    let mut last = None;
    let first = "the first member";
    let entries = match archive.entries() {
        Ok(entries) => entries,
        Err(error) => return drop(sender.send(Err(Fault::from(error).at(first)))),
    };
    for entry in entries {
        let mut entry = match (entry, &last) {
            (Ok(entry), _) => entry,
            (Err(error), None) => return drop(sender.send(Err(Fault::from(error).at(first)))),
            (Err(error), Some(last)) => return drop(sender.send(Err(cut_off(error).at(format!("after {last}"))))),
        };
        headers.begin_after(on_disk(&entry));
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = match String::from_utf8(entry.path_bytes().into_owned()) {
            Ok(name) => plain(&name).to_owned(),
            Err(error) => {
                let lossy = String::from_utf8_lossy(error.as_bytes()).into_owned();
                last = Some(lossy.clone());
                if sender.send(Err(Fault::NotUtf8 { what: "the member's name" }.at(lossy))).is_err() {
                    return;
                }
                continue;
            }
        };
        last = Some(name.clone());
        if !is_part(&split(&name).1.to_lowercase()) {
            if sender.send(Ok(Member { name, bytes: None })).is_err() {
                return;
            }
            continue;
        }
        let size = entry.size();
        let bytes = match read_limited(&mut entry, size) {
            Ok(read) if (read.len() as u64) < size => {
                let detail = format!("expected {size} bytes, received {}", read.len());
                return drop(sender.send(Err(Fault::Truncated { detail }.at(name))));
            }
            Err(fault @ Fault::Truncated { .. }) => return drop(sender.send(Err(fault.at(name)))),
            bytes => Some(bytes),
        };
        if sender.send(Ok(Member { name, bytes })).is_err() {
            return;
        }
    }
}

fn cut_off(error: io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::FileTooLarge => Fault::Unreadable(error),
        _ => Fault::Truncated { detail: error.to_string() },
    }
}

fn describe(item: &mut Item, json: &[u8]) -> Result<(), Fault> {
    let Fields { id, image, texts, payload, vectors } = Fields::parse(json)?;
    item.id = id;
    item.texts.extend::<Vec<Text>>(texts);
    item.payload.extend(payload);
    if let Some(image) = image {
        item.payload.insert("image".to_owned(), image.into());
    }
    item.vectors.extend(vectors);
    Ok(())
}

/// A class is a number by custom, and may be a name.
fn class(text: &Text) -> serde_json::Value {
    text.text.parse::<i64>().map_or_else(|_| text.text.clone().into(), Into::into)
}
