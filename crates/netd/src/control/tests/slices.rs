//! What comes of EndpointSlices.

use serde_json::json;

use super::*;

const CLUSTER_IP: &str = "10.43.1.1:80/tcp";

#[test]
fn endpoints_that_lead_to_the_node_itself_are_refused_and_the_rest_serves() {
    for bad in ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "255.255.255.255", "10.43.0.1", "10.43.0.10"] {
        let (routing, outcome) = served(json!({}), json!([here(bad), here("10.42.0.5")]));
        assert_eq!(ends(&routing, CLUSTER_IP), ["10.42.0.5:8080"]);
        assert_eq!(reasons(&outcome), ["EndpointRefused"]);
        let notice = &outcome.notices[0];
        assert_eq!((notice.about.kind, notice.about.name.as_str()), ("EndpointSlice", "web-x"));
        assert!(notice.message.contains(bad), "{}", notice.message);
    }
    // The API server is on the node's address.
    let (routing, outcome) = served(json!({}), json!([here("192.0.2.2")]));
    assert_eq!((ends(&routing, CLUSTER_IP), reasons(&outcome)), (vec!["192.0.2.2:8080".to_owned()], vec![]));
}

#[test]
fn what_is_no_slice_of_ipv4_addresses_of_a_service_is_ignored() {
    let object = |kind: &str, labels: Value| {
        let object = json!({
            "metadata": { "namespace": "ns", "name": "x", "labels": labels }, "addressType": kind, "endpoints": [],
        });
        Slice::new(serde_json::from_value(object).unwrap(), NODE)
    };
    let ours = json!({ "kubernetes.io/service-name": "web" });
    assert!(object("IPv4", ours.clone()).is_some());
    assert!(object("IPv6", ours.clone()).is_none());
    assert!(object("FQDN", ours).is_none());
    assert!(object("IPv4", json!({})).is_none());
    assert!(object("IPv4", json!(null)).is_none());
}

#[test]
fn ports_without_number_or_of_other_protocols_are_ignored() {
    let ports = json!([
        { "name": "", "protocol": "TCP" }, { "name": "", "port": 0 }, { "port": 8080, "protocol": "TCP" },
        { "name": "", "port": 9, "protocol": "SCTP" }, { "name": "", "port": 8081 },
    ]);
    let slice = slice_with("web", ports, json!([])).unwrap();
    assert_eq!(slice.ports.iter().map(|port| port.port).collect::<Vec<_>>(), [8081]);
}

#[test]
fn slices_are_joined_and_each_endpoint_counts_once() {
    let (mut routing, _) = served(json!({}), json!([here("10.42.0.5"), here("10.42.0.6")]));
    routing.slice(&name("web-y"), slice("web", json!([here("10.42.0.6"), here("10.42.0.7")])));
    routing.publish();
    assert_eq!(ends(&routing, CLUSTER_IP), ["10.42.0.5:8080", "10.42.0.6:8080", "10.42.0.7:8080"]);
    routing.slice(&name("web-x"), None);
    routing.publish();
    assert_eq!(ends(&routing, CLUSTER_IP), ["10.42.0.6:8080", "10.42.0.7:8080"]);
}

#[test]
fn a_running_pod_counts_before_one_on_its_way_out_with_the_same_address() {
    let leaving =
        with(here("10.42.0.5"), "conditions", json!({ "ready": false, "serving": true, "terminating": true }));
    for (first, second) in [(leaving.clone(), here("10.42.0.5")), (here("10.42.0.5"), leaving)] {
        let (mut routing, _) = served(json!({}), json!([first, here("10.42.0.6")]));
        routing.slice(&name("web-y"), slice("web", json!([second])));
        routing.publish();
        assert_eq!(ends(&routing, CLUSTER_IP), ["10.42.0.5:8080", "10.42.0.6:8080"]);
    }
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_first() {
    let (mut routing, _) = served(json!({}), json!([here("10.42.0.5")]));
    routing.service(&name("other"), service("other", json!({ "clusterIPs": ["10.43.2.2"] })));
    routing.slice(&name("web-x"), slice("other", json!([here("10.42.0.5")])));
    routing.publish();
    assert_eq!(ends(&routing, CLUSTER_IP), [""; 0]);
    assert_eq!(ends(&routing, "10.43.2.2:80/tcp"), ["10.42.0.5:8080"]);
}

#[test]
fn a_slice_may_come_before_its_service_and_stay_after_it() {
    let mut routing = routing();
    routing.slice(&name("web-x"), slice("web", json!([here("10.42.0.5")])));
    routing.publish();
    for _ in 0..2 {
        routing.service(&name("web"), service("web", json!({})));
        routing.publish();
        assert_eq!(ends(&routing, CLUSTER_IP), ["10.42.0.5:8080"]);
        routing.service(&name("web"), None);
        routing.publish();
        assert_eq!(frontends(&routing), [""; 0]);
    }
}
