//! Which endpoints of a Service are used from this node: kube-proxy's rules (its `topology.go`).

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use super::slice::Endpoint;

/// What a port of a Service asks for.
#[derive(Clone, Copy, Debug)]
pub struct Policies {
    /// Something leads to any endpoint.
    pub cluster: bool,
    /// Something leads only to endpoints of this node.
    pub local: bool,
}

/// The endpoints that are used.
#[derive(Debug, Default, PartialEq)]
pub struct Choice {
    /// By what leads to any endpoint.
    pub cluster: Vec<SocketAddrV4>,
    /// By what leads only to endpoints of this node.
    pub local: Vec<SocketAddrV4>,
    /// Whether any endpoint can be used at all, on whatever node.
    pub any: bool,
}

/// Chooses. Endpoints on their way out are used where no others are left.
pub fn choose(endpoints: &BTreeMap<SocketAddrV4, &Endpoint>, policies: Policies, zone: Option<&str>) -> Choice {
    let which = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<SocketAddrV4> {
        endpoints.iter().filter(|(_, endpoint)| wanted(endpoint)).map(|(address, _)| *address).collect()
    };
    let leaving = |endpoint: &Endpoint| endpoint.serving && endpoint.terminating;
    let mut choice = Choice::default();
    if policies.cluster {
        let preferred = preference(endpoints, zone);
        choice.cluster = which(&|endpoint| endpoint.ready && preferred.has(endpoint));
        if choice.cluster.is_empty() {
            choice.cluster = which(&leaving);
        }
        choice.any = !choice.cluster.is_empty();
    }
    if policies.local {
        choice.any |= endpoints.values().any(|endpoint| endpoint.ready || leaving(endpoint));
        choice.local = which(&|endpoint| endpoint.local && endpoint.ready);
        if choice.local.is_empty() {
            choice.local = which(&|endpoint| endpoint.local && leaving(endpoint));
        }
    }
    choice
}

/// Which endpoints are better than others.
enum Preference<'a> {
    None,
    Node,
    Zone(&'a str),
}

impl Preference<'_> {
    fn has(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::None => true,
            Self::Node => endpoint.for_node == Some(true),
            Self::Zone(zone) => is_for(endpoint, zone),
        }
    }
}

fn is_for(endpoint: &Endpoint, zone: &str) -> bool {
    endpoint.for_zones.iter().any(|hint| **hint == *zone)
}

/// Hints hold only where every ready endpoint has one, and one of them is meant for here.
fn preference<'a>(endpoints: &BTreeMap<SocketAddrV4, &Endpoint>, zone: Option<&'a str>) -> Preference<'a> {
    let ready = || endpoints.values().filter(|endpoint| endpoint.ready);
    if ready().all(|endpoint| endpoint.for_node.is_some()) && ready().any(|endpoint| endpoint.for_node == Some(true)) {
        return Preference::Node;
    }
    let hinted = ready().all(|endpoint| !endpoint.for_zones.is_empty());
    match zone.filter(|zone| hinted && ready().any(|endpoint| is_for(endpoint, zone))) {
        Some(zone) => Preference::Zone(zone),
        None => Preference::None,
    }
}
