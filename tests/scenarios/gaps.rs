//! Each gap with its remedy left out: what breaks then is what the gap table says.
//!
//! Where terrarium has a part of its own in the place of a stock one, the stock one is tried.

use std::time::Duration;

use harness::{Cluster, eventually};
use terrarium_testbed::Gvisor;

use crate::soak::OF_A_NEW_ONE;

crate::stories! {
    Idle in BUILDS:
        a_kubelet_without_the_sysctls_does_not_start
        a_kubelet_without_cgroup_mounts_does_not_start
        a_kubelet_that_wants_cgroup_figures_never_has_them
        a_kubelet_without_kmsg_does_not_start
        a_kubelet_refuses_cgroup_v1
        containerd_refuses_overlays_on_the_root
        pods_are_not_made_with_unprivileged_sysctls
        without_small_remedies_the_log_complains_and_logs_are_not_found
        the_stock_bridge_plugin_takes_no_bridge_for_one
        a_route_without_a_device_leads_nowhere
        iptables_does_not_masquerade
        a_newer_runc_does_not_run_a_container
        connections_take_ports_of_services
        links_are_not_monitored
        with_all_remedies_no_log_has_any_of_these_errors;
    Idle in NODES_WITH_FEWER_RIGHTS:
        a_node_without_an_address_is_refused
        without_namespaces_of_its_own_no_mount_is_allowed;
}

const WEB: &str = include_str!("../manifests/web.yaml");

/// What the logs say without a gap's remedy.
const ERRORS: &[&str] = &[SYSCTL, CGROUP, FIGURES, KMSG, CGROUP_V1, OLD_KERNEL, MACHINE_ID, LOOKUP];

const SYSCTL: &str = "open /proc/sys/vm/panic_on_oom: no such file or directory";
const CGROUP: &str = "failed to get mounted cgroup subsystems: failed to find cgroup mounts";
pub const FIGURES: &str = "unable to find data in memory cache";
const KMSG: &str = "open /dev/kmsg: no such file or directory";
const CGROUP_V1: &str = "kubelet is configured to not run on a host using cgroup v1";
const OLD_KERNEL: &str = "require kernel version greater than or equal to 4.11";
const MACHINE_ID: &str = "Couldn't collect info from any of the files in \"/etc/machine-id";
const LOOKUP: &str = "dial tcp: lookup sandbox";

fn a_kubelet_without_the_sysctls_does_not_start(cluster: &Cluster) {
    let failure = fails_without(cluster, "proc-sys", "kubelet", SYSCTL);
    assert!(failure.contains("because (gap proc-sys)"), "{failure}");
}

fn a_kubelet_without_cgroup_mounts_does_not_start(cluster: &Cluster) {
    fails_without(cluster, "cgroup-mounts", "kubelet", CGROUP);
}

fn a_kubelet_that_wants_cgroup_figures_never_has_them(cluster: &Cluster) {
    fails_without(cluster, "cgroup-stats", "kubelet", FIGURES);
}

fn a_kubelet_without_kmsg_does_not_start(cluster: &Cluster) {
    fails_without(cluster, "kmsg", "kubelet", KMSG);
}

fn a_kubelet_refuses_cgroup_v1(cluster: &Cluster) {
    fails_without(cluster, "cgroup-v1", "kubelet", CGROUP_V1);
}

/// The node gets Ready; its Pods do not.
fn containerd_refuses_overlays_on_the_root(cluster: &Cluster) {
    needs(cluster, "overlay-on-root");
    pods_fail_without(cluster, "overlay-on-root", &["failed to mount", "invalid argument"]);
}

/// An old kernel containerd refuses by its version; on a newer one the Pods miss the sysctls.
fn pods_are_not_made_with_unprivileged_sysctls(cluster: &Cluster) {
    needs(cluster, "unprivileged-sysctls");
    if cluster.kind().gvisor != Gvisor::V2026_07 {
        fails_without(cluster, "unprivileged-sysctls", "containerd", OLD_KERNEL);
        return;
    }
    pods_fail_without(cluster, "unprivileged-sysctls", &["net.ipv4.ip_unprivileged_port_start"]);
}

/// Both at once: the cluster comes up without them.
fn without_small_remedies_the_log_complains_and_logs_are_not_found(cluster: &Cluster) {
    cluster.terrarium("up --remedy machine-id=none --remedy hostname-resolution=none --data-dir /srv/gap").succeeds();
    let log = cluster.terrarium("logs kubelet").succeeds().stdout;
    assert!(log.contains(MACHINE_ID), "{log}");
    let namespace = cluster.namespace("gap");
    namespace.apply(WEB);
    namespace.wait("pod/web", "jsonpath={.status.phase}=Running");
    let failed = namespace.try_kubectl("logs web").exits(1);
    // What follows depends on the resolver: no such host, or no answer.
    failed.complains(LOOKUP);
    namespace.keep();
    cluster.terrarium("down --purge").succeeds();
}

