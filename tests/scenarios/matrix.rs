//! The main story, in every kind of sandbox: what docs/support-matrix.md says of each.

use std::time::Duration;

use harness::{Cluster, Marks, eventually};
use serde_json::Value;
use terrarium_testbed::{Gvisor, Privilege};

crate::stories! {
    Shared in NODES:
        the_api_serves_the_callers_kubeconfig
        the_node_is_ready
        a_pod_runs
        a_pods_logs_are_read
        a_program_runs_in_a_pods_container
        port_forward_leads_to_a_pod
        a_pod_answers_by_its_address;
    Idle in EVERYWHERE:
        the_control_plane_alone_serves_the_api;
    Idle in NODES:
        exec_shows_the_mounts_and_leaves_nothing
        exec_passes_on_exit_codes_and_signals
        down_leaves_nothing_behind;
    Idle:
        what_a_killed_exec_leaves_the_next_one_clears_up;
    Shared:
        exec_joins_the_cluster_that_runs;
}

const WEB: &str = include_str!("../manifests/web.yaml");
const PLANTS: &str = include_str!("../manifests/plants.yaml");
const READER_ROLE: &str = include_str!("../manifests/reader-role.yaml");

/// The gap mapped-ids.
const ONE_ID: &str = "a user without rights can have one ID mapped, and a Pod's first container is another user (gap `mapped-ids` in gaps.md)";

/// A kubectl that only knows what a user's kubectl would.
const KUBECTL: &str = "env -u TERRARIUM_DATA_DIR /opt/terrarium/libexec/terrarium/kubernetes kubectl";

fn the_api_serves_the_callers_kubeconfig(cluster: &Cluster) {
    cluster.sh(&format!("{KUBECTL} get --raw /readyz")).succeeds().prints("ok");
    cluster.sh(&format!("{KUBECTL} config current-context")).succeeds().prints("terrarium");
    cluster.sh(&format!("{KUBECTL} create namespace matrix-api --dry-run=server")).succeeds();
}

fn the_node_is_ready(cluster: &Cluster) {
    cluster.eventually_runs(Duration::from_secs(30));
    cluster.terrarium("status").exits(0).prints("Ready  v1.36.4");
}

fn a_pod_runs(cluster: &Cluster) {
    let web = web(cluster);
    let container = &web["status"]["containerStatuses"][0];
    assert_eq!((&web["status"]["phase"], &container["ready"]), (&"Running".into(), &true.into()));
}

fn a_pods_logs_are_read(cluster: &Cluster) {
    web(cluster);
    assert!(cluster.kubectl("-n matrix logs web").contains("listening on [::]:8080"));
}

fn a_program_runs_in_a_pods_container(cluster: &Cluster) {
    web(cluster);
    cluster.try_kubectl("-n matrix exec web -- /sample echo one two").succeeds().prints("one two\n");
}

fn port_forward_leads_to_a_pod(cluster: &Cluster) {
    web(cluster);
    let script = "
        terrarium kubectl -n matrix port-forward pod/web 8180:8080 >/tmp/forward.log 2>&1 & forward=$!
        for _ in $(seq 1200); do grep -q 'Forwarding from 127.0.0.1' /tmp/forward.log && break; sleep 0.05; done
        curl -sS --max-time 10 http://127.0.0.1:8180/healthz
        code=$?; kill $forward; wait $forward; cat /tmp/forward.log >&2; rm /tmp/forward.log; exit $code";
    cluster.sh(script).succeeds().prints("ok\n");
}

fn a_pod_answers_by_its_address(cluster: &Cluster) {
    let web = web(cluster);
    let url = format!("http://{}:8080/", web["status"]["podIP"].as_str().expect("a Pod has an address"));
    let get = ["curl", "-sS", "--max-time", "10", "-w", "%{http_code}", &url];
    if cluster.kind().privilege == Privilege::Full {
        cluster.run(get).succeeds().prints("this page comes from a Pod").prints("</html>\n200");
        return;
    }
    // The Pods' network is the cluster's own there: from within it they answer, from without they cannot.
    let within = cluster.run(["terrarium", "exec", "--"].into_iter().chain(get));
    if cluster.kind().gvisor != Gvisor::V2026_07 {
        within.exits(4).complains("this kernel lets nobody join the user namespace");
        cluster.lacks("the cluster has a network namespace of its own, which before 2026-07 nobody can join: Pods answer by port-forward");
    }
    within.succeeds().prints("</html>\n200");
    cluster.lacks(
        "the cluster has a network namespace of its own: Pods answer within it (`terrarium exec -- curl …`), and the \
         caller reaches them by port-forward",
    );
}

