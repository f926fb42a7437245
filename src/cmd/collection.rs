//! `firn collection`: make, list, describe and delete collections.

use std::{collections::BTreeMap, io::IsTerminal as _, io::Write as _};

use anyhow::{Context as _, bail};
use firn_index::{
    CollectionConfig, CollectionInfo, Database, Embeds, HnswConfig, Side, Status, TokenConfig, VectorConfig,
};
use firn_model::Grid;

use super::{
    blend::{self, BlendArgs},
    local, remote, table,
};
use crate::{
    engine,
    exit::{Exit, Usage},
    query::Blend,
    settings::{self, Settings},
};

/// Make, list, describe and delete collections
#[derive(Debug, clap::Subcommand)]
pub enum CollectionCommand {
    /// Make an empty collection
    ///
    /// Example: firn collection create photos --model builtin
    Create(CreateArgs),
    /// List collections
    ///
    /// Example: firn collection list
    List(TargetArgs),
    /// Describe one collection
    ///
    /// Example: firn collection get photos --json
    Get {
        name: String,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Delete a collection with all its points
    ///
    /// Example: firn collection delete photos --yes
    Delete {
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        target: TargetArgs,
    },
    Blend(BlendArgs),
}

#[derive(Debug, clap::Args)]
pub struct TargetArgs {
    /// Ask this server instead of the local data directory
    #[arg(long, env = "FIRN_SERVER", value_name = "URL")]
    pub server: Option<String>,
}

/// A collection, and the blend that it keeps.
#[derive(serde::Serialize)]
pub struct Described {
    #[serde(flatten)]
    pub info: CollectionInfo,
    pub blend: Option<Blend>,
}

impl Described {
    /// One that is quarantined has no blend to be read.
    fn read(db: &Database, info: CollectionInfo) -> anyhow::Result<Described> {
        let blend = match &info.status {
            Status::Quarantined(_) => None,
            _ => Blend::read(&db.collection(&info.name)?)?,
        };
        Ok(Described { info, blend })
    }
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    pub name: String,
    /// A named vector and its dimension, such as image=768, or the side of a point and the model that embeds it, such as
    /// mirror=image:MODEL or words=text:MODEL; may be repeated. Without it: image and text, as the model says
    #[arg(long = "vector", value_name = "NAME=DIM|SIDE:MODEL", value_parser = named_vector)]
    pub vectors: Vec<(String, VectorArg)>,
    /// Keep the tokens that the model makes for fusion, those of images in this grid [default: none]
    #[arg(long, value_name = "4x4|7x7")]
    pub tokens: Option<Grid>,
    /// Keep tokens that points bring beside the vector of that name, such as image=16x320; may be repeated
    #[arg(long = "token-shape", value_name = "NAME=NxDIM", value_parser = token_shape, conflicts_with = "tokens")]
    pub token_shapes: Vec<(String, TokenConfig)>,
    /// Links per point of the HNSW graph [default: 16]
    #[arg(long)]
    pub m: Option<usize>,
    /// Candidates looked at when a point is linked [default: 200]
    #[arg(long)]
    pub ef_construction: Option<usize>,
    /// Candidates looked at when searching [default: 64]
    #[arg(long)]
    pub ef_search: Option<usize>,
    #[command(flatten)]
    target: TargetArgs,
}

/// A named vector as it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum VectorArg {
    Dim(usize),
    /// Embedded by a model of its own.
    Made(Side, String),
}

fn named_vector(text: &str) -> Result<(String, VectorArg), String> {
    let vector = |(name, of): (&str, &str)| {
        let of = match of.split_once(':') {
            Some(("image", model)) if !model.is_empty() => VectorArg::Made(Side::Image, model.to_owned()),
            Some(("text", model)) if !model.is_empty() => VectorArg::Made(Side::Text, model.to_owned()),
            _ => VectorArg::Dim(of.parse().ok()?),
        };
        Some((name.to_owned(), of))
    };
    let parsed = text.split_once('=').and_then(vector);
    parsed.ok_or_else(|| "expected NAME=DIM, NAME=image:MODEL or NAME=text:MODEL, such as image=768".to_owned())
}

impl CreateArgs {
    pub fn named_vectors(&self) -> Result<BTreeMap<String, &VectorArg>, Usage> {
        let mut named = BTreeMap::new();
        for (name, vector) in &self.vectors {
            if named.insert(name.clone(), vector).is_some() {
                return Err(Usage(format!("--vector {name} is given twice")));
            }
        }
        Ok(named)
    }