fn the_stock_bridge_plugin_takes_no_bridge_for_one(cluster: &Cluster) {
    let script = r#"
        mkdir /tmp/cni && ip netns add stock || exit 9
        export CNI_COMMAND=ADD CNI_CONTAINERID=stock CNI_NETNS=/run/netns/stock CNI_IFNAME=eth0
        export CNI_PATH=/opt/terrarium/libexec/terrarium
        /opt/terrarium/testbed/stock-bridge <<<'{"cniVersion": "1.0.0", "name": "stock", "type": "bridge", "bridge": "cni0",
            "ipam": {"type": "host-local", "dataDir": "/tmp/cni", "subnet": "10.77.0.0/24"}}'
        code=$?
        ip link del cni0; ip netns del stock; rm -r /tmp/cni; exit $code"#;
    cluster.sh(script).exits(1).prints(r#"\"cni0\" already exists but is not a bridge"#);
}

fn a_route_without_a_device_leads_nowhere(cluster: &Cluster) {
    // As a stock plugin sets a Pod's network up: what is different then is the device alone.
    let script = "
        ip netns add routed && ip link add routed type veth peer name eth0 netns routed && ip link set routed up || exit 9
        for command in 'address add 10.77.0.2/24 dev eth0' 'link set lo up' 'link set eth0 up' 'route add default via 10.77.0.1'; do
            ip -n routed $command || exit 9
        done
        ip netns exec routed bash -c 'exec 3<>/dev/tcp/10.88.0.1/9'
        ip -n routed route del default; ip -n routed route flush default; ip netns del routed; ip link del routed; true";
    if cluster.kind().gvisor == Gvisor::V2024_07 {
        // It says the same of a neighbour that does not answer, as there is none here: no more can be told apart.
        cluster.sh(script).succeeds().complains("No route to host");
        return;
    }
    cluster.sh(script).succeeds().complains("Network is unreachable");
    let named = script.replace("via 10.77.0.1'", "via 10.77.0.1 dev eth0'").replace("bash -c", "timeout 1 bash -c");
    let named = cluster.sh(&named).succeeds();
    assert!(!named.stderr.contains("Network is unreachable"), "{named}");
}

fn iptables_does_not_masquerade(cluster: &Cluster) {
    let rule = "iptables-legacy -t nat -A POSTROUTING -p tcp -s 10.42.0.0/24";
    cluster.sh(&format!("{rule} -j MASQUERADE")).exits(1).complains("MASQUERADE");
    cluster.sh(&format!("{rule} -m comment --comment pods -j RETURN")).exits(1).complains("Invalid argument");
    cluster.sh("iptables-nft -t nat -L").exits(1).complains("Protocol not supported");
    // The remedy's own kind of rule.
    let snat = format!("{rule} -j SNAT --to-source 10.42.0.1");
    cluster.sh(&format!("{snat} && {}", snat.replace("-A POST", "-D POST"))).succeeds();
}

fn a_newer_runc_does_not_run_a_container(cluster: &Cluster) {
    let run = |runc: &str| {
        let script = format!(
            "
            mkdir -p /tmp/bundle/rootfs && cd /tmp/bundle && cp /bin/sleep rootfs/ && {runc} spec || exit 9
            sed -i 's/\"terminal\": true/\"terminal\": false/; s#\"sh\"#\"/sleep\", \"0\"#' config.json
            terrarium exec -- {runc} run stock </dev/null; code=$?
            cd /; rm -r /tmp/bundle; exit $code"
        );
        cluster.sh(&script)
    };
    let newer = run("/opt/terrarium/testbed/stock-runc").exits(1);
    match cluster.kind().gvisor {
        Gvisor::V2024_07 => newer.complains("unsafe procfs detected"),
        Gvisor::V2026_02 | Gvisor::V2026_07 => newer.complains("nr_blocks=1,nr_inodes=2: invalid argument"),
    };
    // It gets as far as the program, which misses its libraries.
    let older = run("/opt/terrarium/libexec/terrarium/runc");
    assert!(!older.stderr.contains("invalid argument") && !older.stderr.contains("procfs"), "{older}");
}

