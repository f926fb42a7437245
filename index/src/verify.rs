//! Reads everything a collection has, and compares: every checksum, ids against records, records against vectors and tokens,
//! segments against their structure, and every graph against itself.

use std::{ops::ControlFlow, sync::atomic::AtomicBool};

use roaring::RoaringBitmap;

use crate::{
    Damage, Error, Reader, Result, Row, VerifyReport, attachment,
    engine::Engine,
    fetch,
    generation::Generation,
    graph, key,
    manifest::{self, Place},
    record,
    state::CollectionState,
    store::{Store, Tree},
    stored::{self, StoredPoint},
    words,
};

/// `Error::Damaged` is a finding; other errors end the reading.
pub fn verify(engine: &Engine, state: &CollectionState, reader: &Reader) -> Result<VerifyReport> {
    let store = &engine.store;
    let generation = reader.generation();
    let mut report = VerifyReport::default();
    let expected = points(store, state, reader, &mut report)?;
    for (place, expected) in expected.with_vector.iter().enumerate() {
        vectors(store, state, generation, place, expected, &mut report)?;
        segments(store, state, place, &mut report)?;
        audit(generation, place, &mut report);
    }
    for (place, expected) in expected.with_tokens.iter().enumerate() {
        tokens(store, state, place, expected.clone(), &mut report)?;
    }
    attachments(store, state, &mut report)?;
    texts(engine, state, &expected.with_words, &mut report)?;
    Ok(report)
}

/// By their place in the configuration, the rows that have a vector, and those that have tokens; and those whose texts have words.
struct Expected {
    with_vector: Vec<RoaringBitmap>,
    with_tokens: Vec<RoaringBitmap>,
    with_words: RoaringBitmap,
}

/// Checks every live point and the row of its id.
fn points(store: &Store, state: &CollectionState, reader: &Reader, report: &mut VerifyReport) -> Result<Expected> {
    let none = |n| vec![RoaringBitmap::new(); n];
    let config = &state.config;
    let mut expected = Expected {
        with_vector: none(config.vectors.len()),
        with_tokens: none(config.tokens.len()),
        with_words: RoaringBitmap::new(),
    };
    for row in reader.generation().live.iter() {
        report.points_checked += 1;
        let checked = reader.record(row).and_then(|record| check_point(store, state, reader, row, &record));
        if let Some(StoredPoint { prefix, texts, .. }) = finding(checked, report)? {
            if state.words.is_used() && texts.iter().any(|text| words::has_terms(&text.text)) {
                expected.with_words.insert(row);
            }
            for place in prefix.vectors.of(config.vectors.len()) {
                expected.with_vector[place].insert(row);
            }
            for place in prefix.tokens.of(config.tokens.len()) {
                expected.with_tokens[place].insert(row);
            }
        }
    }
    Ok(expected)
}

fn check_point(
    store: &Store,
    state: &CollectionState,
    reader: &Reader,
    row: Row,
    record: &[u8],
) -> Result<StoredPoint> {
    let point = stored::decode(record, true, true)?;
    let on_disk = fetch::row_on_disk(store, state.number, &point.id)?;
    match state.row_in(reader.generation(), &point.id, on_disk) {
        Some(its_row) if its_row == row => Ok(point),
        other => Err(Error::Damaged {
            what: format!("point {} in row {row}", point.id),
            detail: format!("its id leads to {other:?}"),
        }),
    }
}

