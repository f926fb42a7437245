//! Words that are looked for in the texts of points, beside the vectors or in their place: full text by BM25, and how its list and that
//! of the vectors become one.

use std::collections::HashMap;

use firn_index::{Candidate, Reader, Row, TextSearch};

use super::{
    Content, Error, FullText, Limits, Merge, Request,
    encode::Query,
    merge::{self, Merged},
    request::{Plan, invalid},
};

/// Ranks count 1 / (60 + rank): Cormack, Clarke and Buettcher 2009.
const RANK_OFFSET: f32 = 60.0;

/// What is looked for.
pub struct Words<'a> {
    pub text: &'a str,
    pub how: &'a FullText,
}

/// None if the request wants none.
pub fn of(request: &Request) -> Result<Option<Words<'_>>, Error> {
    let Some(how) = &request.full_text else { return Ok(None) };
    let text = match (&how.text, &request.content) {
        (Some(text), _) => text,
        (None, Content::Text(text)) => &text.text,
        (None, _) => {
            let expected = "words to look for: only a text that asks brings its own".to_owned();
            return Err(invalid("full_text.text", expected, "none".to_owned()));
        }
    };
    Ok(Some(Words { text, how }))
}

impl Words<'_> {
    /// Nothing else is searched.
    pub fn are_alone(&self) -> bool {
        self.how.weight >= 1.0
    }

    /// Enough of both lists, so that what is well placed in both is in both.
    pub fn widen(&self, plan: Plan) -> Plan {
        Plan { candidates: plan.candidates.max(Limits::MIN_BLENDED), ..plan }
    }

    /// Points that hold any of the words, best first, without the point that asks.
    pub fn candidates(&self, reader: &Reader, query: &Query, plan: &Plan) -> Result<Vec<Candidate>, Error> {
        let wanted = if plan.exact { Limits::MAX_WINDOW } else { plan.candidates };
        let limit = (wanted + usize::from(query.itself.is_some())).min(Limits::MAX_WINDOW);
        let mut found = reader.search_text(&TextSearch { text: self.text, limit })?;
        found.retain(|candidate| Some(candidate.row) != query.itself);
        Ok(found)
    }

    /// Both lists as one, best first; ties by row.
    pub fn merged(
        &self,
        reader: &Reader,
        query: &Query,
        by_vectors: Vec<Merged>,
        by_words: &[Candidate],
    ) -> Result<Vec<Merged>, Error> {
        let vector_ranks: HashMap<Row, usize> = by_vectors.iter().map(|m| m.candidate.row).zip(1..).collect();
        let cosines = Range::of(&by_vectors);
        let mut merged = by_vectors;
        for found in by_words.iter().filter(|found| !vector_ranks.contains_key(&found.row)) {
            merged.push(merge::looked_up(reader, query, found.row)?);
        }
        let word_ranks: HashMap<Row, (usize, f32)> =
            by_words.iter().zip(1..).map(|(found, rank)| (found.row, (rank, found.score))).collect();
        let best_word = by_words.first().map_or(1.0, |best| best.score);
        for one in &mut merged {
            let row = one.candidate.row;
            let word = word_ranks.get(&row);
            one.bm25 = word.map(|(_, score)| *score);
            let (of_vectors, of_words) = match self.how.merge {
                Merge::Ranks => (by_rank(vector_ranks.get(&row)), by_rank(word.map(|(rank, _)| rank))),
                Merge::Scores => (cosines.share(one.candidate.score), word.map_or(0.0, |(_, bm25)| bm25 / best_word)),
            };
            one.score = (1.0 - self.how.weight) * of_vectors + self.how.weight * of_words;
        }
        merged.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.candidate.row.cmp(&b.candidate.row)));
        Ok(merged)
    }
}

/// From the worst to the best of a list: encoders use a small part of what a cosine can be.
struct Range {
    worst: f32,
    best: f32,
}

impl Range {
    fn of(list: &[Merged]) -> Range {
        let score = |merged: Option<&Merged>| merged.map_or(0.0, |merged| merged.candidate.score);
        Range { worst: score(list.last()), best: score(list.first()) }
    }

    /// 0 for the worst of the list and all below, 1 for the best.
    fn share(&self, score: f32) -> f32 {
        let share = (score - self.worst) / (self.best - self.worst);
        // Of a list whose scores are all alike each is the best.
        if share.is_nan() { 1.0 } else { share.clamp(0.0, 1.0) }
    }
}

