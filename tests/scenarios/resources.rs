//! What Pods use and may use: cgroup files with true figures, limits that hold, and eviction.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use harness::{Cluster, Namespace, eventually};
use serde_json::Value;

crate::stories! {
    Shared in PODS:
        a_container_over_its_limit_of_memory_is_killed;
    Shared:
        each_class_of_service_has_a_cgroup
        what_parts_use_adds_up
        a_pod_that_writes_too_much_is_evicted;
    Harmed:
        killed_cgroup_files_come_back;
    Own:
        a_full_disk_evicts_pods_until_there_is_room
        without_the_guard_no_container_is_killed;
}

const LIMITS: &str = include_str!("../manifests/limits.yaml");
const USES: &str = include_str!("../manifests/uses.yaml");
const WEB: &str = include_str!("../manifests/web.yaml");

/// The kubelet looks at its Pods' disks every ten seconds, and at its own likewise.
const NOTICED: Duration = Duration::from_secs(90);

/// What is on a volume it counts once a minute.
const COUNTED: Duration = Duration::from_secs(180);

fn a_container_over_its_limit_of_memory_is_killed(cluster: &Cluster) {
    let namespace = cluster.namespace("resources-memory");
    namespace.apply(LIMITS);
    eventually(NOTICED, || {
        let statuses = statuses(&namespace, "greedy");
        let ended = &container(&statuses, "sample")["state"]["terminated"];
        if ended["reason"] == "OOMKilled" { Ok(()) } else { Err(format!("it was not killed for memory: {statuses}")) }
    });
    let statuses = statuses(&namespace, "greedy");
    assert_eq!(container(&statuses, "sample")["state"]["terminated"]["exitCode"], 137, "{statuses}");
    assert!(container(&statuses, "modest")["state"]["running"].is_object(), "who has room lives: {statuses}");
}

fn without_the_guard_no_container_is_killed(cluster: &Cluster) {
    cluster.terrarium("up --no-memory-guard").succeeds();
    let namespace = cluster.namespace("resources-unguarded");
    namespace.apply(LIMITS);
    eventually(NOTICED, || {
        let used = figures(cluster, &namespace, "greedy")?;
        let sample = container(&used["containers"], "sample")["memory"]["workingSetBytes"].as_u64();
        if sample.is_some_and(|used| used > 190 << 20) { Ok(()) } else { Err(format!("it holds less: {used}")) }
    });
    let statuses = statuses(&namespace, "greedy");
    assert!(container(&statuses, "sample")["state"]["running"].is_object(), "{statuses}");
}

fn each_class_of_service_has_a_cgroup(cluster: &Cluster) {
    let namespace = cluster.namespace("resources-classes");
    namespace.apply(WEB);
    namespace.wait("pod/web", "condition=Ready");
    let uid = namespace.pod("web").json["metadata"]["uid"].as_str().expect("a Pod has an ID").to_owned();
    for controller in ["cpu", "cpuacct", "memory", "pids"] {
        let root = format!("/sys/fs/cgroup/{controller}/terrarium/kubepods");
        let all = cluster.terrarium(&format!("exec -- ls {root} {root}/besteffort")).succeeds().stdout;
        for name in ["burstable", "besteffort", &format!("pod{uid}")] {
            assert!(all.lines().any(|line| line == name), "{controller} has no {name}: {all}");
        }
    }
}

/// Containers to Pods, Pods to classes of service, those to all Pods; and the node is its root cgroup.
fn what_parts_use_adds_up(cluster: &Cluster) {
    let namespace = cluster.namespace("resources-sums");
    namespace.apply(USES);
    namespace.wait("pod/burns", "condition=Ready");
    namespace.wait("pod/holds", "condition=Ready");
    eventually(NOTICED, || {
        let summary = summary(cluster)?;
        let memory = |of: &Value| of["memory"]["workingSetBytes"].as_u64().unwrap_or_default();
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let holds = pods.iter().find(|pod| pod["podRef"]["name"] == "holds").map(memory).unwrap_or_default();
        if holds < 190 << 20 {
            return Err(format!("the Pod that holds 200 MiB has {holds} bytes"));
        }
        for pod in &pods {
            let parts = pod["containers"].as_array().into_iter().flatten().map(memory).sum::<u64>();
            // The sandbox's own process is a few hundred KiB.
            near(&format!("containers of {}", pod["podRef"]), parts, memory(pod), LITTLE_MEMORY)?;
        }
        let system = summary["node"]["systemContainers"].as_array().cloned().unwrap_or_default();
        let all = system.iter().find(|part| part["name"] == "pods").map(memory).unwrap_or_default();
        near("all Pods", pods.iter().map(memory).sum(), all, LITTLE_MEMORY)?;
        let node = memory(&summary["node"]);
        if node > all { Ok(()) } else { Err(format!("the node uses {node} bytes, its Pods {all}")) }
    });
    // The kernel's side of the same: classes are parts of the whole. Pods of before may be ending.
    let used = |cgroup: &str| number(cluster, &format!("memory/terrarium/kubepods{cgroup}/memory.usage_in_bytes"));
    // None of these Pods is guaranteed its resources: those would be in the whole alone.
    eventually(NOTICED, || near("classes", used("/burstable") + used("/besteffort"), used(""), LITTLE_MEMORY));
    // The kubelet looks at each cgroup at another moment: figures of the same one are in the files alone.
    eventually(NOTICED, || time_adds_up(cluster));
    // Components and what files take are the node's and no Pod's, so Pods cannot add up to it. Its figures are the root
    // cgroup's, for a moment after each look.
    eventually(NOTICED, || {
        let root = ["memory/memory.usage_in_bytes", "cpuacct/cpuacct.usage"].map(|file| number(cluster, file));
        let node = summary(cluster)?["node"].clone();
        let told = [&node["memory"]["usageBytes"], &node["cpu"]["usageCoreNanoSeconds"]];
        let [memory, time] = told.map(|figure| figure.as_u64().unwrap_or_default());
        near("memory of the node", memory, root[0], LITTLE_MEMORY)?;
        near("time of the node", time, root[1], LITTLE_TIME)
    });
}

