//! Which endpoints are used: kube-proxy's rules.

use serde_json::{Value, json};

use super::*;
use crate::table::Otherwise::{self, Drop, Reject};

const CLUSTER_IP: &str = "10.43.1.1:80/tcp";
const NODE_PORT: &str = "0.0.0.0:30080/tcp";

fn node_port(internal: &str, external: &str) -> Value {
    json!({
        "type": "NodePort", "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 30080 }],
        "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
    })
}

fn conditions(endpoint: Value, ready: bool, serving: bool, terminating: bool) -> Value {
    with(endpoint, "conditions", json!({ "ready": ready, "serving": serving, "terminating": terminating }))
}

fn otherwise(routing: &Routing, at: &str) -> Otherwise {
    route(routing, at).unwrap().otherwise
}

#[test]
fn local_policies_use_endpoints_of_this_node() {
    let both = json!([here("10.42.0.5"), there("10.42.1.5")]);
    let (all, local) = (vec!["10.42.0.5:8080", "10.42.1.5:8080"], vec!["10.42.0.5:8080"]);
    for (internal, external, inside, outside) in [
        ("Cluster", "Cluster", &all, &all),
        ("Local", "Cluster", &local, &all),
        ("Cluster", "Local", &all, &local),
        ("Local", "Local", &local, &local),
    ] {
        let (routing, _) = served(node_port(internal, external), both.clone());
        assert_eq!((ends(&routing, CLUSTER_IP), ends(&routing, NODE_PORT)), (strings(inside), strings(outside)));
        assert_eq!(routing.without_local(), (0, 0));
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn endpoints_elsewhere_mean_silence_and_none_at_all_a_reset() {
    let (routing, _) = served(node_port("Local", "Local"), json!([there("10.42.1.5")]));
    for at in [CLUSTER_IP, NODE_PORT] {
        assert_eq!((ends(&routing, at), otherwise(&routing, at)), (vec![], Drop));
    }
    assert_eq!(routing.without_local(), (1, 1));

    let (routing, _) = served(node_port("Local", "Local"), json!([conditions(here("10.42.0.5"), false, false, false)]));
    for at in [CLUSTER_IP, NODE_PORT] {
        assert_eq!((ends(&routing, at), otherwise(&routing, at)), (vec![], Reject));
    }
    assert_eq!(routing.without_local(), (0, 0));
}

#[test]
fn a_policy_for_what_does_not_exist_changes_nothing() {
    let (routing, _) = served(json!({ "externalTrafficPolicy": "Local" }), json!([there("10.42.1.5")]));
    assert_eq!(ends(&routing, CLUSTER_IP), ["10.42.1.5:8080"]);
}

#[test]
fn missing_conditions_mean_ready() {
    let (routing, _) = served(json!({}), json!([{ "addresses": ["10.42.0.5"] }]));
    assert_eq!(ends(&routing, CLUSTER_IP), ["10.42.0.5:8080"]);
}

#[test]
fn endpoints_on_their_way_out_are_used_where_none_are_ready() {
    let leaving = |endpoint| conditions(endpoint, false, true, true);
    let gone = conditions(here("10.42.0.9"), false, false, true);
    let not_ready = conditions(here("10.42.0.8"), false, true, false);
    let (routing, _) = served(json!({}), json!([leaving(here("10.42.0.5")), gone, not_ready]));
    assert_eq!(ends(&routing, CLUSTER_IP), ["10.42.0.5:8080"]);
    let (routing, _) = served(json!({}), json!([leaving(here("10.42.0.5")), here("10.42.0.6")]));
    assert_eq!(ends(&routing, CLUSTER_IP), ["10.42.0.6:8080"]);
    // The two policies decide each for itself.
    let endpoints = json!([leaving(here("10.42.0.5")), there("10.42.1.6")]);
    let (routing, _) = served(node_port("Cluster", "Local"), endpoints);
    assert_eq!(ends(&routing, CLUSTER_IP), ["10.42.1.6:8080"]);
    assert_eq!(ends(&routing, NODE_PORT), ["10.42.0.5:8080"]);
}

#[test]
fn health_checks_count_ready_addresses_of_this_node() {
    let spec = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
        "ports": [{ "name": "a", "port": 80, "protocol": "TCP" }, { "name": "b", "port": 81, "protocol": "TCP" }],
    });
    let ports = json!([{ "name": "a", "port": 1, "protocol": "TCP" }, { "name": "b", "port": 2, "protocol": "TCP" }]);
    let leaving = conditions(here("10.42.0.7"), false, true, true);
    let endpoints = json!([here("10.42.0.5"), here("10.42.0.6"), there("10.42.1.5"), leaving]);
    let mut routing = routing();
    routing.service(&name("web"), service("web", spec.clone()));
    routing.slice(&name("web-x"), slice_with("web", ports, endpoints));
    assert_eq!(routing.publish()[0].health_check, Some((31000, 2)));
    let mut cluster = spec;
    cluster["externalTrafficPolicy"] = json!("Cluster");
    routing.service(&name("web"), service("web", cluster));
    assert_eq!(routing.publish()[0].health_check, None);
}

