//! Anyone's own data: one JSON object a line. Rows with the same id are one document; texts may be many, in many languages.

use serde::Deserialize;
use serde_json::Value;

use super::{
    Options,
    files::{self, Found},
    finish::counted,
    gathered::{Gathered, Pictures},
};
use crate::dataset::{Content, Error};

const WHAT: &str =
    "an object with `id`, `image` or `document`, and with `text`, `caption` or a list `texts` or `captions`";
/// Of a picture that is only named by its id.
const ENDINGS: [&str; 5] = [".jpg", ".jpeg", ".png", ".webp", ""];

#[derive(Deserialize)]
struct Row {
    id: Option<Value>,
    /// A path from the file's folder, or from that of the pictures.
    image: Option<String>,
    /// A text that is looked for, instead of a picture.
    document: Option<String>,
    #[serde(alias = "caption")]
    text: Option<String>,
    #[serde(alias = "captions")]
    texts: Option<Vec<Text>>,
    /// Of `text`, and of each of `texts` that has none.
    #[serde(alias = "lang")]
    language: Option<String>,
    split: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Of {
        #[serde(alias = "caption")]
        text: String,
        #[serde(alias = "lang")]
        language: Option<String>,
    },
}

pub fn read(options: &Options) -> Result<Gathered, Error> {
    let found = find(options)?;
    let pictures = Pictures::of(options, &found.folder, &["images"]);
    let mut gathered = Gathered::from(&found.file);
    let mut n_train = 0;
    for row in files::json_lines(&found.file, WHAT)? {
        let (n, row): (_, Row) = row?;
        if row.split.as_deref() == Some("train") {
            n_train += 1;
            continue;
        }
        let odd = |received| files::odd(&found.file, WHAT, format!("line {n}: {received}"));
        let place = place(&row, &pictures, &mut gathered).map_err(odd)?;
        say(row, place, &mut gathered);
    }
    if n_train > 0 {
        gathered.notes.push(format!("rows of the split train were left out: {}", counted(n_train)));
    }
    Ok(gathered)
}

/// The file, or the only one of its kind in the folder.
fn find(options: &Options) -> Result<Found, Error> {
    let what = "one file of JSON lines (.jsonl or .jsonl.gz)";
    if options.data.is_file() {
        return files::find(options, &[""], what);
    }
    let names = [".jsonl", ".jsonl.gz"].map(|ending| files::names(&options.data, ending, what));
    let [plain, packed] = names;
    match &[plain?, packed?].concat()[..] {
        [] => Err(files::missing(&options.data.join("*.jsonl"), what)),
        [only] => Ok(Found { file: options.data.join(only), folder: options.data.clone() }),
        several => Err(files::odd(&options.data, what, format!("{}: name one of them", several.join(", ")))),
    }
}

/// The place of a row's document; what is wrong with the row if it has none.
fn place(row: &Row, pictures: &Pictures, gathered: &mut Gathered) -> Result<usize, String> {
    let id = id(row)?;
    let (place, content) = match (&row.image, &row.document, gathered.place(&id)) {
        (Some(_), Some(_), _) => return Err("both `image` and `document`".to_owned()),
        (None, None, Some(place)) => return Ok(place),
        (None, Some(document), _) => (gathered.document(&id, document), Content::Text(document.clone())),
        (image, None, _) => {
            let located = match image {
                Some(image) => pictures.locate(&[image]),
                None => pictures.locate(&ENDINGS.map(|ending| format!("{id}{ending}")).each_ref().map(String::as_str)),
            };
            let (Ok(path) | Err(path)) = &located;
            let content = Content::Picture(path.clone());
            (gathered.picture(&id, located), content)
        }
    };
    match gathered.documents[place].content == content {
        true => Ok(place),
        false => Err(format!("another document of the id {id}")),
    }
}

/// By its id, or by its picture's path.
fn id(row: &Row) -> Result<String, String> {
    match (&row.id, &row.image) {
        (Some(Value::String(id)), _) if !id.is_empty() => Ok(id.clone()),
        (Some(Value::Number(id)), _) => Ok(id.to_string()),
        (None, Some(image)) if !image.is_empty() => Ok(image.clone()),
        (None, _) => Err("neither `id` nor `image`".to_owned()),
        (Some(id), _) => Err(format!("the id {id}, which is neither a number nor a text that is not empty")),
    }
}

fn say(row: Row, place: usize, gathered: &mut Gathered) {
    let of_row = row.language.unwrap_or_default();
    if let Some(text) = row.text {
        gathered.say(place, &of_row, text);
    }
    for text in row.texts.into_iter().flatten() {
        match text {
            Text::Plain(text) => gathered.say(place, &of_row, text),
            Text::Of { text, language } => gathered.say(place, &language.unwrap_or(of_row.clone()), text),
        }
    }
}
