//! From the states of a text to its embedding: pooling, projections, unit length, in the order that the folder gives.

use std::path::Path;

use candle_core::Device;
use serde_json::Value;

use super::layout::{Layout, Reading, Step};
use crate::{
    Error, Result,
    flat::{Dense, activate},
    folder,
    pair::{Activation, CONFIG_FILE, Fields, Source, Weights, n_numbers},
};

pub(crate) struct Head {
    pooling: Pooling,
    steps: Vec<Action>,
    pub dim: usize,
    pub parameters: u64,
}

/// How states become one row; several ways stand side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pooling(Vec<Mode>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The first token.
    Cls,
    Mean,
    /// The largest number of each column.
    Max,
}

enum Action {
    Project(Dense, Squash),
    Normalize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Squash {
    Identity,
    Tanh,
    Relu,
    Gelu,
}

impl Squash {
    fn apply(self, numbers: &mut [f32]) {
        match self {
            Squash::Identity => {}
            Squash::Tanh => numbers.iter_mut().for_each(|x| *x = x.tanh()),
            Squash::Relu => numbers.iter_mut().for_each(|x| *x = x.max(0.0)),
            Squash::Gelu => activate(numbers, Activation::Gelu),
        }
    }
}

impl Head {
    pub(crate) fn load(layout: &Layout, reading: &Reading, hidden_size: usize) -> Result<Head> {
        let pooling = Pooling::read(&layout.pooling_config(), reading, hidden_size)?;
        let (mut dim, mut parameters) = (pooling.n_ways() * hidden_size, 0);
        let mut steps = Vec::with_capacity(layout.steps.len());
        for step in &layout.steps {
            steps.push(match step {
                Step::Normalize => Action::Normalize,
                Step::Dense(within) => {
                    let folder = layout.dense(within);
                    let config = DenseConfig::read(&folder.join(CONFIG_FILE), dim)?;
                    dim = config.n_out;
                    parameters += config.n_parameters();
                    config.load(&folder)?
                }
            });
        }
        Ok(Head { pooling, steps, dim, parameters })
    }

    /// Only the first state of a text is looked at.
    pub(super) fn needs_first_only(&self) -> bool {
        self.pooling.0 == [Mode::Cls]
    }

    /// The states of each text, (tokens, dim), to (texts, dim), not yet of unit length.
    pub(super) fn forward(&self, texts: &[Vec<f32>], hidden_size: usize, n_threads: usize) -> Vec<f32> {
        let mut rows: Vec<f32> = texts.iter().flat_map(|states| self.pooling.pool(states, hidden_size)).collect();
        for step in &self.steps {
            match step {
                Action::Normalize => normalise(&mut rows, texts.len()),
                Action::Project(dense, squash) => {
                    let mut projected = Vec::new();
                    dense.forward(&rows, &mut projected, n_threads);
                    squash.apply(&mut projected);
                    rows = projected;
                }
            }
        }
        rows
    }
}

impl Pooling {
    pub(crate) fn read(path: &Path, reading: &Reading, hidden_size: usize) -> Result<Pooling> {
        let json = folder::read_json(path)?;
        let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
        let pooling = Pooling::of_json(&json, hidden_size).map_err(bad)?;
        if json["include_prompt"] == Value::Bool(false) && !reading.prompt.is_empty() {
            return Err(bad("include_prompt: expected true, since a prompt is set; received false".to_owned()));
        }
        Ok(pooling)
    }

    fn of_json(json: &Value, hidden_size: usize) -> Result<Pooling, String> {
        for name in ["embedding_dimension", "word_embedding_dimension"] {
            if !json[name].is_null() && json[name] != hidden_size {
                return Err(format!("{name}: expected {hidden_size}, as the transformer has; received {}", json[name]));
            }
        }
        let names = mode_names(json)?;
        let modes: Vec<Mode> = names.iter().map(|name| Mode::of_name(name)).collect::<Result<_, _>>()?;
        if modes.is_empty() || modes.len() > Mode::ALL.len() {
            return Err(format!("pooling_mode: expected 1 to {} ways, received {}", Mode::ALL.len(), modes.len()));
        }
        Ok(Pooling(modes))
    }

    pub(crate) fn n_ways(&self) -> usize {
        self.0.len()
    }

