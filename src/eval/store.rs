//! A data set in a database: one collection of documents, and one for the queries of each language.
//!
//! A point's id is its place in the data set, so a run that is repeated writes what has changed, and nothing else.

use std::collections::BTreeMap;

use anyhow::bail;
use firn_eval::{
    dataset::{Content, Dataset},
    results::{Direction, Made},
};
use firn_index::{Collection, CollectionConfig, Error as IndexError, Fields, Limits, PointId, Text};
use firn_ingest::{
    embed::{IMAGE_VECTOR, TEXT_VECTOR},
    source::{Fault, Item, Next, Skipped},
};

use super::ask::Question;
use crate::engine::Engine;

/// Where a data set is kept.
pub struct Store {
    pub documents: Collection,
    pub lots: Vec<Lot>,
    /// Which vectors are compared, and how much each cosine counts.
    pub pairs: Vec<Pair>,
    /// What made the embeddings.
    pub model: Made,
}

/// Queries that documents look for: those of one language, each text alone or all of a document in one.
pub struct Lot {
    pub language: String,
    pub is_joined: bool,
    /// Places in the data set; the id of a point is the place in this list.
    pub queries: Vec<usize>,
    pub collection: Collection,
}

/// A named vector of documents, and the one of queries that it is compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    pub document: String,
    pub query: String,
    pub weight: f32,
}

impl Store {
    pub(super) fn names_of_documents(&self) -> Vec<String> {
        self.pairs.iter().map(|pair| pair.document.clone()).collect()
    }

    pub(super) fn names_of_queries(&self) -> Vec<String> {
        self.pairs.iter().map(|pair| pair.query.clone()).collect()
    }

    pub(super) fn weights(&self) -> Vec<f32> {
        self.pairs.iter().map(|pair| pair.weight).collect()
    }
}

impl Lot {
    /// Places of the documents that a query of this lot belongs to.
    pub(super) fn documents(&self, data: &Dataset) -> Vec<usize> {
        self.belonging(data).into_keys().collect()
    }

    /// By the document's place: the queries that belong, by their place in this lot.
    fn belonging(&self, data: &Dataset) -> BTreeMap<usize, BTreeMap<usize, u32>> {
        let place_of: BTreeMap<usize, usize> =
            self.queries.iter().enumerate().map(|(at, &query)| (query, at)).collect();
        let mut of: BTreeMap<usize, BTreeMap<usize, u32>> = BTreeMap::new();
        for judged in &data.judgements {
            if let Some(&place) = place_of.get(&judged.query) {
                of.entry(judged.document).or_default().insert(place, judged.grade);
            }
        }
        of
    }

    /// Who asks, by its place on its own side, and what belongs to it, by its place on the other.
    pub(super) fn askings(&self, data: &Dataset, direction: Direction) -> Vec<Question> {
        let of_document = self.belonging(data);
        if direction == Direction::ToQuery {
            return of_document.into_iter().map(|(asker, grades)| Question { asker, grades }).collect();
        }
        let mut of_query: Vec<BTreeMap<usize, u32>> = vec![BTreeMap::new(); self.queries.len()];
        for (document, queries) in of_document {
            for (query, grade) in queries {
                of_query[query].insert(document, grade);
            }
        }
        of_query.into_iter().enumerate().map(|(asker, grades)| Question { asker, grades }).collect()
    }
}

/// The queries of each language, single and joined, as places in the data set.
pub fn lots(data: &Dataset) -> Vec<(String, bool, Vec<usize>)> {
    let mut lots: BTreeMap<(bool, &str), Vec<usize>> = BTreeMap::new();
    for (place, query) in data.queries.iter().enumerate() {
        lots.entry((query.is_joined, query.language.as_str())).or_default().push(place);
    }
    lots.into_iter().map(|((is_joined, language), queries)| (language.to_owned(), is_joined, queries)).collect()
}

/// The vector that a model makes of the documents.
pub fn documents(data: &Dataset) -> &'static str {
    match data.documents.first().map(|document| &document.content) {
        Some(Content::Text(_)) => TEXT_VECTOR,
        _ => IMAGE_VECTOR,
    }
}

pub type Items = Box<dyn Iterator<Item = Next> + Send>;

/// What is to be in a collection.
pub struct Fill<'a> {
    pub name: &'a str,
    pub config: CollectionConfig,
    pub items: Items,
    pub n: usize,
}

/// Writes so many items to a collection.
pub type Write<'a> = dyn FnMut(&Collection, Items, usize) -> anyhow::Result<()> + 'a;

/// Writes items whose ids are 0 to n, and takes out what else was there before. `write` runs the job and says what came of it.
pub fn fill(engine: &Engine, fill: Fill, write: &mut Write) -> anyhow::Result<Collection> {
    let Fill { name, config, items, n } = fill;
    let collection = match engine.db().collection(name) {
        Err(IndexError::CollectionNotFound { .. }) => engine.db().create_collection(name, config)?,
        Ok(collection) if *collection.config() != config => {
            engine.db().delete_collection(name)?;
            engine.db().create_collection(name, config)?
        }
        found => found?,
    };
    write(&collection, items, n)?;
    drop_others(&collection, n)?;
    let n_stored = collection.reader().count();
    if n_stored != n as u64 {
        bail!("{name}: expected {n} points, {n_stored} are stored");
    }
    if collection.reader().n_buffered() > 0 {
        collection.optimize()?;
    }
    Ok(collection)
}

/// Of an earlier run over more.
fn drop_others(collection: &Collection, n: usize) -> anyhow::Result<()> {
    let reader = collection.reader();
    let mut next = Some(0);
    while let Some(from) = next {
        let page = reader.scroll(from, Limits::MAX_LIMIT, Fields::default())?;
        next = page.next;
        let is_other = |id: &PointId| !matches!(id, PointId::Num(place) if *place < n as u64);
        let others: Vec<PointId> = page.points.into_iter().map(|point| point.id).filter(is_other).collect();
        if !others.is_empty() {
            collection.delete(&others)?;
        }
    }
    Ok(())
}

/// The documents of a data set as they are ingested.
pub fn document_items(data: &Dataset) -> Items {
    let contents: Vec<Content> = data.documents.iter().map(|document| document.content.clone()).collect();
    Box::new(contents.into_iter().enumerate().map(|(place, content)| document_item(place, content)))
}

fn document_item(place: usize, content: Content) -> Next {
    let mut item = Item { name: format!("document {place}"), id: Some(PointId::Num(place as u64)), ..Item::default() };
    match content {
        Content::Text(text) => item.texts = vec![Text { text, language: String::new() }],
        Content::Picture(path) => {
            let name = path.display().to_string();
            let read = std::fs::read(&path).map_err(Fault::Unreadable);
            item.image = Some(read.map_err(|fault| Skipped { name: name.clone(), fault })?);
            item.name = name;
        }
    }
    Ok(item)
}

/// The queries at these places of a data set as they are ingested.
pub fn query_items(data: &Dataset, places: &[usize]) -> Items {
    let texts: Vec<(String, Text)> = places
        .iter()
        .map(|&place| &data.queries[place])
        .map(|query| (query.id.clone(), Text { text: query.text.clone(), language: query.language.clone() }))
        .collect();
    let item = |(place, (name, text)): (usize, (String, Text))| {
        Ok(Item { name, id: Some(PointId::Num(place as u64)), texts: vec![text], ..Item::default() })
    };
    Box::new(texts.into_iter().enumerate().map(item))
}
