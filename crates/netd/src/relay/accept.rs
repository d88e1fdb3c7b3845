//! Takes connections in.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::rc::Rc;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{Duration, sleep};

use super::gauges::add;
use super::pump::Slot;
use super::target::{self, Target};
use super::{Relay, connect};
use crate::table::Frontend;

/// How long to wait when no connection can be taken in, mostly for lack of files or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection whose other end is silent is asked whether that lives after so many seconds, then every
/// [`KEEPALIVE_INTERVAL`], and given up after [`KEEPALIVE_COUNT`] questions.
const KEEPALIVE_IDLE: u32 = 120;
const KEEPALIVE_INTERVAL: u32 = 15;
const KEEPALIVE_COUNT: u32 = 4;

/// Takes connections in for good: those to a frontend, or redirected ones.
pub(super) async fn serve(relay: Rc<Relay>, listener: TcpListener, frontend: Option<Frontend>) {
    loop {
        match listener.accept().await {
            Ok((client, SocketAddr::V4(source))) => take(&relay, client, source, frontend),
            Ok(_) => {} // bound to IPv4
            Err(error) if of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!("cannot take a connection in: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Errors that accept(2) reports of a connection that is over already.
fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | TimedOut)
}

fn take(relay: &Rc<Relay>, client: TcpStream, source: SocketAddrV4, frontend: Option<Frontend>) {
    let gauges = &relay.shared.relayed;
    if gauges.connections.get() >= relay.limits.connections as u64 {
        add(&gauges.refused, 1);
        return reset(&client);
    }
    match relay.target(&client, frontend) {
        Target::Nowhere => reset(&client),
        target => {
            prepare(&client);
            spawn_local(connect::carry(Slot::new(relay), client, source, target));
        }
    }
}

impl Relay {
    fn target(&self, client: &TcpStream, frontend: Option<Frontend>) -> Target {
        let config = &self.shared.config;
        let Some(frontend) = frontend else {
            // Fails for connections that were made to the relay itself.
            let Ok(original) = getsockopt(client, sockopt::OriginalDst) else { return Target::Nowhere };
            let destination =
                SocketAddrV4::new(u32::from_be(original.sin_addr.s_addr).into(), u16::from_be(original.sin_port));
            return target::of(config, &self.shared.table, destination);
        };
        // A node port is one of the node's addresses, and not of those that Services have.
        let of_service = || match client.local_addr() {
            Ok(SocketAddr::V4(local)) => config.services.contains(local.ip()),
            _ => false,
        };
        if frontend.address.is_unspecified() && of_service() { Target::Nowhere } else { Target::Frontend(frontend) }
    }
}

/// Small messages go at once, and ends that vanished are noticed. Best effort: a connection works without, too.
pub(super) fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL);
    let _ = setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_COUNT);
}

/// Has the other end see a reset when the socket is closed.
pub(super) fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger(); // without, it is an ordinary end
}
