//! The OCI runtime's operations, on one container.
//!
//! They run a program with runc's command line: `terrarium-oci` beside this one, or what the runtime option `BinaryName` names.
//! Creating and executing need that, since they fork, and the shim has threads; for the others it keeps what reads whole
//! specifications out of the shim's memory.

use std::env;
use std::fs;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use containerd_shim::api::Options;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::Deserialize;

use crate::bootstrap::STACK_LIMIT;
use crate::error::Error;
use crate::exits::Exits;
use crate::stdio::ProcessEnds;

/// Where the states of containers are that another program made, as containerd's own shim has it.
const PROGRAM_ROOT: &str = "/run/containerd/runc";
/// Where ours are.
const ROOT: &str = "/run/containerd/terrarium";
/// terrarium's own OCI runtime, beside this program.
const OWN: &str = "terrarium-oci";

/// A status above it is this and the signal that ended the program.
const SIGNALLED: u32 = 128;
/// How often a removal is begun that something kills. What no shim removes is there for good, as containerd asks once.
const REMOVALS: u32 = 3;

/// The runtime that one container is made with.
#[derive(Clone)]
pub struct Runtime {
    exits: Arc<Exits>,
    /// None is terrarium's own.
    program: Option<PathBuf>,
    root: PathBuf,
    bundle: PathBuf,
    id: String,
    systemd_cgroup: bool,
    no_pivot: bool,
    no_new_keyring: bool,
}

/// A line of the runtime's log.
#[derive(Deserialize)]
struct Line {
    level: String,
    msg: String,
}

impl Runtime {
    /// For the container `id` of a containerd namespace.
    pub fn new(exits: Arc<Exits>, options: &Options, namespace: &str, bundle: &Path, id: &str) -> Self {
        let program = (!options.binary_name.is_empty()).then(|| PathBuf::from(&options.binary_name));
        let root = match (options.root.as_str(), &program) {
            ("", Some(_)) => PROGRAM_ROOT,
            ("", None) => ROOT,
            (root, _) => root,
        };
        Self {
            exits,
            program,
            root: Path::new(root).join(namespace),
            bundle: bundle.to_owned(),
            id: id.to_owned(),
            systemd_cgroup: options.systemd_cgroup,
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
        }
    }

    /// Where the runtime writes the container's first PID.
    pub fn pid_file(&self) -> PathBuf {
        self.bundle.join("init.pid")
    }

    /// Makes the container and its first process, which waits for [`Runtime::start`]. Answers its PID.
    pub fn create(&self, ends: ProcessEnds, console: Option<&ConsoleSocket>) -> Result<i32, Error> {
        let pid_file = self.pid_file();
        let mut command = self.command();
        command.arg("create").arg("--bundle").arg(&self.bundle).arg("--pid-file").arg(&pid_file);
        if self.no_pivot {
            command.arg("--no-pivot");
        }
        if self.no_new_keyring {
            command.arg("--no-new-keyring");
        }
        self.begin("create", command, ends, console, &pid_file)
    }

    /// Runs another process in the container, and answers its PID. `process` is runtime-spec's JSON of it.
    pub fn exec(
        &self,
        exec_id: &str,
        process: &[u8],
        ends: ProcessEnds,
        console: Option<&ConsoleSocket>,
    ) -> Result<i32, Error> {
        let (spec, pid_file) = (self.exec_file(exec_id, "json"), self.exec_file(exec_id, "pid"));
        fs::write(&spec, process).map_err(Error::io("write", &spec))?;
        let mut command = self.command();
        command.args(["exec", "--detach", "--process"]).arg(&spec).arg("--pid-file").arg(&pid_file);
        let pid = self.begin("exec", command, ends, console, &pid_file);
        // What cannot be removed goes with the bundle.
        let _ = fs::remove_file(&spec);
        let _ = fs::remove_file(&pid_file);
        pid
    }

    fn exec_file(&self, exec_id: &str, extension: &str) -> PathBuf {
        self.bundle.join(format!("exec-{exec_id}.{extension}"))
    }

