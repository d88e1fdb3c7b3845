//! The nat table of a network namespace: read, changed and replaced as a whole.
//!
//! That happens under iptables' own lock file, so that `iptables`, the CNI plugin and the Service proxy do not undo
//! each other's work. A replacement is one system call: whatever changed, changed at once, and what the kernel refuses
//! leaves the table as it was.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use terrarium_sys::ip_tables::{self, TableName};

use crate::iptables::{Table, TableError};

/// Bytes that a replacement takes besides the table's entries (`struct ipt_replace`).
pub const REPLACE_HEADER: usize = 96;
/// How often to begin anew when the table changed under us: only programs that ignore the lock can do that.
const ATTEMPTS: usize = 5;

/// Why the table cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// No raw socket: gVisor drops CAP_NET_RAW unless told not to.
    #[error(
        "raw sockets are refused, so ip_tables cannot be reached: start the sandbox with CAP_NET_RAW \
         (runsc --net-raw)"
    )]
    NoRawSocket(#[source] io::Error),
    /// A raw socket, but no table behind it.
    #[error("the nat table of legacy ip_tables cannot be read: it takes CAP_NET_ADMIN and a kernel with ip_tables")]
    NoIpTables(#[source] io::Error),
    /// The lock file of iptables.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The table is not what ip_tables tables look like, or someone else's rules use a chain of ours.
    #[error("the nat table cannot be changed")]
    Table(#[from] TableError),
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

impl NatError {
    /// Whether the table cannot be reached at all, so that nothing of ours can be in it.
    pub fn out_of_reach(&self) -> bool {
        matches!(self, Self::NoRawSocket(_) | Self::NoIpTables(_))
    }
}

/// The nat table of the network namespace that this was opened in.
#[derive(Debug)]
pub struct Nat(OwnedFd);

/// What is cheap to ask: if it is the same as before, nobody added or removed a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// How many entries there are.
    pub entries: u32,
    /// Bytes that they take together.
    pub size: u32,
}

impl Nat {
    /// Opens it.
    pub fn open() -> Result<Self, NatError> {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        raw.map(Self).map_err(|errno| NatError::NoRawSocket(errno.into()))
    }

    /// How large the table is.
    pub fn extent(&self) -> Result<Extent, NatError> {
        let layout = ip_tables::info(self.0.as_fd(), TableName::NAT).map_err(NatError::NoIpTables)?;
        Ok(Extent { entries: layout.num_entries, size: layout.size })
    }

    /// The table.
    pub fn read(&self) -> Result<Table, NatError> {
        Ok(self.read_counted()?.0)
    }

    /// The table, and how many entries the kernel has.
    fn read_counted(&self) -> Result<(Table, u32), NatError> {
        let mut attempts = 1..ATTEMPTS;
        loop {
            let layout = ip_tables::info(self.0.as_fd(), TableName::NAT).map_err(NatError::NoIpTables)?;
            match ip_tables::entries(self.0.as_fd(), TableName::NAT, layout.size) {
                Ok(blob) => return Ok((Table::decode(&layout, &blob)?, layout.num_entries)),
                Err(_) if attempts.next().is_some() => {} // changed since
                Err(error) => return Err(NatError::NoIpTables(error)),
            }
        }
    }

    /// Reads the table, has it changed and replaces it, all under the lock. `change` says whether it changed anything.
    pub fn change(&self, change: impl Fn(&mut Table) -> Result<bool, TableError>) -> Result<bool, NatError> {
        let _lock = Lock::take()?;
        self.change_unlocked(change)
    }

    /// The same without taking the lock: for who has it, or is in a network namespace that nobody else knows.
    pub fn change_unlocked(&self, change: impl Fn(&mut Table) -> Result<bool, TableError>) -> Result<bool, NatError> {
        let mut attempts = 1..ATTEMPTS;
        loop {
            let (mut table, replaced) = self.read_counted()?;
            if !change(&mut table)? {
                return Ok(false);
            }
            let (layout, blob) = table.encode();
            match ip_tables::replace(self.0.as_fd(), TableName::NAT, &layout, &blob, replaced) {
                Ok(()) => return Ok(true),
                Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) && attempts.next().is_some() => {}
                Err(source) => return Err(NatError::Replace { entries: table.len(), bytes: blob.len(), source }),
            }
        }
    }

    /// Removes chains of ours, all at once. `Ok(false)` if there is none.
    pub fn remove_chains(&self, names: &[&str]) -> Result<bool, NatError> {
        // Looked at without the lock: where there is nothing to remove, its file need not be made.
        let table = self.read()?;
        if names.iter().all(|name| table.chain(name).is_none()) {
            return Ok(false);
        }
        self.change(|table| {
            let mut removed = false;
            for name in names {
                removed |= table.remove_chain(name)?;
            }
            Ok(removed)
        })
    }
}

/// iptables' lock of the legacy tables, unless its environment names another.
pub const TABLE_LOCK: &str = "/run/xtables.lock";

/// iptables' lock, held until this is dropped; like iptables, `XTABLES_LOCKFILE` names another.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for it.
    pub fn take() -> Result<Self, NatError> {
        let (path, file) = Self::open()?;
        file.lock().map_err(|source| NatError::Lock { path, source })?;
        Ok(Self { _file: file })
    }

    /// Takes it unless someone else has it.
    pub fn try_take() -> Result<Option<Self>, NatError> {
        let (path, file) = Self::open()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(NatError::Lock { path, source }),
        }
    }

    fn open() -> Result<(PathBuf, File), NatError> {
        let path = std::env::var_os("XTABLES_LOCKFILE").map_or_else(|| PathBuf::from(TABLE_LOCK), PathBuf::from);
        match File::options().create(true).write(true).truncate(false).open(&path) {
            Ok(file) => Ok((path, file)),
            Err(source) => Err(NatError::Lock { path, source }),
        }
    }
}
