//! What containerd asks of a shim, on its containers and their processes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim::api::{CreateTaskRequest, ExecProcessRequest, Options, Status};
use containerd_shim::bootstrap::any_is;
use containerd_shim::protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskIO, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim::protos::protobuf::Message as _;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::util::write_options;
use containerd_shim::warn;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::termios::{Winsize, tcsetwinsize};
use terrarium_oci::stats::Stats;

use crate::container::Container;
use crate::error::Error;
use crate::events::Events;
use crate::exits::{Exits, Member};
use crate::process::{Exit, Process};
use crate::relay::Streams;
use crate::rootfs;
use crate::runtime::{ConsoleSocket, Runtime};
use crate::server::{Control, Order};
use crate::stdio::{Owner, ProcessEnds, Stdio};

/// How long a deleted process's output may take to be read.
const DRAIN: Duration = Duration::from_secs(10);

/// The containers of one shim.
pub struct Tasks {
    /// containerd's, not the kernel's.
    pub namespace: String,
    /// A directory with a short path.
    pub sockets: PathBuf,
    /// Who has ended.
    pub exits: Arc<Exits>,
    /// What containerd is told.
    pub events: Events,
    /// To the thread that copies streams and reaps.
    pub control: Control,
    containers: Mutex<HashMap<String, Arc<Container>>>,
}

/// How a process has ended and what its PID was.
pub struct Deleted {
    /// 0 if it never ran.
    pub pid: i32,
    /// None if it never ran.
    pub exit: Option<Exit>,
}

impl Tasks {
    /// None yet.
    pub fn new(namespace: &str, sockets: &Path, exits: Arc<Exits>, events: Events, control: Control) -> Self {
        let (namespace, sockets) = (namespace.to_owned(), sockets.to_owned());
        Self { namespace, sockets, exits, events, control, containers: Mutex::default() }
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.containers().is_empty()
    }

