//! Namespaces that are shared with others.

use std::fs;
use std::os::unix::fs::chown;

use serde_json::json;

use crate::bundle::Bundle;

/// The first ID outside that is mapped.
const FIRST: u32 = 100_000;

/// A bundle with a user namespace, whose root belongs to its root user.
fn mapped(args: &[&str]) -> Bundle {
    let mut bundle = Bundle::new(args);
    bundle.spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": FIRST, "size": 65536}]);
    bundle.spec["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": FIRST, "size": 65536}]);
    bundle.add("/linux/namespaces", json!({"type": "user"}));
    chown(bundle.path("rootfs"), Some(FIRST), Some(FIRST)).expect("a root of the other user");
    bundle
}

/// As the containers of a Pod with `hostUsers: false`.
pub fn a_joined_user_namespace_is_entered_as_root() {
    let first = mapped(&["wait"]);
    first.create().succeeds();
    let pid = &first.state()["pid"];
    let mut second = Bundle::new(&["write", "/file"]);
    chown(second.path("rootfs"), Some(FIRST), Some(FIRST)).expect("a root of the other user");
    second.add("/linux/namespaces", json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}));
    let told = second.run();
    if told.stderr.contains("join a user namespace: Invalid argument") {
        eprintln!("skipped: this kernel lets nobody into a user namespace");
        return;
    }
    assert_eq!(told.succeeds(), "Ok(())");
    assert_eq!(fs::read_to_string(second.path("rootfs/file")).expect("it is there"), "written");
}
