//! What a container may do without, and when its hooks run.
//!
//! Needs root, and says so where it is not.

mod common;

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{Bundle, succeed};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

const ID: &str = "lifecycle";

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}

/// A bundle whose container goes with it, even if the test fails.
struct Contained(Bundle);

impl Deref for Contained {
    type Target = Bundle;

    fn deref(&self) -> &Bundle {
        &self.0
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = self.runtime(&["delete", "--force", ID]).output();
    }
}

/// The container has cgroups of its own, beside those of the other tests.
fn bundle(name: &str, script: &str) -> Contained {
    let bundle = Bundle::new(script);
    bundle.change(|config| config["linux"]["cgroupsPath"] = format!("/{ID}-{name}-{}", std::process::id()).into());
    Contained(bundle)
}

/// The standard streams of a container are not those of the test, which waits for their end.
fn run(bundle: &Bundle, arguments: &[&str]) {
    let mut command = bundle.runtime(arguments);
    succeed(command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::inherit()));
}

/// A mount namespace that this thread has for itself, and a path to it for others.
fn own_mounts() -> PathBuf {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_PRIVATE | MsFlags::MS_REC, nothing).expect("it is made private");
    PathBuf::from(format!("/proc/{}/task/{}/ns/mnt", std::process::id(), nix::unistd::gettid()))
}

/// What is mounted in a bundle. Elsewhere others may be at it: what they remove goes from all namespaces.
fn mounts(bundle: &Bundle) -> usize {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("own mounts");
    mounts.lines().filter(|line| line.contains(bundle.path().to_str().expect("it is text"))).count()
}

fn leave_out(config: &mut Value, kind: &str) {
    config["linux"]["namespaces"].as_array_mut().expect("namespaces").retain(|namespace| namespace["type"] != kind);
}

#[test]
fn without_a_mount_namespace_it_shares_the_callers_and_leaves_nothing_there() {
    if !is_root() {
        return;
    }
    own_mounts();
    let bundle = bundle("shared", "exec sleep 1000");
    bundle.change(|config| leave_out(config, "mount"));
    let own = fs::read_link("/proc/thread-self/ns/mnt").expect("own namespace");
    run(&bundle, &["create", "--pid-file", "pid", ID]);
    run(&bundle, &["start", ID]);
    let pid = fs::read_to_string(bundle.path().join("pid")).expect("a process");
    assert_eq!(fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("its namespace"), own);
    assert_ne!(mounts(&bundle), 0);
    // Who is started in it has its root, too.
    run(&bundle, &["exec", ID, "test", "!", "-e", "/etc/passwd"]);
    run(&bundle, &["delete", "--force", ID]);
    assert_eq!(mounts(&bundle), 0);
}

#[test]
fn what_cannot_be_created_in_the_callers_mounts_leaves_nothing_there() {
    if !is_root() {
        return;
    }
    own_mounts();
    let changes: [fn(&mut Value); 2] = [
        // Before the root is changed, and after.
        |config| config["mounts"].as_array_mut().expect("mounts").push(json!({"destination": "/x", "type": "nothing"})),
        |config| config["process"]["args"] = json!(["/nowhere"]),
    ];
    for change in changes {
        let bundle = bundle("failed", "true");
        bundle.change(|config| leave_out(config, "mount"));
        bundle.change(change);
        assert!(!bundle.runtime(&["create", ID]).output().expect("it runs").status.success());
        assert_eq!(mounts(&bundle), 0);
    }
}

#[test]
fn a_creation_that_is_cut_off_is_taken_off_the_callers_mounts_and_no_more() {
    if !is_root() {
        return;
    }
    own_mounts();
    let bundle = bundle("cut", "true");
    let (rootfs, reached, nothing) = (bundle.rootfs(), bundle.path().join("reached"), None::<&str>);
    mount(Some(&rootfs), &rootfs, nothing, MsFlags::MS_BIND, nothing).expect("the caller's own mount");
    bundle.change(|config| {
        leave_out(config, "mount");
        // From outside, since gVisor 2024-07 as a whole may end when a hook kills its parent.
        let script = format!("touch {}; while kill -0 $PPID; do sleep 0.1; done", reached.display());
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    });
    let mut create = bundle.runtime(&["create", ID]);
    let mut create = create.stdout(std::process::Stdio::null()).spawn().expect("it runs");
    while !reached.exists() {
        assert!(create.try_wait().expect("it is a child").is_none());
        thread::sleep(Duration::from_millis(5));
    }
    create.kill().expect("it is a child");
    create.wait().expect("it is a child");
    assert!(mounts(&bundle) > 1);
    run(&bundle, &["delete", "--force", ID]);
    assert_eq!(mounts(&bundle), 1);
    nix::mount::umount(&rootfs).expect("it is the caller's");
}

