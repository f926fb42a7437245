//! What makes two items the same: an id that is given or derived, and a hash of everything that would be stored.

use blake3::Hasher;
use firn_index::PointId;

use crate::{embed::Input, source::Item};

/// Where the id of an item without one comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdFrom {
    /// The first 32 hexadecimal digits of a BLAKE3 hash of its picture and texts, so that a repeated run changes nothing.
    #[default]
    Content,
    /// Its path in the source.
    Path,
}

/// An item as a journal knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub id: u128,
    /// Of the id and everything else that would be stored.
    pub content: u128,
}

/// An item with its id.
pub struct Identified {
    pub input: Input,
    pub key: Key,
    /// Like `key.content`, but without the payload's "path": a file that is met in two ways has one body.
    pub body: u128,
}

/// Gives an item its id, and the key that goes with it.
pub fn identify(item: Item, from: IdFrom) -> Identified {
    let Item { name, id, image, texts, payload, vectors, tokens } = item;
    let picture = image.as_deref().map(blake3::hash);
    let mut input = Input { id: PointId::Num(0), image, texts, payload, vectors, tokens };
    input.id = match (id, from) {
        (Some(id), _) => id,
        (None, IdFrom::Path) => PointId::Text(path_of(&input).unwrap_or(name)),
        (None, IdFrom::Content) => PointId::Text(hex(derived(&input, picture))),
    };
    let (key, body) = key(&input, picture);
    Identified { input, key, body }
}

/// The `id` of a key, from the id alone.
pub fn id_hash(id: &PointId) -> u128 {
    short(&hasher_of(id))
}

fn path_of(input: &Input) -> Option<String> {
    input.payload.get("path")?.as_str().map(str::to_owned)
}

/// From picture and texts; a point of vectors alone is known by them.
fn derived(input: &Input, picture: Option<blake3::Hash>) -> u128 {
    let mut hasher = Hasher::new();
    hash_picture(&mut hasher, picture);
    for text in &input.texts {
        part(&mut hasher, text.text.as_bytes());
    }
    if picture.is_none() && input.texts.is_empty() {
        hash_vectors(&mut hasher, input);
    }
    short(&hasher)
}

fn hasher_of(id: &PointId) -> Hasher {
    let mut hasher = Hasher::new();
    match id {
        PointId::Num(number) => part(&mut hasher, &number.to_le_bytes()),
        PointId::Text(text) => {
            part(&mut hasher, b"text");
            part(&mut hasher, text.as_bytes());
        }
    }
    hasher
}

fn key(input: &Input, picture: Option<blake3::Hash>) -> (Key, u128) {
    let mut hasher = hasher_of(&input.id);
    let id = short(&hasher);
    hash_picture(&mut hasher, picture);
    for text in &input.texts {
        part(&mut hasher, text.text.as_bytes());
        part(&mut hasher, text.language.as_bytes());
    }
    hash_vectors(&mut hasher, input);
    hash_tokens(&mut hasher, input);
    let mut payload = input.payload.clone();
    let path = payload.remove("path");
    part(&mut hasher, serde_json::Value::Object(payload).to_string().as_bytes());
    let body = short(&hasher);
    part(&mut hasher, path.map(|path| path.to_string()).unwrap_or_default().as_bytes());
    (Key { id, content: short(&hasher) }, body)
}

fn hash_picture(hasher: &mut Hasher, picture: Option<blake3::Hash>) {
    part(hasher, picture.as_ref().map_or(&[], |hash| hash.as_bytes()));
}

fn hash_vectors(hasher: &mut Hasher, input: &Input) {
    for (name, vector) in &input.vectors {
        part(hasher, name.as_bytes());
        let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
        part(hasher, &bytes);
    }
}

fn hash_tokens(hasher: &mut Hasher, input: &Input) {
    for (name, tokens) in &input.tokens {
        part(hasher, name.as_bytes());
        part(hasher, &(tokens.n as u64).to_le_bytes());
        let bytes: Vec<u8> = tokens.values.iter().flat_map(|number| number.to_le_bytes()).collect();
        part(hasher, &bytes);
    }
}

