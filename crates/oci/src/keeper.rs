//! Starting processes in a pid namespace that nobody can join.
//!
//! gVisor before 2026 refuses setns(2) to pid namespaces. Who made one stays outside of it and forks into it: so the
//! process that made the container's namespaces stays as its *keeper*, which nobody in the container can see, and forks a
//! process there when it is asked to. It is in all the container's other namespaces already. For containers that share the pid
//! namespace, but not the others, see [`crate::guest`].
//!
//! ```text
//! runtime ──process, fds──▶ keeper ──fork──▶ process
//!    └─fork─▶ proxy ◀── Ended ──┘ waits for it
//! ```
//!
//! gVisor of that age has no `CLONE_PARENT` either, so what the keeper forks are its own children, and whoever waits for the
//! container's first process, or for one that was started in it, waits for another process in its place: the keeper ends as
//! the first one did, and a *proxy* ends as the other one did. Both pass on signals that they get; if a proxy is killed, so
//! is its process; if a keeper is, whoever waits for it must end what it has kept.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{WaitOptions, WaitStatus};
use serde::{Deserialize, Serialize};
use terrarium_sys::process::Fork;

use crate::Result;
use crate::channel::{self, Channel, Ended, Message};
use crate::error::Doing as _;
use crate::exec;
use crate::foreground::{pass_on, signals};
use crate::fork::fork;
use crate::guest::Guest;
use crate::init::change_root;
use crate::memory_file;
use crate::spec::Config;

const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;

/// What the keeper is asked for is in the file which comes with this, since that may be longer than a message. After that
/// come standard streams, the channel, and what else the job needs.
#[derive(Debug, Serialize, Deserialize)]
struct Start;

/// What the keeper is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// A process in its own container. With it comes the console socket, if there is one.
    Process(Box<Process>),
    /// One in another container that is to be in the same pid namespace.
    Guest(Box<Guest>),
}

/// A keeper to be.
#[derive(Debug)]
pub(crate) struct Keeper(OwnedFd);

/// Who asks for a process, and then waits for it.
struct Client {
    connection: Channel,
    /// None until it has said what it asks for.
    pid: Option<Pid>,
}

impl Keeper {
    /// Listens at a path outside of the container.
    pub fn bind(path: &Path) -> Result<Self> {
        let bind = || {
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            let (_directory, address) = address(path)?;
            rustix::net::bind(&socket, &address)?;
            rustix::net::listen(&socket, 16)?;
            Ok::<_, rustix::io::Errno>(socket)
        };
        bind().map(Self).doing_with(|| format!("listen at {}", path.display()))
    }

    /// Looks after the pid namespace whose first process this is, and ends as it ends.
    pub fn run(self, config: &Config, init: Pid) -> Result<Infallible> {
        // The one that it has is outside of the container.
        rustix::process::chdir("/").doing("enter the root")?;
        let signals = signals()?;
        let mut clients: Vec<Client> = Vec::new();
        loop {
            let connections = clients.iter().map(|client| client.connection.fd()).collect::<Result<Vec<_>>>()?;
            let ready = wait_for_any([self.0.as_fd(), signals.as_fd()].into_iter().chain(connections))?;
            let of_clients = clients.into_iter().zip(&ready[2..]);
            clients = of_clients
                .filter_map(|(client, ready)| if *ready { client.answer(config) } else { Some(client) })
                .collect();
            if ready[0] {
                clients.extend(self.accept());
            }
            if ready[1] {
                pass_on(&signals, init)?;
                if let Some(ended) = reap(&mut clients, init, WaitOptions::NOHANG) {
                    kill_all_others(&clients);
                    reap(&mut clients, init, WaitOptions::empty());
                    end_like(ended);
                }
            }
        }
    }

    fn accept(&self) -> Option<Client> {
        let connection = rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC).ok()?;
        Some(Client { connection: connection.into(), pid: None })
    }
}

impl Client {
    /// Starts what it asks for. Who says anything after that hangs up, and gives up its process.
    fn answer(self, config: &Config) -> Option<Self> {
        if let Some(pid) = self.pid {
            let _ = terrarium_sys::process::kill(pid.as_raw(), SIGKILL);
            return None;
        }
        let (Start, descriptors) = channel::receive(self.connection.fd().ok()?).ok()??;
        let pid = start(descriptors, config)?;
        Some(Self { pid: Some(pid), ..self })
    }
}

/// Starts a process. That it could not be started is told through the channel, or by its end.
fn start(descriptors: Vec<OwnedFd>, config: &Config) -> Option<Pid> {
    let mut descriptors = descriptors.into_iter();
    let job = File::from(descriptors.next()?);
    let streams = [descriptors.next()?, descriptors.next()?, descriptors.next()?];
    let mut channel = Channel::from(descriptors.next()?);
    let started = fork(&mut channel, |channel| {
        rustix::stdio::dup2_stdin(&streams[0]).doing("take over stdin")?;
        rustix::stdio::dup2_stdout(&streams[1]).doing("take over stdout")?;
        rustix::stdio::dup2_stderr(&streams[2]).doing("take over stderr")?;
        drop(streams);
        let process = match memory_file::read(job).doing("read what is asked for")? {
            Job::Process(process) => process,
            Job::Guest(guest) => return guest.run(descriptors, channel),
        };
        if !config.has_own_mounts() {
            change_root(&config.rootfs)?;
        }
        exec::inside(config, &process, descriptors.next(), channel)
    });
    let told = match &started {
        Ok(pid) => Message::Forked { pid: pid.as_raw(), keeper: false },
        Err(error) => Message::Failed(error.chain()),
    };
    let _ = channel.send(&told);
    started.ok()
}

