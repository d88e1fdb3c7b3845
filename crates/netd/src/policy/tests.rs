//! What policies come to, and that the table's rules say the same.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::pin;
use std::time::Duration;

use ipnet::Ipv4Net;
use proptest::prelude::*;
use serde_json::{Value, json};
use terrarium_cni::iptables::{self, Chain, Hook, Match, Target};
use tokio::time::timeout;

use super::Policy;
use super::acl::{self, Level};
use super::compiled::{Compiled, Node, Placed};
use super::model::{NetworkPolicy, Pod};
use crate::config::Config;
use crate::fixtures::config;
use crate::relay;
use crate::table::Protocol::{self, Tcp, Udp};

const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);

fn pod_ip(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 42, 0, number)
}

fn node() -> Node {
    let config = config();
    Node { address: config.node_address, gateway: config.gateway, services: config.services, dns: config.dns }
}

/// A Pod whose port `web` is 8000 and its own number.
fn pod(namespace: &str, number: u8, labels: &[(&str, &str)]) -> Pod {
    Pod {
        namespace: namespace.into(),
        labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        address: Some(pod_ip(number)),
        ports: vec![("web".into(), Tcp, 8000 + u16::from(number))],
    }
}

fn policy(namespace: &str, spec: Value) -> NetworkPolicy {
    let policy = json!({"metadata": {"name": "p", "namespace": namespace}, "spec": spec});
    NetworkPolicy::new(serde_json::from_value(policy).unwrap())
}

fn compile(policies: &[NetworkPolicy], pods: &[Pod]) -> Compiled {
    let labels = |name: &str| [("name".to_owned(), name.to_owned())].into();
    let namespaces: HashMap<_, _> = ["a", "b"].map(|name| (name.to_owned(), labels(name))).into();
    let dns = super::follow::name_server(DNS);
    let place = |pod| Placed { pod, address: pod.address.unwrap() };
    let pods: Vec<_> = pods.iter().chain([&dns]).map(place).collect();
    Compiled::new(node(), policies, &pods, &namespaces)
}

/// A Pod that nobody may talk to.
pub(crate) fn default_deny() -> Compiled {
    compile(&[policy("a", json!({"podSelector": {}}))], &[pod("a", 2, &[])])
}

struct World(Compiled);

impl World {
    fn tcp(&self, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> bool {
        self.0.allows(from, SocketAddrV4::new(to, port), Tcp)
    }

    fn udp(&self, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> bool {
        self.0.allows(from, SocketAddrV4::new(to, port), Udp)
    }
}

/// Pods 2 and 3 in namespace a, 4 in b; 2 and 4 have the label app=web, 3 has app=db.
fn world(policies: &[(&str, Value)]) -> World {
    let pods = [pod("a", 2, &[("app", "web")]), pod("a", 3, &[("app", "db")]), pod("b", 4, &[("app", "web")])];
    let policies: Vec<_> = policies.iter().map(|(namespace, spec)| policy(namespace, spec.clone())).collect();
    World(compile(&policies, &pods))
}

#[test]
fn without_policies_all_is_allowed() {
    let world = world(&[]);
    assert!(world.0.is_empty() && world.tcp(pod_ip(2), pod_ip(3), 80) && world.udp(OUTSIDE, pod_ip(3), 53));
}

#[test]
fn a_default_deny_isolates_its_namespace_and_not_from_the_node_or_from_itself() {
    let world = world(&[("a", json!({"podSelector": {}}))]);
    assert!(!world.tcp(pod_ip(4), pod_ip(2), 80) && !world.udp(pod_ip(3), pod_ip(2), 53));
    assert!(!world.tcp(OUTSIDE, pod_ip(2), 80));
    assert!(world.tcp(pod_ip(2), pod_ip(4), 80), "nothing is said of egress");
    assert!(world.tcp(GATEWAY, pod_ip(2), 80) && world.tcp(pod_ip(2), pod_ip(2), 80));
    assert!(world.tcp(config().node_address, pod_ip(2), 80) && world.tcp([10, 43, 0, 1].into(), pod_ip(2), 80));
}

#[test]
fn egress_is_about_whom_a_pod_talks_to() {
    let world = world(&[("a", json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]}))]);
    assert!(!world.tcp(pod_ip(2), pod_ip(3), 80) && !world.tcp(pod_ip(2), OUTSIDE, 80));
    assert!(!world.udp(pod_ip(2), DNS, 53), "names are asked of a Pod, as it were");
    assert!(world.tcp(pod_ip(2), config().node_address, 6443) && world.tcp(pod_ip(2), GATEWAY, 80));
    assert!(world.tcp(pod_ip(3), pod_ip(2), 80) && world.udp(pod_ip(3), DNS, 53));
}

