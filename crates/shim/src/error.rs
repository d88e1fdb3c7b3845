//! What goes wrong in the shim, and what containerd is told of it.

use std::io;
use std::path::{Path, PathBuf};

use containerd_shim::protos::ttrpc::{self, Code};
use thiserror::Error;

/// Why a request failed.
#[derive(Debug, Error)]
pub enum Error {
    /// No such container or process, or one that has ended already.
    #[error("{0}")]
    NotFound(String),
    /// The process is in another state than the request needs.
    #[error("{0}")]
    FailedPrecondition(String),
    /// A container or process of this ID is there.
    #[error("{0} already exists")]
    AlreadyExists(String),
    /// The request says what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The shim does not do this.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The OCI runtime refused.
    #[error("OCI runtime {operation} failed: {message}")]
    Runtime {
        /// The runtime's command.
        operation: &'static str,
        /// The last error of its log, or how it ended.
        message: String,
    },
    /// The OCI runtime was ended by somebody else.
    #[error("OCI runtime {operation} was killed by signal {signal}")]
    Killed {
        /// The runtime's command.
        operation: &'static str,
        /// What ended it.
        signal: u32,
    },
    /// A system call failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// JSON of containerd's could not be read.
    #[error("{what}")]
    Json {
        /// What was read.
        what: &'static str,
        /// Where it stopped making sense.
        source: serde_json::Error,
    },
}

impl Error {
    /// Names the operation and the file of a failed system call; for `map_err`.
    pub fn io<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source: source.into() }
    }

    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NOT_FOUND,
            Self::FailedPrecondition(_) => Code::FAILED_PRECONDITION,
            Self::AlreadyExists(_) => Code::ALREADY_EXISTS,
            Self::Invalid(_) | Self::Json { .. } => Code::INVALID_ARGUMENT,
            Self::Unsupported(_) => Code::UNIMPLEMENTED,
            Self::Runtime { .. } | Self::Killed { .. } | Self::Io { .. } => Code::UNKNOWN,
        }
    }

    /// The error with all its causes, in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), error.chain()))
    }
}

impl From<Error> for containerd_shim::Error {
    fn from(error: Error) -> Self {
        Self::Other(error.chain())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_is_told_the_cause() {
        let error = Error::io("open fifo", Path::new("/run/x"))(io::Error::from_raw_os_error(2));
        assert_eq!(error.chain(), "open fifo /run/x: No such file or directory (os error 2)");
        let ttrpc::Error::RpcStatus(status) = Error::NotFound("process already finished".to_owned()).into() else {
            panic!("no status");
        };
        assert_eq!((status.code(), status.message()), (Code::NOT_FOUND, "process already finished"));
    }
}
