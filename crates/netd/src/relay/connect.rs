//! From a route to a connection with one of its endpoints.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{Duration, timeout};

use super::Relay;
use super::accept::{prepare, reset};
use super::count::{Counted, add};
use super::pump::{Pump, Slot};
use super::target::Target;
use crate::gate;
use crate::table::{Frontend, Otherwise, Protocol, Route, Traffic};

/// How long an endpoint has to take a connection.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// How many endpoints are asked.
const ENDPOINTS: usize = 3;
/// How long a client is held without an answer. Those that wait for longer see a reset.
const HOLD: Duration = Duration::from_secs(60);

/// Why a client gets no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// It is told.
    Reject,
    /// It hears nothing.
    Drop,
}

/// Connects a client with what it asked for, and leaves the two to a [`Pump`]. That is a task of its own: this one is large,
/// and over then.
pub(super) async fn carry(slot: Slot, client: TcpStream, source: SocketAddrV4, target: Target) {
    let relay = slot.relay().clone();
    let reached = match target {
        Target::Frontend(frontend) => relay.reach(&frontend, *source.ip()).await,
        Target::Direct(address) => relay.reach_itself(address, *source.ip()).await,
        Target::Outside(address) => relay.reach_outside(address, *source.ip()).await,
        Target::Nowhere => Err(Denied::Reject),
    };
    match reached {
        Ok((upstream, traffic)) => {
            prepare(&upstream);
            add(&traffic.connections, 1);
            spawn_local(Pump::new(slot, client, upstream, traffic));
        }
        Err(Denied::Reject) => {
            reset(&client);
        }
        Err(Denied::Drop) => relay.hold(client).await,
    }
}

impl Relay {
    /// The endpoints that may serve a client, in the order in which to try them: the one that it had before first, if it is to
    /// have it again, else in turn from a random one.
    pub(super) fn candidates(
        &self,
        route: &Route,
        source: Ipv4Addr,
        protocol: Protocol,
    ) -> Result<Vec<SocketAddrV4>, Denied> {
        let counters = &self.shared.counters;
        if !route.sources.is_empty() && !route.sources.iter().any(|net| net.contains(&source)) {
            add(&counters.denied_by_source, 1);
            return Err(Denied::Drop); // as kube-proxy does
        }
        let endpoints = &route.endpoints;
        if endpoints.is_empty() {
            add(&counters.without_endpoint, 1);
            return Err(match route.otherwise {
                Otherwise::Reject => Denied::Reject,
                Otherwise::Drop => Denied::Drop,
            });
        }
        let known = route.affinity.and_then(|lifetime| {
            let endpoint = self.affinity.borrow_mut().get(&route.owner, source, lifetime)?;
            endpoints.iter().position(|one| *one == endpoint)
        });
        let first = known.unwrap_or_else(|| fastrand::usize(..endpoints.len()));
        // A Service's address is no endpoint: the connection would come back here, and again.
        let allowed = |endpoint: &SocketAddrV4| {
            !self.shared.config.services.contains(endpoint.ip())
                && self.shared.policy.allows(source, *endpoint, protocol)
        };
        let in_turn = endpoints[first..].iter().chain(&endpoints[..first]).copied();
        let candidates: Vec<_> = in_turn.filter(allowed).take(ENDPOINTS).collect();
        if candidates.is_empty() {
            add(&counters.denied_by_policy, 1);
            return Err(Denied::Reject);
        }
        Ok(candidates)
    }

    /// Notes that a client has an endpoint.
    pub(super) fn remember(&self, route: &Route, source: Ipv4Addr, endpoint: SocketAddrV4) {
        if route.affinity.is_some() {
            self.affinity.borrow_mut().put(&route.owner, source, endpoint);
        }
    }

    /// A connection with an endpoint of a frontend. Other than kube-proxy, which has left the packet's destination to the
    /// first endpoint by then, another one is tried when that refuses: no byte of the client has gone anywhere yet, so it
    /// cannot tell, and a Pod that just ended is no error.
    async fn reach(&self, frontend: &Frontend, source: Ipv4Addr) -> Result<(TcpStream, Rc<Traffic>), Denied> {
        let route = self.shared.table.get(frontend).ok_or(Denied::Reject)?;
        for endpoint in self.candidates(&route, source, Protocol::Tcp)? {
            match connect(endpoint).await {
                Ok(upstream) => {
                    self.remember(&route, source, endpoint);
                    return Ok((upstream, route.traffic.clone()));
                }
                Err(error) => tracing::debug!("{frontend} of {}: cannot connect to {endpoint}: {error}", route.owner),
            }
        }
        add(&self.shared.counters.unanswered, 1);
        Err(Denied::Reject)
    }

    /// A connection with the address that the client asked for.
    async fn reach_itself(&self, address: SocketAddrV4, source: Ipv4Addr) -> Result<(TcpStream, Rc<Traffic>), Denied> {
        self.reach_by(connect(address), address, source).await
    }

    /// The same with the outside, by the gate if there is one.
    async fn reach_outside(&self, address: SocketAddrV4, source: Ipv4Addr) -> Result<(TcpStream, Rc<Traffic>), Denied> {
        let Some(gate) = self.shared.config.gate.as_deref() else { return self.reach_itself(address, source).await };
        let connection = async {
            let made = timeout(2 * CONNECT, gate::connect(gate, Protocol::Tcp, address)).await??;
            TcpStream::from_std(made.into())
        };
        self.reach_by(connection, address, source).await
    }

    async fn reach_by(
        &self,
        connection: impl Future<Output = io::Result<TcpStream>>,
        address: SocketAddrV4,
        source: Ipv4Addr,
    ) -> Result<(TcpStream, Rc<Traffic>), Denied> {
        if !self.shared.policy.allows(source, address, Protocol::Tcp) {
            add(&self.shared.counters.denied_by_policy, 1);
            return Err(Denied::Reject);
        }
        let upstream = connection.await.map_err(|error| {
            tracing::debug!("cannot connect {source} to {address}: {error}");
            add(&self.shared.counters.unanswered, 1);
            Denied::Reject
        })?;
        Ok((upstream, Rc::default()))
    }

    /// Lets a client wait until it gives up, or for [`HOLD`]. What it sends is thrown away.
    async fn hold(&self, mut client: TcpStream) {
        if self.held.get() >= self.limits.held as u64 {
            return reset(&client);
        }
        let _held = Counted::new(&self.held);
        let gone = poll_fn(|cx| {
            loop {
                let mut scratch = self.scratch.borrow_mut();
                let mut buffer = ReadBuf::new(&mut scratch);
                let read = ready!(Pin::new(&mut client).poll_read(cx, &mut buffer));
                if read.is_err() || buffer.filled().is_empty() {
                    return Poll::Ready(());
                }
            }
        });
        if timeout(HOLD, gone).await.is_err() {
            reset(&client);
        }
    }
}

async fn connect(address: SocketAddrV4) -> io::Result<TcpStream> {
    timeout(CONNECT, TcpStream::connect(address)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
