//! What Pods send by UDP to each other and to the outside where the node does not route it.
//!
//! A raw socket hears every datagram of theirs, wherever it is to go, and another one sends with any source address: gVisor
//! hands packets to raw sockets before it looks whether they are its own (`pkg/tcpip/network/ipv4`). So a datagram for a Pod
//! is sent on as it is, and one for the outside goes by a socket from the gate.

use std::cell::{OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddrV4, UdpSocket as StdUdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use lru::LruCache;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, send, sendto, socket_with};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Duration, Instant, sleep, sleep_until, timeout};

use super::Relay;
use super::connect::CONNECT;
use super::count::add;
use super::life::Life;
use super::packet::{Datagram, MOST};
use crate::gate;
use crate::table::{Frontend, Protocol};

/// Datagrams that are kept while the gate makes their socket, and their size: larger ones hardly leave in one piece.
const EARLY: usize = 4;
const EARLY_SIZE: usize = 1472;
/// How long to wait after an error.
const PAUSE: Duration = Duration::from_millis(100);

/// Who talks to whom: the source and the destination of the datagram that came first.
type Key = (SocketAddrV4, SocketAddrV4);

/// Takes the place of the node's routes, for datagrams.
pub(super) struct Router {
    relay: Rc<Relay>,
    flows: RefCell<LruCache<Key, Entry>>,
}

struct Entry {
    flow: Rc<Flow>,
    task: Option<JoinHandle<()>>,
}

struct Flow {
    life: Life,
    way: Way,
}

enum Way {
    /// To a Pod, as it is.
    On,
    /// By a socket of the gate's.
    Out { socket: OnceCell<UdpSocket>, early: RefCell<Vec<Box<[u8]>>> },
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Carries Pods' datagrams for good.
pub(super) async fn run(relay: Rc<Relay>) -> io::Result<()> {
    let raw = |protocol| {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(protocol))
    };
    // tokio has no raw sockets. Of a socket for UDP it uses nothing here but recv(2).
    let receiver = UdpSocket::from_std(StdUdpSocket::from(raw(ipproto::UDP)?))?;
    let flows = NonZeroUsize::new(relay.limits.flows).unwrap_or(NonZeroUsize::MIN);
    let _ = relay.sender.set(Sender(raw(ipproto::RAW)?)); // once
    let router = Rc::new(Router { flows: RefCell::new(LruCache::new(flows)), relay });
    loop {
        let error = poll_fn(|cx| router.poll(cx, &receiver)).await;
        tracing::warn!("cannot receive Pods' datagrams: {error}");
        sleep(PAUSE).await;
    }
}

impl Router {
    /// Carries what is there, until nothing can be received.
    fn poll(self: &Rc<Self>, cx: &mut Context<'_>, receiver: &UdpSocket) -> Poll<io::Error> {
        loop {
            let mut scratch = self.relay.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(receiver.poll_recv(cx, &mut buffer)) {
                Ok(()) => drop(Datagram::parse(buffer.filled()).map(|datagram| self.carry(datagram))),
                Err(error) => return Poll::Ready(error),
            }
        }
    }

    fn carry(self: &Rc<Self>, datagram: Datagram<'_>) {
        let Datagram { source, destination, data } = datagram;
        let config = &self.relay.shared.config;
        let pod = |address: &SocketAddrV4| config.pods.contains(address.ip()) && *address.ip() != config.gateway;
        let (ip, port) = (*destination.ip(), destination.port());
        if !pod(&source) || [config.gateway, config.dns].contains(&ip) || !gate::is_outside(ip) {
            return; // sockets of the node have it, or nobody
        }
        let frontend = Frontend { protocol: Protocol::Udp, address: ip, port };
        let table = &self.relay.shared.table;
        if ip == config.node_address || config.services.contains(&ip) || table.get(&frontend).is_some() {
            // From a Pod's link it would not be delivered to an address of the loopback device, from there it is.
            return self.send(datagram);
        }
        let to_pod = pod(&destination);
        if !to_pod && config.gate.is_none() {
            return; // nobody can
        }
        let key = (source, destination);
        if self.answers((destination, source)) {
            return self.send(datagram);
        }
        let known = self.known(&key);
        let Some(flow) = known.or_else(|| self.begin(key, to_pod)) else { return };
        flow.life.asked();
        match &flow.way {
            Way::On => self.send(datagram),
            Way::Out { socket, early } => match socket.get() {
                Some(socket) => drop(send(socket, data, SendFlags::DONTWAIT)), // lost, as datagrams are
                None if early.borrow().len() < EARLY && data.len() <= EARLY_SIZE => {
                    early.borrow_mut().push(data.into())
                }
                None => {}
            },
        }
    }

