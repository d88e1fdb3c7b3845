//! What follows from Services and slices, as the API would give them.

mod claims;
mod policies;
mod random;
mod services;
mod slices;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use k8s_openapi::api::core::v1::Service as ApiService;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::frontends::Place;
use super::routing::{Outcome, Routing};
use super::service::{Name, Service};
use super::slice::Slice;
use crate::config::Config;
use crate::fixtures;
use crate::table::{Frontend, Protocol, Route, Table};

const NODE: &str = "node";
const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn place() -> Place {
    let config = Config {
        node: NODE.to_owned(),
        node_address: NODE_ADDRESS,
        pods: "10.42.0.0/16".parse().unwrap(),
        healthz: "0.0.0.0:10256".parse().unwrap(),
        ..fixtures::config()
    };
    Place::new(Rc::new(config), Some(6443))
}

/// A routing that has listed both kinds.
fn routing() -> Routing {
    let mut routing = Routing::new(place(), Rc::new(Table::default()));
    routing.complete();
    routing
}

fn name(name: &str) -> Name {
    Name { namespace: "ns".into(), name: name.into() }
}

/// A Service by what is particular about its spec.
fn service(name: &str, spec: Value) -> Option<Service> {
    service_since(name, "2026-01-01T00:00:00Z", spec)
}

fn service_since(name: &str, created: &str, spec: Value) -> Option<Service> {
    let mut object = json!({
        "metadata": { "namespace": "ns", "name": name, "uid": format!("{name}-{created}"), "creationTimestamp": created },
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.43.1.1", "clusterIPs": ["10.43.1.1"],
            "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 8080 }],
        },
    });
    let Value::Object(spec) = spec else { panic!("a spec is an object") };
    for (key, value) in spec {
        let at = if key == "status" { &mut object } else { &mut object["spec"] };
        at[key] = value;
    }
    Service::new(serde_json::from_value::<ApiService>(object).unwrap())
}

/// A slice of a Service with port 8080 for its only port, by its endpoints.
fn slice(service: &str, endpoints: Value) -> Option<Slice> {
    slice_with(service, json!([{ "name": "", "port": 8080, "protocol": "TCP" }]), endpoints)
}

fn slice_with(service: &str, ports: Value, endpoints: Value) -> Option<Slice> {
    let object = json!({
        "metadata": {
            "namespace": "ns", "name": format!("{service}-x"), "uid": "slice",
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    });
    Slice::new(serde_json::from_value::<EndpointSlice>(object).unwrap(), NODE)
}

/// A ready endpoint on this node.
fn here(address: &str) -> Value {
    json!({ "addresses": [address], "nodeName": NODE, "conditions": { "ready": true, "serving": true } })
}

/// A ready endpoint on another node.
fn there(address: &str) -> Value {
    json!({ "addresses": [address], "nodeName": "other", "conditions": { "ready": true, "serving": true } })
}

fn with(mut endpoint: Value, key: &str, value: Value) -> Value {
    endpoint[key] = value;
    endpoint
}

fn frontend(text: &str) -> Frontend {
    let (address, protocol) = text.split_once('/').unwrap();
    let address: SocketAddrV4 = address.parse().unwrap();
    let protocol = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
    Frontend { protocol, address: *address.ip(), port: address.port() }
}

/// The route of a frontend such as `10.43.1.1:80/tcp`.
fn route(routing: &Routing, at: &str) -> Option<Rc<Route>> {
    routing.table.get(&frontend(at))
}

/// The endpoints of a frontend, which has to have a route.
fn ends(routing: &Routing, at: &str) -> Vec<String> {
    let route = route(routing, at).unwrap_or_else(|| panic!("{at} has no route"));
    route.endpoints.iter().map(ToString::to_string).collect()
}

/// All frontends, in order.
fn frontends(routing: &Routing) -> Vec<String> {
    let mut all: Vec<Frontend> = routing.table.all().into_iter().map(|(frontend, _)| frontend).collect();
    all.sort();
    all.iter().map(|frontend| frontend.to_string().to_lowercase()).collect()
}

/// One Service and one slice of it, published.
fn served(spec: Value, endpoints: Value) -> (Routing, Outcome) {
    let mut routing = routing();
    routing.service(&name("web"), service("web", spec));
    routing.slice(&name("web-x"), slice("web", endpoints));
    let mut outcomes = routing.publish();
    assert_eq!(outcomes.len(), 1);
    (routing, outcomes.remove(0))
}

fn reasons(outcome: &Outcome) -> Vec<&'static str> {
    outcome.notices.iter().map(|notice| notice.reason).collect()
}
