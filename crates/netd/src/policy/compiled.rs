//! Policies as what they come to: which addresses may talk to which, by which ports.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Deref;

use ipnet::Ipv4Net;
use kube::core::SelectorExt as _;

use super::addresses::Addresses;
use super::model::{Labels, NetworkPolicy, Peer, Pod, Port, Rule};
use crate::table::Protocol;

/// The label that every namespace has.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The node's own addresses: what comes from there or goes there is allowed, as upstream has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub address: Ipv4Addr,
    pub gateway: Ipv4Addr,
    /// Addresses of Services are the node's own; it is their source when the node talks to itself or past the relay.
    pub services: Ipv4Net,
    /// But for the name server's, which policies see as a Pod.
    pub dns: Ipv4Addr,
}

/// A Pod that has an address.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    pub pod: &'a Pod,
    pub address: Ipv4Addr,
}

impl Deref for Placed<'_> {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        self.pod
    }
}

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// Without it nothing is isolated.
    pub node: Option<Node>,
    /// Pods that not everyone may talk to.
    pub ingress: Direction,
    /// Pods that may not talk to everyone.
    pub egress: Direction,
}

/// Isolated Pods, those together that are allowed the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    pub groups: Vec<Group>,
    by_pod: HashMap<Ipv4Addr, usize>,
}

/// Pods that are allowed the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub pods: Addresses,
    /// And nothing else.
    pub allowed: Vec<Allowed>,
}

/// Ports and the addresses that may use them, or that may be talked to by them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Allowed {
    pub ports: Ports,
    pub peers: Addresses,
}

/// Ports of whoever is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// `None`: any, also one without ports.
    pub protocol: Option<Protocol>,
    pub first: u16,
    pub last: u16,
}

impl Ports {
    pub const ALL: Self = Self { protocol: None, first: 0, last: u16::MAX };

    fn contains(&self, other: &Self) -> bool {
        let protocol = self.protocol.is_none() || self.protocol == other.protocol;
        protocol && self.first <= other.first && other.last <= self.last
    }
}

impl Direction {
    fn of_pods(pods: BTreeMap<Ipv4Addr, Vec<Allowed>>) -> Self {
        let mut groups: HashMap<Vec<Allowed>, Vec<Ipv4Addr>> = HashMap::new();
        for (pod, allowed) in pods {
            groups.entry(allowed).or_default().push(pod);
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_unstable_by(|(_, one), (_, other)| one.cmp(other)); // the same rules for the same policies
        let mut by_pod = HashMap::new();
        let mut add = |(index, (allowed, pods)): (usize, (Vec<Allowed>, Vec<Ipv4Addr>))| {
            by_pod.extend(pods.iter().map(|pod| (*pod, index)));
            Group { pods: pods.into_iter().collect(), allowed }
        };
        Self { groups: groups.into_iter().enumerate().map(&mut add).collect(), by_pod }
    }

    /// All that are isolated.
    pub fn pods(&self) -> Addresses {
        self.by_pod.keys().copied().collect()
    }

    fn allows(&self, pod: Ipv4Addr, peer: Ipv4Addr, port: Ports) -> bool {
        let Some(group) = self.by_pod.get(&pod) else { return true };
        self.groups[*group].allowed.iter().any(|allowed| allowed.ports.contains(&port) && allowed.peers.contains(peer))
    }

    /// With less allowed.
    pub fn only(&self, keep: impl Fn(&Allowed) -> Option<Allowed>) -> Self {
        let group = |group: &Group| Group {
            pods: group.pods.clone(),
            allowed: group.allowed.iter().filter_map(&keep).collect(),
        };
        Self { groups: self.groups.iter().map(group).collect(), by_pod: self.by_pod.clone() }
    }
}

impl Compiled {
    /// What policies come to with these Pods.
    pub fn new<'a>(
        node: Node,
        policies: impl IntoIterator<Item = &'a NetworkPolicy>,
        pods: &[Placed<'_>],
        namespaces: &HashMap<String, Labels>,
    ) -> Self {
        let (mut ingress, mut egress) = (BTreeMap::new(), BTreeMap::new());
        for policy in policies {
            let selected = || {
                let own =
                    |pod: &&Placed<'_>| pod.namespace == policy.about.namespace && policy.pods.matches(&pod.labels);
                pods.iter().filter(own)
            };
            let peers = |rule: &Rule| peers(rule, &policy.about.namespace, pods, namespaces);
            if let Some(rules) = &policy.ingress {
                let rules: Vec<_> = rules.iter().map(|rule| (peers(rule), &rule.ports)).collect();
                for pod in selected() {
                    let allowed: &mut Vec<_> = ingress.entry(pod.address).or_default();
                    for (peers, ports) in &rules {
                        allowed.extend(numbers(ports, pod).map(|ports| Allowed { ports, peers: peers.clone() }));
                    }
                }
            }
            if let Some(rules) = &policy.egress {
                let rules: Vec<_> =
                    rules.iter().flat_map(|rule| destinations(peers(rule), &rule.ports, pods)).collect();
                for pod in selected().filter(|pod| pod.address != node.dns) {
                    egress.entry(pod.address).or_insert_with(Vec::new).extend(rules.iter().cloned());
                }
            }
        }
        let direction = |pods: BTreeMap<_, Vec<Allowed>>| {
            Direction::of_pods(pods.into_iter().map(|(pod, allowed)| (pod, simplest(allowed))).collect())
        };
        Self { ingress: direction(ingress), egress: direction(egress), node: Some(node) }
    }

