//! Limits of memory are enforced.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::stage::{Cgroup, Server, Worker};

const SOON: Duration = Duration::from_secs(10);

pub fn who_takes_too_much_is_killed_and_nobody_else() {
    let _server = Server::start();
    let pod = Cgroup::make("memory", "guarded");
    let (hog, sibling) = (pod.below("hog"), pod.below("sibling"));
    for cgroup in [&hog, &sibling] {
        cgroup.write("memory.limit_in_bytes", "104857600");
    }
    let mut quiet = Worker::start(&["hold", "60"], &[&sibling]);
    let mut helper = Worker::start(&["hold", "1"], &[&hog]);
    let since = Instant::now();
    let mut grower = Worker::start(&["grow"], &[&hog]);
    let counted = thread::scope(|scope| {
        // The count is there before the process is gone.
        let count = scope.spawn(|| {
            let end = Instant::now() + SOON;
            while Instant::now() < end && !hog.read("cgroup.procs").is_empty() {}
            hog.entry("memory.oom_control", "oom_kill")
        });
        assert!(grower.is_killed_within(SOON), "killed");
        count.join().unwrap()
    });
    println!("killed after {:?}; most: {} MiB", since.elapsed(), hog.number("memory.max_usage_in_bytes") >> 20);
    assert_eq!(counted, 2, "the whole cgroup ends");
    assert!(helper.is_killed_within(SOON));
    assert_eq!(hog.number("memory.failcnt"), 1);
    assert!(!quiet.is_killed_within(Duration::from_millis(500)));
    assert_eq!(sibling.entry("memory.oom_control", "oom_kill"), 0);
    assert_eq!(pod.entry("memory.oom_control", "oom_kill"), 0);
}

pub fn the_sum_of_containers_is_limited() {
    let _server = Server::start();
    let pod = Cgroup::make("memory", "sum");
    let (large, small) = (pod.below("large"), pod.below("small"));
    let mut larger = Worker::start(&["hold", "80"], &[&large]);
    let mut smaller = Worker::start(&["hold", "50"], &[&small]);
    // A limit that is set behind the mount is seen as well, if later.
    fs::write("/run/cgroupfs-backing/memory/sum/memory.limit_in_bytes", "104857600").unwrap();
    assert!(larger.is_killed_within(2 * SOON));
    assert!(!smaller.is_killed_within(Duration::from_millis(500)));
    assert_eq!(large.entry("memory.oom_control", "oom_kill"), 1);
    assert_eq!((pod.number("memory.failcnt"), large.number("memory.failcnt")), (1, 0), "whose limit it was");
}

pub fn nobody_is_killed_without_a_guard() {
    let _server = Server::without_guard();
    let cgroup = Cgroup::make("memory", "unguarded");
    cgroup.write("memory.limit_in_bytes", "52428800");
    let mut holder = Worker::start(&["hold", "100"], &[&cgroup]);
    assert!(!holder.is_killed_within(Duration::from_secs(2)));
    assert_eq!(cgroup.entry("memory.oom_control", "oom_kill"), 0);
}
