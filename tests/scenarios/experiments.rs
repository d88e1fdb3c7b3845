//! The founding experiments tried to bring a node up in gVisor, each by one idea, and none did: what each met, and its idea
//! at work. What the default takes of them, and the errors of a node without any, is in [`crate::gaps`].

use std::time::Duration;

use harness::{Cluster, Marks, eventually};
use serde_json::{Value, json};

use crate::gaps::{FIGURES, fails_without};
use crate::soak::OF_A_NEW_ONE;

crate::stories! {
    Idle in BUILDS:
        a_file_system_says_that_it_is_another
        missing_files_below_proc_sys_are_read_and_written
        a_kubelet_refuses_cgroup_files_that_are_not_the_kernels
        a_node_stands_on_interception
        a_node_does_without_figures
        interception_makes_nobody_wait;
    Idle in WITHOUT_MOUNTS:
        interception_alone_makes_a_node;
}

const WEB: &str = include_str!("../manifests/web.yaml");

/// Experiment 06: `statfs` says ext4 where it is 9p.
fn a_file_system_says_that_it_is_another(cluster: &Cluster) {
    let (p9, ext4) = ("1021997\n", "ef53\n");
    assert_eq!(cluster.run(["stat", "-f", "-c", "%t", "/"]).succeeds().stdout, p9);
    let rules = json!({"statfs": [{"from": "0x01021997", "to": "0xEF53"}]});
    assert_eq!(intercepted(cluster, &rules, "stat -f -c %t /"), ext4);
}

/// Experiments 04 and 13: files below /proc/sys that gVisor lacks, for a program that reads and for one that writes them.
fn missing_files_below_proc_sys_are_read_and_written(cluster: &Cluster) {
    const FILES: &[&str] = &[
        "kernel/keys/root_maxbytes",
        "kernel/keys/root_maxkeys",
        "kernel/panic",
        "kernel/panic_on_oops",
        "net/bridge/bridge-nf-call-ip6tables",
        "net/bridge/bridge-nf-call-iptables",
        "net/ipv4/conf/all/route_localnet",
        "net/ipv4/vs/conntrack",
        "net/ipv6/conf/default/forwarding",
        "net/netfilter/nf_conntrack_max",
        "vm/panic_on_oom",
    ];
    let lists: Vec<Value> = FILES
        .iter()
        .map(|file| json!({"from": format!("/proc/sys/{file}"), "to": format!("/tmp/sys/{file}")}))
        .collect();
    let files = FILES.join(" ");
    let make = format!("cd /tmp; for file in {files}; do mkdir -p $(dirname sys/$file); echo 1 > sys/$file; done");
    cluster.sh(&make).succeeds();
    let missing = cluster.sh(&format!("cd /proc/sys; cat {files} | wc -l")).succeeds();
    missing.complains("net/bridge/bridge-nf-call-iptables: No such file or directory");

    let rules = json!({"redirect": lists});
    let script = format!(
        "cd /proc/sys; for file in {files}; do echo 0 > $file; done; sort $(printf '/proc/sys/%s ' {files}) | uniq -c"
    );
    let read = intercepted(cluster, &rules, &script);
    assert_eq!(read.split_whitespace().collect::<Vec<_>>(), [FILES.len().to_string().as_str(), "0"], "{read}");
    cluster.sh("rm -r /tmp/sys").succeeds();
}

/// Experiment 07: cgroup files of a FUSE file system, and what they met on the way to the kubelet.
fn a_kubelet_refuses_cgroup_files_that_are_not_the_kernels(cluster: &Cluster) {
    fails_without(cluster, "cgroup-magic", "kubelet", "not a cgroup file");
}

/// Experiment 08: the three together, with calls intercepted where no other rung is to be used.
fn a_node_stands_on_interception(cluster: &Cluster) {
    cluster.terrarium("up --remedy proc-sys=intercept --remedy cgroup-magic=intercept --data-dir /srv/gap").succeeds();
    // Where nothing can be mounted the same node has no Pods; here it has them again.
    cluster.kubectl("taint nodes --all terrarium.dev/no-pods=:NoSchedule");
    cluster.terrarium("down").succeeds();
    cluster.terrarium("up --remedy proc-sys=intercept --remedy cgroup-magic=intercept --data-dir /srv/gap").succeeds();
    let namespace = cluster.namespace("intercepted");
    namespace.apply(WEB);
    namespace.wait("pod/web", "condition=Ready");
    let status = cluster.status();
    let components = status["components"].as_array().cloned().unwrap_or_default();
    let kubelet = components.iter().find(|one| one["name"] == "kubelet").expect("status names the kubelet");
    let rules = kubelet["intercept"]["rules"].as_array().cloned().unwrap_or_default();
    for rule in ["statfs 0x65735546", "redirect /proc/sys/vm/panic_on_oom", "redirect /proc/sys/kernel/panic"] {
        let used = rules.iter().any(|one| {
            one["rule"].as_str().is_some_and(|name| name.starts_with(rule))
                && one["hits"].as_u64().is_some_and(|n| n > 0)
        });
        assert!(used, "{rule} was used: {kubelet}");
    }
    let log = cluster.terrarium("logs kubelet").succeeds().stdout;
    let log: String = log.lines().filter(|line| !line.contains(OF_A_NEW_ONE)).collect();
    for error in [FIGURES, "not a cgroup file", "/proc/sys/vm/", "/proc/sys/kernel/panic", "/proc/sys/kernel/keys/"] {
        assert!(!log.contains(error), "{error}: {log}");
    }
    // Whoever traces goes with what it traces, and both come again.
    let killed = cluster.pid("kubelet");
    cluster.kill(&["kubelet"]);
    cluster.eventually_replaced("kubelet", killed, Duration::from_secs(30));
    cluster.eventually_runs(Duration::from_secs(60));
    let kubelets = cluster.sh("pgrep -fc '[k]ubernetes kubelet '").stdout;
    assert_eq!(kubelets.trim(), "2", "the tracer and the traced one, and none that was left");
    namespace.keep();
    cluster.terrarium("down --purge").succeeds();
}

