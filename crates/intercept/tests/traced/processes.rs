//! Programs, processes and threads.

use std::process::Stdio;

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

pub fn thousands_of_threads_come_and_go() {
    let setup = Setup::new(RULES);
    outcome(&mut setup.inside(&["threads", "3000", FILE])).says("3000\n");
}

pub fn the_environment_and_descriptors_are_the_callers() {
    let setup = Setup::new(RULES);
    let mut command =
        setup.trace(&["/bin/sh", "-c", "echo $COLOUR; ls /proc/self/fd; grep SigBlk /proc/$$/status; true"]);
    let traced = outcome(command.env("COLOUR", "green")).succeeds();
    let mut plain = std::process::Command::new("/bin/sh");
    plain.args(["-c", "echo $COLOUR; ls /proc/self/fd; grep SigBlk /proc/$$/status; true"]).env("COLOUR", "green");
    assert_eq!(traced.out, outcome(&mut plain).out);
    assert!(eventually(|| setup.stats().traps > 0));
}
