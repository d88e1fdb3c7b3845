//! Creation, from outside: the runtime's side of what [`crate::channel`] says.
//!
//! ```text
//! runtime ──fork──▶ stage: joins and makes namespaces ──fork──▶ init: becomes the program
//! ```
//!
//! The stage ends at once and init is the runtime's child then, as the runtime is a subreaper (prctl(2)). Where gVisor lets
//! nobody into a pid namespace, the stage may stay as its [`crate::keeper`].

use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sched::CloneFlags;
use nix::unistd::{Gid, Pid, Uid};
use oci_spec::runtime::{Hooks, LinuxIdMapping, LinuxNamespaceType, Process, State};
use rustix::fs::{Mode, OFlags};

use crate::capabilities::Capabilities;
use crate::cgroups::Cgroups;
use crate::channel::{self, Channel, Message};
use crate::error::Doing as _;
use crate::exec::filter_of;
use crate::fork::{end, fork, reap};
use crate::init::{Init, Rights, bind_source, mounts_at, unmount};
use crate::keeper::{self, Keeper, leave_process_group, let_go_of_standard_streams};
use crate::namespaces::Theirs;
use crate::process::ProcessRef;
use crate::seccomp::Filter;
use crate::spec::Config;
use crate::state::{Lock, Saved, StateDir, Unfinished};
use crate::{ContainerId, Error, Result, Status, console, guest, hooks, rlimits};

/// How a container is created.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Who is sent the terminal of a process that has one.
    pub console_socket: Option<PathBuf>,
    /// Where the process's ID is written.
    pub pid_file: Option<PathBuf>,
    /// How many open files after the standard streams the process gets.
    pub preserve_fds: u32,
    /// Change the root by chroot(2), for root file systems that cannot be pivoted away from.
    pub no_pivot: bool,
    /// Leave its processes the session keyring of whoever starts them.
    pub no_new_keyring: bool,
}

/// A container in the making. What was made is undone if it goes out of scope unfinished.
pub(crate) struct Creation<'a> {
    id: &'a ContainerId,
    config: &'a Config,
    options: &'a CreateOptions,
    directory: &'a StateDir,
    lock: &'a Lock,
    cgroups: Cgroups,
    /// Where the keeper listens whose pid namespace it is to be in.
    host: Option<PathBuf>,
    warnings: Vec<String>,
    stage: Option<Pid>,
    init: Option<ProcessRef>,
    keeper: Option<ProcessRef>,
    mounts_before: Option<usize>,
    finished: bool,
}

/// What the processes inside take with them.
pub(crate) struct Luggage {
    filter: Option<Filter>,
    capabilities: Capabilities,
    pub console: Option<OwnedFd>,
    pub fifo: File,
    keeper: Option<Keeper>,
}

