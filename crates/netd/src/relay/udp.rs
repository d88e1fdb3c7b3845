//! Carries datagrams. What a client sends to a frontend goes to one endpoint for as long as they talk: a flow.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroUsize;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, ready};

use lru::LruCache;
use rustix::io::Errno;
use rustix::net::{SendFlags, send, sendto};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::select;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::Relay;
use super::count::add;
use super::life::Life;
use super::packet::Datagram;
use crate::table::{Frontend, Protocol, Route};

/// How long to wait after an error that is not about a single datagram.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a client's datagrams arrive, and whence they come.
type Key = (SocketAddrV4, SocketAddrV4);

/// All flows, those that were silent for longest first to go.
pub(super) struct Flows(LruCache<Key, Entry>);

struct Entry {
    flow: Rc<Flow>,
    task: JoinHandle<()>,
}

/// A socket of a frontend. gVisor sends by the link that had the socket's address when it was bound, and by none once that
/// link is gone with its Pod: then the socket is stale, and another is to take its place.
pub(super) struct Bound {
    socket: UdpSocket,
    stale: Notify,
}

impl Bound {
    pub(super) fn new(socket: UdpSocket) -> Rc<Self> {
        Rc::new(Self { socket, stale: Notify::new() })
    }

    /// Whether it was sent.
    fn send(&self, (local, client): Key, data: &[u8]) -> bool {
        let sent = sendto(&self.socket, data, SendFlags::DONTWAIT, &client);
        let elsewhere = || std::net::UdpSocket::bind((*local.ip(), 0))?.connect(client);
        match sent {
            Ok(_) => return true,
            Err(Errno::AGAIN | Errno::NOBUFS) => {} // no room: lost, as datagrams are
            // To a client that is gone no other socket would send, either.
            Err(_) if elsewhere().is_ok() => self.stale.notify_one(),
            Err(_) => {}
        }
        false
    }
}

/// A client that talks to an endpoint.
struct Flow {
    /// The client's datagrams arrive at this socket, and answers leave from it. It closes with its frontend.
    frontend: Weak<Bound>,
    upstream: UdpSocket,
    endpoint: SocketAddrV4,
    route: RefCell<Rc<Route>>,
    life: Life,
}

impl Flows {
    pub(super) fn new(most: usize) -> Self {
        Self(LruCache::new(NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN)))
    }
}

impl Flows {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries the datagrams that arrive at a socket of a frontend, until it is stale.
pub(super) async fn serve(relay: &Rc<Relay>, bound: Rc<Bound>, frontend: Frontend) {
    let Ok(SocketAddr::V4(local)) = bound.socket.local_addr() else { return };
    loop {
        let received = poll_fn(|cx| {
            loop {
                let mut scratch = relay.scratch.borrow_mut();
                let mut buffer = ReadBuf::new(&mut scratch);
                match ready!(bound.socket.poll_recv_from(cx, &mut buffer)) {
                    Ok(SocketAddr::V4(client)) => relay.datagram(&bound, frontend, (local, client), buffer.filled()),
                    Ok(SocketAddr::V6(_)) => {} // bound to IPv4
                    Err(error) => return Poll::Ready(error),
                }
            }
        });
        let error = select! {
            error = received => error,
            () = bound.stale.notified() => return,
        };
        tracing::warn!("cannot receive datagrams for {frontend}: {error}");
        sleep(PAUSE).await;
    }
}

impl Relay {
    /// Carries a datagram of a client. One that cannot be carried is lost, as datagrams are.
    fn datagram(self: &Rc<Self>, socket: &Rc<Bound>, frontend: Frontend, key: Key, data: &[u8]) {
        let Some(route) = self.shared.table.get(&frontend) else { return };
        if let Some(entry) = self.flows.borrow_mut().0.get(&key)
            && entry.flow.goes_on(socket, &route)
            && entry.flow.send(data).is_ok()
        {
            return;
        }
        let client = *key.1.ip();
        let Ok(candidates) = self.candidates(&route, client, Protocol::Udp) else { return };
        let Some(&endpoint) = candidates.first() else { return };
        match Flow::open(socket, endpoint, &route) {
            Ok(flow) => {
                self.remember(&route, client, endpoint);
                add(&route.traffic.connections, 1);
                let _ = flow.send(data); // the next one notices
                self.keep(key, Rc::new(flow));
            }
            Err(error) => tracing::debug!("{frontend} of {}: cannot send to {endpoint}: {error}", route.owner),
        }
    }

