//! `config.json` of a decoder LLM, as transformers 4 and 5 write it. What decides a number and is not there is an error
//! or transformers' own default, never a guess.

use std::path::Path;

use serde_json::Value;

use crate::{Error, Result, folder};

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub family: Family,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub n_blocks: usize,
    pub n_heads: usize,
    /// Heads of keys and values, each shared by `n_heads / n_kv_heads` heads of queries.
    pub n_kv_heads: usize,
    /// Not always `hidden_size / n_heads`: Mistral-Nemo has 128 where that is 160.
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope: Rope,
    pub biases: Biases,
    /// Whether the output head is the token embedding itself.
    pub tied_head: bool,
    /// Longest text: the positions the model was made for, or its sliding window if that is shorter.
    pub max_tokens: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    /// With a norm on each head of queries and keys.
    Qwen3,
}

/// Rotary positions: pairs of one head turn by `position * theta^(-2i / head_dim)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: Option<Scaling>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    Llama3(Llama3Scaling),
    /// What each frequency is divided by: GGUF's way to say the same.
    Divisors(Vec<f32>),
}

/// How Llama 3.1 and later stretch slow rotations for long texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Llama3Scaling {
    pub factor: f64,
    pub low_freq_factor: f64,
    pub high_freq_factor: f64,
    pub original_max_positions: f64,
}

/// Which linear maps add a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    pub qkv: bool,
    pub out: bool,
    pub mlp: bool,
}

impl Family {
    const NAMES: [(&'static str, Family); 4] =
        [("llama", Family::Llama), ("mistral", Family::Mistral), ("qwen2", Family::Qwen2), ("qwen3", Family::Qwen3)];

    /// By `model_type` of config.json.
    pub fn by_name(name: &str) -> Result<Family> {
        let known = Family::NAMES.into_iter().find(|(known, _)| *known == name);
        known.map(|(_, family)| family).ok_or_else(|| Error::UnknownFamily {
            file: None,
            expected: Family::NAMES.map(|(name, _)| name).join(", "),
            received: name.to_owned(),
        })
    }

    pub(crate) fn all() -> impl Iterator<Item = Family> {
        Family::NAMES.into_iter().map(|(_, family)| family)
    }

    /// Its `model_type`.
    pub fn name(self) -> &'static str {
        let known = Family::NAMES.into_iter().find(|(_, family)| *family == self);
        known.map(|(name, _)| name).expect("every family has a name")
    }

    pub(super) fn norms_heads(self) -> bool {
        self == Family::Qwen3
    }
}

impl Config {
    pub fn read(path: &Path) -> Result<Config> {
        Config::read_as(path, None)
    }

    /// As a family that the file may not name.
    pub(crate) fn read_as(path: &Path, family: Option<Family>) -> Result<Config> {
        let json = folder::read_json(path)?;
        let bad = |detail: String| Error::BadFile { file: path.to_owned(), detail };
        let said = || json["model_type"].as_str().ok_or_else(|| bad("model_type: expected a name".to_owned()));
        let named = || Family::by_name(said()?).map_err(|error| error.said_by(path));
        let family = family.map_or_else(named, Ok)?;
        Config::of_json(&json, family).map_err(bad)
    }

    pub(super) fn of_json(json: &Value, family: Family) -> Result<Config, String> {
        let fields = Fields { json, at: "" };
        if let Some(other) = json["hidden_act"].as_str().filter(|name| *name != "silu") {
            return Err(format!("hidden_act: expected silu, received {other:?}"));
        }
        let n_heads = fields.required_count("num_attention_heads", 1 << 12)?;
        let hidden_size = fields.required_count("hidden_size", 1 << 17)?;
        let config = Config {
            family,
            vocab_size: fields.required_count("vocab_size", 1 << 22)?,
            hidden_size,
            intermediate_size: fields.required_count("intermediate_size", 1 << 19)?,
            n_blocks: fields.required_count("num_hidden_layers", 1 << 10)?,
            n_heads,
            n_kv_heads: fields.count("num_key_value_heads", 1 << 12)?.unwrap_or(n_heads),
            head_dim: head_dim(&fields, family, hidden_size, n_heads)?,
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: Rope::from_fields(&fields)?,
            biases: Biases::from_fields(&fields, family),
            tied_head: fields.flag("tie_word_embeddings"),
            max_tokens: max_tokens(&fields, family)?,
        };
        config.validated()
    }

