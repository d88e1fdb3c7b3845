//! SIGKILL at any time.

use std::process::Stdio;
use std::time::Duration;

use terrarium_sys::process::kill;

use crate::support::{Setup, ends, eventually, is_gone, line, outcome};

const RULES: &str =
    r#"{"redirect": [{"from": "/proc/sys/terrarium", "to": "DIR/to"}], "statfs": [{"from": "0x9fa0", "to": "0x1"}]}"#;
const ROUNDS: u32 = 100;

pub fn nothing_outlives_its_tracer() {
    let setup = Setup::new(RULES);
    for _ in 0..10 {
        let mut child = setup.inside(&["family", "5"]).stdout(Stdio::piped()).spawn().expect("it starts");
        let family: Vec<i32> = (0..6).map(|_| line(&mut child).parse().expect("a number")).collect();
        std::thread::sleep(Duration::from_millis(fastrand::u64(..20)));
        child.kill().expect("it runs");
        child.wait().expect("it is a child");
        for pid in family {
            assert!(eventually(|| is_gone(pid)), "{pid} lives on");
        }
    }
}

pub fn a_program_may_be_killed_at_any_time() {
    let setup = Setup::new(RULES);
    for _ in 0..ROUNDS {
        let mut child = setup.inside(&["family", "2"]).stdout(Stdio::piped()).spawn().expect("it starts");
        let program: i32 = line(&mut child).parse().expect("a number");
        std::thread::sleep(Duration::from_micros(fastrand::u64(..20_000)));
        kill(program, 9).expect("it runs");
        assert_eq!(ends(&mut child).code(), Some(137));
        assert!(is_gone(program));
    }
}

pub fn parts_of_a_program_may_be_killed_at_any_time() {
    let setup = Setup::new(RULES);
    outcome(&mut setup.inside(&["killer", &ROUNDS.to_string()])).says("100 killed\n");
}