#[test]
fn the_name_server_is_a_pod_of_kube_system() {
    let to = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}]);
    let ports = json!([{"port": 53, "protocol": "UDP"}, {"port": "dns-tcp"}]);
    let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to, "ports": ports}]});
    let world = world(&[("a", spec)]);
    assert!(world.udp(pod_ip(2), DNS, 53) && world.tcp(pod_ip(2), DNS, 53));
    assert!(!world.udp(pod_ip(2), DNS, 54) && !world.tcp(pod_ip(2), DNS, 9153) && !world.udp(pod_ip(2), pod_ip(3), 53));
}

#[test]
fn peers_are_pods_of_namespaces_or_blocks() {
    let by_label = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    let of_b = json!({"namespaceSelector": {"matchLabels": {"name": "b"}}});
    let both =
        json!({"namespaceSelector": {"matchLabels": {"name": "b"}}, "podSelector": {"matchLabels": {"app": "db"}}});
    let block = json!({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.7/32"]}});
    let to_db = |from: Value| {
        let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [from]}]});
        let world = world(&[("a", spec)]);
        let block = [OUTSIDE, [192, 0, 2, 8].into()];
        [pod_ip(2), pod_ip(4), block[0], block[1]].map(|from| world.tcp(from, pod_ip(3), 80))
    };
    assert_eq!(to_db(by_label), [true, false, false, false]);
    assert_eq!(to_db(of_b), [false, true, false, false]);
    assert_eq!(to_db(both), [false; 4]);
    assert_eq!(to_db(block), [false, false, false, true]);
}

#[test]
fn ports_have_numbers_ranges_and_names() {
    let ports = json!([{"port": "web"}, {"port": 90, "endPort": 95}, {"port": 53, "protocol": "UDP"}]);
    let ingress = world(&[("a", json!({"podSelector": {}, "ingress": [{"ports": ports}]}))]);
    let egress = world(&[("a", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": ports}]}))]);
    for world in [ingress, egress] {
        let tcp = [8003, 8002, 90, 95, 96, 53].map(|port| world.tcp(pod_ip(2), pod_ip(3), port));
        assert_eq!(tcp, [true, false, true, true, false, false]);
        assert!(world.udp(pod_ip(2), pod_ip(3), 53) && !world.udp(pod_ip(2), pod_ip(3), 90));
    }
}

#[test]
fn empty_lists_restrict_nothing_and_several_policies_add_up() {
    let deny = json!({"podSelector": {}});
    let all = json!({"podSelector": {}, "ingress": [{"from": [], "ports": []}]});
    assert!(!world(&[("a", deny.clone())]).tcp(OUTSIDE, pod_ip(2), 1));
    assert!(world(&[("a", deny), ("a", all)]).tcp(OUTSIDE, pod_ip(2), 1));
}

#[test]
fn what_cannot_be_had_is_said_and_allows_nothing() {
    let only_sctp = policy("a", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 7, "protocol": "SCTP"}]}]}));
    assert_eq!(only_sctp.flaws.len(), 1);
    let world = World(compile(&[only_sctp], &[pod("a", 2, &[])]));
    assert!(!world.tcp(OUTSIDE, pod_ip(2), 7), "a list of which nothing is left is not an empty list");
    let six = policy("a", json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "::/0"}}]}]}));
    assert!(six.flaws.is_empty() && !World(compile(&[six], &[pod("a", 2, &[])])).tcp(OUTSIDE, pod_ip(2), 7));
}