    /// The container of that ID.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        self.containers().get(id).cloned().ok_or_else(|| Error::NotFound("container not created".to_owned()))
    }

    fn member(&self, id: &str, exec_id: &str) -> Result<Member, Error> {
        let container = self.container(id)?;
        let process = container.process(exec_id)?;
        Ok(Member { container, process })
    }

    /// Makes a container, and answers the PID of its init, which does not run its program yet.
    pub fn create(&self, request: CreateTaskRequest) -> Result<i32, Error> {
        if !request.checkpoint.is_empty() {
            return Err(Error::Unsupported("to start from a checkpoint"));
        }
        if self.containers().contains_key(&request.id) {
            return Err(Error::AlreadyExists(format!("container {}", request.id)));
        }
        let options = read_options(request.options.as_ref())?;
        write_options(&request.bundle, &options)
            .map_err(|error| Error::Invalid(format!("write the options into {}: {error}", request.bundle)))?;
        let bundle = Path::new(&request.bundle);
        let runtime = Runtime::new(Arc::clone(&self.exits), &options, &self.namespace, bundle, &request.id);
        let stdio = Stdio {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let owner = Owner { uid: options.io_uid, gid: options.io_gid };
        let init = Process::new("", stdio, Vec::new());
        let container = Arc::new(Container::new(&request.id, bundle, owner, runtime, init));

        let _window = self.exits.window();
        if !request.rootfs.is_empty() {
            rootfs::make_directory(&container.rootfs())?;
            rootfs::mount_all(&request.rootfs, &container.rootfs())?;
        }
        let pid = self.create_init(&container).inspect_err(|_| {
            if let Err(error) = rootfs::unmount_all(&container.rootfs()) {
                warn!("{}", error.chain());
            }
        })?;
        self.containers().insert(request.id.clone(), Arc::clone(&container));
        self.exits.hold(pid, Member { process: Arc::clone(&container.init), container });
        self.events.send(TaskCreate {
            container_id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(TaskIO {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
                ..TaskIO::default()
            })
            .into(),
            pid: pid as u32,
            ..TaskCreate::default()
        });
        self.release(pid);
        Ok(pid)
    }

    fn create_init(&self, container: &Container) -> Result<i32, Error> {
        let (process, runtime) = (&container.init, &container.runtime);
        let (ends, streams, console) = self.open(container, process)?;
        let pid = runtime.create(ends, console.as_ref())?;
        let attached = self.attach(process, pid, streams, console);
        if attached.is_err() {
            // The first error is the one to tell.
            let _ = runtime.delete(true);
        }
        attached.map(|()| pid)
    }

    /// Opens a process's streams, or the socket that its terminal comes by.
    fn open(
        &self,
        container: &Container,
        process: &Process,
    ) -> Result<(ProcessEnds, Streams, Option<ConsoleSocket>), Error> {
        if process.stdio.terminal {
            let console = ConsoleSocket::new(&self.sockets, &format!("{}-{}", std::process::id(), process.key))?;
            return Ok((ProcessEnds::null(), Streams::default(), Some(console)));
        }
        let (ends, streams) = process.stdio.pipes(container.owner)?;
        Ok((ends, streams, None))
    }

    /// Begins to copy the streams of a process that the runtime has made.
    fn attach(
        &self,
        process: &Process,
        pid: i32,
        mut streams: Streams,
        console: Option<ConsoleSocket>,
    ) -> Result<(), Error> {
        if let Some(console) = console {
            let master = console.receive()?;
            let kept = master.try_clone().map_err(Error::io("duplicate", Path::new("the terminal")))?;
            streams = process.stdio.terminal(master)?;
            process.state().console = Some(kept);
        }
        process.state().pid = pid;
        self.control.send(Order::Attach(process.key, streams));
        Ok(())
    }

    /// Lets the end of a process be told.
    fn release(&self, pid: i32) {
        if let Some(ended) = self.exits.release(pid) {
            self.control.send(Order::Ended(ended));
        }
    }

    /// Runs a created container's program, or an exec. Answers the PID.
    pub fn start(&self, id: &str, exec_id: &str) -> Result<i32, Error> {
        let member = self.member(id, exec_id)?;
        let _one_at_a_time = member.process.operate();
        member.process.state().require(Status::CREATED, "start")?;
        if exec_id.is_empty() { self.start_init(&member) } else { self.start_exec(&member) }
    }

    fn start_init(&self, member: &Member) -> Result<i32, Error> {
        let pid = member.process.state().pid;
        if !self.exits.hold_again(pid) {
            return Err(Error::FailedPrecondition("cannot start a stopped process".to_owned()));
        }
        let started = member.container.runtime.start();
        if started.is_ok() {
            member.process.state().status = Status::RUNNING;
            let container_id = member.container.id.clone();
            self.events.send(TaskStart { container_id, pid: pid as u32, ..TaskStart::default() });
        }
        self.release(pid);
        started.map(|()| pid)
    }

    fn start_exec(&self, member: &Member) -> Result<i32, Error> {
        let (container, process) = (&member.container, &member.process);
        container.begin_other()?;
        let _window = self.exits.window();
        let started = self.open(container, process).and_then(|(ends, streams, console)| {
            let pid = container.runtime.exec(&process.exec_id, &process.spec, ends, console.as_ref())?;
            self.attach(process, pid, streams, console)?;
            Ok(pid)
        });
        match started {
            Ok(pid) => {
                process.state().status = Status::RUNNING;
                self.exits.hold(pid, member.clone());
                self.events.send(TaskExecStarted {
                    container_id: container.id.clone(),
                    exec_id: process.exec_id.clone(),
                    pid: pid as u32,
                    ..TaskExecStarted::default()
                });
                self.release(pid);
                Ok(pid)
            }
            Err(error) => {
                // Nobody is to wait for it.
                process.end(Exit::now(255));
                self.control.send(Order::OtherEnded(Arc::clone(container)));
                Err(error)
            }
        }
    }

    /// Notes a process that is to be started in a container.
    pub fn exec(&self, request: ExecProcessRequest) -> Result<(), Error> {
        let container = self.container(&request.id)?;
        match container.init.state().status {
            Status::PAUSED | Status::PAUSING => {
                return Err(Error::FailedPrecondition("cannot exec in a paused container".to_owned()));
            }
            Status::STOPPED => {
                return Err(Error::FailedPrecondition("cannot exec in a stopped container".to_owned()));
            }
            _ => {}
        }
        let spec = process_spec(&request.spec.value, request.terminal)?;
        let stdio =
            Stdio { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
        let mut execs = container.execs();
        if execs.contains_key(&request.exec_id) {
            return Err(Error::AlreadyExists(format!("process {}", request.exec_id)));
        }
        execs.insert(request.exec_id.clone(), Arc::new(Process::new(&request.exec_id, stdio, spec)));
        drop(execs);
        let (container_id, exec_id) = (request.id, request.exec_id);
        self.events.send(TaskExecAdded { container_id, exec_id, ..TaskExecAdded::default() });
        Ok(())
    }

    /// Removes a process that does not run; with init, the container.
    pub fn delete(&self, id: &str, exec_id: &str) -> Result<Deleted, Error> {
        let Member { container, process } = self.member(id, exec_id)?;
        let _one_at_a_time = process.operate();
        let deleted = {
            let state = process.state();
            if !matches!(state.status, Status::CREATED | Status::STOPPED) {
                state.require(Status::STOPPED, "delete")?;
            }
            Deleted { pid: state.pid, exit: state.exit }
        };
        self.drain(&process);
        if process.is_init() {
            container.runtime.delete(false)?;
            rootfs::unmount_all(&container.rootfs())?;
        }
        self.control.send(Order::Detach(process.key));
        if process.is_init() {
            self.containers().remove(id);
            let exit = deleted.exit.unwrap_or(Exit::now(0));
            self.events.send(TaskDelete {
                container_id: container.id.clone(),
                pid: deleted.pid as u32,
                exit_status: exit.status,
                exited_at: exit.timestamp(),
                ..TaskDelete::default()
            });
        } else {
            container.execs().remove(exec_id);
        }
        Ok(deleted)
    }

    /// Waits until all that a process has said is in containerd's fifos.
    fn drain(&self, process: &Process) {
        let (done, finished) = channel();
        self.control.send(Order::Finish(process.key, done));
        if finished.recv_timeout(DRAIN).is_err() {
            warn!("the output of process {} {} was not read to its end", process.state().pid, process.exec_id);
        }
    }

    /// Sends a signal to a process, or to all of a container's.
    pub fn kill(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Result<(), Error> {
        let Member { container, process } = self.member(id, exec_id)?;
        // Init's start may wait for a hook that never ends by itself.
        let _one_at_a_time = (!process.is_init()).then(|| process.operate());
        let (pid, exit) = {
            let state = process.state();
            (state.pid, state.exit)
        };
        let finished = || Error::NotFound("process already finished".to_owned());
        match (pid, exit) {
            (0, _) => Err(Error::FailedPrecondition("process not created".to_owned())),
            (_, Some(_)) => Err(finished()),
            _ if process.is_init() => container.runtime.kill(signal, all),
            _ => {
                let named = i32::try_from(signal).ok().and_then(|signal| Signal::try_from(signal).ok());
                let signal = named.ok_or_else(|| Error::Invalid(format!("there is no signal {signal}")))?;
                kill(Pid::from_raw(pid), signal).map_err(|errno| match errno {
                    Errno::ESRCH => finished(),
                    errno => Error::io("send a signal to", Path::new(&pid.to_string()))(errno),
                })
            }
        }
    }

    /// Stops all of a container's processes where they are.
    pub fn pause(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let _one_at_a_time = container.init.operate();
        container.init.state().require(Status::RUNNING, "pause")?;
        container.runtime.pause()?;
        container.init.state().status = Status::PAUSED;
        self.events.send(TaskPaused { container_id: container.id.clone(), ..TaskPaused::default() });
        Ok(())
    }

    /// Lets them go on.
    pub fn resume(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let _one_at_a_time = container.init.operate();
        container.init.state().require(Status::PAUSED, "resume")?;
        container.runtime.resume()?;
        container.init.state().status = Status::RUNNING;
        self.events.send(TaskResumed { container_id: container.id.clone(), ..TaskResumed::default() });
        Ok(())
    }

    /// Gives a process's terminal another size.
    pub fn resize(&self, id: &str, exec_id: &str, width: u32, height: u32) -> Result<(), Error> {
        let member = self.member(id, exec_id)?;
        let state = member.process.state();
        let Some(console) = &state.console else { return Ok(()) };
        let cells = |cells: u32| u16::try_from(cells).unwrap_or(u16::MAX);
        let size = Winsize { ws_row: cells(height), ws_col: cells(width), ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(console, size).map_err(Error::io("resize", Path::new("the terminal")))
    }

    /// Lets a process's input end when containerd has written all of it.
    pub fn close_io(&self, id: &str, exec_id: &str) -> Result<(), Error> {
        let member = self.member(id, exec_id)?;
        self.control.send(Order::CloseInput(member.process.key));
        Ok(())
    }

    /// The PIDs of all of a container's processes, and which are execs.
    pub fn pids(&self, id: &str) -> Result<Vec<(u32, Option<String>)>, Error> {
        let container = self.container(id)?;
        let execs: HashMap<u32, String> =
            container.execs().values().map(|exec| (exec.state().pid as u32, exec.exec_id.clone())).collect();
        let pids = container.runtime.pids()?;
        Ok(pids.into_iter().map(|pid| (pid, execs.get(&pid).cloned())).collect())
    }

    /// What a container uses.
    pub fn stats(&self, id: &str) -> Result<Stats, Error> {
        let container = self.container(id)?;
        let cgroups = container.cgroups.as_ref().ok_or_else(|| Error::NotFound("cgroup does not exist".to_owned()))?;
        cgroups.stats().map_err(|error| Error::Runtime { operation: "stats", message: error.chain() })
    }

    /// Changes a container's limits.
    pub fn update(&self, id: &str, resources: &[u8]) -> Result<(), Error> {
        let container = self.container(id)?;
        let _one_at_a_time = container.init.operate();
        container.runtime.update(resources)
    }
}

/// The options that containerd's configuration has for the runtime. Others than those of runc are not known, and no error.
fn read_options(options: Option<&Any>) -> Result<Options, Error> {
    let Some(any) = options.filter(|any| !any.value.is_empty()) else { return Ok(Options::default()) };
    if !any_is::<Options>(any) {
        warn!("runtime options of the type {} are ignored", any.type_url);
        return Ok(Options::default());
    }
    let options =
        Options::parse_from_bytes(&any.value).map_err(|error| Error::Invalid(format!("runtime options: {error}")))?;
    if !options.shim_cgroup.is_empty() {
        warn!("the runtime option ShimCgroup is ignored: the shim stays in containerd's cgroup");
    }
    for (option, value) in [("CriuImagePath", &options.criu_image_path), ("CriuWorkPath", &options.criu_work_path)] {
        if !value.is_empty() {
            warn!("the runtime option {option} is ignored: there are no checkpoints");
        }
    }
    Ok(options)
}

/// What containerd wants to run, with its word on the terminal.
fn process_spec(json: &[u8], terminal: bool) -> Result<Vec<u8>, Error> {
    let read = |source| Error::Json { what: "read the process", source };
    let mut process: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json).map_err(read)?;
    process.insert("terminal".to_owned(), terminal.into());
    serde_json::to_vec(&process).map_err(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(name: &str, options: &Options) -> Any {
        Any { type_url: name.to_owned(), value: options.write_to_bytes().unwrap(), ..Any::default() }
    }

    #[test]
    fn options_of_runc_are_read_and_others_ignored() {
        let given = Options { binary_name: "/bin/runc".to_owned(), no_new_keyring: true, ..Options::default() };
        assert_eq!(read_options(None).unwrap(), Options::default());
        assert_eq!(read_options(Some(&any("containerd.runc.v1.Options", &given))).unwrap(), given);
        assert_eq!(read_options(Some(&any("runtimeoptions.v1.Options", &given))).unwrap(), Options::default());
        let broken = Any { value: vec![0xff], ..any("containerd.runc.v1.Options", &given) };
        assert!(matches!(read_options(Some(&broken)), Err(Error::Invalid(_))));
    }

    #[test]
    fn a_process_has_a_terminal_if_containerd_says_so() {
        let spec = process_spec(br#"{"args": ["sh"], "cwd": "/", "terminal": false}"#, true).unwrap();
        assert_eq!(spec, br#"{"args":["sh"],"cwd":"/","terminal":true}"#);
        assert!(process_spec(b"[]", true).unwrap_err().chain().starts_with("read the process: "));
    }
}
