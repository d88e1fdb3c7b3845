//! terrarium's own shim: it does for a Pod what containerd's does, takes less memory, and leaves nothing behind.

use std::time::Duration;

use harness::{Cluster, Marks, Namespace, eventually};
use terrarium_testbed::Gvisor;

use crate::chaos::{rounds, tally};

crate::stories! {
    Shared in BUILDS:
        what_containers_use_is_told
        a_pause_is_refused_where_nothing_freezes;
    Own:
        runc_and_containerds_own_shim_are_had_for_the_asking
        the_own_shim_runs_pods_and_outlives_containerd
        a_pod_whose_shim_was_killed_comes_back
        all_of_a_container_ends_with_what_its_shim_waits_for
        chaos_among_shims_runtime_and_containerd_costs_no_pod;
}

const WEB: &str = include_str!("../manifests/web.yaml");
const DEPLOYMENT: &str = include_str!("../manifests/deployment.yaml");

const CTR: &str = "/opt/terrarium/libexec/terrarium/ctr --address /run/terrarium/containerd.sock --namespace k8s.io";

/// Kills a runtime at work as soon as there is one, and says at what. What it forks looks like it: keepers, proxies, and what
/// becomes a container's program. Only itself is a child of its shim in the group that the shim leads.
const KILL_RUNTIME: &str = r#"while [ $SECONDS -lt 20 ]; do
    for pid in $(pgrep -f '[t]errarium-oci --root .* (create|start|delete|exec) '); do
        { read -r _ _ _ parent group _ </proc/$pid/stat; } 2>/dev/null && [ $parent = $group ] || continue
        what=$(tr '\0' '\n' </proc/$pid/cmdline | grep -xm1 -e create -e start -e delete -e exec)
        kill -9 $pid && echo "runtime at $what" && exit
    done
done"#;

/// What is there of Pods: the shims' sockets, the runtime's state, the root file systems.
const OF_PODS: &str = r#"nsenter -t $(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' /run/terrarium/records/containerd.json) -m sh -c '
    ls /run/containerd/s /run/containerd/terrarium/k8s.io; grep -o "[^ ]*/rootfs" /proc/self/mountinfo; true'"#;