/// On the node; Pods have addresses, and ranges, of their own.
fn connections_take_ports_of_services(cluster: &Cluster) {
    let range = || cluster.sh("cat /proc/sys/net/ipv4/ip_local_port_range").succeeds().stdout;
    let connect = "curl -sk --http1.1 -H 'Connection: close' -o /dev/null -w '%{local_port}\\n' 'https://127.0.0.1:6443/livez?[1-50]'";
    let first_port = || -> u16 {
        let ports = cluster.sh(connect).succeeds().stdout;
        ports.lines().map(|port| port.parse().expect("a port")).min().expect("50 ports")
    };
    let before = range();
    cluster.terrarium("up --remedy local-ports=none --data-dir /srv/gap").succeeds();
    assert!(first_port() < 30_000, "what the remedy is for");
    cluster.terrarium("down --purge").succeeds();
    cluster.up();
    assert!(first_port() > 32_767);
    assert_ne!(range(), before);
    cluster.terrarium("down --purge").succeeds();
    assert_eq!(range(), before);
}

fn links_are_not_monitored(cluster: &Cluster) {
    cluster.sh("ip link add vx type vxlan id 1 dev eth0 dstport 8472").exits(2).complains("Operation not supported");
}

fn with_all_remedies_no_log_has_any_of_these_errors(cluster: &Cluster) {
    cluster.up();
    let namespace = cluster.namespace("gap");
    namespace.apply(WEB);
    namespace.wait("pod/web", "condition=Ready");
    namespace.kubectl("logs web");
    namespace.keep();
    for component in ["containerd", "kubelet", "kube-server"] {
        let log = cluster.terrarium(&format!("logs {component}")).succeeds().stdout;
        let log: String = log.lines().filter(|line| !line.contains(OF_A_NEW_ONE)).collect();
        for error in ERRORS {
            assert!(!log.contains(error), "{component}: {error}:\n{log}");
        }
    }
    cluster.terrarium("down --purge").succeeds();
}

/// terrarium says so before the kubelet would.
fn a_node_without_an_address_is_refused(cluster: &Cluster) {
    let up = cluster.terrarium("up --remedy node-address=none");
    up.clone().complains("this machine has no address but loopback, and a node needs one");
    assert_ne!(up.code, 0, "{up}");
    cluster.terrarium("down --purge").succeeds();
}

fn without_namespaces_of_its_own_no_mount_is_allowed(cluster: &Cluster) {
    cluster.sh("mount -t tmpfs tmpfs /mnt").exits(32);
    let up = cluster.terrarium("up --remedy privileges=none").exits(1);
    up.complains("a node cannot run in this sandbox").complains("nothing can be mounted here");
    cluster.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).succeeds();
    cluster.terrarium("down --purge").succeeds();
}

/// Ends the story where the sandbox does not have the gap.
fn needs(cluster: &Cluster, gap: &str) {
    let report = cluster.terrarium("up --dry-run -o json").succeeds();
    let plan = serde_json::from_str::<serde_json::Value>(&report.stdout).expect("a plan is JSON");
    let steps = plan["plan"]["steps"].as_array().expect("a plan has steps");
    if !steps.iter().any(|step| step["gap"] == gap) {
        cluster.lacks(format!("the sandbox does not have the gap {gap}"));
    }
}

/// Starts a cluster without the gap's remedy: the node gets Ready, and an event of a Pod has these words.
fn pods_fail_without(cluster: &Cluster, gap: &str, words: &[&str]) {
    cluster.terrarium(&format!("up --remedy {gap}=none --data-dir /srv/gap")).succeeds();
    let namespace = cluster.namespace("gap");
    namespace.apply(WEB);
    eventually(Duration::from_secs(90), || match namespace.kubectl("get events") {
        events if words.iter().all(|words| events.contains(words)) => Ok(()),
        events => Err(events),
    });
    namespace.keep();
    cluster.terrarium("down --purge").succeeds();
}

/// Tries to start a cluster without the gap's remedy: the component's log must have these words. Returns what `up` said.
pub fn fails_without(cluster: &Cluster, gap: &str, component: &str, words: &str) -> String {
    let data_dir = "/srv/gap";
    let up = cluster.terrarium(&format!("up --wait 90s --remedy {gap}=none --data-dir {data_dir}"));
    assert_ne!(up.code, 0, "{up}");
    eventually(Duration::from_secs(60), || {
        let log = cluster.run(["sh", "-c", &format!("cat {data_dir}/logs/{component}*")]).stdout;
        let is_told = log.contains(words) || up.stderr.contains(words);
        if is_told { Ok(()) } else { Err(format!("{up}\n{component}: {log}")) }
    });
    // Not waiting any more is not giving up: it may be still trying.
    cluster.terrarium(&format!("down --purge --data-dir {data_dir}")).succeeds();
    up.stderr
}
