//! The stages of a run, each on its own thread: read -> prepare -> embed -> write.
//!
//! Channels are short and a gate bounds the bytes between the first stage and the acknowledged write, so the slowest stage sets
//! the pace and memory does not grow with the sources. What fails travels on as a refusal and ends in the report.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use firn_index::{CollectionConfig, NewPoint};
use firn_model::Encoder;
use rayon::prelude::*;

use crate::{
    ItemError,
    embed::{self, Encoders, Input, Prepared},
    gate::{Gate, Permit},
    identity::{IdFrom, Identified, Key, id_hash, identify},
    journal::{Journal, JournalError, Settled, Written},
    report::{Report, SkippedItem, SourceReport, Watch},
    sink::{Outcome, Sink, SinkError, Ticket},
    source::{Kind, Source},
};

/// Items that are decoded at a time.
const PREPARE: usize = 32;
/// A batch that is not full is written after this long.
const FLUSH_AFTER: Duration = Duration::from_secs(2);
/// How often answers of the sink are asked for while nothing is ready to be written.
const ASK_AFTER: Duration = Duration::from_millis(50);

/// Limits as DEFAULT / MIN / MAX.
pub const DEFAULT_BATCH: usize = 256;
pub const MIN_BATCH: usize = 1;
pub const MAX_BATCH: usize = 10_000;
pub const DEFAULT_BYTES_IN_FLIGHT: usize = 256 << 20;

/// What a run needs.
pub struct Job {
    /// As the report names it.
    pub collection: String,
    pub config: CollectionConfig,
    pub sources: Vec<Source>,
    /// Those that the points need; none where the sink embeds, or every point brings its vectors.
    pub encoders: Vec<Arc<dyn Encoder>>,
    pub journal: Journal,
    pub journal_path: PathBuf,
    pub written: Written,
    pub id_from: IdFrom,
    /// Points that are written at a time.
    pub batch: usize,
    pub bytes_in_flight: usize,
    /// Set from outside to stop soon: what is embedded by then is still written.
    pub stop: Arc<AtomicBool>,
    pub watch: Arc<Watch>,
}

/// Why a run ended early. What was written until then is in the journal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    #[error("{0}")]
    Sink(SinkError),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Reads all sources and writes their points. The report is true also when an error comes with it.
pub fn run(job: Job, sink: &mut dyn Sink) -> (Report, Result<(), RunError>) {
    let started = Instant::now();
    let Job { sources, encoders, journal, mut written, .. } = job;
    let mut report = Report { collection: job.collection, journal: Some(job.journal_path), ..Report::default() };
    report.sources = sources.iter().map(|s| SourceReport { path: s.path.clone(), kind: s.kind }).collect();
    if let Err(error) = forget_lost(&mut written, sink) {
        return (report, Err(RunError::Sink(error)));
    }
    let gate = Gate::new(job.bytes_in_flight);
    let reading =
        Reading { id_from: job.id_from, written, seen: HashMap::new(), gate, watch: &job.watch, stop: &job.stop };
    let embeds = sink.needs_vectors();
    let encoders: Vec<&dyn Encoder> = encoders.iter().map(AsRef::as_ref).collect();
    let encoders = encoders.as_slice();
    let config = &job.config;
    let stop: &AtomicBool = &job.stop;

    let result = thread::scope(|scope| {
        let (read_out, read_in) = sync_channel(PREPARE);
        let (write_out, write_in) = sync_channel(2);
        scope.spawn(move || reading.run(sources, &read_out));
        if embeds {
            let (prepare_out, prepare_in) = sync_channel(2);
            scope.spawn(move || stage(read_in, PREPARE, stop, &prepare_out, |batch| prepare(encoders, config, batch)));
            let step = embed::step(encoders);
            scope.spawn(move || {
                stage_of_batches(prepare_in, step, stop, &write_out, |batch| finish(encoders, config, batch, stop));
            });
        } else {
            scope.spawn(move || stage(read_in, PREPARE, stop, &write_out, |batch| batch));
        }
        let mut writing = Writing {
            sink,
            journal,
            report: &mut report,
            watch: &job.watch,
            batch_size: job.batch.clamp(MIN_BATCH, MAX_BATCH),
            batch_bytes: job.bytes_in_flight / 4,
            batch: Vec::new(),
            bytes: 0,
            on_their_way: HashMap::new(),
            next_ticket: 0,
        };
        writing.run(write_in)
    });

    report.read = job.watch.read.load(Relaxed);
    report.unchanged = job.watch.unchanged.load(Relaxed);
    report.duplicates = job.watch.duplicates.load(Relaxed);
    report.ignored_files = job.watch.ignored_files();
    report.interrupted = stop.load(Relaxed);
    report.seconds = started.elapsed().as_secs_f64();
    report.points_per_second = report.written as f64 / report.seconds.max(1e-9);
    (report, result)
}

