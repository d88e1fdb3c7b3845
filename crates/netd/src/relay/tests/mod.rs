//! The relay with real sockets on the loopback device. Linux has all of 127.0.0.0/8 there, so every test has addresses of its
//! own.

mod datagrams;
mod streams;

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{LocalSet, spawn_local, yield_now};

use super::limits::Limits;
use super::*;
use crate::config::{Config, Path};
use crate::fixtures;
use crate::metrics::Counters;
use crate::notice::{self, Notice};
use crate::table::Route;

/// A relay with a network of its own.
struct World {
    relay: Rc<Relay>,
    notices: UnboundedReceiver<Notice>,
    net: u8,
    _runtime_dir: tempfile::TempDir,
}

const LIMITS: Limits = Limits { connections: 20_000, flows: 16, clients: 16, held: 1 };

/// Runs a test in a relay's company.
async fn with_relay<F: Future>(limits: Limits, test: impl FnOnce(World) -> F) {
    static NETS: AtomicU8 = AtomicU8::new(10);
    let net = NETS.fetch_add(1, Ordering::Relaxed);
    let runtime_dir = tempfile::tempdir().unwrap();
    let address = |last: u8| Ipv4Addr::new(127, net, 42, last);
    let config = Config {
        node_address: address(100),
        gateway: address(1),
        pods: format!("127.{net}.42.0/24").parse().unwrap(),
        services: format!("127.{net}.43.0/24").parse().unwrap(),
        dns: Ipv4Addr::new(127, net, 43, 10),
        path: Path::Bound,
        runtime_dir: runtime_dir.path().into(),
        metrics: SocketAddrV4::new(address(100), 10249),
        healthz: SocketAddrV4::new(address(100), 10256),
        ..fixtures::config()
    };
    let (notices, noticed) = notice::channel();
    let shared = Shared {
        config: Rc::new(config),
        table: Rc::default(),
        policy: Rc::new(crate::policy::Policy::none()),
        notices,
        counters: Rc::default(),
    };
    LocalSet::new()
        .run_until(async {
            let relay = Relay::new(shared, limits);
            let follower = relay.clone();
            spawn_local(async move { follower.follow().await });
            test(World { relay, notices: noticed, net, _runtime_dir: runtime_dir }).await;
        })
        .await;
}

impl World {
    /// A Service's frontend.
    fn frontend(&self, protocol: Protocol) -> Frontend {
        Frontend { protocol, address: Ipv4Addr::new(127, self.net, 43, 7), port: 7000 }
    }

    /// An address where an endpoint may listen.
    fn pod(&self, last: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(127, self.net, 42, last), 8000)
    }

    fn set(&self, frontend: Frontend, endpoints: &[SocketAddrV4]) {
        self.relay.shared.table.set(frontend, route(endpoints));
    }

    /// Leads a frontend to endpoints and waits until it is served.
    async fn serve(&self, frontend: Frontend, endpoints: &[SocketAddrV4]) -> SocketAddrV4 {
        self.set(frontend, endpoints);
        self.until(|counters| counters.listeners.get() > 0).await;
        SocketAddrV4::new(frontend.address, frontend.port)
    }

    async fn until(&self, reached: impl Fn(&Counters) -> bool) {
        until(|| reached(&self.relay.shared.counters)).await;
    }
}

fn route(endpoints: &[SocketAddrV4]) -> Route {
    Route { endpoints: endpoints.into(), ..fixtures::route(&[]) }
}

/// Waits for what other tasks do, without a clock. A test that waits for good is ended by who runs it.
async fn until(reached: impl Fn() -> bool) {
    while !reached() {
        yield_now().await;
    }
}

/// Whether a future is not ready after all tasks that can go on have.
async fn pends<F: Future + Unpin>(future: &mut F) -> bool {
    for _ in 0..64 {
        yield_now().await;
    }
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
}
