//! What the tests are played on: real hierarchies at two places, a server, and processes that do something.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use terrarium_cgroupfs::{Config, Hierarchy};

pub const ROOT: &str = "/sys/fs/cgroup";
pub const BACKING: &str = "/run/cgroupfs-backing";
pub const READY: &str = "/run/cgroupfs-ready";
const STATE: &str = "/run";
/// Those that lack something.
pub const CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];

/// Mounts the hierarchies for this process and its children. Says why not, where that cannot be.
pub fn set() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(said("a mount namespace"))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(said("private mounts"))?;
    for place in [ROOT, BACKING] {
        if !Path::new(place).is_dir() {
            fs::create_dir_all(place).map_err(|error| format!("{place}: {error}"))?;
        }
        mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), none).map_err(said(place))?;
        for controller in CONTROLLERS {
            let point = Path::new(place).join(controller);
            fs::create_dir(&point).map_err(|error| format!("{}: {error}", point.display()))?;
            mount(Some("cgroup"), &point, Some("cgroup"), MsFlags::empty(), Some(controller))
                .map_err(said(&format!("the hierarchy of {controller}")))?;
        }
    }
    Ok(())
}

fn said(what: &str) -> impl Fn(nix::Error) -> String + use<'_> {
    move |error| format!("{what}: {error}")
}

/// What the server serves, in a process of its own.
pub fn serve(guard: bool) {
    let hierarchy = |controller: &&str| Hierarchy {
        controller: (*controller).to_owned(),
        backing: Path::new(BACKING).join(controller),
        mount_point: Path::new(ROOT).join(controller),
    };
    let hierarchies = CONTROLLERS.iter().map(hierarchy).collect();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let guarded = guard.then(|| "/".into());
    terrarium_cgroupfs::serve(&Config {
        hierarchies,
        guarded,
        ready_socket: Some(READY.into()),
        state: Some(STATE.into()),
    })
    .unwrap();
}

/// A server that is ready. Ends when dropped.
pub struct Server(pub Child);

impl Server {
    pub fn start() -> Self {
        Self::with(&["serve"])
    }

    pub fn without_guard() -> Self {
        Self::with(&["serve", "unguarded"])
    }

    fn with(role: &[&str]) -> Self {
        let _ = fs::remove_file(READY);
        let server = Self(Command::new("/proc/self/exe").args(role).spawn().unwrap());
        eventually("the server is ready", || UnixStream::connect(READY).is_ok());
        server
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// As a supervisor does it. Returns whether it ended well.
    pub fn stop(&mut self) -> bool {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.0.wait().unwrap().success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.stop();
        }
    }
}

/// A process with a role of this program.
pub struct Worker(pub Child);

impl Worker {
    /// One that is at work, in cgroups.
    pub fn start(role: &[&str], cgroups: &[&Cgroup]) -> Self {
        let mut command = Command::new("/proc/self/exe");
        let mut child = command.args(role).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        for cgroup in cgroups {
            cgroup.write("cgroup.procs", &child.id().to_string());
        }
        // It begins when it is let.
        drop(child.stdin.take());
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self(child)
    }

    /// Whether it ends by SIGKILL within that time.
    pub fn is_killed_within(&mut self, time: Duration) -> bool {
        use std::os::unix::process::ExitStatusExt as _;
        let end = Instant::now() + time;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.signal() == Some(9);
            }
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What workers do.
pub fn work(role: &str, argument: Option<&str>) {
    let mut line = String::new();
    // Until it is let.
    let _ = std::io::stdin().read_line(&mut line);
    match role {
        "hold" => {
            let megabytes: usize = argument.unwrap().parse().unwrap();
            let mut held = vec![0_u8; megabytes << 20];
            held.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            println!("holding");
            thread::sleep(Duration::from_secs(600));
            drop(held);
        }
        // By programs that are small: their own pages are in the resident set, too.
        "write" => {
            let script = "head -c 50M /dev/zero > $0; echo written; exec sleep 600";
            panic!("{}", Command::new("sh").args(["-c", script, argument.unwrap()]).exec());
        }
        "grow" => {
            println!("growing");
            let mut held: Vec<Vec<u8>> = Vec::new();
            loop {
                held.push(vec![1_u8; 8 << 20]);
                thread::sleep(Duration::from_millis(10));
            }
        }
        "burn" => {
            println!("burning");
            let mut number = 1_u64;
            loop {
                number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            }
        }
        other => panic!("no such role: {other}"),
    }
}

/// A cgroup, by its place in the served hierarchy. Removed when dropped.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    pub fn make(controller: &str, name: &str) -> Self {
        let path = Path::new(ROOT).join(controller).join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn below(&self, name: &str) -> Self {
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn read(&self, file: &str) -> String {
        let path = self.0.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn number(&self, file: &str) -> u64 {
        self.read(file).trim().parse().unwrap()
    }

    /// A line's number in a file of names and numbers.
    pub fn entry(&self, file: &str, name: &str) -> u64 {
        let text = self.read(file);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .unwrap_or_else(|error| panic!("{text} to {}: {error}", path.display()));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(2);
        while fs::remove_dir(&self.0).is_err_and(|error| error.raw_os_error() == Some(16)) && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