/// A part and its length, so that parts cannot run into each other.
fn part(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}

fn short(hasher: &Hasher) -> u128 {
    let hash = hasher.finalize();
    u128::from_be_bytes(hash.as_bytes()[..16].try_into().expect("a BLAKE3 hash has 32 bytes"))
}

/// 32 hexadecimal digits.
pub fn hex(number: u128) -> String {
    format!("{number:032x}")
}

#[cfg(test)]
mod tests {
    use firn_index::{Text, Tokens};

    use super::*;

    fn item() -> Item {
        let text = |text: &str| Text { text: text.to_owned(), language: "en".to_owned() };
        Item {
            name: "a.jpg".to_owned(),
            image: Some(vec![1, 2, 3]),
            texts: vec![text("a"), text("b")],
            payload: [("path".to_owned(), "dir/a.jpg".into())].into_iter().collect(),
            ..Item::default()
        }
    }

    #[test]
    fn ids_are_given_or_derived() {
        let id = |item: Item, from| identify(item, from).input.id;
        assert_eq!(id(Item { id: Some(7.into()), ..item() }, IdFrom::Path), PointId::Num(7));
        assert_eq!(id(item(), IdFrom::Path), PointId::from("dir/a.jpg"));
        let PointId::Text(derived) = id(item(), IdFrom::Content) else { panic!("a derived id is text") };
        assert_eq!(derived.len(), 32);
        let moved = Item { name: "b.jpg".to_owned(), payload: Default::default(), ..item() };
        assert_eq!(id(moved, IdFrom::Content), PointId::Text(derived), "the place says nothing of the content");
    }

    #[test]
    fn whatever_is_stored_changes_the_key() {
        let Identified { key: base, .. } = identify(item(), IdFrom::Content);
        assert_eq!(identify(item(), IdFrom::Content).key, base);
        let check = |change: fn(&mut Item), same_id: bool| {
            let mut changed = item();
            change(&mut changed);
            let Identified { input, key, .. } = identify(changed, IdFrom::Content);
            assert_ne!(key.content, base.content);
            assert_eq!(key.id, id_hash(&input.id));
            assert_eq!(key.id == base.id, same_id);
        };
        check(|item| item.image = Some(vec![1, 2]), false);
        check(|item| item.texts[0].text = "ab".to_owned(), false);
        check(|item| item.texts[0].language = "de".to_owned(), true);
        check(|item| drop(item.payload.insert("n".to_owned(), 1.into())), true);
        check(|item| drop(item.vectors.insert("image".to_owned(), vec![0.5])), true);
        let tokens = |item: &mut Item| {
            let tokens = Tokens { n: 1, dim: 1, values: vec![half::f16::ONE] };
            item.tokens.insert("image".to_owned(), tokens);
        };
        check(tokens, true);
        check(|item| item.id = Some(1.into()), false);
        check(|item| item.texts.swap(0, 1), false);
        check(|item| drop(item.payload.insert("path".to_owned(), "a.jpg".into())), true);
        check(|item| drop(item.payload.remove("path")), true);
    }

    #[test]
    fn a_body_does_not_know_where_it_lies() {
        let body = |change: fn(&mut Item)| {
            let mut changed = item();
            change(&mut changed);
            identify(changed, IdFrom::Content).body
        };
        assert_eq!(body(|item| drop(item.payload.insert("path".to_owned(), "a.jpg".into()))), body(|_| {}));
        assert_ne!(body(|item| drop(item.payload.insert("n".to_owned(), 1.into()))), body(|_| {}));
    }

    #[test]
    fn points_of_vectors_alone_differ() {
        let point = |number: f32| Item { vectors: [("v".to_owned(), vec![number])].into(), ..Item::default() };
        let id = |number| identify(point(number), IdFrom::Content).input.id;
        assert_eq!(id(1.0), id(1.0));
        assert_ne!(id(1.0), id(2.0));
    }
}