    fn begin(
        &self,
        operation: &'static str,
        mut command: Command,
        ends: ProcessEnds,
        console: Option<&ConsoleSocket>,
        pid_file: &Path,
    ) -> Result<i32, Error> {
        if let Some(console) = console {
            command.arg("--console-socket").arg(&console.path);
        }
        command.arg(&self.id).stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr);
        self.run(operation, command)?;
        let text = fs::read_to_string(pid_file).map_err(Error::io("read", pid_file))?;
        text.trim().parse().map_err(|_| Error::Runtime { operation, message: format!("its pid file says {text:?}") })
    }

    /// Lets the container's first process run its program.
    pub fn start(&self) -> Result<(), Error> {
        self.simple("start", &[])
    }

    /// Sends a signal to the first process, or to all.
    pub fn kill(&self, signal: u32, all: bool) -> Result<(), Error> {
        let mut command = self.command();
        command.arg("kill");
        if all {
            command.arg("--all");
        }
        command.args([&self.id, &signal.to_string()]);
        match self.run("kill", command) {
            Err(Error::Runtime { message, .. }) if is_gone(&message) => {
                Err(Error::NotFound("process already finished".to_owned()))
            }
            other => other,
        }
    }

    /// Removes what the runtime has of the container; with `force` also its processes. One that is not there is fine.
    pub fn delete(&self, force: bool) -> Result<(), Error> {
        let mut left = if force { REMOVALS } else { 1 };
        loop {
            left -= 1;
            match self.simple("delete", if force { &["--force"] } else { &[] }) {
                Err(Error::Runtime { message, .. }) if message.contains("does not exist") => return Ok(()),
                Err(Error::Killed { .. }) if left > 0 => {}
                other => return other,
            }
        }
    }

    /// Stops all its processes where they are.
    pub fn pause(&self) -> Result<(), Error> {
        self.simple("pause", &[])
    }

    /// Lets paused processes go on.
    pub fn resume(&self) -> Result<(), Error> {
        self.simple("resume", &[])
    }

    /// Changes its limits; `resources` is runtime-spec's JSON.
    pub fn update(&self, resources: &[u8]) -> Result<(), Error> {
        let file = self.bundle.join("resources.json");
        fs::write(&file, resources).map_err(Error::io("write", &file))?;
        let result = self.simple("update", &["--resources", &file.to_string_lossy()]);
        let _ = fs::remove_file(&file);
        result
    }

    /// The PIDs of all its processes.
    pub fn pids(&self) -> Result<Vec<u32>, Error> {
        let mut command = self.command();
        command.args(["ps", "--format", "json", &self.id]);
        let text = self.output("ps", command)?;
        serde_json::from_slice::<Option<Vec<u32>>>(&text)
            .map(Option::unwrap_or_default)
            .map_err(|source| Error::Json { what: "read the runtime's list of processes", source })
    }

    /// What the runtime can do, as runtime-spec's JSON.
    pub fn features(&self) -> Result<Vec<u8>, Error> {
        let mut command = self.plain();
        command.arg("features");
        self.output("features", command)
    }

    fn simple(&self, operation: &'static str, options: &[&str]) -> Result<(), Error> {
        let mut command = self.command();
        command.arg(operation).args(options).arg(&self.id);
        self.run(operation, command)
    }

    fn plain(&self) -> Command {
        let mut command = match &self.program {
            Some(program) => Command::new(program),
            None => Command::new(beside(OWN)),
        };
        // What keeps the shim itself small is nothing for the runtime.
        for variable in ["RUST_MIN_STACK", "GLIBC_TUNABLES", STACK_LIMIT] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn command(&self) -> Command {
        let mut command = self.plain();
        command.current_dir(&self.bundle).arg("--root").arg(&self.root);
        command.arg("--log").arg(self.log()).args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command
    }

    fn log(&self) -> PathBuf {
        self.bundle.join("log.json")
    }

    fn run(&self, operation: &'static str, mut command: Command) -> Result<(), Error> {
        let before = fs::metadata(self.log()).map_or(0, |log| log.len());
        let child = self.exits.spawn(&mut command).map_err(Error::io("run", Path::new(command.get_program())))?;
        self.outcome(operation, self.exits.wait(&child), before)
    }

    fn output(&self, operation: &'static str, mut command: Command) -> Result<Vec<u8>, Error> {
        let before = fs::metadata(self.log()).map_or(0, |log| log.len());
        let program = Path::new(command.stdout(Stdio::piped()).get_program()).to_owned();
        let mut child = self.exits.spawn(&mut command).map_err(Error::io("run", &program))?;
        let mut text = Vec::new();
        let read = child.stdout.take().expect("it is piped").read_to_end(&mut text);
        self.outcome(operation, self.exits.wait(&child), before)?;
        read.map_err(Error::io("read the output of", &program))?;
        Ok(text)
    }

    /// What the runtime logged as an error since the log was `before` bytes long says why it failed.
    fn outcome(&self, operation: &'static str, status: u32, before: u64) -> Result<(), Error> {
        if status == 0 {
            return Ok(());
        }
        let log = fs::read(self.log()).unwrap_or_default();
        let new = log.get(before as usize..).unwrap_or_default();
        match last_error(new) {
            Some(message) => Err(Error::Runtime { operation, message }),
            None if status > SIGNALLED => Err(Error::Killed { operation, signal: status - SIGNALLED }),
            None => Err(Error::Runtime { operation, message: format!("it ended with status {status}") }),
        }
    }
}

