//! The founding experiments tried to bring a node up in gVisor, each by one idea, and none did: what each met, and its idea
//! at work. What the default takes of them, and the errors of a node without any, is in [`crate::gaps`].

use std::time::Duration;

use harness::{Cluster, Marks, eventually};
use serde_json::{Value, json};

use crate::gaps::{FIGURES, fails_without};
use crate::resources::summary;
use crate::soak::OF_A_NEW_ONE;

crate::stories! {
    Idle in EACH_BUILD:
        a_file_system_says_that_it_is_another
        files_below_proc_sys_are_read_and_written
        a_kubelet_takes_cgroup_files_of_fuse_once_they_have_the_kernels_number
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
    assert_eq!(intercepted(cluster, &ext4_for_9p(), "stat -f -c %t /"), ext4);
}

fn ext4_for_9p() -> Value {
    json!({"statfs": [{"from": "0x01021997", "to": "0xEF53"}]})
}

/// Experiments 04 and 13: files below /proc/sys that gVisor lacks or lets nobody write. The overlay is for those that
/// the kubelet asks for, a redirection for any.
fn files_below_proc_sys_are_read_and_written(cluster: &Cluster) {
    const READ_ONLY: &[&str] = &["kernel/pid_max", "vm/overcommit_memory"];
    const OF_THE_KUBELET: &[&str] = &[
        "kernel/keys/root_maxbytes",
        "kernel/keys/root_maxkeys",
        "kernel/panic",
        "kernel/panic_on_oops",
        "vm/panic_on_oom",
    ];
    const OF_OTHERS: &[&str] = &[
        "net/bridge/bridge-nf-call-ip6tables",
        "net/bridge/bridge-nf-call-iptables",
        "net/ipv4/conf/all/route_localnet",
        "net/ipv4/vs/conntrack",
        "net/ipv6/conf/default/forwarding",
        "net/netfilter/nf_conntrack_max",
    ];
    let (of_the_kubelet, all) = ([READ_ONLY, OF_THE_KUBELET].concat(), [READ_ONLY, OF_THE_KUBELET, OF_OTHERS].concat());
    // Says which of them it could write.
    let write = |files: &[&str]| {
        format!("cd /proc/sys; for file in {}; do echo 0 >$file && echo $file; done; true", files.join(" "))
    };
    let lines = |files: &[&str]| files.iter().map(|file| format!("{file}\n")).collect::<String>();
    let unwritten = cluster.sh(&write(&all)).succeeds();
    assert_eq!(unwritten.stdout, "", "{unwritten}");
    let unread = cluster.sh(&format!("cd /proc/sys; cat {}", all.join(" "))).exits(1);
    for file in [OF_THE_KUBELET, OF_OTHERS].concat() {
        assert!(unread.stderr.contains(&format!("{file}: No such file or directory")), "{unread}");
    }

    let script = format!("{}; cat {}", write(&of_the_kubelet), of_the_kubelet.join(" "));
    let read = cluster.run(["terrarium", "exec", "--", "bash", "-c", &script]).succeeds();
    assert_eq!(read.stdout, lines(&of_the_kubelet) + &"0\n".repeat(of_the_kubelet.len()), "{read}");

    let ours = all.iter().map(|file| format!("/tmp/sys/{file}")).collect::<Vec<_>>().join(" ");
    cluster.sh(&format!("for file in {ours}; do mkdir -p $(dirname $file); echo 1 >$file; done")).succeeds();
    let redirect = |file: &&str| json!({"from": format!("/proc/sys/{file}"), "to": format!("/tmp/sys/{file}")});
    let rules = json!({"redirect": all.iter().map(redirect).collect::<Vec<_>>()});
    let script = format!("cd /proc/sys; cat {}; {}", all.join(" "), write(&all));
    assert_eq!(intercepted(cluster, &rules, &script), "1\n".repeat(all.len()) + &lines(&all));
    assert_eq!(cluster.sh(&format!("cat {ours}")).succeeds().stdout, "0\n".repeat(all.len()));
    cluster.sh("rm -r /tmp/sys").succeeds();
}