/// The shims that serve: PID and resident memory in KiB each.
const SHIMS: &str = r#"for process in /proc/[0-9]*; do
    case "$(readlink $process/exe) $(tr '\0' ' ' <$process/cmdline 2>/dev/null)" in
        */containerd-shim-terrarium-v2' '*' -socket '*) echo ${process#/proc/} $(sed -n 's/VmRSS:\t *\([0-9]*\).*/\1/p' $process/status);;
    esac
done"#;

/// What one shim may take, as gVisor counts: it takes 4.9 to 5.0 MiB, and containerd's own 33.
const MOST_KIB: u64 = 6 * 1024;

struct Running {
    pid: u64,
    kib: u64,
}

fn shims(cluster: &Cluster) -> Vec<Running> {
    let told = cluster.sh(SHIMS).succeeds().stdout;
    let number = |word: &str| word.parse().expect("a number");
    // One that ends while it is looked at has no memory any more.
    let numbers = told.lines().filter_map(|line| line.split_once(' '));
    numbers.map(|(pid, kib)| Running { pid: number(pid), kib: number(kib) }).collect()
}

/// The only one, for a Pod with two containers. What it is about to start is for a moment as itself.
fn the_shim(cluster: &Cluster) -> Running {
    eventually(Duration::from_secs(20), || {
        let mut shims = shims(cluster);
        if shims.len() == 1 { Ok(shims.remove(0)) } else { Err(format!("there are {} shims", shims.len())) }
    })
}

fn web<'a>(cluster: &'a Cluster, name: &'a str) -> Namespace<'a> {
    let namespace = cluster.namespace(name);
    namespace.apply(WEB);
    namespace.wait("pod/web", "condition=Ready");
    namespace
}

fn the_own_shim_runs_pods_and_outlives_containerd(cluster: &Cluster) {
    let before = Marks::of(cluster);
    cluster.up();
    let namespace = web(cluster, "shim-outlives");
    let of_the_pod = the_shim(cluster);
    assert!(of_the_pod.kib <= MOST_KIB, "the shim takes {} KiB", of_the_pod.kib);

    for code in [0, 7, 255] {
        namespace.exec("web", &format!("exit {code}")).exits(code);
    }
    namespace.try_kubectl("exec web -- /nowhere").exits(1).complains("No such file or directory");

    let containerd = cluster.pid("containerd");
    cluster.kill(&["containerd"]);
    cluster.eventually_replaced("containerd", containerd, Duration::from_secs(30));
    eventually(Duration::from_secs(30), || {
        let ran = namespace.exec("web", "echo after");
        if ran.stdout == "after\n" { Ok(()) } else { Err(ran.stderr) }
    });
    assert_eq!(the_shim(cluster).pid, of_the_pod.pid, "the Pod has the shim that it had");
    assert_eq!(namespace.json("get pod web")["status"]["containerStatuses"][0]["restartCount"], 0);

    namespace.kubectl("delete pod web");
    eventually(Duration::from_secs(20), || match shims(cluster).len() {
        0 => Ok(()),
        left => Err(format!("{left} shims are left")),
    });
    cluster.terrarium("down").succeeds();
    Marks::of(cluster).assert_same_as(&before);
}

fn a_pod_whose_shim_was_killed_comes_back(cluster: &Cluster) {
    let before = Marks::of(cluster);
    cluster.up();
    let namespace = web(cluster, "shim-killed");
    let killed = the_shim(cluster).pid;
    cluster.sh(&format!("kill -9 {killed}")).succeeds();
    eventually(Duration::from_secs(120), || {
        let pod = namespace.json("get pod web");
        let status = &pod["status"]["containerStatuses"][0];
        let other = shims(cluster).iter().all(|shim| shim.pid != killed);
        // More than once where the kubelet was starting the container in the sandbox that was ending.
        let again = status["restartCount"].as_u64() >= Some(1);
        if status["ready"] == true && again && other { Ok(()) } else { Err(status.to_string()) }
    });
    namespace.exec("web", "echo back").succeeds().prints("back");
    the_shim(cluster);
    namespace.kubectl("delete pod web");
    nothing_is_left_of_pods(cluster);
    cluster.terrarium("down").succeeds();
    Marks::of(cluster).assert_same_as(&before);
}

fn what_containers_use_is_told(cluster: &Cluster) {
    let namespace = web(cluster, "shim-stats");
    let id = namespace.pod("web").container;
    let metrics = cluster.sh(&format!("{CTR} task metrics {}", id.trim_start_matches("containerd://"))).succeeds();
    let figure = |name: &str| {
        let line = metrics.stdout.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|figure| figure.trim().parse::<u64>().ok())
    };
    assert!(figure("memory.usage_in_bytes") > Some(1 << 20) && figure("pids.current") >= Some(1), "{metrics}");
}

fn a_pause_is_refused_where_nothing_freezes(cluster: &Cluster) {
    let namespace = web(cluster, "shim-pause");
    let id = namespace.pod("web").container;
    let id = id.trim_start_matches("containerd://");
    cluster.sh(&format!("{CTR} task pause {id}")).exits(1).complains("freezer");
    cluster.sh(&format!("{CTR} task ls")).succeeds().prints(&format!("{id}    "));
    namespace.exec("web", "echo unharmed").succeeds().prints("unharmed");
}

/// Kills what the shim of a Pod waits for in place of its containers, their first processes or the keepers of those, then
/// containerd, before it has done with them, and waits for the end of all that was in the Pod's cgroup.
const END: &str = r#"all=$(grep -l podUID /proc/[0-9]*/cgroup | cut -d/ -f3)
    for pid in $all; do
        read -r _ _ _ parent _ </proc/$pid/stat
        [[ $(readlink /proc/$parent/exe) != */containerd-shim-terrarium-v2 ]] || waited+=" $pid"
    done
    kill -9 $waited && sleep 1 && kill -9 $(pgrep -x containerd) || exit
    for try in $(seq 600); do kill -0 $all 2>/dev/null || exit 0; sleep 0.1; done; ps -f $all; exit 1"#;

