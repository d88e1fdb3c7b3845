//! Signals.

use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;

use terrarium_sys::process::kill;

use crate::support::{Setup, ends, eventually, line, outcome, state};

const RULES: &str =
    r#"{"redirect": [{"from": "/proc/sys/terrarium", "to": "DIR/to"}], "statfs": [{"from": "0x9fa0", "to": "0x1"}]}"#;
const SIGUSR1: i32 = 10;
const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;
const SIGTSTP: i32 = 20;

pub fn signals_to_the_tracer_reach_the_program() {
    let setup = Setup::new(RULES);
    for (name, signal) in [("TERM", SIGTERM), ("INT", 2), ("HUP", 1), ("USR1", SIGUSR1)] {
        let script = format!("trap 'echo told; exit 7' {name}; echo ready; while :; do sleep 0.01; done");
        // A shell does not trap what was ignored when it began, as nohup(1) has it.
        let program = ["/usr/bin/env", "--default-signal", "/bin/sh", "-c", &script];
        let mut child = setup.trace(&program).stdout(Stdio::piped()).spawn().expect("it starts");
        assert_eq!(line(&mut child), "ready");
        kill(child.id().cast_signed(), signal).expect("it runs");
        assert_eq!(line(&mut child), "told", "{name}");
        assert_eq!(ends(&mut child).code(), Some(7), "{name}");
    }
    // And end it, if it does nothing about them.
    let mut child = setup
        .trace(&["/bin/sh", "-c", "echo ready; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    assert_eq!(line(&mut child), "ready");
    kill(child.id().cast_signed(), SIGTERM).expect("it runs");
    assert_eq!(ends(&mut child).code(), Some(143));
}

pub fn realtime_signals_are_delivered() {
    let setup = Setup::new(RULES);
    outcome(&mut setup.inside(&["realtime"])).says("34 64 40\n");
}

pub fn a_stopped_program_stops_and_goes_on() {
    let setup = Setup::new(RULES);
    for signal in [SIGSTOP, SIGTSTP] {
        let mut child = setup.inside(&["beats", &setup.path("beats").display().to_string()]);
        // Of a group that is no orphan: there a terminal's signals stop nobody.
        let mut child = child.process_group(0).stdout(Stdio::piped()).spawn().expect("it starts");
        let program: i32 = line(&mut child).parse().expect("a number");
        let beats = || std::fs::read_to_string(setup.path("beats")).ok().and_then(|text| text.parse::<u64>().ok());
        for _ in 0..5 {
            let before = beats();
            assert!(eventually(|| beats() > before), "it goes on");
            kill(program, signal).expect("it runs");
            assert!(eventually(|| matches!(state(program), Some('T' | 't'))), "it stops");
            // What it had begun it may end; it may be stopped when the file is empty.
            let text = || std::fs::read(setup.path("beats")).ok();
            let stands_still = || {
                let before = text();
                std::thread::sleep(Duration::from_millis(300));
                text() == before
            };
            assert!(eventually(stands_still), "it does nothing");
            kill(program, SIGCONT).expect("it is there");
        }
        kill(program, SIGSTOP).expect("it is there");
        assert!(eventually(|| matches!(state(program), Some('T' | 't'))), "it stops");
        // Killed while it is stopped.
        kill(program, 9).expect("it is there");
        assert_eq!(ends(&mut child).code(), Some(137));
    }
}

pub fn interrupted_calls_are_made_again() {
    let setup = Setup::new(RULES);
    // Opens that wait for somebody at the other end, by a path that is redirected.
    nix::unistd::mkfifo(&setup.path("to/pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    outcome(&mut setup.inside(&["interrupted", "/proc/sys/terrarium/pipe"])).says("heard: text\ntrue\n");
}
