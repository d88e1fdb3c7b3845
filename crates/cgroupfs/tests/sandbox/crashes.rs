//! Servers that end, one way or the other.

use std::fs;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};

use crate::stage::{CONTROLLERS, Cgroup, READY, ROOT, Server, Worker, eventually};

/// Before the new server is there, only the sandbox's own files are.
const ENOENT: i32 = 2;
const ENOTCONN: i32 = 107;
const ECONNABORTED: i32 = 103;

fn mounts_there() -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let fuse = |line: &&str| line.contains(" - fuse ") && line.contains(ROOT);
    table.lines().filter(fuse).count()
}

pub fn readers_of_a_killed_server_are_told_and_a_new_one_heals() {
    let mut server = Server::start();
    let cgroup = Cgroup::make("memory", "survives");
    let counts = Cgroup::make("cpuacct", "counts");
    let ended = counts.below("ended");
    let burner = Worker::start(&["burn"], &[&ended]);
    eventually("it has burnt", || ended.number("cpuacct.usage") > 200_000_000);
    drop(burner);
    drop(ended);
    cgroup.write("notify_on_release", "1");
    let counted = counts.number("cpuacct.usage");
    assert!(counted > 100_000_000, "{counted}");
    let path = cgroup.0.join("memory.stat");
    let _holder = Worker::start(&["hold", "10"], &[&cgroup]);
    let killed = AtomicBool::new(false);
    let mut healed = None;
    thread::scope(|scope| {
        let readers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let end = Instant::now() + Duration::from_secs(10);
                    while Instant::now() < end {
                        if let Err(error) = fs::read(&path) {
                            assert!(killed.load(Ordering::SeqCst), "{error}");
                            return error.raw_os_error().unwrap_or_default();
                        }
                    }
                    0
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(300));
        killed.store(true, Ordering::SeqCst);
        let since = Instant::now();
        server.kill();
        // With gVisor 2024-07 it takes a new server to end the waiting.
        thread::sleep(Duration::from_millis(100));
        healed = Some(Server::start());
        for reader in readers {
            let errno = reader.join().unwrap();
            assert!([ENOENT, ENOTCONN, ECONNABORTED].contains(&errno), "{errno}");
        }
        assert!(since.elapsed() < Duration::from_secs(20), "nobody hangs: {:?}", since.elapsed());
    });
    let _server = healed.unwrap();
    assert_eq!(mounts_there(), CONTROLLERS.len());
    assert!(cgroup.number("memory.usage_in_bytes") >= 10 << 20);
    assert_eq!((cgroup.read("notify_on_release"), counts.number("cpuacct.usage")), ("1\n".into(), counted));
}

pub fn a_server_leaves_nothing_mounted() {
    let mut server = Server::start();
    let open = fs::File::open(format!("{ROOT}/memory/memory.stat")).unwrap();
    assert!(server.stop());
    assert_eq!(mounts_there(), 0);
    assert!(fs::metadata(format!("{ROOT}/memory/memory.stat")).is_err());
    assert!(fs::read(format!("{ROOT}/memory/cgroup.procs")).is_ok());
    drop(open);
}

pub fn a_mount_that_somebody_takes_off_is_noticed() {
    let memory = format!("{ROOT}/memory");
    let take_off = || umount2(memory.as_str(), MntFlags::MNT_DETACH).unwrap();
    let is_there = || fs::read(format!("{memory}/cgroup.procs")).is_ok();
    let mut server = Server::start();
    take_off();
    // It may have noticed by itself, when it answered whoever asked whether it is ready.
    server.stop();
    assert!(is_there(), "what is below is the sandbox's own");
    let mut server = Server::start();
    take_off();
    let _ = UnixStream::connect(READY);
    assert!(!server.0.wait().unwrap().success(), "it says so, and another one is started");
    assert!(is_there());
    let _server = Server::start();
    assert_eq!(mounts_there(), CONTROLLERS.len());
}