#[test]
fn the_rules_are_few() {
    let pods: Vec<_> = (16..32).map(|number| pod("a", number, &[("app", "web")])).collect();
    let from = json!([{"podSelector": {}}]);
    let spec = json!({"podSelector": {}, "ingress": [{"from": from, "ports": [{"port": 80}, {"port": 81}]}]});
    let chains = acl::chains(&compile(&[policy("a", spec)], &pods), &config(), Level::Exact);
    assert_eq!(chains.len(), 1);
    let rules: Vec<_> = chains[0].rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        [
            "-s 10.42.0.1/32 -j RETURN",
            "-s 10.43.0.0/16 -j RETURN",
            "-s 10.201.0.2/32 -j RETURN",
            "-s 10.42.0.16/28 -d 10.42.0.16/28 -p tcp -m tcp --dport 80:81 -j RETURN",
            "-d 10.42.0.16/28 -j DROP",
        ]
    );
}

/// What becomes of a new connection or flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    Dropped,
    Relayed,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    source: Ipv4Addr,
    destination: SocketAddrV4,
    protocol: Protocol,
}

/// What the kernel would do with a new connection from a Pod or the outside, by our chains alone.
fn fate(chains: &[Chain], packet: Packet) -> Fate {
    let local = |address: Ipv4Addr| node().is(address) || address == DNS;
    let hooks = [Hook::Prerouting, if local(*packet.destination.ip()) { Hook::Input } else { Hook::Postrouting }];
    for hook in hooks {
        for chain in chains {
            if !chain.jumps.iter().any(|(from, when)| *from == hook && matches(when, packet)) {
                continue;
            }
            match chain.rules.iter().find(|rule| matches(&rule.when, packet)).map(|rule| rule.then) {
                None | Some(Target::Return) => {}
                Some(Target::Drop) => return Fate::Dropped,
                Some(Target::Redirect(relay::PORT)) => return Fate::Relayed,
                Some(other) => panic!("{other:?} in {}", chain.name),
            }
        }
    }
    Fate::Passes
}

fn matches(when: &Match, packet: Packet) -> bool {
    let within = |addresses: Option<iptables::Addresses>, address| match addresses {
        None => true,
        Some(iptables::Addresses::In(net)) => net.contains(&address),
        Some(iptables::Addresses::NotIn(net)) => !net.contains(&address),
    };
    when.protocol.is_none_or(|wanted| wanted == packet.protocol)
        && within(when.source, packet.source)
        && within(when.destination, *packet.destination.ip())
        && when.source_ports.is_none()
        && when.destination_ports.as_ref().is_none_or(|ports| ports.contains(&packet.destination.port()))
}

fn some_pods() -> impl Strategy<Value = Vec<Pod>> {
    let one = ("[ab]", "[xyz]", "[xyz]").prop_map(|(namespace, app, tier)| (namespace, app, tier));
    prop::collection::vec(one, 1..12).prop_map(|pods| {
        let pods = pods.into_iter().zip(2..);
        pods.map(|((namespace, app, tier), number)| pod(&namespace, number, &[("app", &app), ("tier", &tier)]))
            .collect()
    })
}

fn some_selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        ("app|tier", "[xyz]").prop_map(|(key, value)| json!({"matchLabels": {key: value}})),
        ("app|tier", "[xyz]").prop_map(|(key, value)| {
            json!({"matchExpressions": [{"key": key, "operator": "NotIn", "values": [value]}]})
        }),
    ]
}

