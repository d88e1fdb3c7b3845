//! What is changed through the files, and what is refused.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

use crate::stage::{Cgroup, Server, Worker};

fn errno<T>(answer: std::io::Result<T>) -> i32 {
    answer.err().map_or(0, |error| error.raw_os_error().unwrap())
}

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EIO: i32 = 5;
const EACCES: i32 = 13;
const EBUSY: i32 = 16;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;

fn write(cgroup: &Cgroup, file: &str, text: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(cgroup.0.join(file))?.write_all(text.as_bytes())
}

pub fn cgroups_come_and_go() {
    let _server = Server::start();
    for _ in 0..3 {
        let cgroup = Cgroup::make("memory", "comes");
        let below = cgroup.below("goes");
        cgroup.write("notify_on_release", "1");
        assert_eq!(errno(fs::remove_dir(&cgroup.0)), EBUSY, "it has one below");
        let holder = Worker::start(&["hold", "1"], &[&below]);
        assert_eq!(below.read("cgroup.procs"), format!("{}\n", holder.0.id()));
        assert_eq!(errno(fs::remove_dir(&below.0)), EBUSY, "it has a member");
        drop(holder);
        let (path, inner) = (cgroup.0.clone(), below.0.clone());
        drop(below);
        assert!(!inner.exists());
        drop(cgroup);
        assert_eq!(errno(fs::read(path.join("cgroup.procs"))), ENOENT);
        let again = Cgroup::make("memory", "comes");
        assert_eq!(again.read("notify_on_release"), "0\n", "it is another one");
        assert_eq!(errno(fs::create_dir(&again.0)), 17);
    }
}

pub fn refusals_are_those_of_the_kernel() {
    let _server = Server::start();
    let cgroup = Cgroup::make("memory", "refuses");
    for (file, text, refusal) in [
        ("cgroup.procs", "nobody", EINVAL),
        ("cgroup.procs", "4000000", ESRCH),
        ("memory.limit_in_bytes", "much", EINVAL),
        ("memory.limit_in_bytes", "-5", EINVAL),
        ("memory.oom_control", "1", EOPNOTSUPP),
        ("memory.use_hierarchy", "0", EINVAL),
        ("cgroup.event_control", "3 4", EOPNOTSUPP),
    ] {
        // gVisor 2024-07 says EIO of every write that FUSE refuses.
        let said = errno(write(&cgroup, file, text));
        assert!([refusal, EIO].contains(&said), "{file}: {said}");
    }
    assert_eq!(errno(fs::File::create(cgroup.0.join("notes"))), EACCES);
    assert_eq!(errno(fs::remove_file(cgroup.0.join("cgroup.procs"))), EPERM);
    assert_eq!(errno(fs::rename(&cgroup.0, cgroup.0.with_file_name("renamed"))), EPERM);
    assert_eq!(errno(symlink("/", cgroup.0.join("link"))), EPERM);
    assert_eq!(errno(fs::read(cgroup.0.join("memory.nothing"))), ENOENT);
    // As the cgroup library writes in its test mode.
    let file = cgroup.0.join("memory.limit_in_bytes");
    OpenOptions::new().write(true).create(true).truncate(true).open(&file).unwrap().write_all(b"1048576").unwrap();
    assert_eq!(cgroup.number("memory.limit_in_bytes"), 1_048_576);
    write(&cgroup, "memory.limit_in_bytes", "4M").unwrap();
    assert_eq!(cgroup.number("memory.limit_in_bytes"), 4 << 20);
    write(&cgroup, "memory.limit_in_bytes", "-1").unwrap();
    assert_eq!(cgroup.number("memory.limit_in_bytes"), 0x7FFF_FFFF_FFFF_F000);
    let mut holder = Worker::start(&["hold", "30"], &[&cgroup]);
    let said = errno(write(&cgroup, "memory.limit_in_bytes", "20M"));
    assert!([EBUSY, EIO].contains(&said), "{said}");
    assert!(holder.0.try_wait().unwrap().is_none(), "nobody is killed for a limit that was refused");
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&file).unwrap();
}

