//! `firn model`: what a model is, and whether a folder is whole.

use std::{collections::BTreeMap, path::PathBuf};

use firn_model::{CheckReport, Grid, ModelInfo, Sigmoid, TokenShape};

use super::{remote, table};
use crate::{
    exit::{Exit, Usage},
    settings::{DEFAULT_MODEL, Settings},
};

/// Describe a model, or check a model folder
#[derive(Debug, clap::Subcommand)]
pub enum ModelCommand {
    /// Say what a model is: its dimension, limits and content hash
    ///
    /// Example: firn model info builtin
    Info {
        /// `builtin`, a model folder, or hf:org/name@revision [default: the --model setting]
        name: Option<String>,
        /// Describe the model of this server, the first one if none is named
        #[arg(long, value_name = "URL")]
        server: Option<String>,
    },
    /// Give a CLIP room for longer texts, as Long-CLIP does before it is trained on them: 77 tokens become 248
    ///
    /// Example: firn model stretch ./clip-vit-base-patch32 --out ./clip-248
    Stretch {
        /// A CLIP in the Hugging Face layout
        folder: PathBuf,
        /// The folder to write; it must not be there yet
        #[arg(long)]
        out: PathBuf,
    },
    /// Check a model: name what is missing or of the wrong shape, and try it once
    ///
    /// Example: firn model check ./clip-vit-base-patch32
    Check {
        /// `builtin`, a model folder, a decoder's .gguf file, or hf:org/name@revision [default: the --model setting]
        name: Option<String>,
        /// What the folder should be, such as clip, siglip, xlm-roberta or mistral [default: what its files say]
        #[arg(long)]
        family: Option<String>,
    },
}

pub fn run(command: &ModelCommand, settings: &Settings) -> anyhow::Result<Exit> {
    match command {
        ModelCommand::Info { name, server } => {
            let name = name.as_deref().or(settings.model.as_deref());
            match server {
                Some(server) => info(&remote::model(server, name)?, settings),
                None => info(firn_model::load(name.unwrap_or(DEFAULT_MODEL), settings.device)?.info(), settings),
            }
        }
        ModelCommand::Stretch { folder, out } => {
            Usage::unless(!out.exists(), || {
                format!("--out {}: expected a folder that is not there yet", out.display())
            })?;
            let n_tokens = firn_model::long_clip::stretch(folder, out)?;
            match settings.json {
                true => println!("{}", serde_json::json!({ "folder": out, "max_text_tokens": n_tokens })),
                false => println!("{}: texts of {n_tokens} tokens", out.display()),
            }
            Ok(Exit::Ok)
        }
        ModelCommand::Check { name, family } => {
            check(name.as_deref().unwrap_or(settings.model_or_default()), family.as_deref(), settings)
        }
    }
}

fn info(info: &ModelInfo, settings: &Settings) -> anyhow::Result<Exit> {
    if settings.json {
        println!("{}", serde_json::to_string(&Described::of(info))?);
    } else {
        print_info(info);
    }
    Ok(Exit::Ok)
}

/// The model, and what a point with an image and a text takes in a collection of it.
#[derive(serde::Serialize)]
struct Described<'a> {
    #[serde(flatten)]
    info: &'a ModelInfo,
    /// By grid; `none`: without tokens.
    bytes_per_point: BTreeMap<String, usize>,
}

impl Described<'_> {
    fn of(info: &ModelInfo) -> Described<'_> {
        let grids = Grid::ALL.into_iter().map(Some).chain([None]);
        let name = |grid: Option<Grid>| grid.map_or_else(|| "none".to_owned(), |grid| grid.to_string());
        Described { info, bytes_per_point: grids.map(|grid| (name(grid), point_bytes(info, grid))).collect() }
    }
}

/// Embeddings in single precision, tokens in half.
fn point_bytes(info: &ModelInfo, grid: Option<Grid>) -> usize {
    let sides = usize::from(info.image_side_px > 0) + usize::from(info.max_text_tokens > 0);
    let shapes = grid.map(|grid| info.token_shapes(grid)).unwrap_or_default();
    let tokens = [shapes.image, shapes.text].into_iter().flatten().map(|shape| shape.bytes());
    sides * info.dim * 4 + tokens.sum::<usize>()
}

