//! The shim's own process: it serves containerd's requests on a socket until its last container is gone.
//!
//! The main thread copies streams and reaps; requests run in the ttrpc server's threads, and send it orders.

use std::env;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, IntoRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use containerd_shim::protos::events::task::{TaskExit, TaskOOM};
use containerd_shim::protos::ttrpc::Server;
use containerd_shim::{Flags, logger, warn};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, dup2_stdout, setpgid};
use rustix::event::{EventfdFlags, eventfd};
use signal_hook::consts::SIGCHLD;

use crate::bootstrap::STACK_LIMIT;
use crate::container::{Container, Record};
use crate::error::Error;
use crate::events::Events;
use crate::exits::{Ended, Exits};
use crate::process::Exit;
use crate::relay::{Key, Relays, Streams};
use crate::service;
use crate::tasks::Tasks;

/// The status of what SIGKILL ended.
const KILLED: u32 = 128 + nix::libc::SIGKILL as u32;
/// How long the last answers and events may take when the shim ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the main thread does for the others.
pub enum Order {
    /// Copy a process's streams.
    Attach(Key, Streams),
    /// Let its input end.
    CloseInput(Key),
    /// Say when its output is copied.
    Finish(Key, Sender<()>),
    /// Close its streams.
    Detach(Key),
    /// Tell the end of a process, which was held back.
    Ended(Ended),
    /// Something else than init has ended in a container.
    OtherEnded(Arc<Container>),
    /// End the shim.
    Shutdown,
}

/// To the main thread.
#[derive(Clone)]
pub struct Control {
    orders: Sender<Order>,
    wake: Arc<OwnedFd>,
}

impl Control {
    /// The sender, and what the main thread waits on.
    pub fn new() -> io::Result<(Self, Receiver<Order>)> {
        let (orders, receiver) = channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok((Self { orders, wake }, receiver))
    }

    /// Gives an order.
    pub fn send(&self, order: Order) {
        // At the very end there is nobody to do it.
        let _ = self.orders.send(order);
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// Serves until there is nothing left to serve.
pub fn serve(flags: &Flags) -> containerd_shim::Result<()> {
    let failed = |what: &'static str| move |error: io::Error| containerd_shim::Error::Other(format!("{what}: {error}"));
    // Whoever ends containerd's process group does not mean its shims.
    let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    set_child_subreaper(true)?;
    restore_stack_limit()?;
    logger::init(flags.debug, "warn", &flags.namespace, &flags.id)?;

    let Some(listener) = listen(&flags.socket)? else { return Ok(()) };
    let (ended, signal) = UnixStream::pair().map_err(failed("make a socket pair"))?;
    ended.set_nonblocking(true).map_err(failed("make non-blocking"))?;
    signal_hook::low_level::pipe::register(SIGCHLD, signal).map_err(failed("handle SIGCHLD"))?;

    let (control, orders) = Control::new().map_err(failed("make an eventfd"))?;
    let (events, all_told) = Events::new(env::var("TTRPC_ADDRESS")?, &flags.namespace);
    let exits = Arc::new(Exits::default());
    let sockets = socket_path(&flags.socket).parent().unwrap_or(Path::new("/")).to_owned();
    let tasks = Arc::new(Tasks::new(&flags.namespace, &sockets, exits, events, control));
    let mut server = Server::new()
        .add_listener(listener.into_raw_fd())?
        // At least these many threads of each connection wait for requests; a container has a connection.
        .set_thread_count_min(1)
        .set_thread_count_default(2)
        .set_thread_count_max(3)
        .register_service(service::methods(&tasks));
    server.start()?;
    // Whoever started this process waits until its output ends.
    dup2_stdout(io::stderr())?;

    Main { relays: Relays::new(), tasks: Arc::clone(&tasks), orders }.run(&ended);

    // The answer to the last request is on its way.
    let (done, stopped) = channel();
    thread::spawn(move || {
        server.shutdown();
        let _ = done.send(());
    });
    let _ = stopped.recv_timeout(FAREWELL);
    drop(tasks);
    let _ = all_told.recv_timeout(FAREWELL);
    remove_socket(&flags.socket);
    Ok(())
}

/// The limit under which the shim was started is for its own stack, not for those of containers.
fn restore_stack_limit() -> nix::Result<()> {
    let Some(soft) = env::var(STACK_LIMIT).ok().and_then(|limit| limit.parse().ok()) else { return Ok(()) };
    let (_, hard) = getrlimit(Resource::RLIMIT_STACK)?;
    setrlimit(Resource::RLIMIT_STACK, soft, hard)
}

/// The file of a socket's address.
pub fn socket_path(address: &str) -> PathBuf {
    PathBuf::from(address.strip_prefix("unix://").unwrap_or(address))
}

/// Removes a socket that nobody listens on any more.
pub fn remove_socket(address: &str) {
    let path = socket_path(address);
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!("remove {}: {error}", path.display());
    }
}

/// Whether somebody listens there.
pub fn is_served(address: &str) -> bool {
    UnixStream::connect(socket_path(address)).is_ok()
}

/// Listens on the shim's socket; none if another shim of the same Pod does.
fn listen(address: &str) -> containerd_shim::Result<Option<UnixListener>> {
    let path = socket_path(address);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
    }
    match UnixListener::bind(&path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if is_served(address) {
                return Ok(None);
            }
            remove_socket(address);
            Ok(Some(UnixListener::bind(&path).map_err(Error::io("listen on", &path))?))
        }
        other => Ok(Some(other.map_err(Error::io("listen on", &path))?)),
    }
}

