//! How long a flow of datagrams lives.

use std::cell::Cell;

use tokio::time::{Duration, Instant};

/// How long after its last datagram, as Linux's conntrack has it (nf_conntrack_udp_timeout, and _stream).
const UNREPLIED: Duration = Duration::from_secs(30);
const ASSURED: Duration = Duration::from_secs(120);

/// When a flow was in use.
pub(super) struct Life {
    last: Cell<Instant>,
    replied: Cell<bool>,
    /// The client has spoken again after an answer.
    assured: Cell<bool>,
}

impl Life {
    pub(super) fn new() -> Self {
        Self { last: Cell::new(Instant::now()), replied: Cell::default(), assured: Cell::default() }
    }

    /// The client has sent.
    pub(super) fn asked(&self) {
        self.last.set(Instant::now());
        self.assured.set(self.replied.get());
    }

    /// The other side has.
    pub(super) fn answered(&self) {
        self.last.set(Instant::now());
        self.replied.set(true);
    }

    /// Until when it lives if nothing more is sent.
    pub(super) fn deadline(&self) -> Instant {
        self.last.get() + if self.assured.get() { ASSURED } else { UNREPLIED }
    }
}
