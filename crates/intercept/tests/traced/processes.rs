//! Programs, processes and threads.

use std::process::{Command, Stdio};

use crate::support::{Setup, code, ends, eventually, is_gone, line, outcome};

const RULES: &str =
    r#"{"redirect": [{"from": "/proc/sys/terrarium", "to": "DIR/to"}], "statfs": [{"from": "0x9fa0", "to": "0x1"}]}"#;
const FILE: &str = "/proc/sys/terrarium/file";

pub fn statuses_are_those_of_a_shell() {
    let setup = Setup::new(RULES);
    for (script, status) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("kill -40 $$", 168),
    ] {
        assert_eq!(code(setup.sh(script).status), status, "{script}");
    }
}

pub fn programs_that_are_executed_are_traced() {
    let setup = Setup::new(RULES);
    setup
        .sh(&format!("cat {FILE}; (cat {FILE}; sh -c 'cat {FILE} | cat'); exec cat {FILE}"))
        .says(&"redirected\n".repeat(4));
    // By way of vfork, with the memory of its maker until the program is there.
    outcome(&mut setup.inside(&["spawn", FILE])).says(&"redirected\n".repeat(3));
    assert_eq!(setup.stats().missed, 0);
}

pub fn another_thread_may_execute_a_program() {
    let setup = Setup::new(RULES);
    for _ in 0..20 {
        outcome(&mut setup.inside(&["execute", "/bin/cat", FILE])).says("redirected\nredirected\n");
    }
}

pub fn what_the_program_leaves_ends_with_it() {
    let setup = Setup::new(RULES);
    let mut child = setup.trace(&["/bin/sh", "-c", "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; exit 3"]);
    let mut child = child.stdout(Stdio::piped()).spawn().expect("it starts");
    let left: Vec<i32> = (0..2).map(|_| line(&mut child).parse().expect("a number")).collect();
    assert_eq!(ends(&mut child).code(), Some(3));
    for pid in left {
        assert!(is_gone(pid), "{pid}");
    }
}

/// In gVisor a tracer hears the numbers that processes have in their own namespace, where they are small.
pub fn processes_of_others_stay() {
    let setup = Setup::new(RULES);
    let mut other = Command::new("sleep").arg("1000").spawn().expect("it starts");
    let pid = other.id();
    if pid < 2000 && nix::unistd::geteuid().is_root() {
        let script = format!("i=0; while [ $i -lt {} ]; do /bin/true; i=$((i+1)); done", pid + 50);
        outcome(&mut setup.trace(&["unshare", "--pid", "--fork", "sh", "-c", &script])).succeeds();
    } else {
        eprintln!("skipped: it takes root, and numbers that are small, as in a sandbox");
    }
    assert_eq!(other.try_wait().expect("it is a child"), None);
    other.kill().expect("it runs");
    other.wait().expect("it is a child");
}

pub fn thousands_of_threads_come_and_go() {
    let setup = Setup::new(RULES);
    outcome(&mut setup.inside(&["threads", "3000", FILE])).says("3000\n");
}

pub fn the_environment_and_descriptors_are_the_callers() {
    let setup = Setup::new(RULES);
    // A shell has signals blocked for a moment while it waits: what it has started tells of its own.
    let script = "echo $COLOUR; ls /proc/self/fd; exec grep -e Name -e SigBlk /proc/self/status";
    let mut command = setup.trace(&["/bin/sh", "-c", script]);
    let traced = outcome(command.env("COLOUR", "green")).succeeds();
    let mut plain = Command::new("/bin/sh");
    plain.args(["-c", script]).env("COLOUR", "green");
    assert_eq!(traced.out, outcome(&mut plain).out);
    assert!(eventually(|| setup.stats().traps > 0));
}
