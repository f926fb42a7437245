//! Builds a graph with hnsw_rs, and takes its links out of it; the only file that names hnsw_rs.
//!
//! hnsw_rs stays a builder: its search follows pointers where ours reads arrays, it cannot delete, and its files have no
//! checksums. It must never see a number that is not finite, nor a negative distance.

use std::sync::atomic::{AtomicBool, Ordering};

use anndists::dist::Distance;
use hnsw_rs::hnsw::Hnsw;

use super::{FlatGraph, GraphBuilder, Level, NONE, build::BuildSettings};
use crate::distance;

/// hnsw_rs wants this many layers, or it cannot place points.
const MAX_LAYERS: usize = 16;

/// The first nodes go in one after the other: in an empty graph parallel insertion finds nothing to link to.
const SERIAL_NODES: usize = 256;

/// Nodes between two looks at `stop`.
const BATCH_NODES: usize = 512;

pub struct HnswRsBuilder;

/// 1 - cosine of unit vectors, never below zero.
#[derive(Clone, Copy, Default)]
struct UnitDistance;

impl Distance<f32> for UnitDistance {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        (1.0 - distance::dot(a, b)).max(0.0)
    }
}

impl GraphBuilder for HnswRsBuilder {
    fn build(&self, vectors: &[&[f32]], settings: &BuildSettings, stop: &AtomicBool) -> Option<FlatGraph> {
        let BuildSettings { m, ef_construction, .. } = *settings;
        let index = Hnsw::<f32, UnitDistance>::new(m, vectors.len(), MAX_LAYERS, ef_construction, UnitDistance);
        let (first, rest) = vectors.split_at(vectors.len().min(SERIAL_NODES));
        first.iter().enumerate().for_each(|(node, vector)| index.insert_slice((vector, node)));
        for (i, batch) in rest.chunks(BATCH_NODES).enumerate() {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let offset = first.len() + i * BATCH_NODES;
            let batch = batch.iter().enumerate().map(|(node, vector)| (*vector, offset + node)).collect();
            index.parallel_insert_slice(&batch);
        }
        Some(export(&index, vectors.len(), 2 * m))
    }
}

fn export(index: &Hnsw<'_, f32, UnitDistance>, n: usize, slots: usize) -> FlatGraph {
    let points = index.get_point_indexation();
    let mut level_of = vec![0u8; n];
    for level in 0..MAX_LAYERS {
        for point in points.get_layer_iterator(level) {
            level_of[point.get_origin_id()] = level as u8;
        }
    }
    let highest = level_of.iter().copied().max().unwrap_or(0);
    let mut graph = FlatGraph { slots, level0: vec![NONE; n * slots], ..FlatGraph::default() };
    let mut upper: Vec<Vec<(u32, Vec<u32>)>> = vec![Vec::new(); highest.into()];
    for level in 0..=highest {
        for point in points.get_layer_iterator(level.into()) {
            let node = point.get_origin_id();
            for (l, list) in point.get_neighborhood_id().iter().enumerate().take(usize::from(level) + 1) {
                // A link on a level that its target is not on leads nowhere.
                let links =
                    list.iter().map(|link| link.d_id).filter(|&id| usize::from(level_of[id]) >= l && id != node);
                if l == 0 {
                    let slots = &mut graph.level0[node * slots..(node + 1) * slots];
                    slots.iter_mut().zip(links).for_each(|(slot, id)| *slot = id as u32);
                } else {
                    upper[l - 1].push((node as u32, links.map(|id| id as u32).collect()));
                }
            }
        }
    }
    graph.entry = level_of.iter().position(|&level| level == highest).unwrap_or(0) as u32;
    graph.upper = upper.into_iter().map(Level::from_lists).collect();
    graph
}
