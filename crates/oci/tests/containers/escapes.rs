//! Ways out of a container that others have found, tried with this runtime.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::bundle::{Bundle, eventually, tell};

/// A bind mount at this place, of a directory that has a file.
fn with_mount_at(bundle: &mut Bundle, destination: &str) {
    fs::create_dir_all(bundle.path("source")).expect("a source");
    fs::write(bundle.path("source/file"), "mounted").expect("a file");
    fs::create_dir_all(bundle.path("outside")).expect("another directory");
    let source = bundle.path("source");
    bundle.add("/mounts", json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind"]}));
}

fn nothing_is_outside(bundle: &Bundle) {
    let outside = fs::read_dir(bundle.path("outside")).expect("a directory");
    assert_eq!(outside.count(), 0, "something was made outside of the root");
}

/// CVE-2021-30465 and before it: the target of a mount leads outside.
pub fn mounts_stay_in_the_root() {
    let directly = |bundle: &Bundle| bundle.path("outside").to_str().expect("text").to_owned();
    for target in [None, Some("../outside"), Some("../../../../../../outside"), Some("/../outside")] {
        let mut bundle = Bundle::new(&["read", "/link/in/it/file"]);
        with_mount_at(&mut bundle, "/link/in/it");
        symlink(target.map_or_else(|| directly(&bundle), str::to_owned), bundle.path("rootfs/link")).expect("a link");
        assert_eq!(bundle.run().succeeds(), "mounted", "{target:?}");
        nothing_is_outside(&bundle);
    }
    let mut bundle = Bundle::new(&["read", "/outside/file"]);
    with_mount_at(&mut bundle, "/a/../../../outside");
    assert_eq!(bundle.run().succeeds(), "mounted");
    nothing_is_outside(&bundle);
}

/// The same, where a directory on the way becomes a link while the mounts are made.
pub fn a_root_that_changes_meanwhile_is_not_left() {
    let mut bundle = Bundle::new(&["read", "/nothing"]);
    for number in 0..16 {
        with_mount_at(&mut bundle, &format!("/swapped/{number}/it"));
    }
    let (directory, link, spare) =
        (bundle.path("rootfs/swapped"), bundle.path("rootfs/link"), bundle.path("rootfs/spare"));
    fs::create_dir(&directory).expect("a directory");
    symlink("../outside", &link).expect("a link");
    let done = AtomicBool::new(false);
    let swaps = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Left where the runtime made a directory of its own, while there was none.
                let _ = fs::remove_dir_all(&spare);
                // Each is there at least for a moment.
                let swapped = fs::rename(&directory, &spare).and_then(|()| fs::rename(&link, &directory));
                swaps.fetch_add(usize::from(swapped.is_ok()), Ordering::Relaxed);
                let _ = fs::rename(&directory, &link).and_then(|()| fs::rename(&spare, &directory));
            }
        });
        // Whether it can be made depends on when; where it is made does not.
        (0..10).for_each(|_| drop(bundle.run()));
        done.store(true, Ordering::Relaxed);
    });
    nothing_is_outside(&bundle);
    assert!(swaps.into_inner() > 10, "the directory hardly ever became a link");
    // Nothing else was in the way.
    let _ = fs::remove_file(&link);
    let _ = fs::remove_dir_all(&directory);
    bundle.run().succeeds();
}

/// What a masked path leads to is masked, and that is inside.
pub fn masked_links_lead_nowhere_outside() {
    let mut bundle = Bundle::new(&["read", "/secret"]);
    let outside = bundle.path("outside");
    fs::write(&outside, "theirs").expect("a file");
    fs::write(bundle.path("rootfs/secret"), "ours").expect("a file");
    symlink(&outside, bundle.path("rootfs/absolute")).expect("a link");
    symlink("../outside", bundle.path("rootfs/relative")).expect("a link");
    symlink("/secret", bundle.path("rootfs/link")).expect("a link");
    bundle.spec["linux"]["maskedPaths"] = json!(["/absolute", "/relative", "/link"]);
    assert_eq!(bundle.run().succeeds(), "");
    assert_eq!(fs::read_to_string(outside).expect("it is there"), "theirs");
}

