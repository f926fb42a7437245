//! Ctrl-C and SIGTERM while a run goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use tokio::sync::oneshot;

use super::progress::Bar;

/// Signals are the run's as long as this is kept.
#[must_use]
pub struct Signals {
    _end: oneshot::Sender<()>,
}

/// The first signal stops once the images that are being embedded are done, the second at once.
pub fn stop(stop: Arc<AtomicBool>, bar: &Bar) -> Signals {
    let (end, ended) = oneshot::channel();
    let bar = bar.clone();
    thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        let stopped = async {
            signal().await;
            stop.store(true, Relaxed);
            bar.say("stopping: what is embedded is still written; again to stop at once");
            signal().await;
            std::process::exit(130);
        };
        runtime.block_on(async {
            tokio::select! {
                () = stopped => {}
                _ = ended => {}
            }
        });
    });
    Signals { _end: end }
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
