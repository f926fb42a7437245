//! One thread runs the networks of a device, so that calls do not fight for it. Jobs that wait together go through a
//! network as one batch; a job whose call is gone is dropped.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Instant,
};

use firn_model::{
    Encoder, ImageEmbedding, Keep, ModelInfo, Pixels, Result, TextEmbedding,
    fusion::{Items, Scorer},
};
use image::RgbImage;

use super::{metrics::Metrics, work};
use crate::reranker::SharedScorer;

/// Jobs that wait; the next one waits outside.
const QUEUE: usize = 256;
const MAX_TEXTS: usize = 64;
const MAX_IMAGES: usize = 32;
const MAX_PAIRS: usize = 4096;

/// The thread of one device.
pub struct Device {
    jobs: SyncSender<Job>,
    metrics: Arc<Metrics>,
}

impl Device {
    /// The thread ends when the device and all encoders made by `share` are gone.
    pub fn start(metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let (jobs, received) = sync_channel(QUEUE);
        let counted = metrics.clone();
        thread::Builder::new().name("device".to_owned()).spawn(move || run(&received, &counted))?;
        Ok(Device { jobs, metrics })
    }

    /// The same fusion network, run by this thread: the pairs of queries that wait together are one batch.
    pub fn share_scorer(&self, scorer: SharedScorer) -> SharedScorer {
        Arc::new(Queued { scorer, jobs: self.jobs.clone(), metrics: self.metrics.clone() })
    }

    /// The same encoder, run by this thread.
    pub fn share(&self, encoder: Arc<dyn Encoder>) -> Arc<dyn Encoder> {
        Arc::new(Shared { encoder, jobs: self.jobs.clone(), metrics: self.metrics.clone() })
    }
}

struct Shared {
    encoder: Arc<dyn Encoder>,
    jobs: SyncSender<Job>,
    metrics: Arc<Metrics>,
}

impl Encoder for Shared {
    fn info(&self) -> &ModelInfo {
        self.encoder.info()
    }

    fn preprocess(&self, picture: &RgbImage) -> Result<Pixels> {
        self.encoder.preprocess(picture)
    }

    fn embed_images(&self, images: &[Pixels], keep: Keep) -> Result<Vec<ImageEmbedding>> {
        self.in_turn(images, MAX_IMAGES, keep, |images, reply| Inputs::Images(images.to_vec(), reply))
    }

    fn embed_unseen_texts(&self, ids: &[&str], texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        // Nobody waits for it in a query.
        self.encoder.embed_unseen_texts(ids, texts, keep)
    }

    fn fold_of(&self, id: &str) -> Result<Option<usize>> {
        self.encoder.fold_of(id)
    }

    fn embed_texts(&self, texts: &[&str], keep: Keep) -> Result<Vec<TextEmbedding>> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        self.in_turn(texts, MAX_TEXTS, keep, |texts, reply| Inputs::Texts(owned(texts), reply))
    }
}

impl Shared {
    /// Piece by piece, so that a long job lets short ones through.
    fn in_turn<I, O>(
        &self,
        inputs: &[I],
        piece: usize,
        keep: Keep,
        job: impl Fn(&[I], SyncSender<Result<Vec<O>>>) -> Inputs,
    ) -> Result<Vec<O>> {
        let mut outputs = Vec::with_capacity(inputs.len());
        for inputs in inputs.chunks(piece) {
            let (reply, answer) = sync_channel(1);
            let (network, call) = (Network::Encoder(self.encoder.clone()), work::current());
            let job = Job { network, inputs: job(inputs, reply), keep, call, deadline: None };
            self.metrics.inference_queue.increment(1.0);
            // The thread lives while we hold a sender; it gives up a job by dropping its reply.
            let answer = self.jobs.send(job).ok().and_then(|()| answer.recv().ok());
            // Unwinds without a message: either the call is gone, or the thread has told of its panic.
            outputs.extend(answer.unwrap_or_else(|| resume_unwind(Box::new("the job was given up")))?);
        }
        Ok(outputs)
    }
}

/// A fusion network behind the queue.
struct Queued {
    scorer: SharedScorer,
    jobs: SyncSender<Job>,
    metrics: Arc<Metrics>,
}

