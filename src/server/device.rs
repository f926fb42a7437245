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
};

use firn_model::{Encoder, ImageEmbedding, Keep, ModelInfo, Pixels, Result, TextEmbedding};
use image::RgbImage;

use super::{metrics::Metrics, work};

/// Jobs that wait; the next one waits outside.
const QUEUE: usize = 256;
const MAX_TEXTS: usize = 64;
const MAX_IMAGES: usize = 32;

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
            let (encoder, call) = (self.encoder.clone(), work::current());
            let job = Job { encoder, inputs: job(inputs, reply), keep, call };
            self.metrics.inference_queue.increment(1.0);
            // The thread lives while we hold a sender; it gives up a job by dropping its reply.
            let answer = self.jobs.send(job).ok().and_then(|()| answer.recv().ok());
            // Unwinds without a message: either the call is gone, or the thread has told of its panic.
            outputs.extend(answer.unwrap_or_else(|| resume_unwind(Box::new("the job was given up")))?);
        }
        Ok(outputs)
    }
}

struct Job {
    encoder: Arc<dyn Encoder>,
    inputs: Inputs,
    keep: Keep,
    call: Option<work::Call>,
}

enum Inputs {
    Texts(Vec<String>, SyncSender<Result<Vec<TextEmbedding>>>),
    Images(Vec<Pixels>, SyncSender<Result<Vec<ImageEmbedding>>>),
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
            let wanted = !job.call.as_ref().is_some_and(work::Call::is_gone);
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
        same_kind && self.keep == other.keep && Arc::ptr_eq(&self.encoder, &other.encoder)
    }
}

impl Inputs {
    fn len(&self) -> usize {
        match self {
            Inputs::Texts(texts, _) => texts.len(),
            Inputs::Images(images, _) => images.len(),
        }
    }

    fn max(&self) -> usize {
        match self {
            Inputs::Texts(..) => MAX_TEXTS,
            Inputs::Images(..) => MAX_IMAGES,
        }
    }
}