impl<'a> Creation<'a> {
    pub fn new(
        id: &'a ContainerId,
        config: &'a Config,
        options: &'a CreateOptions,
        directory: &'a StateDir,
        lock: &'a Lock,
    ) -> Result<Self> {
        let asked = config.linux().and_then(|linux| linux.cgroups_path().clone());
        let cgroup = match asked.filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => path.to_str().ok_or_else(|| Error::spec("linux.cgroupsPath", "is not text"))?.to_owned(),
            None => id.to_string(),
        };
        Ok(Self {
            id,
            config,
            options,
            directory,
            lock,
            cgroups: Cgroups::at(&cgroup)?,
            warnings: config.warnings.clone(),
            host: match config.namespaces.joined(LinuxNamespaceType::Pid) {
                Some(namespace) => directory.keeper_of(namespace)?,
                None => None,
            },
            stage: None,
            init: None,
            keeper: None,
            mounts_before: match config.has_own_mounts() {
                true => None,
                false => Some(mounts_at(&config.rootfs)?),
            },
            finished: false,
        })
    }

    /// Creates it.
    pub fn run(mut self) -> Result<(Saved, Vec<String>)> {
        let process = &self.config.process_to_wait();
        let luggage = self.pack(process)?;
        self.save()?;
        self.cgroups.create()?;
        let resources = self.config.linux().and_then(|linux| linux.resources().as_ref());
        let devices = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
        self.cgroups.allow_devices(devices)?;
        nix::sys::prctl::set_child_subreaper(true).doing("become a subreaper")?;
        let (ours, mut theirs) = Channel::pair_for_fork()?;
        let state = self.state(Status::Creating, None)?;
        let (config, options) = (self.config, self.options);
        let connection = match &self.host {
            Some(host) => {
                let connection = guest::create(host, config, options, state, &luggage, &theirs)?;
                // What it waits at for the start is the guest's alone, which says by it that its program is executed.
                drop(luggage);
                Some(connection)
            }
            None => {
                self.stage = Some(fork(&mut theirs, |theirs| {
                    self.lock.let_go();
                    drop(ours.take());
                    stage(config, options, process, state, luggage, theirs)
                })?);
                None
            }
        };
        drop(theirs);
        let ours = ours.take().ok_or_else(|| Error::other("create a container", "the channel is gone"))?;
        let mut saved = self.listen(&ours, process)?;
        drop(ours);
        if let Some(connection) = connection {
            self.add_proxy(connection, &mut saved)?;
        }
        self.write_pid_file(&saved)?;
        self.finished = true;
        Ok((saved, std::mem::take(&mut self.warnings)))
    }

    /// Whoever waits for a guest waits for its proxy.
    fn add_proxy(&mut self, connection: OwnedFd, saved: &mut Saved) -> Result<()> {
        let proxy = keeper::fork_proxy(connection, saved.init.pid(), || self.lock.let_go())?;
        self.keeper = ProcessRef::of(proxy);
        self.cgroups.add(proxy)?;
        saved.keeper = self.keeper;
        self.directory.save(saved, &self.config.spec)
    }

    /// What can fail before anything runs, and what must be opened outside.
    fn pack(&mut self, process: &Process) -> Result<Luggage> {
        let filter = filter_of(self.config)?;
        let capabilities = Capabilities::new(process.capabilities().as_ref());
        self.warnings.extend(filter.iter().flat_map(|filter| &filter.warnings).chain(&capabilities.warnings).cloned());
        // Linux shows it in that file, and lets whoever may into any.
        let may_need_keeper = self.config.namespaces.is_new(LinuxNamespaceType::Pid)
            && !Path::new("/proc/self/ns/pid_for_children").exists();
        Ok(Luggage {
            filter,
            capabilities,
            console: console::connect(process, self.options.console_socket.as_deref(), "process")?,
            fifo: self.directory.make_fifo()?,
            keeper: may_need_keeper.then(|| Keeper::bind(&self.directory.keeper_socket())).transpose()?,
        })
    }

    /// Answers the processes inside, until the one that becomes the program waits for its start.
    fn listen(&mut self, channel: &Channel, process: &Process) -> Result<Saved> {
        let mut saved = None;
        while let Some(message) = channel.receive()? {
            match message {
                Message::MapIds => map_ids(self.stage, self.config)?,
                Message::Forked { pid, keeper } => {
                    self.forked(Pid::from_raw(pid), keeper, process)?;
                }
                Message::Open(mount) => {
                    self.open_for_init(channel, mount)?;
                    continue;
                }
                Message::Mounted => self.mounted()?,
                Message::Ready => saved = Some(self.ready(process)?),
                Message::Failed(text) => return Err(Error::Inside(text)),
                Message::Go | Message::Ended(_) => {
                    return Err(Error::other("create a container", "an unexpected message"));
                }
            }
            channel.send(&Message::Go)?;
        }
        saved.ok_or_else(|| Error::other("create a container", "its first process ended"))
    }

    /// What can be said of it before it is created.
    fn save(&self) -> Result<()> {
        self.directory.save_unfinished(&Unfinished {
            bundle: self.config.bundle.clone(),
            rootfs: self.config.rootfs.clone(),
            mounts_before: self.mounts_before,
            cgroups: self.cgroups.clone(),
            init: self.init,
            annotations: self.config.spec.annotations().clone(),
        })
    }

    fn forked(&mut self, pid: Pid, keeper: bool, process: &Process) -> Result<()> {
        let stage = self.stage.take();
        if !keeper {
            self.directory.remove_keeper_socket();
        }
        match stage {
            Some(stage) if keeper => self.keeper = ProcessRef::of(stage),
            Some(stage) => reap(stage),
            None => {}
        }
        self.init = ProcessRef::of(pid);
        self.save()?;
        self.cgroups.add(pid)?;
        // Who looks for the container's cgroup by its process finds that of the keeper.
        self.keeper.map_or(Ok(()), |keeper| self.cgroups.add(keeper.pid()))?;
        set_oom_score(pid, process.oom_score_adj())
    }

    /// Who is root in a user namespace may not reach what is below directories of others. What is opened is said by the
    /// configuration, not by whoever asks. Opened in the container's mount namespace, since nothing is mounted from another
    /// one; by a process of its own, since nobody comes back from there.
    fn open_for_init(&self, channel: &Channel, mount: usize) -> Result<()> {
        let path = &bind_source(self.config, mount)?;
        let init = self.init.ok_or_else(|| Error::other("open a file", "there is nobody to open it for"))?;
        let namespace = format!("/proc/{}/ns/mnt", init.pid());
        let (told, mut theirs) = Channel::pair()?;
        let opener = fork(&mut theirs, |_| {
            self.lock.let_go();
            let file = File::open(&namespace).doing_with(|| format!("open {namespace}"))?;
            nix::sched::setns(file, CloneFlags::CLONE_NEWNS).doing("join the container's mount namespace")?;
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let source =
                rustix::fs::open(path, flags, Mode::empty()).doing_with(|| format!("open {}", path.display()))?;
            channel::send(channel.fd()?, &Message::Go, &[source.as_fd()])?;
            std::process::exit(0)
        })?;
        drop(theirs);
        let told = told.receive();
        reap(opener);
        match told? {
            Some(Message::Failed(text)) => Err(Error::Inside(text)),
            _ => Ok(()),
        }
    }

    /// The mounts are made, the root is still the old one.
    fn mounted(&mut self) -> Result<()> {
        if let Some(resources) = self.config.linux().and_then(|linux| linux.resources().as_ref()) {
            self.warnings.extend(self.cgroups.set(resources)?);
        }
        let state = self.state(Status::Creating, self.init)?;
        #[allow(deprecated, reason = "prestart hooks are deprecated and still to be run")]
        hooks::run("prestart", self.config.hooks(Hooks::prestart), &state)?;
        hooks::run("createRuntime", self.config.hooks(Hooks::create_runtime), &state)
    }

    /// Saved before the process goes on, so that whatever happens to the runtime now, the container can be deleted.
    fn ready(&self, process: &Process) -> Result<Saved> {
        let init = self.init.ok_or_else(|| Error::other("create a container", "its first process ended"))?;
        rlimits::set(init.pid(), process.rlimits().as_deref().unwrap_or_default())?;
        let saved = Saved {
            bundle: self.config.bundle.clone(),
            rootfs: self.config.rootfs.clone(),
            created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
            init,
            keeper: self.keeper,
            keeper_socket: self.host.clone().or_else(|| self.keeper.map(|_| self.directory.keeper_socket())),
            cgroups: self.cgroups.clone(),
            mounts_before: self.mounts_before,
            no_new_keyring: self.options.no_new_keyring,
        };
        self.directory.save(&saved, &self.config.spec)?;
        Ok(saved)
    }

    fn write_pid_file(&self, saved: &Saved) -> Result<()> {
        self.options.pid_file.as_deref().map_or(Ok(()), |path| write_pid_file(path, saved.waited_for()))
    }

    fn state(&self, status: Status, init: Option<ProcessRef>) -> Result<State> {
        state(self.id, self.config, status, init.map(ProcessRef::pid))
    }
}