fn all_of_a_container_ends_with_what_its_shim_waits_for(cluster: &Cluster) {
    cluster.up();
    let namespace = web(cluster, "shim-child");
    let pod = namespace.json("get pod web");
    cluster.sh(&END.replace("UID", pod["metadata"]["uid"].as_str().expect("a UID"))).succeeds();
    eventually(Duration::from_secs(120), || {
        let status = namespace.json("get pod web")["status"]["containerStatuses"][0].clone();
        // More than once where containerd was killed while it started the container again.
        let again = status["restartCount"].as_u64() >= Some(1);
        if status["ready"] == true && again { Ok(()) } else { Err(status.to_string()) }
    });
}

fn runc_and_containerds_own_shim_are_had_for_the_asking(cluster: &Cluster) {
    let before = Marks::of(cluster);
    cluster.terrarium("up --oci-runtime runc").succeeds();
    let namespace = web(cluster, "shim-runc");
    assert!(shims(cluster).is_empty());
    cluster.sh("pgrep -f [c]ontainerd-shim-runc-v2").succeeds();
    if cluster.kind().gvisor != Gvisor::V2024_07 {
        // There runc cannot join the pid namespace of a container.
        namespace.exec("web", "exit 7").exits(7);
    }
    cluster.terrarium("up --oci-runtime terrarium").exits(4).complains("which OCI runtime there is");
    // Where nothing is said, it stays what it was.
    cluster.up();
    namespace.kubectl("delete pod web");
    cluster.terrarium("down").succeeds();
    Marks::of(cluster).assert_same_as(&before);
}

/// The kubelet takes containers away once a minute.
fn nothing_is_left_of_pods(cluster: &Cluster) {
    eventually(Duration::from_secs(150), || {
        let left = cluster.sh(OF_PODS).succeeds().stdout;
        let names: Vec<&str> = left.lines().filter(|line| !line.is_empty() && !line.ends_with(':')).collect();
        if names.is_empty() && shims(cluster).is_empty() { Ok(()) } else { Err(names.join(" ")) }
    });
}

fn chaos_among_shims_runtime_and_containerd_costs_no_pod(cluster: &Cluster) {
    let before = Marks::of(cluster);
    cluster.up();
    let namespace = cluster.namespace("shim-chaos");
    namespace.apply(DEPLOYMENT);
    namespace.kubectl("scale deployment/web --replicas=3");
    namespace.kubectl("rollout status deployment/web --timeout=120s");

    let mut killed: Vec<String> = Vec::new();
    let mut victims = Vec::new();
    for _ in 0..rounds() {
        // What follows it keeps the shim and the runtime at work.
        let pods = namespace.kubectl("get pods -o name");
        if let Some(pod) = fastrand::choice(pods.lines().collect::<Vec<_>>()) {
            namespace.kubectl(&format!("delete {pod} --wait=false --ignore-not-found"));
        }
        std::thread::sleep(Duration::from_millis(fastrand::u64(..1000)));
        // Each comes up in three rounds.
        if victims.is_empty() {
            victims = vec!["containerd", "runtime", "shim"];
            fastrand::shuffle(&mut victims);
        }
        let kill = match victims.pop() {
            // It may be on its way back from the last time.
            Some("containerd") => cluster.pid("containerd").map(|pid| format!("kill -9 {pid} && echo containerd")),
            Some("runtime") => Some(KILL_RUNTIME.to_owned()),
            _ => fastrand::choice(shims(cluster)).map(|shim| format!("kill -9 {} && echo shim", shim.pid)),
        };
        let hit = kill.map(|kill| cluster.sh(&kill).stdout).unwrap_or_default();
        killed.extend(hit.lines().map(str::to_owned));
        std::thread::sleep(Duration::from_millis(fastrand::u64(..3000)));
    }
    eprintln!("{} rounds, killed: {}", rounds(), tally(&killed));
    // Who ends by itself just then is missed.
    assert!(killed.len() * 3 >= rounds() as usize, "only these were there to kill: {killed:?}");
    cluster.eventually_runs(Duration::from_secs(120));
    let rolled_out = || namespace.try_kubectl("rollout status deployment/web --timeout=20s").ok();
    eventually(Duration::from_secs(180), rolled_out);
    namespace.kubectl("delete deployment web --cascade=foreground");
    nothing_is_left_of_pods(cluster);
    cluster.terrarium("down").succeeds();
    Marks::of(cluster).assert_same_as(&before);
}
