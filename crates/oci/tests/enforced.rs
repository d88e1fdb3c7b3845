//! What the kernel at hand really enforces: on Linux and, run in a sandbox, in gVisor.
//!
//! Needs root. Each test says why it does not run where it cannot.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use terrarium_oci::Kernel;
use terrarium_oci::cgroups::Cgroups;
use terrarium_oci::seccomp::Filter;

/// What containerd gives a container.
const CONTAINERD: &str = include_str!("../src/seccomp/testdata/containerd.json");

fn compile(profile: &str) -> Filter {
    let profile = serde_json::from_str(profile).expect("a profile");
    Filter::compile(&profile, &Kernel::look()).expect("it compiles")
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A filter is a thread's own until the thread is gone.
fn filtered<T: Send>(filter: &Filter, check: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let check = || {
            filter.apply().expect("the kernel takes the filter");
            check()
        };
        scope.spawn(check).join().expect("the thread lives on")
    })
}

#[test]
fn containerds_profile_is_in_force() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let start = Instant::now();
    filtered(&compile(CONTAINERD), || {
        eprintln!("compiled and installed in {:?}", start.elapsed());
        let nothing = None::<&str>;
        assert_eq!(mount(nothing, "/nowhere", Some("tmpfs"), MsFlags::empty(), nothing), Err(Errno::EPERM));
        assert_eq!(unshare(CloneFlags::CLONE_NEWUTS), Err(Errno::EPERM));
        assert_eq!(nix::unistd::sethostname("other"), Err(Errno::EPERM));
        // It is not forbidden but not there, so that libc takes clone instead.
        thread::spawn(|| {}).join().expect("a thread can be made");
        assert!(Command::new("/bin/true").status().expect("a process can be made").success());
    });
    let status = fs::read_to_string("/proc/self/status").expect("own status");
    assert!(status.contains("Seccomp:\t0"), "this thread has no filter");
}

#[test]
fn conditions_and_errnos_are_in_force() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    // kill(0, signal 0) of one's own group passes, any other signal does not.
    let filter = compile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71,
             "args": [{"index": 1, "value": 0, "op": "SCMP_CMP_NE"}]},
            {"names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#,
    );
    filtered(&filter, || {
        let own = Pid::this();
        assert_eq!(nix::sys::signal::kill(own, None), Ok(()));
        assert_eq!(nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGCONT), Err(Errno::EPROTO));
        assert_eq!(nix::unistd::getcwd(), Err(Errno::ENOSYS));
    });
}

#[test]
fn what_is_logged_passes() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let filter = compile(r#"{"defaultAction": "SCMP_ACT_LOG", "flags": ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}"#);
    eprintln!("{:?}", filter.warnings);
    filtered(&filter, || assert!(nix::unistd::getcwd().is_ok()));
}

/// A process to put into cgroups; ended and waited for in any case.
struct Sleeper(Child);

impl Sleeper {
    /// It waits for a line, takes some memory, says so, and waits for another.
    fn start() -> Self {
        let script = r"read line; held=$(head -c 100000 /dev/zero | tr '\0' x); echo held; read line";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().expect("a process"))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("a process ID"))
    }

    /// Memory is charged to the cgroup in which a process is when it takes it.
    fn hold_memory(&mut self) {
        self.0.stdin.as_mut().expect("a pipe").write_all(b"\n").expect("it reads");
        let mut said = [0; 5];
        self.0.stdout.as_mut().expect("a pipe").read_exact(&mut said).expect("it answers");
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Removes the cgroups in any case.
struct Made(Cgroups);

impl Drop for Made {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.delete();
    }
}

fn made(name: &str) -> Option<Made> {
    let cgroups = Cgroups::at(&format!("/terrarium-test-{name}-{}", std::process::id())).expect("a path");
    if !is_root() || cgroups == Cgroups::None {
        eprintln!("skipped: needs root, and cgroups that are mounted");
        return None;
    }
    let made = Made(cgroups);
    made.0.create().expect("rights to make cgroups");
    Some(made)
}

#[test]
fn members_are_counted_and_ended() {
    let Some(made) = made("members") else { return };
    let cgroups = &made.0;
    let asked: LinuxResources =
        serde_json::from_str(r#"{"pids": {"limit": 100}, "cpu": {"shares": 512}, "memory": {"limit": 67108864}}"#)
            .expect("resources");
    eprintln!("{:?}", cgroups.set(&asked).expect("limits can be set"));
    let (mut one, mut other) = (Sleeper::start(), Sleeper::start());
    cgroups.add(one.pid()).and_then(|()| cgroups.add(other.pid())).expect("processes can be moved");
    assert_eq!(cgroups.pids().expect("the members"), [one.pid(), other.pid()]);
    one.hold_memory();
    other.hold_memory();
    let stats = cgroups.stats().expect("what they use");
    eprintln!("{stats:?}");
    assert_eq!((stats.pids.current, stats.pids.limit), (2, 100));
    assert_eq!(stats.memory.limit, 67_108_864);
    assert!(stats.memory.usage > 0);
    cgroups.kill().expect("they can be ended");
    assert_eq!(cgroups.pids().expect("the members"), []);
    cgroups.delete().expect("it is empty");
    assert_eq!(cgroups.paths().filter(|path| path.exists()).count(), 0);
}

#[test]
fn other_devices_cannot_be_opened() {
    let Some(made) = made("devices") else { return };
    let cgroups = &made.0;
    if !fs::read_to_string("/proc/self/uid_map").expect("a map").contains("4294967295") {
        eprintln!("skipped: in a user namespace the devices controller is not used");
        return;
    }
    cgroups.allow_devices(&[]).expect("rights to deny");
    let Some(controller) = cgroups.paths().find(|path| path.join("devices.list").exists()) else {
        eprintln!("skipped: there is no devices controller");
        return;
    };
    let list = fs::read_to_string(controller.join("devices.list")).expect("the rules");
    assert!(list.lines().any(|rule| rule == "c 1:3 rwm"), "{list}");
    assert!(!list.lines().any(|rule| rule.starts_with("a ")), "{list}");
    // It goes on when it is in the cgroup.
    let script = "read line; true < /dev/null || exit 2; true < /dev/fuse || exit 3";
    let child = Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::piped()).spawn();
    let mut child = child.expect("a process");
    cgroups.add(Pid::from_raw(i32::try_from(child.id()).expect("a process ID"))).expect("it can be moved");
    drop(child.stdin.take());
    let status = child.wait().expect("it ends");
    assert_ne!(status.code(), Some(2), "/dev/null is every container's");
    // gVisor keeps the rules and does not enforce them; it has no such file either.
    let is_enforced = controller.join("notify_on_release").exists();
    assert_eq!(status.code(), Some(if is_enforced { 3 } else { 0 }), "/dev/fuse is no container's");
}

#[test]
fn frozen_members_can_be_ended() {
    let Some(made) = made("frozen") else { return };
    let cgroups = &made.0;
    let sleeper = Sleeper::start();
    cgroups.add(sleeper.pid()).expect("a process can be moved");
    if let Err(error) = cgroups.freeze() {
        eprintln!("skipped: {error}: {}", std::error::Error::source(&error).expect("why"));
        return;
    }
    assert!(cgroups.is_frozen().expect("an answer"));
    cgroups.kill().expect("they can be ended");
    assert!(!cgroups.is_frozen().expect("an answer"));
}
