//! What this machine is as a node: its name and its address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use crate::Error;

/// The node's name: the host's, in the form that Kubernetes takes (RFC 1123: lower case, digits, dashes, dots).
pub(crate) fn name() -> String {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name: String =
        host.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '-' }).collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "node".to_owned() } else { name.to_owned() }
}

/// The node's address: the one that the default route sends from, else the first that is not loopback.
pub(crate) fn address() -> Result<Ipv4Addr, Error> {
    from_default_route().or_else(from_interfaces).ok_or(Error::NoAddress)
}

fn from_default_route() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Connecting a UDP socket sends nothing; it chooses a route. The address is one of documentation's (RFC 5737).
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) => usable(*address.ip()),
        SocketAddr::V6(_) => None,
    }
}

fn from_interfaces() -> Option<Ipv4Addr> {
    nix::ifaddrs::getifaddrs().ok()?.find_map(|interface| {
        match IpAddr::from(interface.address?.as_sockaddr_in()?.ip()) {
            IpAddr::V4(address) => usable(address),
            IpAddr::V6(_) => None,
        }
    })
}

fn usable(address: Ipv4Addr) -> Option<Ipv4Addr> {
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}
