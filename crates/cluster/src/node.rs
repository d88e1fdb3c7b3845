//! What this machine is as a node: its name and its address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// The longest name that is also a label's value (kubernetes.io/hostname), in bytes.
const NAME_LIMIT: usize = 63;

/// The node's name: the host's, in the form that Kubernetes takes.
pub(crate) fn name() -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    sanitized(&host.to_string_lossy())
}

/// A name of lower-case labels parted by dots, each beginning and ending with a letter or a digit (RFC 1123).
fn sanitized(host: &str) -> String {
    let name: String = host
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .take(NAME_LIMIT)
        .collect();
    let labels: Vec<&str> =
        name.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty()).collect();
    if labels.is_empty() { "node".to_owned() } else { labels.join(".") }
}

/// The node's address: the one that the default route sends from, else the first that is not loopback.
pub(crate) fn address() -> Option<Ipv4Addr> {
    from_default_route().or_else(from_interfaces)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_name_that_is_valid_stays() {
        for (host, node) in [
            ("sandbox-1", "sandbox-1"),
            ("a.example.org", "a.example.org"),
            ("Dev_Box", "dev-box"),
            ("-edge-", "edge"),
            ("a..b", "a.b"),
            ("a.-b-.c", "a.b.c"),
            ("\u{fc}ber", "ber"),
            ("", "node"),
            ("...", "node"),
        ] {
            assert_eq!(sanitized(host), node, "{host:?}");
        }
    }

    proptest! {
        #[test]
        fn every_host_name_becomes_a_node_name(host in "([a-zA-Z0-9._-]{0,70}|\\PC{0,70})") {
            let name = sanitized(&host);
            prop_assert!((1..=NAME_LIMIT).contains(&name.len()), "{}", name);
            for label in name.split('.') {
                let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
                prop_assert!(label.starts_with(inner) && label.ends_with(inner), "{}", name);
                prop_assert!(label.chars().all(|c| inner(c) || c == '-'), "{}", name);
            }
            prop_assert_eq!(sanitized(&name), name);
        }
    }
}
