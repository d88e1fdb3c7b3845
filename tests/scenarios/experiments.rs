//! The founding experiments tried to bring a node up in gVisor, each by one idea, and none did: what each met, and its idea
//! at work. What the default takes of them, and the errors of a node without any, is in [`crate::gaps`].

use harness::Cluster;
use serde_json::{Value, json};

use crate::gaps::{FIGURES, fails_without};

crate::stories! {
    Idle in BUILDS:
        a_file_system_says_that_it_is_another
        missing_files_below_proc_sys_are_read_and_written
        a_kubelet_refuses_cgroup_files_that_are_not_the_kernels
        a_node_stands_on_interception
        a_node_does_without_figures;
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
    for error in [FIGURES, "not a cgroup file", "/proc/sys/"] {
        assert!(!log.contains(error), "{error}: {log}");
    }
    // Whoever traces goes with what it traces, and both come again.
    let killed = cluster.pid("kubelet");
    cluster.kill(&["kubelet"]);
    cluster.eventually_replaced("kubelet", killed, std::time::Duration::from_secs(30));
    cluster.eventually_runs(std::time::Duration::from_secs(60));
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

/// What the script writes to stdout in a shell whose calls are changed by these rules.
#[track_caller]
fn intercepted(cluster: &Cluster, rules: &Value, script: &str) -> String {
    cluster.run_with_input(["tee", "/tmp/rules.json"], rules.to_string().as_bytes()).succeeds();
    cluster.run(["terrarium", "exec", "--intercept", "/tmp/rules.json", "--", "bash", "-c", script]).succeeds().stdout
}
