//! The thread of a device: batches, answers, and what it outlives.

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

/// Says which pair it was, by numbers of both items; panics at an image 13.
struct Looker;

impl Scorer for Looker {
    fn score(&self, images: &Items, texts: &Items, pairs: &[(usize, usize)]) -> Result<Vec<f32>> {
        assert!(!images.vectors.contains(&13.0), "asked to panic");
        Ok(pairs.iter().map(|&(text, image)| 100.0 * texts.vectors[text] + images.vectors[image]).collect())
    }
}

#[test]
fn pairs_of_several_queries_are_one_batch_and_each_gets_its_own() {
    let items = |numbers: &[f32]| Items { dim: 1, vectors: numbers.to_vec(), ..Items::default() };
    let job = |text: f32, images: &[f32]| {
        let (reply, answer) = sync_channel(1);
        let places = (0..images.len()).rev().map(|image| (0, image)).collect();
        ((Box::new(Pairs { images: items(images), texts: items(&[text]), places }), reply), answer)
    };
    let (jobs, answers): (Vec<_>, Vec<_>) = [job(1.0, &[5.0, 6.0]), job(2.0, &[7.0])].into_iter().unzip();
    assert_eq!(look_at(&Looker, jobs), 3);
    let received: Vec<Vec<f32>> = answers.into_iter().map(|answer| answer.recv().unwrap().unwrap()).collect();
    assert_eq!(received, [vec![106.0, 105.0], vec![207.0]]);

    let scorer = Device::start(Metrics::new()).unwrap().share_scorer(Arc::new(Looker));
    assert_eq!(scorer.score(&items(&[4.0]), &items(&[3.0]), &[(0, 0)]).unwrap(), [304.0]);
    let soon = |ms: u64| Instant::now() + std::time::Duration::from_millis(ms);
    let by = |deadline| scorer.score_by(&items(&[4.0]), &items(&[3.0]), &[(0, 0)], deadline).unwrap();
    assert_eq!(by(soon(600_000)), Some(vec![304.0]));
    assert_eq!(by(soon(0)), None, "too late before it began");
    // A network that is lost leaves the query to go on without it, and the thread to the next.
    let error = scorer.score(&items(&[13.0]), &items(&[3.0]), &[(0, 0)]).unwrap_err().to_string();
    assert!(error.contains("gave up the network"), "{error}");
    assert_eq!(scorer.score(&items(&[4.0]), &items(&[3.0]), &[(0, 0)]).unwrap(), [304.0]);
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
