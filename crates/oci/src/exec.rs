//! A further process in a container.
//!
//! ```text
//! runtime ──fork──▶ stage: joins the container's namespaces ──fork──▶ process: becomes the program
//! ```

use std::cell::Cell;
use std::convert::Infallible;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespaceType, Process};

use crate::capabilities::Capabilities;
use crate::channel::{Channel, Message};
use crate::create::{become_root, close_files, join_new_keyring, set_oom_score, write_pid_file};
use crate::error::Doing as _;
use crate::fork::{end, fork, reap};
use crate::init::{Rights, change_root};
use crate::keeper::Job;
use crate::namespaces::Theirs;
use crate::seccomp::Filter;
use crate::spec::{self, Config};
use crate::state::{Saved, StateDir};
use crate::{Error, Kernel, Result, console, guest, keeper, rlimits};

/// How a further process is started.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// Who is sent the terminal of a process that has one.
    pub console_socket: Option<PathBuf>,
    /// Where the process's ID is written.
    pub pid_file: Option<PathBuf>,
    /// How many open files after the standard streams the process gets.
    pub preserve_fds: u32,
}

/// A process to be started in a container that runs.
pub(crate) struct Exec<'a> {
    pub config: &'a Config,
    pub saved: &'a Saved,
    pub directory: &'a StateDir,
    pub process: &'a Process,
    pub options: &'a ExecOptions,
}

