//! Ctrl-C and SIGTERM: while a run goes on they are its own, before and after they end the program.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, Once,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use super::progress::Bar;

/// The run that is to be told.
static CURRENT: Mutex<Option<(Arc<AtomicBool>, Bar)>> = Mutex::new(None);
/// A handler that is installed stays so: there is one for all runs of the program.
static WATCHING: Once = Once::new();

/// Signals are the run's as long as this is kept.
#[must_use]
pub struct Signals;

/// The first signal stops once the images that are being embedded are done, the second at once.
pub fn stop(stop: Arc<AtomicBool>, bar: &Bar) -> Signals {
    *current() = Some((stop, bar.clone()));
    WATCHING.call_once(|| drop(thread::spawn(watch)));
    Signals
}

impl Drop for Signals {
    fn drop(&mut self) {
        current().take();
    }
}

fn watch() {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        loop {
            signal().await;
            let Some((stop, bar)) = current().take() else { std::process::exit(130) };
            stop.store(true, Relaxed);
            bar.say("stopping: what is embedded is still written; again to stop at once");
        }
    });
}

fn current() -> MutexGuard<'static, Option<(Arc<AtomicBool>, Bar)>> {
    CURRENT.lock().unwrap_or_else(|error| error.into_inner())
}

async fn signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without a handler there is nothing to wait for: the signal then ends the process as ever.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
