//! ADD: a veth between the node and the Pod, routed, with no bridge.
//!
//! In gVisor a bridge carries 1 MB/s between two Pods, and a routed pair of veths more than a thousand times that. Each
//! Pod link is a network of two: the node answers under the same gateway address on all of them, and knows each Pod by
//! a route of its own. Linux is content with the same.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net};

use super::{Input, delete_link};
use crate::attachment::Attachment;
use crate::conf::NetConf;
use crate::error::Error;
use crate::forwarding;
use crate::host_ports::{self, HostPort, HostPortError, Request};
use crate::invocation::AddressedTo;
use crate::ipam::{IpamError, IpamPlugin};
use crate::leases::{Leases, Lock};
use crate::netlink::{Link, Netlink, NetlinkError, Route};
use crate::netns::Netns;
use crate::result::{CniResult, Dns, Interface, IpConfig, RouteConfig, mac_text};

/// The two addresses of a Pod link.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    pod: Ipv4Addr,
    gateway: Ipv4Addr,
}

/// Attaches a Pod. What a failed ADD made is undone: the link, and the address that was taken.
pub(crate) fn add(input: &Input<'_>, to: &AddressedTo, netns: &Path) -> Result<CniResult, Error> {
    if input.conf.prev_result.is_some() {
        return Err(Error::Config("`prevResult` is given, but this plugin creates the interface: put it first".into()));
    }
    let runtime_config = &input.conf.runtime_config;
    if runtime_config.bandwidth.is_some() {
        return Err(Error::Unsupported(
            "the annotations kubernetes.io/ingress-bandwidth and kubernetes.io/egress-bandwidth cannot be honoured: \
             gVisor does not shape traffic; remove them from the Pod",
        ));
    }
    let ports = host_ports::requested(&runtime_config.port_mappings)?;
    let netns_path = netns;
    let netns = Netns::open(netns)?;
    if netns.is_current() {
        return Err(Error::SameNetns(netns_path.to_owned()));
    }
    prepare_node(&input.conf)?;
    let ipam = input.ipam(&to.path);
    let leases = Leases::of(&input.conf);
    let lock = leases.share();
    // A plugin that refuses has taken nothing, and its DEL could give back what another ADD holds.
    let (given, lock) = match ipam.add() {
        Err(error @ IpamError::Refused { .. }) => take_stale(&leases, &ipam, lock).ok_or(error)?,
        Err(error) if !matches!(error, IpamError::Result { .. }) => return Err(error.into()),
        given => (given, lock),
    };
    let attach = || {
        let given = given?;
        let addresses = addresses_of(&given)?;
        let links = attach(&to.attachment, addresses, &netns, input.conf.mtu)?;
        drop(lock); // the link tells now that the address is in use
        lease_host_ports(&input.conf, to, addresses.pod, ports).map_err(|cause| undo_link(&to.attachment, cause))?;
        Ok(result(&input.conf, addresses, links, netns_path, given.dns))
    };
    attach().map_err(|cause: Error| match ipam.command("DEL") {
        Ok(()) => cause,
        Err(undo) => with_undo(cause, undo.into()),
    })
}

/// An address of those that belong to no link any more, if there are some.
fn take_stale(
    leases: &Leases,
    ipam: &IpamPlugin<'_>,
    shared: Option<Lock>,
) -> Option<(Result<CniResult, IpamError>, Option<Lock>)> {
    drop(shared);
    let alone = leases.alone()?;
    let mut node = Netlink::open().ok()?;
    let is_stale = |attachment: &Attachment| matches!(node.link(&attachment.host_link()), Ok(None));
    if leases.release(ipam, is_stale).0 == 0 {
        return None;
    }
    match ipam.add() {
        Err(IpamError::Refused { .. }) => None,
        given => Some((given, Some(alone))),
    }
}

/// What all Pods of a node share. It stays when an ADD fails.
fn prepare_node(conf: &NetConf) -> Result<(), Error> {
    if let Some(egress) = conf.egress()? {
        egress.install()?;
    }
    if conf.ip_forward {
        let action = "set net.ipv4.ip_forward to 1 (with `ipForward` false, Pods do without routes to each other)";
        forwarding::enable().map_err(|source| Error::Io { action, source })?;
    }
    Ok(())
}

fn addresses_of(given: &CniResult) -> Result<Addresses, Error> {
    match given.ips.as_slice() {
        [IpConfig { address: IpNet::V4(pod), gateway: Some(IpAddr::V4(gateway)), .. }] => {
            Ok(Addresses { pod: pod.addr(), gateway: *gateway })
        }
        [] => Err(Error::Address("no address".into())),
        [IpConfig { address, gateway: None, .. }] => Err(Error::Address(format!("{address} with no gateway"))),
        ips => Err(Error::Address(ips.iter().map(|ip| ip.address.to_string()).collect::<Vec<_>>().join(" and "))),
    }
}

