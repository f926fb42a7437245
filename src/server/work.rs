//! Work that would hold up the network runs on threads of its own. When its call ends early (deadline, client gone), what
//! has not begun is not begun.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::JoinHandle;

use super::status::{Problem, internal};

/// Whether anybody still waits for the answer.
#[derive(Clone, Default)]
pub struct Call(Arc<AtomicBool>);

impl Call {
    pub fn leave(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_gone(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Call>> = const { RefCell::new(None) };
}

/// The call that this thread works for.
pub fn current() -> Option<Call> {
    CURRENT.with_borrow(Clone::clone)
}

/// Lets `current` be `call` while `f` runs.
pub fn on_behalf_of<T>(call: Call, f: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            CURRENT.set(None);
        }
    }
    CURRENT.set(Some(call));
    let _reset = Reset;
    f()
}

/// Work on its own thread. Dropping it leaves the call.
pub struct Work<T> {
    handle: JoinHandle<Result<T, Problem>>,
    call: Call,
}

/// Starts work at once.
pub fn start<T: Send + 'static>(f: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Work<T> {
    let call = Call::default();
    let mine = call.clone();
    Work { handle: tokio::task::spawn_blocking(move || on_behalf_of(mine, f)), call }
}

/// Work, and its answer.
pub async fn run<T: Send + 'static>(f: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    start(f).answer().await
}

impl<T> Work<T> {
    pub async fn answer(mut self) -> Result<T, Problem> {
        let answer = (&mut self.handle).await;
        answer.unwrap_or_else(|_| Err(internal("the work was given up; the server's log says why")))
    }

    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.call.leave();
        // Takes it off the queue; work that has begun goes on.
        self.handle.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn dropped_work_knows_that_its_call_is_gone() {
        let (begun, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        let (said, says) = mpsc::channel();
        let work = start(move || {
            begun.send(()).unwrap();
            may_go.recv().unwrap();
            said.send(current().unwrap().is_gone()).unwrap();
            Ok(())
        });
        has_begun.recv().unwrap();
        drop(work);
        go.send(()).unwrap();
        assert!(says.recv().unwrap());
        assert!(current().is_none());
    }

    #[tokio::test]
    async fn a_panic_becomes_an_internal_error() {
        let answer = run(|| -> Result<(), Problem> { panic!("on purpose") }).await;
        assert_eq!(answer.unwrap_err().reason, "INTERNAL");
    }
}