    /// The model, unless it is said that there is none.
    pub fn model<'a>(&self, settings: &'a Settings) -> Result<Option<&'a str>, Usage> {
        let named = settings.model.as_deref();
        match named == Some(settings::NO_MODEL) {
            true if self.vectors.is_empty() => Err(Usage(
                "--model none: a collection without a model has vectors of your own; hint: name each with its dimension, \
                 such as --vector image=768"
                    .to_owned(),
            )),
            true => Ok(None),
            false => Ok(named),
        }
    }

    pub fn hnsw(&self) -> HnswConfig {
        let default = HnswConfig::default();
        HnswConfig {
            m: self.m.unwrap_or(default.m),
            ef_construction: self.ef_construction.unwrap_or(default.ef_construction),
            ef_search: self.ef_search.unwrap_or(default.ef_search),
        }
    }
}

pub fn run(command: &CollectionCommand, settings: &Settings) -> anyhow::Result<Exit> {
    match command {
        CollectionCommand::Create(args) => {
            let info = match settings.server(args.target.server.as_deref(), &settings::OF_HERE)? {
                Some(server) => remote::create(&server, args, settings)?,
                None => Described { info: create(args, settings)?, blend: None },
            };
            print_one(&info, settings)?;
        }
        CollectionCommand::List(target) => {
            let all = match settings.server(target.server.as_deref(), &settings::OF_HERE_AND_MODEL)? {
                Some(server) => remote::collections(&server)?,
                None => {
                    let db = local::database(settings)?;
                    db.collections()
                        .into_iter()
                        .map(|info| Described::read(&db, info))
                        .collect::<anyhow::Result<_>>()?
                }
            };
            print_list(&all, settings)?;
        }
        CollectionCommand::Get { name, target } => {
            let info = match settings.server(target.server.as_deref(), &settings::OF_HERE_AND_MODEL)? {
                Some(server) => remote::collection(&server, name)?,
                None => {
                    let db = local::database(settings)?;
                    let info = db.collection_info(name)?;
                    Described::read(&db, info)?
                }
            };
            print_one(&info, settings)?;
        }
        CollectionCommand::Blend(args) => print_one(&blend::run(args, settings)?, settings)?,
        CollectionCommand::Delete { name, yes, target } => {
            confirm(name, *yes)?;
            match settings.server(target.server.as_deref(), &settings::OF_HERE_AND_MODEL)? {
                Some(server) => remote::delete(&server, name)?,
                None => local::database(settings)?.delete_collection(name)?,
            }
            match settings.json {
                true => println!("{}", serde_json::json!({ "deleted": name })),
                false => eprintln!("deleted {name}"),
            }
        }
    }
    Ok(Exit::Ok)
}

fn create(args: &CreateArgs, settings: &Settings) -> anyhow::Result<CollectionInfo> {
    let settings = Settings { model: args.model(settings)?.map(str::to_owned), ..settings.clone() };
    let engine = local::engine(&settings)?;
    let config = config(&engine, args, &settings)?;
    Ok(engine.db().create_collection(&args.name, config)?.info())
}

/// Named vectors as given; without any, or with a model named, the model's space.
fn config(engine: &engine::Engine, args: &CreateArgs, settings: &Settings) -> anyhow::Result<CollectionConfig> {
    let vector = |(name, vector): (String, &VectorArg)| Ok((name, vector_config(engine, vector)?));
    let vectors: BTreeMap<_, _> =
        args.named_vectors()?.into_iter().map(vector).collect::<Result<_, engine::Error>>()?;
    if !vectors.is_empty() && settings.model.is_none() {
        if args.tokens.is_some() {
            return Err(Usage("--tokens are made by a model: name one with --model".to_owned()).into());
        }
        let tokens = args.token_shapes.iter().cloned().collect();
        return Ok(CollectionConfig { vectors, hnsw: args.hnsw(), tokens, ..CollectionConfig::default() });
    }
    let encoder = engine.encoder(settings.model.as_deref())?;
    let mut config = engine::collection_config(encoder.info(), vectors, args.hnsw(), args.tokens)?;
    config.tokens.extend(args.token_shapes.iter().cloned());
    Ok(config)
}

