//! Third stage: what several vectors found becomes one list, by the weighted mean of cosines. A vector that a point does not have
//! counts as a cosine of 0.

use std::collections::HashMap;

use firn_index::{Candidate, Reader, Row};

use super::{
    Error,
    encode::{Part, Query},
    request::Plan,
    retrieve::List,
};

/// A candidate; of a blend, with its cosine to each part of the query, as far as it has such a vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// Its score is the cosine, or the weighted mean of several.
    pub candidate: Candidate,
    pub cosines: Vec<Option<f32>>,
    /// If words were looked for too and it is among the best.
    pub bm25: Option<f32>,
    /// What it is sorted by before any network sees it.
    pub score: f32,
}

impl Merged {
    fn new(candidate: Candidate, cosines: Vec<Option<f32>>) -> Merged {
        Merged { candidate, cosines, bm25: None, score: candidate.score }
    }
}

/// Best first; ties by row. The only list of a query that is no blend stays as it is.
pub fn by_weight(reader: &Reader, query: &Query, mut lists: Vec<List>, plan: &Plan) -> Result<Vec<Merged>, Error> {
    if !query.is_blend {
        let only = lists.pop().into_iter().flat_map(|list| list.candidates);
        return Ok(only.map(|candidate| Merged::new(candidate, Vec::new())).collect());
    }
    let mut union = Union::of(&lists);
    union.complete(reader, query, &lists)?;
    let mut scored = union.scored(query);
    scored.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row)));
    scored.truncate(plan.candidates);
    Ok(scored.into_iter().map(|candidate| Merged::new(candidate, union.of_row(candidate.row).to_vec())).collect())
}

/// A row that no vector found.
pub fn looked_up(reader: &Reader, query: &Query, row: Row) -> Result<Merged, Error> {
    let cosine = |part: &Part| reader.cosine(row, &part.using, &part.vector);
    let cosines = query.parts.iter().map(cosine).collect::<Result<Vec<_>, _>>()?;
    let score = if query.parts.is_empty() { 0.0 } else { mean(query, &cosines) };
    Ok(Merged::new(Candidate { row, score }, if query.is_blend { cosines } else { Vec::new() }))
}

/// The weighted mean of the cosines to each part.
fn mean(query: &Query, cosines: &[Option<f32>]) -> f32 {
    let parts = query.parts.iter().zip(cosines);
    let sum: f64 = parts.map(|(part, cosine)| f64::from(part.weight) * f64::from(cosine.unwrap_or(0.0))).sum();
    (sum / query.weight) as f32
}

/// The rows of all lists, and what is known of each.
struct Union {
    n_parts: usize,
    places: HashMap<Row, usize>,
    rows: Vec<Row>,
    /// (rows, parts)
    cosines: Vec<Option<f32>>,
}

impl Union {
    fn of(lists: &[List]) -> Union {
        let n_parts = lists.len();
        let mut union = Union { n_parts, places: HashMap::new(), rows: Vec::new(), cosines: Vec::new() };
        for (part, list) in lists.iter().enumerate() {
            for &Candidate { row, score } in &list.candidates {
                let place = union.place(row);
                union.cosines[place * n_parts + part] = Some(score);
            }
        }
        union
    }

    fn place(&mut self, row: Row) -> usize {
        *self.places.entry(row).or_insert_with(|| {
            self.rows.push(row);
            self.cosines.extend(std::iter::repeat_n(None, self.n_parts));
            self.rows.len() - 1
        })
    }

    /// Looks up the cosines of rows that another part found. A list of all rows that have the vector leaves none to look up.
    fn complete(&mut self, reader: &Reader, query: &Query, lists: &[List]) -> Result<(), Error> {
        for (part, _) in lists.iter().enumerate().filter(|(_, list)| !list.is_whole) {
            let asked = &query.parts[part];
            for (place, row) in self.rows.iter().enumerate() {
                let cosine = &mut self.cosines[place * self.n_parts + part];
                if cosine.is_none() {
                    *cosine = reader.cosine(*row, &asked.using, &asked.vector)?;
                }
            }
        }
        Ok(())
    }

    fn scored(&self, query: &Query) -> Vec<Candidate> {
        let rows = self.rows.iter().zip(self.cosines.chunks_exact(self.n_parts));
        rows.map(|(row, cosines)| Candidate { row: *row, score: mean(query, cosines) }).collect()
    }

    fn of_row(&self, row: Row) -> &[Option<f32>] {
        &self.cosines[self.places[&row] * self.n_parts..][..self.n_parts]
    }
}
