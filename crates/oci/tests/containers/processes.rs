//! What processes of a container have, and how they are started.

use std::fs;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::json;

use crate::bundle::{Bundle, eventually};
use crate::inside;

const MINUTE: Duration = Duration::from_secs(60);

/// Calls that the runtime itself makes when a filter may be in force already.
pub fn a_filter_forbids_the_program_and_not_the_runtime() {
    for no_new_privileges in [false, true] {
        let mut bundle = Bundle::new(&["write", "/file"]);
        bundle.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        let names = ["shutdown", "getcwd", "faccessat", "faccessat2", "access"];
        bundle.spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        });
        assert_eq!(bundle.run().succeeds(), "Ok(())", "no_new_privileges: {no_new_privileges}");
    }
}

/// Where a keeper starts processes, it has to be told all that.
pub fn an_environment_may_be_long() {
    let bundle = Bundle::new(&["wait"]);
    bundle.start();
    let variable = format!("LONG={}", "x".repeat(100_000));
    assert_eq!(bundle.exec(&["--env", &variable], &["variable", "LONG"]).succeeds(), "100000");
}

/// Whoever connects to a keeper and says nothing, as a runtime that is stopped then.
pub fn a_silent_client_holds_up_nobody() {
    let bundle = Bundle::new(&["wait"]);
    bundle.start();
    let keeper = bundle.path("state").join(&bundle.id).join("keeper.sock");
    if !keeper.exists() {
        eprintln!("skipped: this kernel needs no keeper");
        return;
    }
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .expect("a socket");
    rustix::net::connect(&socket, &SocketAddrUnix::new(&keeper).expect("a short path")).expect("the keeper listens");
    assert_eq!(bundle.exec(&[], &["variable", "NONE"]).succeeds(), "0");
}

/// In gVisor the mode of terminals is that of their directory, too.
pub fn everybody_finds_the_terminals() {
    let mut bundle = Bundle::new(&["names", "/dev/pts"]);
    let options = ["newinstance", "ptmxmode=0666", "mode=0620"];
    bundle.add("/mounts", json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": options}));
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bundle.spec["process"]["capabilities"] = json!({});
    let told = bundle.run();
    if told.stderr.contains("is not an ID of the user namespace") {
        eprintln!("skipped: there is no other user");
        return;
    }
    assert_eq!(told.succeeds(), "ptmx\n");
}

/// In gVisor 2024-07 the end of a pid namespace's first process is not that of the others.
pub fn what_the_first_one_leaves_ends_with_it() {
    let bundle = Bundle::new(&["wait"]);
    bundle.start();
    let mut exec = bundle.runtime(&["exec", &bundle.id, inside::PATH, "wait", &bundle.id]);
    let mut exec = exec.spawn().expect("a runtime");
    eventually("the process runs", MINUTE, || runs_with(&bundle.id));
    bundle.tell(&["kill", &bundle.id, "KILL"]);
    eventually("the process has ended", MINUTE, || !runs_with(&bundle.id));
    assert_eq!(exec.wait().expect("a status").code(), Some(128 + 9));
    eventually("the container has ended", MINUTE, || bundle.state()["status"] == "stopped");
}

/// Whether a process of a container has this as its last argument.
fn runs_with(argument: &str) -> bool {
    let line = format!("{}\0wait\0{argument}\0", inside::PATH);
    let processes = fs::read_dir("/proc").expect("procfs");
    processes
        .flatten()
        .any(|process| fs::read(process.path().join("cmdline")).is_ok_and(|read| read == line.as_bytes()))
}
