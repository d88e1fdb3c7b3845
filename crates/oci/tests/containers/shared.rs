//! Mounts that a container shares with its caller or with others.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::bundle::{Bundle, eventually};

const NONE: Option<&str> = None;

/// Does it in a thread that has a mount namespace for itself, with the path of that for others.
fn in_own_mounts(test: impl FnOnce(PathBuf) + Send) {
    let test = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        mount(NONE, "/", NONE, MsFlags::MS_PRIVATE | MsFlags::MS_REC, NONE).expect("it is made private");
        test(format!("/proc/{}/task/{}/ns/mnt", std::process::id(), nix::unistd::gettid()).into());
    };
    let ended = thread::scope(|scope| scope.spawn(test).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// A bundle without a mount namespace.
fn without_mounts(args: &[&str]) -> Bundle {
    let mut bundle = Bundle::new(args);
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "mount");
    bundle
}

/// What is mounted in a bundle. Elsewhere others may be at it: what they remove goes from all namespaces.
fn mounts(bundle: &Bundle) -> usize {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("own mounts");
    mounts.lines().filter(|line| line.contains(bundle.path("").to_str().expect("it is text"))).count()
}

fn link(path: impl Into<PathBuf>) -> PathBuf {
    fs::read_link(path.into()).expect("a namespace")
}

/// Of who is started in it, too.
fn has_its_root(bundle: &Bundle) {
    assert_eq!(bundle.exec(&[], &["read", "/etc/passwd"]).succeeds(), "No such file or directory (os error 2)");
}

pub fn the_callers_mounts_are_shared_and_nothing_is_left_there() {
    in_own_mounts(|own| {
        let bundle = without_mounts(&["wait"]);
        bundle.start();
        assert_eq!(link(format!("/proc/{}/ns/mnt", bundle.state()["pid"])), link(own));
        assert_ne!(mounts(&bundle), 0);
        has_its_root(&bundle);
        bundle.tell(&["delete", "--force", &bundle.id]);
        assert_eq!(mounts(&bundle), 0);
    });
}

pub fn what_cannot_be_created_in_the_callers_mounts_leaves_nothing_there() {
    let changes: [fn(&mut Value); 2] = [
        // Before the root is changed, and after.
        |spec| spec["mounts"].as_array_mut().expect("mounts").push(json!({"destination": "/x", "type": "nothing"})),
        |spec| spec["process"]["args"] = json!(["/nowhere"]),
    ];
    in_own_mounts(|_| {
        for change in changes {
            let mut bundle = without_mounts(&["wait"]);
            change(&mut bundle.spec);
            assert!(!bundle.create().succeeded);
            assert_eq!(mounts(&bundle), 0);
        }
    });
}

pub fn a_creation_that_is_cut_off_is_taken_off_the_callers_mounts_and_no_more() {
    in_own_mounts(|_| {
        let mut bundle = without_mounts(&["wait"]);
        let (rootfs, reached) = (bundle.path("rootfs"), bundle.path("reached"));
        mount(Some(&rootfs), &rootfs, NONE, MsFlags::MS_BIND, NONE).expect("the caller's own mount");
        // From outside, since gVisor 2024-07 as a whole may end when a hook kills its parent.
        let script = format!("touch {}; while kill -0 $PPID; do sleep 0.1; done", reached.display());
        bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
        let mut create = bundle.runtime(&["create", &bundle.id]);
        let mut create = create.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
        eventually("the hook runs", Duration::from_secs(60), || reached.exists());
        create.kill().expect("it is a child");
        create.wait().expect("it is a child");
        assert!(mounts(&bundle) > 1);
        bundle.tell(&["delete", "--force", &bundle.id]);
        assert_eq!(mounts(&bundle), 1);
        umount(&rootfs).expect("it is the caller's");
    });
}

pub fn a_mount_namespace_that_is_joined_keeps_its_root() {
    let ((tell, told), (release, held)) = (mpsc::channel(), mpsc::channel::<()>());
    let holder = thread::spawn(move || {
        in_own_mounts(move |path| {
            let root = || fs::metadata("/").map(|root| (root.dev(), root.ino())).expect("a root");
            let before = root();
            tell.send(path).expect("it is asked for");
            let _ = held.recv();
            assert_eq!(root(), before);
        });
    });
    let path = told.recv().expect("a namespace");
    let mut bundle = without_mounts(&["wait"]);
    bundle.add("/linux/namespaces", json!({"type": "mount", "path": path}));
    bundle.start();
    assert_eq!(link(format!("/proc/{}/ns/mnt", bundle.state()["pid"])), link(path));
    has_its_root(&bundle);
    bundle.tell(&["delete", "--force", &bundle.id]);
    drop(release);
    holder.join().expect("its root is what it was");
}

pub fn the_root_propagates_as_it_was_asked_to() {
    in_own_mounts(|_| {
        for (asked, expected) in [("shared", true), ("rshared", true), ("private", false), ("rslave", false)] {
            let mut bundle = Bundle::new(&["wait"]);
            bundle.spec["linux"]["rootfsPropagation"] = json!(asked);
            bundle.create().succeeds();
            let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", bundle.state()["pid"])).expect("its mounts");
            let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
            assert_eq!(root.contains(" shared:"), expected, "{asked}: {root}");
        }
    });
}
