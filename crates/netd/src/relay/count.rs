//! Counting.

use std::cell::Cell;

/// Counts as one for as long as it lives.
pub(super) struct Counted<'a>(&'a Cell<u64>);

impl<'a> Counted<'a> {
    pub(super) fn new(gauge: &'a Cell<u64>) -> Self {
        add(gauge, 1);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

pub(super) fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}
