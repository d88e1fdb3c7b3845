//! However things came to be as they are, the routes are those that follow from them.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// What is there by now.
#[derive(Default)]
struct Now {
    services: HashMap<Name, Service>,
    slices: HashMap<Name, Slice>,
    zone: Option<&'static str>,
}

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    Service(usize, Option<Shape>),
    Slice(usize, Option<(usize, Vec<End>)>),
    Zone(Option<&'static str>),
    Relist,
    Publish,
}

/// A Service, by what may differ.
#[derive(Clone, Debug)]
struct Shape {
    created: usize,
    address: usize,
    kind: &'static str,
    ports: usize,
    node_port: u16,
    external: Vec<&'static str>,
    local: (bool, bool),
    affinity: bool,
}

/// An endpoint, by what may differ.
#[derive(Clone, Debug)]
struct End {
    address: u8,
    here: bool,
    state: usize,
    zone: Option<&'static str>,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let external = proptest::sample::subsequence(vec!["203.0.113.1", "203.0.113.2", "192.0.2.2", "10.42.0.9"], 0..3);
    let kind = prop_oneof![Just("ClusterIP"), Just("NodePort"), Just("LoadBalancer")];
    (0..3usize, 0..6usize, kind, 1..3usize, 30000..30003u16, external, any::<(bool, bool)>(), any::<bool>()).prop_map(
        |(created, address, kind, ports, node_port, external, local, affinity)| Shape {
            created,
            address,
            kind,
            ports,
            node_port,
            external,
            local,
            affinity,
        },
    )
}

fn ends_of_slices() -> impl Strategy<Value = Vec<End>> {
    let zone = prop_oneof![Just(None), Just(Some("east")), Just(Some("west"))];
    let end = (0..6u8, any::<bool>(), 0..4usize, zone);
    proptest::collection::vec(end.prop_map(|(address, here, state, zone)| End { address, here, state, zone }), 0..4)
}

fn steps(services: usize, length: usize) -> impl Strategy<Value = Vec<Step>> {
    let zone = prop_oneof![Just(None), Just(Some("east")), Just(Some("west"))];
    let step = prop_oneof![
        5 => (0..services, shapes()).prop_map(|(at, shape)| Step::Service(at, Some(shape))),
        2 => (0..services).prop_map(|at| Step::Service(at, None)),
        6 => (0..services * 2, 0..services, ends_of_slices())
            .prop_map(|(at, of, ends)| Step::Slice(at, Some((of, ends)))),
        2 => (0..services * 2).prop_map(|at| Step::Slice(at, None)),
        1 => zone.prop_map(Step::Zone),
        1 => Just(Step::Relist),
        6 => Just(Step::Publish),
    ];
    proptest::collection::vec(step, 0..length)
}

impl Shape {
    fn service(&self, called: &str) -> Service {
        let ports: Vec<Value> = (0..self.ports)
            .map(|port| {
                let node_port =
                    if self.kind == "ClusterIP" { json!(null) } else { json!(self.node_port + port as u16) };
                json!({ "name": format!("p{port}"), "port": 80 + port, "protocol": "TCP", "nodePort": node_port })
            })
            .collect();
        let policy = |local| if local { "Local" } else { "Cluster" };
        let spec = json!({
            "type": self.kind, "ports": ports, "externalIPs": self.external,
            "clusterIPs": [format!("10.43.1.{}", self.address)],
            "internalTrafficPolicy": policy(self.local.0), "externalTrafficPolicy": policy(self.local.1),
            "sessionAffinity": if self.affinity { "ClientIP" } else { "None" },
        });
        service_since(called, &format!("2026-01-0{}T00:00:00Z", self.created + 1), spec).unwrap()
    }
}

