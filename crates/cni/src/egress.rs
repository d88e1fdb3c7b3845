//! Egress: what Pods send out of the cluster leaves with the node's address.
//!
//! gVisor has no MASQUERADE, no matches worth a name and no nftables, but legacy ip_tables with SNAT for tcp and udp.
//! A chain of our own, `TERRARIUM-EGRESS`, holds one rule per Pod range and protocol, and POSTROUTING jumps to it. gVisor
//! has no comment match either: the chain's name is how our rules are known again. There is one set per node, whatever
//! the number of Pods, since a whole table must fit one socket option there.
//!
//! The table is read, changed and replaced under iptables' own lock file, so that `iptables` and we do not undo each
//! other's work.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use terrarium_sys::ip_tables::{self, TableName};

use crate::iptables::{Entry, Protocol, Table, TableError};
use crate::node;

/// The user chain that holds our rules.
pub const CHAIN: &str = "TERRARIUM-EGRESS";
const POSTROUTING: usize = 4;
/// How often to begin anew when the table changed under us: only programs that ignore the lock can do that.
const ATTEMPTS: usize = 5;

/// Why egress cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// No raw socket: gVisor drops CAP_NET_RAW unless told not to.
    #[error(
        "raw sockets are refused, so ip_tables cannot be reached: start the sandbox with CAP_NET_RAW \
         (runsc --net-raw), or set ipMasq to false and do without egress"
    )]
    NoRawSocket(#[source] io::Error),
    /// A raw socket, but no table behind it.
    #[error(
        "the nat table of legacy ip_tables cannot be read: it takes CAP_NET_ADMIN and a kernel with ip_tables; \
         set ipMasq to false to do without egress"
    )]
    NoIpTables(#[source] io::Error),
    /// The node's address cannot be told.
    #[error("the node has no default route, so its address is unknown: set nodeIP, or set ipMasq to false")]
    NoNodeAddress(#[source] io::Error),
    /// The lock file of iptables.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The table is not what ip_tables tables look like, or someone else's rules use our chain.
    #[error("the nat table cannot be changed")]
    Table(#[from] TableError),
    /// The nat table has no POSTROUTING hook.
    #[error("the nat table has no POSTROUTING chain")]
    NoPostrouting,
    /// The kernel does not take the changed table.
    #[error("the kernel refuses a nat table of {entries} entries, {bytes} bytes (gVisor takes 8 to 32 KiB at most)")]
    Replace {
        /// Entries of the refused table.
        entries: usize,
        /// Bytes of its entries.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },
}

/// What leaves the cluster, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Ranges that Pods get their addresses from.
    pub pod_cidrs: Vec<Ipv4Net>,
    /// Destinations inside it keep the Pod's address as their source.
    pub cluster_cidr: Ipv4Net,
    /// The source address that the outside sees.
    pub node_ip: Ipv4Addr,
}

impl Egress {
    fn rules(&self) -> Vec<Entry> {
        let rule = |pods: Ipv4Net, protocol| Entry::snat(protocol, pods, self.cluster_cidr, self.node_ip);
        self.pod_cidrs
            .iter()
            .flat_map(|pods| [Protocol::Tcp, Protocol::Udp].map(|protocol| rule(*pods, protocol)))
            .collect()
    }

    /// Whether the rules are there, and no others of ours.
    pub fn is_installed(&self) -> Result<bool, EgressError> {
        Ok(NatTable::open()?.read()?.0.has_chain(POSTROUTING, CHAIN, &self.rules()))
    }

    /// Installs the rules if they are not there; rules of ours that say something else give way.
    pub fn install(&self) -> Result<(), EgressError> {
        let nat = NatTable::open()?;
        // Looked at without the lock: all ADDs but a node's first find them.
        if nat.read()?.0.has_chain(POSTROUTING, CHAIN, &self.rules()) {
            return Ok(());
        }
        nat.change(|table| self.install_in(table))?;
        Ok(())
    }

    /// The same without iptables' lock: in a network namespace that nobody else knows.
    pub fn install_unlocked(&self) -> Result<(), EgressError> {
        NatTable::open()?.change_unlocked(|table| self.install_in(table))?;
        Ok(())
    }

    /// Whether the table was changed.
    fn install_in(&self, table: &mut Table) -> Result<bool, EgressError> {
        let rules = self.rules();
        if table.has_chain(POSTROUTING, CHAIN, &rules) {
            return Ok(false);
        }
        table.remove_chain(POSTROUTING, CHAIN)?;
        if table.add_chain(POSTROUTING, CHAIN, rules) { Ok(true) } else { Err(EgressError::NoPostrouting) }
    }
}

/// Removes our rules, whoever's they are. `Ok(false)` if there are none.
pub fn remove() -> Result<bool, EgressError> {
    let nat = NatTable::open()?;
    // Looked at without the lock: where there is nothing to remove, its file need not be made.
    if nat.read()?.0.chain(CHAIN).is_none() {
        return Ok(false);
    }
    nat.change(|table| Ok(table.remove_chain(POSTROUTING, CHAIN)?))
}

/// The source address of the default route: what the kernel would send from to an address outside. Nothing is sent.
pub fn default_node_ip() -> Result<Ipv4Addr, EgressError> {
    node::from_default_route().map_err(EgressError::NoNodeAddress)
}

/// The nat table of the network namespace that this was opened in.
struct NatTable(OwnedFd);

impl NatTable {
    fn open() -> Result<Self, EgressError> {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        raw.map(Self).map_err(|errno| EgressError::NoRawSocket(errno.into()))
    }

    /// The table, and how many entries the kernel has.
    fn read(&self) -> Result<(Table, u32), EgressError> {
        let mut attempts = 1..ATTEMPTS;
        loop {
            let layout = ip_tables::info(self.0.as_fd(), TableName::NAT).map_err(EgressError::NoIpTables)?;
            match ip_tables::entries(self.0.as_fd(), TableName::NAT, layout.size) {
                Ok(blob) => return Ok((Table::decode(&layout, &blob)?, layout.num_entries)),
                Err(_) if attempts.next().is_some() => {} // grown since
                Err(error) => return Err(EgressError::NoIpTables(error)),
            }
        }
    }

    /// Reads the table, has it changed and replaces it, all under the lock. `change` says whether it changed anything.
    fn change(&self, change: impl Fn(&mut Table) -> Result<bool, EgressError>) -> Result<bool, EgressError> {
        let _lock = lock()?;
        self.change_unlocked(change)
    }

    fn change_unlocked(&self, change: impl Fn(&mut Table) -> Result<bool, EgressError>) -> Result<bool, EgressError> {
        let mut attempts = 1..ATTEMPTS;
        loop {
            let (mut table, replaced) = self.read()?;
            if !change(&mut table)? {
                return Ok(false);
            }
            let (layout, blob) = table.encode();
            match ip_tables::replace(self.0.as_fd(), TableName::NAT, &layout, &blob, replaced) {
                Ok(()) => return Ok(true),
                Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) && attempts.next().is_some() => {}
                Err(source) => return Err(EgressError::Replace { entries: table.len(), bytes: blob.len(), source }),
            }
        }
    }
}

/// iptables' lock of the legacy tables, unless its environment names another.
pub const TABLE_LOCK: &str = "/run/xtables.lock";

/// Takes iptables' lock until the file is dropped; like iptables, `XTABLES_LOCKFILE` names another.
fn lock() -> Result<File, EgressError> {
    let path = std::env::var_os("XTABLES_LOCKFILE").map_or_else(|| PathBuf::from(TABLE_LOCK), PathBuf::from);
    let open = || {
        let file = File::options().create(true).write(true).truncate(false).open(&path)?;
        file.lock()?;
        Ok(file)
    };
    open().map_err(|source| EgressError::Lock { path: path.clone(), source })
}
