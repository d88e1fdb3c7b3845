//! When hooks run, and what comes of their failure.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::bundle::{Bundle, eventually, tell};
use crate::inside;

pub fn poststart_hooks_run_when_the_program_is_executed() {
    let mut bundle = Bundle::new(&["wait"]);
    let executed = bundle.path("executed");
    let script = format!(r#"exec readlink /proc/$(sed 's/.*"pid":\([0-9]*\).*/\1/')/exe >{}"#, executed.display());
    bundle.spec["hooks"] = json!({
        "startContainer": [{"path": inside::PATH, "args": ["inside", "pause"]}],
        "poststart": [{"path": "/bin/sh", "args": ["sh", "-c", script]}],
    });
    bundle.start();
    let executed = fs::read_to_string(executed).expect("the hook has run");
    assert_eq!(executed.trim(), inside::PATH);
}

pub fn a_hook_that_fails_before_the_program_fails_the_start() {
    let mut bundle = Bundle::new(&["wait"]);
    let executed = bundle.path("executed");
    bundle.spec["hooks"] = json!({
        "startContainer": [{"path": inside::PATH, "args": ["inside", "fail", "full"]}],
        "poststart": [{"path": "/bin/touch", "args": ["touch", executed]}],
    });
    bundle.create().succeeds();
    let told = tell(&mut bundle.runtime(&["start", &bundle.id]));
    told.fails_with("error: hook startContainer[0]: /inside ended with exit status: 3: full\n");
    assert!(!executed.exists());
    bundle.tell(&["delete", &bundle.id]);
}

pub fn a_start_that_waits_for_a_hook_ends_by_a_forced_delete() {
    let mut bundle = Bundle::new(&["wait"]);
    bundle.spec["hooks"] = json!({"startContainer": [
        {"path": inside::PATH, "args": ["inside", "write", "/begun"]},
        {"path": inside::PATH, "args": ["inside", "wait"]},
    ]});
    bundle.create().succeeds();
    let mut start = bundle.runtime(&["start", &bundle.id]).spawn().expect("it is started");
    eventually("the hooks begin", Duration::from_secs(20), || bundle.path("rootfs/begun").exists());
    bundle.tell(&["delete", "--force", &bundle.id]);
    start.wait().expect("it has ended");
}