    fn keep(self: &Rc<Self>, key: Key, flow: Rc<Flow>) {
        let task = spawn_local(self.clone().reply(key, flow.clone()));
        let mut flows = self.flows.borrow_mut();
        let gone = flows.0.push(key, Entry { flow, task });
        if gone.is_some_and(|(other, _)| other != key) {
            add(&self.shared.counters.too_many, 1);
        }
        self.shared.counters.open_flows.set(flows.0.len() as u64);
    }

    /// Carries the endpoint's datagrams, until the flow is over.
    async fn reply(self: Rc<Self>, key: Key, flow: Rc<Flow>) {
        let mut expiry = pin!(sleep_until(flow.life.deadline()));
        poll_fn(|cx| {
            loop {
                let mut scratch = self.scratch.borrow_mut();
                let mut buffer = ReadBuf::new(&mut scratch);
                if let Poll::Ready(received) = flow.upstream.poll_recv(cx, &mut buffer) {
                    let Some(frontend) = flow.frontend.upgrade() else { return Poll::Ready(()) };
                    if received.is_err() {
                        return Poll::Ready(());
                    }
                    flow.received(&self, &frontend, key, buffer.filled());
                    continue;
                }
                drop(scratch);
                ready!(expiry.as_mut().poll(cx));
                let deadline = flow.life.deadline();
                if deadline <= Instant::now() {
                    return Poll::Ready(());
                }
                expiry.as_mut().reset(deadline);
            }
        })
        .await;
        let mut flows = self.flows.borrow_mut();
        if flows.0.peek(&key).is_some_and(|entry| Rc::ptr_eq(&entry.flow, &flow)) {
            flows.0.pop(&key);
            self.shared.counters.open_flows.set(flows.0.len() as u64);
        }
    }
}

impl Flow {
    fn open(frontend: &Rc<Bound>, endpoint: SocketAddrV4, route: &Rc<Route>) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(endpoint)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            frontend: Rc::downgrade(frontend),
            upstream: UdpSocket::from_std(socket)?,
            endpoint,
            route: RefCell::new(route.clone()),
            life: Life::new(),
        })
    }

    /// Whether the next datagram goes the same way: the endpoint is still one of the route's, and the socket the same.
    fn goes_on(&self, frontend: &Rc<Bound>, route: &Rc<Route>) -> bool {
        if self.frontend.as_ptr() != Rc::as_ptr(frontend) {
            return false;
        }
        let same = Rc::ptr_eq(&self.route.borrow(), route);
        let good = same || route.endpoints.contains(&self.endpoint);
        if good && !same {
            self.route.replace(route.clone());
        }
        good
    }

    /// Sends at once or not at all. By the plain call: tokio would not send before it has seen the socket writable once.
    /// Fails where an earlier datagram was refused, mostly because the endpoint's port is closed.
    fn send(&self, data: &[u8]) -> rustix::io::Result<()> {
        self.life.asked();
        match send(&self.upstream, data, SendFlags::DONTWAIT) {
            Ok(_) => add(&self.route.borrow().traffic.bytes, data.len() as u64),
            Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) => return Err(Errno::CONNREFUSED),
            Err(_) => {} // no room: lost, as datagrams are
        }
        Ok(())
    }

    fn received(&self, relay: &Relay, frontend: &Bound, (local, client): Key, data: &[u8]) {
        self.life.answered();
        // Where nothing is routed, the frontend's address is on no way to a Pod.
        let raw = relay.sender.get().filter(|_| relay.shared.config.pods.contains(client.ip()));
        let is_sent = match raw {
            Some(raw) => raw.send(Datagram { source: local, destination: client, data }),
            None => frontend.send((local, client), data),
        };
        if is_sent {
            add(&self.route.borrow().traffic.bytes, data.len() as u64);
        }
    }
}
