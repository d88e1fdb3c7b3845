//! gVisor 2024-07 forgets a signal that is sent while every thread of a process is stopped for its tracer: it waits until
//! another one is sent to a thread that runs. So threads that went on a moment ago are nudged there: they get a signal that
//! their tracer keeps from them. Whether that is needed is tried with each program, before it begins.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use terrarium_sys::process::kill_thread;

/// One that hardly any program uses.
const SIGNAL: i32 = 58;
/// How long a signal may be forgotten.
const PACE: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(crate) struct Nudge {
    /// It is known whether it is needed.
    is_decided: AtomicBool,
    is_needed: AtomicBool,
    /// Threads that went on since the last time.
    recent: Mutex<HashSet<i32>>,
}

impl Nudge {
    pub(crate) fn decide(&self, is_needed: bool) {
        self.is_needed.store(is_needed, Ordering::Relaxed);
        self.is_decided.store(true, Ordering::Relaxed);
    }

    /// How often [`Nudge::all`] has to be called from now on.
    pub(crate) fn pace(&self) -> Option<Duration> {
        (!self.is_decided.load(Ordering::Relaxed) || self.is_needed.load(Ordering::Relaxed)).then_some(PACE)
    }

    /// A thread goes on.
    pub(crate) fn goes_on(&self, thread: i32) {
        if self.is_needed.load(Ordering::Relaxed) {
            self.recent().insert(thread);
        }
    }

    /// A thread has ended.
    pub(crate) fn forget(&self, thread: i32) {
        if self.is_needed.load(Ordering::Relaxed) {
            self.recent().remove(&thread);
        }
    }

    /// Whether the signal that a thread is about to get is from here. One of the program's own cannot be told from it, where
    /// threads are nudged at all.
    pub(crate) fn is_own(&self, signal: i32) -> bool {
        signal == SIGNAL && self.is_needed.load(Ordering::Relaxed)
    }

    pub(crate) fn all(&self) {
        for thread in std::mem::take(&mut *self.recent()) {
            // It may have ended.
            let _ = kill_thread(thread, SIGNAL);
        }
    }

    fn recent(&self) -> MutexGuard<'_, HashSet<i32>> {
        // Whoever panicked while it held the lock has left nothing half done.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
