//! How a model folder is laid out: which files it has, and what stands in which.

use std::path::{Path, PathBuf};

use super::{
    CONFIG_FILE, Config, Family, PREPROCESSOR_FILES, TOKENIZER_FILE, flame, open_clip,
    weights::{self, Candidates, Weights},
};
use crate::{Error, Result, folder, preprocess::Preprocessor, sentence};

pub(crate) const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";
const OPEN_CLIP_WEIGHTS: &Candidates = &[
    ("open_clip_model.safetensors", None),
    ("open_clip_pytorch_model.safetensors", None),
    ("open_clip_pytorch_model.bin", None),
];
/// Endings of a checkpoint that may stand alone.
const CHECKPOINTS: [&str; 2] = [".pt", ".pth"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    HuggingFace,
    OpenClip,
    /// This checkpoint and a tokenizer.
    Alone(String),
}

impl Layout {
    /// Of a folder; where there is nothing to tell it by, that of Hugging Face.
    pub(crate) fn of(folder: &Path) -> Layout {
        match Layout::of_files(|name| folder.join(name).is_file()) {
            Some(layout) => layout,
            None => only_checkpoint(folder).map_or(Layout::HuggingFace, Layout::Alone),
        }
    }

    /// Of a folder, or of a checkpoint in one.
    pub(crate) fn at(path: &Path) -> (PathBuf, Layout) {
        match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
            (Some(folder), Some(name)) if path.is_file() => (folder.to_owned(), Layout::Alone(name.to_owned())),
            _ => (path.to_owned(), Layout::of(path)),
        }
    }

    /// Of files that are named, not looked at.
    pub(crate) fn of_files(has: impl Fn(&str) -> bool) -> Option<Layout> {
        let known = [(CONFIG_FILE, Layout::HuggingFace), (OPEN_CLIP_CONFIG, Layout::OpenClip)];
        known.into_iter().find(|(name, _)| has(name)).map(|(_, layout)| layout)
    }

    /// All but the weights.
    pub(crate) fn small_files(&self, has: impl Fn(&str) -> bool) -> Vec<&'static str> {
        let preprocessor = PREPROCESSOR_FILES.into_iter().find(|name| has(name)).unwrap_or(PREPROCESSOR_FILES[0]);
        match self {
            Layout::HuggingFace => vec![CONFIG_FILE, TOKENIZER_FILE, preprocessor],
            Layout::OpenClip => vec![OPEN_CLIP_CONFIG, TOKENIZER_FILE],
            Layout::Alone(_) => vec![TOKENIZER_FILE],
        }
    }

    pub(crate) fn weight_files(&self) -> &'static Candidates {
        match self {
            Layout::HuggingFace => weights::CANDIDATES,
            Layout::OpenClip => OPEN_CLIP_WEIGHTS,
            Layout::Alone(_) => &[],
        }
    }

    /// The checkpoint of a FLAME image side that stands alone.
    pub(crate) fn flame(&self, folder: &Path) -> Result<Option<PathBuf>> {
        let Layout::Alone(file) = self else { return Ok(None) };
        let path = folder.join(file);
        Ok(flame::is_one(&Weights::open_file(&path)?).then_some(path))
    }

    pub(crate) fn family(&self, folder: &Path) -> Result<Family> {
        if *self != Layout::HuggingFace {
            return Ok(Family::Clip);
        }
        let path = folder.join(CONFIG_FILE);
        let config = folder::read_json(&path)?;
        match config["model_type"].as_str() {
            Some(name) if sentence::Family::ALL.iter().any(|family| family.name() == name) => {
                Err(Error::MissingFile { folder: folder.to_owned(), file: sentence::MODULES_FILE.to_owned() })
            }
            Some(name) => Family::of_name(name).map_err(|error| error.said_by(&path)),
            None => Err(Error::BadFile { file: path, detail: "model_type: expected a name".to_owned() }),
        }
    }

    pub(crate) fn config(&self, folder: &Path, family: Family) -> Result<Config> {
        match self {
            Layout::HuggingFace => Config::read(&folder.join(CONFIG_FILE), family),
            Layout::OpenClip => {
                let path = folder.join(OPEN_CLIP_CONFIG);
                open_clip::config(&folder::read_json(&path)?).map_err(|detail| Error::BadFile { file: path, detail })
            }
            Layout::Alone(_) => open_clip::config_of_tensors(&self.weights(folder)?),
        }
    }

    pub(crate) fn preprocessor(&self, folder: &Path, config: &Config) -> Result<Preprocessor> {
        let side = config.vision.image_size;
        match self {
            Layout::HuggingFace => {
                let file = *self.small_files(|name| folder.join(name).is_file()).last().expect("there are three");
                Preprocessor::read(&folder.join(file), side, config.family.preprocessing())
            }
            Layout::OpenClip => Preprocessor::read_open_clip(&folder.join(OPEN_CLIP_CONFIG), side),
            Layout::Alone(_) => Ok(Preprocessor::of_clip(side)),
        }
    }

    pub(crate) fn weights(&self, folder: &Path) -> Result<Weights> {
        match self {
            Layout::Alone(file) => Weights::open_file(&folder.join(file)),
            _ => Weights::open_one_of(folder, self.weight_files()),
        }
    }

    /// Every file that shapes an embedding, as (name, path), sorted by name.
    pub(crate) fn files(&self, folder: &Path) -> Result<Vec<(String, PathBuf)>> {
        let small = self.small_files(|name| folder.join(name).is_file());
        let mut names: Vec<String> = small.into_iter().map(str::to_owned).collect();
        match self {
            Layout::Alone(file) => names.push(file.clone()),
            _ => names.extend(weights::file_names(folder, self.weight_files())?),
        }
        names.sort();
        Ok(names.into_iter().map(|name| (name.clone(), folder.join(name))).collect())
    }
}

fn only_checkpoint(folder: &Path) -> Option<String> {
    let names = folder.read_dir().ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut checkpoints = names.filter(|name| CHECKPOINTS.iter().any(|ending| name.ends_with(ending)));
    let first = checkpoints.next()?;
    checkpoints.next().is_none().then_some(first)
}