    /// (tokens, dim) to (ways * dim)
    fn pool(&self, states: &[f32], dim: usize) -> Vec<f32> {
        self.0.iter().flat_map(|mode| mode.pool(states, dim)).collect()
    }
}

/// A name or a list of them; or a flag for each, as it was before sentence-transformers 5, of which mean stood for none.
fn mode_names(json: &Value) -> Result<Vec<String>, String> {
    match &json["pooling_mode"] {
        Value::Null => {}
        Value::String(name) => return Ok(vec![name.clone()]),
        Value::Array(names) => return Ok(names.iter().map(|name| name.as_str().unwrap_or("?").to_owned()).collect()),
        other => return Err(format!("pooling_mode: expected a name, received {other}")),
    }
    const FLAGS: [(&str, &str); 6] = [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("pooling_mode_weightedmean_tokens", "weightedmean"),
        ("pooling_mode_lasttoken", "lasttoken"),
    ];
    let set = FLAGS.into_iter().filter(|(flag, _)| json[*flag] == Value::Bool(true));
    let names: Vec<String> = set.map(|(_, name)| name.to_owned()).collect();
    Ok(if names.is_empty() { vec!["mean".to_owned()] } else { names })
}

impl Mode {
    const ALL: [(&'static str, Mode); 3] = [("cls", Mode::Cls), ("mean", Mode::Mean), ("max", Mode::Max)];

    fn of_name(name: &str) -> Result<Mode, String> {
        let known = Mode::ALL.into_iter().find(|(known, _)| *known == name);
        known.map(|(_, mode)| mode).ok_or_else(|| format!("pooling_mode: expected cls, mean or max, received {name:?}"))
    }

    fn pool(self, states: &[f32], dim: usize) -> Vec<f32> {
        let mut rows = states.chunks_exact(dim);
        let mut pooled = rows.next().expect("a text has a token").to_vec();
        let n_tokens = states.len() / dim;
        match self {
            Mode::Cls => {}
            Mode::Mean => {
                rows.for_each(|row| pooled.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
                pooled.iter_mut().for_each(|sum| *sum /= n_tokens as f32);
            }
            // A NaN stays, so that damaged weights are seen.
            Mode::Max => rows.for_each(|row| {
                pooled.iter_mut().zip(row).for_each(|(largest, &x)| {
                    if x > *largest || x.is_nan() {
                        *largest = x;
                    }
                });
            }),
        }
        pooled
    }
}

/// Each of `n` rows to unit length.
fn normalise(rows: &mut [f32], n: usize) {
    let dim = rows.len() / n.max(1);
    for row in rows.chunks_exact_mut(dim.max(1)) {
        // As PyTorch, which divides by no less.
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        row.iter_mut().for_each(|x| *x /= norm);
    }
}

/// A projection as its config says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DenseConfig {
    pub n_in: usize,
    pub n_out: usize,
    has_bias: bool,
    squash: Squash,
}

impl DenseConfig {
    pub(crate) fn read(path: &Path, n_in: usize) -> Result<DenseConfig> {
        let json = folder::read_json(path)?;
        DenseConfig::of_json(&json, n_in).map_err(|detail| Error::BadFile { file: path.to_owned(), detail })
    }

    fn of_json(json: &Value, n_in: usize) -> Result<DenseConfig, String> {
        let fields = Fields { json, at: "" };
        if json["in_features"] != n_in {
            return Err(format!("in_features: expected {n_in}, received {}", json["in_features"]));
        }
        if json["out_features"].is_null() {
            return Err("out_features: expected a whole number, received nothing".to_owned());
        }
        if json["use_residual"] == Value::Bool(true) {
            return Err("use_residual: expected false, received true".to_owned());
        }
        for name in ["module_input_name", "module_output_name"] {
            let of = json[name].as_str().unwrap_or("sentence_embedding");
            if of != "sentence_embedding" {
                return Err(format!("{name}: expected sentence_embedding, received {of:?}"));
            }
        }
        let squash =
            json["activation_function"].as_str().map_or("Tanh", |name| name.rsplit('.').next().unwrap_or(name));
        Ok(DenseConfig {
            n_in,
            n_out: fields.count("out_features", n_in, 1 << 16)?,
            has_bias: json["bias"].as_bool().unwrap_or(true),
            squash: match squash {
                "Identity" => Squash::Identity,
                "Tanh" => Squash::Tanh,
                "ReLU" => Squash::Relu,
                "GELU" => Squash::Gelu,
                other => {
                    return Err(format!(
                        "activation_function: expected Identity, Tanh, ReLU or GELU, received {other:?}"
                    ));
                }
            },
        })
    }

    /// Name and shape of every tensor that is read.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let weight = ("linear.weight".to_owned(), vec![self.n_out, self.n_in]);
        let bias = self.has_bias.then(|| ("linear.bias".to_owned(), vec![self.n_out]));
        [weight].into_iter().chain(bias).collect()
    }

    pub(crate) fn n_parameters(&self) -> u64 {
        self.tensors().iter().map(n_numbers).sum()
    }

    fn load(&self, folder: &Path) -> Result<Action> {
        let weights = Weights::open(folder)?;
        let from = Source::new(&weights, &Device::Cpu);
        let linear = match self.has_bias {
            true => from.linear("linear", self.n_out, self.n_in)?,
            false => from.linear_no_bias("linear", self.n_out, self.n_in)?,
        };
        Ok(Action::Project(Dense::new(&linear)?, self.squash))
    }
}