/// Experiment 07: cgroup files of a FUSE file system, refused until `statfs` has the number of the kernel's for them. A
/// stock runc takes them by the same rule: `intercept::a_stock_runc_takes_cgroup_files_of_fuse_by_a_rule`.
fn a_kubelet_takes_cgroup_files_of_fuse_once_they_have_the_kernels_number(cluster: &Cluster) {
    fails_without(cluster, "cgroup-magic", "kubelet", "not a cgroup file");
    cluster.terrarium("up --remedy cgroup-magic=intercept --data-dir /srv/gap").succeeds();
    eventually(Duration::from_secs(60), || summary(cluster).map(drop));
    cluster.terrarium("down --purge").succeeds();
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
    // The tracer and the traced one, and none that was left.
    cluster.eventually_counts("[k]ubernetes kubelet ", 2);
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

/// Experiments 14 and 15: every call was intercepted, and that is slow: a start took its time, hooks of the API server
/// found it not ready, and what was said of that hid what was wrong. Calls that are chosen leave a start as it is, with
/// nothing to say.
fn interception_makes_nobody_wait(cluster: &Cluster) {
    one_of_three(|| {
        let every = cluster.run(["perl", "-e", STOP_EVERY_CALL].into_iter().chain(COPY.split(' '))).succeeds().stderr;
        let chosen = intercepted(cluster, &ext4_for_9p(), &format!("{COPY} 2>&1"));
        let is_slow = seconds_of(&every) > 3.0 * seconds_of(&chosen);
        if is_slow { Ok(()) } else { Err(format!("every call stopped: {every}chosen calls: {chosen}")) }
    });

    let start = |options: &str| {
        let up = cluster.terrarium(&format!("up --data-dir /srv/gap {options}")).succeeds();
        let log = cluster.terrarium("logs kube-server").succeeds().stdout;
        let told = ["because", "started again"].into_iter().find(|words| up.stderr.contains(words));
        let logged = ["PostStartHook", "not yet ready to handle request", "Slow SQL"];
        let said = told.or(logged.into_iter().find(|words| log.contains(words)));
        // Lines that are known to do no harm are there, and nobody was told of them.
        assert!(cluster.terrarium("logs kubelet").succeeds().stdout.contains("oomparser.go"), "{up}");
        let seconds = cluster.status()["startup"]["nodeSeconds"].as_f64().expect("the node was Ready");
        cluster.terrarium("down --purge").succeeds();
        said.map_or(Ok(seconds), |words| Err(format!("{words}: {up}\n{log}")))
    };
    one_of_three(|| {
        let without = one_of_three(|| start(""));
        let with = one_of_three(|| start("--remedy proc-sys=intercept --remedy cgroup-magic=intercept"));
        let is_quick = with < 3.0 * without;
        if is_quick { Ok(()) } else { Err(format!("{with} s with interception, {without} s without")) }
    });
}

/// Up to three tries: in one the machine may stand still for a moment.
#[track_caller]
fn one_of_three<T>(attempt: impl Fn() -> Result<T, String>) -> T {
    let result = attempt().or_else(|_| attempt()).or_else(|_| attempt());
    result.unwrap_or_else(|failure| panic!("three times, at last: {failure}"))
}

/// A program of many calls that do little, and says how long it took.
const COPY: &str = "dd if=/dev/zero of=/dev/null bs=1 count=20000";

/// Runs a program as tracers do that know no filter. 101 is ptrace, 0 PTRACE_TRACEME, 24 PTRACE_SYSCALL, which fails
/// once the program has ended.
const STOP_EVERY_CALL: &str = "$p = fork; $p or syscall(101, 0, 0, 0, 0), kill(STOP => $$), exec @ARGV;
    do { waitpid $p, 0 } until syscall 101, 24, $p, 0, 0; exit $? >> 8";

/// In what dd says: `20000 bytes (20 kB, 20 KiB) copied, 0.0123 s, 1.6 MB/s`.
#[track_caller]
fn seconds_of(copy: &str) -> f64 {
    let seconds = copy.rsplit(", ").nth(1).and_then(|seconds| seconds.strip_suffix(" s")?.parse().ok());
    seconds.unwrap_or_else(|| panic!("dd does not say how long it took: {copy}"))
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
    eventually(Duration::from_secs(60), || match namespace.kubectl("describe pod web") {
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