fn the_control_plane_alone_serves_the_api(cluster: &Cluster) {
    let before = Marks::of(cluster);
    cluster.terrarium("up --control-plane-only").succeeds();
    cluster.terrarium("status").exits(0);
    let status = cluster.status();
    assert_eq!((&status["running"], &status["apiReady"]), (&true.into(), &true.into()), "{status}");

    let namespace = cluster.namespace("alone");
    namespace.apply(PLANTS);
    namespace.wait("crd/plants.scenarios.terrarium", "condition=Established");
    let plant = "apiVersion: scenarios.terrarium/v1\nkind: Plant\nmetadata: {name: moss}\nspec: {height: 0}\n";
    // It is served a moment later.
    let refused = eventually(Duration::from_secs(30), || match namespace.try_apply(plant) {
        ran if ran.stderr.contains("should be greater than or equal to 1") => Ok(ran),
        ran => Err(ran.to_string()),
    });
    refused.exits(1);
    namespace.try_kubectl("get pods --as jane").exits(1).complains("User \"jane\" cannot list resource \"pods\"");
    namespace.apply(READER_ROLE);
    eventually(Duration::from_secs(30), || namespace.try_kubectl("get pods --as jane").ok());
    namespace.kubectl("create configmap ghost --from-literal=a=b --dry-run=server");
    namespace.try_kubectl("get configmap ghost").exits(1);
    namespace.keep();

    cluster.terrarium("down --purge").succeeds();
    cluster.terrarium("status").exits(3);
    Marks::of(cluster).assert_same_as(&before);
}

fn exec_shows_the_mounts_and_leaves_nothing(cluster: &Cluster) {
    let before = Marks::of(cluster);
    let look = "cat /proc/sys/vm/panic_on_oom && ls /sys/fs/cgroup/cpu";
    cluster.sh(look).exits(1);
    let ran = cluster.run(["terrarium", "exec", "--", "sh", "-c", look]).succeeds();
    ran.prints("0\n").prints("cgroup.procs");
    Marks::of(cluster).assert_same_as(&before);
}

fn exec_passes_on_exit_codes_and_signals(cluster: &Cluster) {
    let before = Marks::of(cluster);
    cluster.run(["terrarium", "exec", "--", "sh", "-c", "exit 7"]).exits(7);
    cluster.run(["terrarium", "exec", "--", "sh", "-c", "kill -KILL $$"]).exits(128 + 9);
    let script = "
        terrarium exec -- sh -c 'trap \"echo told; exit 5\" TERM; echo runs; while :; do sleep 0.1; done' >/tmp/said & exec=$!
        for _ in $(seq 600); do grep -q runs /tmp/said && break; sleep 0.1; done
        kill -TERM $exec; wait $exec; code=$?; cat /tmp/said; rm /tmp/said; exit $code";
    cluster.sh(script).exits(5).prints("told");
    Marks::of(cluster).assert_same_as(&before);
}

fn what_a_killed_exec_leaves_the_next_one_clears_up(cluster: &Cluster) {
    let before = Marks::of(cluster);
    let script = "
        terrarium exec -- sh -c 'echo $$ >/tmp/pid; exec sleep 600' & exec=$!
        for _ in $(seq 600); do test -s /tmp/pid && break; sleep 0.1; done
        kill -9 $exec; kill -9 $(cat /tmp/pid); wait $exec; rm /tmp/pid; test -e /run/terrarium/exec";
    cluster.sh(script).succeeds();
    cluster.run(["terrarium", "exec", "--", "true"]).succeeds();
    Marks::of(cluster).assert_same_as(&before);
}

fn exec_joins_the_cluster_that_runs(cluster: &Cluster) {
    let namespaces = |pid: &str| format!("readlink /proc/{pid}/ns/mnt /proc/{pid}/ns/net");
    let kubelet = cluster.pid("kubelet").expect("the kubelet runs").to_string();
    let of_kubelet = cluster.sh(&namespaces(&kubelet)).succeeds().stdout;
    let seen = cluster.run(["terrarium", "exec", "--", "sh", "-c", &namespaces("self")]).succeeds().stdout;
    assert_eq!(seen, of_kubelet);
    cluster.run(["terrarium", "exec", "--", "sh", "-c", "mount | grep -c containerd && exit 3"]).exits(3);
}

fn down_leaves_nothing_behind(cluster: &Cluster) {
    let before = Marks::of(cluster);
    cluster.up();
    if cluster.kind().has_root() {
        web(cluster);
    }
    cluster.terrarium("down").succeeds().complains("the cluster is down");
    Marks::of(cluster).assert_same_as(&before);
    cluster.run(["test", "-e", &format!("{}/store/state.db", cluster.data_dir())]).succeeds();
    cluster.terrarium("down --purge").succeeds();
    cluster.run(["test", "-e", cluster.data_dir()]).exits(1);
}

/// The Pod `web`, which is ready; the stories of a sandbox share one.
fn web(cluster: &Cluster) -> Value {
    let manifests = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: matrix}}\n---\n{WEB}");
    let apply = ["terrarium", "kubectl", "-n", "matrix", "apply", "-f", "-"];
    // A Pod is refused until its namespace has an account.
    eventually(Duration::from_secs(30), || cluster.run_with_input(apply, manifests.as_bytes()).ok());
    if !cluster.kind().has_root() {
        eventually(Duration::from_secs(30), || match cluster.kubectl("-n matrix get events") {
            events if events.contains("65535 is not an ID of the user namespace") => Ok(()),
            events => Err(events),
        });
        cluster.lacks(ONE_ID);
    }
    cluster.kubectl("-n matrix wait pod/web --for=condition=Ready --timeout=60s");
    cluster.json("-n matrix get pod web")
}
