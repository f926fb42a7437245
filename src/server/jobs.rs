//! Work that outlives its call: networks that are trained or judged, one after the other, on a thread of their own.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use firn_proto::v1::{self, JobState, RerankerDescription};
use tonic::Code;

use super::{
    gate::{Gate, Pass},
    status::{Problem, internal, shutting_down},
};
use crate::reranker::{Error, Report, Stage};

/// Jobs that wait behind the one that is worked on.
const QUEUE: usize = 8;
/// Jobs that are known; the oldest that has ended gives way.
const KNOWN: usize = 256;

/// What a job does: it says how far it is, and is told whether to end. None if it was broken off.
pub type Task = Box<dyn FnOnce(&mut Report) -> Result<Option<RerankerDescription>, Error> + Send>;

/// The jobs of a server.
pub struct Jobs {
    queue: SyncSender<(Arc<Job>, Task, Pass)>,
    known: Mutex<VecDeque<Arc<Job>>>,
    /// What tells this server's jobs from those of one before.
    prefix: String,
    next: AtomicU64,
    closed: Arc<AtomicBool>,
}

struct Job {
    id: String,
    wants_end: AtomicBool,
    seen: Mutex<Seen>,
}

/// How far it is.
struct Seen {
    job: v1::Job,
    begun: Option<Instant>,
}

impl Jobs {
    /// The thread ends with the jobs.
    pub fn start() -> std::io::Result<Jobs> {
        let (queue, received) = sync_channel(QUEUE);
        thread::Builder::new().name("jobs".to_owned()).spawn(move || work(&received))?;
        let started_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Ok(Jobs {
            queue,
            known: Mutex::default(),
            prefix: format!("{started_ms:x}"),
            next: AtomicU64::new(1),
            closed: Arc::default(),
        })
    }

    /// Puts a job behind the others. RESOURCE_EXHAUSTED if there are too many.
    pub fn add(&self, collection: &str, gate: &Arc<Gate>, task: Task) -> Result<v1::Job, Problem> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(shutting_down());
        }
        let id = format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed));
        let seen = v1::Job {
            id: id.clone(),
            collection_name: collection.to_owned(),
            state: JobState::Queued.into(),
            ..v1::Job::default()
        };
        let (wants_end, seen) = (AtomicBool::new(false), Mutex::new(Seen { job: seen, begun: None }));
        let job = Arc::new(Job { id, wants_end, seen });
        self.queue.try_send((job.clone(), task, gate.hold())).map_err(|error| match error {
            TrySendError::Full(_) => {
                let message = format!("{QUEUE} jobs wait already: expected to be asked again when one has ended");
                Problem::new(Code::ResourceExhausted, "TOO_MANY_JOBS", message)
            }
            TrySendError::Disconnected(_) => internal("the thread of jobs is gone; the server's log says why"),
        })?;
        let mut known = lock(&self.known);
        if known.len() >= KNOWN
            && let Some(at) = known.iter().position(|job| job.has_ended())
        {
            known.remove(at);
        }
        known.push_back(job.clone());
        // If the server closes meanwhile, one of both sees the other.
        if self.closed.load(Ordering::SeqCst) {
            job.cancel();
        }
        Ok(job.seen())
    }

    /// NOT_FOUND.
    pub fn get(&self, id: &str) -> Result<v1::Job, Problem> {
        Ok(self.find(id)?.seen())
    }

    /// NOT_FOUND.
    pub fn cancel(&self, id: &str) -> Result<v1::Job, Problem> {
        let job = self.find(id)?;
        job.cancel();
        Ok(job.seen())
    }

    /// Takes no more, and ends what there is before its next step.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        lock(&self.known).iter().for_each(|job| job.cancel());
    }

    /// Whether the server stops, then and later.
    pub fn closed(&self) -> Arc<AtomicBool> {
        self.closed.clone()
    }

    fn find(&self, id: &str) -> Result<Arc<Job>, Problem> {
        lock(&self.known).iter().find(|job| job.id == id).cloned().ok_or_else(|| {
            let message = format!("no job {id:?}: jobs are known until the server stops, the last {KNOWN} of them");
            Problem::new(Code::NotFound, "JOB_NOT_FOUND", message)
        })
    }
}

fn work(jobs: &Receiver<(Arc<Job>, Task, Pass)>) {
    for (job, task, _until_the_end) in jobs {
        if !job.begin() {
            continue;
        }
        // A bug in one job is not the end of the others.
        let ended = catch_unwind(AssertUnwindSafe(|| task(&mut |stage| job.take(&stage))));
        let ended = ended.unwrap_or_else(|_| {
            job.fail(internal("the job was given up; the server's log says why"));
            Ok(None)
        });
        match ended {
            Ok(Some(version)) => job.end(JobState::Done, |job| job.reranker = Some(version)),
            Ok(None) => job.end(JobState::Cancelled, |_| ()),
            Err(error) => job.fail(error.into()),
        }
    }
}

impl Job {
    /// As a client sees it now.
    fn seen(&self) -> v1::Job {
        let Seen { job, begun } = &*lock(&self.seen);
        let mut job = job.clone();
        if !is_end(&job) {
            job.elapsed_us = begun.map_or(0, elapsed_us);
        }
        job
    }

    fn has_ended(&self) -> bool {
        is_end(&lock(&self.seen).job)
    }

    fn cancel(&self) {
        self.wants_end.store(true, Ordering::SeqCst);
        let mut seen = lock(&self.seen);
        if seen.begun.is_none() {
            seen.job.state = JobState::Cancelled.into();
        }
    }