impl Exec<'_> {
    /// Starts it. The process is this one's child.
    pub fn run(&self) -> Result<Pid> {
        spec::validate_process(self.process, "process")?;
        let process = self.inherited()?;
        let console = console::connect(&process, self.options.console_socket.as_deref(), "process")?;
        nix::sys::prctl::set_child_subreaper(true).doing("become a subreaper")?;
        let (ours, mut theirs) = Channel::pair_for_fork()?;
        let pid = if let Some(keeper) = &self.saved.keeper_socket {
            if self.options.preserve_fds > 0 {
                return Err(Error::Unsupported("--preserve-fds in a container with a keeper"));
            }
            let connection = self.ask(keeper, &process, &theirs, console.as_ref())?;
            drop((theirs, console));
            let pid = self.listen(&taken(&ours)?, None, &process)?;
            keeper::fork_proxy(connection, pid, || ())?
        } else {
            let namespaces = Theirs::of(self.saved.init.pid(), &self.config.namespaces)?;
            // Between the look at its namespaces and now another process may have taken its place.
            if !self.saved.init.lives() {
                return Err(Error::other("start a process", "the container has ended"));
            }
            let stage = fork(&mut theirs, |theirs| {
                drop(ours.take());
                self.stage(namespaces, &process, console, theirs)
            })?;
            drop(theirs);
            self.listen(&taken(&ours)?, Some(stage), &process)?
        };
        if let Some(path) = self.options.pid_file.as_deref()
            && let Err(error) = write_pid_file(path, pid)
        {
            end(pid);
            return Err(error);
        }
        Ok(pid)
    }

    fn ask(&self, keeper: &Path, process: &Process, channel: &Channel, console: Option<&OwnedFd>) -> Result<OwnedFd> {
        if keeper != self.directory.keeper_socket() {
            return guest::exec(keeper, self.config, self.saved.init.pid(), process, channel, console);
        }
        let files: Vec<_> = console.iter().map(|console| console.as_fd()).collect();
        keeper::ask(keeper, &Job::Process(Box::new(process.clone())), channel, &files)
    }

    /// What it does not say of itself it has from the container's own process.
    fn inherited(&self) -> Result<Process> {
        let own = self.config.process()?;
        let mut process = self.process.clone();
        if process.capabilities().is_none() {
            process.set_capabilities(own.capabilities().clone());
        }
        if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
            process.set_rlimits(own.rlimits().clone());
        }
        if process.oom_score_adj().is_none() {
            process.set_oom_score_adj(own.oom_score_adj());
        }
        if process.no_new_privileges().is_none() {
            process.set_no_new_privileges(own.no_new_privileges());
        }
        Ok(process)
    }

    fn stage(
        &self,
        namespaces: Theirs,
        process: &Process,
        console: Option<OwnedFd>,
        channel: &mut Channel,
    ) -> Result<Infallible> {
        close_files(self.options.preserve_fds)?;
        if !self.saved.no_new_keyring {
            join_new_keyring()?;
        }
        // What is read of the kernel is read before its /proc is the container's.
        let filter = filter_of(self.config)?;
        nix::sys::prctl::set_dumpable(false).doing("hide from those inside")?;
        let has_user_namespace = namespaces.has(LinuxNamespaceType::User);
        namespaces.join()?;
        if !self.config.has_own_mounts() {
            change_root(&self.config.rootfs)?;
        }
        if has_user_namespace {
            become_root()?;
        }
        let pid = fork(channel, |channel| become_program(process, filter, console, channel))?;
        channel.send(&Message::Forked { pid: pid.as_raw(), keeper: false })?;
        std::process::exit(0)
    }

    /// Answers the process inside, until it has become its program.
    fn listen(&self, channel: &Channel, mut stage: Option<Pid>, process: &Process) -> Result<Pid> {
        let is_own_child = stage.is_some();
        let mut started = None;
        let mut is_ready = false;
        let result = loop {
            let answered = match channel.receive() {
                Ok(None) => break Ok(()),
                Ok(Some(Message::Forked { pid, .. })) => {
                    stage.take().into_iter().for_each(reap);
                    let pid = Pid::from_raw(pid);
                    started = Some(pid);
                    let added = self.saved.cgroups.add(pid);
                    added.and_then(|()| set_oom_score(pid, process.oom_score_adj()))
                }
                Ok(Some(Message::Ready)) => {
                    is_ready = true;
                    let limits = process.rlimits().as_deref().unwrap_or_default();
                    started.map_or(Ok(()), |pid| rlimits::set(pid, limits))
                }
                Ok(Some(Message::Failed(text))) => break Err(Error::Inside(text)),
                Ok(Some(_)) => break Err(Error::other("start a process", "an unexpected message")),
                Err(error) => break Err(error),
            };
            if let Err(error) = answered.and_then(|()| channel.send(&Message::Go)) {
                break Err(error);
            }
        };
        stage.into_iter().for_each(reap);
        match (result, started) {
            (Ok(()), Some(pid)) if is_ready => Ok(pid),
            (Ok(()), _) => Err(Error::other("start a process", "it ended before it became its program")),
            (Err(error), Some(pid)) if is_own_child => {
                end(pid);
                Err(error)
            }
            // A keeper ends its own, when whoever asked hangs up.
            (Err(error), _) => Err(error),
        }
    }
}

fn taken(channel: &Cell<Option<Channel>>) -> Result<Channel> {
    channel.take().ok_or_else(|| Error::other("start a process", "the channel is gone"))
}

pub(crate) fn filter_of(config: &Config) -> Result<Option<Filter>> {
    let seccomp = config.linux().and_then(|linux| linux.seccomp().as_ref());
    seccomp.map(|seccomp| Filter::compile(seccomp, &Kernel::look())).transpose()
}

/// The process that a keeper has forked: in all the container's namespaces already.
pub(crate) fn inside(
    config: &Config,
    process: &Process,
    console: Option<OwnedFd>,
    channel: &mut Channel,
) -> Result<Infallible> {
    become_program(process, filter_of(config)?, console, channel)
}

fn become_program(
    process: &Process,
    filter: Option<Filter>,
    console: Option<OwnedFd>,
    channel: &mut Channel,
) -> Result<Infallible> {
    channel.wait_for_go()?;
    nix::unistd::setsid().doing("lead a session")?;
    if let Some(socket) = console {
        console::take(&socket, process, false)?;
    }
    Rights { process, filter, capabilities: Capabilities::new(process.capabilities().as_ref()), channel }
        .become_program()
}