fn zones(endpoint: Value, zones: &[&str]) -> Value {
    let zones: Vec<Value> = zones.iter().map(|zone| json!({ "name": zone })).collect();
    with(endpoint, "hints", json!({ "forZones": zones }))
}

fn nodes(endpoint: Value, node: &str, zone: &str) -> Value {
    with(endpoint, "hints", json!({ "forNodes": [{ "name": node }], "forZones": [{ "name": zone }] }))
}

fn in_zone(zone: Option<&str>, endpoints: Value) -> Vec<String> {
    let (mut routing, _) = served(json!({}), endpoints);
    routing.zone(zone);
    routing.publish();
    ends(&routing, CLUSTER_IP)
}

#[test]
fn hints_for_zones_hold_where_all_have_them_and_one_is_for_here() {
    let (a, b) = ("10.42.0.5:8080", "10.42.1.5:8080");
    let hinted = json!([zones(here("10.42.0.5"), &["east"]), zones(there("10.42.1.5"), &["west", "north"])]);
    assert_eq!(in_zone(Some("east"), hinted.clone()), [a]);
    assert_eq!(in_zone(Some("north"), hinted.clone()), [b]);
    assert_eq!(in_zone(Some("south"), hinted.clone()), [a, b]);
    assert_eq!(in_zone(None, hinted), [a, b]);
    let one_without = json!([zones(here("10.42.0.5"), &["east"]), there("10.42.1.5")]);
    assert_eq!(in_zone(Some("east"), one_without), [a, b]);
    // One that is not ready needs no hint.
    let not_ready = conditions(there("10.42.1.5"), false, false, false);
    assert_eq!(in_zone(Some("east"), json!([zones(here("10.42.0.5"), &["east"]), not_ready])), [a]);
}

#[test]
fn hints_for_nodes_come_before_those_for_zones() {
    let (a, b) = ("10.42.0.5:8080", "10.42.1.5:8080");
    let both = |node| json!([nodes(there("10.42.0.5"), node, "west"), nodes(there("10.42.1.5"), "other", "east")]);
    assert_eq!(in_zone(Some("east"), both(NODE)), [a]);
    assert_eq!(in_zone(Some("east"), both("third")), [b]);
    assert_eq!(in_zone(None, both("third")), [a, b]);
}

#[test]
fn hints_do_not_bind_local_policies() {
    let spec = json!({ "internalTrafficPolicy": "Local" });
    let (mut routing, _) =
        served(spec, json!([zones(here("10.42.0.5"), &["west"]), zones(there("10.42.1.5"), &["east"])]));
    routing.zone(Some("east"));
    routing.publish();
    assert_eq!(ends(&routing, CLUSTER_IP), ["10.42.0.5:8080"]);
}
