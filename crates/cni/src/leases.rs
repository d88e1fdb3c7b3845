//! The leases of `host-local`, which does not collect those that nobody gave back (version 1.9.1 has no GC).
//!
//! Container runtimes give back what they remember, and containerd remembers a Pod before it calls ADD. What is left are
//! leases of an ADD or DEL that was killed. So GC asks for their release one by one, and so does an ADD that gets no
//! address: whatever has no link on the node is stale, but for those of other ADDs that have an address and no link yet.
//! A lock keeps these apart: shared by ADDs, held alone while stale leases are looked for.
//!
//! A lease is a file named by its address that holds container and interface, a line each
//! (`plugins/ipam/host-local/backend/disk/backend.go`).

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::attachment::Attachment;
use crate::conf::NetConf;
use crate::error::Error;
use crate::ipam::IpamPlugin;

/// The leases of one network.
#[derive(Debug)]
pub struct Leases {
    directory: PathBuf,
    lock: PathBuf,
}

/// Held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Leases {
    /// Those of the network that is configured.
    pub fn of(conf: &NetConf) -> Self {
        let data = &conf.ipam.data_dir;
        Self { directory: data.join(&conf.name), lock: data.join(format!("{}.attaching", conf.name)) }
    }

    /// To be held from before an address is taken until there is a link. Without the lock ADD works, too; then nobody
    /// looks for stale leases.
    pub fn share(&self) -> Option<Lock> {
        self.locked(File::lock_shared)
    }

    /// To be held while what has no link is stale.
    pub fn alone(&self) -> Option<Lock> {
        self.locked(File::lock)
    }

    fn locked(&self, lock: impl Fn(&File) -> io::Result<()>) -> Option<Lock> {
        fs::create_dir_all(self.lock.parent()?).ok()?;
        let file = File::options().create(true).write(true).truncate(false).open(&self.lock).ok()?;
        lock(&file).ok()?;
        Some(Lock { _file: file })
    }

    /// Has those released that are unwanted; how many were, and what went wrong.
    pub fn release(&self, ipam: &IpamPlugin<'_>, mut unwanted: impl FnMut(&Attachment) -> bool) -> (usize, Vec<Error>) {
        let released = self.attachments().into_iter().filter(|attachment| unwanted(attachment));
        let (done, failed): (Vec<_>, Vec<_>) =
            released.map(|attachment| ipam.release(&attachment)).partition(Result::is_ok);
        (done.len(), failed.into_iter().filter_map(Result::err).map(Error::from).collect())
    }

    /// Who has an address.
    fn attachments(&self) -> Vec<Attachment> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let leases =
            entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<IpAddr>().is_ok()));
        leases.filter_map(|entry| attachment(&fs::read_to_string(entry.path()).ok()?)).collect()
    }
}

fn attachment(lease: &str) -> Option<Attachment> {
    let (container_id, if_name) = lease.split_once("\r\n")?;
    Some(Attachment { container_id: container_id.trim().into(), if_name: if_name.trim().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_read_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let leases = Leases { directory: root.path().to_owned(), lock: root.path().join("lock") };
        for (name, text) in
            [("10.42.0.2", "c1\r\neth0"), ("10.42.0.3", "torn"), ("last_reserved_ip.0", "10.42.0.2\r\n"), ("lock", "")]
        {
            fs::write(root.path().join(name), text).unwrap();
        }
        assert_eq!(leases.attachments(), [Attachment { container_id: "c1".into(), if_name: "eth0".into() }]);
    }

    #[test]
    fn one_alone_or_many_share() {
        let root = tempfile::tempdir().unwrap();
        let leases = Leases { directory: root.path().join("network"), lock: root.path().join("lock") };
        let (one, other) = (leases.share().unwrap(), leases.share().unwrap());
        let file = File::open(&leases.lock).unwrap();
        assert!(file.try_lock().is_err());
        drop((one, other));
        file.try_lock().unwrap();
    }
}
