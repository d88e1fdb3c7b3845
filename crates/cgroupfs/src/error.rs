//! What can go wrong.

use std::io;
use std::path::PathBuf;

/// The result of what this crate does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the files of cgroups cannot be served. Answers to those who use them are plain errnos.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("{operation} {}", path.display())]
    System {
        /// What was tried: `mount FUSE on`.
        operation: &'static str,
        /// With which path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// What backs a hierarchy is no cgroup.
    #[error("{} is no cgroup: mount the hierarchy there", .0.display())]
    NoCgroup(PathBuf),
    /// A mount was taken away, or its connection broke.
    #[error("the files in {} are no longer asked for: they were unmounted by somebody else; a new server mounts them again", .0.display())]
    Ended(PathBuf),
}

/// Says what was tried.
pub(crate) trait Doing<T> {
    /// With this path.
    fn doing(self, operation: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, operation: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::System { operation, path: path.into(), source: source.into() })
    }
}
