//! The sockets of one frontend.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::rc::Rc;

use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Duration, sleep};

use super::addresses::{Addresses, Held};
use super::count::Counted;
use super::{Relay, accept, udp};
use crate::Config;
use crate::notice::{About, Notice};
use crate::table::{Frontend, Protocol};

const BACKLOG: u32 = 1024;
/// How long until an address that is in use is tried again, doubled each time up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The tasks that serve a frontend, one for each address.
pub(super) struct Listening(Vec<JoinHandle<()>>);

impl Listening {
    /// Begins to listen, now or as soon as that is possible.
    pub(super) fn open(relay: &Rc<Relay>, frontend: Frontend) -> Self {
        let serve = |address| spawn_local(serve(relay.clone(), frontend, SocketAddrV4::new(address, frontend.port)));
        Self(addresses_of(&relay.shared.config, &frontend).into_iter().map(serve).collect())
    }

    /// Ends when the sockets are closed: another frontend may have the same address. Connections go on.
    pub(super) async fn close(self) {
        for task in self.0 {
            task.abort();
            let _ = task.await; // that it was aborted
        }
    }
}

/// Where to listen for a frontend. Pods' packets to the node's address arrive at their gateway. A UDP socket on 0.0.0.0
/// would answer from another address than it was asked at: gVisor tells the address by IP_PKTINFO, and ignores it in what
/// is sent (`pkg/tcpip/transport/internal/network`).
pub(crate) fn addresses_of(config: &Config, frontend: &Frontend) -> Vec<Ipv4Addr> {
    if frontend.address.is_unspecified() && frontend.protocol == Protocol::Udp {
        config.own().chain([Ipv4Addr::LOCALHOST]).collect()
    } else if frontend.address == config.node_address {
        config.own().collect()
    } else {
        vec![frontend.address]
    }
}

async fn serve(relay: Rc<Relay>, frontend: Frontend, address: SocketAddrV4) {
    match frontend.protocol {
        Protocol::Tcp => {
            let (listener, _held) = bound(&relay, frontend, address, |address| tcp(address.into())).await;
            let counters = relay.shared.counters.clone();
            let _listening = Counted::new(&counters.listeners);
            accept::serve(relay, listener, Some(frontend)).await;
        }
        Protocol::Udp => {
            let counters = relay.shared.counters.clone();
            let mut next = bound(&relay, frontend, address, udp).await;
            let _listening = Counted::new(&counters.listeners);
            loop {
                let (socket, held) = next;
                udp::serve(&relay, udp::Bound::new(socket), frontend).await;
                drop(held); // the next socket holds its address itself
                next = bound(&relay, frontend, address, udp).await;
            }
        }
    }
}

/// Listens for TCP. SO_REUSEADDR: connections of an earlier process that are not quite over do not count.
pub(super) fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// No SO_REUSEADDR: with it, two programs could have the same address without noticing.
fn udp(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Binds as soon as that is possible, and says so if it is not at once.
async fn bound<S>(
    relay: &Relay,
    frontend: Frontend,
    address: SocketAddrV4,
    bind: impl Fn(SocketAddrV4) -> io::Result<S>,
) -> (S, Option<Held>) {
    let mut failing = None;
    let (mut wait, longest) = RETRY;
    loop {
        let failure = match bind(address) {
            Ok(socket) => return (socket, None),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                match Addresses::hold(&relay.addresses, *address.ip()) {
                    Ok(held) => match bind(address) {
                        Ok(socket) => return (socket, Some(held)),
                        Err(error) => error,
                    },
                    Err(refused) => io::Error::new(error.kind(), format!("{refused}: {}", refused.source)),
                }
            }
            Err(error) => error,
        };
        failing.get_or_insert_with(|| Counted::new(&relay.shared.counters.unbound));
        relay.tell(frontend, address, &failure);
        sleep(wait).await;
        wait = longest.min(wait * 2);
    }
}

impl Relay {
    /// Tells the owner of a frontend that it is not served.
    fn tell(&self, frontend: Frontend, address: SocketAddrV4, failure: &io::Error) {
        let Some(route) = self.shared.table.get(&frontend) else { return };
        let owner = &route.owner;
        tracing::warn!("cannot listen on {address}/{} for {} {owner}: {failure}", frontend.protocol, owner.kind);
        let in_use = failure.kind() == io::ErrorKind::AddrInUse;
        let protocol = frontend.protocol;
        let message = if in_use {
            format!(
                "Port {} ({protocol}) at {} is not served: another program on the node has it. End that program or use \
                 another port; until then it is tried again every {} s.",
                address.port(),
                address.ip(),
                RETRY.1.as_secs()
            )
        } else {
            format!("Port {} ({protocol}) at {} is not served: {failure}.", address.port(), address.ip())
        };
        self.shared.notices.post(Notice {
            about: About {
                api_version: "v1",
                kind: owner.kind,
                namespace: owner.namespace.clone(),
                name: owner.name.clone(),
                uid: owner.uid.clone(),
            },
            reason: if in_use { "PortConflict" } else { "FailedToListen" },
            message,
        });
    }
}
