//! What can go wrong with a cluster. The messages say what and why; what to do is the [`ErrorId`]'s to say.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use terrarium_gaps::GapId;
use terrarium_remedies::Open;

use crate::ErrorId;

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
    /// A program of the user's cannot be run.
    #[error("cannot run {}", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data directory is not usable as one.
    #[error("{} cannot be the data directory: {why}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: DataDirFault,
    },
    /// A component's program is missing.
    #[error("the component {} is missing", path.display())]
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
    /// What a program is to find cannot be mounted: there can only be a node.
    #[error("nothing can be mounted here, and what makes up for the sandbox is mounted")]
    WithoutMounts,
    /// A component's program cannot be run.
    #[error("the component {} cannot run: {why}", path.display())]
    BadComponent {
        /// The program.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A key or certificate could not be made.
    #[error("cannot issue a certificate")]
    Certificate(#[source] rcgen::Error),
    /// A key that lasts with the data directory cannot be read as one.
    #[error("{} holds no key", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// The CA's certificate is damaged or of another key.
    #[error("{} is not the certificate of the cluster's CA: {why}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The CA's certificate has ended.
    #[error("the CA {} was valid until {until}, and the clock says {now}", path.display())]
    Expired {
        /// The certificate.
        path: PathBuf,
        /// Its end.
        until: String,
        /// The time of the clock.
        now: String,
    },
    /// The CA's certificate has not begun.
    #[error("the CA {} is valid from {from} on, and the clock says {now}", path.display())]
    NotYetValid {
        /// The certificate.
        path: PathBuf,
        /// Its beginning.
        from: String,
        /// The time of the clock.
        now: String,
    },
    /// The store is not one.
    #[error("the store {} is damaged: {why}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A kubeconfig is not one.
    #[error("{} is not a kubeconfig: {why}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        why: String,
    },
    /// Somebody else has the lock of a kubeconfig.
    #[error("the kubeconfig is locked by {}", lock.display())]
    KubeconfigLocked {
        /// The lock file.
        lock: PathBuf,
    },
    /// The machine has no address that Pods could reach.
    #[error("this machine has no address but loopback, and a node needs one")]
    NoAddress,
    /// The store's Services have addresses that are not to be had here.
    #[error("the Services of this store have addresses of {kept}, and here they can have those of {possible} only")]
    ServiceRange {
        /// The range of the store.
        kept: Ipv4Net,
        /// The range that this sandbox allows.
        possible: Ipv4Net,
    },
    /// Somebody else listens on the API server's port.
    #[error("the API's port {port} is used already by {holder}")]
    PortUsed {
        /// The port.
        port: u16,
        /// Who.
        holder: String,
    },
    /// Somebody else listens where the cluster's DNS is to.
    #[error("port 53 of every address is used already by {holder}, and the cluster's DNS needs it on its own")]
    DnsPortUsed {
        /// Who.
        holder: String,
    },
    /// A file system is nearly full.
    #[error("{} has {free_mib} MiB left, and a cluster needs {needed_mib} MiB to start", path.display())]
    NoSpace {
        /// A directory on it.
        path: PathBuf,
        /// What is left.
        free_mib: u64,
        /// What is needed.
        needed_mib: u64,
    },
    /// What was asked for cannot be changed while the cluster runs.
    #[error("{what} cannot change while the cluster runs")]
    RestartNeeded {
        /// What was asked for.
        what: &'static str,
    },
    /// A gap could not be closed, or its remedy not undone.
    #[error(transparent)]
    Remedy(#[from] terrarium_remedies::Error),
    /// The cluster's network could not be taken down.
    #[error("cannot take down the Pods' network")]
    Network(#[source] terrarium_cni::Error),
    /// Another supervisor has the lock.
    #[error("a cluster has this sandbox already, with the data directory {}", data_dir.display())]
    AlreadyRunning {
        /// Its data directory.
        data_dir: PathBuf,
    },
    /// A program runs under remedies of its own.
    #[error("`terrarium exec` runs a program here, under remedies that a cluster would need itself")]
    ExecRuns,
    /// A cluster that was not taken down.
    #[error("what an earlier cluster did to this sandbox was not undone")]
    LeftOver,
    /// There is no cluster to work on.
    #[error("no cluster is running here")]
    NotRunning,
    /// The cluster is in a user namespace, and this kernel lets nobody into one.
    #[error("this kernel lets nobody join the user namespace in which the cluster runs")]
    Unjoinable,
    /// What serves the added cgroup files to a program without a cluster does not.
    #[error("the added cgroup files are not served: {why}\n{log}")]
    CgroupFiles {
        /// How it ended.
        why: String,
        /// Its log.
        log: String,
    },
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
    #[error("the cluster was not ready in time: still waiting for {waiting_for}; it goes on starting")]
    Timeout {
        /// The steps that have not ended.
        waiting_for: String,
    },
    /// The user interrupted it.
    #[error("interrupted; {what_now}")]
    Interrupted {
        /// What became of the cluster.
        what_now: &'static str,
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
    #[error("{message}")]
    Supervisor {
        /// What and why.
        message: String,
        /// The name of its error.
        id: ErrorId,
    },
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
    /// There is no such log.
    #[error("there is no component {component:?} with a log; there are: {}", known.join(", "))]
    NoLog {
        /// What was asked for.
        component: String,
        /// Those that have one.
        known: Vec<String>,
    },
    /// There is no log at all.
    #[error("there are no logs in {}: no cluster was started with this data directory", directory.display())]
    NoLogs {
        /// Where they would be.
        directory: PathBuf,
    },
    /// An image archive is not one, or could not be imported.
    #[error("cannot import {}: {fault}", path.display())]
    Image {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        fault: ImageFault,
    },
}

fn obstacles(open: &[Open]) -> String {
    open.iter().map(|open| format!("{} ({})", open.gap, open.why)).collect::<Vec<_>>().join(", ")
}

/// What is wrong with a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataDirFault {
    /// Somebody else's files are in it.
    #[error("it holds files that are not terrarium's")]
    Foreign,
    /// A later terrarium wrote it.
    #[error("it has format {0}, of a newer version of terrarium; this one knows {1}")]
    Newer(u32, u32),
    /// Its marker is damaged.
    #[error("its file terrarium.json cannot be understood")]
    Unreadable,
}

/// What is wrong with an image archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageFault {
    /// It is something else.
    #[error("{0}")]
    Format(String),
    /// It ends too early, or is damaged.
    #[error("{0}")]
    Truncated(String),
    /// A blob is not what its name says.
    #[error("{0} has other content than its name says")]
    Digest(String),
    /// An entry would lead out of the archive.
    #[error("{0}")]
    Unsafe(String),
    /// It would fill the disk.
    #[error("{0}")]
    TooLarge(String),
    /// containerd will not have it.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// For `map_err`: an [`Error::Io`] about the path.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// Its stable name, by which the exit status and what to do are told.
    #[must_use]
    pub fn id(&self) -> ErrorId {
        match self {
            Self::Io { doing: "run", source, .. } if is_unrunnable(source) => ErrorId::ComponentCorrupt,
            Self::Io { source, .. } => ErrorId::of_io(source).unwrap_or_default(),
            Self::Program { source, .. } => ErrorId::of_program(source),
            Self::DataDir { why: DataDirFault::Foreign, .. } => ErrorId::DataDirForeign,
            Self::DataDir { why: DataDirFault::Newer(..), .. } => ErrorId::DataDirNewer,
            Self::DataDir { why: DataDirFault::Unreadable, .. } => ErrorId::DataDirUnreadable,
            Self::NoComponent { .. } => ErrorId::ComponentMissing,
            Self::BadComponent { .. } => ErrorId::ComponentCorrupt,
            Self::Probe(_) => ErrorId::GapOpen,
            Self::Obstacles(open) if open.iter().any(|open| open.gap == GapId::Privileges) => ErrorId::NoRights,
            Self::WithoutMounts => ErrorId::NoRights,
            Self::Obstacles(_) => ErrorId::GapOpen,
            Self::Certificate(_) => ErrorId::CertificateFailed,
            Self::Key { .. } | Self::Ca { .. } => ErrorId::KeyCorrupt,
            Self::Expired { .. } => ErrorId::CertificateExpired,
            Self::NotYetValid { .. } => ErrorId::ClockWrong,
            Self::Store { .. } => ErrorId::StoreCorrupt,
            Self::Kubeconfig { .. } => ErrorId::KubeconfigInvalid,
            Self::KubeconfigLocked { .. } => ErrorId::KubeconfigLocked,
            Self::NoAddress => ErrorId::NoAddress,
            Self::ServiceRange { .. } => ErrorId::ServiceRange,
            Self::PortUsed { .. } => ErrorId::ApiPortUsed,
            Self::DnsPortUsed { .. } => ErrorId::DnsPortUsed,
            Self::NoSpace { .. } => ErrorId::NoSpace,
            Self::RestartNeeded { .. } => ErrorId::RestartNeeded,
            Self::Remedy(error) => of_remedy(error),
            Self::Network(error) => of_sandbox(error).unwrap_or(ErrorId::UndoFailed),
            Self::AlreadyRunning { .. } => ErrorId::AlreadyRunning,
            Self::ExecRuns => ErrorId::ExecRunning,
            Self::LeftOver => ErrorId::LeftOver,
            Self::NotRunning => ErrorId::NotRunning,
            Self::Unjoinable => ErrorId::Unjoinable,
            Self::Component { log, .. } => ErrorId::of_words(log).unwrap_or(ErrorId::ComponentFails),
            Self::CgroupFiles { log, .. } => ErrorId::of_words(log).unwrap_or(ErrorId::CgroupFilesFail),
            Self::Timeout { .. } => ErrorId::Timeout,
            Self::Interrupted { .. } => ErrorId::Interrupted,
            Self::TakenDown => ErrorId::TakenDown,
            Self::SupervisorDied { .. } => ErrorId::SupervisorDied,
            Self::Supervisor { id, .. } => *id,
            Self::Unstoppable { .. } => ErrorId::ProcessStuck,
            Self::Api(_) => ErrorId::ApiUnreachable,
            Self::NoLog { .. } | Self::NoLogs { .. } => ErrorId::NoLog,
            Self::Image { fault, .. } => match fault {
                ImageFault::Format(_) => ErrorId::ImageFormat,
                ImageFault::Truncated(_) => ErrorId::ImageTruncated,
                ImageFault::Digest(_) => ErrorId::ImageDigest,
                ImageFault::Unsafe(_) => ErrorId::ImageUnsafe,
                ImageFault::TooLarge(_) => ErrorId::ImageTooLarge,
                ImageFault::Refused(words) => ErrorId::of_words(words).unwrap_or(ErrorId::ImageRefused),
            },
        }
    }
}

/// Whether a program could not be started for what it is.
fn is_unrunnable(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(nix::errno::Errno::from_raw);
    error.kind() == io::ErrorKind::PermissionDenied || errno == Some(nix::errno::Errno::ENOEXEC)
}

fn of_remedy(error: &terrarium_remedies::Error) -> ErrorId {
    use terrarium_remedies::Error;
    let (cause, otherwise) = match error {
        // The one thing that is a file of terrarium's own.
        Error::Journal { source, .. } => (ErrorId::of_io(source), ErrorId::GapOpen),
        Error::Revert(_) => (None, ErrorId::UndoFailed),
        Error::Apply { .. } | Error::Verify { .. } | Error::Namespace { .. } => (of_sandbox(error), ErrorId::GapOpen),
    };
    cause.unwrap_or(otherwise)
}

/// The name of what caused the failure of a change to the sandbox, if that has one.
fn of_sandbox(error: &(dyn StdError + 'static)) -> Option<ErrorId> {
    match ErrorId::of(error) {
        ErrorId::Failed => None,
        ErrorId::AccessDenied => Some(ErrorId::NoRights),
        // No address of these is the API's.
        ErrorId::ApiPortUsed => None,
        id => Some(id),
    }
}

/// An error and what caused it, in one line.
#[must_use]
pub fn chain(error: &dyn StdError) -> String {
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
