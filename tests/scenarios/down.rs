//! `down` undoes everything, and keeps what is the user's.

use std::time::Duration;

use harness::{Cluster, DATA_DIR, Marks, eventually};

crate::stories! {
    Own:
        down_leaves_nothing_behind
        down_after_guardian_and_supervisor_were_killed_leaves_nothing_behind
        a_start_that_fails_says_why_and_is_undone
        a_start_that_fails_for_a_known_reason_says_what_to_do;
}

const DEPLOYMENT: &str = include_str!("../manifests/deployment.yaml");

/// The first process of its container ignores SIGTERM, as any does that has no handler for it.
const STUBBORN: &str = include_str!("../manifests/stubborn.yaml");

fn down_leaves_nothing_behind(cluster: &Cluster) {
    let before = Marks::of(cluster);
    bring_up_with_pods(cluster, &before);
    // Who is another process every few milliseconds begins while others are ended, as containerd's clean-up may.
    let elusive = "fork and exit, select(undef, undef, undef, .005) while 1";
    cluster.sh(&format!("terrarium exec -- perl -e '{elusive}' </dev/null >/dev/null 2>&1")).succeeds();
    cluster.terrarium("down").succeeds().complains("the cluster is down").within(Duration::from_secs(60));
    Marks::of(cluster).assert_same_as(&before);
    cluster.terrarium("status").exits(3);

    // What is left is what the next `up` goes on with, until that goes too.
    cluster.run(["test", "-e", &format!("{DATA_DIR}/store/state.db")]).succeeds();
    cluster.terrarium("down").succeeds().complains("no cluster was running");
    cluster.terrarium("down --purge").succeeds().complains(DATA_DIR);
    cluster.run(["test", "-e", DATA_DIR]).exits(1);
    let kubeconfig = cluster.sh("cat ~/.kube/config 2>/dev/null").stdout;
    assert!(!kubeconfig.contains("terrarium"), "{kubeconfig}");
}

fn down_after_guardian_and_supervisor_were_killed_leaves_nothing_behind(cluster: &Cluster) {
    let before = Marks::of(cluster);
    bring_up_with_pods(cluster, &before);
    cluster.kill(&["guardian", "supervisor"]);
    cluster.terrarium("down").succeeds().complains("the cluster is down").within(Duration::from_secs(60));
    Marks::of(cluster).assert_same_as(&before);
}

fn a_start_that_fails_says_why_and_is_undone(cluster: &Cluster) {
    // All components but one that cannot work: as after a torn installation.
    let break_containerd = "mkdir /broken && cp -rs /opt/terrarium/libexec/terrarium/. /broken && rm /broken/containerd && \
        printf '#!/bin/sh\\necho out of order >&2; exit 7\\n' >/broken/containerd && chmod +x /broken/containerd";
    cluster.sh(break_containerd).succeeds();
    let before = Marks::of(cluster);
    let up = cluster.sh("TERRARIUM_COMPONENTS=/broken /opt/terrarium/bin/terrarium up").exits(1);
    up.complains("containerd does not start: it ended with exit status: 7 [component-fails]").complains("out of order");
    Marks::of(cluster).assert_same_as(&before);

    let missing =
        cluster.sh("rm /broken/containerd; TERRARIUM_COMPONENTS=/broken /opt/terrarium/bin/terrarium up").exits(4);
    missing.complains("/broken/containerd is missing [component-missing]");
    cluster.up();
}

fn a_start_that_fails_for_a_known_reason_says_what_to_do(cluster: &Cluster) {
    // The port of the kubelet: that of the API is looked at before anything starts.
    let listen =
        "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Listen => 1, LocalPort => 10250) or die; sleep 600'";
    cluster.sh(&format!("{listen} </dev/null >/dev/null 2>&1 & echo $! >/tmp/listener")).succeeds();
    eventually(Duration::from_secs(30), || cluster.sh("grep ':280A .* 0A ' /proc/net/tcp").ok());
    let up = cluster.terrarium("up").exits(1).complains("kubelet does not start");
    up.complains("address already in use").complains("hint: another program listens there");
    cluster.sh("kill $(cat /tmp/listener); rm /tmp/listener").succeeds();
    cluster.up();
}

/// Brings the cluster up with Pods, and makes sure that they leave marks that would be seen.
fn bring_up_with_pods(cluster: &Cluster, before: &Marks) {
    cluster.up();
    let namespace = cluster.namespace("down");
    namespace.apply(DEPLOYMENT);
    namespace.apply(STUBBORN);
    namespace.wait("deployment/web", "condition=Available");
    namespace.wait("pod/stubborn", "condition=Ready");
    namespace.keep();
    let with_pods = Marks::of(cluster);
    let kinds = ["processes", "cgroups", "links", "addresses", "routes", "namespaces", "nat rules", "sysctls", "files"];
    for kind in kinds {
        assert!(with_pods.has_new(kind, before), "a cluster leaves no marks of this kind: {kind}");
    }
}
