//! What to build next: when the buffer becomes a segment, and which segments become one.

use crate::generation::{SegmentView, VectorView};

/// Segments are merged when so many are no larger than what would stand beside them.
const MERGE_SEGMENTS: usize = 3;

/// A segment with more tombstones than this share of its rows is rewritten.
const MAX_TOMBSTONES_PERCENT: u64 = 20;

/// Segments differ in size class when they differ by this factor.
const CLASS_FACTOR: u64 = 4;

/// A segment to build for a named vector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Numbers of the segments whose live rows go into it.
    pub merge: Vec<u32>,
    /// Whether what is buffered goes into it.
    pub take_buffer: bool,
}

/// The next thing to do; none if all is well. `rebuild_lost`: a damaged segment was dropped, so its rows are buffered.
pub fn next_task(view: &VectorView, buffer_limit: usize, rebuild_lost: bool) -> Option<Task> {
    if view.buffer.len() >= buffer_limit || rebuild_lost && view.buffer.len() > 0 {
        return Some(Task { merge: smaller_segments(view), take_buffer: true });
    }
    let worn = view.segments.iter().find(|s| s.n_tombstones() * 100 > s.segment.n_rows() * MAX_TOMBSTONES_PERCENT);
    worn.map(|s| Task { merge: vec![s.segment.number], take_buffer: false })
}

/// Everything into one segment; none if it is so already.
pub fn whole_task(view: &VectorView) -> Option<Task> {
    let is_one = view.segments.len() <= 1 && view.segments.iter().all(|s| s.n_tombstones() == 0);
    if is_one && view.buffer.len() == 0 { None } else { Some(everything(view)) }
}

pub fn everything(view: &VectorView) -> Task {
    Task { merge: view.segments.iter().map(|s| s.segment.number).collect(), take_buffer: true }
}

/// Grows a set of segments: as long as enough of them are in the size class of the result, or below, they join it.
/// So there are few segments of each class, and a row is rewritten once per class.
fn smaller_segments(view: &VectorView) -> Vec<u32> {
    let mut left: Vec<&SegmentView> = view.segments.iter().collect();
    let mut merged = Vec::new();
    let mut size = view.buffer.len() as u64;
    loop {
        let (joining, staying): (Vec<&SegmentView>, Vec<_>) = left.iter().partition(|s| s.n_live < size * CLASS_FACTOR);
        if joining.len() < MERGE_SEGMENTS {
            return merged;
        }
        size += joining.iter().map(|s| s.n_live).sum::<u64>();
        merged.extend(joining.iter().map(|s| s.segment.number));
        left = staying;
    }
}
