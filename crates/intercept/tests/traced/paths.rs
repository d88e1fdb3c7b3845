//! Rules that lead paths elsewhere.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::{Setup, outcome};

/// Where nothing is.
const RULES: &str = r#"{"redirect": [{"from": "/proc/sys/terrarium", "to": "DIR/to"}]}"#;

pub fn reads_and_writes_are_redirected() {
    let setup = Setup::new(RULES);
    setup
        .sh("cat /proc/sys/terrarium/file; echo more >>/proc/sys/terrarium/file; echo new >/proc/sys/terrarium/new")
        .says("redirected\n");
    assert_eq!(fs::read_to_string(setup.path("to/file")).expect("it is there"), "redirected\nmore\n");
    assert_eq!(fs::read_to_string(setup.path("to/new")).expect("it is there"), "new\n");
    assert_eq!(setup.stats().missed, 0);
    assert_eq!(setup.hits("redirect"), 3);
}

pub fn each_call_is_redirected() {
    let setup = Setup::new(RULES);
    symlink("file", setup.path("to/link")).expect("a link");
    outcome(&mut setup.inside(&["calls", "/proc/sys/terrarium"])).says(
        "openat: redirected\nstat: 11\nlstat: link\nstatx: 11\naccess: true\naccess of nothing: false\nreadlink: file\n\
         registers: true\n",
    );
    // Others find nothing there.
    let outcome = outcome(std::process::Command::new("/bin/ls").arg("/proc/sys/terrarium"));
    assert!(!outcome.status.success(), "{outcome:?}");
}

pub fn rules_may_be_written_with_more_slashes() {
    let setup = Setup::new(
        r#"{"redirect": [{"from": "/proc//sys/./terrarium/", "to": "DIR/to/"}],
            "files": [{"path": "/proc/sys//made", "content": "made\n"}]}"#,
    );
    setup.sh("cat /proc/sys/terrarium/file /proc/sys/made").says("redirected\nmade\n");
}

pub fn other_calls_find_what_is_there() {
    let setup = Setup::new(
        r#"{"redirect": [{"from": "/proc/sys/terrarium", "to": "DIR/to", "calls": ["openat"]}],
            "files": [{"path": "/proc/sys/made", "content": ""}]}"#,
    );
    setup.sh("cat /proc/sys/terrarium/file; cd DIR/to && test -e file && cat file").says("redirected\nredirected\n");
}

pub fn children_in_the_same_memory_open_the_window_once() {
    let setup = Setup::new(RULES);
    let windows = outcome(&mut setup.inside(&["vfork", "200"])).succeeds().out;
    // A child may be heard before its maker, and then has opened one of its own.
    assert!((1..100).contains(&windows.trim().parse().expect("a number")), "{windows}");
}

pub fn old_calls_are_redirected() {
    let setup = Setup::new(RULES);
    symlink("file", setup.path("to/link")).expect("a link");
    if !std::path::Path::new("/usr/bin/perl").exists() {
        eprintln!("skipped: perl makes the old calls, and is not here");
        return;
    }
    // open, creat, stat, lstat, access, readlink.
    let script = r#"my ($d, $b) = ("/proc/sys/terrarium", "\0" x 256);
        my $fd = syscall(2, "$d/file", 0); syscall(0, $fd, $b, 10); print substr($b, 0, 10), "\n";
        print syscall(85, "$d/made", 0644) >= 0 ? "made\n" : "not made\n";
        print syscall(4, "$d/link", $b), " ", unpack("Q", substr($b, 48, 8)), "\n";
        print syscall(6, "$d/link", $b), " ", unpack("Q", substr($b, 48, 8)), "\n";
        print syscall(21, "$d/file", 4), " ", syscall(21, "$d/nothing", 4), "\n";
        my $n = syscall(89, "$d/link", $b, 256); print substr($b, 0, $n), "\n";"#;
    outcome(&mut setup.trace(&["/usr/bin/perl", "-e", script])).says("redirected\nmade\n0 11\n0 4\n0 -1\nfile\n");
    assert!(setup.path("to/made").exists());
}