/// Experiment 12: the flag that makes a node of it, at the price of all figures.
fn a_node_does_without_figures(cluster: &Cluster) {
    cluster.terrarium("up --remedy cgroup-stats=flag --data-dir /srv/gap").succeeds();
    let log = cluster.terrarium("logs kubelet").succeeds().stdout;
    assert!(!log.contains("failed to get rootfs info"), "{log}");
    cluster.try_kubectl("top node").exits(1);
    cluster.terrarium("down --purge").succeeds();
}

/// Experiments 14 and 15: everything was intercepted, so that a start took its time, hooks of the API server found it not
/// ready, and what was said of that hid what was wrong. Calls that are chosen leave a start as it is, with nothing to say.
fn interception_makes_nobody_wait(cluster: &Cluster) {
    let node_seconds = |options: &str| {
        let up = cluster.terrarium(&format!("up --data-dir /srv/gap {options}")).succeeds();
        for word in ["because", "started again"] {
            assert!(!up.stderr.contains(word), "{up}");
        }
        let log = cluster.terrarium("logs kube-server").succeeds().stdout;
        for error in ["PostStartHook", "not yet ready to handle request", "Slow SQL"] {
            assert!(!log.contains(error), "{error}: {log}");
        }
        // Lines that are known to do no harm are there, and nobody was told of them.
        assert!(cluster.terrarium("logs kubelet").succeeds().stdout.contains("oomparser.go"), "{up}");
        let seconds = cluster.status()["startup"]["nodeSeconds"].as_f64().expect("the node was Ready");
        cluster.terrarium("down --purge").succeeds();
        seconds
    };
    let without = node_seconds("");
    let with = node_seconds("--remedy proc-sys=intercept --remedy cgroup-magic=intercept");
    assert!(with < 3.0 * without, "{with} s with interception, {without} s without");
}

/// Experiments 02 and 08 to their end: nothing is mounted, and interception alone makes a node Ready. What is missing is said,
/// and Pods wait.
fn interception_alone_makes_a_node(cluster: &Cluster) {
    let before = Marks::of(cluster);
    if !cluster.kind().has_root() {
        let up =
            cluster.terrarium("up").exits(5).complains("the kubelet needs /var/lib/kubelet").complains("[no-rights]");
        up.complains("--control-plane-only");
        return;
    }
    cluster.terrarium("doctor").exits(1).prints("plain directories, which the kubelet's calls find as hierarchies");
    cluster.terrarium("up --remedy privileges=namespace").exits(5).complains("user namespaces are refused here");
    let up = cluster.terrarium("up --enable ingress").succeeds();
    up.complains("there is a node, and Pods stay Pending").complains("ingress is for Pods, and is left out");
    cluster.terrarium("up").succeeds().complains("the cluster is up already");
    let node = || cluster.json("get nodes")["items"][0].clone();
    let is_ready = || {
        let node = node();
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
        if ready { Ok(()) } else { Err(node.to_string()) }
    };
    is_ready().expect("`up` waits for it");
    assert_eq!(node()["spec"]["taints"][0]["key"], "terrarium.dev/no-pods");
    let namespace = cluster.namespace("without-mounts");
    namespace.apply(WEB);
    eventually(Duration::from_secs(10), || match namespace.kubectl("describe pod web") {
        told if told.contains("FailedScheduling") && told.contains("untolerated taint") => Ok(()),
        told => Err(told),
    });
    namespace.keep();
    let status = cluster.terrarium("status").succeeds().prints("redirect /proc/self/mountinfo").stdout;
    assert!(!status.contains("does not run") && !status.contains("coredns"), "{status}");

    let killed = cluster.pid("kubelet");
    cluster.kill(&["kubelet"]);
    cluster.eventually_replaced("kubelet", killed, Duration::from_secs(30));
    eventually(Duration::from_secs(60), is_ready);
    cluster.terrarium("exec -- true").exits(4).complains("[already-running]");
    // As a node is that was there with mounts: a kubelet gives taints to a new one only.
    cluster.kubectl("taint nodes --all terrarium.dev/no-pods-");
    cluster.terrarium("down").succeeds();
    cluster.terrarium("up").succeeds();
    assert_eq!(node()["spec"]["taints"][0]["key"], "terrarium.dev/no-pods");
    cluster.terrarium("down --purge").succeeds();
    cluster.terrarium("exec -- true").exits(5).complains("nothing can be mounted here");
    Marks::of(cluster).assert_same_as(&before);
}

/// What the script writes to stdout in a shell whose calls are changed by these rules.
#[track_caller]
fn intercepted(cluster: &Cluster, rules: &Value, script: &str) -> String {
    cluster.run_with_input(["tee", "/tmp/rules.json"], rules.to_string().as_bytes()).succeeds();
    cluster.run(["terrarium", "exec", "--intercept", "/tmp/rules.json", "--", "bash", "-c", script]).succeeds().stdout
}
