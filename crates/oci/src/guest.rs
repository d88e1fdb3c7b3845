//! Containers in the pid namespace of another one, where nobody can join a pid namespace.
//!
//! Such a *guest* has its processes made by the keeper of that namespace ([`crate::keeper`]). What the keeper forks is in the
//! namespaces of the keeper's own container and has its root, and so it enters others first: to make a guest, the mount
//! namespace of the runtime; for a further process in one, all of the guest's.

use std::convert::Infallible;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec, State};
use serde::{Deserialize, Serialize};

use crate::channel::Channel;
use crate::create::{CreateOptions, Luggage, set_time_offsets};
use crate::error::Doing as _;
use crate::init::{Init, Rights};
use crate::keeper::{self, Job};
use crate::namespaces::{Theirs, enter_named};
use crate::spec::Config;
use crate::{Error, Result, exec};

/// What a keeper is asked to do for a guest. With it come the namespaces that it enters first, then for a new guest what it
/// waits at for its start, then the console socket if there is one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Guest {
    spec: Spec,
    bundle: PathBuf,
    rootfs: PathBuf,
    /// The kinds of the namespaces, by the names of their files.
    namespaces: Vec<String>,
    task: Task,
}

#[derive(Debug, Serialize, Deserialize)]
enum Task {
    Create(State),
    Exec(Box<Process>),
}

/// Asks a keeper to make a guest's first process. Returns the connection, as [`keeper::ask`] does.
pub(crate) fn create(
    host: &Path,
    config: &Config,
    options: &CreateOptions,
    state: State,
    luggage: &Luggage,
    channel: &Channel,
) -> Result<OwnedFd> {
    let asks_for_more = options.preserve_fds > 0 || options.no_pivot || !config.has_own_mounts();
    if asks_for_more || config.namespaces.has(LinuxNamespaceType::User) {
        let what = "--preserve-fds, --no-pivot, a user namespace or no mount namespace where nobody can join the pid namespace";
        return Err(Error::Unsupported(what));
    }
    let mounts = File::open("/proc/self/ns/mnt").doing("open the mount namespace")?;
    let job = job(config, vec!["mnt".to_owned()], Task::Create(state));
    let mut files = vec![mounts.as_fd(), luggage.fifo.as_fd()];
    files.extend(luggage.console.iter().map(|console| console.as_fd()));
    keeper::ask(host, &job, channel, &files)
}

/// Asks a keeper to start a process in a guest, whose first process this is.
pub(crate) fn exec(
    host: &Path,
    config: &Config,
    init: Pid,
    process: &Process,
    channel: &Channel,
    console: Option<&OwnedFd>,
) -> Result<OwnedFd> {
    let theirs = Theirs::of(init, &config.namespaces.clone().without(LinuxNamespaceType::Pid))?;
    let (names, files) = theirs.into_files();
    let job = job(config, names, Task::Exec(Box::new(process.clone())));
    let mut files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
    files.extend(console.map(|console| console.as_fd()));
    keeper::ask(host, &job, channel, &files)
}

fn job(config: &Config, namespaces: Vec<String>, task: Task) -> Job {
    let (bundle, rootfs) = (config.bundle.clone(), config.rootfs.clone());
    Job::Guest(Box::new(Guest { spec: config.spec.clone(), bundle, rootfs, namespaces, task }))
}

impl Guest {
    /// The keeper's child: becomes the guest's process.
    pub fn run(self, mut files: IntoIter<OwnedFd>, channel: &mut Channel) -> Result<Infallible> {
        let mut next = || files.next().ok_or_else(|| Error::other("make a guest's process", "a file is missing"));
        for name in &self.namespaces {
            enter_named(name, &next()?)?;
        }
        rustix::process::chdir("/").doing("enter the root")?;
        let config = Config::of_created(self.spec, self.bundle, self.rootfs)?;
        match self.task {
            Task::Create(state) => {
                let fifo = File::from(next()?);
                become_init(&config, state, fifo, files.next(), channel)
            }
            Task::Exec(process) => exec::inside(&config, &process, files.next(), channel),
        }
    }
}

fn become_init(
    config: &Config,
    state: State,
    fifo: File,
    console: Option<OwnedFd>,
    channel: &mut Channel,
) -> Result<Infallible> {
    let namespaces = config.namespaces.clone().without(LinuxNamespaceType::Pid);
    namespaces.join()?;
    namespaces.make()?;
    set_time_offsets(config)?;
    let process = config.process_to_wait();
    let filter = exec::filter_of(config)?;
    let capabilities = crate::capabilities::Capabilities::new(process.capabilities().as_ref());
    // The others of the namespace see this process from its beginning.
    nix::sys::prctl::set_dumpable(false).doing("hide from those inside")?;
    channel.wait_for_go()?;
    let process = Rights { process: &process, filter, capabilities, channel };
    Init { config, process, state, fifo, console, no_pivot: false }.run()
}
