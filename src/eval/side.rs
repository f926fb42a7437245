//! What asks or is asked: a collection whose points are known by their places.

use firn_eval::results::Made;
use firn_index::{Collection, Fields, Limits, Point, PointId, Reader, Row, Side as Content};
use firn_model::fusion::Items;

use super::Store;
use crate::reranker::{self, Reads, Reranker};

/// The network that re-ranks.
pub struct Network {
    pub reranker: Reranker,
    /// What the report calls it.
    pub made: Made,
}

impl Network {
    pub(super) fn reads_documents(&self) -> Reads {
        self.reranker.version.reads.clone()
    }

    pub(super) fn reads_queries(&self, store: &Store) -> Reads {
        let image = &self.reranker.version.reads.image;
        let pair = store.pairs.iter().find(|pair| pair.document == *image);
        self.reranker.reads(Content::Text, pair.map_or(image, |pair| &pair.query))
    }
}

pub struct Side {
    pub reader: Reader,
    /// Of the vectors that are compared.
    pub names: Vec<String>,
    /// What a network reads of a point.
    reads: Option<Reads>,
    /// By row.
    places: Vec<usize>,
    n: usize,
}

impl Side {
    pub fn new(collection: &Collection, names: Vec<String>, reads: Option<Reads>) -> anyhow::Result<Side> {
        let reader = collection.reader();
        let (mut places, mut n, mut next) = (Vec::new(), 0, Some(0));
        while let Some(from) = next {
            let page = reader.scroll(from, Limits::MAX_LIMIT, Fields::default())?;
            for point in page.points {
                let PointId::Num(place) = point.id else { continue };
                places.resize(places.len().max(point.row as usize + 1), usize::MAX);
                places[point.row as usize] = place as usize;
                n += 1;
            }
            next = page.next;
        }
        Ok(Side { reader, names, reads, places, n })
    }

    pub fn place(&self, row: Row) -> usize {
        self.places[row as usize]
    }

    /// The points at these places, with what is compared and read.
    pub fn points(&self, places: &[usize]) -> anyhow::Result<Vec<Point>> {
        let ids: Vec<PointId> = places.iter().map(|&place| PointId::Num(place as u64)).collect();
        let tokens = self.reads.as_ref().is_some_and(|reads| reads.tokens);
        let points = self.reader.get(&ids, Fields { vectors: true, tokens, ..Fields::default() })?;
        anyhow::ensure!(points.len() == places.len(), "expected {} points, {} are stored", places.len(), points.len());
        Ok(points)
    }

    /// What the network reads of these points.
    pub fn items(&self, points: &mut [Point]) -> Result<Items, reranker::Error> {
        let mut items = Items::default();
        let reads = self.reads.as_ref().expect("only where there is a network");
        for point in points {
            let added = reads.add(point, &mut items);
            added.map_err(|what| reranker::Error::Lacking { id: point.id.clone(), what })?;
        }
        Ok(items)
    }

    /// The places of all points, some at a time.
    pub fn pages(&self) -> impl Iterator<Item = Vec<usize>> {
        const PAGE: usize = 1000;
        (0..self.n).step_by(PAGE).map(|from| (from..self.n.min(from + PAGE)).collect())
    }

    /// Of all points, by their places.
    pub fn all_items(&self) -> anyhow::Result<Items> {
        let mut items: Option<Items> = None;
        for places in self.pages() {
            let page = self.items(&mut self.points(&places)?)?;
            match &mut items {
                None => items = Some(page),
                Some(items) => items.append(&page),
            }
        }
        Ok(items.unwrap_or_default())
    }
}
