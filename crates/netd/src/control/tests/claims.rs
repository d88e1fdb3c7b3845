//! Several Services want the same.

use serde_json::{Value, json};

use super::*;
use crate::fixtures;
use crate::table::Owner;

const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-01-02T00:00:00Z";

fn external(address: &str, cluster_ip: &str) -> Value {
    json!({ "externalIPs": [address], "clusterIPs": [cluster_ip] })
}

fn owner(routing: &Routing, at: &str) -> Option<String> {
    route(routing, at).map(|route| route.owner.name.clone())
}

#[test]
fn the_older_one_has_it_whichever_came_first() {
    for order in [["old", "new"], ["new", "old"]] {
        let mut routing = routing();
        for called in order {
            let (created, address) = if called == "old" { (OLD, "10.43.1.1") } else { (NEW, "10.43.1.2") };
            let spec = external("203.0.113.9", address);
            routing.service(&name(called), service_since(called, created, spec));
            routing.publish();
        }
        assert_eq!(owner(&routing, "203.0.113.9:80/tcp").as_deref(), Some("old"));
        let told = routing.told();
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].reason, told[0].about.name.as_str()), ("FrontendTaken", "new"));
        assert!(told[0].message.contains("ns/old has 203.0.113.9:80/TCP"), "{}", told[0].message);

        routing.service(&name("old"), service_since("old", OLD, json!({})));
        routing.publish();
        assert_eq!(owner(&routing, "203.0.113.9:80/tcp").as_deref(), Some("new"));
        assert_eq!(routing.told(), []);
        routing.service(&name("new"), None);
        routing.publish();
        assert_eq!(frontends(&routing), ["10.43.1.1:80/tcp"]);
    }
}

#[test]
fn of_the_same_age_the_first_by_name_has_it() {
    let mut routing = routing();
    for (called, address) in [("b", "10.43.1.2"), ("a", "10.43.1.1"), ("c", "10.43.1.3")] {
        routing.service(&name(called), service(called, external("203.0.113.9", address)));
    }
    routing.publish();
    assert_eq!(owner(&routing, "203.0.113.9:80/tcp").as_deref(), Some("a"));
    routing.service(&name("a"), None);
    routing.publish();
    assert_eq!(owner(&routing, "203.0.113.9:80/tcp").as_deref(), Some("b"));
    let told = routing.told();
    assert!(told.len() == 1 && told[0].message.contains("ns/b has"), "{told:?}");
}

#[test]
fn a_load_balancer_that_lacks_a_port_is_pending() {
    let balancer = |address: &str, ingress: Value| {
        json!({
            "type": "LoadBalancer", "clusterIPs": [address], "status": { "loadBalancer": { "ingress": ingress } },
            "ports": [{ "name": "a", "port": 80, "protocol": "TCP" }, { "name": "b", "port": 443, "protocol": "TCP" }],
        })
    };
    let ours = json!([{ "ip": "192.0.2.2", "ipMode": "VIP" }]);
    let mut routing = routing();
    let port = json!([{ "port": 443, "protocol": "TCP" }]);
    let spec = json!({ "externalIPs": ["192.0.2.2"], "clusterIPs": ["10.43.1.1"], "ports": port });
    routing.service(&name("old"), service_since("old", OLD, spec));
    routing.service(&name("new"), service_since("new", NEW, balancer("10.43.1.2", ours)));
    let outcome = routing.publish().into_iter().find(|outcome| &*outcome.name.name == "new").unwrap();
    assert_eq!((outcome.balanced, reasons(&outcome)), (Some(false), vec!["FrontendTaken"]));
    assert_eq!(owner(&routing, "192.0.2.2:80/tcp").as_deref(), Some("new"));
    assert_eq!(owner(&routing, "192.0.2.2:443/tcp").as_deref(), Some("old"));

    routing.service(&name("new"), service_since("new", NEW, balancer("10.43.1.2", json!([]))));
    assert_eq!(routing.publish()[0].balanced, None);
    routing.service(&name("old"), None);
    let outcome = routing.publish().into_iter().find(|outcome| &*outcome.name.name == "new").unwrap();
    assert_eq!(outcome.balanced, Some(true));
}

