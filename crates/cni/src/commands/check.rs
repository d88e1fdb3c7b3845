//! CHECK: is the attachment still as ADD left it? (CNI specification 1.1, section 2: links, addresses and routes of
//! `prevResult` that belong to this plugin must be there.)

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::{IpNet, Ipv4Net};

use super::Input;
use crate::error::Error;
use crate::host_ports::{self, Request};
use crate::invocation::AddressedTo;
use crate::netlink::{Link, Netlink, Route};
use crate::netns::Netns;
use crate::result::{CniResult, mac_text};

/// Compares the attachment with `prevResult`, and asks the IPAM plugin for its part.
pub(crate) fn check(input: &Input<'_>, to: &AddressedTo, netns: &Path) -> Result<(), Error> {
    let Some(previous) = &input.conf.prev_result else {
        return Err(Error::Config("CHECK needs `prevResult`".into()));
    };
    let expected = Expected::of(previous, &to.attachment.if_name)?;
    input.ipam(&to.path).command("CHECK")?;
    check_node(&to.attachment.host_link(), &expected)?;
    Netns::open(netns)?.run(|| check_pod(&to.attachment.if_name, &expected))??;
    let ports = host_ports::requested(&input.conf.runtime_config.port_mappings)?;
    if let (Some(leases), [pod], false) = (&input.conf.host_ports, expected.pods.as_slice(), ports.is_empty()) {
        host_ports::ask(leases, &Request::Check(host_ports::lease(to, *pod, ports)))?;
    }
    match input.conf.egress()? {
        Some(egress) if !egress.is_installed()? => Err(Error::Check("the nat rules for egress are missing".into())),
        _ => Ok(()),
    }
}

/// What ADD made, as far as `prevResult` tells.
struct Expected {
    mac: Option<String>,
    pods: Vec<Ipv4Addr>,
    gateways: Vec<Ipv4Addr>,
    routes: Vec<(Ipv4Net, Option<Ipv4Addr>)>,
}

impl Expected {
    fn of(previous: &CniResult, if_name: &str) -> Result<Self, Error> {
        let ours = |interface: &crate::result::Interface| interface.sandbox.is_some() && interface.name == if_name;
        let index = previous.interfaces.iter().position(ours);
        let index = index.ok_or_else(|| Error::Check(format!("`prevResult` has no interface {if_name} in a Pod")))?;
        let ips = previous.ips.iter().filter(|ip| ip.interface == Some(index));
        let v4 = |address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let routes = previous.routes.iter().filter_map(|route| match route.dst {
            IpNet::V4(dst) => Some((dst, route.gw.and_then(v4))),
            IpNet::V6(_) => None,
        });
        Ok(Self {
            mac: previous.interfaces[index].mac.clone(),
            pods: ips.clone().filter_map(|ip| v4(ip.address.addr())).collect(),
            gateways: ips.filter_map(|ip| ip.gateway.and_then(v4)).collect(),
            routes: routes.collect(),
        })
    }
}

fn check_node(name: &str, expected: &Expected) -> Result<(), Error> {
    let mut node = Netlink::open()?;
    let link = find(&mut node, name, "the node")?;
    let addresses = node.addresses(link.index)?;
    if let Some(gateway) = expected.gateways.iter().find(|gateway| !addresses.contains(gateway)) {
        return Err(Error::Check(format!("{name} on the node has lost address {gateway}")));
    }
    let routes = node.routes()?;
    for pod in &expected.pods {
        let route = Route { destination: Ipv4Net::from(*pod), gateway: None, link: link.index };
        expect_route(&routes, route, &format!("the node has no route to {pod} over {name}"))?;
    }
    Ok(())
}

fn check_pod(name: &str, expected: &Expected) -> Result<(), Error> {
    let mut pod = Netlink::open()?;
    let link = find(&mut pod, name, "the Pod")?;
    let mac = link.mac.as_deref().map(mac_text);
    if expected.mac.is_some() && expected.mac != mac {
        return Err(Error::Check(format!("{name} in the Pod has another hardware address")));
    }
    let addresses = pod.addresses(link.index)?;
    if let Some(address) = expected.pods.iter().find(|address| !addresses.contains(address)) {
        return Err(Error::Check(format!("{name} in the Pod has lost address {address}")));
    }
    let routes = pod.routes()?;
    for gateway in &expected.gateways {
        let route = Route { destination: Ipv4Net::from(*gateway), gateway: None, link: link.index };
        expect_route(&routes, route, &format!("the Pod has no route to its gateway {gateway}"))?;
    }
    for (destination, gateway) in &expected.routes {
        let route = Route { destination: *destination, gateway: *gateway, link: link.index };
        expect_route(&routes, route, &format!("the Pod has no route to {destination}"))?;
    }
    Ok(())
}

fn find(netlink: &mut Netlink, name: &str, place: &str) -> Result<Link, Error> {
    netlink.link(name)?.ok_or_else(|| Error::Check(format!("{place} has no link {name}")))
}

fn expect_route(routes: &[Route], route: Route, otherwise: &str) -> Result<(), Error> {
    if routes.contains(&route) { Ok(()) } else { Err(Error::Check(otherwise.into())) }
}
