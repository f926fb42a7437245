//! ImageInWords: `{DCI_Test,DOCCI_Test,IIW-400}/data.jsonl`; the pictures are those of DCI and DOCCI. Or the texts alone,
//! also from one file `iiw.jsonl` with `id`, `long`, `other` and `objects`.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    Options,
    dci::sentences,
    files::{self, Found},
    finish::counted,
    gathered::{Gathered, Located, Pictures},
};
use crate::dataset::Error;

const WHAT: &str = "a line of ImageInWords with `image` or `image/key`, and `IIW`";
/// Where LoTLIP copies the pictures to, then where DCI and DOCCI have them.
const FOLDERS: [&str; 9] = [
    "dci",
    "docci",
    "docci_aar",
    "densely_captioned_images/photos",
    "dci/densely_captioned_images/photos",
    "images",
    "images_aar",
    "docci/images",
    "docci/images_aar",
];

const DCI_TEST: &[&str] = &["DCI_Test", "DCI_TEST"];
const DOCCI_TEST: &[&str] = &["DOCCI_Test", "DOCCI_TEST"];
const IIW_400: &[&str] = &["IIW-400"];

#[derive(Deserialize)]
struct Row {
    #[serde(alias = "image/key", alias = "id")]
    image: String,
    #[serde(rename = "IIW", alias = "long")]
    long: String,
    /// By somebody else, or by a model.
    #[serde(alias = "DOCCI", alias = "IIW-P5B")]
    other: Option<String>,
    objects: Option<Vec<Object>>,
}

#[derive(Deserialize)]
struct Object {
    description: String,
}

pub fn all(options: &Options) -> Result<Gathered, Error> {
    pictures(options, &[DCI_TEST, DOCCI_TEST, IIW_400])
}

pub fn dci_test(options: &Options) -> Result<Gathered, Error> {
    pictures(options, &[DCI_TEST])
}

pub fn docci_test(options: &Options) -> Result<Gathered, Error> {
    pictures(options, &[DOCCI_TEST])
}

pub fn iiw_400(options: &Options) -> Result<Gathered, Error> {
    pictures(options, &[IIW_400])
}

/// Each object's description looks for the long description of its picture.
pub fn objects(options: &Options) -> Result<Gathered, Error> {
    texts(options, |row| row.objects.into_iter().flatten().map(|object| object.description).collect())
}

/// What others wrote looks for the long description of the same picture.
pub fn others(options: &Options) -> Result<Gathered, Error> {
    texts(options, |row| row.other.into_iter().collect())
}

fn pictures(options: &Options, parts: &[&[&str]]) -> Result<Gathered, Error> {
    let files = match options.data.is_file() {
        true => vec![files::find(options, &[""], WHAT)?],
        false => parts.iter().map(|part| part_of(options, part)).collect::<Result<_, _>>()?,
    };
    let mut gathered = gather(&files, options);
    let mut n_of_train = 0;
    for Found { file, folder } in files {
        let pictures = Pictures::of(options, &folder, &FOLDERS);
        for row in files::json_lines(&file, WHAT)? {
            let (_, Row { image, long, .. }) = row?;
            let (located, is_of_train) = locate(&pictures, &image);
            n_of_train += usize::from(is_of_train);
            gathered.pair(&image, located, sentences(&long));
        }
    }
    if n_of_train > 0 {
        let n = counted(n_of_train);
        gathered.notes.push(format!("pictures found as aar_train_ instead of aar_test_, as LoTLIP does: {n}"));
    }
    Ok(gathered)
}

fn gather(files: &[Found], options: &Options) -> Gathered {
    match files {
        [Found { file, .. }] => Gathered::from(file),
        _ => Gathered::from(&options.data),
    }
}

fn part_of(options: &Options, part: &[&str]) -> Result<Found, Error> {
    let name = |folder: &str| part.iter().map(|part| format!("{folder}{part}/data.jsonl")).collect::<Vec<_>>();
    let names = [name(""), name("datasets/")].concat();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    files::find(options, &names, &format!("the lines of {}", part[0]))
}

/// Some of the pictures of DOCCI-AAR are published under the name of another split.
fn locate(pictures: &Pictures, image: &str) -> (Located, bool) {
    let name = if image.contains(".jpg") { image.to_owned() } else { format!("{image}.jpg") };
    let located = pictures.locate(&[&name]);
    if located.is_err()
        && name.starts_with("aar_test")
        && let Ok(path) = pictures.locate(&[&name.replace("test", "train")])
    {
        return (Ok(path), true);
    }
    (located, false)
}

fn texts(options: &Options, queries: fn(Row) -> Vec<String>) -> Result<Gathered, Error> {
    let mut gathered = Gathered::from(&options.data);
    for file in text_files(options)? {
        for row in files::json_lines(&file, "a line of ImageInWords with `id`, `long`, `other` and `objects`")? {
            let (_, row): (_, Row) = row?;
            if gathered.place(&row.image).is_some() {
                gathered.repeated.push(row.image.clone());
            }
            let place = gathered.document(&row.image, &row.long);
            queries(row).into_iter().for_each(|text| gathered.say(place, "en", text));
        }
    }
    Ok(gathered)
}

/// One file, or those of the parts that are there.
fn text_files(options: &Options) -> Result<Vec<PathBuf>, Error> {
    let one =
        files::find(options, &["iiw.jsonl"], "the lines of ImageInWords, here or in DCI_Test, DOCCI_Test, IIW-400");
    let of_part = |part: &&[&str]| part_of(options, part).ok().map(|found| found.file);
    match one {
        Ok(found) => Ok(vec![found.file]),
        Err(error) => {
            let files: Vec<PathBuf> = [DCI_TEST, DOCCI_TEST, IIW_400].iter().filter_map(of_part).collect();
            if files.is_empty() { Err(error) } else { Ok(files) }
        }
    }
}
