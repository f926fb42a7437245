//! Urban-1k: `image/{n}.jpg` and `caption/{n}.txt`, whose first line is the caption.

use std::path::Path;

use super::{
    Options, files,
    gathered::{Gathered, Pictures},
};
use crate::dataset::Error;

const WHAT: &str = "a caption of Urban-1k";

pub fn read(options: &Options) -> Result<Gathered, Error> {
    let captions = "the folder of Urban-1k's captions";
    let folder = files::find_folder(&options.data, &["", "Urban1k", "urban1k"], "caption", captions)?;
    let pictures = Pictures::of(options, &folder, &["image"]);
    let mut gathered = Gathered::from(&folder);
    for name in files::names(&folder.join("caption"), ".txt", captions)? {
        let picture = format!("{}.jpg", files::stem(&name));
        let caption = caption(&folder.join("caption").join(&name), &mut gathered.notes)?;
        gathered.pair(&picture, pictures.locate(&[&picture]), caption);
    }
    check_captions(&folder, &gathered)?;
    Ok(gathered)
}

/// The first line, or the first that is not blank: one of the published files starts with a blank line.
fn caption(path: &Path, notes: &mut Vec<String>) -> Result<String, Error> {
    let text = files::text(path, WHAT)?;
    let place = text.lines().position(|line| !line.trim().is_empty());
    if let Some(place @ 1..) = place {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        notes.push(format!("caption/{name} starts with a blank line: its line {} was read", place + 1));
    }
    Ok(place.and_then(|place| text.lines().nth(place)).unwrap_or_default().trim().to_owned())
}

/// Every picture of the data set's own folder has a caption.
fn check_captions(folder: &Path, gathered: &Gathered) -> Result<(), Error> {
    let images = folder.join("image");
    if !images.is_dir() {
        return Ok(());
    }
    let names = files::names(&images, ".jpg", "the folder of Urban-1k's pictures")?;
    match names.iter().find(|name| gathered.place(name).is_none()) {
        None => Ok(()),
        Some(name) => {
            let caption = format!("{}.txt", files::stem(name));
            Err(files::missing(&folder.join("caption").join(caption), WHAT))
        }
    }
}
