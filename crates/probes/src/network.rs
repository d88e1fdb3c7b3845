//! What the network can do. What changes something is tried in a network namespace of its own, which a thread makes
//! and which goes away with it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use ipnet::Ipv4Net;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use terrarium_cni::egress::{Egress, EgressError};
use terrarium_cni::nat::{NatError, TABLE_LOCK};
use terrarium_cni::netlink::{Link, Netlink, NetlinkError, Route};
use terrarium_gaps::{NODE_PORTS, Network, Sysctl, Tried};

use crate::failure::{Doing as _, Failure};
use crate::{nftables, sysctl};

/// The names and addresses of a try: no one else sees them.
const NODE_LINK: &str = "ter-probe0";
const POD_LINK: &str = "ter-probe1";
const NODE: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);
/// Where nobody is (RFC 5737).
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const RTMGRP_LINK: u32 = 1;

/// Tries all of it.
pub(crate) fn look() -> Network {
    let mut network = match in_thread(in_new_namespace).and_then(|seen| seen) {
        Ok(seen) => seen,
        Err(why) => failed(&why),
    };
    network.address = address();
    network.ip_forward = sysctl::of_network("ip_forward");
    network.local_ports = local_ports().into();
    network.ip_local_port_range = sysctl::of_network("ip_local_port_range");
    network.table_lock = Path::new(TABLE_LOCK).exists();
    network
}

/// Nothing of it could be tried, for this reason.
pub(crate) fn failed(why: &Failure) -> Network {
    let tried = || why.tried();
    Network {
        address: tried(),
        veth: tried(),
        link_kind: tried(),
        deviceless_route: tried(),
        legacy_nat: tried(),
        nftables: tried(),
        link_monitor: tried(),
        ip_forward: Sysctl::Absent,
        local_ports: tried(),
        ip_local_port_range: Sysctl::Absent,
        table_lock: false,
    }
}

/// In the network namespace of the calling thread.
pub(crate) fn address() -> Tried {
    terrarium_cni::node_address().ok_or_else(|| Failure::new("there is no address but loopback's")).into()
}

/// In the network namespace of the calling thread, too.
fn local_ports() -> Result<(), Failure> {
    let ports = terrarium_cni::local_ports().doing("bind a socket")?;
    match ports.iter().any(|port| NODE_PORTS.contains(port)) {
        true => Err(Failure::new("outgoing connections take ports of Services, too")),
        false => Ok(()),
    }
}

/// Runs this in a thread, whose namespaces go with it.
fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let thread = thread::Builder::new().spawn(work).doing("start a thread")?;
    thread.join().map_err(|_| Failure::new("a probe panicked"))
}

/// What the calling thread can do in network namespaces that it makes: it is in the second of them then.
fn in_new_namespace() -> Result<Network, Failure> {
    let pod = new_namespace()?;
    new_namespace()?;
    let monitor = monitor();
    let link = veth(&pod);
    let seen = |of: fn(&Link) -> Result<(), Failure>| link.as_ref().map_err(Clone::clone).and_then(of).into();
    Ok(Network {
        veth: link.clone().into(),
        link_kind: seen(link_kind),
        deviceless_route: seen(deviceless_route),
        legacy_nat: legacy_nat().into(),
        nftables: nftables::works().into(),
        link_monitor: monitor.and_then(|monitor| is_told(&monitor)).into(),
        ..failed(&Failure::new("not tried here"))
    })
}

fn new_namespace() -> Result<File, Failure> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).doing("make a network namespace")?;
    File::open("/proc/thread-self/ns/net").doing("open a network namespace")
}

/// Makes a veth pair, one end of it in another namespace.
fn veth(pod: &File) -> Result<Link, Failure> {
    let make = || -> Result<Link, NetlinkError> {
        let mut netlink = Netlink::open()?;
        netlink.create_veth(NODE_LINK, POD_LINK)?;
        let peer = netlink.expect_link(POD_LINK)?;
        netlink.move_link(peer.index, pod.as_fd())?;
        netlink.expect_link(NODE_LINK)
    };
    make().map_err(of_netlink)
}

fn link_kind(link: &Link) -> Result<(), Failure> {
    match link.kind.as_deref() {
        Some("veth") => Ok(()),
        Some(other) => Err(Failure::new(format!("a veth is told to be {other}"))),
        None => Err(Failure::new("the kind of a veth is not told")),
    }
}

/// Gives the link an address and a gateway behind it, and asks where the gateway's packets would leave.
fn deviceless_route(link: &Link) -> Result<(), Failure> {
    let set_up = || -> Result<(), NetlinkError> {
        let mut netlink = Netlink::open()?;
        netlink.set_up(link.index)?;
        netlink.add_address(link.index, NODE)?;
        netlink.add_route(Route { destination: Ipv4Net::from(POD), gateway: None, link: link.index })?;
        netlink.add_deviceless_route(Ipv4Net::default(), POD)
    };
    set_up().map_err(of_netlink)?;
    let source = || -> io::Result<_> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((OUTSIDE, 9))?;
        socket.local_addr()
    };
    if source().doing("use a default route without a device")?.ip() == NODE {
        Ok(())
    } else {
        Err(Failure::new("a default route without a device is not used"))
    }
}

/// Writes the nat table that our CNI plugin would write.
fn legacy_nat() -> Result<(), Failure> {
    let range = |prefix| Ipv4Net::new(NODE, prefix).map_err(|error| Failure::new(error.to_string()));
    let egress = Egress { pod_cidrs: vec![range(24)?], cluster_cidr: range(16)?, node_ip: NODE };
    egress.install_unlocked().or_else(|error| match error {
        EgressError::Nat(NatError::NoRawSocket(source)) => Err(source).doing("open a raw socket"),
        EgressError::Nat(NatError::NoIpTables(source)) => Err(source).doing("read the nat table"),
        EgressError::Nat(NatError::Replace { source, .. }) => Err(source).doing("replace the nat table"),
        other => Err(Failure::new(other.to_string())),
    })
}

/// Joins the group of those who are told of new links.
fn monitor() -> Result<Socket, Failure> {
    let mut socket = Socket::new(NETLINK_ROUTE).doing("open a netlink socket")?;
    socket.bind(&SocketAddr::new(0, RTMGRP_LINK)).doing("join a netlink multicast group")?;
    Ok(socket)
}

/// A link was made since.
fn is_told(monitor: &Socket) -> Result<(), Failure> {
    let ready = wait_for(monitor, Duration::from_millis(20)).doing("wait for netlink multicast")?;
    if ready { Ok(()) } else { Err(Failure::new("the group of links is joined, and nothing is told of a new one")) }
}

/// Whether something can be read from a socket within a time.
pub(crate) fn wait_for(socket: &Socket, limit: Duration) -> nix::Result<bool> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)).map(|ready| ready > 0)
}

/// Without the numbers that links happen to have.
fn of_netlink(error: NetlinkError) -> Failure {
    let action: Vec<&str> = error.action.split(' ').filter(|word| word.parse::<u32>().is_err()).collect();
    let refused: Result<(), _> = Err(error.source);
    refused.doing(&action.join(" ")).err().unwrap_or_else(|| Failure::new(error.action))
}
