//! What can go wrong, said so that the user knows what to do.

use std::{io, path::PathBuf, process::ExitStatus};

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a sandbox could not be made, used or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Network namespaces and runsc ask for root.
    #[error("testbed must run as root: it makes network namespaces and runs runsc\nhint: use sudo")]
    NotRoot,
    /// The gVisor build asked for is not there.
    #[error("no runsc at {}\nhint: `make` builds it; or set TERRARIUM_RUNSC_DIR to the directory that holds it", path.display())]
    NoRunsc {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A program of the host is missing.
    #[error("{program} is not installed\nhint: apt-get install -y {package}")]
    NoTool {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program of the host failed.
    #[error("`{command}` failed: {status}\n{output}")]
    Tool {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A name that cannot be part of paths and identifiers.
    #[error("{name:?} cannot name a sandbox: use 1 to 32 of a-z, 0-9 and -, beginning with a letter or digit")]
    BadName {
        /// The name given.
        name: String,
    },
    /// A sandbox of that name belongs to a living process.
    #[error("the sandbox {name} belongs to process {owner}, which still runs")]
    Owned {
        /// The sandbox.
        name: String,
        /// The process that made it and will remove it.
        owner: u32,
    },
    /// No sandbox of that name runs.
    #[error("no sandbox called {name} runs\nhint: testbed start --name {name}")]
    NotFound {
        /// The name asked for.
        name: String,
    },
    /// Another version of this program wrote the record, or somebody damaged it.
    #[error("cannot understand {}: is it of another testbed?\nhint: stop that sandbox with the testbed that started it", path.display())]
    Foreign {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Every /30 of the address range is in use.
    #[error("no free network left in 10.200.0.0/16")]
    NoAddress,
    /// A signal asked to stop while the sandbox was being made.
    #[error("interrupted by signal {signal}")]
    Interrupted {
        /// The signal's number.
        signal: i32,
    },
    /// Some of the clean-up failed; the rest was done, and the record stays for the next sweep.
    #[error("sandbox {id} is not fully removed, the next testbed command tries again: {}", problems.join("; "))]
    Leftovers {
        /// The sandbox.
        id: String,
        /// Everything that failed.
        problems: Vec<String>,
    },
}

/// Adds the action and the path to an I/O error.
pub(crate) trait IoContext<T> {
    fn io(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn io(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|error| Error::Io { action, path: path.into(), source: error.into() })
    }
}