fn embed(batch: Vec<Job>, metrics: &Metrics) {
    let Some((encoder, keep)) = batch.first().map(|job| (job.encoder.clone(), job.keep)) else { return };
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for job in batch {
        match job.inputs {
            Inputs::Texts(inputs, reply) => texts.push((inputs, reply)),
            Inputs::Images(inputs, reply) => images.push((inputs, reply)),
        }
    }
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
pub mod tests {
    use std::sync::{Condvar, Mutex};

    use firn_model::Error;

    use super::*;

    /// Says a text's length; stops at a gate so that a test can let jobs pile up. Notes the size of each batch.
    struct Slow {
        info: ModelInfo,
        open: Mutex<bool>,
        opened: Condvar,
        batches: Mutex<Vec<usize>>,
    }

    impl Slow {
        fn new() -> Arc<Self> {
            let info = ModelInfo {
                name: "slow".into(),
                family: "test".into(),
                hash: String::new(),
                dim: 1,
                image_side_px: 1,
                max_text_tokens: 1,
                image_token_dim: 0,
                text_tokens: None,
                parameters: 0,
                device: "cpu".into(),
                weights_bytes: 0,
                batch_bytes: 0,
                sigmoid: None,
            };
            Arc::new(Slow { info, open: Mutex::new(false), opened: Condvar::new(), batches: Mutex::default() })
        }

        fn open(&self) {
            *self.open.lock().unwrap() = true;
            self.opened.notify_all();
        }
    }

    impl Encoder for Slow {
        fn info(&self) -> &ModelInfo {
            &self.info
        }

        fn preprocess(&self, _: &RgbImage) -> Result<Pixels> {
            Ok(Pixels { side: 1, values: vec![0.0; 3] })
        }

        fn embed_images(&self, images: &[Pixels], _keep: Keep) -> Result<Vec<ImageEmbedding>> {
            let embed = |image: &Pixels| ImageEmbedding { embedding: vec![image.values[0]], fusion_tokens: None };
            Ok(images.iter().map(embed).collect())
        }

        fn embed_texts(&self, texts: &[&str], _keep: Keep) -> Result<Vec<TextEmbedding>> {
            let mut open = self.open.lock().unwrap();
            self.batches.lock().unwrap().push(texts.len());
            self.opened.notify_all();
            while !*open {
                open = self.opened.wait(open).unwrap();
            }
            drop(open);
            assert!(!texts.contains(&"panic"), "asked to panic");
            if texts.contains(&"") {
                return Err(Error::EmptyText);
            }
            let embed = |text: &&str| TextEmbedding {
                embedding: vec![text.len() as f32],
                tokens_used: 1,
                tokens_cut: 0,
                fusion_tokens: None,
            };
            Ok(texts.iter().map(embed).collect())
        }
    }

    type Answer = thread::Result<Result<Vec<TextEmbedding>>>;

    /// Starts a job that holds the thread, then `texts`, one call each, all waiting before the thread is let go.
    fn pile_up(texts: &[&'static str]) -> (Vec<Answer>, Vec<usize>) {
        let slow = Slow::new();
        let (jobs, received) = sync_channel(QUEUE);
        let device = Device { jobs, metrics: Metrics::new() };
        let encoder = device.share(slow.clone());
        let call = |text: &'static str| {
            let encoder = encoder.clone();
            thread::spawn(move || encoder.embed_texts(&[text], Keep::Nothing))
        };
        let calls: Vec<_> = texts.iter().map(|text| call(text)).collect();
        // Nobody takes jobs yet: gather all, then feed the thread at once.
        let gathered: Vec<Job> = texts.iter().map(|_| received.recv().unwrap()).collect();
        slow.open();
        let (again, fed) = sync_channel(QUEUE);
        for job in gathered {
            again.send(job).unwrap();
        }
        drop(again);
        let metrics = Metrics::new();
        run(&fed, &metrics);
        let answers = calls.into_iter().map(|call| call.join()).collect();
        let batches = slow.batches.lock().unwrap().clone();
        (answers, batches)
    }

    #[test]
    fn waiting_texts_go_through_as_one_batch() {
        let (answers, batches) = pile_up(&["a", "bb", "ccc"]);
        let mut lengths: Vec<f32> = answers.into_iter().map(|a| a.unwrap().unwrap()[0].embedding[0]).collect();
        lengths.sort_by(f32::total_cmp);
        assert_eq!((lengths, batches), (vec![1.0, 2.0, 3.0], vec![3]));
    }

    #[test]
    fn an_error_stays_with_its_own_call() {
        let (answers, _) = pile_up(&["a", "", "ccc"]);
        let failed: Vec<bool> = answers.into_iter().map(|answer| answer.unwrap().is_err()).collect();
        assert_eq!(failed, [false, true, false]);
    }

    #[test]
    fn a_panic_ends_its_batch_and_not_the_thread() {
        let slow = Slow::new();
        slow.open();
        let encoder = Device::start(Metrics::new()).unwrap().share(slow);
        let panicked = thread::spawn({
            let encoder = encoder.clone();
            move || encoder.embed_texts(&["panic"], Keep::Nothing)
        });
        assert!(panicked.join().is_err());
        assert_eq!(encoder.embed_texts(&["four"], Keep::Nothing).unwrap()[0].embedding, [4.0]);
    }

    #[test]
    fn a_job_whose_call_is_gone_is_not_run() {
        let slow = Slow::new();
        let encoder = Device::start(Metrics::new()).unwrap().share(slow.clone());
        let first = thread::spawn({
            let encoder = encoder.clone();
            move || encoder.embed_texts(&["first"], Keep::Nothing)
        });
        // The thread is inside the network once it has noted the first batch.
        let mut open = slow.open.lock().unwrap();
        while slow.batches.lock().unwrap().is_empty() {
            open = slow.opened.wait(open).unwrap();
        }
        drop(open);
        let call = work::Call::default();
        let gone = thread::spawn({
            let (encoder, call) = (encoder.clone(), call.clone());
            move || work::on_behalf_of(call, || encoder.embed_texts(&["gone"], Keep::Nothing))
        });
        call.leave();
        slow.open();
        assert!(gone.join().is_err(), "its thread unwinds: nobody is there to answer");
        assert!(first.join().unwrap().is_ok());
        assert_eq!(*slow.batches.lock().unwrap(), [1]);
    }
}
