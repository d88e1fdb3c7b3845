//! The way from the caller's network namespace to an API server in one of its own: a socket keeps the namespace in which
//! it was made, so the one that listens is made first, then the namespaces are entered, and connections to it go on from
//! there.

use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::os::fd::AsFd as _;

use nix::sys::socket::{getsockopt, sockopt};
use terrarium_remedies::Isolation;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, sleep};

use crate::Error;

/// Listens where the caller is, if the cluster has a network namespace of its own. Call it before that is entered; a
/// supervisor that is started in it has the socket of an earlier one as its stdin.
pub(crate) fn listen(isolation: Isolation, port: u16) -> Result<Option<StdListener>, Error> {
    if !isolation.has_network() {
        return Ok(None);
    }
    let failed = || Error::io("listen for the API on", format!("port {port} of loopback"));
    let listener = if is_inside() {
        StdListener::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed())?)
    } else {
        StdListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed())?
    };
    listener.set_nonblocking(true).map_err(failed())?;
    Ok(Some(listener))
}

/// Whether this supervisor was started in the cluster's namespaces: it has the socket of an earlier one.
pub(crate) fn is_inside() -> bool {
    getsockopt(&io::stdin().as_fd(), sockopt::AcceptConn).unwrap_or(false)
}

/// Forwards connections for good. Call it in the cluster's namespaces.
pub(crate) async fn forward(listener: StdListener) {
    // The API server has the same address in its own network namespace.
    let Ok(api) = listener.local_addr() else { return };
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        match listener.accept().await {
            Ok((outside, _)) => {
                tokio::spawn(async move {
                    let mut outside = outside;
                    // An API server that does not listen yet refuses here: the caller sees its connection closed.
                    if let Ok(mut inside) = TcpStream::connect(api).await {
                        let _ = copy_bidirectional(&mut outside, &mut inside).await;
                    }
                });
            }
            // Too many open files, most likely: those that are open go on, and end some time.
            Err(error) => {
                tracing::warn!("cannot accept a connection to the API: {error}");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
