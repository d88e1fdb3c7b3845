//! A cluster that is left to itself.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use harness::Cluster;

use crate::gaps::FIGURES;

crate::stories! {
    once
    Shared in BUILDS:
        a_cluster_is_well_for_as_long_as_it_runs;
}

/// For so long at least, counted from the start of its kubelet: what other scenarios of the stage took counts.
fn duration() -> Duration {
    let minutes = std::env::var("SOAK_MINUTES").ok().map(|text| text.parse().expect("SOAK_MINUTES is a number"));
    Duration::from_secs(minutes.unwrap_or(10) * 60)
}

fn a_cluster_is_well_for_as_long_as_it_runs(cluster: &Cluster) {
    let kubelet = cluster.pid("kubelet").expect("the kubelet runs");
    let age = || {
        let seconds = cluster.sh(&format!("ps -o etimes= -p {kubelet}")).succeeds().stdout;
        Duration::from_secs(seconds.trim().parse().expect("ps tells seconds"))
    };
    while let Some(rest) = duration().checked_sub(age()).filter(|rest| !rest.is_zero()) {
        thread::sleep(rest.min(Duration::from_secs(30)));
        cluster.eventually_runs(Duration::from_secs(60));
    }
    assert_eq!(cluster.pid("kubelet"), Some(kubelet), "it is the same all the time");
    let node = cluster.json("get nodes")["items"][0].clone();
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().find(|one| one["type"] == "Ready").expect("a node has this condition");
    assert_eq!(ready["status"], "True", "{ready}");
    let since = ready["lastTransitionTime"].as_str().expect("a condition has a time");
    // Both at once, as seconds. A kubelet is older than its node is Ready.
    let both = format!("echo $(($(date +%s) - $(date -d {since} +%s))) $(ps -o etimes= -p {kubelet})");
    let both = cluster.sh(&both).succeeds().stdout;
    let both: Vec<u64> = both.split_whitespace().map(|figure| figure.parse().expect("seconds")).collect();
    assert!(both[0] + 120 > both[1], "it was Ready throughout: {both:?} {ready}");
    let logs = cluster.sh(&format!("cat {}/logs/kubelet.log*", cluster.data_dir())).succeeds().stdout;
    let unlike_a_new_one = logs.lines().filter(|line| line.contains(FIGURES) && !line.contains(OF_A_NEW_ONE));
    let errors: Vec<&str> =
        unlike_a_new_one.chain(logs.lines().filter(|line| line.contains("not a cgroup file"))).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    for (cgroup, times) in without_figures(&logs) {
        assert!(times <= MOST_QUESTIONS, "{cgroup} had no figures in {times} seconds: {logs}");
    }
}

/// As on every machine, who asks for all figures between a cgroup's first sight and its first sample is told of it. A cluster
/// that is left to itself has no new ones.
pub const OF_A_NEW_ONE: &str = "Partial failure issuing cadvisor.ContainerInfoV2";

/// The kubelet's eviction and metrics-server may ask in the same moment.
const MOST_QUESTIONS: usize = 2;

/// The cgroups of which was said that they had no figures, and in how many seconds.
fn without_figures(logs: &str) -> BTreeMap<&str, usize> {
    let mut seconds: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in logs.lines().filter(|line| line.contains(FIGURES)) {
        // `E1201 02:14:54.977123 …`
        let second = line.split_whitespace().nth(1).and_then(|time| time.split('.').next()).unwrap_or_default();
        for cgroup in line.split(['"', '\\']).filter(|word| word.starts_with('/')) {
            seconds.entry(cgroup).or_default().insert(second);
        }
    }
    seconds.into_iter().map(|(cgroup, seconds)| (cgroup, seconds.len())).collect()
}
