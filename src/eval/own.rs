//! A collection of firn as a data set: its points that no network learns from, and their texts.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use firn_eval::dataset::{Content, Dataset, Document, Judgement, Query};
use firn_index::{Collection, CollectionConfig, Fields, Point, PointId, Text, TokenConfig, Tokens, VectorConfig};
use firn_ingest::source::Item;
use firn_model::{Grid, Keep};

use super::{Items, Pair};
use crate::{
    engine::Engine,
    reranker::{Parting, Reads, questions},
};

const PAGE: usize = 1000;
const TEXTS_AT_ONCE: usize = 256;

/// What of a collection is asked.
pub struct Own<'a> {
    pub collection: &'a Collection,
    pub parting: &'a Parting,
    /// Weights of the cosines by named vector.
    pub blend: &'a BTreeMap<String, f32>,
    /// What a network reads, if one re-ranks.
    pub reads: Option<&'a Reads>,
    /// Ask with all texts of a point and language in one too.
    pub joined: bool,
}

/// A data set of a collection, and what is stored of it.
pub struct Asked {
    pub data: Dataset,
    pub documents: (CollectionConfig, Vec<Item>),
    /// By the place of the query.
    pub queries: (CollectionConfig, Vec<Item>),
    pub pairs: Vec<Pair>,
}

/// Reads the points, and embeds their texts for each vector that is compared. `report` is told how many texts are embedded.
pub fn of_collection(engine: &Engine, own: &Own, report: &mut dyn FnMut(usize, usize)) -> anyhow::Result<Asked> {
    let mut names: BTreeSet<String> = own.blend.keys().cloned().collect();
    let read = own.reads.iter().flat_map(|reads| std::iter::once(&reads.image).chain(&reads.extra));
    names.extend(read.cloned());
    let names: Vec<String> = names.into_iter().collect();
    let (mut data, documents) = read_points(own, &names)?;
    anyhow::ensure!(
        !data.queries.is_empty(),
        "collection {:?}: expected points with texts that no network learns from and the vectors {names:?}, received none",
        own.collection.name()
    );
    let compared: Vec<&String> = own.blend.keys().chain(own.reads.map(|reads| &reads.image)).collect();
    let compared: BTreeSet<&String> = compared.into_iter().collect();
    let queries = embed(engine, own, &data, &compared, report)?;
    let config = own.collection.config();
    let with_tokens = |name: &str| own.reads.is_some_and(|reads| reads.tokens && reads.image == name);
    let tokens = |shape: &dyn Fn(&str) -> Option<TokenConfig>| -> BTreeMap<String, TokenConfig> {
        names.iter().filter(|name| with_tokens(name)).filter_map(|name| Some((name.clone(), shape(name)?))).collect()
    };
    let vectors = |names: &mut dyn Iterator<Item = &String>| -> BTreeMap<String, VectorConfig> {
        names.map(|name| (name.clone(), VectorConfig::new(config.vectors[name].dim))).collect()
    };
    let hnsw = config.hnsw.clone();
    let of_documents = CollectionConfig {
        model: None,
        vectors: vectors(&mut names.iter()),
        hnsw: hnsw.clone(),
        tokens: tokens(&|name| config.tokens.get(name).copied()),
    };
    let first = queries.first();
    let of_queries = CollectionConfig {
        model: None,
        vectors: vectors(&mut compared.iter().copied()),
        hnsw,
        tokens: tokens(&|name| {
            first.and_then(|item| item.tokens.get(name)).map(|tokens| TokenConfig { n: tokens.n, dim: tokens.dim })
        }),
    };
    let pair = |(name, weight): (&String, &f32)| Pair { document: name.clone(), query: name.clone(), weight: *weight };
    data.judgements.sort_unstable();
    Ok(Asked {
        data,
        documents: (of_documents, documents),
        queries: (of_queries, queries),
        pairs: own.blend.iter().map(pair).collect(),
    })
}

