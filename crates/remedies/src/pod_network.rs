//! The Pods' network: the addresses that there are, and what it takes from the sandbox.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use terrarium_cni::nat::TABLE_LOCK;
use terrarium_gaps::{GapId, IP_LOCAL_PORT_RANGE, LINUX_PORT_RANGE, Rung, Sysctl};

use crate::catalogue::{gap, preparation};
use crate::plan::shares_network;
use crate::without_mounts::with_mounts;
use crate::{Action, Input, Preparation, Purpose, Remedy, Setting};

/// The address of a node that has no other: beside the ranges of Pods and Services, seen in its network namespace only.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 41, 0, 1);

/// The addresses of Services, and the first of them, which the API server takes for its own Service. On the loopback
/// device they are the node's, so that the Service proxy can listen on each.
pub const SERVICE_RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 1), 16);

/// The addresses of Services where Pods share the node's network: its own on every kernel, without being given.
pub const LOOPBACK_SERVICE_RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 43, 0, 0), 16);

/// The node's network for every Pod. What it takes is a matter of the Pods' network as a whole, below.
pub(crate) struct SharedNetwork;

impl Remedy for SharedNetwork {
    fn purpose(&self) -> Purpose {
        gap(GapId::PodLinks, Rung::Flag)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_mounts(input).map(|()| Vec::new())
    }
}

/// A range of ports for outgoing connections in which no Service has one. It is not verified: who calls from another network
/// namespace than the sandbox's first changes the sysctl of that one, and has what there was before.
pub(crate) struct LocalPorts;

impl Remedy for LocalPorts {
    fn purpose(&self) -> Purpose {
        gap(GapId::LocalPorts, Rung::Flag)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_mounts(input)?;
        if input.isolation.has_network() {
            return Err(
                "the cluster's network namespace is its own, and the sysctl that of the sandbox's first".to_owned()
            );
        }
        match &input.report.network.ip_local_port_range {
            Sysctl::Writable => Ok(vec![Action::sysctl(IP_LOCAL_PORT_RANGE, LINUX_PORT_RANGE)]),
            Sysctl::ReadOnly(_) => Err(format!("{IP_LOCAL_PORT_RANGE} cannot be written here")),
            Sysctl::Absent => Err(format!("{IP_LOCAL_PORT_RANGE} is absent")),
        }
    }
}

/// What the Pods' network changes for the whole sandbox: routing between Pods, the addresses of Services, and the lock of
/// the legacy tables, which is iptables' own and stays behind. Done ahead of the CNI plugin and the Service proxy, so that
/// it is undone with the rest.
pub(crate) struct PodNetwork;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

impl Remedy for PodNetwork {
    fn purpose(&self) -> Purpose {
        preparation(Preparation::PodNetwork)
    }

    fn does(&self) -> String {
        "routing between Pods, SNAT for their way out, and the addresses of Services".to_owned()
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_mounts(input)?;
        let network = &input.report.network;
        if shares_network(input.report, input.choices) {
            return Ok(vec![Action::Configure(Setting::HostNetwork)]);
        }
        let mut actions = Vec::new();
        // From a network namespace of the cluster's own only the gate leads out. In gVisor it does not route, either: the
        // sysctl is that of the sandbox's first one, wherever it is written.
        let has_way_out = !input.isolation.has_network();
        let can_forward = has_way_out && network.ip_forward == Sysctl::Writable;
        if can_forward {
            actions.push(Action::sysctl(IP_FORWARD, "1"));
        }
        if !network.table_lock {
            actions.push(Action::CreateFile { path: TABLE_LOCK.into(), content: String::new() });
        }
        actions.push(Action::Address { address: SERVICE_RANGE });
        if !has_way_out {
            actions.push(Action::DefaultRoute);
        }
        let redirect = network.legacy_nat.works();
        let ip_masq = has_way_out && redirect;
        actions.push(Action::Configure(Setting::PodNetwork { ip_forward: can_forward, ip_masq, redirect }));
        Ok(actions)
    }
}