struct Main {
    relays: Relays,
    tasks: Arc<Tasks>,
    orders: Receiver<Order>,
}

impl Main {
    fn run(mut self, ended: &UnixStream) {
        let wake = Arc::clone(&self.tasks.control.wake);
        loop {
            let [ordered, reap] = self.relays.wait([wake.as_fd(), ended.as_fd()]);
            let mut reaped = Vec::new();
            if reap {
                // One byte for each signal; their number says nothing.
                let mut bytes = [0; 64];
                while rustix::io::read(ended, &mut bytes).is_ok_and(|count| count == bytes.len()) {}
                reaped = self.tasks.exits.reap();
            }
            if ordered {
                let _ = rustix::io::read(&wake, &mut [0; 8]);
            }
            let mut shutdown = false;
            // Of what was reaped, the streams were attached before: that order is here, whatever the wait said.
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    Order::Attach(key, streams) => self.relays.attach(key, streams),
                    Order::CloseInput(key) => self.relays.close_input(key),
                    Order::Finish(key, done) => self.relays.finish(key, done),
                    Order::Detach(key) => self.relays.detach(key),
                    Order::Ended(ended) => self.end(ended),
                    Order::OtherEnded(container) => self.end_other(&container),
                    Order::Shutdown => shutdown = true,
                }
            }
            for ended in reaped {
                self.end(ended);
            }
            if shutdown {
                return;
            }
        }
    }

    /// A container's process has ended. What it said is copied before that is told.
    fn end(&mut self, ended: Ended) {
        let Ended { member, status } = ended;
        let (container, process) = (member.container, member.process);
        self.relays.drain(process.key);
        let exit = Exit::now(status);
        // Told before the end, since it is the end's reason. Whatever the signal: the kernel may have ended a child.
        if container.met_oom() {
            let container_id = container.id.clone();
            self.tasks.events.send(TaskOOM { container_id, ..TaskOOM::default() });
        }
        if !process.is_init() {
            let pid = process.state().pid;
            process.end(exit);
            self.tell_exit(&container, &process.exec_id, pid, exit);
            self.end_other(&container);
            return;
        }
        // Its pid namespace ends with it, unless it was a keeper that was killed in its place.
        let left = usize::from(!container.has_own_pid_namespace() || status == KILLED);
        if let Some(exit) = container.end_init(exit, left) {
            self.end_init(&container, exit);
        }
        if left > 0 {
            let control = self.tasks.control.clone();
            thread::spawn(move || {
                if let Err(error) = container.runtime.kill(nix::libc::SIGKILL as u32, true)
                    && !matches!(error, Error::NotFound(_))
                {
                    warn!("end what init has left: {}", error.chain());
                }
                control.send(Order::OtherEnded(container));
            });
        }
    }

    fn end_other(&mut self, container: &Container) {
        if let Some(exit) = container.end_other() {
            self.end_init(container, exit);
        }
    }

    fn end_init(&mut self, container: &Container, exit: Exit) {
        let pid = container.init.state().pid;
        if let Err(error) = Record::new(pid, exit).write(&container.bundle) {
            warn!("{}", error.chain());
        }
        container.init.end(exit);
        self.tell_exit(container, &container.id, pid, exit);
    }

    fn tell_exit(&self, container: &Container, id: &str, pid: i32, exit: Exit) {
        self.tasks.events.send(TaskExit {
            container_id: container.id.clone(),
            id: id.to_owned(),
            pid: pid as u32,
            exit_status: exit.status,
            exited_at: exit.timestamp(),
            ..TaskExit::default()
        });
    }
}