/// What all Pods, and each part of them, had of the cores in ten seconds. Counters themselves do not add up: they go on
/// counting what was removed below them.
fn time_adds_up(cluster: &Cluster) -> Result<(), String> {
    let before = times_of_pods(cluster)?;
    sleep(Duration::from_secs(10));
    let after = times_of_pods(cluster)?;
    let had = |cgroup: &PathBuf| after[cgroup].saturating_sub(before.get(cgroup).copied().unwrap_or_default());
    for whole in after.keys() {
        let parts: Vec<u64> = after.keys().filter(|part| part.parent() == Some(whole)).map(had).collect();
        if !parts.is_empty() {
            near(&whole.display().to_string(), parts.iter().sum(), had(whole), LITTLE_TIME)?;
        }
    }
    let all = had(&CPUACCT_OF_PODS.into());
    if all > 1_000_000_000 { Ok(()) } else { Err(format!("one burns a core, and all had {all} ns in ten seconds")) }
}

fn a_pod_that_writes_too_much_is_evicted(cluster: &Cluster) {
    let namespace = cluster.namespace("resources-disk");
    namespace.apply(LIMITS);
    namespace.wait("pod/writes", "condition=Ready");
    let uid = namespace.pod("writes").json["metadata"]["uid"].as_str().expect("a Pod has an ID").to_owned();
    let scratch = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/scratch");
    cluster.terrarium(&format!("exec -- dd if=/dev/zero of={scratch}/file bs=1M count=40 status=none")).succeeds();
    eventually(COUNTED, || {
        let status = namespace.json("get pod writes")["status"].clone();
        let exceeded = status["message"].as_str().is_some_and(|why| why.contains("ephemeral local storage usage"));
        if status["reason"] == "Evicted" && exceeded { Ok(()) } else { Err(format!("it was not evicted: {status}")) }
    });
}

fn a_full_disk_evicts_pods_until_there_is_room(cluster: &Cluster) {
    cluster.up();
    let namespace = cluster.namespace("resources-full");
    namespace.apply(WEB);
    namespace.wait("pod/web", "condition=Ready");
    // Room that is taken and never written to costs no memory.
    let script = "
        free=$(df --output=avail -k /var/lib/kubelet | tail -n 1)
        fallocate -l $((free - 102400))K /var/lib/kubelet/filler";
    cluster.run(["terrarium", "exec", "--", "bash", "-euc", script]).succeeds();
    let pressure = |wanted: &str| {
        let conditions = cluster.json("get nodes")["items"][0]["status"]["conditions"].clone();
        let is = conditions.as_array().into_iter().flatten().find(|one| one["type"] == "DiskPressure");
        match is {
            Some(is) if is["status"] == wanted => Ok(()),
            _ => Err(format!("pressure of the disk is not {wanted}: {conditions}")),
        }
    };
    eventually(NOTICED, || pressure("True"));
    // The container ends well when it is told to, so the Pod may have succeeded for all that the kubelet ended it.
    eventually(NOTICED, || {
        let status = namespace.json("get pod web")["status"].clone();
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        let is_evicted = conditions.any(|one| {
            let low = one["message"].as_str().is_some_and(|why| why.contains("low on resource: ephemeral-storage"));
            one["type"] == "DisruptionTarget" && one["reason"] == "TerminationByKubelet" && low
        });
        if is_evicted { Ok(()) } else { Err(format!("it was not evicted: {status}")) }
    });
    cluster.terrarium("exec -- rm /var/lib/kubelet/filler").succeeds();
    // The kubelet lets five minutes pass before it says that a pressure is over; that Pods run again is its own story.
    namespace.keep();
    cluster.terrarium("down --purge").succeeds();
}