#[test]
fn a_node_port_and_the_same_port_of_the_nodes_address_exclude_each_other() {
    let mut routing = routing();
    let port = |port: Value| json!({ "type": "NodePort", "clusterIPs": ["10.43.1.1"], "ports": [port] });
    let spec = port(json!({ "port": 80, "protocol": "TCP", "nodePort": 30080 }));
    routing.service(&name("old"), service_since("old", OLD, spec));
    let spec = json!({
        "externalIPs": ["192.0.2.2"], "clusterIPs": ["10.43.1.2"], "ports": [{ "port": 30080, "protocol": "TCP" }],
    });
    routing.service(&name("new"), service_since("new", NEW, spec));
    routing.publish();
    assert_eq!(frontends(&routing), ["0.0.0.0:30080/tcp", "10.43.1.1:80/tcp", "10.43.1.2:30080/tcp"]);
    routing.service(&name("old"), None);
    routing.publish();
    assert_eq!(frontends(&routing), ["10.43.1.2:30080/tcp", "192.0.2.2:30080/tcp"]);
}

#[test]
fn an_older_service_takes_what_overlaps_with_what_it_wants() {
    let mut routing = routing();
    let spec = json!({ "type": "NodePort", "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 30080 }] });
    routing.service(&name("new"), service_since("new", NEW, spec));
    routing.publish();
    assert_eq!(frontends(&routing), ["0.0.0.0:30080/tcp", "10.43.1.1:80/tcp"]);
    let spec = json!({
        "externalIPs": ["192.0.2.2"], "clusterIPs": ["10.43.1.2"], "ports": [{ "port": 30080, "protocol": "TCP" }],
    });
    routing.service(&name("old"), service_since("old", OLD, spec));
    routing.publish();
    assert_eq!(frontends(&routing), ["10.43.1.1:80/tcp", "10.43.1.2:30080/tcp", "192.0.2.2:30080/tcp"]);
}

#[test]
fn an_address_that_passes_on_in_one_list_is_not_told_of() {
    let mut routing = routing();
    routing.service(&name("a"), service_since("a", OLD, json!({})));
    routing.publish();
    routing.services([(name("b"), service_since("b", NEW, json!({})).unwrap())].into());
    assert!(routing.publish().iter().all(|outcome| outcome.notices.is_empty()));
    assert_eq!(owner(&routing, "10.43.1.1:80/tcp").as_deref(), Some("b"));
}

/// A Pod has a host port.
fn host_port(routing: &mut Routing, at: &str) {
    let owner = Owner { kind: "Pod", namespace: "ns".into(), name: "pod".into(), uid: "1".into(), port: "80".into() };
    let route = Route { owner: owner.into(), ..fixtures::route(&[]) };
    routing.table.set(frontend(at), route);
    routing.changed(frontend(at));
    routing.publish();
}

#[test]
fn host_ports_of_pods_stay_theirs_until_given_back() {
    let spec = || json!({ "type": "NodePort", "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 30080 }] });
    for at in ["0.0.0.0:30080/tcp", "192.0.2.2:30080/tcp", "127.0.0.1:30080/tcp"] {
        for pod_first in [true, false] {
            let mut routing = routing();
            if pod_first {
                host_port(&mut routing, at);
            }
            routing.service(&name("web"), service("web", spec()));
            routing.publish();
            if !pod_first {
                host_port(&mut routing, at);
            }
            let mut expected = [at, "10.43.1.1:80/tcp"];
            expected.sort();
            let mut seen = frontends(&routing);
            seen.sort();
            assert_eq!((seen, owner(&routing, at).as_deref()), (expected.map(String::from).to_vec(), Some("pod")));
            assert!(routing.told()[0].message.contains("Pod ns/pod:80 has 0.0.0.0:30080/TCP"), "{:?}", routing.told());

            routing.table.remove(&frontend(at));
            routing.changed(frontend(at));
            routing.publish();
            assert_eq!(owner(&routing, "0.0.0.0:30080/tcp").as_deref(), Some("web"));
            assert_eq!(routing.told(), []);
        }
    }
}
