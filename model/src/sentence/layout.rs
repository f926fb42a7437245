//! What a sentence-transformers folder says of itself: `modules.json` names a transformer, a pooling, and what comes after
//! them, each with a folder and a config of its own.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::Family;
use crate::{
    Error, Result,
    folder::{self, join},
    pair::{CONFIG_FILE, TOKENIZER_FILE, WEIGHT_FILES, weight_file_names},
};

pub(crate) const MODULES_FILE: &str = "modules.json";
/// Length and lower case, from before sentence-transformers 5, by the kind of transformer once.
const LIMIT_FILES: [&str; 4] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_xlm-roberta_config.json",
];
/// Holds the length today.
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// Holds prompts.
const PROMPTS_FILE: &str = "config_sentence_transformers.json";
const MAX_MODULES: usize = 16;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    root: PathBuf,
    /// Relative to the root, which it may be itself.
    transformer: String,
    pooling: String,
    pub steps: Vec<Step>,
}

/// What happens to the pooled states.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// In this folder.
    Dense(String),
    Normalize,
}

/// How a text is read, as far as the files say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    pub max_tokens: Option<usize>,
    pub lower_case: bool,
    /// Stands before every text.
    pub prompt: String,
}

impl Layout {
    /// Reading says what is missing where only the family is one of ours.
    pub(crate) fn is_in(folder: &Path) -> bool {
        let config = || folder::read_json(&folder.join(CONFIG_FILE)).unwrap_or_default();
        let is_ours = |name: &str| Family::ALL.iter().any(|family| family.name() == name);
        folder.join(MODULES_FILE).is_file() || config()["model_type"].as_str().is_some_and(is_ours)
    }

    pub(crate) fn read(root: &Path) -> Result<Layout> {
        let path = root.join(MODULES_FILE);
        let json = folder::read_json(&path)?;
        Layout::of_json(root, &json).map_err(|detail| Error::BadFile { file: path, detail })
    }

    fn of_json(root: &Path, json: &Value) -> Result<Layout, String> {
        let modules = json.as_array().ok_or("expected a list of modules")?;
        if modules.len() > MAX_MODULES {
            return Err(format!("expected at most {MAX_MODULES} modules, received {}", modules.len()));
        }
        let modules = modules.iter().map(module).collect::<Result<Vec<_>, _>>()?;
        let [("Transformer", transformer), ("Pooling", pooling), rest @ ..] = modules.as_slice() else {
            let kinds: Vec<&str> = modules.iter().map(|(kind, _)| *kind).collect();
            return Err(format!("expected a Transformer, then a Pooling; received {}", kinds.join(", ")));
        };
        let step = |(kind, path): &(&str, &str)| match *kind {
            "Dense" => Ok(Step::Dense((*path).to_owned())),
            "Normalize" => Ok(Step::Normalize),
            other => Err(format!("after the Pooling: expected Dense or Normalize, received {other}")),
        };
        let steps = rest.iter().map(step).collect::<Result<_, _>>()?;
        let [transformer, pooling] = [transformer, pooling].map(|path| (*path).to_owned());
        Ok(Layout { root: root.to_owned(), transformer, pooling, steps })
    }

    pub(crate) fn transformer(&self) -> PathBuf {
        self.root.join(&self.transformer)
    }

    pub(crate) fn pooling_config(&self) -> PathBuf {
        self.root.join(&self.pooling).join(CONFIG_FILE)
    }

    pub(crate) fn dense(&self, folder: &str) -> PathBuf {
        self.root.join(folder)
    }

    pub(crate) fn reading(&self) -> Result<Reading> {
        let said = self.limit_file().map_or(Ok(Value::Null), |path| folder::read_json(&path))?;
        let tokenizer = read_if_there(&self.transformer().join(TOKENIZER_CONFIG_FILE))?;
        let prompts = read_if_there(&self.root.join(PROMPTS_FILE))?;
        let prompt = prompts["default_prompt_name"].as_str().and_then(|name| prompts["prompts"][name].as_str());
        // A tokenizer without a limit says 1e30.
        let limit = |json: &Value| json.as_f64().filter(|&n| (1.0..1e9).contains(&n)).map(|n| n as usize);
        Ok(Reading {
            max_tokens: limit(&said["max_seq_length"]).or_else(|| limit(&tokenizer["model_max_length"])),
            lower_case: said["do_lower_case"].as_bool().unwrap_or(false),
            prompt: prompt.unwrap_or_default().to_owned(),
        })
    }

    fn limit_file(&self) -> Option<PathBuf> {
        LIMIT_FILES.iter().map(|name| self.transformer().join(name)).find(|path| path.is_file())
    }

    /// Every file that shapes an embedding, as (name, path), sorted by name.
    pub(crate) fn files(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut names = self.small_files();
        let optional = self.optional_files().into_iter().filter(|name| self.root.join(name).is_file());
        names.extend(optional);
        for within in self.weight_folders() {
            names.extend(
                weight_file_names(&self.root.join(within), WEIGHT_FILES)?.into_iter().map(|name| join(within, &name)),
            );
        }
        names.sort();
        Ok(names.into_iter().map(|name| (name.clone(), self.root.join(name))).collect())
    }

    /// Those that must be there, but for weights; relative to the root.
    pub(crate) fn small_files(&self) -> Vec<String> {
        let mut names = vec![
            MODULES_FILE.to_owned(),
            join(&self.transformer, CONFIG_FILE),
            join(&self.transformer, TOKENIZER_FILE),
            join(&self.pooling, CONFIG_FILE),
        ];
        names.extend(self.dense_folders().map(|within| join(within, CONFIG_FILE)));
        names
    }

    /// Those that are read where they are.
    pub(crate) fn optional_files(&self) -> Vec<String> {
        let beside = LIMIT_FILES.iter().chain([&TOKENIZER_CONFIG_FILE]).map(|name| join(&self.transformer, name));
        beside.chain([PROMPTS_FILE.to_owned()]).collect()
    }

    /// Folders that hold weights, relative to the root.
    pub(crate) fn weight_folders(&self) -> Vec<&str> {
        [self.transformer.as_str()].into_iter().chain(self.dense_folders()).collect()
    }

    fn dense_folders(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(|step| match step {
            Step::Dense(within) => Some(within.as_str()),
            Step::Normalize => None,
        })
    }
}

/// The last part of its type, and its folder. Only plain names, since the file may come from anywhere.
fn module(json: &Value) -> Result<(&str, &str), String> {
    let kind = json["type"].as_str().ok_or("type: expected a name")?;
    let path = json["path"].as_str().ok_or("path: expected a name")?;
    if !path.is_empty() && !path.split('/').all(folder::is_plain_name) {
        return Err(format!("path: expected a folder within this one, received {path:?}"));
    }
    Ok((kind.rsplit('.').next().unwrap_or(kind), path))
}

fn read_if_there(path: &Path) -> Result<Value> {
    if path.is_file() { folder::read_json(path) } else { Ok(Value::Null) }
}
