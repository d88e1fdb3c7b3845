//! What happens inside: from the process that was forked into the container's namespaces to its program.
//!
//! The order is runc's: mounts, hooks, root, terminal, then what is hidden, and last of all what takes rights away.

mod cgroup_mount;
mod devices;
mod hiding;
mod mounts;
mod program;
mod rootfs;
mod user;
mod within;

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::stat::Mode;
use oci_spec::runtime::{ContainerState, Hooks, LinuxNamespaceType, Process, State};

use rustix::fs::OFlags;

use crate::capabilities::Capabilities;
use crate::channel::{Channel, Message};
use crate::error::Doing as _;
use crate::seccomp::Filter;
use crate::spec::Config;
use crate::state::leave_problem;
use crate::{Error, Result, console, hooks};

pub(crate) use mounts::bind_source;
use program::Program;
pub(crate) use rootfs::{change_root, mounts_at, unmount};

/// The container's first process, once it is in its namespaces.
pub(crate) struct Init<'a> {
    pub config: &'a Config,
    pub process: Rights<'a>,
    pub state: State,
    /// What it waits at for the start.
    pub fifo: File,
    pub console: Option<OwnedFd>,
    pub no_pivot: bool,
}

/// A process that is about to lose its rights, and what it keeps of them.
pub(crate) struct Rights<'a> {
    pub process: &'a Process,
    pub filter: Option<Filter>,
    pub capabilities: Capabilities,
    pub channel: &'a mut Channel,
}

impl Init<'_> {
    /// Becomes the container's program, when it is started.
    pub fn run(mut self) -> Result<Infallible> {
        nix::unistd::setsid().doing("lead a session")?;
        self.config.namespaces.make_one(LinuxNamespaceType::Cgroup)?;
        nix::sys::stat::umask(Mode::S_IWGRP | Mode::S_IWOTH);
        self.make_root()?;
        if let Some(socket) = self.console.take() {
            console::take(&socket, self.process.process, true)?;
        }
        self.finish_root()?;
        self.set_names()?;
        let mut fifo = self.fifo;
        let program = self.process.take_away()?;
        // By this the runtime knows that everything went well.
        self.process.channel.close();
        // Open until the program is executed: by that, the start knows that it is.
        fifo.read_exact(&mut [0]).doing("wait for the start")?;
        let state = current(&mut self.state, ContainerState::Created);
        let hooks = hooks::run("startContainer", self.config.hooks(Hooks::start_container), state);
        let Err(error) = hooks.and_then(|()| execute(program));
        leave_problem(&mut fifo, &error);
        Err(error)
    }

    /// Mounts everything, and makes the root file system the root.
    fn make_root(&mut self) -> Result<()> {
        let config = self.config;
        // The runtime takes them off where it sees them, which it does not in a namespace that is joined.
        let before = if config.has_own_mounts() { None } else { Some(mounts_at(&config.rootfs)?) };
        rootfs::prepare(config)?;
        let made = self.fill_root();
        if let (Err(_), Some(before)) = (&made, before) {
            unmount(&config.rootfs, before)?;
        }
        made?;
        self.process.channel.ask(&Message::Mounted)?;
        rustix::process::chdir(&config.rootfs).doing("enter the root file system")?;
        let state = current(&mut self.state, ContainerState::Creating);
        hooks::run("createContainer", config.hooks(Hooks::create_container), state)?;
        rootfs::enter(config, self.no_pivot)?;
        rootfs::propagate(config)?;
        if mounts::fills_dev(config) {
            open_null_again()?;
        }
        // The kernel would follow links of an image through /proc/self/fd to what is still open of outside.
        within::Root::open(Path::new("/"))?.place(self.process.process.cwd(), within::Missing::Directory)?;
        Ok(())
    }

    /// Makes mounts and devices, from outside of the root.
    fn fill_root(&self) -> Result<()> {
        let config = self.config;
        let root = within::Root::open(&config.rootfs)?;
        mounts::make(&root, config, self.process.channel)?;
        if mounts::fills_dev(config) {
            let asked = config.linux().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
            devices::make(&root, asked)?;
        }
        Ok(())
    }

    /// Makes read-only what was written to until now, hides what is to be hidden, and sets the namespaces' sysctls.
    fn finish_root(&self) -> Result<()> {
        mounts::finish(self.config)?;
        if self.config.spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
            rootfs::make_read_only()?;
        }
        let Some(linux) = self.config.linux() else { return Ok(()) };
        for (name, value) in linux.sysctl().iter().flatten() {
            set_sysctl(name, value)?;
        }
        linux.readonly_paths().iter().flatten().try_for_each(|path| hiding::make_read_only(path))?;
        linux.masked_paths().iter().flatten().try_for_each(|path| hiding::mask(path))
    }

    fn set_names(&self) -> Result<()> {
        if let Some(name) = self.config.spec.hostname().as_ref().filter(|name| !name.is_empty()) {
            nix::unistd::sethostname(name).doing("set the hostname")?;
        }
        if let Some(name) = self.config.spec.domainname().as_ref().filter(|name| !name.is_empty()) {
            rustix::system::setdomainname(name.as_bytes()).doing("set the domainname")?;
        }
        Ok(())
    }
}