    /// The same, if its heads can be made.
    pub(super) fn validated(self) -> Result<Config, String> {
        let Config { n_heads, n_kv_heads, head_dim, .. } = self;
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(format!("num_key_value_heads: expected a divisor of {n_heads}, received {n_kv_heads}"));
        }
        if !head_dim.is_multiple_of(2) {
            return Err(format!("head_dim: expected an even number, received {head_dim}"));
        }
        Ok(self)
    }
}

fn head_dim(fields: &Fields, family: Family, hidden_size: usize, n_heads: usize) -> Result<usize, String> {
    match fields.count("head_dim", 1 << 12)? {
        Some(dim) => Ok(dim),
        None if family == Family::Qwen3 => Ok(128),
        None if hidden_size.is_multiple_of(n_heads) => Ok(hidden_size / n_heads),
        None => {
            Err(format!("hidden_size {hidden_size} is not a multiple of {n_heads} heads, and there is no head_dim"))
        }
    }
}

/// Past a sliding window a token would no longer see the first one, which our masks do not say; so the window is a
/// limit.
fn max_tokens(fields: &Fields, family: Family) -> Result<usize, String> {
    let positions = fields.required_count("max_position_embeddings", 1 << 24)?;
    let window = match family {
        Family::Llama => None,
        Family::Mistral if fields.json.get("sliding_window").is_none() => Some(4096),
        Family::Mistral => fields.count("sliding_window", 1 << 24)?,
        Family::Qwen2 | Family::Qwen3 if fields.flag("use_sliding_window") => {
            fields.count("sliding_window", 1 << 24)?
        }
        Family::Qwen2 | Family::Qwen3 => None,
    };
    Ok(window.unwrap_or(positions).min(positions))
}

impl Rope {
    /// transformers 5 writes one `rope_parameters`; 4 wrote `rope_theta` beside `rope_scaling`. 10000 is what both fall
    /// back to, and what the files of the first Llamas mean by their silence.
    fn from_fields(fields: &Fields) -> Result<Rope, String> {
        let rope = fields.inner("rope_parameters").or_else(|| fields.inner("rope_scaling"));
        let inner_theta = rope.as_ref().map(|rope| rope.number("rope_theta")).transpose()?.flatten();
        let theta = inner_theta.map_or_else(|| fields.number("rope_theta"), |theta| Ok(Some(theta)))?;
        let scaling = rope.map(|rope| Llama3Scaling::from_fields(&rope)).transpose()?.flatten();
        Ok(Rope { theta: theta.unwrap_or(10_000.0), scaling: scaling.map(Scaling::Llama3) })
    }

    /// Turn per position of each pair of a head.
    pub(super) fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = (0..head_dim / 2).map(|i| self.theta.powf(-2.0 * i as f64 / head_dim as f64));
        let scaled = plain.enumerate().map(|(i, frequency)| match &self.scaling {
            None => frequency,
            Some(Scaling::Llama3(llama3)) => llama3.apply(frequency),
            Some(Scaling::Divisors(divisors)) => frequency / f64::from(divisors[i]),
        });
        scaled.map(|frequency| frequency as f32).collect()
    }
}

impl Llama3Scaling {
    fn from_fields(rope: &Fields) -> Result<Option<Llama3Scaling>, String> {
        let kind = [&rope.json["rope_type"], &rope.json["type"]].into_iter().find_map(Value::as_str);
        match kind.unwrap_or("default") {
            "default" => Ok(None),
            "llama3" => Ok(Some(Llama3Scaling {
                factor: rope.required_number("factor")?,
                low_freq_factor: rope.required_number("low_freq_factor")?,
                high_freq_factor: rope.required_number("high_freq_factor")?,
                original_max_positions: rope.required_number("original_max_position_embeddings")?,
            })),
            other => Err(format!("{}.rope_type: expected default or llama3, received {other:?}", rope.at)),
        }
    }

