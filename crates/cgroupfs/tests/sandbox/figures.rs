//! What the added files say is true.

use std::thread;
use std::time::{Duration, Instant};

use crate::stage::{CONTROLLERS, Cgroup, Server, Worker, eventually};

const MIB: u64 = 1 << 20;

pub fn what_is_missing_is_there() {
    let _server = Server::start();
    for controller in CONTROLLERS {
        let cgroup = Cgroup::make(controller, "there");
        assert_eq!(cgroup.read("notify_on_release"), "0\n");
        assert_eq!(cgroup.read("cgroup.clone_children"), "0\n");
    }
    let time = Cgroup::make("cpuacct", "time");
    let rows = time.read("cpuacct.usage_percpu");
    assert!(rows.ends_with(" \n") && rows.split_whitespace().all(|word| word.parse::<u64>().is_ok()), "{rows:?}");
    let table = time.read("cpuacct.usage_all");
    assert_eq!(table.lines().count(), rows.split_whitespace().count() + 1, "{table}");
    assert!(table.starts_with("cpu user system\n0 "), "{table}");
    time.read("cpuacct.usage_percpu_user");
    time.read("cpuacct.usage_percpu_sys");
    time.entry("cpuacct.stat", "user");
    let cpu = Cgroup::make("cpu", "cpu");
    assert_eq!(cpu.read("cpu.stat"), "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n");
    let memory = Cgroup::make("memory", "memory");
    for file in ["memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.failcnt"] {
        assert_eq!(memory.number(file), 0, "{file}");
    }
    assert_eq!(memory.number("memory.use_hierarchy"), 1);
    assert_eq!(memory.read("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
    for name in ["cache", "rss", "total_inactive_file", "hierarchical_memory_limit", "total_unevictable"] {
        memory.entry("memory.stat", name);
    }
}

pub fn what_a_process_burns_is_counted() {
    let _server = Server::start();
    let cgroup = Cgroup::make("cpuacct", "burner");
    let _burner = Worker::start(&["burn"], &[&cgroup]);
    let per_processor = || -> u64 {
        cgroup.read("cpuacct.usage_percpu").split_whitespace().map(|word| word.parse::<u64>().unwrap()).sum()
    };
    let measure = || {
        let (since, before) = (Instant::now(), per_processor());
        thread::sleep(Duration::from_secs(3));
        (per_processor() - before) as f64 / since.elapsed().as_nanos() as f64
    };
    // Others may be busy on this machine: then it does not get a whole core.
    let cores = (0..20).map(|_| measure()).find(|cores| (0.9..=1.1).contains(cores));
    assert!(cores.is_some());
    let ticks = || (cgroup.entry("cpuacct.stat", "user") + cgroup.entry("cpuacct.stat", "system")) * 10_000_000;
    // It goes on burning: each is read later than the one before, and a figure may be a moment old.
    let (parts, before, whole, after) = (per_processor(), ticks(), cgroup.number("cpuacct.usage"), ticks());
    let moment = 300_000_000;
    let is_whole = whole >= parts && before < whole + moment && whole < after + moment;
    assert!(is_whole, "{parts} {before} {whole} {after}");
}

pub fn the_time_of_a_removed_cgroup_goes_on_counting() {
    let _server = Server::start();
    let pod = Cgroup::make("cpuacct", "pod");
    let container = pod.below("container");
    {
        let _burner = Worker::start(&["burn"], &[&container]);
        while container.number("cpuacct.usage") < 200_000_000 {
            thread::sleep(Duration::from_millis(50));
        }
    }
    let burnt = container.number("cpuacct.usage");
    drop(container);
    let files = ["cpuacct.usage", "cpuacct.usage_user", "cpuacct.usage_sys"];
    let [all, user, system] = files.map(|file| pod.number(file));
    assert!(all >= burnt && all == user + system, "{all} {user} {system}, {burnt} burnt");
}

pub fn what_a_process_holds_is_counted() {
    let _server = Server::start();
    let cgroup = Cgroup::make("memory", "holder");
    {
        let _holder = Worker::start(&["hold", "200"], &[&cgroup]);
        let usage = cgroup.number("memory.usage_in_bytes");
        let working_set = usage - cgroup.entry("memory.stat", "total_inactive_file");
        assert!((190 * MIB..240 * MIB).contains(&working_set), "{working_set}");
        let rss = cgroup.entry("memory.stat", "total_rss");
        assert!(rss.abs_diff(usage) < 10 * MIB, "{rss} {usage}");
        assert!(cgroup.number("memory.max_usage_in_bytes") >= usage);
    }
    eventually("it is given back", || cgroup.number("memory.usage_in_bytes") < MIB);
    assert!(cgroup.number("memory.max_usage_in_bytes") >= 190 * MIB);
    cgroup.write("memory.max_usage_in_bytes", "0");
    assert!(cgroup.number("memory.max_usage_in_bytes") < MIB);
}

pub fn what_is_in_tmpfs_is_counted() {
    let _server = Server::start();
    let cgroup = Cgroup::make("memory", "tmpfs");
    let file = "/sys/fs/cgroup/file";
    let _writer = Worker::start(&["write", file], &[&cgroup]);
    let (cache, rss) = (cgroup.entry("memory.stat", "total_cache"), cgroup.entry("memory.stat", "total_rss"));
    assert!((40 * MIB..52 * MIB).contains(&cache), "{cache}");
    assert!(rss < 12 * MIB, "{rss}");
    std::fs::remove_file(file).unwrap();
}

pub fn a_parent_has_what_its_children_have() {
    let _server = Server::start();
    let pod = Cgroup::make("memory", "pod");
    let (one, two) = (pod.below("one"), pod.below("two"));
    let _holders = [
        Worker::start(&["hold", "30"], &[&one]),
        Worker::start(&["hold", "20"], &[&one]),
        Worker::start(&["hold", "40"], &[&two]),
    ];
    thread::sleep(Duration::from_millis(200));
    let usage = |cgroup: &Cgroup| cgroup.number("memory.usage_in_bytes");
    let (whole, parts) = (usage(&pod), usage(&one) + usage(&two));
    assert!(whole.abs_diff(parts) < MIB, "{whole} {parts}");
    assert!(parts >= 90 * MIB, "{parts}");
    assert_eq!(pod.entry("memory.stat", "rss"), 0, "it has no members of its own");
    assert!(pod.entry("memory.stat", "total_rss").abs_diff(parts) < MIB);
}

pub fn the_root_has_what_the_sandbox_has() {
    let _server = Server::start();
    let root = std::mem::ManuallyDrop::new(Cgroup("/sys/fs/cgroup/memory".into()));
    let usage = |root: &Cgroup| root.number("memory.usage_in_bytes") - root.entry("memory.stat", "total_inactive_file");
    // What ended before this is given back a while later.
    let mut before = usage(&root);
    eventually("nothing is given back any more", || {
        thread::sleep(Duration::from_millis(300));
        let last = std::mem::replace(&mut before, usage(&root));
        last.abs_diff(before) < MIB
    });
    let _holder = Worker::start(&["hold", "200"], &[]);
    let grown = usage(&root) - before;
    assert!((190 * MIB..240 * MIB).contains(&grown), "{grown}");
    assert_eq!(root.read("release_agent"), "\n");
}