fn token_shape(text: &str) -> Result<(String, TokenConfig), String> {
    let parsed = text.split_once('=').and_then(|(name, shape)| {
        let (n, dim) = shape.split_once('x')?;
        Some((name.to_owned(), TokenConfig { n: n.parse().ok()?, dim: dim.parse().ok()? }))
    });
    parsed.ok_or_else(|| "expected NAME=NxDIM, such as image=16x320".to_owned())
}

fn vector_config(engine: &engine::Engine, vector: &VectorArg) -> Result<VectorConfig, engine::Error> {
    match vector {
        VectorArg::Dim(dim) => Ok(VectorConfig::new(*dim)),
        VectorArg::Made(side, model) => engine::made_vector(engine.encoder(Some(model))?.info(), *side),
    }
}

fn confirm(name: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Usage(format!("deleting {name:?} cannot be undone: say --yes")).into());
    }
    eprint!("Delete {name:?} with all its points? It cannot be undone. [y/N] ");
    std::io::stderr().flush().context("standard error")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("standard input")?;
    if answer.trim().eq_ignore_ascii_case("y") { Ok(()) } else { bail!("nothing was deleted") }
}

fn print_list(all: &[Described], settings: &Settings) -> anyhow::Result<()> {
    if settings.json {
        println!("{}", serde_json::json!({ "collections": all }));
        return Ok(());
    }
    let row = |Described { info: c, .. }: &Described| {
        let vectors: Vec<_> = c.config.vectors.iter().map(|(name, v)| format!("{name}:{}", v.dim)).collect();
        let model = c.config.model.as_ref().map_or("-", |m| &m.name);
        vec![c.name.clone(), c.points_count.to_string(), status(c), model.to_owned(), vectors.join(" ")]
    };
    table::print(&["collection", "points", "status", "model", "vectors"], &all.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

fn print_one(described: &Described, settings: &Settings) -> anyhow::Result<()> {
    if settings.json {
        println!("{}", serde_json::to_string(described)?);
        return Ok(());
    }
    let Described { info, blend } = described;
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("uuid", info.uuid.clone()),
        row("status", status(info)),
        row("points", info.points_count.to_string()),
        row("model", info.config.model.as_ref().map_or("-".into(), |m| format!("{} ({})", m.name, m.hash))),
    ];
    for (name, vector) in &info.config.vectors {
        rows.push(row("vector", format!("{name}, {} dimensions{}", vector.dim, made_of(vector))));
    }
    for (name, weight) in blend.iter().flat_map(|blend| &blend.weights) {
        rows.push(row("blend", format!("{name} {weight}")));
    }
    for (of, shape) in &info.config.tokens {
        rows.push(row("tokens", format!("{of}, {shape}, {} bytes a point", shape.bytes())));
    }
    let hnsw = &info.config.hnsw;
    rows.push(row(
        "hnsw",
        format!("m {}, ef_construction {}, ef_search {}", hnsw.m, hnsw.ef_construction, hnsw.ef_search),
    ));
    rows.push(row("segments", info.segments_count.to_string()));
    rows.push(row("buffered", format!("{} vectors", info.buffered_vectors_count)));
    rows.push(row("tombstones", format!("{} vectors", info.tombstones_count)));
    rows.push(row("aliases", if info.aliases.is_empty() { "-".into() } else { info.aliases.join(" ") }));
    table::print(&["collection", &info.name], &rows);
    Ok(())
}

/// What a vector's own model embeds.
fn made_of(vector: &VectorConfig) -> String {
    let Some(Embeds { side, model }) = &vector.embeds else { return String::new() };
    let what = match side {
        Side::Image => "images",
        Side::Text => "texts",
    };
    format!(", {what} by {} ({})", model.name, model.hash)
}

fn status(info: &CollectionInfo) -> String {
    match &info.status {
        Status::Ready => "ready".into(),
        Status::Indexing => "indexing".into(),
        Status::Quarantined(reason) => format!("quarantined: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_at_the_terminal() {
        let made = |side, model: &str| VectorArg::Made(side, model.to_owned());
        let check = |text, name: &str, vector| assert_eq!(named_vector(text), Ok((name.to_owned(), vector)));
        check("image=768", "image", VectorArg::Dim(768));
        check("mirror=image:hf:org/name@rev", "mirror", made(Side::Image, "hf:org/name@rev"));
        check("words=text:./a=b", "words", made(Side::Text, "./a=b"));
        for wrong in ["image", "image=", "image=x", "image=image:", "image=sound:m"] {
            assert!(named_vector(wrong).is_err(), "{wrong}");
        }
    }
}
