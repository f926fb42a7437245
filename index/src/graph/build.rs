//! From vectors to a searchable graph: shuffle, build, put in walking order, audit and repair.
//!
//! The shuffle matters: hnsw_rs loses several percent of the points when similar ones arrive one after the other.

use std::sync::atomic::AtomicBool;

use rand::{SeedableRng, seq::SliceRandom};

use super::{Audit, FlatGraph, Vectors, audit_and_repair};

#[derive(Clone, Copy, Debug)]
pub struct BuildSettings {
    pub m: usize,
    pub ef_construction: usize,
    /// Of the order in which vectors are inserted.
    pub seed: u64,
}

/// Something that links vectors.
pub trait GraphBuilder: Send + Sync {
    /// A graph whose node i is the i-th vector, with 2m slots on level 0; None if it was stopped. Runs on the threads of
    /// the rayon pool that it is called in.
    fn build(&self, vectors: &[&[f32]], settings: &BuildSettings, stop: &AtomicBool) -> Option<FlatGraph>;
}

pub struct Built {
    pub graph: FlatGraph,
    pub vectors: Vectors,
    /// Which of the given vectors each node is.
    pub order: Vec<u32>,
    pub audit: Audit,
}

/// Builds a graph in which every vector finds itself; None if it was stopped.
pub fn build(
    builder: &dyn GraphBuilder,
    dim: usize,
    vectors: &[&[f32]],
    settings: &BuildSettings,
    stop: &AtomicBool,
) -> Option<Built> {
    let mut shuffled: Vec<u32> = (0..vectors.len() as u32).collect();
    shuffled.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(settings.seed));
    let inserted: Vec<&[f32]> = shuffled.iter().map(|&i| vectors[i as usize]).collect();
    let raw = builder.build(&inserted, settings, stop)?;
    let walk = raw.breadth_first_order();
    let mut graph = raw.reordered(&walk);
    let order: Vec<u32> = walk.iter().map(|&node| shuffled[node as usize]).collect();
    let mut numbers = Vec::with_capacity(vectors.len() * dim);
    order.iter().for_each(|&i| numbers.extend_from_slice(vectors[i as usize]));
    let vectors = Vectors { dim, numbers };
    let audit = audit_and_repair(&mut graph, &vectors, stop)?;
    Some(Built { graph, vectors, order, audit })
}
