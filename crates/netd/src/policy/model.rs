//! What of the API's objects matters here, and as little of it as is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Container, Pod as ApiPod};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy as ApiPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{Expression, Selector};

use super::addresses::Addresses;
use crate::control::protocol;
use crate::notice::About;
use crate::table::Protocol;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A Pod that policies are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub labels: Labels,
    /// Its own, once the API knows it.
    pub address: Option<Ipv4Addr>,
    /// Ports by name.
    pub ports: Vec<(String, Protocol, u16)>,
}

impl Pod {
    /// `None` for one that has no address of its own: no more, or the node's.
    pub fn new(pod: ApiPod) -> Option<Self> {
        let (spec, status) = (pod.spec?, pod.status.unwrap_or_default());
        let over = status.phase.is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
        if over || spec.host_network == Some(true) {
            return None;
        }
        // Containers that run beside the others (sidecars) are among the init containers.
        let containers = spec.init_containers.into_iter().flatten().chain(spec.containers);
        Some(Self {
            namespace: pod.metadata.namespace?,
            labels: pod.metadata.labels.unwrap_or_default(),
            address: status.pod_ip.and_then(|address| address.parse().ok()),
            ports: containers.flat_map(named_ports).collect(),
        })
    }
}

fn named_ports(container: Container) -> Vec<(String, Protocol, u16)> {
    let named = |port: k8s_openapi::api::core::v1::ContainerPort| {
        let protocol = protocol(port.protocol.as_deref())?;
        Some((port.name?, protocol, u16::try_from(port.container_port).ok()?))
    };
    container.ports.into_iter().flatten().filter_map(named).collect()
}

/// A policy.
#[derive(Clone, Debug)]
pub struct NetworkPolicy {
    pub about: About,
    /// The Pods of its namespace that it isolates.
    pub pods: Selector,
    /// Who may talk to them; `None` where it says nothing of that.
    pub ingress: Option<Vec<Rule>>,
    /// Whom they may talk to.
    pub egress: Option<Vec<Rule>>,
    /// What of it cannot be had.
    pub flaws: BTreeSet<&'static str>,
}

/// One thing that is allowed.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The other side; `None`: anyone.
    pub peers: Option<Vec<Peer>>,
    /// Ports of whoever is talked to; `None`: all.
    pub ports: Option<Vec<Port>>,
}

/// The other side.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Whoever has one of these addresses.
    Block(Addresses),
    /// Pods.
    Pods {
        /// In these namespaces; `None`: the policy's own.
        namespaces: Option<Selector>,
        /// These of them.
        pods: Selector,
    },
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// Of a number in a range.
    Numbers(Protocol, u16, u16),
    /// Of a name, whatever number a Pod gives it.
    Name(Protocol, String),
}

const SCTP: &str = "SCTP is not carried, so what it allows of it has no effect";
const UNKNOWN: &str = "a part of it is not understood and allows nothing";

impl NetworkPolicy {
    /// Reads one.
    pub fn new(policy: ApiPolicy) -> Self {
        let mut flaws = BTreeSet::new();
        let spec = policy.spec.unwrap_or_default();
        let (ingress, egress) = directions(&spec);
        let ingress = ingress.then(|| {
            let rules = spec.ingress.into_iter().flatten();
            rules.map(|rule| Rule::new(rule.from, rule.ports, &mut flaws)).collect()
        });
        let egress = egress.then(|| {
            let rules = spec.egress.into_iter().flatten();
            rules.map(|rule| Rule::new(rule.to, rule.ports, &mut flaws)).collect()
        });
        Self {
            about: About {
                api_version: "networking.k8s.io/v1",
                kind: "NetworkPolicy",
                namespace: policy.metadata.namespace.unwrap_or_default(),
                name: policy.metadata.name.unwrap_or_default(),
                uid: policy.metadata.uid.unwrap_or_default(),
            },
            pods: selector(spec.pod_selector.unwrap_or_default(), &mut flaws),
            ingress,
            egress,
            flaws,
        }
    }
}

impl Rule {
    fn new(
        peers: Option<Vec<NetworkPolicyPeer>>,
        ports: Option<Vec<NetworkPolicyPort>>,
        flaws: &mut BTreeSet<&'static str>,
    ) -> Self {
        Self {
            peers: all_if_none(peers).map(|peers| peers.into_iter().filter_map(|one| peer(one, flaws)).collect()),
            ports: all_if_none(ports).map(|ports| ports.into_iter().filter_map(|one| port(one, flaws)).collect()),
        }
    }
}

/// Whether a policy is about ingress and about egress. The API server fills in what is left out, by this rule.
fn directions(spec: &NetworkPolicySpec) -> (bool, bool) {
    match spec.policy_types.as_deref() {
        None | Some([]) => (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())),
        Some(types) => (types.iter().any(|name| name == "Ingress"), types.iter().any(|name| name == "Egress")),
    }
}

/// An empty list says the same as none: no restriction.
fn all_if_none<T>(list: Option<Vec<T>>) -> Option<Vec<T>> {
    list.filter(|list| !list.is_empty())
}

fn peer(peer: NetworkPolicyPeer, flaws: &mut BTreeSet<&'static str>) -> Option<Peer> {
    if let Some(block) = peer.ip_block {
        return addresses(block, flaws).map(Peer::Block);
    }
    Some(Peer::Pods {
        namespaces: peer.namespace_selector.map(|namespaces| selector(namespaces, flaws)),
        pods: selector(peer.pod_selector.unwrap_or_default(), flaws),
    })
}

/// IPv6 addresses are nobody's here.
fn addresses(block: IPBlock, flaws: &mut BTreeSet<&'static str>) -> Option<Addresses> {
    let net = |text: &str, flaws: &mut BTreeSet<_>| {
        let net = text.parse::<Ipv4Net>().ok();
        if net.is_none() && !text.contains(':') {
            flaws.insert(UNKNOWN);
        }
        net
    };
    let all = Addresses::net(net(&block.cidr, flaws)?);
    let mut without = Addresses::default();
    for text in block.except.into_iter().flatten() {
        if let Some(net) = net(&text, flaws) {
            without = without.with(&Addresses::net(net));
        }
    }
    Some(all.without(&without))
}

fn port(port: NetworkPolicyPort, flaws: &mut BTreeSet<&'static str>) -> Option<Port> {
    let Some(protocol) = protocol(port.protocol.as_deref()) else {
        flaws.insert(SCTP);
        return None;
    };
    let number = |number: i32| u16::try_from(number).ok();
    let numbers = match (port.port, port.end_port) {
        (None, _) => Some((0, u16::MAX)),
        (Some(IntOrString::String(name)), _) => return Some(Port::Name(protocol, name)),
        (Some(IntOrString::Int(first)), None) => number(first).map(|first| (first, first)),
        (Some(IntOrString::Int(first)), Some(last)) => number(first).zip(number(last)),
    };
    if numbers.is_none() {
        flaws.insert(UNKNOWN);
    }
    numbers.map(|(first, last)| Port::Numbers(protocol, first, last))
}

/// One that cannot be understood selects nothing; the API server lets none through.
fn selector(selector: LabelSelector, flaws: &mut BTreeSet<&'static str>) -> Selector {
    Selector::try_from(selector).unwrap_or_else(|_| {
        flaws.insert(UNKNOWN);
        [Expression::In(String::new(), BTreeSet::new())].into_iter().collect()
    })
}
