//! What is kept of a container, in a directory of its own:
//!
//! ```text
//! ROOT/ID/            locked by flock(2) while something is changed
//!   creation.json     written before anything else is made, and again when there is a process
//!   state.json        written when the container has been created
//!   config.json       the configuration that it was created with
//!   exec.fifo         until it is started
//!   keeper.sock       where a keeper looks after its pid namespace
//! ```

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;
use rustix::fs::{FlockOperation, OFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cgroups::Cgroups;
use crate::error::Doing as _;
use crate::process::ProcessRef;
use crate::{ContainerId, Error, Result, spec};

const STATE: &str = "state.json";
const CREATION: &str = "creation.json";
/// How much is left in the fifo at most: what the kernel takes in one piece.
const LONGEST_PROBLEM: usize = 4096;

/// What is remembered of a container that has been created.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// When it was created, as RFC 3339 has it.
    pub created: String,
    pub init: ProcessRef,
    /// The process that looks after its pid namespace, where one is needed.
    pub keeper: Option<ProcessRef>,
    /// Where the keeper listens who starts its processes: its own, or that of the container whose pid namespace it shares.
    pub keeper_socket: Option<PathBuf>,
    pub cgroups: Cgroups,
    /// See [`Unfinished::mounts_before`].
    #[serde(default)]
    pub mounts_before: Option<usize>,
    #[serde(default)]
    pub no_new_keyring: bool,
}

/// What is remembered of one that is being created: enough to remove it if that is cut off.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Unfinished {
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// How many mounts there were at the root file system, if the container shares its caller's mounts: its own are above.
    pub mounts_before: Option<usize>,
    pub cgroups: Cgroups,
    pub init: Option<ProcessRef>,
    pub annotations: Option<HashMap<String, String>>,
}

/// The directory of a container.
#[derive(Debug, Clone)]
pub(crate) struct StateDir(PathBuf);

/// As long as this lives nobody else changes the container. The lock goes with the last copy of the file, so a process
/// that is forked meanwhile must let go of its own.
#[derive(Debug)]
pub(crate) struct Lock(RefCell<Option<File>>);

impl Lock {
    /// Closes this process's copy, which gives the lock to whoever has another.
    pub fn let_go(&self) {
        self.0.take();
    }
}

impl StateDir {
    /// That of a container, whether it is there or not.
    pub fn of(root: &Path, id: &ContainerId) -> Self {
        Self(root.join(id))
    }