/// Believes the journal about points that are still there: the others are read and written again.
fn forget_lost(written: &mut Written, sink: &mut dyn Sink) -> Result<(), SinkError> {
    if !written.is_empty() {
        let mut kept = Written::default();
        sink.each_id(&mut |id| kept.take(written, id_hash(id)))?;
        *written = kept;
    }
    Ok(())
}

/// An item on its way through the stages, or why it goes no further.
struct Parcel<T> {
    label: Label,
    content: Result<T, Outcome>,
}

struct Label {
    source: usize,
    name: String,
    /// None: it could not be read.
    key: Option<Key>,
    truncated_texts: usize,
    /// Held until the item is settled.
    permit: Option<Permit>,
}

impl<T> Parcel<T> {
    fn map<U>(self, change: impl FnOnce(T, &mut Label) -> Result<U, ItemError>) -> Parcel<U> {
        let Parcel { mut label, content } = self;
        let content = content.and_then(|content| change(content, &mut label).map_err(|error| Outcome::from(&error)));
        Parcel { label, content }
    }
}

/// The first stage: items from sources, without those that an earlier run or an earlier item has made.
struct Reading<'a> {
    id_from: IdFrom,
    written: Written,
    /// Bodies by id.
    seen: HashMap<u128, u128>,
    gate: Arc<Gate>,
    watch: &'a Watch,
    stop: &'a AtomicBool,
}

impl Reading<'_> {
    fn run(mut self, sources: Vec<Source>, out: &SyncSender<Parcel<Input>>) {
        for (place, source) in sources.into_iter().enumerate() {
            let kind = source.kind;
            for next in source.items {
                if self.stop.load(Relaxed) {
                    return;
                }
                self.watch.read.fetch_add(1, Relaxed);
                let label = |name, key, permit| Label { source: place, name, key, truncated_texts: 0, permit };
                let parcel = match next {
                    Err(skipped) => {
                        let (reason, message) = (skipped.fault.reason().to_owned(), skipped.fault.to_string());
                        let content = Err(Outcome::Refused { reason, message });
                        Some(Parcel { label: label(skipped.name, None, None), content })
                    }
                    Ok(item) => {
                        let (name, given) = (item.name.clone(), item.id.is_some().then_some(kind));
                        let item = identify(item, self.id_from);
                        self.fresh(&item, given).map(|content| {
                            let Identified { input, key, .. } = item;
                            let permit = content.is_ok().then(|| self.gate.enter(input.bytes()));
                            Parcel { label: label(name, Some(key), permit), content: content.map(|()| input) }
                        })
                    }
                };
                if parcel.is_some_and(|parcel| out.send(parcel).is_err()) {
                    return;
                }
            }
        }
    }

    /// None for an item that needs nothing done. `given`: its id was, by a source of this kind.
    fn fresh(&mut self, item: &Identified, given: Option<Kind>) -> Option<Result<(), Outcome>> {
        if let Some(&body) = self.seen.get(&item.key.id) {
            if let Some(kind) = given
                && body != item.body
            {
                return Some(Err(duplicate_id(&item.input, kind)));
            }
            self.watch.duplicates.fetch_add(1, Relaxed);
            return None;
        }
        self.seen.insert(item.key.id, item.body);
        if self.written.contains(item.key) {
            self.watch.unchanged.fetch_add(1, Relaxed);
            return None;
        }
        Some(Ok(()))
    }
}

