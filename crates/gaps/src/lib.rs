//! The gap table: what a gVisor sandbox lacks, what breaks without it, and the ladder of remedies, as data.
//!
//! `terrarium up` plans from it and the documentation (`docs/gaps.md`) is rendered from it. A row exists for what was
//! measured to be missing; a rung is listed as built only when the code for it exists.

mod local_ports;
mod machine_id;
mod markdown;
mod report;
mod sysctls;
mod table;

pub use local_ports::{IP_LOCAL_PORT_RANGE, LINUX_PORT_RANGE, NODE_PORTS};
pub use machine_id::{MACHINE_ID, is_machine_id};
pub use markdown::render;
pub use report::{Cgroups, Finding, Kernel, Network, Oci, Place, Report, Rights, SCHEMA, Sysctl, Tried};
pub use sysctls::SYSCTLS;
pub use table::TABLE;

/// Names a gap. Stable: it appears in plans, journals and on the command line.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum GapId {
    /// The right to mount and to make namespaces is missing.
    Privileges,
    /// A user namespace can have only one user and one group.
    MappedIds,
    /// Files under /proc/sys are absent or read-only.
    ProcSys,
    /// Nothing is mounted on /sys/fs/cgroup.
    CgroupMounts,
    /// Files that cAdvisor reads are absent from gVisor's cgroup controllers.
    CgroupStats,
    /// Files of a FUSE cgroup hierarchy are recognised by their file system's magic number.
    CgroupMagic,
    /// /dev/kmsg is absent.
    Kmsg,
    /// Only cgroup v1 exists.
    CgroupV1,
    /// overlayfs refuses the root file system as its upper layer.
    OverlayOnRoot,
    /// Sysctls for unprivileged ports and ping sockets are absent, or the kernel says it is older than they are.
    UnprivilegedSysctls,
    /// The machine has no address but loopback's.
    NodeAddress,
    /// A new network namespace has no network, or links into it are refused.
    PodLinks,
    /// Outgoing connections take ports that Services may have.
    LocalPorts,
    /// Netlink does not report the kind of a link.
    LinkKind,
    /// A route without a device is unusable.
    DevicelessRoute,
    /// netfilter is legacy ip_tables with few matches and targets.
    Netfilter,
    /// runc 1.2 and newer, crun and youki refuse this kernel.
    OciRuntime,
    /// Resource limits are accepted and not enforced.
    ResourceLimits,
    /// No netlink multicast, no VXLAN.
    LinkMonitor,
    /// /etc/machine-id is absent.
    MachineId,
    /// The host's own name does not resolve.
    HostnameResolution,
}

/// A rung of the remedy ladder, cheapest first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// A flag or a configuration field of the component: costs nothing.
    Flag,
    /// A mount: costs nothing while running.
    Mount,
    /// A namespace: costs nothing while running.
    Namespace,
    /// A FUSE file system: costs those who read it.
    Fuse,
    /// Chosen system calls traced through seccomp: all others run untouched.
    Intercept,
    /// Our own part in place of a stock one that cannot work.
    Replacement,
}

/// One step of a gap's ladder.
#[derive(Debug)]
pub struct Remedy {
    /// Where on the ladder it stands.
    pub rung: Rung,
    /// What it does, in one sentence.
    pub does: &'static str,
    /// Whether terrarium has it; the others were measured to work and are to come.
    pub built: bool,
    /// Whether something cannot be had with it: it is taken where no other can work.
    pub partial: bool,
}

/// What cannot be while a gap is open.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Blocks {
    /// It only narrows what can be done.
    Nothing,
    /// No Pod runs.
    Pods,
    /// The node does not start.
    Node,
}

/// One row of the table.
#[derive(Debug)]
pub struct Gap {
    /// Its stable name.
    pub id: GapId,
    /// What is missing.
    pub missing: &'static str,
    /// What breaks without a remedy, with the message that users see.
    pub breaks: &'static str,
    /// What cannot be while the gap is open.
    pub blocks: Blocks,
    /// What the user could change in the sandbox so that the gap goes away, or should know of it.
    pub hint: &'static str,
    /// The ladder, cheapest first, and those last with which something cannot be had.
    pub remedies: &'static [Remedy],
}

impl Rung {
    /// What remedies of this rung cost while the cluster runs.
    #[must_use]
    pub fn cost(self) -> &'static str {
        match self {
            Self::Flag | Self::Mount | Self::Namespace => "nothing",
            Self::Fuse => "0.06 to 0.16 ms for each read of its files",
            Self::Intercept => "about 70 µs for each traced call",
            Self::Replacement => "our part instead of the stock one",
        }
    }
}

impl GapId {
    /// The table's row of this gap.
    #[must_use]
    pub fn gap(self) -> &'static Gap {
        TABLE.iter().find(|gap| gap.id == self).expect("a test holds that every id has a row")
    }
}

macro_rules! display_as_serialized {
    ($($type:ty),*) => {$(
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.serialize(f)
            }
        }
    )*};
}
use serde::Serialize as _;
display_as_serialized!(GapId, Rung);
