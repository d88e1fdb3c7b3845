//! A rule as its author thinks of it, and the entry that says it.
//!
//! Only what every kernel in question takes is here, and no match but those for ports. NAT targets want a protocol; gVisor
//! refuses them without.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::entry::{ENTRY_LEN, EXTENSION_HEADER, Entry};

const SOURCE_AT: usize = 0;
const DESTINATION_AT: usize = 4;
const INVERT_SOURCE: u8 = 0x08; // IPT_INV_SRCIP
const INVERT_DESTINATION: u8 = 0x10; // IPT_INV_DSTIP
const MAP_ADDRESSES: u32 = 1; // NF_NAT_RANGE_MAP_IPS
const MAP_PORTS: u32 = 2; // NF_NAT_RANGE_PROTO_SPECIFIED
const ALL_PORTS: RangeInclusive<u16> = 0..=u16::MAX;

/// Transport protocols that NAT rules of gVisor can match: it refuses NAT targets without one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// `-p tcp`
    Tcp = 6,
    /// `-p udp`
    Udp = 17,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Addresses that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// Those in the net.
    In(Ipv4Net),
    /// All others.
    NotIn(Ipv4Net),
}

/// The packets that a rule is about: those that match all that is given. Ports need a protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    /// `-p`
    pub protocol: Option<Protocol>,
    /// `-s`
    pub source: Option<Addresses>,
    /// `-d`
    pub destination: Option<Addresses>,
    /// `--sport`
    pub source_ports: Option<RangeInclusive<u16>>,
    /// `--dport`
    pub destination_ports: Option<RangeInclusive<u16>>,
}

/// What becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Goes on after the rule that jumped to the chain.
    Return,
    /// Ends here. gVisor and Linux take it in the nat table too; only the `iptables` program does not.
    Drop,
    /// To a port of the node itself.
    Redirect(u16),
    /// To another address, and another port if one is given.
    Dnat(Ipv4Addr, Option<u16>),
    /// From another address.
    Snat(Ipv4Addr),
}

/// One rule of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which packets.
    pub when: Match,
    /// What becomes of them.
    pub then: Target,
}

impl Match {
    /// Every packet.
    pub fn all() -> Self {
        Self::default()
    }

    /// Every packet of a protocol.
    pub fn protocol(protocol: Protocol) -> Self {
        Self { protocol: Some(protocol), ..Self::default() }
    }

    /// Only from this net.
    pub fn from(self, net: impl Into<Ipv4Net>) -> Self {
        Self { source: Some(Addresses::In(net.into())), ..self }
    }

    /// Only from outside this net.
    pub fn not_from(self, net: impl Into<Ipv4Net>) -> Self {
        Self { source: Some(Addresses::NotIn(net.into())), ..self }
    }

    /// Only to this net.
    pub fn to(self, net: impl Into<Ipv4Net>) -> Self {
        Self { destination: Some(Addresses::In(net.into())), ..self }
    }

    /// Only to the outside of this net.
    pub fn not_to(self, net: impl Into<Ipv4Net>) -> Self {
        Self { destination: Some(Addresses::NotIn(net.into())), ..self }
    }

    /// Only from these ports.
    pub fn from_ports(self, ports: RangeInclusive<u16>) -> Self {
        Self { source_ports: Some(ports), ..self }
    }

    /// Only to these ports.
    pub fn to_ports(self, ports: RangeInclusive<u16>) -> Self {
        Self { destination_ports: Some(ports), ..self }
    }

    /// These packets get this target.
    pub fn then(self, then: Target) -> Rule {
        Rule { when: self, then }
    }

    /// Has an entry apply to these packets only.
    pub(super) fn narrow(&self, entry: &mut Entry) {
        put_addresses(entry, SOURCE_AT, INVERT_SOURCE, self.source);
        put_addresses(entry, DESTINATION_AT, INVERT_DESTINATION, self.destination);
        let Some(protocol) = self.protocol else { return };
        entry.bytes[80..82].copy_from_slice(&(protocol as u16).to_ne_bytes());
        if self.source_ports.is_none() && self.destination_ports.is_none() {
            return;
        }
        let mut data = [0; 16]; // struct xt_tcp, struct xt_udp: both begin with the ports, in the host's order
        for (at, ports) in [(0, &self.source_ports), (4, &self.destination_ports)] {
            let ports = ports.as_ref().unwrap_or(&ALL_PORTS);
            data[at..at + 2].copy_from_slice(&ports.start().to_ne_bytes());
            data[at + 2..at + 4].copy_from_slice(&ports.end().to_ne_bytes());
        }
        entry.add_match(if protocol == Protocol::Tcp { "tcp" } else { "udp" }, &data);
    }
}