fn duplicate_id(input: &Input, kind: Kind) -> Outcome {
    let (id, place) = (&input.id, kind.place_of_ids());
    let message = format!(
        "an earlier item of this run has the id \"{id}\" too, with other content: only that one is written (hint: give each \
         item an id of its own, {place})"
    );
    Outcome::Refused { reason: "duplicate_id".to_owned(), message }
}

/// A stage that takes what is ready, up to `most` items at a time.
fn stage<T, U>(
    input: Receiver<T>,
    most: usize,
    stop: &AtomicBool,
    out: &SyncSender<Vec<U>>,
    work: impl Fn(Vec<T>) -> Vec<U>,
) {
    while let Ok(first) = input.recv() {
        let batch: Vec<T> = std::iter::once(first).chain(input.try_iter().take(most - 1)).collect();
        if stop.load(Relaxed) || out.send(work(batch)).is_err() {
            return;
        }
    }
}

/// The same for batches that come in batches: smaller ones are joined, larger ones are cut.
fn stage_of_batches<T, U>(
    input: Receiver<Vec<T>>,
    most: usize,
    stop: &AtomicBool,
    out: &SyncSender<Vec<U>>,
    work: impl Fn(Vec<T>) -> Vec<U>,
) {
    while let Ok(mut batch) = input.recv() {
        while batch.len() < most
            && let Ok(more) = input.try_recv()
        {
            batch.extend(more);
        }
        while !batch.is_empty() {
            let rest = batch.split_off(batch.len().min(most));
            if stop.load(Relaxed) || out.send(work(batch)).is_err() {
                return;
            }
            batch = rest;
        }
    }
}

fn prepare(encoders: Encoders<'_>, config: &CollectionConfig, batch: Vec<Parcel<Input>>) -> Vec<Parcel<Prepared>> {
    let one = |input, label: &mut Label| {
        let prepared = embed::prepare(encoders, config, input)?;
        if let Some(permit) = &mut label.permit {
            permit.resize(prepared.bytes());
        }
        Ok(prepared)
    };
    batch.into_par_iter().map(|parcel| parcel.map(one)).collect()
}

/// What is not embedded because the run was stopped goes no further, and is settled in no way.
fn finish(
    encoders: Encoders<'_>,
    config: &CollectionConfig,
    batch: Vec<Parcel<Prepared>>,
    stop: &AtomicBool,
) -> Vec<Parcel<Input>> {
    let mut refused = Vec::new();
    let (mut labels, mut prepared) = (Vec::new(), Vec::new());
    for Parcel { label, content } in batch {
        match content {
            Ok(content) => {
                labels.push(label);
                prepared.push(Ok(content));
            }
            Err(outcome) => refused.push(Parcel { label, content: Err(outcome) }),
        }
    }
    let embedded = embed::finish(encoders, config, prepared, stop);
    let settled = labels.into_iter().zip(embedded).filter(|(_, e)| !matches!(e, Err(ItemError::Stopped)));
    let done = settled.map(|(label, embedded)| {
        Parcel { label, content: Ok(embedded) }.map(|embedded, label| {
            let embedded = embedded?;
            label.truncated_texts = embedded.truncations.len();
            let NewPoint { id, texts, payload, vectors, tokens } = embedded.point;
            let input = Input { id, image: None, texts, payload, vectors, tokens };
            if let Some(permit) = &mut label.permit {
                permit.resize(input.bytes());
            }
            Ok(input)
        })
    });
    done.chain(refused).collect()
}

/// The last stage: batches to the sink, answers to the journal and the report.
struct Writing<'a> {
    sink: &'a mut dyn Sink,
    journal: Journal,
    report: &'a mut Report,
    watch: &'a Watch,
    batch_size: usize,
    batch_bytes: usize,
    batch: Vec<(Label, Input)>,
    bytes: usize,
    on_their_way: HashMap<Ticket, Label>,
    next_ticket: Ticket,
}

