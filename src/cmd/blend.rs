//! Weights at the terminal, and `firn collection blend`.

use std::collections::BTreeMap;

use super::{
    collection::{Described, TargetArgs},
    local, remote,
};
use crate::{
    exit::Usage,
    query::Blend,
    settings::{self, Settings},
};

/// Say how much each named vector counts in queries that name none
///
/// Example: firn collection blend photos image=1,mirror=0.7
#[derive(Debug, clap::Args)]
pub struct BlendArgs {
    /// The collection, or an alias
    name: String,
    /// Weights of named vectors; a score is the weighted mean of their cosines
    #[arg(value_name = "NAME=WEIGHT,...", value_delimiter = ',', value_parser = weight, required_unless_present = "clear")]
    weights: Vec<(String, f32)>,
    /// Keep none any more
    #[arg(long, conflicts_with = "weights")]
    clear: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// A name and its weight, such as image=0.7.
pub fn weight(text: &str) -> Result<(String, f32), String> {
    let parsed = text.split_once('=').and_then(|(name, weight)| Some((name.to_owned(), weight.parse().ok()?)));
    parsed.ok_or_else(|| "expected NAME=WEIGHT, such as image=0.7".to_owned())
}

pub fn weights(given: &[(String, f32)]) -> Result<BTreeMap<String, f32>, Usage> {
    let mut weights = BTreeMap::new();
    for (name, weight) in given {
        if weights.insert(name.clone(), *weight).is_some() {
            return Err(Usage(format!("{name} is weighed twice")));
        }
    }
    Ok(weights)
}

pub fn run(args: &BlendArgs, settings: &Settings) -> anyhow::Result<Described> {
    let weights = weights(&args.weights)?;
    if let Some(server) = settings.server(args.target.server.as_deref(), &settings::OF_HERE_AND_MODEL)? {
        return remote::set_blend(&server, &args.name, weights);
    }
    let db = local::database(settings)?;
    let collection = db.collection(&args.name)?;
    match args.clear {
        true => Blend::clear(&collection)?,
        false => Blend::new(weights).write(&collection)?,
    }
    Ok(Described { blend: Blend::read(&collection)?, info: collection.info() })
}
