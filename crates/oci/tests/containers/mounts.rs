//! What is mounted in a container, and what comes into it later.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::bundle::Bundle;
use crate::devices::{MOUNT, run_with_cgroups};
use crate::namespaces::mapped;

const NONE: Option<&str> = None;

/// A tmpfs, until this goes out of scope.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf) -> Self {
        fs::create_dir_all(&path).expect("a directory");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), NONE).expect("a tmpfs");
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// The root of a hierarchy must not be shown: whoever writes there rules the machine.
pub fn only_the_own_cgroup_is_shown() {
    if !Path::new("/sys/fs/cgroup/pids/cgroup.procs").exists() {
        eprintln!("skipped: there are no cgroups of version 1");
        return;
    }
    for namespace in [false, true] {
        let mut bundle = Bundle::new(&["read", "/sys/fs/cgroup/pids/cgroup.procs"]);
        bundle.add("/mounts", json!({"destination": "/sys", "type": "tmpfs", "source": "tmpfs"}));
        bundle.add("/mounts", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}));
        if namespace {
            bundle.add("/linux/namespaces", json!({"type": "cgroup"}));
        }
        // There is nobody in it but the reader, who is the first process.
        assert_eq!(bundle.run().succeeds(), "1\n", "cgroup namespace: {namespace}");
    }
}

/// The same on version 2, where a user namespace alone gives no right to mount a hierarchy.
pub fn only_the_own_cgroup_is_shown_to_other_users() {
    if !fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("cgroup2")) {
        eprintln!("skipped: there are no cgroups of version 2");
        return;
    }
    for namespace in [false, true] {
        let mut bundle = mapped(&["read", "/sys/fs/cgroup/cgroup.procs"]);
        bundle.add("/mounts", json!({"destination": "/sys", "type": "tmpfs", "source": "tmpfs"}));
        bundle.add("/mounts", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}));
        if namespace {
            bundle.add("/linux/namespaces", json!({"type": "cgroup"}));
        }
        assert_eq!(run_with_cgroups(&bundle, MOUNT).succeeds(), "1\n", "cgroup namespace: {namespace}");
    }
}

/// `mountPropagation: HostToContainer`, where the root file system is on the same mount as the volume.
pub fn what_is_mounted_outside_later_comes_to_slaves() {
    let mut bundle = Bundle::new(&["wait"]);
    let host = Mounted::new(bundle.path("host"));
    mount(NONE, &host.0, NONE, MsFlags::MS_SHARED, NONE).expect("a shared mount");
    for name in ["rootfs", "volume"] {
        fs::create_dir(host.0.join(name)).expect("a directory");
    }
    bundle.spec["root"]["path"] = json!(host.0.join("rootfs"));
    let source = host.0.join("volume");
    bundle.add(
        "/mounts",
        json!({"destination": "/volume", "type": "bind", "source": source, "options": ["rbind", "rslave"]}),
    );
    bundle.start();
    let later = Mounted::new(host.0.join("volume/later"));
    fs::write(later.0.join("file"), "came").expect("a file");
    assert_eq!(bundle.exec(&[], &["read", "/volume/later/file"]).succeeds(), "came");
}
