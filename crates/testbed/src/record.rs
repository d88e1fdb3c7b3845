//! What is written down about a sandbox, so that another process can find, use and remove it.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    gvisor::{Gvisor, Platform},
    layer::RootKind,
    network::Slot,
    process::{Process, boot_id},
    rights::{Deny, Privilege},
};

/// How a sandbox stands, derived from its record, its lock and its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is being made or removed.
    Busy,
    /// It can be used.
    Running,
    /// gVisor ended by itself; `start` makes it anew, `stop` removes the rest.
    Dead,
}

/// One sandbox: `/run/terrarium-testbed/<id>/record.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub(crate) name: String,
    /// Outlives the process that made it (`testbed start`).
    pub(crate) keep: bool,
    pub(crate) owner: u32,
    pub(crate) boot: String,
    pub(crate) created: u64,
    pub(crate) gvisor: Gvisor,
    pub(crate) platform: Platform,
    pub(crate) privilege: Privilege,
    #[serde(default)] // absent in records written before there was a choice
    pub(crate) deny: Vec<Deny>,
    #[serde(default)]
    pub(crate) root: RootKind,
    /// The Debian tree under its root; none in records written before trees were pruned.
    #[serde(default)]
    pub(crate) tree: Option<PathBuf>,
    pub(crate) runsc: PathBuf,
    pub(crate) slot: Slot,
    /// On disk, not on the tmpfs that /run may be.
    pub(crate) disk: PathBuf,
    /// gVisor's own process; none until the sandbox has started.
    pub(crate) sandbox: Option<Process>,
}

impl Record {
    /// The name its user gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it outlives the process that made it.
    pub fn is_kept(&self) -> bool {
        self.keep
    }

    /// The process that made it.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// Which gVisor it is.
    pub fn gvisor(&self) -> Gvisor {
        self.gvisor
    }

    /// How gVisor catches system calls.
    pub fn platform(&self) -> Platform {
        self.platform
    }

    /// The rights inside.
    pub fn privilege(&self) -> Privilege {
        self.privilege
    }

    /// The rights it was made without.
    pub fn deny(&self) -> &[Deny] {
        &self.deny
    }

    /// What lies under its 9p root on the host.
    pub fn root(&self) -> RootKind {
        self.root
    }

    /// The sandbox's address.
    pub fn address(&self) -> Ipv4Addr {
        self.slot.address()
    }

    /// The host's address as the sandbox reaches it.
    pub fn gateway(&self) -> Ipv4Addr {
        self.slot.gateway()
    }

    /// The host's link to it, and the name of its network namespace.
    pub fn link(&self) -> String {
        self.slot.link()
    }

    /// The directory of this host that takes what the sandbox writes.
    pub fn disk(&self) -> &Path {
        &self.disk
    }

    /// gVisor's own process, when it runs.
    pub fn pid(&self) -> Option<i32> {
        self.sandbox.filter(|_| self.is_of_this_boot()).filter(|process| process.is_alive()).map(|process| process.pid)
    }

    pub(crate) fn id(&self) -> String {
        id(&self.name)
    }

    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.boot == boot_id()
    }

    /// Whether nobody will ever use or remove this sandbox. Ask only while holding its lock: then its owner is gone.
    pub(crate) fn is_abandoned(&self, boot: &str) -> bool {
        !self.keep || self.sandbox.is_none() || self.boot != boot
    }
}

/// The identifier of the sandbox called `name`: marks files and processes as ours.
pub(crate) fn id(name: &str) -> String {
    format!("tt-{name}")
}

/// Fails unless `name` can be part of a path, and is short enough for runsc's socket in its directory (108 bytes).
pub(crate) fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = (1..=32).contains(&name.len())
        && name.bytes().all(|byte| plain(byte) || byte == b'-')
        && !name.starts_with('-');
    if good { Ok(()) } else { Err(Error::BadName { name: name.to_owned() }) }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// The files of one sandbox under `/run`.
pub(crate) struct Files<'a>(pub &'a Path);

impl Files<'_> {
    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }
    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
    /// runsc's `--root`.
    pub(crate) fn root(&self) -> PathBuf {
        self.0.join("root")
    }
    pub(crate) fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }
    /// What runsc and the sandbox's init say.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }
    pub(crate) fn pid(&self) -> PathBuf {
        self.0.join("pid")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(name: &str, keep: bool, sandbox: Option<Process>) -> Record {
        Record {
            name: name.into(),
            keep,
            owner: 1,
            boot: boot_id(),
            created: 0,
            gvisor: Gvisor::default(),
            platform: Platform::default(),
            privilege: Privilege::default(),
            deny: Vec::new(),
            tree: None,
            root: RootKind::default(),
            runsc: "/nowhere/runsc".into(),
            slot: serde_json::from_str("1").expect("a slot"),
            disk: "/nowhere".into(),
            sandbox,
        }
    }

    #[test]
    fn only_a_kept_started_sandbox_of_this_boot_is_left_alone() {
        let process = Process::of(std::process::id().cast_signed());
        let boot = boot_id();
        assert!(!sample("a", true, process).is_abandoned(&boot));
        assert!(sample("a", true, process).is_abandoned("another boot"));
        assert!(sample("a", true, None).is_abandoned(&boot), "its start was killed midway");
        assert!(sample("a", false, process).is_abandoned(&boot), "its owner is gone");
    }

    #[test]
    fn names_stay_out_of_trouble() {
        for good in ["terrarium", "a", "run-12-0", "0"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a/b", "..", "A", "a b", &"a".repeat(33)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
