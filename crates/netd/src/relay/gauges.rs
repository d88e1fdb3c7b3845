//! What the relay has at hand, to be read by whoever serves metrics.

use std::cell::Cell;

/// Gauges go up and down; counters only up.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Gauge: TCP connections that are carried or about to be.
    pub connections: Cell<u64>,
    /// How many there may be.
    pub maximum: Cell<u64>,
    /// Gauge: UDP flows.
    pub flows: Cell<u64>,
    /// Gauge: sockets that listen.
    pub listeners: Cell<u64>,
    /// Gauge: sockets that should listen and cannot.
    pub unbound: Cell<u64>,
    /// Counter: connections reset because there were too many.
    pub refused: Cell<u64>,
    /// Counter: connections reset because no endpoint took them.
    pub failed: Cell<u64>,
    /// Counter: UDP flows that ended early, for newer ones.
    pub evicted: Cell<u64>,
}

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
        self.0.set(self.0.get().saturating_sub(1));
    }
}

pub(super) fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}