    /// Makes it, for this user only.
    pub fn create(root: &Path, id: &ContainerId) -> Result<(Self, Lock)> {
        let directory = |path: &Path| format!("make the directory {}", path.display());
        DirBuilder::new().recursive(true).mode(0o711).create(root).doing_with(|| directory(root))?;
        let this = Self::of(root, id);
        match DirBuilder::new().mode(0o700).create(&this.0) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists(id.clone())),
            other => other.doing_with(|| directory(&this.0))?,
        }
        let lock = this.lock()?;
        Ok((this, lock))
    }

    fn id(&self) -> Option<ContainerId> {
        self.0.file_name()?.to_str()?.parse().ok()
    }

    pub fn exists(&self) -> bool {
        self.0.is_dir()
    }

    /// Waits until nobody else changes the container.
    pub fn lock(&self) -> Result<Lock> {
        let doing = || format!("lock {}", self.0.display());
        let directory = match (File::open(&self.0), self.id()) {
            (Err(error), Some(id)) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NoContainer(id)),
            (other, _) => other.doing_with(doing)?,
        };
        rustix::io::retry_on_intr(|| rustix::fs::flock(&directory, FlockOperation::LockExclusive)).doing_with(doing)?;
        // Meanwhile it may have been removed, and another one made with the same name.
        let locked = directory.metadata().doing_with(doing)?.ino();
        match (fs::metadata(&self.0).map(|metadata| metadata.ino()), self.id()) {
            (Ok(there), _) if there == locked => Ok(Lock(RefCell::new(Some(directory)))),
            (_, Some(id)) => Err(Error::NoContainer(id)),
            (_, None) => Err(Error::other(doing(), "it was removed")),
        }
    }

    /// Whether somebody changes the container at this moment.
    pub fn is_locked(&self) -> bool {
        File::open(&self.0).is_ok_and(|directory| {
            rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
        })
    }

    pub fn save(&self, saved: &Saved, spec: &Spec) -> Result<()> {
        self.write(spec::CONFIG, spec)?;
        self.write(STATE, saved)
    }

    pub fn save_unfinished(&self, unfinished: &Unfinished) -> Result<()> {
        self.write(CREATION, unfinished)
    }

    /// That of a container that is being created, or whose creation was cut off.
    pub fn load_unfinished(&self) -> Result<Option<Unfinished>> {
        self.load_file(CREATION)
    }

    /// What was saved; none if the container has not been created yet.
    pub fn load(&self) -> Result<Option<Saved>> {
        self.load_file(STATE)
    }

    fn load_file<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        match spec::read(&self.0.join(name)) {
            Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// The configuration that the container was created with.
    pub fn spec(&self) -> Result<Spec> {
        spec::read(&self.0.join(spec::CONFIG))
    }

    /// By another file and a rename, so that a reader never sees half of it.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let (path, new) = (self.0.join(name), self.0.join(format!(".{name}")));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&serde_json::to_vec(value)?)?;
            fs::rename(&new, &path)
        };
        write().doing_with(|| format!("write {}", path.display()))
    }

    /// Begins with what says that the container is there: if it is cut off, the rest is that of an unfinished creation.
    pub fn remove(&self) -> Result<()> {
        let remove = || {
            match fs::remove_file(self.0.join(STATE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::remove_dir_all(&self.0)
        };
        remove().doing_with(|| format!("remove {}", self.0.display()))
    }

    /// Where the keeper of a pid namespace listens, if `/proc/PID/ns/pid` is that of a process which stands for the first
    /// one of another container. Whoever only knows that process means the container's namespace, in which it is not.
    pub fn keeper_of(&self, namespace: &Path) -> Result<Option<PathBuf>> {
        let root = self.0.parent().unwrap_or(Path::new("/"));
        for id in list(root)? {
            // One that is damaged, or just being removed, is no reason not to find another.
            let Ok(Some(saved)) = Self::of(root, &id).load() else { continue };
            let stands = |keeper: ProcessRef| {
                namespace == Path::new(&format!("/proc/{}/ns/pid", keeper.pid())) && keeper.lives()
            };
            if saved.keeper.is_some_and(stands) {
                return Ok(saved.keeper_socket);
            }
        }
        Ok(None)
    }

    pub fn keeper_socket(&self) -> PathBuf {
        self.0.join("keeper.sock")
    }

    /// Where none stays after all, nobody is to be looked for.
    pub fn remove_keeper_socket(&self) {
        let _ = fs::remove_file(self.keeper_socket());
    }

    fn fifo(&self) -> PathBuf {
        self.0.join("exec.fifo")
    }

    /// Makes what the container's process waits at. Opened for reading and writing, so that this does not wait for a
    /// writer, and reading does.
    pub fn make_fifo(&self) -> Result<File> {
        let path = self.fifo();
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600))
            .doing_with(|| format!("make {}", path.display()))?;
        File::options().read(true).write(true).open(&path).doing_with(|| format!("open {}", path.display()))
    }

    /// Whether the container waits for its start. Without anybody who waits, the fifo is left over from a start that was
    /// cut off.
    pub fn has_fifo(&self) -> bool {
        self.open_fifo().is_ok()
    }

    fn open_fifo(&self) -> io::Result<File> {
        OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(self.fifo())
    }

    /// Lets the container's process go on. It fails with `ENXIO` if that has ended.
    pub fn release(&self) -> Result<Released> {
        let release = || {
            let mut fifo = self.open_fifo()?;
            fifo.write_all(&[0])?;
            Ok::<_, io::Error>(Released { fifo, path: self.fifo() })
        };
        release().doing("let the container's process go on")
    }
}

/// A process that was let go on, and has the fifo open until it has become its program. The fifo is removed with this.
#[derive(Debug)]
pub(crate) struct Released {
    fifo: File,
    path: PathBuf,
}

impl Released {
    /// Waits until it has, or has ended. Fails with what it left in the fifo, which is why it could not.
    pub fn for_program(self) -> Result<()> {
        // That nobody is left who reads is an error that is told unasked.
        let mut fifo = [PollFd::new(self.fifo.as_fd(), PollFlags::empty())];
        while let Err(error) = poll(&mut fifo, PollTimeout::NONE) {
            if error != Errno::EINTR {
                return Err(error).doing("wait until the container's program is executed");
            }
        }
        match self.left().doing_with(|| format!("read {}", self.path.display()))? {
            problem if problem.is_empty() => Ok(()),
            problem => Err(Error::Inside(problem)),
        }
    }

