//! Copies between two connections until both are over.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use super::accept::reset;
use super::gauges::add;
use super::{Relay, TURN};
use crate::table::Traffic;

/// Bytes that may wait for slow readers, of all connections together, before each connection reads less at a time.
const WAITING: usize = 2 * 1024 * 1024;
/// How much it reads at a time then.
const LESS: usize = 4 * 1024;

/// A connection of those that there may be.
pub(super) struct Slot(Rc<Relay>);

impl Slot {
    pub(super) fn new(relay: &Rc<Relay>) -> Self {
        add(&relay.shared.relayed.connections, 1);
        Self(relay.clone())
    }

    pub(super) fn relay(&self) -> &Rc<Relay> {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let connections = &self.0.shared.relayed.connections;
        connections.set(connections.get() - 1);
    }
}

/// A client and its endpoint. There may be thousands that say nothing, so this is small: a future by hand, which needs
/// neither buffers nor a task for each direction.
pub(super) struct Pump {
    slot: Slot,
    client: TcpStream,
    upstream: TcpStream,
    traffic: Rc<Traffic>,
    there: Direction,
    back: Direction,
}

/// One way of two.
#[derive(Default)]
struct Direction {
    /// What was read and could not be written yet.
    left: Vec<u8>,
    /// How much of it has been written.
    written: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The one end has said that it sends no more.
    Ending,
    /// The other end has been told.
    Ended,
}

impl Pump {
    pub(super) fn new(slot: Slot, client: TcpStream, upstream: TcpStream, traffic: Rc<Traffic>) -> Self {
        Self { slot, client, upstream, traffic, there: Direction::default(), back: Direction::default() }
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { slot: Slot(relay), client, upstream, traffic, there, back } = self;
        let there = there.poll(cx, relay, client, upstream, traffic)?;
        let back = back.poll(cx, relay, upstream, client, traffic)?;
        if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Future for Pump {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_both(cx)).is_err() {
            // One end was reset, or vanished: the other one is to see the same.
            reset(&self.client);
            reset(&self.upstream);
        }
        Poll::Ready(())
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        let left = self.there.left.len() + self.back.left.len();
        let waiting = &self.slot.0.waiting;
        waiting.set(waiting.get() - left);
    }
}

impl Direction {
    /// Copies until there is nothing to read, no room to write, or others are to have their turn.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        relay: &Relay,
        from: &mut TcpStream,
        to: &mut TcpStream,
        traffic: &Traffic,
    ) -> Poll<io::Result<()>> {
        let mut turn = TURN;
        loop {
            if !self.left.is_empty() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.left[self.written..]))?;
                add(&traffic.bytes, count as u64);
                self.written += count;
                if self.written == self.left.len() {
                    relay.waiting.set(relay.waiting.get() - self.left.len());
                    *self = Self { stage: self.stage, ..Self::default() };
                }
                continue;
            }
            match self.stage {
                Stage::Open => {}
                Stage::Ending => {
                    // Fails where the other end is gone already: then its own direction says how.
                    let _ = rustix::net::shutdown(&*to, rustix::net::Shutdown::Write);
                    self.stage = Stage::Ended;
                    return Poll::Ready(Ok(()));
                }
                Stage::Ended => return Poll::Ready(Ok(())),
            }
            if turn == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut scratch = relay.scratch.borrow_mut();
            let most = if relay.waiting.get() < WAITING { turn } else { turn.min(LESS) };
            let mut buffer = ReadBuf::new(&mut scratch[..most]);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            if read.is_empty() {
                self.stage = Stage::Ending;
                continue;
            }
            turn -= read.len();
            let count = match Pin::new(&mut *to).poll_write(cx, read) {
                Poll::Ready(count) => count?,
                Poll::Pending => 0,
            };
            add(&traffic.bytes, count as u64);
            if count < read.len() {
                self.left = read[count..].to_vec();
                relay.waiting.set(relay.waiting.get() + self.left.len());
            }
        }
    }
}
