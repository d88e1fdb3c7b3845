//! Namespaces that are shared with others.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

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
