//! Addresses that the node lacks and somebody wants served: external addresses of Services, the Pods' gateway before there is
//! a Pod. They are put on the loopback device while a socket is bound to them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use terrarium_cni::netlink::{Netlink, NetlinkError};

/// The addresses that are on the loopback device because of this process.
pub(super) struct Addresses {
    /// With how many sockets each has.
    held: HashMap<Ipv4Addr, usize>,
    /// Has them for the next process, should this one be killed.
    record: PathBuf,
}

/// Keeps an address while it lives.
pub(super) struct Held {
    addresses: Rc<RefCell<Addresses>>,
    address: Ipv4Addr,
}

impl Addresses {
    /// Takes away what an earlier process left.
    pub(super) fn new(runtime_dir: &Path) -> Rc<RefCell<Self>> {
        let record = runtime_dir.join("addresses.json");
        let left: Vec<Ipv4Addr> =
            fs::read(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        for address in left {
            if let Err(error) = delete(address) {
                tracing::warn!("{address} stays on the loopback device: {error}: {}", error.source);
            }
        }
        let _ = fs::remove_file(&record); // mostly not there
        Rc::new(RefCell::new(Self { held: HashMap::new(), record }))
    }

    /// Gives the node an address. An address that it has already is not taken for its own.
    pub(super) fn hold(this: &Rc<RefCell<Self>>, address: Ipv4Addr) -> Result<Held, NetlinkError> {
        let mut addresses = this.borrow_mut();
        if let Some(count) = addresses.held.get_mut(&address) {
            *count += 1;
        } else {
            let mut netlink = Netlink::open()?;
            let loopback = netlink.expect_link("lo")?.index;
            // On record first: what is added and not on record would stay.
            addresses.held.insert(address, 1);
            addresses.write();
            if let Err(error) = netlink.add_address(loopback, address) {
                addresses.held.remove(&address);
                addresses.write();
                return Err(error);
            }
        }
        Ok(Held { addresses: this.clone(), address })
    }

    fn release(&mut self, address: Ipv4Addr) {
        let Some(count) = self.held.get_mut(&address) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        match delete(address) {
            Ok(()) => {
                self.held.remove(&address);
                self.write();
            }
            Err(error) => tracing::warn!("{address} stays on the loopback device: {error}: {}", error.source),
        }
    }

    fn write(&self) {
        let addresses: Vec<_> = self.held.keys().collect();
        let written =
            serde_json::to_vec(&addresses).map_err(Into::into).and_then(|bytes| fs::write(&self.record, bytes));
        if let Err(error) = written {
            tracing::warn!("cannot write {}: {error}", self.record.display());
        }
    }
}

fn delete(address: Ipv4Addr) -> Result<(), NetlinkError> {
    let mut netlink = Netlink::open()?;
    let loopback = netlink.expect_link("lo")?.index;
    if netlink.addresses(loopback)?.contains(&address) { netlink.delete_address(loopback, address) } else { Ok(()) }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.addresses.borrow_mut().release(self.address);
    }
}
