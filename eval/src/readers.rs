//! Published data sets as they are downloaded: one file per layout, one table of what there is and how many are published.
//!
//! A reader gathers documents and their texts; what all data sets share (ids, joined texts, languages, counts) is `finish`'s.
//! What cannot be read is an error that names the file; what is odd but readable is a note.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use crate::dataset::{Dataset, Error};
use catalog::Published;
use gathered::Gathered;

mod catalog;
mod clip_benchmark;
mod dci;
mod docci;
mod files;
mod finish;
mod gathered;
mod goal;
mod iiw;
mod jsonl;
mod karpathy;
mod sharegpt4v;
mod urban1k;
mod xm3600;

/// How a data set is read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The folder, or the file, that was downloaded.
    pub data: PathBuf,
    /// Which protocol; none: the first of its data set.
    pub protocol: Option<String>,
    /// Where the pictures are, if not where the data set has them.
    pub images: Option<PathBuf>,
    /// Only these, such as "en"; empty: all.
    pub languages: Vec<String>,
    /// Ask with all texts of a document and language in one too.
    pub joined: bool,
    /// Pictures need not be there: whoever asks has their embeddings.
    pub without_pictures: bool,
}

/// A data set that can be read.
#[derive(Debug)]
pub struct DataSet {
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// The published ways to read it; the first is what is read unless another is asked for.
    pub protocols: &'static [Protocol],
}

/// One of the published ways to read a data set.
#[derive(Debug)]
pub struct Protocol {
    pub name: &'static str,
    /// One line: which files, which texts.
    pub about: &'static str,
    published: Option<Published>,
    read: fn(&Options) -> Result<Gathered, Error>,
}

/// The data sets that can be read, in the order in which they are listed.
pub fn data_sets() -> &'static [DataSet] {
    &catalog::DATA_SETS
}

/// Other names that folders of data sets have, without marks between letters.
const ALSO_NAMED: [(&str, &str); 5] = [
    ("denselycaptionedimages", "dci"),
    ("imageinwords", "iiw"),
    ("mscoco", "coco"),
    ("crossmodal3600", "xm3600"),
    ("share4v", "sharegpt4v"),
];

/// The data sets that lie under a folder, each in a sub-folder of its name, in the order of `data_sets`. Neither case nor marks matter:
/// "Urban-1k" is "urban1k" unless a folder of just that name is there too.
pub fn find_in(root: &Path) -> Result<Vec<(&'static str, PathBuf)>, Error> {
    let folders = folders_in(root)?;
    let named = data_sets().iter().filter_map(|data_set| {
        let of_set = |folder: &&String| name_of(folder) == Some(data_set.name);
        let exact = folders.iter().find(|folder| *folder == data_set.name);
        exact.or(folders.iter().find(of_set)).map(|folder| (data_set.name, root.join(folder)))
    });
    Ok(named.collect())
}

/// The sub-folders that `find_in` takes for no data set.
pub fn unknown_in(root: &Path) -> Result<Vec<String>, Error> {
    let mut folders = folders_in(root)?;
    let found = find_in(root)?;
    folders.retain(|folder| found.iter().all(|(_, path)| *path != root.join(folder)));
    Ok(folders)
}

fn folders_in(root: &Path) -> Result<Vec<String>, Error> {
    if !root.is_dir() {
        return Err(files::missing(root, "a folder with data sets"));
    }
    files::folders(root)
}

/// The data set that a folder is named after.
fn name_of(folder: &str) -> Option<&'static str> {
    let letters = |name: &str| name.chars().filter(|l| l.is_alphanumeric()).collect::<String>().to_lowercase();
    let folder = letters(folder);
    let also = ALSO_NAMED.iter().find(|(also, _)| *also == folder).map(|(_, name)| *name);
    data_sets().iter().map(|data_set| data_set.name).find(|name| letters(name) == folder).or(also)
}

/// How many documents and texts are published for a protocol of a data set; none if it is not known.
pub fn published_counts(data_set: &str, protocol: &str) -> Option<(RangeInclusive<usize>, RangeInclusive<usize>)> {
    let data_set = data_sets().iter().find(|known| known.name == data_set)?;
    let protocol = data_set.protocols.iter().find(|known| known.name == protocol)?;
    protocol.published.clone().map(|Published { documents, texts }| (documents, texts))
}

/// A data set by its name; `Error::Choice` says which there are.
pub fn read(name: &str, options: &Options) -> Result<Dataset, Error> {
    let data_set = chosen("data set", data_sets(), |data_set| data_set.name, name)?;
    let protocol = match &options.protocol {
        Some(name) => chosen("protocol", data_set.protocols, |protocol| protocol.name, name)?,
        None => &data_set.protocols[0],
    };
    finish::finish((protocol.read)(options)?, data_set, protocol, options)
}

fn chosen<'a, T>(what: &'static str, all: &'a [T], name: fn(&T) -> &str, wanted: &str) -> Result<&'a T, Error> {
    all.iter().find(|one| name(one) == wanted).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(name).collect();
        Error::Choice { what, expected: format!("one of {}", names.join(", ")), received: wanted.to_owned() }
    })
}
