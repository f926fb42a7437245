//! What a folder is, by what stands in it: one order for all who open, check or write one.

use std::path::Path;

use crate::{
    Error, Result,
    align::{ALIGNED_FILE, RIDGE_FILE, ridge, side},
    decoder, join,
    pair::{CONFIG_FILE, Layout, OPEN_CLIP_CONFIG},
    sentence::{self, MODULES_FILE},
    train::WEIGHTS_FILE,
};

/// How a folder is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Join,
    Aligned,
    Ridge,
    Sentences,
    Decoder,
    Pair,
}

impl Kind {
    /// A file is a GGUF. Where there is nothing to tell it by, a pair of towers.
    pub(crate) fn of(folder: &Path) -> Kind {
        if join::is_in(folder) {
            Kind::Join
        } else if side::is_in(folder) {
            Kind::Aligned
        } else if ridge::is_in(folder) {
            Kind::Ridge
        } else if sentence::Layout::is_in(folder) {
            Kind::Sentences
        } else if folder.is_file() || decoder::is_in(folder) {
            Kind::Decoder
        } else {
            Kind::Pair
        }
    }
}

/// That a folder holds no model but one whose file is `own`: of two, one could not be reached. `Error::BadData` names the other.
pub(crate) fn refuse_others(folder: &Path, own: &str) -> Result<()> {
    let files = [join::FILE, ALIGNED_FILE, RIDGE_FILE, WEIGHTS_FILE, MODULES_FILE, CONFIG_FILE, OPEN_CLIP_CONFIG];
    let other = files.into_iter().find(|&file| file != own && folder.join(file).is_file()).map(str::to_owned);
    let alone = || if let Layout::Alone(file) = Layout::of(folder) { Some(file) } else { None };
    match other.or_else(alone) {
        None => Ok(()),
        Some(file) => {
            let detail = format!(
                "expected a folder without a model of another kind, received one with {file}; hint: another folder"
            );
            Err(Error::BadData { file: folder.to_owned(), detail })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_holds_one_model() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let check = |own: &str, expected: Option<&str>| match (refuse_others(folder, own), expected) {
            (Ok(()), None) => {}
            (Err(error @ Error::BadData { .. }), Some(file)) => {
                assert!(error.to_string().contains(&format!("received one with {file}; hint")), "{error}");
            }
            (received, expected) => panic!("{own}: {received:?} {expected:?}"),
        };
        check(RIDGE_FILE, None);
        check("of a folder that is not there", None);
        std::fs::write(folder.join("facets.safetensors"), "data").unwrap();
        for (file, kind) in [
            ("flame.pt", Kind::Pair),
            (CONFIG_FILE, Kind::Pair),
            (OPEN_CLIP_CONFIG, Kind::Pair),
            (MODULES_FILE, Kind::Sentences),
            (WEIGHTS_FILE, Kind::Pair),
            (RIDGE_FILE, Kind::Ridge),
            (ALIGNED_FILE, Kind::Aligned),
            (join::FILE, Kind::Join),
        ] {
            std::fs::write(folder.join(file), "{}").unwrap();
            check("none.safetensors", Some(file));
            assert_eq!(Kind::of(folder), kind, "{file}");
            std::fs::remove_file(folder.join(file)).unwrap();
        }
        std::fs::write(folder.join(RIDGE_FILE), "{}").unwrap();
        check(RIDGE_FILE, None);
        std::fs::write(folder.join(ALIGNED_FILE), "{}").unwrap();
        assert_eq!(Kind::of(folder), Kind::Aligned);
        std::fs::write(folder.join(join::FILE), "{}").unwrap();
        assert_eq!(Kind::of(folder), Kind::Join);
    }
}