impl Saved {
    /// The process whose end tells that of the container to whoever waits for its child: the keeper ends as init did.
    pub fn waited_for(&self) -> Pid {
        self.keeper.unwrap_or(self.init).pid()
    }
}

impl Drop for Creation<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // A guest's first process is a child of the keeper's, which may have taken its end already.
        let init = self.init.filter(|init| self.host.is_none() || init.lives());
        for pid in init.map(ProcessRef::pid).into_iter().chain(self.stage).chain(self.keeper.map(ProcessRef::pid)) {
            end(pid);
        }
        if let Some(init) = self.init {
            init.ends_within(Duration::from_secs(10));
        }
        // What failed is told; that its traces cannot be removed would hide it.
        if let Some(before) = self.mounts_before {
            let _ = unmount(&self.config.rootfs, before);
        }
        let _ = self.cgroups.delete();
        let _ = self.directory.remove();
    }
}

/// The state of a container as the specification has it.
pub(crate) fn state(id: &ContainerId, config: &Config, status: Status, pid: Option<Pid>) -> Result<State> {
    let mut state = State::default();
    state
        .set_version(crate::spec::VERSION.to_owned())
        .set_id(id.to_string())
        .set_status(status.in_specification())
        .set_pid(pid.map(Pid::as_raw))
        .set_bundle(config.bundle.clone())
        .set_annotations(config.spec.annotations().clone());
    Ok(state)
}