    /// Whether anything is isolated.
    pub fn is_empty(&self) -> bool {
        self.ingress.groups.is_empty() && self.egress.groups.is_empty()
    }

    /// Whether a new connection or flow is allowed.
    pub fn allows(&self, source: Ipv4Addr, destination: SocketAddrV4, protocol: Protocol) -> bool {
        let Some(node) = &self.node else { return true };
        let (to, port) = (*destination.ip(), destination.port());
        // Nobody can keep a Pod from itself.
        if source == to || node.is(source) || node.is(to) {
            return true;
        }
        let port = Ports { protocol: Some(protocol), first: port, last: port };
        self.egress.allows(source, to, port) && self.ingress.allows(to, source, port)
    }
}

impl Node {
    /// Whether an address is the node's own.
    pub fn is(&self, address: Ipv4Addr) -> bool {
        address != self.dns && (address == self.address || address == self.gateway || self.services.contains(&address))
    }
}

/// The addresses of the other side.
fn peers(rule: &Rule, own: &str, pods: &[Placed<'_>], namespaces: &HashMap<String, Labels>) -> Addresses {
    let Some(peers) = &rule.peers else { return Addresses::all() };
    let one = |peer: &Peer| match peer {
        Peer::Block(addresses) => addresses.clone(),
        Peer::Pods { namespaces: of, pods: selector } => {
            let in_namespace = |pod: &Pod| match (of, namespaces.get(&pod.namespace)) {
                (None, _) => pod.namespace == own,
                (Some(of), Some(labels)) => of.matches(labels),
                // Not known yet: all that can be said of its labels is this one.
                (Some(of), None) => of.matches(&[(NAMESPACE_NAME.to_owned(), pod.namespace.clone())].into()),
            };
            let matching = pods.iter().filter(|pod| in_namespace(pod) && selector.matches(&pod.labels));
            matching.map(|pod| pod.address).collect()
        }
    };
    peers.iter().map(one).fold(Addresses::default(), |all, some| all.with(&some))
}

/// A rule's ports, where this Pod is talked to.
fn numbers<'a>(ports: &'a Option<Vec<Port>>, pod: &'a Pod) -> impl Iterator<Item = Ports> + 'a {
    let all = ports.is_none().then_some(Ports::ALL);
    all.into_iter().chain(ports.iter().flatten().flat_map(move |port| number(port, pod)))
}

fn number(port: &Port, pod: &Pod) -> Vec<Ports> {
    match port {
        Port::Numbers(protocol, first, last) => {
            vec![Ports { protocol: Some(*protocol), first: *first, last: *last }]
        }
        Port::Name(protocol, name) => {
            let named = pod.ports.iter().filter(|(other, its, _)| other == name && its == protocol);
            named.map(|(_, _, port)| Ports { protocol: Some(*protocol), first: *port, last: *port }).collect()
        }
    }
}

/// What a rule allows Pods to talk to. A port's name is looked up at each Pod among the peers; nobody else has any.
fn destinations(peers: Addresses, ports: &Option<Vec<Port>>, pods: &[Placed<'_>]) -> Vec<Allowed> {
    let Some(ports) = ports else { return vec![Allowed { ports: Ports::ALL, peers }] };
    let mut allowed = Vec::new();
    for port in ports {
        match port {
            Port::Numbers(protocol, first, last) => {
                let ports = Ports { protocol: Some(*protocol), first: *first, last: *last };
                allowed.push(Allowed { ports, peers: peers.clone() });
            }
            Port::Name(..) => {
                for pod in pods.iter().filter(|pod| peers.contains(pod.address)) {
                    let here: Addresses = [pod.address].into_iter().collect();
                    allowed.extend(number(port, pod).into_iter().map(|ports| Allowed { ports, peers: here.clone() }));
                }
            }
        }
    }
    allowed
}

/// The same with as few entries as is simply found: each port range once, neighbouring ranges of the same peers as one,
/// nothing that a wider entry allows anyway.
fn simplest(allowed: Vec<Allowed>) -> Vec<Allowed> {
    let mut by_ports: BTreeMap<Ports, Addresses> = BTreeMap::new();
    for one in allowed.into_iter().filter(|one| !one.peers.is_empty()) {
        let peers = by_ports.entry(one.ports).or_default();
        *peers = peers.with(&one.peers);
    }
    let mut joined: Vec<Allowed> = Vec::new();
    for (ports, peers) in by_ports {
        let next_to = |one: &&mut Allowed| {
            let before = &one.ports;
            one.peers == peers && before.protocol == ports.protocol && u32::from(before.last) + 1 >= ports.first.into()
        };
        match joined.iter_mut().rev().find(next_to) {
            Some(one) => one.ports.last = one.ports.last.max(ports.last),
            None => joined.push(Allowed { ports, peers }),
        }
    }
    let needless = |(index, one): &(usize, &Allowed)| {
        let wider = |(other_index, other): (usize, &Allowed)| {
            other_index != *index && other.ports.contains(&one.ports) && other.peers.contains_all(&one.peers)
                // Of two that say the same, one stays.
                && (other != *one || other_index < *index)
        };
        joined.iter().enumerate().any(wider)
    };
    let all = joined.iter().enumerate();
    all.filter(|one| !needless(one)).map(|(_, one)| one.clone()).collect()
}
