//! What can go wrong.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;

use crate::{ContainerId, Status};

/// The result of what this crate does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done. Only the first line is said here: the cause is the source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the configuration is wrong, or asks for what cannot be had here.
    #[error("{field}: {problem}")]
    Spec {
        /// The field by its path, such as `linux.seccomp.syscalls[3].action`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The kernel refused.
    #[error("{operation}")]
    System {
        /// What was tried, with the path: `mount proc on /proc`.
        operation: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// What a process inside the container could not do, in full.
    #[error("{0}")]
    Inside(String),
    /// A hook failed.
    #[error("hook {kind}[{index}]: {problem}")]
    Hook {
        /// Its kind, such as `createRuntime`.
        kind: &'static str,
        /// Which of them, counted from 0.
        index: usize,
        /// What became of it, and what it said.
        problem: String,
    },
    /// There is no such container.
    #[error("container {0} does not exist")]
    NoContainer(ContainerId),
    /// There is one with this name already.
    #[error("container {0} exists already")]
    Exists(ContainerId),
    /// The container is not in a state in which this can be done.
    #[error("cannot {operation} container {id}: it is {status}")]
    Status {
        /// The container.
        id: ContainerId,
        /// What was to be done with it.
        operation: &'static str,
        /// How it is.
        status: Status,
    },
    /// Its process has ended, so no signal reaches it. containerd's shim knows this by its words.
    #[error("container not running: {0}")]
    NotRunning(ContainerId),
    /// What this runtime does not do.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

impl Error {
    /// A field of the configuration, by its path, and what is wrong with it.
    pub fn spec(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Spec { field: field.into(), problem: problem.into() }
    }

    /// A failure that no system call told of.
    pub(crate) fn other(operation: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::System { operation: operation.into(), source: io::Error::other(problem.into()) }
    }

    /// The error and its causes in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    }
}

/// Says what was tried when it failed.
pub(crate) trait Doing<T> {
    /// What was tried, such as `mount proc on /proc`.
    fn doing(self, operation: &str) -> Result<T>;
    /// The same where saying it costs an allocation.
    fn doing_with(self, operation: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, operation: &str) -> Result<T> {
        self.doing_with(|| operation.to_owned())
    }

    fn doing_with(self, operation: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::System { operation: operation(), source: source.into() })
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn the_chain_says_what_failed_and_why() {
        let error = Err::<(), _>(Errno::EPERM).doing("mount proc on /proc").expect_err("an error");
        assert_eq!(error.chain(), "mount proc on /proc: Operation not permitted (os error 1)");
    }
}
