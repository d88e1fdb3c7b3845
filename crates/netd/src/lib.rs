//! The Service proxy of a node: kube-proxy's job where kube-proxy cannot run.
//!
//! gVisor has no nftables and of ip_tables only what fits one socket option, with no matches that kube-proxy needs. So a
//! few rules lead new connections to a relay in this process, which knows their real destination:
//!
//! ```text
//! Pod, node ──TCP──▶ 10.43.0.0/16 ──REDIRECT──▶ relay ──▶ endpoint     [relay]
//!           ──UDP──▶ 10.43.x.y, bound on lo ──▶ relay ──▶ endpoint
//! anyone    ──────▶ node:port, bound ─────────▶ relay ──▶ endpoint
//! ```
//!
//! - [`table`] is what all parts share: which frontend leads to which endpoints.
//! - [`control`] fills it from the API: Services, EndpointSlices.
//! - [`relay`] carries connections and datagrams by it.
//! - [`gate`] makes connections to the outside where this process cannot.
//! - [`rules`] keeps the few rules of the nat table that lead there.
//! - [`host_ports`] adds the host ports of Pods, by the CNI plugin's word.
//! - [`policy`] says which Pod may talk to which.
//!
//! All of it runs in one thread, on one event loop: what the parts share needs no locks.

mod access;
pub mod config;
pub mod control;
mod error;
#[cfg(test)]
mod fixtures;
pub mod gate;
pub mod host_ports;
mod metrics;
pub mod notice;
pub mod policy;
pub mod relay;
pub mod rules;
pub mod table;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::rc::Rc;

pub use config::Config;
pub use error::Error;

use access::Access;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

/// What the parts share.
#[derive(Clone)]
pub struct Shared {
    /// What was decided for this node.
    pub config: Rc<Config>,
    /// Where connections go.
    pub table: Rc<table::Table>,
    /// Who may talk to whom.
    pub policy: Rc<policy::Policy>,
    /// What is counted.
    pub counters: Rc<metrics::Counters>,
    /// What users are to be told of, as events of the objects in question.
    pub notices: notice::Notices,
}

/// Nobody else looks into it: its sockets take orders.
fn make_runtime_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("make", path.display().to_string()))
}

/// Runs the proxy until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot listen, or the API's address or this client's certificate cannot be read.
pub fn run(config: Config) -> Result<(), Error> {
    make_runtime_dir(&config.runtime_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start the event loop of", "netd"))?;
    LocalSet::new().block_on(&runtime, async {
        let signal = |kind| signal(kind).map_err(Error::io("handle the signals of", "netd"));
        let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let access = Rc::new(Access::new(&config.kubeconfig).await.map_err(Box::new)?);
        let (notices, noticed) = notice::channel();
        let shared = Shared {
            config: Rc::new(config),
            table: Rc::default(),
            policy: Rc::default(),
            counters: Rc::default(),
            notices,
        };
        tokio::select! {
            _ = terminated.recv() => Ok(()),
            _ = interrupted.recv() => Ok(()),
            error = relay::run(shared.clone()) => error,
            error = rules::run(shared.clone()) => error,
            error = policy::run(shared.clone(), access.clone()) => error,
            error = host_ports::run(shared.clone()) => error,
            error = control::run(shared, access, noticed) => error,
        }
    })
}