impl Queued {
    fn ask(
        &self,
        (images, texts): (&Items, &Items),
        pairs: &[(usize, usize)],
        deadline: Option<Instant>,
    ) -> Result<Option<Vec<f32>>> {
        let (reply, answer) = sync_channel(1);
        let pairs = Box::new(Pairs { images: images.clone(), texts: texts.clone(), places: pairs.to_vec() });
        let network = Network::Scorer(self.scorer.clone());
        let (inputs, call) = (Inputs::Pairs(pairs, reply), work::current());
        let job = Job { network, inputs, keep: Keep::Nothing, call, deadline };
        self.metrics.inference_queue.increment(1.0);
        let answer = match (self.jobs.send(job), deadline) {
            (Err(_), _) => None,
            (Ok(()), None) => answer.recv().ok(),
            (Ok(()), Some(deadline)) => {
                match answer.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    Ok(answer) => Some(answer),
                    // Also where the thread has dropped it because it came too late.
                    Err(_) if Instant::now() >= deadline => return Ok(None),
                    Err(_) => None,
                }
            }
        };
        // A query goes on without its network, unless nobody waits for it any more.
        match answer {
            Some(logits) => logits.map(Some),
            None if work::current().is_some_and(|call| call.is_gone()) => {
                resume_unwind(Box::new("the job was given up"))
            }
            None => Err(firn_model::Error::GivenUp),
        }
    }
}

impl Scorer for Queued {
    fn score(&self, images: &Items, texts: &Items, pairs: &[(usize, usize)]) -> Result<Vec<f32>> {
        let logits = self.ask((images, texts), pairs, None)?;
        Ok(logits.expect("without a deadline nothing is too late"))
    }

    fn score_by(
        &self,
        images: &Items,
        texts: &Items,
        pairs: &[(usize, usize)],
        deadline: Instant,
    ) -> Result<Option<Vec<f32>>> {
        self.ask((images, texts), pairs, Some(deadline))
    }
}

struct Job {
    network: Network,
    inputs: Inputs,
    keep: Keep,
    call: Option<work::Call>,
    /// After it nobody wants the answer.
    deadline: Option<Instant>,
}

enum Network {
    Encoder(Arc<dyn Encoder>),
    Scorer(SharedScorer),
}