/// Written under another name first, so that a reader never sees half of it.
pub(crate) fn write_pid_file(path: &Path, pid: Pid) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}"));
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .doing_with(|| format!("write {}", path.display()))
}

pub(crate) fn set_oom_score(pid: Pid, score: Option<i32>) -> Result<()> {
    let Some(score) = score else { return Ok(()) };
    let path = format!("/proc/{pid}/oom_score_adj");
    fs::write(&path, score.to_string()).doing_with(|| format!("write {score} to {path}"))
}

/// The stage: in its namespaces it forks the container's first process.
fn stage(
    config: &Config,
    options: &CreateOptions,
    process: &Process,
    state: State,
    luggage: Luggage,
    channel: &mut Channel,
) -> Result<Infallible> {
    close_files(options.preserve_fds)?;
    if !options.no_new_keyring {
        join_new_keyring()?;
    }
    config.namespaces.join()?;
    if config.namespaces.is_new(LinuxNamespaceType::User) {
        config.namespaces.make_one(LinuxNamespaceType::User)?;
        channel.ask(&Message::MapIds)?;
    }
    if config.namespaces.has(LinuxNamespaceType::User) {
        become_root()?;
    }
    config.namespaces.make()?;
    set_time_offsets(config)?;
    let Luggage { filter, capabilities, console, fifo, keeper } = luggage;
    // Nobody inside is to read this program's memory or files before it is the container's. Only as long as nobody is
    // inside, in a pid namespace that has just been made, may the stage look at its child.
    nix::sys::prctl::set_dumpable(keeper.is_some()).doing("hide from those inside")?;
    if keeper.is_some() {
        leave_process_group()?;
    }
    let init = fork(channel, |channel| {
        channel.wait_for_go()?;
        nix::sys::prctl::set_dumpable(false).doing("hide from those inside")?;
        let process = Rights { process, filter, capabilities, channel };
        Init { config, process, state, fifo, console, no_pivot: options.no_pivot }.run()
    })?;
    let stays = match keeper {
        Some(keeper) if !Theirs::of(init, &config.namespaces)?.lets_into_pid_namespace() => {
            // It would keep the old root, and all that it forks.
            if options.no_pivot && config.has_own_mounts() {
                return Err(Error::Unsupported("--no-pivot where nobody can join a pid namespace"));
            }
            let_go_of_standard_streams()?;
            // What is preserved is for the first process, not for those that are forked later.
            close_files(0)?;
            Some(keeper)
        }
        _ => None,
    };
    nix::sys::prctl::set_dumpable(false).doing("hide from those inside")?;
    channel.send(&Message::Forked { pid: init.as_raw(), keeper: stays.is_some() })?;
    // Only init is to have it: by its end the runtime knows that init waits for the start.
    channel.close();
    match stays {
        Some(keeper) => keeper.run(config, init),
        None => std::process::exit(0),
    }
}