impl Rule {
    pub(super) fn entry(&self) -> Entry {
        let mut entry = match self.then {
            Target::Return => Entry::end_of_chain(),
            Target::Drop => Entry::verdict(-1), // -NF_DROP - 1
            Target::Redirect(port) => nat("REDIRECT", MAP_PORTS, Ipv4Addr::UNSPECIFIED, port),
            Target::Dnat(to, None) => dnat(MAP_ADDRESSES, to, 0),
            Target::Dnat(to, Some(port)) => dnat(MAP_ADDRESSES | MAP_PORTS, to, port),
            Target::Snat(to) => nat("SNAT", MAP_ADDRESSES, to, 0),
        };
        self.when.narrow(&mut entry);
        entry
    }

    /// How many bytes of a table it takes.
    pub fn size(&self) -> usize {
        self.entry().bytes.len()
    }
}

/// A target with `struct nf_nat_ipv4_multi_range_compat`, aligned to 8 bytes: one range, of one address and port.
fn nat(name: &str, flags: u32, address: Ipv4Addr, port: u16) -> Entry {
    let mut range = Vec::with_capacity(24);
    range.extend_from_slice(&1u32.to_ne_bytes());
    range.extend_from_slice(&flags.to_ne_bytes());
    range.extend_from_slice(&address.octets());
    range.extend_from_slice(&address.octets());
    range.extend_from_slice(&port.to_be_bytes());
    range.extend_from_slice(&port.to_be_bytes());
    range.resize(24, 0);
    Entry::with_target(name, &range)
}

/// The target in its revision 2, the one that `iptables` can print; `struct nf_nat_range2`, aligned to 8 bytes.
fn dnat(flags: u32, address: Ipv4Addr, port: u16) -> Entry {
    let mut range = [0; 48];
    range[0..4].copy_from_slice(&flags.to_ne_bytes());
    for (address_at, port_at) in [(4, 36), (20, 38)] {
        range[address_at..address_at + 4].copy_from_slice(&address.octets());
        range[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
    }
    let mut entry = Entry::with_target("DNAT", &range);
    entry.bytes[ENTRY_LEN + EXTENSION_HEADER - 1] = 2;
    entry
}

fn put_addresses(entry: &mut Entry, at: usize, invert: u8, addresses: Option<Addresses>) {
    let (Addresses::In(net) | Addresses::NotIn(net)) = match addresses {
        Some(addresses) => addresses,
        None => return,
    };
    entry.bytes[at..at + 4].copy_from_slice(&net.network().octets());
    entry.bytes[at + 8..at + 12].copy_from_slice(&net.netmask().octets());
    if matches!(addresses, Some(Addresses::NotIn(_))) {
        entry.bytes[83] |= invert;
    }
}

/// As `iptables-save` writes it.
impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        for (option, addresses) in [("-s", self.source), ("-d", self.destination)] {
            match addresses {
                Some(Addresses::In(net)) => words.push(format!("{option} {}", net.trunc())),
                Some(Addresses::NotIn(net)) => words.push(format!("! {option} {}", net.trunc())),
                None => {}
            }
        }
        if let Some(protocol) = self.protocol {
            let name = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
            words.push(format!("-p {name}"));
            let ports = [("--sport", &self.source_ports), ("--dport", &self.destination_ports)];
            if ports.iter().any(|(_, ports)| ports.is_some()) {
                words.push(format!("-m {name}"));
            }
            for (option, ports) in ports {
                match ports.as_ref().map(|ports| (ports.start(), ports.end())) {
                    Some((first, last)) if first == last => words.push(format!("{option} {first}")),
                    Some((first, last)) => words.push(format!("{option} {first}:{last}")),
                    None => {}
                }
            }
        }
        f.write_str(&words.join(" "))
    }
}

/// As `iptables-save` writes it, without the chain.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = self.when.to_string();
        if !when.is_empty() {
            write!(f, "{when} ")?;
        }
        match self.then {
            Target::Return => f.write_str("-j RETURN"),
            Target::Drop => f.write_str("-j DROP"),
            Target::Redirect(port) => write!(f, "-j REDIRECT --to-ports {port}"),
            Target::Dnat(to, None) => write!(f, "-j DNAT --to-destination {to}"),
            Target::Dnat(to, Some(port)) => write!(f, "-j DNAT --to-destination {to}:{port}"),
            Target::Snat(to) => write!(f, "-j SNAT --to-source {to}"),
        }
    }
}