impl Writing<'_> {
    fn run(&mut self, input: Receiver<Vec<Parcel<Input>>>) -> Result<(), RunError> {
        let mut flushed = Instant::now();
        loop {
            let wait = if self.batch.is_empty() && self.on_their_way.is_empty() { FLUSH_AFTER } else { ASK_AFTER };
            match input.recv_timeout(wait) {
                Ok(parcels) => self.take(parcels)?,
                Err(RecvTimeoutError::Timeout) if !self.on_their_way.is_empty() => self.put(Vec::new())?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if flushed.elapsed() >= FLUSH_AFTER {
                self.flush()?;
                flushed = Instant::now();
            }
        }
        self.flush()?;
        while !self.on_their_way.is_empty() {
            let missing = self.on_their_way.len();
            self.ask(|sink, settled| sink.wait(settled))?;
            assert!(self.on_their_way.len() < missing, "a sink that waits adds an answer");
        }
        self.sink.finish().map_err(RunError::Sink)
    }

    fn take(&mut self, parcels: Vec<Parcel<Input>>) -> Result<(), RunError> {
        let mut refused = Vec::new();
        for Parcel { label, content } in parcels {
            match content {
                Ok(input) => {
                    self.bytes += input.bytes();
                    self.batch.push((label, input));
                    if self.batch.len() >= self.batch_size || self.bytes >= self.batch_bytes {
                        self.flush()?;
                    }
                }
                Err(outcome) => refused.push((label, outcome)),
            }
        }
        self.record(refused)
    }

    fn flush(&mut self) -> Result<(), RunError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let mut batch = Vec::with_capacity(self.batch.len());
        for (label, input) in self.batch.drain(..) {
            if let Some(key) = label.key {
                self.sink.announce(self.next_ticket, key);
            }
            self.on_their_way.insert(self.next_ticket, label);
            batch.push((self.next_ticket, input));
            self.next_ticket += 1;
        }
        self.put(batch)
    }

    fn put(&mut self, batch: Vec<(Ticket, Input)>) -> Result<(), RunError> {
        self.ask(|sink, settled| sink.put(batch, settled))
    }

    /// Answers count even when an error comes with them.
    fn ask(
        &mut self,
        ask: impl FnOnce(&mut dyn Sink, &mut Vec<(Ticket, Outcome)>) -> Result<(), SinkError>,
    ) -> Result<(), RunError> {
        let mut settled = Vec::new();
        let result = ask(self.sink, &mut settled).map_err(RunError::Sink);
        self.settle(settled)?;
        result
    }

    fn settle(&mut self, settled: Vec<(Ticket, Outcome)>) -> Result<(), RunError> {
        let labelled = |(ticket, outcome)| Some((self.on_their_way.remove(&ticket)?, outcome));
        let labelled = settled.into_iter().filter_map(labelled).collect();
        self.record(labelled)
    }

    /// To the journal first: what the report calls written is never read again.
    fn record(&mut self, settled: Vec<(Label, Outcome)>) -> Result<(), RunError> {
        let lines: Vec<(Key, Settled<'_>)> = settled.iter().filter_map(|(l, o)| Some((l.key?, line(o)))).collect();
        self.journal.record(&lines)?;
        for (label, outcome) in settled {
            match outcome {
                Outcome::Written { truncated_texts } => {
                    self.report.written += 1;
                    let n_truncated = label.truncated_texts + truncated_texts;
                    self.report.truncate(n_truncated, label.source, &label.name);
                    self.watch.written.fetch_add(1, Relaxed);
                }
                Outcome::Refused { reason, message } => {
                    let source = self.report.sources[label.source].path.clone();
                    self.report.skip(SkippedItem { source, item: label.name, reason, message });
                    self.watch.skipped.fetch_add(1, Relaxed);
                }
            }
        }
        Ok(())
    }
}

fn line(outcome: &Outcome) -> Settled<'_> {
    match outcome {
        Outcome::Written { .. } => Settled::Written,
        Outcome::Refused { reason, .. } => Settled::Skipped(reason),
    }
}