/// CVE-2025-31133: masked paths are covered with the null device, so that must be the one.
pub fn another_null_device_is_refused() {
    for target in ["/etc/target", "/proc/sys/kernel/core_pattern"] {
        let mut bundle = Bundle::new(&["read", "/proc/sys/kernel/core_pattern"]);
        let mounts = bundle.spec["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["destination"] != "/dev");
        for directory in ["rootfs/dev", "rootfs/etc"] {
            fs::create_dir(bundle.path(directory)).expect("a directory");
        }
        fs::write(bundle.path("rootfs/etc/target"), "").expect("a file");
        symlink(target, bundle.path("rootfs/dev/null")).expect("a link");
        bundle.spec["linux"]["maskedPaths"] = json!(["/proc/version"]);
        bundle.run().fails_with("/dev/null");
    }
}

/// CVE-2019-5736: a container whose program is the runtime itself writes to the runtime's file. Linux lets nobody write to
/// what is executed, so it is a copy here, which nobody executes any more when the container is started.
pub fn the_runtime_cannot_be_overwritten() {
    let mut bundle = Bundle::new(&[]);
    bundle.spec["process"]["args"] = json!(["/proc/self/exe", "overwrite-runtime", "/result"]);
    let (program, runtime) = (std::env::current_exe().expect("this program"), bundle.path("runtime"));
    // By another process: one that another test forks meanwhile would have the copy open for writing.
    tell(Command::new("cp").arg(&program).arg(&runtime)).succeeds();
    bundle.create_by(&runtime).succeeds();
    bundle.tell(&["start", &bundle.id]);
    eventually("it ends", Duration::from_secs(60), || bundle.state()["status"] == "stopped");
    assert_eq!(fs::read_to_string(bundle.path("rootfs/result")).expect("it was tried"), "refused");
    assert!(fs::read(&runtime).expect("the copy") == fs::read(&program).expect("this program"), "it was changed");
}

/// As many as CVE-2024-21626 needed: one.
pub fn no_open_files_are_passed_on() {
    let directory = fs::File::open("/").expect("a directory");
    rustix::io::fcntl_setfd(&directory, rustix::io::FdFlags::empty()).expect("a file to be passed on");
    let bundle = Bundle::new(&["files"]);
    assert_eq!(bundle.run().succeeds(), "0\n1\n2\n");
    let bundle = Bundle::new(&["wait"]);
    bundle.start();
    assert_eq!(bundle.exec(&[], &["files"]).succeeds(), "0\n1\n2\n");
    drop(directory);
}

/// The same, where only what is made on the way to it is outside: who makes an image names its links and the directory.
pub fn a_working_directory_is_made_inside() {
    let mut bundle = Bundle::new(&["names", "/"]);
    with_mount_at(&mut bundle, "/mounted");
    let outside = fs::File::open(bundle.path("outside")).expect("a directory");
    rustix::io::fcntl_setfd(&outside, rustix::io::FdFlags::empty()).expect("a file to be passed on");
    symlink(format!("/proc/self/fd/{}", outside.as_raw_fd()), bundle.path("rootfs/link")).expect("a link");
    bundle.spec["process"]["cwd"] = json!("/link/made");
    bundle.run();
    nothing_is_outside(&bundle);
}

/// CVE-2024-21626: the working directory is one that the runtime has open.
pub fn a_working_directory_outside_is_refused() {
    let directory = fs::File::open("/").expect("a directory");
    rustix::io::fcntl_setfd(&directory, rustix::io::FdFlags::empty()).expect("a file to be passed on");
    let waiting = Bundle::new(&["wait"]);
    waiting.start();
    for number in (3..12).chain([directory.as_raw_fd()]) {
        let cwd = format!("/proc/self/fd/{number}");
        let mut bundle = Bundle::new(&["read", "."]);
        bundle.spec["process"]["cwd"] = json!(cwd);
        assert!(!bundle.run().succeeded, "{cwd}");
        assert!(!waiting.exec(&["--cwd", &cwd], &["read", "."]).succeeded, "{cwd} of a further process");
    }
}
