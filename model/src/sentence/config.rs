//! `config.json` of a transformer that was made for sentences, with the defaults that transformers fills in, and what its
//! tensors are called.

use std::path::Path;

use serde_json::Value;

use crate::{
    Error, Result, folder,
    pair::{Activation, Fields, TowerConfig, n_numbers, with_bias},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    XlmRoberta,
    Roberta,
    Bert,
    DistilBert,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub family: Family,
    pub tower: TowerConfig,
    pub vocab_size: usize,
    /// Rows of the table of places.
    pub n_places: usize,
    /// Rows of the table that tells the first of two texts from the second; 0: there is no such table.
    pub n_types: usize,
    /// The padding token of a RoBERTa, whose first place is the one after this number.
    pub pad: Option<u32>,
}

/// What the parts of a layer are called.
pub(super) struct Names {
    pub layers: &'static str,
    pub qkv: [&'static str; 3],
    pub out: &'static str,
    pub attention_norm: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub norm: &'static str,
}

const BERT: Names = Names {
    layers: "encoder.layer",
    qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
    out: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
};

const DISTILBERT: Names = Names {
    layers: "transformer.layer",
    qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    out: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm: "output_layer_norm",
};

pub(super) const WORDS: &str = "embeddings.word_embeddings.weight";
pub(super) const PLACES: &str = "embeddings.position_embeddings.weight";
pub(super) const TYPES: &str = "embeddings.token_type_embeddings.weight";
pub(super) const NORM: &str = "embeddings.LayerNorm";

impl Family {
    pub(crate) const ALL: [Family; 4] = [Family::XlmRoberta, Family::Roberta, Family::Bert, Family::DistilBert];

    /// Of a `model_type`.
    fn of_name(name: &str) -> Result<Family> {
        let unknown = || Error::UnknownFamily {
            file: None,
            expected: Family::ALL.map(Family::name).join(", "),
            received: name.to_owned(),
        };
        Family::ALL.into_iter().find(|family| family.name() == name).ok_or_else(unknown)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::XlmRoberta => "xlm-roberta",
            Family::Roberta => "roberta",
            Family::Bert => "bert",
            Family::DistilBert => "distilbert",
        }
    }

    /// What stands before each name in files that were saved with a head.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Family::XlmRoberta | Family::Roberta => "roberta",
            Family::Bert => "bert",
            Family::DistilBert => "distilbert",
        }
    }

    pub(super) fn names(self) -> &'static Names {
        if self == Family::DistilBert { &DISTILBERT } else { &BERT }
    }
}

impl Config {
    pub(crate) fn read(path: &Path) -> Result<Config> {
        Config::read_as(path, None)
    }

    /// As a family that the file may not name.
    pub(crate) fn read_as(path: &Path, family: Option<Family>) -> Result<Config> {
        let json = folder::read_json(path)?;
        let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
        let said = || json["model_type"].as_str().ok_or_else(|| bad("model_type: expected a name".to_owned()));
        let named = || Family::of_name(said()?).map_err(|error| error.said_by(path));
        let family = family.map_or_else(named, Ok)?;
        Config::of_json(&json, family).map_err(bad)
    }

    pub(super) fn of_json(json: &Value, family: Family) -> Result<Config, String> {
        let fields = Fields { json, at: "" };
        let places = json["position_embedding_type"].as_str().unwrap_or("absolute");
        if places != "absolute" {
            return Err(format!("position_embedding_type: expected absolute, received {places:?}"));
        }
        if json["is_decoder"].as_bool() == Some(true) {
            return Err("is_decoder: expected false, received true".to_owned());
        }
        let vocab_size = if family == Family::Roberta { 50_265 } else { 30_522 };
        let config = Config {
            family,
            tower: if family == Family::DistilBert { distilbert_tower(&fields)? } else { bert_tower(&fields)? },
            vocab_size: fields.count("vocab_size", vocab_size, 1 << 22)?,
            n_places: fields.count("max_position_embeddings", 512, 1 << 16)?,
            n_types: if family == Family::DistilBert { 0 } else { fields.count("type_vocab_size", 2, 1 << 10)? },
            pad: match family {
                Family::XlmRoberta | Family::Roberta => Some(pad(json)?),
                Family::Bert | Family::DistilBert => None,
            },
        };
        if config.first_place() >= config.n_places {
            let Config { n_places, .. } = config;
            return Err(format!("max_position_embeddings: {n_places} places leave none after pad_token_id"));
        }
        Ok(config)
    }