pub fn modes_and_owners_pass() {
    let _server = Server::start();
    let cgroup = Cgroup::make("cpuacct", "owned");
    let backing = std::path::Path::new("/run/cgroupfs-backing/cpuacct/owned");
    let is_same = |file: &str| {
        let (here, there) = (fs::metadata(cgroup.0.join(file)).unwrap(), fs::metadata(backing.join(file)).unwrap());
        (here.mode(), here.uid(), here.gid()) == (there.mode(), there.uid(), there.gid())
    };
    assert!(is_same("") && is_same("cgroup.procs"));
    fs::set_permissions(&cgroup.0, fs::Permissions::from_mode(0o750)).unwrap();
    assert!(is_same(""));
    assert_eq!(fs::metadata(&cgroup.0).unwrap().mode() & 0o7777, 0o750);
    // In a user namespace there may be no other user.
    if chown(backing.join("cgroup.procs"), Some(1), Some(1)).is_ok() {
        chown(cgroup.0.join("cgroup.procs"), Some(2), Some(3)).unwrap();
        assert!(is_same("cgroup.procs"));
        assert_eq!(fs::metadata(backing.join("cgroup.procs")).unwrap().uid(), 2);
    }
    let added = cgroup.0.join("cpuacct.usage_all");
    assert_eq!(errno(fs::set_permissions(&added, fs::Permissions::from_mode(0o600))), EPERM);
}

pub fn whoever_writes_0_is_moved() {
    let _server = Server::start();
    let cgroup = Cgroup::make("memory", "self");
    let root = std::mem::ManuallyDrop::new(Cgroup("/sys/fs/cgroup/memory".into()));
    let own = std::process::id().to_string();
    cgroup.write("cgroup.procs", "0");
    assert!(cgroup.read("cgroup.procs").lines().any(|pid| pid == own));
    root.write("cgroup.procs", "0\n");
    assert_eq!(cgroup.read("cgroup.procs"), "");
    let path = cgroup.0.join("tasks");
    std::thread::spawn(move || fs::write(path, "0").unwrap()).join().unwrap();
    assert!(!cgroup.read("cgroup.procs").lines().any(|pid| pid == own), "a thread is not the process");
}

pub fn limits_are_not_inherited() {
    let _server = Server::without_guard();
    let parent = Cgroup::make("memory", "limited");
    parent.write("memory.limit_in_bytes", "104857600");
    let child = parent.below("child");
    assert!(child.number("memory.limit_in_bytes") > 1 << 60);
    assert_eq!(child.entry("memory.stat", "hierarchical_memory_limit"), 104_857_600);
    parent.write("memory.limit_in_bytes", "-1");
    assert!(child.entry("memory.stat", "hierarchical_memory_limit") > 1 << 30);
    let parent = Cgroup::make("cpu", "limited");
    parent.write("cpu.cfs_period_us", "50000");
    parent.write("cpu.cfs_quota_us", "10000");
    let child = parent.below("child");
    assert_eq!((child.read("cpu.cfs_period_us"), child.read("cpu.cfs_quota_us")), ("100000\n".into(), "-1\n".into()));
}

pub fn names_are_listed_once() {
    let _server = Server::start();
    let cgroup = Cgroup::make("memory", "listed");
    let _below = cgroup.below("below");
    let mut names: Vec<String> =
        fs::read_dir(&cgroup.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let all = names.clone();
    names.dedup();
    assert_eq!(names, all);
    for name in ["below", "memory.stat", "memory.usage_in_bytes", "memory.limit_in_bytes", "cgroup.procs"] {
        assert!(names.iter().any(|listed| listed == name), "{name} in {names:?}");
    }
    assert!(!names.iter().any(|name| name == "release_agent"), "{names:?}");
}