fn by_rank(rank: Option<&usize>) -> f32 {
    rank.map_or(0.0, |rank| 1.0 / (RANK_OFFSET + *rank as f32))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use firn_index::{PointId, Text};

    use super::*;
    use crate::query::{
        Rerank, Which, run,
        tests::{World, assert_same, number, queries, request, weighed},
    };

    const WEIGHTS: [(&str, f32); 2] = [("a", 1.0), ("b", 0.7)];

    fn looking_for(text: &str, weight: f32, merge: Merge) -> Request {
        let full_text = Some(FullText { text: Some(text.to_owned()), weight, merge });
        Request { full_text, exact: true, ..weighed(&WEIGHTS, Content::Vectors(queries(1).into())) }
    }

    /// What the index finds: that is judged where it is made.
    fn by_words(world: &World, text: &str) -> Vec<(u64, f32)> {
        let reader = world.collection().reader();
        let found = reader.search_text(&TextSearch { text, limit: 10_000 }).unwrap();
        let point = |row| reader.fetch(&[row], firn_index::Fields::default()).unwrap().remove(0);
        found.iter().map(|found| (number(&point(found.row).id), found.score)).collect()
    }

    /// All points that either list has, by the arithmetic as it is written in the interface.
    fn merged(
        vectors: &[(u64, f32)],
        cosines: &[(u64, f32)],
        words: &[(u64, f32)],
        how: (f32, Merge),
    ) -> Vec<(u64, f32)> {
        let rank = |list: &[(u64, f32)], id: u64| {
            list.iter().position(|(of, _)| *of == id).map_or(0.0, |place| 1.0 / (61.0 + place as f32))
        };
        let of = |list: &[(u64, f32)], id: u64| list.iter().find(|(of, _)| *of == id).map_or(0.0, |(_, score)| *score);
        let score = |id: u64| match how {
            (weight, Merge::Ranks) => (1.0 - weight) * rank(vectors, id) + weight * rank(words, id),
            (weight, Merge::Scores) => {
                let (best, worst) = (vectors[0].1, vectors[vectors.len() - 1].1);
                let share = ((of(cosines, id) - worst) / (best - worst)).max(0.0);
                (1.0 - weight) * share + weight * of(words, id) / words[0].1
            }
        };
        let ids: std::collections::BTreeSet<u64> = vectors.iter().chain(words).map(|(id, _)| *id).collect();
        let mut all: Vec<(u64, f32)> = ids.into_iter().map(|id| (id, score(id))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all
    }

    #[test]
    fn both_lists_become_one_by_the_arithmetic_that_is_promised() {
        let world = World::new();
        let cosines = world.judged(&queries(1), &WEIGHTS);
        let vectors = &cosines[..Limits::MIN_BLENDED];
        // Words that a fifth of the points have, one in 35, and a word that none has beside one that some have.
        for text in ["five3", "seven2 five1", "seven6 nowhere"] {
            let words = by_words(&world, text);
            for how in [(0.5, Merge::Ranks), (0.1, Merge::Ranks), (0.5, Merge::Scores), (0.9, Merge::Scores)] {
                let received = world.ask(&looking_for(text, how.0, how.1));
                assert_same(&received, &merged(vectors, &cosines, &words, how)[..30]);
            }
        }
    }

    #[test]
    fn words_that_nobody_has_leave_the_order_of_the_vectors() {
        let world = World::new();
        let expected = world.judged(&queries(1), &WEIGHTS);
        for (merge, text) in [(Merge::Ranks, "nowhere"), (Merge::Scores, "nowhere"), (Merge::Scores, "...")] {
            let received = world.ask(&looking_for(text, 0.5, merge));
            let ids = |list: &[(u64, f32)]| list.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            assert_eq!(ids(&received), ids(&expected[..30]));
        }
    }

    #[test]
    fn words_alone_need_no_vector_and_no_model() {
        let world = World::new();
        let text = Text { text: "five3".into(), language: String::new() };
        let full_text = Some(FullText { weight: 1.0, merge: Merge::Scores, ..FullText::default() });
        let asked = Request { full_text, ..request(Content::Text(text)) };
        let expected = by_words(&world, "five3");
        let hits = run(&world.engine, &asked).unwrap().hits;
        assert_eq!(hits.len(), 30);
        for (hit, (id, bm25)) in hits.iter().zip(&expected) {
            assert_eq!((number(&hit.id), hit.bm25, hit.cosine), (*id, Some(*bm25), 0.0));
            assert!((hit.score - bm25 / expected[0].1).abs() < 1e-6 && hit.cosines.is_empty());
        }
        let nobody = Text { text: "nowhere".into(), language: String::new() };
        assert!(world.ask(&Request { content: Content::Text(nobody), ..asked }).is_empty());
    }

    #[test]
    fn a_point_that_asks_is_not_found_by_its_words() {
        let world = World::new();
        for weight in [0.5, 1.0] {
            let content = Content::Id(PointId::Num(8));
            let hits = world.ask(&Request {
                content,
                blend: None,
                using: Some("b".into()),
                ..looking_for("five3", weight, Merge::Ranks)
            });
            assert!(!hits.is_empty() && hits.iter().all(|(id, _)| *id != 8));
        }
    }

    #[test]
    fn what_cannot_be_looked_for_says_why() {
        let world = World::new();
        let check = |request: Request, part: &str| world.refuses(&request, part);
        check(looking_for("x", 0.0, Merge::Ranks), "full_text.weight: expected above 0, to 1, received 0");
        check(looking_for("x", 1.5, Merge::Ranks), "full_text.weight");
        check(looking_for("x", f32::NAN, Merge::Ranks), "full_text.weight");
        let without = Some(FullText::default());
        check(Request { full_text: without, ..looking_for("x", 0.5, Merge::Ranks) }, "full_text.text: expected words");
        check(looking_for(&"x ".repeat(200_000), 0.5, Merge::Ranks), "full_text.text");
        let unknown = Request { content: Content::Id(PointId::Num(9999)), ..looking_for("five3", 1.0, Merge::Ranks) };
        check(unknown, "no point with id 9999");
        let version = Rerank { which: Which::Version(1), ..Rerank::default() };
        check(Request { rerank: version, ..looking_for("five3", 1.0, Merge::Ranks) }, "rerank.version");
        let named = BTreeMap::from([("a".to_owned(), 1.0)]);
        assert!(!world.ask(&Request { blend: Some(named), ..looking_for("five3", 0.5, Merge::Ranks) }).is_empty());
    }
}
