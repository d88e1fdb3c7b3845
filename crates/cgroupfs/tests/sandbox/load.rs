//! Many readers at once.

use std::fs;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::stage::{Cgroup, ROOT, Server, Worker};

/// Reads all there is, as cAdvisor does; cgroups may go meanwhile.
fn read_all(directory: &std::path::Path, files: &AtomicU64) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            read_all(&entry.path(), files);
        } else if fs::read(entry.path()).is_ok() {
            files.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Each reader gets one state of a file to its end, however short its reads are and however often it begins again.
pub fn what_many_read_is_whole() {
    let _server = Server::start();
    let cgroup = Cgroup::make("memory", "read");
    let ends = AtomicBool::new(false);
    let lines = |file: &str, words: usize| {
        let mut text = String::new();
        let mut open = fs::File::open(cgroup.0.join(file)).unwrap();
        let mut part = [0; 7];
        loop {
            match open.read(&mut part).unwrap() {
                0 => break,
                got => text.push_str(std::str::from_utf8(&part[..got]).unwrap()),
            }
        }
        assert!(text.is_empty() || text.ends_with('\n'), "{file}: {text:?}");
        for line in text.lines() {
            let line: Vec<&str> = line.split(' ').collect();
            assert!(line.len() == words && line[words - 1].parse::<u64>().is_ok(), "{file}: {text:?}");
        }
        text.lines().count()
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..12)
            .map(|_| {
                scope.spawn(|| {
                    while !ends.load(Ordering::Relaxed) {
                        assert_eq!(lines("memory.stat", 2), lines("memory.stat", 2));
                        lines("cgroup.procs", 1);
                        assert_eq!(lines("memory.usage_in_bytes", 1), 1);
                    }
                })
            })
            .collect();
        let end = Instant::now() + Duration::from_secs(4);
        while Instant::now() < end && !readers.iter().any(|reader| reader.is_finished()) {
            let _holders = [1, 9, 17].map(|megabytes| Worker::start(&["hold", &megabytes.to_string()], &[&cgroup]));
        }
        ends.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

pub fn many_read_while_cgroups_come_and_go() {
    let _server = Server::start();
    let (ends, files) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for reader in 0..32 {
            let (ends, files) = (&ends, &files);
            let controller = ["cpuacct", "memory"][reader % 2];
            scope.spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    read_all(&std::path::Path::new(ROOT).join(controller), files);
                }
            });
        }
        let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
        let is_enough = |time: Duration| {
            time > Duration::from_secs(5) && files.load(Ordering::Relaxed) > 1000 || time > Duration::from_secs(60)
        };
        while !is_enough(begun.elapsed()) {
            let since = Instant::now();
            let parents = [Cgroup::make("cpuacct", "moving"), Cgroup::make("memory", "moving")];
            let children: Vec<Cgroup> = parents.iter().map(|parent| parent.below("child")).collect();
            for child in &children {
                child.read("cgroup.procs");
            }
            drop(children);
            drop(parents);
            slowest = slowest.max(since.elapsed());
        }
        ends.store(true, Ordering::Relaxed);
        assert!(slowest < Duration::from_secs(30), "{slowest:?}");
    });
    assert!(files.load(Ordering::Relaxed) > 1000, "{files:?}");
}

pub fn nothing_is_kept_of_what_is_gone() {
    let server = Server::start();
    let held = || {
        let text = fs::read_to_string(format!("/proc/{}/statm", server.0.id())).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let churn = |rounds| {
        for _ in 0..rounds {
            let cgroup = Cgroup::make("memory", &"long".repeat(50));
            cgroup.read("memory.stat");
            cgroup.write("notify_on_release", "1");
            cgroup.read("cgroup.procs");
        }
    };
    churn(300);
    let before = held();
    churn(3000);
    let after = held();
    assert!(after < before + (3 << 20), "{before} {after}");
    let open = fs::read_dir(format!("/proc/{}/fd", server.0.id())).unwrap().count();
    assert!(open < 40, "{open}");
}
