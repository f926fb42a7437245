//! An HNSW graph (Malkov and Yashunin, arXiv 1603.09320) as flat, read-only arrays.
//!
//! Nodes are 0..n. Level 0 is a table with a fixed number of slots per node, since every search reads it most; the few
//! nodes above stand in short lists. Every link points at an existing node: `check` proves it for graphs from disk.

mod audit;
mod build;
mod hnsw;
mod search;

use serde::{Deserialize, Serialize};

pub use audit::{Audit, audit_and_repair, lost_nodes};
pub use build::{BuildSettings, Built, GraphBuilder, build};
pub use hnsw::HnswRsBuilder;
pub use search::{Beam, Scratch};

/// An empty slot of the level-0 table; slots after it are empty too.
pub const NONE: u32 = u32::MAX;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlatGraph {
    /// Where a search starts: a node of the highest level.
    pub entry: u32,
    /// Slots per node on level 0, twice the `m` of the build.
    pub slots: usize,
    /// n x slots.
    pub level0: Vec<u32>,
    /// Levels 1 and up.
    pub upper: Vec<Level>,
    /// Nodes that no path leads to; a search compares them all. Usually none.
    pub strays: Vec<u32>,
}

/// A level above 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Rising.
    pub nodes: Vec<u32>,
    /// One more than nodes: where each node's links begin.
    pub starts: Vec<u32>,
    pub links: Vec<u32>,
}

/// Unit vectors by node, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors {
    pub dim: usize,
    pub numbers: Vec<f32>,
}

impl FlatGraph {
    pub fn n_nodes(&self) -> usize {
        self.level0.len() / self.slots.max(1)
    }

    #[inline]
    pub fn links0(&self, node: u32) -> &[u32] {
        let start = node as usize * self.slots;
        &self.level0[start..start + self.slots]
    }

    /// What does not hold, if anything.
    pub fn check(&self, n: usize) -> Result<(), String> {
        let is_node = |node: &u32| (*node as usize) < n;
        if self.level0.len() != n * self.slots || self.slots == 0 {
            return Err(format!("expected {n} x {} links, received {}", self.slots, self.level0.len()));
        }
        if n > 0 && !is_node(&self.entry) {
            return Err(format!("the entry {} is not one of {n} nodes", self.entry));
        }
        if let Some(bad) = self.level0.iter().find(|link| **link != NONE && !is_node(link)) {
            return Err(format!("a link to {bad}, of {n} nodes"));
        }
        if !self.strays.iter().all(is_node) {
            return Err("a stray that is no node".to_owned());
        }
        self.upper.iter().try_for_each(|level| level.check(n))
    }

    /// The same graph with node `order[i]` named i.
    fn reordered(&self, order: &[u32]) -> FlatGraph {
        let mut new_name = vec![NONE; order.len()];
        for (new, &old) in order.iter().enumerate() {
            new_name[old as usize] = new as u32;
        }
        let rename = |old: u32| if old == NONE { NONE } else { new_name[old as usize] };
        FlatGraph {
            entry: rename(self.entry),
            slots: self.slots,
            level0: order.iter().flat_map(|&old| self.links0(old)).map(|&old| rename(old)).collect(),
            upper: self.upper.iter().map(|level| level.renamed(rename)).collect(),
            strays: self.strays.iter().map(|&old| rename(old)).collect(),
        }
    }

    /// Nodes as a walk from the entry meets them, so that neighbours lie close together in memory.
    fn breadth_first_order(&self) -> Vec<u32> {
        let n = self.n_nodes();
        let mut seen = vec![false; n];
        let mut order: Vec<u32> = Vec::with_capacity(n);
        for start in std::iter::once(self.entry).chain(0..n as u32) {
            if std::mem::replace(&mut seen[start as usize], true) {
                continue;
            }
            let mut next = order.len();
            order.push(start);
            while next < order.len() {
                for &link in self.links0(order[next]).iter().take_while(|link| **link != NONE) {
                    if !std::mem::replace(&mut seen[link as usize], true) {
                        order.push(link);
                    }
                }
                next += 1;
            }
        }
        order
    }
}

impl Level {
    /// The links of a node; none if it is not on this level.
    pub fn links(&self, node: u32) -> &[u32] {
        match self.nodes.binary_search(&node) {
            Ok(place) => &self.links[self.starts[place] as usize..self.starts[place + 1] as usize],
            Err(_) => &[],
        }
    }

    pub fn from_lists(mut lists: Vec<(u32, Vec<u32>)>) -> Level {
        lists.sort_unstable_by_key(|(node, _)| *node);
        let mut level = Level { starts: vec![0], ..Level::default() };
        for (node, links) in lists {
            level.nodes.push(node);
            level.links.extend(links);
            level.starts.push(level.links.len() as u32);
        }
        level
    }

    fn renamed(&self, rename: impl Fn(u32) -> u32) -> Level {
        let list = |node: u32| (rename(node), self.links(node).iter().map(|&link| rename(link)).collect());
        Level::from_lists(self.nodes.iter().map(|&node| list(node)).collect())
    }

    fn check(&self, n: usize) -> Result<(), String> {
        let is_node = |node: &u32| (*node as usize) < n;
        let good = self.nodes.is_sorted_by(|a, b| a < b)
            && self.nodes.iter().chain(&self.links).all(is_node)
            && self.starts.len() == self.nodes.len() + 1
            && self.starts.is_sorted()
            && self.starts.first() == Some(&0)
            && self.starts.last().is_some_and(|end| *end as usize == self.links.len());
        if good { Ok(()) } else { Err("an upper level whose lists do not fit together".to_owned()) }
    }
}

impl Vectors {
    #[inline]
    pub fn get(&self, node: u32) -> &[f32] {
        let start = node as usize * self.dim;
        &self.numbers[start..start + self.dim]
    }

    pub fn n(&self) -> usize {
        self.numbers.len() / self.dim.max(1)
    }
}
