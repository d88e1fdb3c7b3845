//! Namespaces that are shared with others.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bundle::{Bundle, eventually};

/// The first ID outside that is mapped.
const FIRST: u32 = 100_000;

/// A bundle with a user namespace, whose root belongs to its root user.
pub fn mapped(args: &[&str]) -> Bundle {
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

/// As the volumes of a Pod, below a directory that is closed to all but the node's root.
pub fn volumes_of_others_come_into_a_user_namespace() {
    let mut bundle = mapped(&["read", "/volume/file"]);
    let volume = bundle.path("closed/volume");
    fs::create_dir_all(&volume).expect("a directory");
    fs::write(volume.join("file"), "found").expect("a file");
    fs::set_permissions(bundle.path("closed"), fs::Permissions::from_mode(0o700)).expect("its mode");
    bundle.add(
        "/mounts",
        json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["rbind", "ro"]}),
    );
    assert_eq!(bundle.run().succeeds(), "found");
    let missing = bundle.path("closed/missing");
    bundle.add("/mounts", json!({"destination": "/missing", "type": "bind", "source": missing, "options": ["rbind"]}));
    bundle.run().fails_with("closed/missing: No such file");
}

/// As the containers of a Pod with `shareProcessNamespace`: of the first one they know the process that its shim waits for.
/// Where nobody can join a pid namespace, that is another one than the first in it.
pub fn a_pid_namespace_is_joined_by_whom_its_shim_waits_for() {
    let first = Bundle::new(&["wait"]);
    first.start();
    let saved = fs::read(first.path("state").join(&first.id).join("state.json")).expect("its state");
    let saved: Value = serde_json::from_slice(&saved).expect("JSON");
    let waited_for = if saved["keeper"].is_null() { &saved["init"]["pid"] } else { &saved["keeper"]["pid"] };

    let mut second = Bundle::new(&["wait"]);
    symlink(first.path("state"), second.path("state")).expect("one place for the states of both");
    let namespaces = second.spec["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != "pid");
    second.add("/linux/namespaces", json!({"type": "pid", "path": format!("/proc/{waited_for}/ns/pid")}));
    second.start();
    fs::write(second.path("rootfs/of-the-second"), "").expect("a file");
    let seen = |directory: &str| second.exec(&[], &["names", directory]).succeeds();
    let processes = seen("/proc").lines().filter(|name| name.parse::<u32>().is_ok()).count();
    assert_eq!(processes, 3, "the first one's, the second one's, and this one");
    assert!(seen("/").contains("of-the-second\n"));

    first.tell(&["kill", &first.id, "KILL"]);
    let limit = Duration::from_secs(20);
    eventually("it ends with the namespace", limit, || second.state()["status"] == "stopped");
}

/// As Pods that share the node's network, where the cluster itself is in a user namespace: its root may not join what was
/// made outside of that.
pub fn the_callers_own_namespace_need_not_be_joined() {
    let mut bundle = Bundle::new(&["write", "/file"]);
    bundle.add("/linux/namespaces", json!({"type": "network", "path": "/proc/self/ns/net"}));
    let told = bundle.run_within(&["--user", "--map-root-user", "--mount"], "true");
    assert_eq!(told.succeeds(), "Ok(())");
}