/// What is typed at the terminal of whoever created the container is not for a keeper or a proxy. Done before they have
/// children, and not by setsid(2): gVisor hangs as a whole when a process that has children leads a new session, if the group
/// that it leaves is an orphan or becomes one by that. createSession in its pkg/sentry/kernel/sessions.go locks a mutex twice.
pub(crate) fn leave_process_group() -> Result<()> {
    nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).doing("lead a process group")
}

/// Kills what is left in the namespace. gVisor of that age looks for a subreaper to take it over, which it finds outside, as
/// the shim is one; only where there is none does it end a namespace with its first process.
fn kill_all_others(clients: &[Client]) {
    match terrarium_sys::process::fork() {
        Ok(Fork::Child) => {
            // The keeper is not seen from there. Anywhere else this would be the end of all.
            if rustix::process::getppid().is_none() {
                let _ = terrarium_sys::process::kill(-1, SIGKILL);
            }
            std::process::exit(0);
        }
        Ok(Fork::Parent(_)) => {}
        // The namespace has ended after all, or has as many processes as it may. The keeper waits for its own children only;
        // the others end with the cgroup.
        Err(_) => {
            for pid in clients.iter().filter_map(|client| client.pid) {
                let _ = terrarium_sys::process::kill(pid.as_raw(), SIGKILL);
            }
        }
    }
}

/// Asks a keeper to start a process, with this process's standard streams and what else the job needs. Returns the
/// connection, by which it tells of the process's end, and which must stay open until then.
pub(crate) fn ask(path: &Path, job: &Job, channel: &Channel, files: &[BorrowedFd<'_>]) -> Result<OwnedFd> {
    let connect = || {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (_directory, address) = address(path)?;
        rustix::net::connect(&socket, &address)?;
        Ok::<_, rustix::io::Errno>(socket)
    };
    let connection = connect().doing_with(|| format!("connect to the keeper at {}", path.display()))?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let job = memory_file::of(job).doing("write what is asked for")?;
    let mut descriptors = vec![job.as_fd(), stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), channel.fd()?];
    descriptors.extend(files);
    channel::send(connection.as_fd(), &Start, &descriptors)?;
    Ok(connection)
}

/// Forks the proxy of a process that a keeper has started: whoever waits for it learns how that one ended.
/// What it is not to have from its parent goes `first`.
pub(crate) fn fork_proxy(connection: OwnedFd, process: Pid, first: impl FnOnce()) -> Result<Pid> {
    let mut connection = Channel::from(connection);
    fork(&mut connection, |connection| {
        first();
        leave_process_group()?;
        let_go_of_standard_streams()?;
        let signals = signals()?;
        loop {
            let ready = wait_for_any([connection.fd()?, signals.as_fd()].into_iter())?;
            // Once its end is told, its number may be another's.
            if ready[0] {
                match connection.receive() {
                    Ok(Some(Message::Ended(ended))) => end_like(ended),
                    _ => end_like(Ended::Killed(SIGKILL)),
                }
            }
            if ready[1] {
                pass_on(&signals, process)?;
            }
        }
    })
}

/// A path of any length: an address has 108 bytes. The directory must stay open as long as the address is used.
fn address(path: &Path) -> rustix::io::Result<(OwnedFd, SocketAddrUnix)> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let directory = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let name = path.file_name().unwrap_or_default();
    let address = SocketAddrUnix::new(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))?;
    Ok((directory, address))
}

/// Whoever reads what the container writes waits for the end of the last one that could write.
pub(crate) fn let_go_of_standard_streams() -> Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null").doing("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).doing("let go of stdin")?;
    rustix::stdio::dup2_stdout(&null).doing("let go of stdout")?;
    rustix::stdio::dup2_stderr(&null).doing("let go of stderr")
}

/// Waits until one of these can be read or is closed, and says of each whether it is so.
fn wait_for_any<'a>(descriptors: impl Iterator<Item = BorrowedFd<'a>>) -> Result<Vec<bool>> {
    let mut descriptors: Vec<_> = descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut descriptors, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            other => {
                other.doing("wait for what comes")?;
                return Ok(descriptors.iter().map(|fd| fd.any().unwrap_or(false)).collect());
            }
        }
    }
}

/// Waits for children that have ended, or for all that there are, and tells their clients. Says how init has ended.
fn reap(clients: &mut Vec<Client>, init: Pid, how: WaitOptions) -> Option<Ended> {
    let mut of_init = None;
    while let Ok(Some((pid, status))) = rustix::io::retry_on_intr(|| rustix::process::wait(how)) {
        let pid = Pid::from_raw(pid.as_raw_nonzero().get());
        let Some(ended) = ended(status) else { continue };
        if pid == init {
            of_init = Some(ended);
        }
        if let Some(index) = clients.iter().position(|client| client.pid == Some(pid)) {
            let _ = clients.swap_remove(index).connection.send(&Message::Ended(ended));
        }
    }
    of_init
}

fn ended(status: WaitStatus) -> Option<Ended> {
    status.exit_status().map(Ended::Exited).or_else(|| status.terminating_signal().map(Ended::Killed))
}

/// Ends as another process has ended.
fn end_like(ended: Ended) -> ! {
    match ended {
        Ended::Exited(status) => std::process::exit(status),
        Ended::Killed(signal) => {
            // It has left its core already, if any.
            let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
            let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
            let _ = terrarium_sys::process::reset_signals();
            let _ = terrarium_sys::process::kill(std::process::id().cast_signed(), signal);
            std::process::exit(128 + signal)
        }
    }
}
