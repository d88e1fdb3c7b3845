//! Many rounds of what happens to a cluster in the long run. `CHAOS_ROUNDS` says how many; `make chaos` plays fifty.

use std::time::{Duration, Instant};

use harness::{Cluster, DATA_DIR, Marks, eventually};

crate::stories! {
    once
    Own:
        rounds_of_up_and_down_leave_the_sandbox_as_it_was
        whatever_is_killed_nothing_acknowledged_is_lost
        killed_tracers_and_file_systems_hang_nobody;
}

const DEPLOYMENT: &str = include_str!("../manifests/deployment.yaml");

/// Writes objects one after the other, and notes those that the API server acknowledged.
const WRITER: &str = include_str!("../manifests/writer.sh");

/// What of ours lives: a name and a process each. Not asked of `terrarium`, which would start again what is missing.
const OURS: &str = r#"for record in /run/terrarium/records/*.json; do
    pid=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' $record); name=${record##*/}
    kill -0 $pid 2>/dev/null && echo ${name%.json} $pid
done; pgrep -f '[c]ontainerd-shim-terrarium-v2' | sed 's/^/shim /'; exit 0"#;

pub fn rounds() -> u32 {
    std::env::var("CHAOS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3)
}

fn rounds_of_up_and_down_leave_the_sandbox_as_it_was(cluster: &Cluster) {
    let before = Marks::of(cluster);
    let mut took = [Vec::new(), Vec::new()];
    for round in 1..=rounds() {
        took[0].push(cluster.up().took);
        cluster.kubectl(&format!("create configmap round-{round} --from-literal=kept=yes"));
        took[1].push(cluster.terrarium("down").succeeds().took);
        Marks::of(cluster).assert_same_as(&before);
    }
    cluster.up();
    for round in 1..=rounds() {
        assert_eq!(cluster.kubectl(&format!("get configmap round-{round} -o jsonpath={{.data.kept}}")), "yes");
    }
    cluster.terrarium("down").succeeds();
    Marks::of(cluster).assert_same_as(&before);
    for (what, took) in ["up", "down"].iter().zip(&took) {
        let seconds = |duration: Option<&Duration>| duration.map_or(0.0, Duration::as_secs_f64);
        let (least, most) = (seconds(took.iter().min()), seconds(took.iter().max()));
        eprintln!("{} rounds: {what} took {least:.1} to {most:.1} s", took.len());
    }
}

fn whatever_is_killed_nothing_acknowledged_is_lost(cluster: &Cluster) {
    let before = Marks::of(cluster);
    cluster.up();
    let namespace = cluster.namespace("chaos");
    namespace.apply(DEPLOYMENT);
    namespace.wait("deployment/web", "condition=Available");
    cluster.run_with_input(["tee", "/tmp/writer.sh"], WRITER.as_bytes()).succeeds();
    cluster.sh(&format!("setsid bash /tmp/writer.sh {DATA_DIR} </dev/null >/dev/null 2>&1 &")).succeeds();

    let start = Instant::now();
    let mut killed: Vec<String> = Vec::new();
    while killed.len() < rounds() as usize {
        let ours = cluster.sh(OURS).succeeds().stdout;
        let ours: Vec<(&str, &str)> = ours.lines().filter_map(|line| line.split_once(' ')).collect();
        if let Some((name, pid)) = fastrand::choice(ours) {
            cluster.sh(&format!("kill -9 {pid}"));
            killed.push(name.to_owned());
        }
        std::thread::sleep(Duration::from_millis(fastrand::u64(..5000)));
    }
    let took = start.elapsed();
    cluster.eventually_runs(Duration::from_secs(120));
    let healed = start.elapsed() - took;
    // Some of it to what is whole again.
    let written = || cluster.sh("wc -l </tmp/acknowledged").succeeds().stdout.trim().parse::<usize>().expect("a count");
    let until = written() + killed.len();
    eventually(Duration::from_secs(60), || match written() {
        count if count > until => Ok(()),
        count => Err(format!("the writer hardly wrote: {count}, not more than {until}")),
    });
    cluster.sh("touch /tmp/enough; while [ -e /tmp/enough ]; do sleep 0.1; done").succeeds();

    let acknowledged = cluster.run(["cat", "/tmp/acknowledged"]).succeeds().stdout;
    let there = namespace.kubectl("get configmaps -o name");
    let there: std::collections::BTreeSet<&str> = there.lines().collect();
    let lost: Vec<&str> =
        acknowledged.lines().filter(|name| !there.contains(format!("configmap/{name}").as_str())).collect();
    let count = acknowledged.lines().count();
    assert!(lost.is_empty(), "killed {killed:?}; of {count} acknowledged writes these are lost: {lost:?}");
    namespace.kubectl("wait deployment/web --for=condition=Available --timeout=120s");
    cluster.terrarium("down").succeeds();
    cluster.sh("rm /tmp/writer.sh /tmp/acknowledged").succeeds();
    Marks::of(cluster).assert_same_as(&before);
    eprintln!(
        "{} kills in {:.0} s ({}); all runs {:.0} s after the last; {count} writes acknowledged, none lost",
        killed.len(),
        took.as_secs_f64(),
        tally(&killed),
        healed.as_secs_f64(),
    );
}

/// The kubelet's tracer, the kubelet that it traces, and the server of its cgroup files, by the shell command that tells the
/// process.
const STACKED: [(&str, &str); 3] = [
    ("tracer", "sed -n 's/.*\"pid\":\\([0-9]*\\).*/\\1/p' /run/terrarium/records/kubelet.json"),
    ("traced", "pgrep -f '[l]ibexec/terrarium/kubernetes kubelet' | tail -1"),
    ("server", "sed -n 's/.*\"pid\":\\([0-9]*\\).*/\\1/p' /run/terrarium/records/cgroupfs.json"),
];

fn killed_tracers_and_file_systems_hang_nobody(cluster: &Cluster) {
    let before = Marks::of(cluster);
    cluster.terrarium("up --remedy proc-sys=intercept --remedy cgroup-magic=intercept").succeeds();
    let namespace = cluster.namespace("chaos");
    namespace.apply(DEPLOYMENT);
    namespace.wait("deployment/web", "condition=Available");
    let start = Instant::now();
    let mut killed: Vec<String> = Vec::new();
    while killed.len() < rounds() as usize {
        let (name, pid) = STACKED[fastrand::usize(..STACKED.len())];
        if cluster.sh(&format!("kill -9 $({pid})")).code == 0 {
            killed.push(name.to_owned());
            eprintln!("{:4.0} s: killed {name}, {} of {}", start.elapsed().as_secs_f64(), killed.len(), rounds());
        }
        std::thread::sleep(Duration::from_millis(fastrand::u64(..3000)));
        // A reader is answered, or told that nobody serves; it does not wait for good (124).
        let read = "timeout 20 cat /sys/fs/cgroup/memory/terrarium/memory.stat >/dev/null; test $? != 124";
        cluster.run(["terrarium", "exec", "--", "sh", "-c", read]).succeeds();
    }
    cluster.eventually_runs(Duration::from_secs(120));
    let stat = "cat /sys/fs/cgroup/memory/terrarium/memory.stat";
    // Its server is on record before it serves.
    let read = || cluster.run(["terrarium", "exec", "--", "sh", "-c", stat]).ok();
    let stat = eventually(Duration::from_secs(30), read);
    assert!(stat.contains("total_rss"), "{stat}");
    namespace.kubectl("wait deployment/web --for=condition=Available --timeout=120s");
    // The tracer and the traced one, and none that was left.
    cluster.eventually_counts("[l]ibexec/terrarium/kubernetes kubelet", 2);
    cluster.terrarium("down").succeeds();
    Marks::of(cluster).assert_same_as(&before);
    let took = start.elapsed().as_secs_f64();
    eprintln!("{} kills ({}) and all back in {took:.0} s", killed.len(), tally(&killed));
}

/// How often each was killed.
pub fn tally(killed: &[String]) -> String {
    let mut names = killed.to_vec();
    names.sort();
    names.dedup();
    let of = |name: &String| killed.iter().filter(|killed| *killed == name).count();
    let counts: Vec<String> = names.iter().map(|name| format!("{name} {}", of(name))).collect();
    counts.join(", ")
}
