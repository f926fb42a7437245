//! Published data sets as they are downloaded.

use std::path::PathBuf;

use crate::dataset::{Dataset, Error};

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
}

/// A data set by its name; `Error::Choice` says which there are.
pub fn read(name: &str, options: &Options) -> Result<Dataset, Error> {
    let _ = (name, options);
    unimplemented!()
}
