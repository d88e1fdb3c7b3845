//! Many containers, one after the other, with the runtime killed at any point: nothing is left behind.
//!
//! Needs root, and says so where it is not. `ROUNDS` says how many; `make chaos` plays five hundred, on Linux and in gVisor.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde_json::{Value, json};
use tempfile::TempDir;

const ID: &str = "rounds";
/// How long what was cut off may take until all of it has noticed.
const PATIENCE: Duration = Duration::from_secs(30);

fn rounds() -> u32 {
    std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20)
}

#[test]
fn whatever_is_killed_nothing_is_left() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    // What loses its parent comes here, where it can be counted.
    nix::sys::prctl::set_child_subreaper(true).expect("it is allowed");
    let bundle = Bundle::new();
    let mut cut = [0; STEPS.len()];
    for round in 0..rounds() {
        // One more than there are steps: then nothing is killed.
        let victim = fastrand::usize(0..=STEPS.len());
        for (step, arguments) in STEPS.iter().enumerate() {
            if step != victim {
                succeed(quiet(&mut bundle.runtime(arguments)));
                continue;
            }
            let after = Duration::from_micros(fastrand::u64(..30_000));
            cut[step] += u32::from(cut_off(&mut bundle.runtime(arguments), after));
            break;
        }
        succeed(quiet(&mut bundle.runtime(&["delete", "--force", ID])));
        eventually(round, || left_of(&bundle));
    }
    eprintln!("{} rounds, cut off in create, start, kill, delete: {cut:?}", rounds());
}

const STEPS: &[&[&str]] = &[&["create", ID], &["start", ID], &["kill", ID, "KILL"], &["delete", "--force", ID]];

/// A container's bundle and the state of the runtime, in a directory that goes with it.
struct Bundle(TempDir);

impl Bundle {
    /// One whose process sleeps. Its root has nothing but the machine's /usr, to be read.
    fn new() -> Self {
        let bundle = Self(tempfile::tempdir().expect("a directory"));
        for directory in ["rootfs/usr", "state"] {
            fs::create_dir_all(bundle.0.path().join(directory)).expect("a directory");
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), bundle.0.path().join("rootfs").join(name)).expect("a link");
        }
        succeed(&mut bundle.runtime(&["spec"]));
        let path = bundle.0.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("it is there")).expect("JSON");
        config["process"]["args"] = json!(["/bin/sleep", "1000"]);
        config["process"]["terminal"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/{}", cgroup()));
        let usr = json!({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]});
        config["mounts"].as_array_mut().expect("mounts").push(usr);
        fs::write(&path, config.to_string()).expect("it is written");
        bundle
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// The runtime, which the environment names where another machine has built the test.
    fn runtime(&self, arguments: &[&str]) -> Command {
        let program = std::env::var_os("TERRARIUM_OCI").unwrap_or_else(|| env!("CARGO_BIN_EXE_terrarium-oci").into());
        let mut command = Command::new(program);
        command.arg("--root").arg(self.state()).args(arguments).current_dir(&self.0).stdin(Stdio::null());
        command
    }
}

/// The name of the container's cgroups.
fn cgroup() -> String {
    format!("{ID}-{}", std::process::id())
}

fn succeed(command: &mut Command) {
    let status = command.status().expect("it runs");
    assert!(status.success(), "{command:?}: {status}");
}

/// The container's process has the same streams, so they are not those of the test, which waits for their end.
fn quiet(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::null()).stderr(Stdio::inherit())
}

/// Kills a command after a while, and says whether it was still there.
fn cut_off(command: &mut Command, after: Duration) -> bool {
    let mut child = quiet(command).spawn().expect("it runs");
    thread::sleep(after);
    child.kill().expect("it is a child");
    child.wait().expect("it is a child").code().is_none()
}

/// What of the container is still there.
fn left_of(bundle: &Bundle) -> Result<(), String> {
    let mut left: Vec<PathBuf> = list(&bundle.state());
    let hierarchies = list(Path::new("/sys/fs/cgroup")).into_iter().chain([PathBuf::from("/sys/fs/cgroup")]);
    left.extend(hierarchies.map(|hierarchy| hierarchy.join(cgroup())).filter(|cgroup| cgroup.exists()));
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("own mounts");
    let of_bundle = bundle.0.path().to_str().expect("UTF-8");
    left.extend(mounts.lines().filter(|line| line.contains(of_bundle)).map(PathBuf::from));
    if !left.is_empty() {
        return Err(format!("{left:?}"));
    }
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Ok(()),
            Ok(WaitStatus::StillAlive) => return Err("a process".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn list(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn eventually(round: u32, check: impl Fn() -> Result<(), String>) {
    let start = Instant::now();
    while let Err(left) = check() {
        assert!(start.elapsed() < PATIENCE, "round {round}: left behind: {left}");
        thread::sleep(Duration::from_millis(5));
    }
}