pub fn paths_are_walked() {
    let setup = Setup::new(
        r#"{"redirect": [{"from": "/proc/sys/terrarium", "to": "DIR/to"}, {"from": "DIR/away", "to": "DIR/to"}]}"#,
    );
    fs::create_dir(setup.path("to/sub")).expect("a directory");
    fs::write(setup.path("beside"), "beside\n").expect("it is written");
    symlink("/proc/sys/terrarium", setup.path("in")).expect("a link");
    symlink("../beside", setup.path("to/out")).expect("a link");
    for path in [
        "/proc/sys/terrarium/sub/../file",
        "/proc/./sys//terrarium/file",
        "/proc/sys/kernel/../terrarium/file",
        "/proc/self/../sys/terrarium/file",
        "/proc/thread-self/../../../sys/terrarium/file",
        "DIR/away/file",
    ] {
        setup.sh(&format!("cat {path}")).says("redirected\n");
    }
    setup.sh("cd /proc/sys && cat terrarium/file ./terrarium/../terrarium/file").says("redirected\nredirected\n");
    setup.sh("cd DIR && cat away/file").says("redirected\n");
    // Up from what is redirected is where it is redirected from.
    setup.sh("cat DIR/away/../beside; cat DIR/away/out").says("beside\nbeside\n");
    setup.sh("head -c 5 /proc/sys/terrarium/../../version").says("Linux");
    // A link elsewhere is followed where all are.
    assert!(!setup.sh("cat DIR/in/file").status.success());
    setup.rules(r#"{"redirect": [{"from": "/proc/sys/terrarium", "to": "DIR/to"}], "follow_all_links": true}"#);
    setup.sh("cat DIR/in/file /proc/self/root/proc/sys/terrarium/file").says("redirected\nredirected\n");
}

pub fn links_at_the_end_are_links() {
    let setup = Setup::new(RULES);
    symlink("file", setup.path("to/link")).expect("a link");
    symlink("nowhere", setup.path("to/dangling")).expect("a link");
    outcome(&mut setup.inside(&["no-follow", "/proc/sys/terrarium/link", "/proc/sys/terrarium/file"]))
        .says("ELOOP ok\n");
    setup
        .sh("cat /proc/sys/terrarium/link; cat /proc/sys/terrarium/file/ 2>&1 | grep -o 'Not a directory'")
        .says("redirected\nNot a directory\n");
    setup.sh("echo there >/proc/sys/terrarium/dangling; cat DIR/to/nowhere").says("there\n");
}

pub fn descriptors_of_a_redirected_directory_stay_there() {
    let setup = Setup::new(RULES);
    fs::create_dir(setup.path("to/sub")).expect("a directory");
    outcome(&mut setup.inside(&["descriptors", "/proc/sys/terrarium/sub"])).says("redirected\nredirected\nLinux\n");
}

/// /proc/self is whoever reads it, not the tracer that reads the rules.
pub fn a_readers_own_directory_is_its_own() {
    let setup = Setup::new(
        r#"{"redirect": [{"from": "/proc/self/limits", "to": "DIR/to/file"}, {"from": "/proc/mounts", "to": "DIR/to/file"},
            {"from": "/proc/thread-self/limits", "to": "DIR/to/file"}]}"#,
    );
    for path in ["/proc/self/limits", "/proc/self/../self/limits", "/proc/mounts", "/proc/self/mounts"] {
        setup.sh(&format!("cat {path}")).says("redirected\n");
    }
    // Before 2026 gVisor has it not, and there is something all the same.
    setup.sh("cat /proc/thread-self/limits").says("redirected\n");
    setup.sh("cat /proc/self/comm /proc/self/../self/task/../comm").says("cat\ncat\n");
    setup.sh("cd /usr && cat /proc/self/cwd/../proc/self/comm").says("cat\n");
    setup.sh("head -c 5 /proc/$$/mountinfo | tr -d '0-9 '; echo").says("\n");
}

pub fn a_redirect_of_named_calls_leaves_others() {
    let setup = Setup::new(r#"{"redirect": [{"from": "DIR/from", "to": "DIR/to", "calls": ["openat"]}]}"#);
    setup.sh("cat DIR/from/file; test -e DIR/from/file || echo not there").says("redirected\nnot there\n");
}

pub fn who_has_no_descriptor_left_is_redirected_later() {
    let setup = Setup::new(RULES);
    let look = "test -e /proc/sys/terrarium/file; echo $?";
    setup.sh(&format!("ulimit -S -n 3; {look}; ulimit -S -n 64; {look}")).says("1\n0\n");
    assert_eq!(setup.stats().missed, 1);
}

pub fn files_are_made() {
    let setup = Setup::new(
        r#"{"files": [{"path": "DIR/made", "content": "some text\n"}, {"path": "/proc/sys/made", "content": "1\n"}]}"#,
    );
    setup.sh("cat DIR/made /proc/sys/made DIR/made").says("some text\n1\nsome text\n");
    setup.sh("cd DIR && { cat; cat made; } <made").says("some text\nsome text\n");
    setup
        .sh("stat -c '%s %a %F' DIR/made; stat -L -c '%s %a %F' DIR/made; test -r DIR/made && echo readable")
        .says("10 444 regular file\n10 444 regular file\nreadable\n");
    setup.sh("test -L DIR/made || echo no link; readlink DIR/made || echo no link").says("no link\nno link\n");
    setup
        .sh("{ echo no >DIR/made; } 2>&1 | grep -o 'Permission denied'; cat DIR/made")
        .says("Permission denied\nsome text\n");
    setup.sh("cat DIR/made/ 2>&1 | grep -o 'Not a directory'").says("Not a directory\n");
    assert!(!setup.path("made").exists());
    outcome(&mut setup.inside(&["no-follow", "/nowhere", &setup.path("made").display().to_string()]))
        .says("ENOENT ok\n");
}

pub fn a_root_of_its_own_is_respected() {
    let setup = Setup::new(
        r#"{"redirect": [{"from": "DIR/jail/from", "to": "DIR/jail/to"}, {"from": "/from", "to": "DIR/to"}]}"#,
    );
    fs::create_dir_all(setup.path("jail/to")).expect("a directory");
    fs::create_dir_all(setup.path("jail/proc")).expect("a directory");
    fs::write(setup.path("jail/to/file"), "of the jail\n").expect("it is written");
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root changes its root");
        return;
    }
    let inside = ["jail", &setup.path("jail").display().to_string(), "/from/file", "/../from/../from/file"];
    outcome(&mut setup.inside(&inside)).says("of the jail\nof the jail\n");
}
