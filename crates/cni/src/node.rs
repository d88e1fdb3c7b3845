//! The node's own address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use nix::net::if_::InterfaceFlags;

/// An address of the network namespace that the caller is in: the one that the default route sends from, else the first
/// that is not loopback's.
pub fn address() -> Option<Ipv4Addr> {
    from_default_route().ok().or_else(from_interfaces)
}

/// Ports that the kernel gives to connections from the network namespace that the caller is in: enough of them to see their
/// range, about.
///
/// # Errors
/// No socket can be bound.
pub fn local_ports() -> io::Result<Vec<u16>> {
    let given = || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port());
    (0..256).map(|_| given()).collect()
}

/// The address that the kernel would send from to one outside. Nothing is sent: connecting a UDP socket only chooses a
/// route. The other address is one of documentation's (RFC 5737).
pub(crate) fn from_default_route() -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
    match socket.local_addr()? {
        SocketAddr::V4(address) => usable(*address.ip()),
        SocketAddr::V6(_) => None,
    }
    .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn from_interfaces() -> Option<Ipv4Addr> {
    nix::ifaddrs::getifaddrs().ok()?.find_map(|interface| {
        // On loopback only a single address is a node's: a network there is what the Service proxy listens on.
        let is_network = interface.netmask?.as_sockaddr_in()?.ip() != Ipv4Addr::BROADCAST;
        if interface.flags.contains(InterfaceFlags::IFF_LOOPBACK) && is_network {
            return None;
        }
        match IpAddr::from(interface.address?.as_sockaddr_in()?.ip()) {
            IpAddr::V4(address) => usable(address),
            IpAddr::V6(_) => None,
        }
    })
}

fn usable(address: Ipv4Addr) -> Option<Ipv4Addr> {
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}