    /// The formula of `_compute_llama3_parameters` in transformers: rotations that a text of the original length
    /// turned often stay, those it hardly turned slow down, between lies a ramp.
    fn apply(&self, frequency: f64) -> f64 {
        let turns = self.original_max_positions * frequency / std::f64::consts::TAU;
        let ramp = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
        let kept = ramp.clamp(0.0, 1.0);
        frequency * (kept + (1.0 - kept) / self.factor)
    }
}

impl Biases {
    fn from_fields(fields: &Fields, family: Family) -> Biases {
        let attention = fields.flag("attention_bias");
        match family {
            Family::Llama => Biases { qkv: attention, out: attention, mlp: fields.flag("mlp_bias") },
            Family::Mistral => Biases::default(),
            Family::Qwen2 => Biases { qkv: true, out: false, mlp: false },
            Family::Qwen3 => Biases { qkv: attention, out: attention, mlp: false },
        }
    }
}

/// One object of the file, read within limits; null is absent.
struct Fields<'a> {
    json: &'a Value,
    at: &'static str,
}

impl<'a> Fields<'a> {
    fn inner(&self, name: &'static str) -> Option<Fields<'a>> {
        let json = &self.json[name];
        json.is_object().then_some(Fields { json, at: name })
    }

    fn error(&self, name: &str, expected: &str) -> String {
        let dot = if self.at.is_empty() { "" } else { "." };
        let value = &self.json[name];
        let received =
            if value.is_null() { "nothing".to_owned() } else { value.to_string().chars().take(80).collect() };
        format!("{}{dot}{name}: expected {expected}, received {received}", self.at)
    }

    fn count(&self, name: &str, max: usize) -> Result<Option<usize>, String> {
        match &self.json[name] {
            Value::Null => Ok(None),
            value => match value.as_u64() {
                Some(n) if n > 0 && n <= max as u64 => Ok(Some(n as usize)),
                _ => Err(self.error(name, &format!("a whole number from 1 to {max}"))),
            },
        }
    }

    fn required_count(&self, name: &str, max: usize) -> Result<usize, String> {
        self.count(name, max)?.ok_or_else(|| self.error(name, "a whole number"))
    }

    fn number(&self, name: &str) -> Result<Option<f64>, String> {
        match &self.json[name] {
            Value::Null => Ok(None),
            value => match value.as_f64() {
                Some(x) if x > 0.0 && x.is_finite() => Ok(Some(x)),
                _ => Err(self.error(name, "a number above 0")),
            },
        }
    }

    fn required_number(&self, name: &str) -> Result<f64, String> {
        self.number(name)?.ok_or_else(|| self.error(name, "a number above 0"))
    }

    fn flag(&self, name: &str) -> bool {
        self.json[name].as_bool().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the file of Mistral-Nemo-Instruct-2407 holds of importance, as transformers 4 wrote it.
    fn nemo() -> Value {
        json!({
            "model_type": "mistral", "hidden_act": "silu", "hidden_size": 5120, "intermediate_size": 14336,
            "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 1024000,
            "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": null, "tie_word_embeddings": false,
            "vocab_size": 131072,
        })
    }

    fn with(change: impl Fn(&mut Value)) -> Value {
        let mut json = nemo();
        change(&mut json);
        json
    }

    #[test]
    fn mistral_nemo_as_its_file_says() {
        let expected = Config {
            family: Family::Mistral,
            vocab_size: 131_072,
            hidden_size: 5120,
            intermediate_size: 14_336,
            n_blocks: 40,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 128,
            rms_norm_eps: 1e-5,
            rope: Rope { theta: 1e6, scaling: None },
            biases: Biases::default(),
            tied_head: false,
            max_tokens: 1_024_000,
        };
        assert_eq!(Config::of_json(&nemo(), Family::Mistral), Ok(expected.clone()));
        let newer = with(|json| {
            json["rope_theta"] = Value::Null;
            json["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 1e6});
        });
        assert_eq!(Config::of_json(&newer, Family::Mistral), Ok(expected));
    }

    #[test]
    fn theta_is_found_wherever_it_stands() {
        let theta = |json: Value| Config::of_json(&json, Family::Llama).unwrap().rope.theta;
        assert_eq!(theta(with(|_| ())), 1e6);
        assert_eq!(theta(with(|json| json["rope_theta"] = Value::Null)), 1e4);
        assert_eq!(theta(with(|json| json["rope_parameters"] = json!({"rope_theta": 5e5}))), 5e5);
        assert_eq!(theta(with(|json| json["rope_scaling"] = json!({"type": "default"}))), 1e6);
    }

    #[test]
    fn divisors_slow_each_rotation() {
        let rope = Rope { theta: 1e4, scaling: Some(Scaling::Divisors(vec![1.0, 4.0])) };
        assert_eq!(rope.frequencies(4), [1.0, 0.0025]);
    }

    #[test]
    fn a_window_limits_the_length_where_the_family_uses_it() {
        let limit = |family: Family, uses: bool| {
            let json = with(|json| {
                json["sliding_window"] = json!(4096);
                json["use_sliding_window"] = json!(uses);
            });
            Config::of_json(&json, family).unwrap().max_tokens
        };
        assert_eq!(limit(Family::Mistral, false), 4096);
        assert_eq!(limit(Family::Qwen2, false), 1_024_000);
        assert_eq!(limit(Family::Qwen3, true), 4096);
        assert_eq!(limit(Family::Llama, true), 1_024_000);
        let silent = with(|json| _ = json.as_object_mut().unwrap().remove("sliding_window"));
        assert_eq!(Config::of_json(&silent, Family::Mistral).unwrap().max_tokens, 4096);
    }

    #[test]
    fn what_families_add() {
        let of = |family: Family| {
            let json = with(|json| {
                json["head_dim"] = Value::Null;
                json["num_key_value_heads"] = Value::Null;
                json["attention_bias"] = json!(true);
            });
            let config = Config::of_json(&json, family).unwrap();
            (config.head_dim, config.n_kv_heads, config.biases.qkv, config.biases.out)
        };
        assert_eq!(of(Family::Llama), (160, 32, true, true));
        assert_eq!(of(Family::Mistral), (160, 32, false, false));
        assert_eq!(of(Family::Qwen2), (160, 32, true, false));
        assert_eq!(of(Family::Qwen3), (128, 32, true, true));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |change: &dyn Fn(&mut Value), expected: &str| {
            let error = Config::of_json(&with(change), Family::Llama).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(&|json| json["vocab_size"] = Value::Null, "vocab_size: expected a whole number, received nothing");
        check(
            &|json| json["num_hidden_layers"] = json!(-1),
            "num_hidden_layers: expected a whole number from 1 to 1024",
        );
        check(
            &|json| json["num_key_value_heads"] = json!(5),
            "num_key_value_heads: expected a divisor of 32, received 5",
        );
        check(&|json| json["head_dim"] = json!(7), "head_dim: expected an even number, received 7");
        check(&|json| json["rope_theta"] = json!("big"), "rope_theta: expected a number above 0, received \"big\"");
        check(&|json| json["hidden_act"] = json!("gelu"), "hidden_act: expected silu, received \"gelu\"");
        check(
            &|json| json["rope_scaling"] = json!({"type": "yarn"}),
            "rope_scaling.rope_type: expected default or llama3, received \"yarn\"",
        );
        check(
            &|json| json["rope_parameters"] = json!({"rope_type": "llama3", "factor": 8.0}),
            "rope_parameters.low_freq_factor: expected a number above 0, received nothing",
        );
        let error = Family::by_name("gpt2").unwrap_err().to_string();
        assert_eq!(error, "model family \"gpt2\" is not known: expected one of llama, mistral, qwen2, qwen3");
    }
}