fn vectors(
    store: &Store,
    state: &CollectionState,
    generation: &Generation,
    place: usize,
    expected: &RoaringBitmap,
    report: &mut VerifyReport,
) -> Result<()> {
    let view = &generation.vectors[place];
    let mut missing = expected.clone();
    let mut vector = Vec::new();
    store.scan(Tree::Points, &key::vectors(state.number, place as u8), |key, value| {
        let Some(row) = key::parse_row(key).filter(|row| missing.remove(*row)) else {
            return Ok(ControlFlow::Continue(()));
        };
        report.vectors_checked += 1;
        vector.clear();
        let bytes = record::unseal(key, value, || format!("vector {place} in row {row}"));
        finding(bytes.and_then(|bytes| stored::decode_vector(bytes, view.dim, &mut vector)), report)?;
        Ok(ControlFlow::Continue(()))
    })?;
    for row in missing {
        let what = format!("vector {place} in row {row}");
        report.damages.push(Damage { what, detail: "it is missing".to_owned() });
    }
    let indexed: RoaringBitmap = view.buffer.vectors(view.dim).map(|(row, _)| row).collect();
    let indexed = view.segments.iter().fold(indexed, |rows, s| rows | s.segment.row_set());
    for row in expected - indexed {
        let what = format!("vector {place} in row {row}");
        report.damages.push(Damage { what, detail: "it is neither buffered nor in a segment".to_owned() });
    }
    Ok(())
}

fn tokens(
    store: &Store,
    state: &CollectionState,
    place: usize,
    mut missing: RoaringBitmap,
    report: &mut VerifyReport,
) -> Result<()> {
    let shape = *state.config.tokens.values().nth(place).expect("a place of the configuration");
    store.scan(Tree::Points, &key::all_tokens(state.number, place as u8), |key, value| {
        let Some(row) = key::parse_row(key).filter(|row| missing.remove(*row)) else {
            return Ok(ControlFlow::Continue(()));
        };
        report.tokens_checked += 1;
        let bytes = record::unseal(key, value, || fetch::tokens_name(place, row));
        finding(bytes.and_then(|bytes| stored::decode_tokens(bytes, shape)), report)?;
        Ok(ControlFlow::Continue(()))
    })?;
    for row in missing {
        finding(Err::<(), _>(fetch::missing(fetch::tokens_name(place, row))), report)?;
    }
    Ok(())
}

fn attachments(store: &Store, state: &CollectionState, report: &mut VerifyReport) -> Result<()> {
    for name in finding(attachment::names(store, state.number), report)?.unwrap_or_default() {
        report.attachments_checked += 1;
        finding(attachment::read(store, state.number, &name), report)?;
    }
    Ok(())
}

fn texts(engine: &Engine, state: &CollectionState, expected: &RoaringBitmap, report: &mut VerifyReport) -> Result<()> {
    let checked = match state.words.check(engine, state, expected) {
        // It cannot be brought up to date, so there is nothing to compare with.
        Err(error @ Error::DiskFull { .. }) => {
            tracing::warn!(collection = state.name, %error, "full text is not checked");
            return Ok(());
        }
        checked => checked?,
    };
    let Some(checked) = checked else { return Ok(()) };
    report.texts_checked = checked.n_rows;
    for damage in checked.damages {
        finding(Err::<(), _>(damage), report)?;
    }
    Ok(())
}

fn segments(store: &Store, state: &CollectionState, place: usize, report: &mut VerifyReport) -> Result<()> {
    let place = Place { collection: state.number, vector: place as u8 };
    // A segment that is replaced while it is read looks damaged: then the manifest has changed.
    let found = loop {
        let before = manifest::read_manifest(store, place);
        let found = manifest::read(store, place)?;
        if found.damages.is_empty() || before.ok() == manifest::read_manifest(store, place).ok() {
            break found;
        }
    };
    report.segments_checked += (found.segments.len() + found.damages.len()) as u64;
    for damage in found.damages {
        finding(Err::<(), _>(damage), report)?;
    }
    Ok(())
}

fn audit(generation: &Generation, place: usize, report: &mut VerifyReport) {
    let to_the_end = AtomicBool::new(false);
    for view in &generation.vectors[place].segments {
        let lost = graph::lost_nodes(&view.segment.graph, &view.segment.vectors, &to_the_end);
        report.unreachable_vectors += lost.map_or(0, |lost| lost.len()) as u64;
    }
}

fn finding<T>(checked: Result<T>, report: &mut VerifyReport) -> Result<Option<T>> {
    match checked {
        Ok(value) => Ok(Some(value)),
        Err(Error::Damaged { what, detail }) => {
            report.damages.push(Damage { what, detail });
            Ok(None)
        }
        Err(other) => Err(other),
    }
}