impl Network {
    fn is(&self, other: &Network) -> bool {
        match (self, other) {
            (Network::Encoder(one), Network::Encoder(other)) => Arc::ptr_eq(one, other),
            (Network::Scorer(one), Network::Scorer(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

enum Inputs {
    Texts(Vec<String>, SyncSender<Result<Vec<TextEmbedding>>>),
    Images(Vec<Pixels>, SyncSender<Result<Vec<ImageEmbedding>>>),
    Pairs(Box<Pairs>, SyncSender<Result<Vec<f32>>>),
}

/// What one query wants looked at: (text, image) by their places.
struct Pairs {
    images: Items,
    texts: Items,
    places: Vec<(usize, usize)>,
}

fn run(jobs: &Receiver<Job>, metrics: &Metrics) {
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Ok(job) = jobs.recv() else { return };
            waiting.push_back(job);
        }
        waiting.extend(jobs.try_iter());
        waiting.retain(|job: &Job| {
            let is_late = job.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            let wanted = !is_late && !job.call.as_ref().is_some_and(work::Call::is_gone);
            if !wanted {
                metrics.inference_queue.decrement(1.0);
            }
            wanted
        });
        let batch = next_batch(&mut waiting);
        metrics.inference_queue.decrement(batch.len() as f64);
        // A network that panics gives up its batch, not the thread.
        let _ = catch_unwind(AssertUnwindSafe(|| embed(batch, metrics)));
    }
}

/// The job that waits longest, and those that can go with it.
fn next_batch(waiting: &mut VecDeque<Job>) -> Vec<Job> {
    let Some(first) = waiting.pop_front() else { return Vec::new() };
    let mut size = first.inputs.len();
    let mut batch = vec![first];
    let mut rest = VecDeque::with_capacity(waiting.len());
    for job in waiting.drain(..) {
        if batch[0].goes_with(&job) && size + job.inputs.len() <= job.inputs.max() {
            size += job.inputs.len();
            batch.push(job);
        } else {
            rest.push_back(job);
        }
    }
    *waiting = rest;
    batch
}

impl Job {
    fn goes_with(&self, other: &Job) -> bool {
        let same_kind = std::mem::discriminant(&self.inputs) == std::mem::discriminant(&other.inputs);
        same_kind && self.keep == other.keep && self.network.is(&other.network)
    }
}

impl Inputs {
    fn len(&self) -> usize {
        match self {
            Inputs::Texts(texts, _) => texts.len(),
            Inputs::Images(images, _) => images.len(),
            Inputs::Pairs(pairs, _) => pairs.places.len(),
        }
    }

    fn max(&self) -> usize {
        match self {
            Inputs::Texts(..) => MAX_TEXTS,
            Inputs::Images(..) => MAX_IMAGES,
            Inputs::Pairs(..) => MAX_PAIRS,
        }
    }
}

fn embed(batch: Vec<Job>, metrics: &Metrics) {
    let (mut texts, mut images, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut network, mut keep) = (None, Keep::Nothing);
    for job in batch {
        (network, keep) = (Some(job.network), job.keep);
        match job.inputs {
            Inputs::Texts(inputs, reply) => texts.push((inputs, reply)),
            Inputs::Images(inputs, reply) => images.push((inputs, reply)),
            Inputs::Pairs(inputs, reply) => pairs.push((inputs, reply)),
        }
    }
    let encoder = match network {
        None => return,
        Some(Network::Scorer(scorer)) => {
            let size = look_at(scorer.as_ref(), pairs);
            metrics.pair_batch.record(size as f64);
            return;
        }
        Some(Network::Encoder(encoder)) => encoder,
    };
    if !texts.is_empty() {
        let size = together(texts, |texts| {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            encoder.embed_texts(&texts, keep)
        });
        metrics.text_batch.record(size as f64);
    }
    if !images.is_empty() {
        let size = together(images, |images| encoder.embed_images(images, keep));
        metrics.image_batch.record(size as f64);
    }
}

/// What one query wants looked at, and where it waits for the answer.
type PairsJob = (Box<Pairs>, SyncSender<Result<Vec<f32>>>);

/// Scores the pairs of all jobs at once and answers each; if that fails, each alone.
fn look_at(scorer: &dyn Scorer, jobs: Vec<PairsJob>) -> usize {
    let (mut images, mut texts, mut places) =
        (jobs[0].0.images.clone(), jobs[0].0.texts.clone(), jobs[0].0.places.clone());
    for (pairs, _) in &jobs[1..] {
        let (first_text, first_image) = (texts.n(), images.n());
        images.append(&pairs.images);
        texts.append(&pairs.texts);
        places.extend(pairs.places.iter().map(|(text, image)| (first_text + text, first_image + image)));
    }
    match scorer.score(&images, &texts, &places) {
        Ok(logits) => {
            let mut logits = logits.into_iter();
            for (pairs, reply) in jobs {
                let _ = reply.send(Ok(logits.by_ref().take(pairs.places.len()).collect()));
            }
        }
        Err(_) => {
            for (pairs, reply) in jobs {
                let _ = reply.send(scorer.score(&pairs.images, &pairs.texts, &pairs.places));
            }
        }
    }
    places.len()
}

/// What one call wants embedded, and where it waits for the answer.
type Call<I, O> = (Vec<I>, SyncSender<Result<Vec<O>>>);

/// Runs the inputs of all jobs at once and answers each; if that fails, runs each alone, so that an error stays its own.
fn together<I, O>(jobs: Vec<Call<I, O>>, embed: impl Fn(&[I]) -> Result<Vec<O>>) -> usize {
    let lengths: Vec<usize> = jobs.iter().map(|(inputs, _)| inputs.len()).collect();
    let (inputs, replies): (Vec<Vec<I>>, Vec<_>) = jobs.into_iter().unzip();
    let all: Vec<I> = inputs.into_iter().flatten().collect();
    let mut rest = all.as_slice();
    let mut pieces = Vec::with_capacity(lengths.len());
    for length in &lengths {
        let (piece, after) = rest.split_at(*length);
        pieces.push(piece);
        rest = after;
    }
    // A caller that is gone has dropped its receiver; its answer is dropped too.
    match embed(&all) {
        Ok(outputs) => {
            let mut outputs = outputs.into_iter();
            for (length, reply) in lengths.into_iter().zip(replies) {
                let _ = reply.send(Ok(outputs.by_ref().take(length).collect()));
            }
        }
        Err(error) if replies.len() == 1 => {
            let _ = replies[0].send(Err(error));
        }
        Err(_) => {
            for (piece, reply) in pieces.into_iter().zip(replies) {
                let _ = reply.send(embed(piece));
            }
        }
    }
    all.len()
}

#[cfg(test)]
mod tests;
