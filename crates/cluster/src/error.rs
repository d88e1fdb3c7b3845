//! What can go wrong with a cluster.

use std::io;
use std::path::{Path, PathBuf};

use terrarium_remedies::Open;

/// Why a cluster could not be started, stopped or looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried, as a verb phrase that takes the path.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data directory is not usable as one.
    #[error("{} cannot be the data directory: {why}; name another with --data-dir", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A component's program is missing.
    #[error("the component {} is missing: run `make build`, or set TERRARIUM_COMPONENTS to the directory that holds it", path.display())]
    NoComponent {
        /// Where it should be.
        path: PathBuf,
    },
    /// The sandbox could not be looked at.
    #[error(transparent)]
    Probe(#[from] terrarium_probes::Error),
    /// Gaps for which nothing can be done here, and without which the node does not start.
    #[error("a node cannot run in this sandbox: {}", obstacles(.0))]
    Obstacles(Vec<Open>),
    /// A key or certificate could not be made.
    #[error("cannot issue a certificate")]
    Certificate(#[source] rcgen::Error),
    /// A key that lasts with the data directory cannot be read as one.
    #[error("{} holds no key: put it back from a backup, or begin anew with `terrarium down --purge`", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// A kubeconfig is not one.
    #[error("{} is not a kubeconfig: {why}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        why: String,
    },
    /// The machine has no address that Pods could reach.
    #[error("this machine has no address but loopback, and a node needs one: give a network interface an address")]
    NoAddress,
    /// A gap could not be closed, or its remedy not undone.
    #[error(transparent)]
    Remedy(#[from] terrarium_remedies::Error),
    /// The cluster's network could not be taken down.
    #[error("cannot take down the Pods' network")]
    Network(#[source] terrarium_cni::Error),
    /// Another supervisor has the lock.
    #[error("a cluster has this sandbox already, with the data directory {}; take that down first: `terrarium down`", data_dir.display())]
    AlreadyRunning {
        /// Its data directory.
        data_dir: PathBuf,
    },
    /// There is no cluster to work on.
    #[error("no cluster is running here: start one with `terrarium up`")]
    NotRunning,
    /// A component ended before it was ready, again and again.
    #[error("{component} does not start: {why}\n{log}")]
    Component {
        /// Its name.
        component: String,
        /// Its last exit.
        why: String,
        /// The last lines of its log.
        log: String,
    },
    /// It took longer than the user wants to wait.
    #[error(
        "the cluster was not ready in time: still waiting for {waiting_for}; it goes on starting, see `terrarium status` and `terrarium logs`"
    )]
    Timeout {
        /// The steps that have not ended.
        waiting_for: String,
    },
    /// The cluster was taken down while somebody waited for it.
    #[error("the cluster was taken down while it started")]
    TakenDown,
    /// The supervisor ended without a word.
    #[error("the supervisor ended early\n{log}")]
    SupervisorDied {
        /// The last lines of its log.
        log: String,
    },
    /// The supervisor says why the cluster cannot be.
    #[error("{0}")]
    Supervisor(String),
    /// A process could not be stopped.
    #[error("{name} (process {pid}) does not end")]
    Unstoppable {
        /// What it is.
        name: String,
        /// Its process ID.
        pid: i32,
    },
    /// The API cannot be used.
    #[error("cannot talk to the API server")]
    Api(#[source] Box<kube::Error>),
    /// An image archive is not one, or could not be imported.
    #[error("cannot import {}: {why}", path.display())]
    Image {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

fn obstacles(open: &[Open]) -> String {
    open.iter().map(|open| format!("{} ({})", open.gap, open.why)).collect::<Vec<_>>().join(", ")
}

impl Error {
    /// For `map_err`: an [`Error::Io`] about the path.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// An error and what caused it, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