    /// What was left by the process, after what it was let go on by if that was said more than once.
    fn left(&self) -> io::Result<String> {
        let mut left = Vec::new();
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let reader = OpenOptions::new().read(true).custom_flags(flags).open(&self.path)?;
        match reader.take(LONGEST_PROBLEM as u64).read_to_end(&mut left) {
            // This process could write more.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        Ok(String::from_utf8_lossy(&left).trim_matches('\0').to_owned())
    }
}

/// Leaves in the fifo why the process that waited there does not become its program. Whether anybody reads it or not, there is
/// room for it.
pub(crate) fn leave_problem(fifo: &mut File, error: &Error) {
    let text = error.chain();
    let _ = fifo.write_all(&text.as_bytes()[..text.len().min(LONGEST_PROBLEM)]);
}

impl Drop for Released {
    fn drop(&mut self) {
        // Without one who waits there it says nothing.
        let _ = fs::remove_file(&self.path);
    }
}

/// All containers below a root, by name.
pub(crate) fn list(root: &Path) -> Result<Vec<ContainerId>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing_with(|| format!("list {}", root.display()))?,
    };
    let mut ids: Vec<ContainerId> = entries
        .filter_map(|entry| entry.ok().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    ids.sort();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_container_is_made_once_and_for_this_user_only() {
        let root = tempfile::tempdir().expect("a directory");
        let id: ContainerId = "one".parse().expect("an ID");
        let (directory, lock) = StateDir::create(root.path(), &id).expect("made");
        assert!(matches!(StateDir::create(root.path(), &id), Err(Error::Exists(_))));
        assert!(directory.is_locked());
        drop(lock);
        assert!(!directory.is_locked());
        assert!(directory.load().expect("readable").is_none());
        let saved = Saved {
            bundle: "/b".into(),
            rootfs: "/r".into(),
            created: String::new(),
            init: ProcessRef::of(Pid::this()).expect("this process"),
            keeper: None,
            keeper_socket: None,
            cgroups: Cgroups::None,
            mounts_before: None,
            no_new_keyring: false,
        };
        directory.save(&saved, &Spec::default()).expect("saved");
        assert_eq!(directory.load().expect("readable").expect("saved").init, saved.init);
        let mode = |path: PathBuf| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(root.path().join("one")), 0o700);
        assert_eq!(mode(root.path().join("one/state.json")), 0o600);
        assert_eq!(list(root.path()).expect("listed"), [id]);
        directory.remove().expect("removed");
        assert!(!directory.exists() && directory.load().expect("nothing is no error").is_none());
        assert!(matches!(directory.lock(), Err(Error::NoContainer(_))));
    }

    #[test]
    fn whoever_waits_at_the_fifo_is_released_once() {
        let root = tempfile::tempdir().expect("a directory");
        let (directory, _lock) = StateDir::create(root.path(), &"one".parse().expect("an ID")).expect("made");
        let mut waiting = directory.make_fifo().expect("made");
        assert!(directory.has_fifo());
        let released = directory.release().expect("released");
        waiting.read_exact(&mut [0]).expect("released");
        drop(waiting);
        released.for_program().expect("it has gone on");
        assert!(!directory.has_fifo() && !directory.fifo().exists() && directory.release().is_err());
    }

    #[test]
    fn whoever_waits_at_the_fifo_leaves_its_problem_there() {
        let root = tempfile::tempdir().expect("a directory");
        let (directory, _lock) = StateDir::create(root.path(), &"one".parse().expect("an ID")).expect("made");
        for problem in ["it is full".to_owned(), "x".repeat(100_000)] {
            let mut waiting = directory.make_fifo().expect("made");
            let released = directory.release().expect("released");
            waiting.read_exact(&mut [0]).expect("released");
            leave_problem(&mut waiting, &Error::Inside(problem.clone()));
            drop(waiting);
            let told = released.for_program().expect_err("it has a problem").to_string();
            assert!(!told.is_empty() && problem.starts_with(&told), "{told}");
        }
    }

    #[test]
    fn a_fifo_at_which_nobody_waits_says_nothing() {
        let root = tempfile::tempdir().expect("a directory");
        let (directory, _lock) = StateDir::create(root.path(), &"one".parse().expect("an ID")).expect("made");
        let waiting = directory.make_fifo().expect("made");
        assert!(directory.has_fifo());
        drop(waiting);
        assert!(!directory.has_fifo() && directory.fifo().exists());
    }
}