fn read_points(own: &Own, names: &[String]) -> anyhow::Result<(Dataset, Vec<Item>)> {
    let Own { collection, parting, .. } = own;
    let mut data = Dataset {
        name: "collection".to_owned(),
        protocol: collection.name().to_owned(),
        about: format!("points of the collection {:?} that no network learns from, and their texts", collection.name()),
        ..Dataset::default()
    };
    let (mut items, mut n_left_out) = (Vec::new(), 0);
    let reader = collection.reader();
    let tokens = own.reads.is_some_and(|reads| reads.tokens);
    let fields = Fields { payload: true, texts: true, vectors: true, tokens };
    let mut next = Some(0);
    while let Some(from) = next {
        let page = reader.scroll(from, PAGE, fields)?;
        next = page.next;
        for point in page.points.into_iter().filter(|point| parting.is_judged(point)) {
            if names.iter().any(|name| !point.vectors.contains_key(name)) {
                n_left_out += 1;
                continue;
            }
            add_queries(&mut data, &point, own.joined);
            items.push(document(&mut data, point, names, own.reads));
        }
    }
    if n_left_out > 0 {
        data.notes.push(format!("points that lack a vector that is compared or read were left out: {n_left_out}"));
    }
    Ok((data, items))
}

fn document(data: &mut Dataset, mut point: Point, names: &[String], reads: Option<&Reads>) -> Item {
    let path = point.payload.get("path").and_then(|path| path.as_str()).map(PathBuf::from);
    let (id, place) = (point.id.to_string(), data.documents.len() as u64);
    let content = Content::Picture(path.unwrap_or_else(|| PathBuf::from(&id)));
    data.documents.push(Document { id: id.clone(), content });
    point.vectors.retain(|name, _| names.contains(name));
    point.tokens.retain(|name, _| reads.is_some_and(|reads| reads.image == *name));
    let (vectors, tokens) = (point.vectors, point.tokens);
    Item { name: id, id: Some(PointId::Num(place)), vectors, tokens, ..Item::default() }
}

fn add_queries(data: &mut Dataset, point: &Point, joined: bool) {
    let document = data.documents.len();
    let mut n_of: BTreeMap<String, usize> = BTreeMap::new();
    for (language, text, n_parts) in questions(point.texts.clone()) {
        let is_joined = n_parts > 0;
        if is_joined && !joined {
            continue;
        }
        let n = n_of.entry(language.clone()).or_default();
        *n += 1;
        let end = if is_joined { "joined".to_owned() } else { n.to_string() };
        let id = match language.as_str() {
            "" => format!("{}#{end}", point.id),
            language => format!("{}#{language}#{end}", point.id),
        };
        data.judgements.push(Judgement { query: data.queries.len(), document, grade: 1 });
        data.queries.push(Query { id, text, language, is_joined });
    }
}

/// The queries with a vector for each that is compared, and the tokens that are read. A text's are named as those of images that it
/// is compared with.
fn embed(
    engine: &Engine,
    own: &Own,
    data: &Dataset,
    names: &BTreeSet<&String>,
    report: &mut dyn FnMut(usize, usize),
) -> anyhow::Result<Vec<Item>> {
    let config = own.collection.config();
    let mut items: Vec<Item> = Vec::with_capacity(data.queries.len());
    for queries in data.queries.chunks(TEXTS_AT_ONCE) {
        report(items.len(), data.queries.len());
        let first = items.len();
        items.extend(queries.iter().map(|query| Item {
            name: query.id.clone(),
            texts: vec![Text { text: query.text.clone(), language: query.language.clone() }],
            ..Item::default()
        }));
        let texts: Vec<&str> = queries.iter().map(|query| query.text.as_str()).collect();
        for name in names {
            let encoder = engine.encoder_for(config, name)?;
            let encoder = encoder.ok_or_else(|| {
                anyhow::anyhow!("collection {:?}: no model brings texts to the vector {name:?}", own.collection.name())
            })?;
            let wants_tokens = own.reads.is_some_and(|reads| reads.tokens && reads.image == **name);
            let keep = if wants_tokens { Keep::Tokens(Grid::Four) } else { Keep::Nothing };
            for (item, embedded) in items[first..].iter_mut().zip(encoder.embed_texts(&texts, keep)?) {
                item.vectors.insert((*name).clone(), embedded.embedding);
                if let Some(tokens) = embedded.fusion_tokens {
                    item.tokens.insert((*name).clone(), Tokens { n: tokens.n, dim: tokens.dim, values: tokens.values });
                }
            }
        }
    }
    Ok(items)
}

/// Items as they are ingested, with their places as ids.
pub fn numbered(items: Vec<Item>) -> Items {
    let number = |(place, item): (usize, Item)| Ok(Item { id: Some(PointId::Num(place as u64)), ..item });
    Box::new(items.into_iter().enumerate().map(number))
}
