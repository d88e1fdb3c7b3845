//! What reading cgroups through the server costs beside the sandbox's own files, and what the server costs by itself.
//! `scripts/bench-cgroupfs` runs this in sandboxes. Prints lines of a word and a figure.

#[allow(clippy::unwrap_used, dead_code)] // It is of the tests.
#[path = "../tests/sandbox/stage.rs"]
mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use stage::{BACKING, Cgroup, ROOT, Server, Worker};

const PODS: usize = 50;
const READS: usize = 5000;
const ROUNDS: u32 = 10;
/// How often cAdvisor looks at each cgroup.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// How long the guard is watched.
const WATCHED: Duration = Duration::from_secs(10);
/// What cAdvisor reads of each cgroup, by `github.com/opencontainers/cgroups/fs`.
const FILES: &[(&str, &[&str])] = &[
    ("cpuacct", &["cpuacct.stat", "cpuacct.usage", "cpuacct.usage_percpu", "cpuacct.usage_all", "cgroup.procs"]),
    ("cpu", &["cpu.stat", "cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"]),
    ("pids", &["pids.current", "pids.max"]),
    (
        "memory",
        &[
            "memory.stat",
            "memory.usage_in_bytes",
            "memory.max_usage_in_bytes",
            "memory.failcnt",
            "memory.limit_in_bytes",
            "memory.use_hierarchy",
            "memory.soft_limit_in_bytes",
        ],
    ),
];

fn main() {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("serve") => return stage::serve(args.next().is_none()),
        Some("hold") => return stage::work("hold", args.next().as_deref()),
        _ => stage::set().expect("cgroups of version 1"),
    }
    let server = Server::start();
    let pods = Pods::make();
    for (word, place) in [("own", BACKING), ("served", ROOT)] {
        for file in ["cpuacct/pods/pod0/container/cpuacct.usage", "memory/pods/pod0/container/memory.usage_in_bytes"] {
            percentiles(word, &Path::new(place).join(file));
        }
    }
    percentiles("added", &Path::new(ROOT).join("cpuacct/pods/pod0/container/cpuacct.usage_percpu"));
    percentiles("added", &Path::new(ROOT).join("memory/pods/pod0/container/memory.stat"));
    let idle = busy(server.0.id());
    thread::sleep(WATCHED);
    let text = fs::read_to_string(format!("/proc/{}/statm", server.0.id())).expect("it runs");
    let pages: u64 = text.split(' ').nth(1).expect("two numbers").parse().expect("a number");
    println!("server-resident-mib {:.1}", pages as f64 / 256.0);
    println!("guard-share {:.3}", percent(busy(server.0.id()) - idle, WATCHED));
    housekeeping(&server, &pods);
}

/// Cgroups of Pods with one container each, in all hierarchies, with a process and a limit that is not far.
struct Pods {
    /// They end before their cgroups do.
    _workers: Vec<Worker>,
    cgroups: Vec<(&'static str, Vec<Cgroup>)>,
}

impl Pods {
    fn make() -> Self {
        let mut cgroups = Vec::new();
        for (controller, _) in FILES {
            let top = Cgroup::make(controller, "pods");
            let pods: Vec<Cgroup> = (0..PODS).map(|pod| top.below(&format!("pod{pod}"))).collect();
            let containers: Vec<Cgroup> = pods.iter().map(|pod| pod.below("container")).collect();
            cgroups.push((*controller, containers.into_iter().chain(pods).chain([top]).collect()));
        }
        let worker = |pod: usize| {
            let of: Vec<&Cgroup> = cgroups.iter().map(|(_, cgroups): &(_, Vec<Cgroup>)| &cgroups[pod]).collect();
            let memory = of.last().expect("the memory hierarchy is the last");
            memory.write("memory.limit_in_bytes", &(128_u64 << 20).to_string());
            Worker::start(&["hold", "4"], &of)
        };
        let workers = (0..PODS).map(worker).collect();
        Self { _workers: workers, cgroups }
    }
}

/// Opens, reads, closes; prints µs.
fn percentiles(word: &str, file: &PathBuf) {
    let name = file.file_name().expect("a file").to_string_lossy().into_owned();
    let mut times: Vec<Duration> = (0..READS)
        .map(|_| {
            let since = Instant::now();
            fs::read(file).expect("it can be read");
            since.elapsed()
        })
        .collect();
    times.sort();
    for (share, label) in [(50, "p50"), (99, "p99")] {
        println!("{word}-{name}-{label} {:.1}", times[READS * share / 100].as_secs_f64() * 1e6);
    }
}

fn housekeeping(server: &Server, pods: &Pods) {
    let (own, served, since) = (busy(std::process::id()), busy(server.0.id()), Instant::now());
    for _ in 0..ROUNDS {
        for (controller, cgroups) in &pods.cgroups {
            let files = FILES.iter().find(|(name, _)| name == controller).expect("it is listed").1;
            for (cgroup, file) in cgroups.iter().flat_map(|cgroup| files.iter().map(move |file| (cgroup, file))) {
                fs::read(cgroup.0.join(file)).expect("it can be read");
            }
        }
    }
    let round = since.elapsed() / ROUNDS;
    println!("housekeeping-ms {:.1}", round.as_secs_f64() * 1e3);
    println!("housekeeping-server-share {:.2}", percent((busy(server.0.id()) - served) / ROUNDS, HOUSEKEEPING));
    println!("housekeeping-reader-share {:.2}", percent((busy(std::process::id()) - own) / ROUNDS, HOUSEKEEPING));
}

fn percent(time: Duration, of: Duration) -> f64 {
    time.as_secs_f64() / of.as_secs_f64() * 100.0
}

/// The processor time of a process, in ticks of 10 ms.
fn busy(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let after_name = text.rsplit_once(')').expect("its name is in brackets").1;
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