    /// False if it was cancelled while it waited.
    fn begin(&self) -> bool {
        let mut seen = lock(&self.seen);
        if is_end(&seen.job) {
            return false;
        }
        seen.begun = Some(Instant::now());
        seen.job.state = JobState::Embedding.into();
        true
    }

    fn take(&self, stage: &Stage) -> ControlFlow<()> {
        let mut seen = lock(&self.seen);
        let job = &mut seen.job;
        let mut is_at = |state: JobState, done: usize, total: usize| {
            (job.state, job.done_count, job.total_count) = (state.into(), done as u64, total as u64);
        };
        match stage {
            Stage::Texts(done, total) => is_at(JobState::Embedding, *done, *total),
            Stage::Gathered(of) => is_at(JobState::Embedding, of.pairs.owner_of.len(), of.pairs.owner_of.len()),
            Stage::Learning(progress, n_steps) => {
                is_at(JobState::Learning, progress.step as usize, *n_steps as usize);
                (job.loss, job.accuracy) = (progress.loss, progress.accuracy);
                if let Some([cosine, reranked]) = progress.held_out {
                    (job.recall_without, job.recall_reranked) = (Some(cosine), Some(reranked));
                }
            }
            Stage::Learnt(..) => is_at(JobState::Judging, 0, 0),
            Stage::Judging(done, total) => is_at(JobState::Judging, *done, *total),
        }
        match self.wants_end.load(Ordering::SeqCst) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn fail(&self, problem: Problem) {
        self.end(JobState::Failed, |job| {
            (job.error_code, job.error_reason) = (problem.code as i32, problem.reason.to_owned());
            job.error_message = problem.text();
        });
    }

    /// The first end stays.
    fn end(&self, state: JobState, say: impl FnOnce(&mut v1::Job)) {
        let mut seen = lock(&self.seen);
        if is_end(&seen.job) {
            return;
        }
        seen.job.elapsed_us = seen.begun.map_or(0, elapsed_us);
        seen.job.state = state.into();
        say(&mut seen.job);
    }
}

fn elapsed_us(begun: Instant) -> u64 {
    begun.elapsed().as_micros() as u64
}

fn is_end(job: &v1::Job) -> bool {
    matches!(job.state(), JobState::Done | JobState::Failed | JobState::Cancelled)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left behind is whole: every change is a few assignments.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::server::metrics::Metrics;

    fn jobs() -> (Jobs, Arc<Gate>) {
        (Jobs::start().unwrap(), Gate::new(4, Metrics::new()))
    }

    /// Says that it has begun, then embeds texts until it is told to end.
    fn endless(begun: mpsc::Sender<()>) -> Task {
        Box::new(move |report| {
            begun.send(()).unwrap();
            while report(Stage::Texts(3, 7)).is_continue() {
                thread::yield_now();
            }
            Ok(None)
        })
    }

    #[tokio::test]
    async fn jobs_wait_are_cancelled_and_fail_one_by_one() {
        let ((jobs, gate), (begun, begins)) = (jobs(), mpsc::channel());
        let first = jobs.add("c", &gate, endless(begun)).unwrap();
        assert_eq!((first.state(), first.collection_name.as_str()), (JobState::Queued, "c"));
        begins.recv().unwrap();
        let never = jobs.add("c", &gate, Box::new(|_| panic!("it was cancelled"))).unwrap();
        let panics = jobs.add("c", &gate, Box::new(|_| panic!("on purpose"))).unwrap();
        let fails = jobs.add("c", &gate, Box::new(|_| Err(Error::NothingBefore))).unwrap();
        assert_eq!(jobs.cancel(&never.id).unwrap().state(), JobState::Cancelled);
        assert_eq!(jobs.get(&fails.id).unwrap().state(), JobState::Queued);
        assert_eq!(jobs.get("1-1").unwrap_err().reason, "JOB_NOT_FOUND");
        assert_eq!(jobs.cancel(&first.id).unwrap().state(), JobState::Embedding);
        gate.empty().await;
        let first = jobs.get(&first.id).unwrap();
        assert_eq!((first.state(), first.done_count, first.total_count), (JobState::Cancelled, 3, 7));
        let of = |id: &str| jobs.get(id).map(|job| (job.state(), job.error_reason)).unwrap();
        assert_eq!(of(&never.id), (JobState::Cancelled, String::new()));
        assert_eq!(of(&panics.id), (JobState::Failed, "INTERNAL".to_owned()));
        assert_eq!(of(&fails.id), (JobState::Failed, "NOTHING_BEFORE".to_owned()));
    }

    #[tokio::test]
    async fn too_many_are_refused_and_a_stop_ends_them_all() {
        let ((jobs, gate), (begun, begins)) = (jobs(), mpsc::channel());
        let first = jobs.add("c", &gate, endless(begun.clone())).unwrap();
        begins.recv().unwrap();
        let rest: Vec<v1::Job> = (0..QUEUE).map(|_| jobs.add("c", &gate, endless(begun.clone())).unwrap()).collect();
        assert_eq!(jobs.add("c", &gate, endless(begun.clone())).unwrap_err().reason, "TOO_MANY_JOBS");
        jobs.close();
        gate.empty().await;
        for job in rest.iter().chain([&first]) {
            assert_eq!(jobs.get(&job.id).unwrap().state(), JobState::Cancelled);
        }
        assert_eq!(jobs.add("c", &gate, endless(begun)).unwrap_err().reason, "SHUTTING_DOWN");
    }
}