fn some_peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        some_selector().prop_map(|pods| json!({"podSelector": pods})),
        (some_selector(), "[ab]").prop_map(|(pods, namespace)| {
            json!({"podSelector": pods, "namespaceSelector": {"matchLabels": {"name": namespace}}})
        }),
        Just(json!({"namespaceSelector": {}})),
        (24u8..=32, 0u8..16).prop_map(|(prefix, number)| {
            let net = Ipv4Net::new(pod_ip(number), prefix).unwrap().trunc();
            json!({"ipBlock": {"cidr": net.to_string(), "except": [format!("{}/32", pod_ip(number))]}})
        }),
        Just(json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.42.0.0/24"]}})),
    ]
}

fn some_port() -> impl Strategy<Value = Value> {
    prop_oneof![
        (53u16..56, 0u16..2).prop_map(|(port, more)| json!({"port": port, "endPort": port + more})),
        (53u16..56).prop_map(|port| json!({"port": port, "protocol": "UDP"})),
        Just(json!({"port": "web"})),
        Just(json!({"protocol": "UDP"})),
        Just(json!({"port": 1, "protocol": "SCTP"})),
    ]
}

fn some_policies() -> impl Strategy<Value = Vec<NetworkPolicy>> {
    let rule = || (prop::collection::vec(some_peer(), 0..3), prop::collection::vec(some_port(), 0..3));
    let rules = || prop::collection::vec(rule(), 0..3);
    let one = ("[ab]", some_selector(), rules(), rules(), 1u8..4).prop_map(|(namespace, pods, ins, outs, types)| {
        let types: Vec<_> =
            [(1, "Ingress"), (2, "Egress")].iter().filter(|(bit, _)| types & bit != 0).map(|(_, name)| *name).collect();
        let ins: Vec<_> = ins.into_iter().map(|(from, ports)| json!({"from": from, "ports": ports})).collect();
        let outs: Vec<_> = outs.into_iter().map(|(to, ports)| json!({"to": to, "ports": ports})).collect();
        policy(&namespace, json!({"podSelector": pods, "ingress": ins, "egress": outs, "policyTypes": types}))
    });
    prop::collection::vec(one, 0..5)
}

/// Connections of everyone to everyone, by ports that matter.
fn packets(pods: &[Pod]) -> Vec<Packet> {
    let mut sources: Vec<_> = pods.iter().filter_map(|pod| pod.address).collect();
    sources.extend([OUTSIDE]);
    let destinations: Vec<_> = sources.iter().copied().chain([DNS, GATEWAY]).collect();
    let mut packets = Vec::new();
    for source in sources {
        for to in destinations.iter().filter(|to| **to != source) {
            for (protocol, port) in [(Tcp, 53), (Tcp, 54), (Tcp, 8003), (Tcp, 99), (Udp, 53), (Udp, 55), (Udp, 99)] {
                packets.push(Packet { source, destination: SocketAddrV4::new(*to, port), protocol });
            }
        }
    }
    packets
}

