//! Egress: what Pods send out of the cluster leaves with the node's address.
//!
//! gVisor has no MASQUERADE, no matches worth a name and no nftables, but legacy ip_tables with SNAT for tcp and udp.
//! A chain of our own, `TERRARIUM-EGRESS`, holds one rule per Pod range and protocol, and POSTROUTING jumps to it. There
//! is one set per node, whatever the number of Pods, since a whole table must fit one socket option in gVisor.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::iptables::{Chain, Hook, Match, Place, Protocol, Target};
use crate::nat::{Nat, NatError};
use crate::node;

/// The user chain that holds our rules.
pub const CHAIN: &str = "TERRARIUM-EGRESS";

/// Why egress cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The node's address cannot be told.
    #[error("the node has no default route, so its address is unknown: set nodeIP, or set ipMasq to false")]
    NoNodeAddress(#[source] io::Error),
    /// The nat table cannot be read or changed.
    #[error("{0}; set ipMasq to false to do without egress")]
    Nat(#[source] NatError),
}

impl From<NatError> for EgressError {
    fn from(error: NatError) -> Self {
        Self::Nat(error)
    }
}

/// What leaves the cluster, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Ranges that Pods get their addresses from.
    pub pod_cidrs: Vec<Ipv4Net>,
    /// Destinations inside it keep the Pod's address as their source.
    pub cluster_cidr: Ipv4Net,
    /// The source address that the outside sees.
    pub node_ip: Ipv4Addr,
}

impl Egress {
    fn chain(&self) -> Chain {
        let rule = |pods: Ipv4Net, protocol| {
            Match::protocol(protocol).from(pods).not_to(self.cluster_cidr).then(Target::Snat(self.node_ip))
        };
        let pods = self.pod_cidrs.iter();
        let rules = pods.flat_map(|pods| [Protocol::Tcp, Protocol::Udp].map(|protocol| rule(*pods, protocol)));
        let jumps = vec![(Hook::Postrouting, Match::all())];
        Chain { name: CHAIN, jumps, place: Place::Last, rules: rules.collect() }
    }

    /// Whether the rules are there, and no others of ours.
    pub fn is_installed(&self) -> Result<bool, EgressError> {
        Ok(Nat::open()?.read()?.has_chain(&self.chain()))
    }

    /// Installs the rules if they are not there; rules of ours that say something else give way.
    pub fn install(&self) -> Result<(), EgressError> {
        let nat = Nat::open()?;
        // Looked at without the lock: all ADDs but a node's first find them.
        if !nat.read()?.has_chain(&self.chain()) {
            nat.change(|table| table.set_chain(&self.chain()))?;
        }
        Ok(())
    }

    /// The same without iptables' lock: in a network namespace that nobody else knows.
    pub fn install_unlocked(&self) -> Result<(), EgressError> {
        Nat::open()?.change_unlocked(|table| table.set_chain(&self.chain()))?;
        Ok(())
    }
}

/// The source address of the default route: what the kernel would send from to an address outside. Nothing is sent.
pub fn default_node_ip() -> Result<Ipv4Addr, EgressError> {
    node::from_default_route().map_err(EgressError::NoNodeAddress)
}
