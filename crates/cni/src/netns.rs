//! Working inside another network namespace, on a thread of its own: the namespace belongs to the thread and goes away
//! with it, and sockets opened there stay there.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// A network namespace that cannot be opened or entered.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the network namespace {}", path.display())]
pub struct NetnsError {
    /// `open` or `enter`.
    pub action: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Opens the namespace at `path`, a file below `/proc` or bound to a name.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let file = File::open(path).map_err(|source| NetnsError { action: "open", path: path.to_owned(), source })?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Opens the namespace at `path`, if there is one: a name that is left of a namespace that is gone (an empty
    /// regular file, after a restart of the sandbox) counts as none.
    pub fn open_if_there(path: &Path) -> Result<Option<Self>, NetnsError> {
        match Self::open(path) {
            Ok(netns) if netns.is_namespace() => Ok(Some(netns)),
            Ok(_) => Ok(None),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is_namespace(&self) -> bool {
        self.run(|| ()).is_ok()
    }

    /// Whether the calling thread is in this namespace.
    pub fn is_current(&self) -> bool {
        let own = File::open("/proc/thread-self/ns/net").or_else(|_| File::open("/proc/self/ns/net"));
        let identity = |file: &File| file.metadata().map(|data| (data.dev(), data.ino()));
        matches!((own.and_then(|own| identity(&own)), identity(&self.file)), (Ok(own), Ok(this)) if own == this)
    }

    /// Runs `work` inside the namespace and returns what it returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            Ok(work())
        };
        let outcome = thread::scope(|scope| {
            let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        outcome.map_err(|source| NetnsError { action: "enter", path: self.path.clone(), source })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
