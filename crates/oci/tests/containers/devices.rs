//! Devices that a container makes for itself.

use std::fs;

use serde_json::json;

use crate::bundle::{Bundle, Told};

/// A disk of the machine, if there is one that may be opened here.
fn disk() -> Option<(u32, u32)> {
    let directory = tempfile::tempdir().expect("a directory");
    let node = directory.path().join("node");
    fs::read_dir("/sys/dev/block").ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let (major, minor) = name.split_once(':')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        let _ = fs::remove_file(&node);
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(rustix::fs::CWD, &node, rustix::fs::FileType::BlockDevice, 0o600.into(), device).ok()?;
        fs::File::open(&node).is_ok().then_some((major, minor))
    })
}

/// Runs it where cgroups are of version 2, or not mounted at all.
pub fn run_with_cgroups(bundle: &Bundle, mounts: &str) -> Told {
    bundle.run_within(&["--mount"], &format!("umount --all --types cgroup,cgroup2; {mounts}"))
}

fn with_disk(rules: serde_json::Value) -> Option<Bundle> {
    let (major, minor) = disk()?;
    let mut bundle = Bundle::new(&["open-block", &major.to_string(), &minor.to_string()]);
    bundle.spec["linux"]["resources"] = json!({"devices": rules});
    Some(bundle)
}

pub const MOUNT: &str = "mount -t cgroup2 none /sys/fs/cgroup";

pub fn a_disk_cannot_be_opened_on_version_2() {
    let denied = json!([{"allow": false, "access": "rwm"}]);
    let Some(bundle) = with_disk(denied) else {
        eprintln!("skipped: there is no disk");
        return;
    };
    assert_eq!(run_with_cgroups(&bundle, MOUNT).succeeds(), "Err(PermissionDenied) Ok(())");
    let allowed = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "b", "access": "rwm"}]);
    let bundle = with_disk(allowed).expect("a disk");
    assert_eq!(run_with_cgroups(&bundle, MOUNT).succeeds(), "Ok(()) Ok(())");
}

pub fn nothing_restricts_devices_without_cgroups() {
    let Some(bundle) = with_disk(json!([{"allow": false, "access": "rwm"}])) else {
        eprintln!("skipped: there is no disk");
        return;
    };
    run_with_cgroups(&bundle, "true").fails_with("linux.resources.devices");
    let bundle = with_disk(json!([{"allow": true, "access": "rwm"}])).expect("a disk");
    assert_eq!(run_with_cgroups(&bundle, "true").succeeds(), "Ok(()) Ok(())");
}
