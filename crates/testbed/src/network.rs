//! The sandbox's way out: a network namespace, a veth pair and a /30 of 10.200.0.0/16.
//!
//! runsc moves the addresses it finds in the namespace into its own stack, so a namespace serves one start only. The
//! host end holds the gateway's address: servers that a test starts there can be reached from inside. Nothing is routed
//! further, and the host's forwarding and filters stay as they are.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;
use nix::ifaddrs::getifaddrs;
use serde::{Deserialize, Serialize};

use crate::{
    error::{IoContext, Result},
    tool::{IP, Interrupt},
};

const PREFIX: &str = "tt-";
const BASE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);
const SLOTS: u16 = 1 << 14;

/// Which /30 of 10.200.0.0/16 a sandbox has; also names its link and its namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot(u16);

impl Slot {
    /// The /30: the gateway's address is its first, the sandbox's its second.
    pub fn network(self) -> Ipv4Net {
        let base = Ipv4Addr::from(u32::from(BASE) + 4 * u32::from(self.0));
        Ipv4Net::new(base, 30).expect("30 is a prefix length")
    }

    /// The host's end.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network().network()) + 1)
    }

    /// The sandbox's end.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network().network()) + 2)
    }

    /// The name of the host's link and of the namespace.
    pub fn link(self) -> String {
        format!("{PREFIX}{}", self.0)
    }

    /// The namespace as a path.
    pub(crate) fn namespace(self) -> PathBuf {
        Path::new("/run/netns").join(self.link())
    }

    /// The lowest slot that is not in `used` and overlaps none of `networks`.
    fn choose(used: &BTreeSet<Self>, networks: &[Ipv4Net]) -> Option<Self> {
        (1..SLOTS).map(Self).find(|slot| {
            let own = slot.network();
            !used.contains(slot) && !networks.iter().any(|other| own.contains(other) || other.contains(&own))
        })
    }

    /// A slot that neither a recorded sandbox nor anything on this host uses. Ask under the store's lock.
    pub(crate) fn free(recorded: BTreeSet<Self>) -> Result<Option<Self>> {
        let used = &recorded | &Self::of_this_host();
        let networks: Vec<Ipv4Net> = getifaddrs()
            .io("list the addresses of", "this host")?
            .filter_map(|interface| {
                let address = interface.address?.as_sockaddr_in()?.ip();
                let mask = interface.netmask?.as_sockaddr_in()?.ip();
                Ipv4Net::with_netmask(address, mask).ok()
            })
            .collect();
        Ok(Self::choose(&used, &networks))
    }

    /// Every slot that a link or a network namespace here is named after.
    pub(crate) fn of_this_host() -> BTreeSet<Self> {
        let directories = ["/sys/class/net", "/run/netns"].map(Path::new);
        directories.into_iter().flat_map(names).filter_map(|name| Self::parse(&name)).collect()
    }

    fn parse(link: &str) -> Option<Self> {
        link.strip_prefix(PREFIX)?.parse().ok().map(Self)
    }

    /// Makes the namespace and both ends of the link.
    pub(crate) fn create(self, interrupt: &Interrupt) -> Result<()> {
        let (link, gateway, address) = (self.link(), self.gateway().to_string(), self.address().to_string());
        let (gateway_30, address_30) = (format!("{gateway}/30"), format!("{address}/30"));
        let steps: [&[&str]; 8] = [
            &["netns", "add", &link],
            &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &link],
            &["addr", "add", &gateway_30, "dev", &link],
            &["link", "set", &link, "up"],
            &["-n", &link, "link", "set", "lo", "up"],
            &["-n", &link, "addr", "add", &address_30, "dev", "eth0"],
            &["-n", &link, "link", "set", "eth0", "up"],
            &["-n", &link, "route", "add", "default", "via", &gateway, "dev", "eth0"],
        ];
        for step in steps {
            IP.run(step, interrupt)?;
        }
        Ok(())
    }

    /// Removes what [`create`](Self::create) made, as far as it is there; returns what failed.
    pub(crate) fn delete(self) -> Vec<String> {
        let link = self.link();
        let never = Interrupt::default();
        let mut problems = Vec::new();
        let mut remove = |there: bool, step: &[&str]| {
            if there && let Err(error) = IP.run(step, &never) {
                problems.push(error.to_string());
            }
        };
        remove(Path::new("/sys/class/net").join(&link).exists(), &["link", "del", &link]);
        remove(self.namespace().exists(), &["netns", "del", &link]);
        problems
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_a_thirty() {
        let slot = Slot(65);
        assert_eq!(slot.network().to_string(), "10.200.1.4/30");
        assert_eq!(slot.gateway().to_string(), "10.200.1.5");
        assert_eq!(slot.address().to_string(), "10.200.1.6");
        assert_eq!(slot.link(), "tt-65");
        assert_eq!(Slot::parse("tt-65"), Some(slot));
        assert_eq!(Slot::parse("tt-web"), None);
        assert_eq!(Slot::parse("eth0"), None);
    }

    #[test]
    fn the_last_slot_stays_inside_the_range() {
        let range: Ipv4Net = "10.200.0.0/16".parse().unwrap();
        assert!(range.contains(&Slot(SLOTS - 1).network()));
    }

    #[test]
    fn the_longest_link_name_fits_the_kernel() {
        assert!(Slot(SLOTS - 1).link().len() <= 15);
    }

    #[test]
    fn sandboxes_and_networks_of_the_host_are_avoided() {
        let used = BTreeSet::from([Slot(1), Slot(2)]);
        assert_eq!(Slot::choose(&used, &[]), Some(Slot(3)));
        let lab = ["10.200.0.1/24".parse().unwrap(), "192.0.2.2/24".parse().unwrap()];
        assert_eq!(Slot::choose(&used, &lab), Some(Slot(64)));
        let inside = ["10.200.0.14/32".parse().unwrap()];
        assert_eq!(Slot::choose(&used, &inside), Some(Slot(4)));
    }

    #[test]
    fn a_full_range_is_none() {
        assert_eq!(Slot::choose(&BTreeSet::new(), &["10.0.0.0/8".parse().unwrap()]), None);
    }
}