fn slice_of(service: &str, ends: &[End]) -> Slice {
    let ends: Vec<Value> = ends
        .iter()
        .map(|end| {
            let (ready, serving, terminating) =
                [(true, true, false), (false, true, true), (false, false, true), (false, false, false)][end.state];
            let hints = end.zone.map(|zone| json!({ "forZones": [{ "name": zone }] }));
            // The last address is one that is refused.
            let address = if end.address == 5 { "127.0.0.1".to_owned() } else { format!("10.42.0.{}", end.address) };
            json!({
                "addresses": [address], "nodeName": if end.here { NODE } else { "other" }, "hints": hints,
                "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
            })
        })
        .collect();
    let ports =
        json!([{ "name": "p0", "port": 8080, "protocol": "TCP" }, { "name": "p1", "port": 8081, "protocol": "TCP" }]);
    slice_with(service, ports, ends.into()).unwrap()
}

impl Now {
    /// Lets a step happen, to what is there and to what follows from it.
    fn take(&mut self, step: Step, routing: &mut Routing) {
        match step {
            Step::Service(at, shape) => {
                let called = format!("s{at}");
                let service = shape.map(|shape| shape.service(&called));
                change(&mut self.services, name(&called), service.clone());
                routing.service(&name(&called), service);
            }
            Step::Slice(at, there) => {
                let slice = there.map(|(of, ends)| slice_of(&format!("s{of}"), &ends));
                change(&mut self.slices, name(&format!("x{at}")), slice.clone());
                routing.slice(&name(&format!("x{at}")), slice);
            }
            Step::Zone(zone) => {
                self.zone = zone;
                routing.zone(zone);
            }
            Step::Relist => {
                routing.services(self.services.clone());
                routing.slices(self.slices.clone());
            }
            Step::Publish => drop(routing.publish()),
        }
    }

    /// What follows from all of it at once.
    fn made_at_once(&self) -> Routing {
        let mut routing = routing();
        routing.zone(self.zone);
        routing.slices(self.slices.clone());
        routing.services(self.services.clone());
        routing.publish();
        routing
    }
}

fn change<T>(all: &mut HashMap<Name, T>, name: Name, value: Option<T>) {
    match value {
        Some(value) => drop(all.insert(name, value)),
        None => drop(all.remove(&name)),
    }
}

/// All that can be seen of it.
fn seen(routing: &Routing) -> (Vec<String>, Vec<String>, (usize, usize)) {
    let route = |(frontend, route): (Frontend, Rc<Route>)| {
        let Route { owner, endpoints, otherwise, affinity, sources, .. } = &*route;
        format!("{frontend} {owner} {} {endpoints:?} {otherwise:?} {affinity:?} {sources:?}", owner.uid)
    };
    let mut routes: Vec<String> = routing.table.all().into_iter().map(route).collect();
    routes.sort();
    let mut told: Vec<String> = routing.told().iter().map(|notice| format!("{notice:?}")).collect();
    told.sort();
    (routes, told, routing.without_local())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_routed_does_not_depend_on_how_it_came(steps in steps(6, 60)) {
        let (mut now, mut routing) = (Now::default(), routing());
        for step in steps {
            now.take(step, &mut routing);
        }
        routing.publish();
        prop_assert_eq!(seen(&routing), seen(&now.made_at_once()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, ..ProptestConfig::default() })]

    #[test]
    fn nor_does_it_among_thousands(steps in steps(3000, 6000)) {
        let (mut now, mut routing) = (Now::default(), routing());
        for step in steps {
            now.take(step, &mut routing);
        }
        routing.publish();
        prop_assert_eq!(seen(&routing), seen(&now.made_at_once()));
    }
}

#[test]
fn one_change_among_thousands_is_one_services_work() {
    let mut routing = routing();
    let spec = |at: usize| json!({ "clusterIPs": [format!("10.43.{}.{}", 1 + at / 250, at % 250)] });
    for at in 0..3000 {
        let called = format!("s{at}");
        routing.service(&name(&called), service(&called, spec(at)));
        routing.slice(&name(&called), slice(&called, json!([here("10.42.0.5")])));
    }
    assert_eq!(routing.publish().len(), 3000);
    let mut changes = routing.table.subscribe();
    while changes.try_recv().is_ok() {}
    routing.slice(&name("s7"), slice("s7", json!([here("10.42.0.6")])));
    assert_eq!(routing.publish().len(), 1);
    assert_eq!(changes.try_recv().unwrap(), frontend("10.43.1.7:80/tcp"));
    assert!(changes.try_recv().is_err());
}