impl Rights<'_> {
    /// Takes away what the process is not to have, and finds its program, if it has one.
    fn take_away(&mut self) -> Result<Option<Program>> {
        let process = self.process;
        let no_new_privileges = process.no_new_privileges().unwrap_or(false);
        nix::sys::stat::umask(Mode::from_bits_truncate(process.user().umask().unwrap_or(0o022)));
        if no_new_privileges {
            nix::sys::prctl::set_no_new_privs().doing("forbid new privileges")?;
        }
        self.channel.ask(&Message::Ready)?;
        // It takes a right that goes next; where none is needed it comes last, so that it forbids nothing of this.
        let filter = self.filter.take();
        let (early, late) = if no_new_privileges { (None, filter) } else { (filter, None) };
        // The working directory may be one that only the runtime may enter, or one that only the user may. If the former,
        // nothing is asked about it that a filter could forbid.
        let entered = match rustix::process::chdir(process.cwd()) {
            Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => false,
            other => {
                other.doing_with(|| format!("enter {}", process.cwd().display()))?;
                check_working_directory()?;
                true
            }
        };
        early.map_or(Ok(()), |filter| filter.apply())?;
        self.capabilities.apply(|| {
            user::take_on(process)?;
            if !entered {
                rustix::process::chdir(process.cwd()).doing_with(|| format!("enter {}", process.cwd().display()))?;
                check_working_directory()?;
            }
            Ok(())
        })?;
        let program = process.args().as_ref().map(|_| Program::find(process)).transpose()?;
        late.map_or(Ok(()), |filter| filter.apply())?;
        Ok(program)
    }

    /// The same, and becomes the program at once. The channel is closed by that, so even its failure is told.
    pub fn become_program(mut self) -> Result<Infallible> {
        execute(self.take_away()?)
    }
}

fn execute(program: Option<Program>) -> Result<Infallible> {
    program.ok_or_else(|| Error::spec("process", "must be given"))?.execute()
}

/// What the hooks inside are told: they see the process by its ID there.
fn current(state: &mut State, status: ContainerState) -> &State {
    state.set_status(status).set_pid(Some(nix::unistd::getpid().as_raw()));
    state
}

/// A working directory that was handed over by a file descriptor may be outside of the root, and is then none that the
/// kernel can name (CVE-2024-21626).
fn check_working_directory() -> Result<()> {
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.as_bytes().first() == Some(&b'/') => Ok(()),
        Ok(_) | Err(rustix::io::Errno::NOENT) => {
            Err(Error::other("look at the working directory", "it is outside of the container"))
        }
        Err(error) => Err(error).doing("look at the working directory"),
    }
}

/// What was opened outside as `/dev/null` is opened again inside: the old one would lead to the file system outside.
/// Where the device is bound from outside its user may have no right to that.
fn open_null_again() -> Result<()> {
    let is_null =
        |stream: BorrowedFd<'_>| rustix::fs::fstat(stream).is_ok_and(|stat| hiding::check_null(&stat).is_ok());
    let again = |access: OFlags| {
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let null = match rustix::fs::open(hiding::NULL, flags, rustix::fs::Mode::empty()) {
            Err(rustix::io::Errno::ACCESS) => return Ok(None),
            other => other.doing("open /dev/null")?,
        };
        hiding::check_null(&rustix::fs::fstat(&null).doing("look at /dev/null")?)?;
        Ok(Some(null))
    };
    if is_null(io::stdin().as_fd())
        && let Some(null) = again(OFlags::RDONLY)?
    {
        rustix::stdio::dup2_stdin(&null).doing("open /dev/null again")?;
    }
    if is_null(io::stdout().as_fd())
        && let Some(null) = again(OFlags::WRONLY)?
    {
        rustix::stdio::dup2_stdout(&null).doing("open /dev/null again")?;
    }
    if is_null(io::stderr().as_fd())
        && let Some(null) = again(OFlags::WRONLY)?
    {
        rustix::stdio::dup2_stderr(&null).doing("open /dev/null again")?;
    }
    Ok(())
}

/// A sysctl's name has dots for slashes; one with slashes may have dots in its parts (sysctl(8)).
fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    fs::write(Path::new("/proc/sys").join(path), value)
        .map_err(|error| Error::spec(format!("linux.sysctl[{name:?}]"), format!("cannot be set to {value:?}: {error}")))
}