fn print_info(info: &ModelInfo) {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("family", info.family.clone()),
        row("hash", info.hash.clone()),
        row("embedding", format!("{} dimensions, {} bytes a vector", info.dim, info.dim * 4)),
        row("image side", counted(info.image_side_px, "px")),
        row("text limit", counted(info.max_text_tokens, "tokens")),
        row("parameters", info.parameters.to_string()),
        row("device", info.device.clone()),
        row("memory", format!("{} MiB of weights, {} MiB for a batch", mib(info.weights_bytes), mib(info.batch_bytes))),
    ];
    rows.push(row("no tokens", format!("{} bytes a point of {}", point_bytes(info, None), content_of_point(info))));
    for grid in Grid::ALL {
        let shapes = info.token_shapes(grid);
        let shape = |shape: Option<TokenShape>| shape.map_or("none".to_owned(), |s| format!("{} x {}", s.n, s.dim));
        let (image, text) = (shape(shapes.image), shape(shapes.text));
        let bytes = point_bytes(info, Some(grid));
        rows.push(row(&format!("tokens {grid}"), format!("image {image}, text {text}: {bytes} bytes a point")));
    }
    if let Some(Sigmoid { logit_scale, logit_bias }) = info.sigmoid {
        rows.push(row("sigmoid", format!("logit scale {logit_scale}, bias {logit_bias}")));
    }
    table::print(&["model", &info.name], &rows);
}

/// What a point of such a model is made of.
fn content_of_point(info: &ModelInfo) -> &'static str {
    match (info.image_side_px > 0, info.max_text_tokens > 0) {
        (true, false) => "an image",
        (false, true) => "a text",
        _ => "an image and a text",
    }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// 0: the model takes none.
fn counted(n: usize, unit: &str) -> String {
    if n == 0 { "none".to_owned() } else { format!("{n} {unit}") }
}

fn check(name: &str, family: Option<&str>, settings: &Settings) -> anyhow::Result<Exit> {
    let report = match family {
        Some(family) => firn_model::check_against(name, family)?,
        None => firn_model::check(name)?,
    };
    if settings.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print_report(&report);
    }
    Ok(match report.ok {
        true => Exit::Ok,
        false if report.has_no_fault() => Exit::Failure,
        false => Exit::Damaged,
    })
}

fn print_report(report: &CheckReport) {
    let found = match report.ok {
        true => "whole",
        false if report.has_no_fault() => "not all of it can be looked at",
        false => "not usable",
    };
    println!("{}: {found}", report.name);
    report.missing_files.iter().for_each(|file| println!("  missing: {file}"));
    for fault in &report.tensor_faults {
        let file = fault.file.display();
        println!("  {file}: tensor {}: expected {}, received {}", fault.tensor, fault.expected, fault.received);
    }
    report.faults.iter().for_each(|fault| println!("  fault: {fault}"));
    report.in_the_way.iter().for_each(|what| println!("  in the way: {what}"));
    report.unread_tensors.iter().for_each(|name| println!("  not read: {name}"));
    if let (Some(family), Some(parameters)) = (&report.family, report.parameters) {
        println!("  {family}, {parameters} parameters");
    }
    for memory in &report.memory {
        let (weights, batch) = (mib(memory.weights_bytes), mib(memory.batch_bytes));
        println!("  on {} ({}): {weights} MiB of weights, {batch} MiB for a batch", memory.device, memory.dtype);
    }
    if let Some(trial) = &report.trial {
        match trial.tokens_used {
            0 => println!("  tried with a grey picture: {} dimensions", trial.dim),
            n_tokens => println!("  tried with {:?}: {n_tokens} tokens, {} dimensions", trial.text, trial.dim),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_that_there_is_not_has_no_size() {
        assert_eq!((&*counted(224, "px"), &*counted(0, "px"), &*counted(0, "tokens")), ("224 px", "none", "none"));
    }
}
