//! What is told of a container, and how it ends.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bundle::{Bundle, tell};

/// "The state of a container in creation" (runtime specification), by a hook that asks for it.
pub fn the_state_of_a_container_in_creation_is_told() {
    let mut bundle = Bundle::new(&["wait"]);
    let told = bundle.path("told");
    let program = std::env::current_exe().expect("this program");
    let line = format!(
        "exec -a terrarium-oci {} --root {} state {} >{}",
        program.display(),
        bundle.path("state").display(),
        bundle.id,
        told.display()
    );
    bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/bash", "args": ["bash", "-c", line]}]});
    bundle.spec["annotations"] = json!({"a": "b"});
    bundle.create().succeeds();
    let state: Value = serde_json::from_slice(&fs::read(told).expect("told")).expect("JSON");
    assert_eq!(state["status"], "creating");
    assert_eq!(state["pid"], bundle.state()["pid"]);
    assert_eq!(state["bundle"], json!(bundle.path("").canonicalize().expect("a bundle")));
    assert_eq!(state["annotations"]["a"], "b");
}

pub fn without_a_process_it_is_created_and_not_started() {
    let mut bundle = Bundle::new(&[]);
    bundle.spec.as_object_mut().expect("an object").remove("process");
    bundle.create().succeeds();
    tell(&mut bundle.runtime(&["start", &bundle.id])).fails_with("error: process: must be given\n");
    assert_eq!(bundle.state()["status"], "created");
}

/// On version 1 the signal waits for the end of the pause.
pub fn a_paused_container_can_be_killed() {
    if !Path::new("/sys/fs/cgroup/freezer").exists() {
        eprintln!("skipped: there is no freezer of version 1");
        return;
    }
    for all in [false, true] {
        let bundle = Bundle::new(&["wait"]);
        bundle.start();
        bundle.tell(&["pause", &bundle.id]);
        assert_eq!(bundle.state()["status"], "paused");
        let kill = if all { vec!["kill", "--all", &bundle.id, "KILL"] } else { vec!["kill", &bundle.id, "KILL"] };
        bundle.tell(&kill);
        crate::bundle::eventually("it ends", std::time::Duration::from_secs(30), || {
            bundle.state()["status"] == "stopped"
        });
    }
}

pub fn an_update_of_nothing_changes_nothing() {
    let bundle = Bundle::new(&["wait"]);
    bundle.start();
    bundle.tell(&["update", &bundle.id]);
    assert_eq!(bundle.state()["status"], "running");
}
