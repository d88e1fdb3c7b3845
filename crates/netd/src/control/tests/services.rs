//! Which frontends a Service has.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::table::Otherwise;

fn all(spec: Value) -> Vec<String> {
    frontends(&served(spec, json!([here("10.42.0.5")])).0)
}

#[test]
fn its_own_address_leads_to_its_endpoints() {
    let (routing, outcome) = served(json!({}), json!([here("10.42.0.6"), there("10.42.1.5"), here("10.42.0.5")]));
    assert_eq!(frontends(&routing), ["10.43.1.1:80/tcp"]);
    assert_eq!(ends(&routing, "10.43.1.1:80/tcp"), ["10.42.0.5:8080", "10.42.0.6:8080", "10.42.1.5:8080"]);
    let route = route(&routing, "10.43.1.1:80/tcp").unwrap();
    assert_eq!((route.owner.kind, route.owner.to_string()), ("Service", "ns/web".to_owned()));
    assert_eq!((route.affinity, &*route.sources), (None, &[][..]));
    assert_eq!((outcome.notices, outcome.health_check, outcome.balanced), (vec![], None, None));
}

#[test]
fn what_has_no_address_of_its_own_is_not_served() {
    for spec in [
        json!({ "clusterIP": "None", "clusterIPs": ["None"] }),
        json!({ "type": "ExternalName", "externalName": "example.org", "clusterIP": "", "clusterIPs": null }),
        json!({ "clusterIP": "fd00::1", "clusterIPs": ["fd00::1"] }),
    ] {
        assert!(service("web", spec).is_none());
    }
}

#[test]
fn the_address_of_ipv4_counts_in_either_order() {
    assert_eq!(all(json!({ "clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.43.7.7"] })), ["10.43.7.7:80/tcp"]);
}