/// As in a process that has just begun: what its predecessor set in the table holds on.
#[test]
fn nothing_passes_before_it_is_known_what_may() {
    let policy = Policy::default();
    assert!(policy.compiled().is_none());
    let destination = SocketAddrV4::new(pod_ip(2), 80);
    assert!(!policy.allows(GATEWAY, destination, Tcp));
    assert!(Policy::none().allows(GATEWAY, destination, Tcp));
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_a_policy_that_was_heard_of() {
    let all = Policy::none();
    all.attach("a", "free", pod_ip(2)).await;
    assert!(all.attachments.addresses().is_empty(), "there is nothing to wait for");
    all.announce([policy("a", json!({"podSelector": {}})).about].into());
    let mut attached = pin!(all.attach("a", "held", pod_ip(3)));
    assert!(timeout(Duration::from_secs(1), attached.as_mut()).await.is_err());
    all.set(default_deny());
    all.attachments.compiled(|name| *name.name == *"held");
    all.enforced(all.generation());
    assert!(timeout(Duration::from_secs(1), attached).await.is_ok());
}

/// Of a sandbox that was made anew the API has the former one's address still.
#[tokio::test(start_paused = true)]
async fn a_pod_is_known_once_its_present_address_is() {
    let all = Policy::none();
    all.announce([policy("a", json!({"podSelector": {}})).about].into());
    let mut attached = pin!(all.attach("a", "anew", pod_ip(4)));
    assert!(timeout(Duration::ZERO, attached.as_mut()).await.is_err());
    all.attachments.retain(|_| Some(Some(pod_ip(3))));
    assert_eq!(all.attachments.addresses().into_values().collect::<Vec<_>>(), [pod_ip(4)]);
    all.attachments.retain(|_| Some(Some(pod_ip(4))));
    assert!(all.attachments.addresses().is_empty());
    // Nor does anybody else have an address that was given anew.
    let mut first = pin!(all.attach("a", "first", pod_ip(5)));
    assert!(timeout(Duration::ZERO, first.as_mut()).await.is_err());
    let mut second = pin!(all.attach("a", "second", pod_ip(5)));
    assert!(timeout(Duration::ZERO, second.as_mut()).await.is_err());
    assert_eq!(all.attachments.addresses().into_keys().map(|name| name.name).collect::<Vec<_>>(), ["second".into()]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn exact_rules_let_pass_just_what_is_allowed(pods in some_pods(), policies in some_policies()) {
        let compiled = compile(&policies, &pods);
        let chains = acl::chains(&compiled, &config(), Level::Exact);
        for packet in packets(&pods) {
            let allowed = compiled.allows(packet.source, packet.destination, packet.protocol);
            let expected = if allowed { Fate::Passes } else { Fate::Dropped };
            prop_assert_eq!(fate(&chains, packet), expected, "{:?}", packet);
        }
    }

    #[test]
    fn fewer_rules_let_nothing_else_pass(pods in some_pods(), policies in some_policies()) {
        let compiled = compile(&policies, &pods);
        for level in [Level::Relayed, Level::Closed, Level::Coarse] {
            let chains = acl::chains(&compiled, &config(), level);
            for packet in packets(&pods) {
                let allowed = compiled.allows(packet.source, packet.destination, packet.protocol);
                let names = *packet.destination.ip() == DNS;
                match fate(&chains, packet) {
                    // Names are asked for by UDP and TCP, past the relay.
                    Fate::Passes => prop_assert!(allowed, "{:?} {:?}", level, packet),
                    Fate::Dropped if names && level < Level::Coarse => prop_assert!(!allowed, "{:?} {:?}", level, packet),
                    Fate::Dropped if level == Level::Relayed => prop_assert!(!allowed, "{:?} {:?}", level, packet),
                    Fate::Dropped => prop_assert!(packet.protocol == Udp || names),
                    Fate::Relayed => prop_assert!(packet.protocol == Tcp && !names, "the relay decides"),
                }
            }
        }
    }

    #[test]
    fn where_nothing_is_routed_only_names_are_filtered(pods in some_pods(), policies in some_policies()) {
        let compiled = compile(&policies, &pods);
        let chains = acl::chains(&compiled, &Config { routed: false, ..config() }, Level::Exact);
        for packet in packets(&pods) {
            let names = *packet.destination.ip() == DNS;
            let allowed = compiled.allows(packet.source, packet.destination, packet.protocol);
            prop_assert_eq!(fate(&chains, packet) == Fate::Passes, !names || allowed, "{:?}", packet);
        }
    }

    #[test]
    fn each_step_down_takes_less_room(pods in some_pods(), policies in some_policies()) {
        let compiled = compile(&policies, &pods);
        let size = |level| acl::chains(&compiled, &config(), level).iter().map(Chain::size).sum::<usize>();
        prop_assert!(size(Level::Coarse) <= size(Level::Closed));
        prop_assert!(size(Level::Closed) <= size(Level::Relayed));
    }
}