fn killed_cgroup_files_come_back(cluster: &Cluster) {
    cluster.up();
    let namespace = cluster.namespace("resources-killed");
    namespace.apply(WEB);
    namespace.wait("pod/web", "condition=Ready");
    let (pod, killed) = (namespace.pod("web"), cluster.pid("cgroupfs"));
    cluster.kill(&["cgroupfs"]);
    cluster.eventually_replaced("cgroupfs", killed, Duration::from_secs(30));
    let status = cluster.status();
    let components = status["components"].as_array().cloned().unwrap_or_default();
    let restarts = components.iter().find(|one| one["name"] == "cgroupfs").map(|one| one["restarts"].clone());
    assert!(restarts.as_ref().and_then(Value::as_u64).is_some_and(|restarts| restarts > 0), "it is said: {status}");
    eventually(NOTICED, || summary(cluster).map(drop));
    eventually(NOTICED, || figures(cluster, &namespace, "web").map(drop));
    // What the container sees is the kernel's, whoever serves the node.
    let mounts =
        namespace.exec("web", "cat /proc/self/mountinfo /sys/fs/cgroup/memory/memory.limit_in_bytes").succeeds();
    assert!(mounts.stdout.contains("/sys/fs/cgroup/memory") && !mounts.stdout.contains("fuse"), "{mounts}");
    let now = namespace.pod("web");
    assert_eq!((now.container, now.restarts), (pod.container, pod.restarts), "the Pod ran on");
    namespace.kubectl("delete pod web --timeout=60s");
    namespace.apply(WEB);
    namespace.wait("pod/web", "condition=Ready");
}

/// The cgroup of all Pods, where time is counted.
const CPUACCT_OF_PODS: &str = "/sys/fs/cgroup/cpuacct/terrarium/kubepods";

/// The nanoseconds that this cgroup, and each below it, had of the cores so far.
fn times_of_pods(cluster: &Cluster) -> Result<BTreeMap<PathBuf, u64>, String> {
    let said = cluster.terrarium(&format!("exec -- grep -r --include=cpuacct.usage . {CPUACCT_OF_PODS}")).ok()?;
    let time = |line: &str| {
        let (cgroup, time) = line.split_once("/cpuacct.usage:")?;
        Some((cgroup.into(), time.parse().ok()?))
    };
    said.lines().map(|line| time(line).ok_or_else(|| format!("no time: {line}"))).collect()
}

/// The number in this file of a cgroup.
#[track_caller]
fn number(cluster: &Cluster, file: &str) -> u64 {
    let said = cluster.terrarium(&format!("exec -- cat /sys/fs/cgroup/{file}")).succeeds().stdout;
    said.trim().parse().unwrap_or_else(|error| panic!("{file}: {error}: {said}"))
}

/// Half a MiB.
const LITTLE_MEMORY: u64 = 512 << 10;

/// A twentieth of a second, in nanoseconds.
const LITTLE_TIME: u64 = 50_000_000;

/// Within five hundredths, or so little.
fn near(what: &str, parts: u64, whole: u64, little: u64) -> Result<(), String> {
    match parts.abs_diff(whole) <= (whole / 20).max(little) {
        true => Ok(()),
        false => Err(format!("{what}: {parts} of {whole}")),
    }
}

fn statuses(namespace: &Namespace<'_>, pod: &str) -> Value {
    namespace.json(&format!("get pod {pod}"))["status"]["containerStatuses"].clone()
}

/// The element of this name.
fn container<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().into_iter().flatten().find(|one| one["name"] == name).unwrap_or(&Value::Null)
}

/// What the kubelet answers to this path.
pub fn ask_kubelet(cluster: &Cluster, path: &str) -> Result<String, String> {
    let node = cluster.try_kubectl("get nodes -o jsonpath={.items[0].metadata.name}").ok()?;
    cluster.try_kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/{path}")).ok()
}

/// What the kubelet says that everything uses.
pub fn summary(cluster: &Cluster) -> Result<Value, String> {
    let said = ask_kubelet(cluster, "stats/summary")?;
    let summary: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
    if summary["node"]["memory"]["workingSetBytes"].is_u64() { Ok(summary) } else { Err(format!("no figures: {said}")) }
}

/// What the kubelet says that a Pod uses.
fn figures(cluster: &Cluster, namespace: &Namespace<'_>, pod: &str) -> Result<Value, String> {
    let summary = summary(cluster)?;
    let is_it = |one: &&Value| one["podRef"]["name"] == pod && one["podRef"]["namespace"] == namespace.name;
    let found = summary["pods"].as_array().into_iter().flatten().find(is_it);
    found.cloned().ok_or_else(|| format!("no figures of {pod}: {summary}"))
}
