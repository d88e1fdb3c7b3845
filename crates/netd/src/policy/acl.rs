//! What is in force as rules of the nat table.
//!
//! The nat table sees the first packet of each connection or flow, so answers need no rules, and what is established
//! stays so. POSTROUTING sees the Pod's own address as source, and the destination that DNAT chose. INPUT, or
//! PREROUTING where nothing is routed, is asked for what goes to the name server; all else that goes to the node is
//! allowed, or goes to the relay, which asks by itself.
//!
//! A whole table must fit one socket option in gVisor, 8 or 32 KiB. Where the exact rules do not, TCP of the isolated
//! Pods goes to the relay, which decides for each connection: that takes a rule or two.

use ipnet::Ipv4Net;
use terrarium_cni::iptables::{self, Chain, Hook, Match, Place, Rule, Target};

use super::addresses::Addresses;
use super::compiled::{Allowed, Compiled, Direction, Node, Ports};
use crate::config::Config;
use crate::relay;
use crate::table::Protocol;

/// What Pods may send.
pub const OUT: &str = "TERRARIUM-POLICY-OUT";
/// What Pods may receive.
pub const IN: &str = "TERRARIUM-POLICY-IN";
/// What goes to the relay for it to decide.
pub const RELAYED: &str = "TERRARIUM-POLICY-TCP";

/// How exactly the table says what is allowed; each takes less room than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All of it.
    Exact,
    /// TCP is for the relay to decide. The other side sees the node's address then.
    Relayed,
    /// And of the rest only names are asked for; all else of isolated Pods is dropped.
    Closed,
    /// The same for whole nets around isolated Pods, and so for some that are not isolated.
    Coarse,
}

impl Level {
    pub const ALL: [Self; 4] = [Self::Exact, Self::Relayed, Self::Closed, Self::Coarse];

    /// How many nets isolated Pods may be said by.
    fn nets(self) -> usize {
        match self {
            Self::Exact | Self::Relayed | Self::Closed => usize::MAX,
            Self::Coarse => 1,
        }
    }

    /// What of an entry the table says.
    fn keep(self, allowed: &Allowed, dns: &Addresses) -> Option<Allowed> {
        let names = Allowed { peers: allowed.peers.within(dns), ..allowed.clone() };
        let names = Some(names).filter(|names| !names.peers.is_empty());
        match (self, allowed.ports.protocol) {
            (Self::Exact, _) | (Self::Relayed, None | Some(Protocol::Udp)) => Some(allowed.clone()),
            // The name server listens itself, by TCP too.
            (Self::Relayed, Some(Protocol::Tcp)) | (Self::Closed | Self::Coarse, _) => names,
        }
    }
}

/// The chains that say what is in force; none where nothing is known to be.
pub fn chains_of(compiled: Option<&Compiled>, config: &Config, level: Level) -> Vec<Chain> {
    compiled.map(|compiled| chains(compiled, config, level)).unwrap_or_default()
}

/// The chains that say what is in force.
pub fn chains(compiled: &Compiled, config: &Config, level: Level) -> Vec<Chain> {
    let Some(node) = compiled.node.as_ref().filter(|_| !compiled.is_empty()) else { return Vec::new() };
    // Where the node does not route, all but what goes to names comes to this process, which asks by itself.
    let level = if config.routed { level } else { Level::Closed };
    let dns = [node.dns].into_iter().collect();
    let [out, into] = [&compiled.egress, &compiled.ingress].map(|all| all.only(|allowed| level.keep(allowed, &dns)));
    let names = Match::all().to(node.dns);
    let jumps = if config.routed {
        vec![(Hook::Postrouting, Match::all()), (Hook::Input, names)]
    } else {
        // Ahead of the rule that leads them to the name server by another address.
        vec![(Hook::Prerouting, names)]
    };
    let rules = [(OUT, rules_out(&out, level)), (IN, rules_in(&into, node, level))];
    let mut chains = Vec::new();
    for (name, rules) in rules {
        if !rules.is_empty() {
            chains.push(Chain { name, jumps: jumps.clone(), place: Place::First, rules });
        }
    }
    if config.routed && level > Level::Exact {
        let jumps = vec![(Hook::Prerouting, tcp())];
        chains.push(Chain { name: RELAYED, jumps, place: Place::First, rules: relayed(compiled, node, level) });
    }
    chains
}

fn rules_out(direction: &Direction, level: Level) -> Vec<Rule> {
    let side = |pods: Ipv4Net, peers: Ipv4Net| Match { source: of(pods), destination: of(peers), ..Match::all() };
    rules(direction, level, side)
}

/// The node may talk to its Pods in any case: probes, and the relay, which has asked before.
fn rules_in(direction: &Direction, node: &Node, level: Level) -> Vec<Rule> {
    let side = |pods: Ipv4Net, peers: Ipv4Net| Match { source: of(peers), destination: of(pods), ..Match::all() };
    let rules = rules(direction, level, side);
    if rules.is_empty() {
        return rules;
    }
    let mut own = vec![Ipv4Net::from(node.gateway), node.services];
    if node.address != node.gateway {
        own.push(node.address.into());
    }
    own.into_iter().map(|net| Match::all().from(net).then(Target::Return)).chain(rules).collect()
}

/// What is allowed goes on; whatever else isolated Pods send or receive ends here.
fn rules(direction: &Direction, level: Level, side: impl Fn(Ipv4Net, Ipv4Net) -> Match) -> Vec<Rule> {
    let mut rules = Vec::new();
    for group in &direction.groups {
        for pods in group.pods.nets() {
            for allowed in &group.allowed {
                let matching =
                    allowed.peers.nets().into_iter().map(|peers| with_ports(side(pods, peers), allowed.ports));
                rules.extend(matching.map(|when| when.then(Target::Return)));
            }
        }
    }
    let drop = |pods: Ipv4Net| side(pods, Ipv4Net::default()).then(Target::Drop);
    rules.extend(direction.pods().cover(level.nets()).into_iter().map(drop));
    rules
}

fn of(net: Ipv4Net) -> Option<iptables::Addresses> {
    (net.prefix_len() > 0).then_some(iptables::Addresses::In(net))
}

/// Where any protocol will do, so will any port.
fn with_ports(when: Match, ports: Ports) -> Match {
    let Some(protocol) = ports.protocol else { return when };
    let when = Match { protocol: Some(protocol), ..when };
    let all = (ports.first, ports.last) == (0, u16::MAX);
    if all { when } else { when.to_ports(ports.first..=ports.last) }
}

/// TCP of isolated Pods to the relay: what other Pods send to them, and what they send to anyone but the node.
fn relayed(compiled: &Compiled, node: &Node, level: Level) -> Vec<Rule> {
    let relay = Target::Redirect(relay::PORT);
    let dns = [node.dns].into_iter().collect();
    let mut rules = vec![tcp().to(node.dns).then(Target::Return)];
    let most = if level == Level::Coarse { 1 } else { NETS };
    let into = compiled.ingress.pods().without(&dns).cover(most);
    rules.extend(into.into_iter().map(|pods| tcp().to(pods).then(relay)));
    let out = compiled.egress.pods().cover(most);
    rules.extend(out.into_iter().map(|pods| tcp().from(pods).not_to(node.gateway).then(relay)));
    rules
}

/// Where the relay decides, it may as well do so for some Pods more.
const NETS: usize = 4;

fn tcp() -> Match {
    Match::protocol(Protocol::Tcp)
}