#[test]
fn a_mount_namespace_that_is_joined_keeps_its_root() {
    if !is_root() {
        return;
    }
    let bundle = bundle("joined", "exec sleep 1000");
    let (path, (release, held)) = (mpsc::channel(), mpsc::channel::<()>());
    let holder = thread::spawn(move || {
        let root = || fs::metadata("/").map(|root| (root.dev(), root.ino())).expect("a root");
        let before = root();
        path.0.send(own_mounts()).expect("it is asked for");
        let _ = held.recv();
        assert_eq!(root(), before);
    });
    let path = path.1.recv().expect("a namespace");
    bundle.change(|config| {
        leave_out(config, "mount");
        let joined = json!({"type": "mount", "path": path});
        config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(joined);
    });
    run(&bundle, &["create", "--pid-file", "pid", ID]);
    run(&bundle, &["start", ID]);
    let pid = fs::read_to_string(bundle.path().join("pid")).expect("a process");
    let link = |path: PathBuf| fs::read_link(path).expect("a namespace");
    assert_eq!(link(format!("/proc/{pid}/ns/mnt").into()), link(path));
    run(&bundle, &["exec", ID, "test", "!", "-e", "/etc/passwd"]);
    run(&bundle, &["delete", "--force", ID]);
    drop(release);
    holder.join().expect("its root is what it was");
}

#[test]
fn without_a_process_it_is_created_and_not_started() {
    if !is_root() {
        return;
    }
    let bundle = bundle("no-process", "true");
    bundle.change(|config| drop(config.as_object_mut().expect("an object").remove("process")));
    run(&bundle, &["create", ID]);
    let started = bundle.runtime(&["start", ID]).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&started.stderr), "error: process: must be given\n");
    let state = succeed(&mut bundle.runtime(&["state", ID])).stdout;
    assert_eq!(serde_json::from_slice::<Value>(&state).expect("a state")["status"], "created");
    run(&bundle, &["delete", "--force", ID]);
}

#[test]
fn poststart_hooks_run_when_the_program_is_executed() {
    if !is_root() {
        return;
    }
    let bundle = bundle("poststart", "exec sleep 1000");
    bundle.change(|config| {
        config["hooks"] = json!({
            "startContainer": [{"path": "/bin/sleep", "args": ["sleep", "0.5"]}],
            "poststart": [{"path": "/bin/sh", "args": ["sh", "-c", format!(
                r#"exec readlink /proc/$(sed 's/.*"pid":\([0-9]*\).*/\1/')/exe >{}/executed"#,
                bundle.path().display(),
            )]}],
        });
    });
    run(&bundle, &["create", ID]);
    run(&bundle, &["start", ID]);
    let executed = fs::read_to_string(bundle.path().join("executed")).expect("the hook has run");
    assert!(!executed.contains("terrarium"), "{executed}");
    run(&bundle, &["delete", "--force", ID]);
}

#[test]
fn a_hook_that_fails_before_the_program_fails_the_start() {
    if !is_root() {
        return;
    }
    let bundle = bundle("start-hook", "exec sleep 1000");
    bundle.change(|config| {
        let args = ["sh", "-c", "sleep 0.5; echo full >&2; exit 3"];
        config["hooks"] = json!({
            "startContainer": [{"path": "/bin/sh", "args": args}],
            "poststart": [{"path": "/bin/touch", "args": ["touch", bundle.path().join("executed")]}],
        });
    });
    run(&bundle, &["create", ID]);
    let started = bundle.runtime(&["start", ID]).output().expect("it runs");
    let told = String::from_utf8_lossy(&started.stderr);
    assert_eq!(told, "error: hook startContainer[0]: /bin/sh ended with exit status: 3: full\n");
    assert!(!started.status.success() && !bundle.path().join("executed").exists());
    run(&bundle, &["delete", ID]);
}

#[test]
fn the_root_propagates_as_it_was_asked_to() {
    if !is_root() {
        return;
    }
    own_mounts();
    for (asked, expected) in [("shared", true), ("rshared", true), ("private", false), ("rslave", false)] {
        let bundle = bundle("propagation", "exec sleep 1000");
        bundle.change(|config| config["linux"]["rootfsPropagation"] = asked.into());
        run(&bundle, &["create", "--pid-file", "pid", ID]);
        let pid = fs::read_to_string(bundle.path().join("pid")).expect("a process");
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("its mounts");
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
        assert_eq!(root.contains(" shared:"), expected, "{asked}: {root}");
        run(&bundle, &["delete", "--force", ID]);
    }
}
