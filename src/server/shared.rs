//! What all services share: the engine once it is open, the gate, the counters, the settings.

use std::sync::{Arc, OnceLock};

use firn_index::{Collection, Commit};
use firn_model::Encoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{
    gate::{Gate, Pass},
    jobs::Jobs,
    limits,
    metrics::Metrics,
    settings::ServeSettings,
    status::{Problem, starting, too_many_bytes},
};
use crate::engine::Engine;

pub struct Shared {
    engine: OnceLock<Engine>,
    pub gate: Arc<Gate>,
    pub metrics: Arc<Metrics>,
    pub settings: ServeSettings,
    /// True once the server stops: streams end after what they have.
    pub stopping: watch::Sender<bool>,
    /// Bytes of Upsert and UpsertStream messages that may be in work.
    pub upsert_bytes: Arc<Semaphore>,
    pub unawaited_commits: Arc<Semaphore>,
    /// Trainings and judgements that outlive their calls.
    pub jobs: Jobs,
}

impl Shared {
    pub fn new(settings: ServeSettings) -> std::io::Result<Arc<Self>> {
        let metrics = Metrics::new();
        let upsert_bytes = settings.max_message_bytes * limits::UPSERT_BYTES_IN_MESSAGES;
        Ok(Arc::new(Shared {
            engine: OnceLock::new(),
            gate: Gate::new(settings.max_requests, metrics.clone()),
            metrics,
            settings,
            stopping: watch::Sender::new(false),
            upsert_bytes: Arc::new(Semaphore::new(upsert_bytes.min(Semaphore::MAX_PERMITS))),
            unawaited_commits: Arc::new(Semaphore::new(limits::UNAWAITED_COMMITS)),
            jobs: Jobs::start()?,
        }))
    }

    /// From now on calls are answered.
    pub fn open(&self, engine: Engine) {
        assert!(self.engine.set(engine).is_ok(), "the data is opened once");
    }

    pub fn opened(&self) -> Option<&Engine> {
        self.engine.get()
    }

    /// UNAVAILABLE while the server starts.
    pub fn engine(&self) -> Result<&Engine, Problem> {
        self.engine.get().ok_or_else(starting)
    }

    pub fn collection(&self, name: &str) -> Result<Collection, Problem> {
        super::convert::collection_name(name)?;
        Ok(self.engine()?.db().collection(name)?)
    }

    /// The encoders for new points: `embed` finds those of a collection among them, and says which of them is missing.
    pub fn encoders(&self) -> Result<Vec<Arc<dyn Encoder>>, Problem> {
        Ok(self.engine()?.models())
    }

    /// Room for the bytes of an Upsert among those in work; without any, the caller is told to come again.
    pub fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let bytes = u32::try_from(bytes.min(self.settings.max_message_bytes)).unwrap_or(u32::MAX);
        self.upsert_bytes.clone().try_acquire_many_owned(bytes).map_err(|_| too_many_bytes())
    }

    pub fn committed(&self, commit: Commit) -> Commit {
        self.metrics.committed(commit.changed);
        commit
    }

    pub fn hold(&self) -> Pass {
        self.gate.hold()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::settings::ServeLayer;

    #[test]
    fn more_bytes_than_fit_are_told_to_come_again() {
        let shared = Shared::new(ServeLayer::default().resolve().unwrap()).unwrap();
        let largest = shared.settings.max_message_bytes;
        let held: Vec<_> = (0..limits::UPSERT_BYTES_IN_MESSAGES).map(|_| shared.room(largest).unwrap()).collect();
        let refused = shared.room(1).unwrap_err();
        assert_eq!((refused.reason, refused.retry.is_some()), ("TOO_MANY_REQUESTS", true));
        drop(held);
        assert!(shared.room(usize::MAX).is_ok(), "a message is never larger than the largest");
    }
}
