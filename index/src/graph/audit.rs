//! Does every vector find itself? If not, the graph is mended until it does.
//!
//! A search for a lost node ends among nodes near it; a link from some of those to it makes that search succeed. A link
//! may displace another one, so this repeats; what is still lost in the end becomes a stray, which every search compares.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

use rayon::prelude::*;

use super::{Beam, FlatGraph, NONE, Scratch, Vectors};
use crate::distance;

/// The beam of the audit: narrower than any default search, so that what passes here is found there.
const AUDIT_EF: usize = 32;

const MAX_ROUNDS: usize = 10;

/// Links that lead to a mended node.
const NEW_LINKS: usize = 4;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Nodes that got new links.
    pub n_repaired: usize,
    /// Nodes that are compared in every search.
    pub n_strays: usize,
}

/// A node that does not find itself, and the nodes that it finds, best first.
pub struct Lost {
    pub node: u32,
    found: Vec<u32>,
}

/// Nodes whose own vector does not lead to them, nor to another that is as near; None if it was stopped.
pub fn lost_nodes(graph: &FlatGraph, vectors: &Vectors, stop: &AtomicBool) -> Option<Vec<Lost>> {
    let nodes = 0..vectors.n() as u32;
    let lost = nodes.into_par_iter().map_init(Scratch::default, |scratch, node| {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let vector = vectors.get(node);
        let found = Beam::new(graph, vectors, vector).search(AUDIT_EF, |_| true, scratch);
        let own = distance::dot(vector, vector);
        let is_found = found.first().is_some_and(|best| best.score() >= own);
        (!is_found).then(|| Lost { node, found: found.iter().map(|scored| scored.node()).collect() })
    });
    let lost = lost.flatten().collect();
    (!stop.load(Ordering::Relaxed)).then_some(lost)
}

/// None if it was stopped.
pub fn audit_and_repair(graph: &mut FlatGraph, vectors: &Vectors, stop: &AtomicBool) -> Option<Audit> {
    let mut repaired = HashSet::new();
    let mut kept = HashSet::new();
    for _ in 0..MAX_ROUNDS {
        let lost = lost_nodes(graph, vectors, stop)?;
        if lost.is_empty() {
            return Some(Audit { n_repaired: repaired.len(), n_strays: 0 });
        }
        let mut n_links_to = links_to(graph);
        for Lost { node, found } in lost {
            repaired.insert(node);
            for from in found.into_iter().take(NEW_LINKS) {
                add_link(graph, vectors, from, node, &mut kept, &mut n_links_to);
                add_link(graph, vectors, node, from, &mut kept, &mut n_links_to);
            }
        }
    }
    graph.strays = lost_nodes(graph, vectors, stop)?.into_iter().map(|lost| lost.node).collect();
    Some(Audit { n_repaired: repaired.len(), n_strays: graph.strays.len() })
}

/// Links `from` to `to`; without a free slot, in place of the farthest that is not `kept`, and if possible of one that
/// other nodes lead to as well.
fn add_link(
    graph: &mut FlatGraph,
    vectors: &Vectors,
    from: u32,
    to: u32,
    kept: &mut HashSet<(u32, u32)>,
    n_links_to: &mut [u32],
) {
    let links = graph.links0(from);
    if links.contains(&to) || from == to {
        return;
    }
    let place = links.iter().position(|link| *link == NONE).or_else(|| {
        let free = (0..links.len()).filter(|&i| !kept.contains(&(from, links[i])));
        // Least first: one that is reached otherwise, then the farthest.
        free.min_by(|&a, &b| {
            let cost = |i: usize| {
                let is_last = n_links_to[links[i] as usize] <= 1;
                (is_last, distance::dot(vectors.get(from), vectors.get(links[i])))
            };
            let ((a_last, a_score), (b_last, b_score)) = (cost(a), cost(b));
            a_last.cmp(&b_last).then(a_score.total_cmp(&b_score))
        })
    });
    if let Some(place) = place {
        let slot = &mut graph.level0[from as usize * graph.slots + place];
        if *slot != NONE {
            n_links_to[*slot as usize] -= 1;
        }
        *slot = to;
        n_links_to[to as usize] += 1;
        kept.insert((from, to));
    }
}

fn links_to(graph: &FlatGraph) -> Vec<u32> {
    let mut counts = vec![0; graph.n_nodes()];
    for &link in graph.level0.iter().filter(|link| **link != NONE) {
        counts[link as usize] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distance::to_unit;

    /// Two far clusters on a ring each, without a link between them.
    fn torn_graph(n: u32, slots: usize) -> (FlatGraph, Vectors) {
        let half = n / 2;
        let mut numbers = Vec::new();
        let mut level0 = vec![NONE; n as usize * slots];
        for node in 0..n {
            let (cluster, i) = (node / half, node % half);
            let far = if cluster == 0 { 1.0 } else { -1.0 };
            numbers.extend(to_unit(&[far, i as f32 * 0.01, 0.3]).unwrap());
            for (slot, step) in (0..slots as u32).zip([1, half - 1, 2, half - 2]) {
                level0[node as usize * slots + slot as usize] = cluster * half + (i + step) % half;
            }
        }
        (FlatGraph { entry: 0, slots, level0, ..FlatGraph::default() }, Vectors { dim: 3, numbers })
    }

    #[test]
    fn a_torn_graph_is_mended() {
        let (mut graph, vectors) = torn_graph(200, 4);
        let (go_on, stop) = (AtomicBool::new(false), AtomicBool::new(true));
        assert_eq!(lost_nodes(&graph, &vectors, &go_on).unwrap().len(), 100);
        assert!(audit_and_repair(&mut graph, &vectors, &stop).is_none());
        let audit = audit_and_repair(&mut graph, &vectors, &go_on).unwrap();
        assert!(audit.n_repaired >= 100);
        graph.check(200).unwrap();
        assert_eq!(lost_nodes(&graph, &vectors, &go_on).unwrap().len(), 0, "{audit:?}");
    }

    #[test]
    fn duplicates_count_as_each_other() {
        let vectors = Vectors { dim: 2, numbers: [0.6, 0.8].repeat(100) };
        let mut graph = FlatGraph { entry: 0, slots: 4, level0: vec![NONE; 400], ..FlatGraph::default() };
        assert_eq!(audit_and_repair(&mut graph, &vectors, &AtomicBool::new(false)), Some(Audit::default()));
    }
}
