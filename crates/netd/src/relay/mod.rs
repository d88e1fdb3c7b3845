//! Carries connections and datagrams from frontends to endpoints.
//!
//! ```text
//! REDIRECT ──▶ 0.0.0.0:PORT ──┐ original destination          [accept]
//! bound frontends, TCP ───────┴▶ route ──▶ endpoint ──▶ copy   [connect, pump]
//! bound frontends, UDP ────────▶ flow ───▶ endpoint            [udp]
//! raw socket, UDP ─────────────▶ Pod, or the outside          [routed] where the node does not route
//! ```
//!
//! An endpoint sees the node's address as its client's, but for datagrams from Pod to Pod that `routed` carries. Everything
//! is bounded: connections, flows, held clients, remembered clients, and the bytes that wait for slow readers.

mod accept;
mod addresses;
mod affinity;
mod connect;
mod count;
mod life;
mod limits;
mod listener;
mod packet;
mod pump;
mod routed;
mod target;
mod udp;

#[cfg(test)]
mod tests;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::rc::Rc;

pub(crate) use listener::addresses_of;
use tokio::task::spawn_local;

use crate::config::Path;
use crate::table::{Frontend, Otherwise, Protocol};
use crate::{Error, Shared};

use addresses::Addresses;
use affinity::Affinity;
use limits::Limits;
use listener::Listening;

/// Where redirected connections arrive, on any address of the node. Below the ports that kernels choose for clients, and
/// none of Kubernetes' own.
pub const PORT: u16 = 10_260;

/// Bytes read at once, and what one connection may carry in one direction before others have their turn.
const TURN: usize = 256 * 1024;

/// What all connections and flows of the relay share.
struct Relay {
    shared: Shared,
    limits: Limits,
    affinity: RefCell<Affinity>,
    flows: RefCell<udp::Flows>,
    addresses: Rc<RefCell<Addresses>>,
    /// What was read and is about to be written: never borrowed for longer than one turn of one task.
    scratch: RefCell<Box<[u8]>>,
    /// Bytes that wait for readers, of all connections.
    waiting: Cell<usize>,
    /// Clients that are held without an answer.
    held: Cell<u64>,
    /// Sends to Pods' links where nothing is routed.
    sender: OnceCell<routed::Sender>,
}

/// Carries until the process ends.
///
/// # Errors
/// [`PORT`] cannot be listened on.
pub async fn run(shared: Shared) -> Result<(), Error> {
    let limits = Limits::of_process();
    let relay = Relay::new(shared, limits);
    if relay.shared.config.path == Path::Redirect || !relay.shared.config.routed {
        let listener = listener::tcp((Ipv4Addr::UNSPECIFIED, PORT).into())
            .map_err(Error::io("listen for redirected connections on", format!("port {PORT}")))?;
        spawn_local(accept::serve(relay.clone(), listener, None));
    }
    if !relay.shared.config.routed {
        let relay = relay.clone();
        spawn_local(async move {
            if let Err(error) = routed::run(relay).await {
                tracing::warn!("what Pods send by UDP to each other or outside is not carried: {error}");
            }
        });
    }
    relay.follow().await;
    Ok(())
}

impl Relay {
    fn new(shared: Shared, limits: Limits) -> Rc<Self> {
        Rc::new(Self {
            affinity: RefCell::new(Affinity::new(limits.clients)),
            flows: RefCell::new(udp::Flows::new(limits.flows)),
            addresses: Addresses::new(&shared.config.runtime_dir),
            scratch: RefCell::new(vec![0; TURN].into()),
            waiting: Cell::new(0),
            held: Cell::new(0),
            sender: OnceCell::new(),
            shared,
            limits,
        })
    }

    /// Opens and closes sockets as frontends come and go.
    async fn follow(self: &Rc<Self>) {
        let mut changes = self.shared.table.subscribe();
        let mut open: HashMap<Frontend, Listening> = HashMap::new();
        while let Some(frontend) = changes.recv().await {
            if !self.listens(&frontend) {
                if let Some(listening) = open.remove(&frontend) {
                    listening.close().await;
                }
            } else {
                open.entry(frontend).or_insert_with(|| Listening::open(self, frontend));
            }
        }
    }

    /// Whether a frontend needs a socket of its own. Without endpoints, a socket that is not there rejects best: clients
    /// are told by the kernel, and before they believe that they are connected.
    fn listens(&self, frontend: &Frontend) -> bool {
        let config = &self.shared.config;
        let redirected = config.path == Path::Redirect
            && frontend.protocol == Protocol::Tcp
            && config.services.contains(&frontend.address);
        let Some(route) = self.shared.table.get(frontend) else { return false };
        !redirected && (!route.endpoints.is_empty() || route.otherwise == Otherwise::Drop)
    }
}