#[test]
fn each_port_has_its_protocol_and_its_endpoints() {
    let mut routing = routing();
    let ports = json!([
        { "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
    ]);
    routing.service(&name("web"), service("web", json!({ "ports": ports })));
    let numbers = json!([
        { "name": "dns", "port": 5353, "protocol": "UDP" }, { "name": "dns-tcp", "port": 5354, "protocol": "TCP" },
        { "name": "other", "port": 1, "protocol": "TCP" }, { "name": "dns", "port": 2, "protocol": "TCP" },
    ]);
    routing.slice(&name("web-x"), slice_with("web", numbers, json!([here("10.42.0.5")])));
    routing.publish();
    assert_eq!(frontends(&routing), ["10.43.1.1:53/tcp", "10.43.1.1:53/udp"]);
    assert_eq!(ends(&routing, "10.43.1.1:53/udp"), ["10.42.0.5:5353"]);
    assert_eq!(ends(&routing, "10.43.1.1:53/tcp"), ["10.42.0.5:5354"]);
    assert_eq!(route(&routing, "10.43.1.1:53/udp").unwrap().owner.port, "dns");
}

#[test]
fn node_ports_are_on_any_address_of_the_node() {
    let spec = json!({ "type": "NodePort", "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 30080 }] });
    assert_eq!(all(spec), ["0.0.0.0:30080/tcp", "10.43.1.1:80/tcp"]);
}

#[test]
fn external_addresses_serve_the_same_port() {
    assert_eq!(all(json!({ "externalIPs": ["203.0.113.9", "fd00::9"] })), ["10.43.1.1:80/tcp", "203.0.113.9:80/tcp"]);
}

#[test]
fn external_addresses_that_are_not_external_are_refused() {
    let bad = ["10.43.0.1", "10.42.0.7", "127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"];
    let (routing, outcome) = served(json!({ "externalIPs": bad }), json!([here("10.42.0.5")]));
    assert_eq!(frontends(&routing), ["10.43.1.1:80/tcp"]);
    assert_eq!(reasons(&outcome), ["FrontendRefused"; 7]);
    assert!(outcome.notices.iter().zip(bad).all(|(notice, bad)| notice.message.contains(bad)));
}

#[test]
fn the_nodes_own_ports_are_refused_on_its_address_alone() {
    for port in [6443, 10250, 10256] {
        let spec = |address: &str| json!({ "externalIPs": [address], "ports": [{ "port": port, "protocol": "TCP" }] });
        let (routing, outcome) = served(spec("192.0.2.2"), json!([]));
        assert_eq!(frontends(&routing), [format!("10.43.1.1:{port}/tcp")]);
        assert_eq!(reasons(&outcome), ["FrontendRefused"]);
        assert_eq!(served(spec("203.0.113.9"), json!([])).1.notices, []);
    }
    // Metrics are served on loopback, and UDP is another matter.
    for port in [json!({ "port": 10249, "protocol": "TCP" }), json!({ "port": 6443, "protocol": "UDP" })] {
        let (_, outcome) = served(json!({ "externalIPs": ["192.0.2.2"], "ports": [port] }), json!([]));
        assert_eq!(outcome.notices, []);
    }
}

#[test]
fn a_load_balancer_is_the_nodes_address() {
    let spec = json!({
        "type": "LoadBalancer", "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 30080 }],
        "loadBalancerSourceRanges": [" 198.51.100.0/24 ", "fd00::/8"],
    });
    let (routing, outcome) = served(spec.clone(), json!([here("10.42.0.5")]));
    assert_eq!(frontends(&routing), ["0.0.0.0:30080/tcp", "10.43.1.1:80/tcp", "192.0.2.2:80/tcp"]);
    assert_eq!(outcome.balanced, Some(true));
    // The ranges apply to the load balancer and to nothing else.
    assert_eq!(&*route(&routing, "192.0.2.2:80/tcp").unwrap().sources, &["198.51.100.0/24".parse().unwrap()]);
    assert_eq!(&*route(&routing, "0.0.0.0:30080/tcp").unwrap().sources, &[]);

    let with_status = |ingress: Value| {
        let mut spec = spec.clone();
        spec["status"] = json!({ "loadBalancer": { "ingress": ingress } });
        served(spec, json!([])).1.balanced
    };
    assert_eq!(with_status(json!([{ "ip": "192.0.2.2", "ipMode": "VIP" }])), None);
    assert_eq!(with_status(json!([{ "ip": "192.0.2.77", "ipMode": "VIP" }])), Some(true));
    assert_eq!(with_status(json!([{ "ip": "192.0.2.2" }, { "hostname": "a.example" }])), Some(true));
}

#[test]
fn a_range_of_length_zero_allows_all() {
    let spec = json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ["198.51.100.0/24", "0.0.0.0/0"] });
    assert_eq!(&*route(&served(spec, json!([])).0, "192.0.2.2:80/tcp").unwrap().sources, &[]);
}

#[test]
fn a_load_balancer_of_another_class_is_its_own() {
    let spec = json!({
        "type": "LoadBalancer", "loadBalancerClass": "example.org/lb",
        "status": { "loadBalancer": { "ingress": [
            { "ip": "203.0.113.1" }, { "ip": "203.0.113.2", "ipMode": "Proxy" }, { "hostname": "lb.example.org" },
        ] } },
    });
    let (routing, outcome) = served(spec, json!([]));
    assert_eq!(frontends(&routing), ["10.43.1.1:80/tcp", "203.0.113.1:80/tcp"]);
    assert_eq!(outcome.balanced, None);
}

#[test]
fn a_load_balancer_without_node_ports_works() {
    let spec = json!({ "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false });
    assert_eq!(all(spec), ["10.43.1.1:80/tcp", "192.0.2.2:80/tcp"]);
}

#[test]
fn sctp_is_told_of_once_and_the_other_ports_are_served() {
    let ports =
        json!([{ "name": "a", "port": 80, "protocol": "TCP" }, { "name": "b", "port": 80, "protocol": "SCTP" }]);
    let (mut routing, outcome) = served(json!({ "ports": ports }), json!([]));
    assert_eq!(reasons(&outcome), ["ProtocolNotSupported"]);
    assert_eq!(frontends(&routing), ["10.43.1.1:80/tcp"]);
    routing.service(&name("web"), service("web", json!({ "ports": ports, "sessionAffinity": "ClientIP" })));
    assert_eq!(routing.publish()[0].notices, []);
}

#[test]
fn session_affinity_has_a_time() {
    let affinity = |spec| route(&served(spec, json!([])).0, "10.43.1.1:80/tcp").unwrap().affinity;
    assert_eq!(affinity(json!({ "sessionAffinity": "ClientIP" })), Some(Duration::from_secs(10_800)));
    let config = json!({ "clientIP": { "timeoutSeconds": 5 } });
    let spec = json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": config });
    assert_eq!(affinity(spec), Some(Duration::from_secs(5)));
    assert_eq!(affinity(json!({ "sessionAffinity": "None" })), None);
}

#[test]
fn the_name_servers_address_is_left_alone() {
    let spec = json!({
        "clusterIP": "10.43.0.10", "clusterIPs": ["10.43.0.10"], "type": "NodePort",
        "ports": [{ "port": 53, "protocol": "TCP", "nodePort": 30053 }],
    });
    let (routing, outcome) = served(spec, json!([here("10.43.0.10")]));
    assert_eq!(frontends(&routing), ["0.0.0.0:30053/tcp"]);
    assert_eq!(ends(&routing, "0.0.0.0:30053/tcp"), ["10.43.0.10:8080"]);
    assert_eq!(outcome.notices, []);
}

#[test]
fn nothing_is_published_before_both_kinds_are_listed() {
    let mut routing = Routing::new(place(), Rc::new(Table::default()));
    routing.service(&name("web"), service("web", json!({})));
    assert_eq!(routing.publish(), []);
    assert_eq!(frontends(&routing), [""; 0]);
    routing.slices([].into());
    routing.complete();
    routing.publish();
    assert_eq!(route(&routing, "10.43.1.1:80/tcp").unwrap().otherwise, Otherwise::Reject);
}

#[test]
fn a_list_changes_only_what_differs() {
    let (mut routing, _) = served(json!({}), json!([here("10.42.0.5")]));
    let mut changes = routing.table.subscribe();
    assert!(changes.try_recv().is_ok()); // what is there already
    routing.services([(name("web"), service("web", json!({})).unwrap())].into());
    routing.slices([(name("web-x"), slice("web", json!([here("10.42.0.5")])).unwrap())].into());
    assert_eq!(routing.publish(), []);
    assert!(changes.try_recv().is_err());
    let other = service("other", json!({ "clusterIPs": ["10.43.2.2"] })).unwrap();
    routing.services([(name("other"), other)].into());
    routing.publish();
    assert_eq!(frontends(&routing), ["10.43.2.2:80/tcp"]);
}

#[test]
fn what_was_carried_goes_on_being_counted_until_the_service_is_another() {
    let (mut routing, _) = served(json!({}), json!([here("10.42.0.5")]));
    let traffic = |routing: &Routing, at: &str| route(routing, at).unwrap().traffic.connections.get();
    route(&routing, "10.43.1.1:80/tcp").unwrap().traffic.connections.set(3);
    let spec = json!({ "externalIPs": ["203.0.113.9"] });
    routing.service(&name("web"), service("web", spec));
    routing.publish();
    assert_eq!((traffic(&routing, "10.43.1.1:80/tcp"), traffic(&routing, "203.0.113.9:80/tcp")), (3, 3));
    routing.service(&name("web"), service_since("web", "2026-02-02T00:00:00Z", json!({})));
    routing.publish();
    assert_eq!(traffic(&routing, "10.43.1.1:80/tcp"), 0);
}