/// Whatever this program was given beyond the standard streams and the files that are to be preserved is closed when the
/// container's program is executed. What it opened itself is so anyhow.
pub(crate) fn close_files(preserved: u32) -> Result<()> {
    let first = i32::try_from(preserved).ok().and_then(|count| count.checked_add(3));
    let first = first.ok_or_else(|| Error::spec("--preserve-fds", "is out of range"))?;
    terrarium_sys::process::close_on_exec_from(first).doing("close inherited files")
}

/// What is in the session keyring of whoever starts a process is not for it (session-keyring(7)). Not in gVisor, which has
/// no list of keys: its keyrings are few and outlast their processes.
pub(crate) fn join_new_keyring() -> Result<()> {
    if !Path::new("/proc/keys").exists() {
        return Ok(());
    }
    match terrarium_sys::process::join_new_session_keyring() {
        // Filters of outer containers forbid it.
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => Ok(()),
        other => other.doing("join a session keyring"),
    }
}

/// In a user namespace, new or joined, nobody is anybody until they say so. The groups from outside go too, where the
/// namespace lets them (user_namespaces(7), `/proc/PID/setgroups`).
pub(crate) fn become_root() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    let _ = nix::unistd::setgroups(&[]);
    nix::unistd::setresgid(gid, gid, gid).doing("become group 0 of the user namespace")?;
    nix::unistd::setresuid(uid, uid, uid).doing("become user 0 of the user namespace")
}

/// Maps the IDs of the stage's user namespace, from outside.
fn map_ids(stage: Option<Pid>, config: &Config) -> Result<()> {
    let stage = stage.ok_or_else(|| Error::other("map IDs", "there is no process to map them for"))?;
    let Some(linux) = config.linux() else { return Ok(()) };
    // Who may not set groups outside may map one only after giving up to set them inside. gVisor has no such file.
    if !Uid::effective().is_root() {
        let _ = fs::write(format!("/proc/{stage}/setgroups"), "deny");
    }
    for (field, map, file) in
        [("linux.uidMappings", linux.uid_mappings(), "uid_map"), ("linux.gidMappings", linux.gid_mappings(), "gid_map")]
    {
        let text = map_text(map.as_deref().unwrap_or_default());
        fs::write(format!("/proc/{stage}/{file}"), &text)
            .map_err(|error| Error::spec(field, format!("{:?} cannot be mapped: {error}", text.trim_end())))?;
    }
    Ok(())
}

fn map_text(map: &[LinuxIdMapping]) -> String {
    map.iter().map(|line| format!("{} {} {}\n", line.container_id(), line.host_id(), line.size())).collect()
}

/// Offsets hold for processes that are forked afterwards (time_namespaces(7)).
pub(crate) fn set_time_offsets(config: &Config) -> Result<()> {
    let offsets = config.linux().and_then(|linux| linux.time_offsets().as_ref());
    for (clock, offset) in offsets.into_iter().flatten() {
        let text = format!("{clock} {} {}", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        fs::write("/proc/self/timens_offsets", &text)
            .map_err(|error| Error::spec("linux.timeOffsets", format!("{text:?} cannot be set: {error}")))?;
    }
    Ok(())
}
