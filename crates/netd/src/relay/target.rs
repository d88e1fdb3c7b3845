//! Where a connection wants to go.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::config::Config;
use crate::gate;
use crate::table::{Frontend, Protocol, Table};

/// The port of name servers.
const DNS: u16 = 53;

/// Where a redirected connection wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// By the table.
    Frontend(Frontend),
    /// To a Pod or the node itself, which the client asked for by its own address.
    Direct(SocketAddrV4),
    /// To somewhere else.
    Outside(SocketAddrV4),
    /// Nowhere: nothing is known there, or it is the relay itself.
    Nowhere,
}

/// Where a redirected connection to `destination` wants to go. Where the node routes, others than those to Services are
/// redirected only if the relay is to decide by policies.
pub(super) fn of(config: &Config, table: &Table, destination: SocketAddrV4) -> Target {
    let address = *destination.ip();
    let node = address == config.node_address || address == config.gateway;
    let frontend = |address| Frontend { protocol: Protocol::Tcp, address, port: destination.port() };
    let known = |address| Some(frontend(address)).filter(|frontend| table.get(frontend).is_some());
    // Pods know the node by its gateway, too, where the frontend has the node's address.
    let aliases = if node { [address, config.node_address, Ipv4Addr::UNSPECIFIED] } else { [address; 3] };
    if let Some(frontend) = aliases.into_iter().find_map(known) {
        return Target::Frontend(frontend);
    }
    // Where nothing is routed, the name server listens on every address; policies know it by that of its Service.
    let is_closed = |port| port == super::PORT || (port == DNS && !config.routed);
    if config.services.contains(&address) || (node && is_closed(destination.port())) {
        Target::Nowhere
    } else if node || config.pods.contains(&address) {
        Target::Direct(destination)
    } else if gate::is_outside(address) {
        Target::Outside(destination)
    } else {
        Target::Nowhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn config() -> Config {
        Config { node_address: Ipv4Addr::new(192, 168, 1, 2), ..fixtures::config() }
    }

    fn table(frontends: &[&str]) -> Table {
        let table = Table::default();
        for frontend in frontends {
            let address: SocketAddrV4 = frontend.parse().unwrap();
            table.set(
                Frontend { protocol: Protocol::Tcp, address: *address.ip(), port: address.port() },
                fixtures::route(&[]),
            );
        }
        table
    }

    #[test]
    fn leads_by_the_table_first() {
        let table = table(&["10.43.0.1:443", "0.0.0.0:30080", "192.168.1.2:80", "203.0.113.5:80"]);
        let config = config();
        let to = |destination: &str| of(&config, &table, destination.parse().unwrap());
        let frontend = |address: &str| {
            let address: SocketAddrV4 = address.parse().unwrap();
            Target::Frontend(Frontend { protocol: Protocol::Tcp, address: *address.ip(), port: address.port() })
        };
        let direct = |address: &str| Target::Direct(address.parse().unwrap());
        for (destination, expected) in [
            ("10.43.0.1:443", frontend("10.43.0.1:443")),
            ("10.43.0.1:80", Target::Nowhere),
            ("10.43.0.9:443", Target::Nowhere),
            ("192.168.1.2:30080", frontend("0.0.0.0:30080")),
            ("10.42.0.1:30080", frontend("0.0.0.0:30080")),
            ("10.42.0.1:80", frontend("192.168.1.2:80")),
            ("203.0.113.5:80", frontend("203.0.113.5:80")),
            ("10.43.0.1:30080", Target::Nowhere),
            ("10.42.0.7:30080", direct("10.42.0.7:30080")),
            ("10.42.0.1:10250", direct("10.42.0.1:10250")),
            ("192.168.1.2:6443", direct("192.168.1.2:6443")),
            ("192.168.1.2:10260", Target::Nowhere),
            ("198.51.100.1:443", Target::Outside("198.51.100.1:443".parse().unwrap())),
            ("127.0.0.1:6443", Target::Nowhere),
            ("224.0.0.1:80", Target::Nowhere),
        ] {
            assert_eq!(to(destination), expected, "{destination}");
        }
        let names = "192.168.1.2:53".parse().unwrap();
        assert_eq!(of(&config, &table, names), Target::Direct(names));
        assert_eq!(of(&Config { routed: false, ..config }, &table, names), Target::Nowhere);
    }
}
