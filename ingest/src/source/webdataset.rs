//! A WebDataset tar: neighbouring members with one name up to the first dot are one item.
//!
//! The tar is streamed (and may be gzipped). Names are only names: nothing they say is opened.

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
    Fault, Item, Next, Progress, Skipped, SourceError, SourceOptions,
    fields::{self, Fields, set_path},
    kind::{self, PICTURES},
    npy,
    pictures::plain,
    stream::{self, read_limited},
};

/// Members that are read ahead.
const AHEAD: usize = 4;

pub struct WebDataset {
    members: Peekable<IntoIter<Result<Member, Skipped>>>,
    vector_name: String,
}

struct Member {
    name: String,
    /// A file that is too large to read is a fault of its item alone.
    bytes: Result<Vec<u8>, Fault>,
}

impl Member {
    /// The name up to the first dot of its last part, and what follows the dot.
    fn key(&self) -> (&str, &str) {
        let base = self.name.rfind('/').map_or(0, |slash| slash + 1);
        match self.name[base..].find('.') {
            Some(dot) => (&self.name[..base + dot], &self.name[base + dot + 1..]),
            None => (&self.name, ""),
        }
    }
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

    fn item(&self, key: &str, members: Vec<Member>) -> Result<Item, Fault> {
        let mut item = Item { name: key.to_owned(), ..Item::default() };
        let mut picture: Option<String> = None;
        for member in members {
            let extension = member.key().1.to_lowercase();
            let known = PICTURES.contains(&extension.as_str());
            if !known && !matches!(extension.as_str(), "json" | "txt" | "cls" | "npy") {
                continue;
            }
            let bytes = member.bytes?;
            match extension.as_str() {
                "json" => describe(&mut item, &bytes)?,
                "txt" => item.texts.insert(0, fields::text_file(&bytes)?),
                "cls" => {
                    item.payload.insert("class".to_owned(), class(&fields::text_file(&bytes)?));
                }
                "npy" => {
                    item.vectors.insert(self.vector_name.clone(), npy::vector(&bytes)?);
                }
                _ if picture.is_some() => {
                    return Err(Fault::TwoImages { first: picture.unwrap_or_default(), second: member.name });
                }
                _ => {
                    picture = Some(member.name);
                    item.image = Some(bytes);
                }
            }
        }
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
        let key = first.key().0.to_owned();
        let mut group = vec![first];
        while let Some(Ok(member)) = self.members.next_if(|next| matches!(next, Ok(m) if m.key().0 == key)) {
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
        Fault::Unreadable(error) if begins_as_tar => Some(SourceError::Truncated { path, detail: error.to_string() }),
        Fault::Unreadable(error) => Some(SourceError::Damaged { path, detail: format!("not a tar: {error}") }),
        _ => None,
    }
}

/// Reads the tar to its end, or until nobody listens.
fn send_members(stream: impl Read, sender: &SyncSender<Result<Member, Skipped>>) {
    let mut archive = tar::Archive::new(stream);
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
            (Err(error), Some(last)) => return drop(sender.send(Err(cut_off(&error).at(format!("after {last}"))))),
        };
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
        let size = entry.size();
        let bytes = match read_limited(&mut entry, size) {
            Ok(read) if (read.len() as u64) < size => {
                let detail = format!("expected {size} bytes, received {}", read.len());
                return drop(sender.send(Err(Fault::Truncated { detail }.at(name))));
            }
            Err(fault @ Fault::Truncated { .. }) => return drop(sender.send(Err(fault.at(name)))),
            bytes => bytes,
        };
        last = Some(name.clone());
        if sender.send(Ok(Member { name, bytes })).is_err() {
            return;
        }
    }
}

fn cut_off(error: &io::Error) -> Fault {
    Fault::Truncated { detail: error.to_string() }
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