    /// Whether this is the other direction of a flow, which no policy is asked about.
    fn answers(&self, reverse: Key) -> bool {
        let flow = self.known(&reverse);
        flow.inspect(|flow| flow.life.answered()).is_some()
    }

    fn known(&self, key: &Key) -> Option<Rc<Flow>> {
        let mut flows = self.flows.borrow_mut();
        flows.get(key).filter(|entry| entry.flow.life.deadline() > Instant::now()).map(|entry| entry.flow.clone())
    }

    fn begin(self: &Rc<Self>, key: Key, to_pod: bool) -> Option<Rc<Flow>> {
        let shared = &self.relay.shared;
        let (source, destination) = key;
        if !shared.policy.allows(*source.ip(), destination, Protocol::Udp) {
            add(&shared.counters.denied_by_policy, 1);
            return None;
        }
        let way = if to_pod { Way::On } else { Way::Out { socket: OnceCell::new(), early: RefCell::default() } };
        let flow = Rc::new(Flow { life: Life::new(), way });
        let task = (!to_pod).then(|| spawn_local(self.clone().go_out(key)));
        let entry = Entry { flow: flow.clone(), task };
        if self.flows.borrow_mut().push(key, entry).is_some_and(|(other, _)| other != key) {
            add(&shared.counters.too_many, 1);
        }
        Some(flow)
    }

    /// Gets a socket for a flow and carries what comes back, until the flow is over.
    async fn go_out(self: Rc<Self>, key: Key) {
        if let Err(error) = self.answer(key).await {
            tracing::debug!("no datagrams from {} to {}: {error}", key.0, key.1);
        }
        self.flows.borrow_mut().pop(&key); // ends this task, which is at its end
    }

    async fn answer(&self, key: Key) -> io::Result<()> {
        let (client, destination) = key;
        let Some(gate) = &self.relay.shared.config.gate else { return Ok(()) };
        let made = timeout(CONNECT, gate::connect(gate, Protocol::Udp, destination)).await??;
        let made = UdpSocket::from_std(StdUdpSocket::from(made))?;
        let Some(flow) = self.known(&key) else { return Ok(()) };
        let Way::Out { socket, early } = &flow.way else { return Ok(()) };
        let socket = socket.get_or_init(|| made);
        for data in early.take() {
            let _ = send(socket, &data, SendFlags::DONTWAIT);
        }
        let mut expiry = pin!(sleep_until(flow.life.deadline()));
        poll_fn(|cx| {
            loop {
                let mut scratch = self.relay.scratch.borrow_mut();
                let mut buffer = ReadBuf::new(&mut scratch[..MOST]);
                if let Poll::Ready(received) = socket.poll_recv(cx, &mut buffer) {
                    received?;
                    flow.life.answered();
                    self.send(Datagram { source: destination, destination: client, data: buffer.filled() });
                    continue;
                }
                drop(scratch);
                ready!(expiry.as_mut().poll(cx));
                if flow.life.deadline() <= Instant::now() {
                    return Poll::Ready(Ok(()));
                }
                expiry.as_mut().reset(flow.life.deadline());
            }
        })
        .await
    }

    fn send(&self, datagram: Datagram<'_>) {
        self.relay.sender.get().map(|sender| sender.send(datagram));
    }
}

/// Sends from any address.
pub(super) struct Sender(OwnedFd);

impl Sender {
    /// Whether it was sent. What cannot be is lost, as datagrams are.
    pub(super) fn send(&self, datagram: Datagram<'_>) -> bool {
        let Some(packet) = datagram.to_packet() else { return false };
        sendto(&self.0, &packet, SendFlags::DONTWAIT, &datagram.destination)
            .inspect_err(|error| tracing::debug!("cannot send a datagram on to {}: {error}", datagram.destination))
            .is_ok()
    }
}
