//! Bounds the bytes that are in the pipeline, from reading to the acknowledged write.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A count of bytes with a limit. One item alone may exceed it: it must pass.
pub struct Gate {
    limit: usize,
    held: Mutex<usize>,
    freed: Condvar,
}

/// Bytes that are held until this is dropped.
pub struct Permit {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Gate {
    pub fn new(limit: usize) -> Arc<Gate> {
        Arc::new(Gate { limit, held: Mutex::new(0), freed: Condvar::new() })
    }

    /// Waits until the bytes fit, or nothing else is held.
    pub fn enter(self: &Arc<Gate>, bytes: usize) -> Permit {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |held: &mut usize| *held > 0 && held.saturating_add(bytes) > self.limit;
        let mut held = self.freed.wait_while(held, full).unwrap_or_else(PoisonError::into_inner);
        *held += bytes;
        Permit { gate: self.clone(), bytes }
    }

    pub fn held(&self) -> usize {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, from: usize, to: usize) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = *held - from + to;
        self.freed.notify_all();
    }
}

impl Permit {
    /// Says that the item now takes this much. It never waits: only what enters does.
    pub fn resize(&mut self, bytes: usize) {
        self.gate.change(self.bytes, bytes);
        self.bytes = bytes;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.change(self.bytes, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_is_held_stays_below_the_limit() {
        let gate = Gate::new(100);
        let (sender, receiver) = channel();
        let entering = gate.clone();
        let thread = std::thread::spawn(move || {
            for _ in 0..50 {
                sender.send(entering.enter(40)).expect("the test listens");
            }
        });
        for permit in receiver.iter().take(50) {
            assert!(gate.held() <= 100, "{} held", gate.held());
            drop(permit);
        }
        thread.join().expect("the thread ends");
        assert_eq!(gate.held(), 0);
    }

    #[test]
    fn an_item_larger_than_the_limit_passes_alone() {
        let gate = Gate::new(10);
        let mut permit = gate.enter(1000);
        assert_eq!(gate.held(), 1000);
        permit.resize(3);
        assert_eq!(gate.held(), 3);
        drop(gate.enter(7));
        drop(permit);
        assert_eq!(gate.held(), 0);
    }
}