/// Makes the link and sets both ends up; returns the node's end and the Pod's.
fn attach(attachment: &Attachment, addresses: Addresses, netns: &Netns, mtu: u32) -> Result<(Link, Link), Error> {
    let mut node = Netlink::open()?;
    let (name, peer) = (attachment.host_link(), attachment.peer_link());
    node.create_veth(&name, &peer)?;
    let mut configure = || {
        let host = node.expect_link(&name)?;
        let pod = node.expect_link(&peer)?;
        node.move_link(pod.index, netns.as_fd())?;
        node.set_mtu(host.index, mtu)?;
        node.set_up(host.index)?;
        node.add_address(host.index, addresses.gateway)?;
        node.add_route(Route { destination: addresses.pod.into(), gateway: None, link: host.index })?;
        let pod = netns.run(|| configure_pod(&peer, &attachment.if_name, addresses, mtu))??;
        Ok((node.expect_link(&name)?, pod))
    };
    configure().map_err(|cause| undo_link(attachment, cause))
}

/// Deletes the link of an ADD that failed for this cause.
fn undo_link(attachment: &Attachment, cause: Error) -> Error {
    match delete_link(&attachment.host_link()) {
        Ok(()) => cause,
        Err(undo) => with_undo(cause, undo),
    }
}

/// Has the node's proxy carry the ports and see to the Pod's policies before it starts. The last step: what is leased has a
/// link, by which the proxy tells what is stale. A Pod without ports starts without a proxy that does not come.
fn lease_host_ports(conf: &NetConf, to: &AddressedTo, address: Ipv4Addr, ports: Vec<HostPort>) -> Result<(), Error> {
    let Some(leases) = &conf.host_ports else { return Ok(()) };
    let needed = !ports.is_empty();
    match host_ports::ask(leases, &Request::Add(host_ports::lease(to, address, ports))) {
        Err(HostPortError::NoProxy { .. }) if !needed => Ok(()),
        answer => Ok(answer?),
    }
}

/// The Pod's side, from inside its namespace.
fn configure_pod(peer: &str, if_name: &str, addresses: Addresses, mtu: u32) -> Result<Link, NetlinkError> {
    let mut pod = Netlink::open()?;
    let loopback = pod.expect_link("lo")?;
    pod.set_up(loopback.index)?;
    if pod.link(if_name)?.is_some() {
        // Linux would refuse the new name; gVisor would have two links of that name.
        let action = format!("call the Pod's link {if_name}");
        return Err(NetlinkError { action, source: nix::errno::Errno::EEXIST.into() });
    }
    let link = pod.expect_link(peer)?;
    pod.rename_link(link.index, if_name)?;
    pod.set_mtu(link.index, mtu)?;
    pod.set_up(link.index)?;
    pod.add_address(link.index, addresses.pod)?;
    pod.add_route(Route { destination: addresses.gateway.into(), gateway: None, link: link.index })?;
    // gVisor: a route through a gateway is of no use without its device.
    pod.add_route(Route { destination: Ipv4Net::default(), gateway: Some(addresses.gateway), link: link.index })?;
    pod.expect_link(if_name) // gVisor counts the Ethernet header in: its MTU reads 14 bytes less
}

fn result(conf: &NetConf, addresses: Addresses, links: (Link, Link), netns: &Path, dns: Dns) -> CniResult {
    let interface = |link: Link, sandbox| Interface {
        name: link.name,
        mac: link.mac.as_deref().map(mac_text),
        mtu: conf.is_1_1().then_some(link.mtu),
        sandbox,
    };
    let gateway = Some(IpAddr::V4(addresses.gateway));
    CniResult {
        cni_version: conf.cni_version.clone(),
        interfaces: vec![interface(links.0, None), interface(links.1, Some(netns.to_string_lossy().into_owned()))],
        ips: vec![IpConfig { address: IpNet::V4(addresses.pod.into()), gateway, interface: Some(1) }],
        routes: vec![RouteConfig { dst: IpNet::V4(Ipv4Net::default()), gw: gateway }],
        dns: if dns.is_empty() { conf.dns.clone() } else { dns },
    }
}

fn with_undo(cause: Error, error: Error) -> Error {
    match cause {
        Error::Undo { cause, mut undo } => {
            undo.push(error);
            Error::Undo { cause, undo }
        }
        cause => Error::Undo { cause: Box::new(cause), undo: vec![error] },
    }
}
