//! Where network namespaces have no links, Pods share the node's network.

use std::net::Ipv4Addr;

use harness::{Cluster, eventually};
use terrarium_testbed::Gvisor;

use crate::pods::{reaches_the_outside, web};
use crate::policies::deny;
use crate::services::{SOON, assert_reached, reacher};

crate::stories! {
    // A cluster without the Pods of other stories, which would have the same ports. Here each ends its own.
    Harmed in LINKLESS:
        a_pod_has_the_nodes_address_and_answers_by_its_service
        two_pods_do_not_get_the_same_port
        a_policy_is_told_not_to_hold
        doctor_tries_the_whole_path;
    Idle:
        services_keep_their_addresses_with_the_store;
}

const SERVICE: &str = include_str!("../manifests/service.yaml");

fn a_pod_has_the_nodes_address_and_answers_by_its_service(cluster: &Cluster) {
    cluster.up();
    let namespace = web(cluster, "shared-service");
    assert_eq!(namespace.pod("web").address, cluster.address());
    namespace.kubectl("expose pod web --port 80 --target-port 8080 --type NodePort");
    let service = namespace.json("get service web");
    let [address, port] = [&service["spec"]["clusterIP"], &service["spec"]["ports"][0]["nodePort"]];
    let address: Ipv4Addr = address.as_str().expect("an address").parse().expect("of IPv4");
    assert!(address.is_loopback(), "{address}");
    eventually(SOON, || cluster.sh(&format!("curl -sS --max-time 10 http://{address}/healthz")).ok());
    let targets = [
        "tcp=http://web/healthz".to_owned(),
        format!("node-port=http://{}:{port}/healthz", cluster.address()),
        "api=tcp://kubernetes.default:443".to_owned(),
        "name=dns+tcp://".to_owned() + &nth(address, 10) + "/web.shared-service.svc.cluster.local.",
    ];
    namespace.apply(&reacher("asks", &targets.each_ref().map(String::as_str)));
    assert_reached(&namespace, "asks", targets.len());
    if cluster.kind().gvisor != Gvisor::V2024_07 {
        reaches_the_outside(&namespace);
    }
    namespace.kubectl("delete pod web");
}

/// The address of the range that one is of.
fn nth(of: Ipv4Addr, n: u8) -> String {
    let [a, b, ..] = of.octets();
    Ipv4Addr::new(a, b, 0, n).to_string()
}

/// Else one would not start, or answer in the place of the other.
fn two_pods_do_not_get_the_same_port(cluster: &Cluster) {
    cluster.up();
    let namespace = cluster.namespace("shared-ports");
    namespace.apply(&SERVICE.replace("replicas: 3", "replicas: 2"));
    eventually(SOON, || {
        let events =
            namespace.kubectl("get events --field-selector reason=FailedScheduling -o jsonpath={.items[*].message}");
        if events.contains("didn't have free ports") { Ok(()) } else { Err(events) }
    });
    // The first one may be bound after the second one's event.
    let placed = eventually(SOON, || {
        let placed = namespace.kubectl("get pods -o jsonpath={.items[*].spec.nodeName}");
        if placed.trim().is_empty() { Err("no Pod is placed".to_owned()) } else { Ok(placed) }
    });
    assert_eq!(placed.split_whitespace().count(), 1, "{placed}");
    namespace.kubectl("delete deployment web --cascade=foreground");
}

fn a_policy_is_told_not_to_hold(cluster: &Cluster) {
    cluster.up();
    let namespace = cluster.namespace("shared-policy");
    deny(&namespace);
    eventually(SOON, || {
        let events = namespace.kubectl("get events --field-selector reason=NetworkPolicyNotEnforced -o name");
        if events.is_empty() { Err("no event".to_owned()) } else { Ok(()) }
    });
}

fn doctor_tries_the_whole_path(cluster: &Cluster) {
    cluster.up();
    cluster.terrarium("doctor --network").succeeds().prints("Pod to Service by name");
}

fn services_keep_their_addresses_with_the_store(cluster: &Cluster) {
    let shared = "up --data-dir /var/lib/shared --remedy pod-links=flag";
    cluster.terrarium(shared).succeeds().complains("Pods share the node's network here (pod-links=flag)");
    cluster.terrarium("down --data-dir /var/lib/shared").succeeds();
    cluster.terrarium("up --data-dir /var/lib/shared").exits(4).complains("[service-range]");
    cluster.terrarium(shared).succeeds();
    cluster.terrarium("down --data-dir /var/lib/shared --purge").succeeds();
}