/// The path of a program that lies where this one does.
fn beside(name: &str) -> PathBuf {
    // Of a file that was replaced Linux says that it is deleted, but the directory is right.
    env::current_exe().unwrap_or_default().with_file_name(name)
}

fn last_error(log: &[u8]) -> Option<String> {
    let lines = serde_json::Deserializer::from_slice(log).into_iter::<Line>();
    lines.map_while(Result::ok).filter(|line| line.level == "error").last().map(|line| line.msg.trim().to_owned())
}

/// How runtimes say that there is nothing left to send a signal to.
fn is_gone(message: &str) -> bool {
    let message = message.to_lowercase();
    ["process already finished", "container not running", "no such process", "does not exist"]
        .iter()
        .any(|text| message.contains(text))
}

/// A socket by which the runtime hands over the master of a container's terminal.
pub struct ConsoleSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// A socket in `directory`; its path must be short, since an address has room for 108 bytes.
    pub fn new(directory: &Path, name: &str) -> Result<Self, Error> {
        let path = directory.join(name);
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(Error::io("bind", &path))?;
        Ok(Self { path, listener })
    }

    /// The master that a runtime which has ended sent.
    pub fn receive(self) -> Result<OwnedFd, Error> {
        let nothing = |()| Error::Runtime { operation: "create", message: "it sent no terminal".to_owned() };
        self.listener.set_nonblocking(true).map_err(Error::io("make non-blocking", &self.path))?;
        let (stream, _) = self.listener.accept().map_err(Error::io("accept on", &self.path))?;
        stream.set_nonblocking(true).map_err(Error::io("make non-blocking", &self.path))?;
        let mut name = [0; 256];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&stream, &mut [std::io::IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(Error::io("receive from", &self.path))?;
        let mut files = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        files.next().and_then(|mut files| files.next()).ok_or(()).map_err(nothing)
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_told() {
        let log = br#"{"level":"warning","msg":"odd","time":"2026-11-22T00:00:00Z"}
            {"level":"error","msg":"first","time":"2026-11-22T00:00:00Z"}
            {"level":"error","msg":"exec: \"/nowhere\": stat /nowhere: no such file or directory\n","time":""}"#;
        assert_eq!(last_error(log).unwrap(), "exec: \"/nowhere\": stat /nowhere: no such file or directory");
        assert_eq!(last_error(b"{\"level\":\"info\",\"msg\":\"fine\"}"), None);
        assert_eq!(last_error(b"no JSON"), None);
    }

    #[test]
    fn a_runtime_says_in_many_ways_that_a_process_is_gone() {
        for message in ["container not running", "os: process already finished", "unable: No such process (os error 3)"]
        {
            assert!(is_gone(message), "{message}");
        }
        assert!(!is_gone("operation not permitted"));
    }

    #[test]
    fn a_runtime_that_was_killed_has_not_refused() {
        let runtime = Runtime::new(Arc::default(), &Options::default(), "k8s.io", Path::new("/nowhere"), "one");
        assert!(matches!(runtime.outcome("delete", 137, 0), Err(Error::Killed { signal: 9, .. })));
        assert!(matches!(runtime.outcome("delete", 1, 0), Err(Error::Runtime { .. })));
        runtime.outcome("delete", 0, 0).unwrap();
    }

    #[test]
    fn a_program_has_a_root_of_its_own() {
        let root = |options: &Options| {
            let exits = Arc::new(Exits::default());
            Runtime::new(exits, options, "k8s.io", Path::new("/bundle"), "one").root
        };
        let runc = Options { binary_name: "runc".to_owned(), ..Options::default() };
        assert_eq!(root(&Options::default()), Path::new("/run/containerd/terrarium/k8s.io"));
        assert_eq!(root(&runc), Path::new("/run/containerd/runc/k8s.io"));
        assert_eq!(root(&Options { root: "/run/x".to_owned(), ..runc }), Path::new("/run/x/k8s.io"));
    }
}
