//! Rules that change what a call answers.

use crate::support::{Setup, outcome};

pub fn types_of_file_systems_are_changed() {
    let setup = Setup::new(r#"{"statfs": [{"from": "0x9fa0", "to": "0x27e0eb"}]}"#);
    outcome(&mut setup.inside(&["magic", "/proc/self"])).says("27e0eb 27e0eb\n");
    assert_eq!(setup.hits("statfs 0x9fa0 as 0x27e0eb"), 2);
    let tmp = outcome(&mut setup.inside(&["magic", "/dev"])).succeeds().out;
    assert!(!tmp.contains("27e0eb"), "{tmp}");
}

pub fn types_are_changed_below_a_path_alone() {
    let setup = Setup::new(
        r#"{"statfs": [{"from": "0x9fa0", "to": "0x1", "below": ["/proc/sys"]}, {"from": 40864, "to": 2}]}"#,
    );
    outcome(&mut setup.inside(&["magic", "/proc/sys/kernel"])).says("1 1\n");
    outcome(&mut setup.inside(&["magic", "/proc/../proc/sys"])).says("1 1\n");
    outcome(&mut setup.inside(&["magic", "/proc"])).says("2 2\n");
    setup.sh("cd /proc && stat -f -c %t sys . sys/kernel/..").says("1\n2\n1\n");
    let setup = Setup::new(r#"{"statfs": [{"from": "0x9fa0", "to": "0x1", "below": ["/sys"]}]}"#);
    outcome(&mut setup.inside(&["magic", "/proc"])).says("9fa0 9fa0\n");
}

pub fn the_kernels_names_are_changed() {
    let real = rustix::system::uname();
    let setup = Setup::new(r#"{"uname": {"release": "9.8.7-test", "version": "1 SMP"}}"#);
    setup.sh("uname -r; uname -v").says("9.8.7-test\n1 SMP\n");
    setup.sh("uname -s").says(&format!("{}\n", real.sysname().to_string_lossy()));
    let setup = Setup::new(r#"{"uname": {"version": "1 SMP"}}"#);
    setup.sh("uname -r").says(&format!("{}\n", real.release().to_string_lossy()));
}

pub fn figures_say_how_often_each_rule_was_used() {
    let setup = Setup::new(
        r#"{"statfs": [{"from": "0x9fa0", "to": "0x1"}], "uname": {"release": "1"}, "files": [{"path": "/a", "content": ""}]}"#,
    );
    outcome(&mut setup.inside(&["magic", "/proc"])).succeeds();
    let stats = setup.stats();
    let hits: Vec<_> = stats.rules.iter().map(|stats| (&*stats.rule, stats.hits)).collect();
    assert_eq!(hits, [("statfs 0x9fa0 as 0x1", 2), ("file /a", 0), ("uname", 0)]);
    assert!(stats.traps > 2 && stats.missed == 0, "{stats:?}");
    // While the program runs, too.
    let script = "while :; do /usr/bin/stat -f / >/dev/null; done";
    let mut child = setup.trace(&["/bin/sh", "-c", script]).spawn().expect("it starts");
    assert!(crate::support::eventually(|| setup.stats().traps > 10 * stats.traps));
    assert_eq!(child.try_wait().expect("it is a child"), None);
    child.kill().expect("it runs");
    child.wait().expect("it is a child");
}
