//! A bundle of its own for each test, with a container that goes with it.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::inside;

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Bundle {
    directory: TempDir,
    pub spec: Value,
    pub id: String,
}

/// What a command of the runtime came to.
#[derive(Debug)]
pub struct Told {
    pub succeeded: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Bundle {
    /// One whose program is [`inside`] with these arguments.
    pub fn new(args: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        fs::create_dir(directory.path().join("rootfs")).expect("a root");
        let program = std::env::current_exe().expect("this program");
        let namespaces = ["mount", "pid", "ipc", "uts"].map(|kind| json!({"type": kind}));
        let args: Vec<&str> = [inside::PATH].into_iter().chain(args.iter().copied()).collect();
        let spec = json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
                "capabilities": {"bounding": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"], "effective": ["CAP_MKNOD"]},
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": inside::PATH, "type": "bind", "source": program, "options": ["bind", "ro"]},
            ],
            "linux": {"namespaces": namespaces},
        });
        let id = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { directory, spec, id }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn add(&mut self, field: &str, value: Value) {
        let field = self.spec.pointer_mut(field).expect("a field");
        field.as_array_mut().expect("a list").push(value);
    }

    /// The runtime, with the configuration as it is now.
    pub fn runtime(&self, args: &[&str]) -> Command {
        self.other_runtime("/proc/self/exe".as_ref(), args)
    }

    fn other_runtime(&self, program: &Path, args: &[&str]) -> Command {
        fs::write(self.path("config.json"), self.spec.to_string()).expect("the configuration");
        let mut command = Command::new(program);
        command.arg0(terrarium_oci::command::NAME).arg("--root").arg(self.path("state")).args(args);
        command.current_dir(&self.directory).stdin(Stdio::null());
        command
    }

    /// Runs the container to its end.
    pub fn run(&self) -> Told {
        tell(&mut self.runtime(&["run", &self.id]))
    }

    /// The same in namespaces that unshare(1) makes, after a script. A shell names a program by its path, so there is a link
    /// to the runtime by its name.
    pub fn run_within(&self, namespaces: &[&str], script: &str) -> Told {
        let link = self.path("terrarium-oci");
        symlink(std::env::current_exe().expect("this program"), &link).expect("a link");
        let runtime = self.runtime(&["run", &self.id]);
        let mut command = Command::new("unshare");
        command.args(namespaces).args(["sh", "-ec"]).arg(format!("{script}; exec \"$@\"")).arg("sh").arg(link);
        tell(command.args(runtime.get_args()).current_dir(&self.directory).stdin(Stdio::null()))
    }

    /// Creates the container, whose output goes nowhere: who would read it would wait for its end.
    pub fn create(&self) -> Told {
        self.create_by("/proc/self/exe".as_ref())
    }

    /// The same by a runtime in another file.
    pub fn create_by(&self, program: &Path) -> Told {
        let errors = self.path("errors");
        let mut command = self.other_runtime(program, &["create", &self.id]);
        let status = command.stdout(Stdio::null()).stderr(File::create(&errors).expect("a file")).status();
        let stderr = fs::read_to_string(errors).expect("what it said");
        Told { succeeded: status.expect("a runtime").success(), stdout: String::new(), stderr }
    }

    /// Creates it and starts it.
    pub fn start(&self) {
        self.create().succeeds();
        self.tell(&["start", &self.id]);
    }

    /// Runs a further process in it.
    pub fn exec(&self, options: &[&str], args: &[&str]) -> Told {
        let line: Vec<&str> = [&["exec"], options, &[&self.id, inside::PATH], args].concat();
        tell(&mut self.runtime(&line))
    }

    /// What the runtime says, and it succeeds.
    pub fn tell(&self, args: &[&str]) -> String {
        tell(&mut self.runtime(args)).succeeds()
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.tell(&["state", &self.id])).expect("JSON")
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.runtime(&["delete", "--force", &self.id]).stderr(Stdio::null()).status();
    }
}

/// Waits until it is so.
pub fn eventually(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn tell(command: &mut Command) -> Told {
    let output = command.output().expect("a runtime");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Told { succeeded: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Told {
    #[track_caller]
    pub fn succeeds(self) -> String {
        assert!(self.succeeded, "{self:?}");
        self.stdout
    }

    #[track_caller]
    pub fn fails_with(&self, text: &str) {
        assert!(!self.succeeded && self.stderr.contains(text), "expected {text:?}: {self:?}");
    }
}