    fn first_place(&self) -> usize {
        self.pad.map_or(0, |pad| pad as usize + 1)
    }

    /// Longest text that has places.
    pub(crate) fn max_tokens(&self) -> usize {
        self.n_places - self.first_place()
    }

    /// The place of each token of a text. In a RoBERTa, a padding token that somebody wrote into a text has none of its own.
    pub(super) fn places(&self, ids: &[u32]) -> Vec<u32> {
        let mut next = self.first_place() as u32;
        let mut place = |id: &u32| match self.pad {
            Some(pad) if *id == pad => pad,
            _ => {
                next += 1;
                next - 1
            }
        };
        ids.iter().map(&mut place).collect()
    }

    /// Name and shape of every tensor that is read.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (dim, wide, names) = (self.tower.hidden_size, self.tower.intermediate_size, self.family.names());
        let mut tensors =
            vec![(WORDS.to_owned(), vec![self.vocab_size, dim]), (PLACES.to_owned(), vec![self.n_places, dim])];
        if self.n_types > 0 {
            tensors.push((TYPES.to_owned(), vec![self.n_types, dim]));
        }
        tensors.extend(with_bias(NORM, vec![dim]));
        let square = names.qkv.into_iter().chain([names.out]).map(|name| (name, vec![dim, dim]));
        let others = [
            (names.attention_norm, vec![dim]),
            (names.up, vec![wide, dim]),
            (names.down, vec![dim, wide]),
            (names.norm, vec![dim]),
        ];
        let parts: Vec<_> = square.chain(others).collect();
        for layer in 0..self.tower.n_layers {
            let name = |part: &str| format!("{}.{layer}.{part}", names.layers);
            tensors.extend(parts.iter().flat_map(|(part, shape)| with_bias(&name(part), shape.clone())));
        }
        tensors
    }

    pub(crate) fn n_parameters(&self) -> u64 {
        self.tensors().iter().map(n_numbers).sum()
    }
}

fn bert_tower(fields: &Fields) -> Result<TowerConfig, String> {
    TowerConfig {
        hidden_size: fields.count("hidden_size", 768, 1 << 15)?,
        intermediate_size: fields.count("intermediate_size", 3072, 1 << 17)?,
        n_layers: fields.count("num_hidden_layers", 12, 512)?,
        n_heads: fields.count("num_attention_heads", 12, 1 << 10)?,
        activation: fields.activation("hidden_act", Activation::Gelu)?,
        layer_norm_eps: fields.number("layer_norm_eps", 1e-12)?,
    }
    .validated("config.json")
}

fn distilbert_tower(fields: &Fields) -> Result<TowerConfig, String> {
    TowerConfig {
        hidden_size: fields.count("dim", 768, 1 << 15)?,
        intermediate_size: fields.count("hidden_dim", 3072, 1 << 17)?,
        n_layers: fields.count("n_layers", 6, 512)?,
        n_heads: fields.count("n_heads", 12, 1 << 10)?,
        activation: fields.activation("activation", Activation::Gelu)?,
        layer_norm_eps: 1e-12,
    }
    .validated("config.json")
}

/// 1 if the file is silent, as in transformers.
fn pad(json: &Value) -> Result<u32, String> {
    match &json["pad_token_id"] {
        Value::Null => Ok(1),
        value => value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .filter(|&id| id < 1 << 16)
            .ok_or_else(|| format!("pad_token_id: expected a small whole number, received {value}")),
    }
}
