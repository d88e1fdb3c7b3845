//! What a sandbox was seen to do, as data: probes fill it, the planner reads it, `terrarium doctor -o json` prints it.
//!
//! Everything in it is behaviour that was tried in the place in which a cluster would live ([`Place`]). What a kernel says
//! of itself is in it for people only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::GapId;

/// The version of the report's form. A field that is added does not change it.
pub const SCHEMA: u32 = 1;

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The version of this form.
    pub schema: u32,
    /// What the kernel says of itself; nothing is decided by it but what containerd decides by it.
    pub kernel: Kernel,
    /// The rights at hand.
    pub rights: Rights,
    /// The sysctls that the kubelet sets or reads, by their path below /proc/sys.
    pub sysctls: BTreeMap<String, Sysctl>,
    /// How an overlay over a directory of /proc/sys went.
    pub sysctl_overlay: Tried,
    /// The cgroup hierarchies.
    pub cgroups: Cgroups,
    /// The files of the cpuacct and memory controllers that cAdvisor reads and a new cgroup lacks here. Without
    /// `memory.stat` all its figures of memory are 0; without the others it has no figures at all.
    pub missing_cgroup_files: BTreeSet<String>,
    /// Whether memory that a process holds is seen in its memory cgroup, and a freezer exists: without both no limit can be
    /// enforced by the kernel.
    pub resource_limits: Tried,
    /// openat2(2).
    pub openat2: Tried,
    /// Reading /dev/kmsg.
    pub kmsg: Tried,
    /// A FUSE file system mounted through /dev/fuse.
    pub fuse: Tried,
    /// Tracing a child with ptrace(2), and changing the answer of a system call at which a seccomp filter stops it.
    pub intercept: Tried,
    /// An overlay whose layers lie on the file system of the data directory: files are written and, which takes a
    /// whiteout, removed.
    pub overlay_on_data_dir: Tried,
    /// The same on a tmpfs.
    pub overlay_on_tmpfs: Tried,
    /// The sysctl net.ipv4.ip_unprivileged_port_start, on a kernel that says it is 4.11 or newer.
    pub unprivileged_ports: Tried,
    /// The sysctl net.ipv4.ping_group_range, on a kernel that says it is 4.11 or newer.
    pub unprivileged_icmp: Tried,
    /// What the network can do.
    pub network: Network,
    /// What OCI runtimes need.
    pub oci: Oci,
    /// /etc/machine-id holds an ID.
    pub machine_id: Tried,
    /// The host's own name has an address.
    pub hostname: Tried,
    /// Whether new entries can be made in these directories by the one who makes the cluster: those in which parts of
    /// Kubernetes insist on having theirs.
    pub writable: BTreeMap<PathBuf, bool>,
}

/// How something went that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tried {
    /// It works.
    Works,
    /// It fails, with this message.
    Fails(String),
}

impl Tried {
    /// Whether it works.
    #[must_use]
    pub fn works(&self) -> bool {
        *self == Self::Works
    }

    /// Why it fails.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Works => None,
            Self::Fails(why) => Some(why),
        }
    }
}

impl<T, E: std::fmt::Display> From<Result<T, E>> for Tried {
    fn from(result: Result<T, E>) -> Self {
        result.map_or_else(|error| Self::Fails(error.to_string()), |_| Self::Works)
    }
}

/// What the kernel says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kernel {
    /// As `uname -r`.
    pub release: String,
    /// Whether it is gVisor's, by its log or its version.
    pub gvisor: bool,
}

/// The rights at hand, and the place that they give a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rights {
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
    /// The effective capabilities, such as `CAP_SYS_ADMIN`.
    pub capabilities: BTreeSet<String>,
    /// A mount namespace, with a tmpfs mounted in it.
    pub mount_namespace: Tried,
    /// A user namespace, and in it a mount namespace with a tmpfs and a network namespace.
    pub user_namespace: Tried,
    /// How many user and group IDs, counted from 0, a user namespace can have mapped to the same IDs outside; 1 where only
    /// the caller's own can be mapped, to 0.
    pub mappable_ids: u32,
    /// Where the rest of the report was tried.
    pub place: Place,
}

/// Where a cluster can live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In a mount namespace of its own.
    MountNamespace,
    /// In user, mount and network namespaces of its own.
    UserNamespace,
    /// In none: mounts are refused. The rest of the report was tried where the caller is.
    Nowhere,
}

/// How a sysctl behaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Sysctl {
    /// It can be read and written: what it held was written back. (Of ip_forward, that it opens for writing.)
    Writable,
    /// It can only be read, and holds this.
    ReadOnly(String),
    /// It is not there.
    Absent,
}

/// What is mounted below /sys/fs/cgroup, or could be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cgroups {
    /// The unified hierarchy, and whether cgroups can be made in it.
    V2(Tried),
    /// These directories below /sys/fs/cgroup are hierarchies of version 1, and whether cgroups can be made in them.
    V1 {
        /// Their names.
        hierarchies: Vec<String>,
        /// Making a cgroup.
        make: Tried,
    },
    /// Nothing is mounted; these controllers of version 1 can be.
    Unmounted {
        /// Their names.
        mountable: Vec<String>,
    },
}

/// What the network can do. Tried in a network namespace of its own, where one can be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// An address other than loopback's, on the machine itself.
    pub address: Tried,
    /// Making a network namespace and a veth into it.
    pub veth: Tried,
    /// Netlink names the kind of a link.
    pub link_kind: Tried,
    /// A default route without a device carries traffic.
    pub deviceless_route: Tried,
    /// The nat table of legacy ip_tables can be read, and replaced by one with SNAT rules in a chain of our own.
    pub legacy_nat: Tried,
    /// nftables: a table with a chain of the nat hook.
    pub nftables: Tried,
    /// Joining netlink's multicast group for links, and being told of a new one.
    pub link_monitor: Tried,
    /// net.ipv4.ip_forward: what it holds, where the cluster would live.
    pub ip_forward: Sysctl,
    /// Outgoing connections leave the ports of Services, 30000 to 32767, alone.
    pub local_ports: Tried,
    /// net.ipv4.ip_local_port_range, which decides that on the machine itself.
    pub ip_local_port_range: Sysctl,
    /// /run/xtables.lock is there.
    pub table_lock: bool,
}

/// What OCI runtimes need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Oci {
    /// A tmpfs with `nr_blocks` and `nr_inodes`, as runc 1.2 and newer mount it over masked directories.
    pub masking_tmpfs: Tried,
    /// procfs has Linux's inode numbers, which runc 1.3 and newer ask for.
    pub procfs_inodes: Tried,
    /// /proc/self/setgroups, which crun opens.
    pub setgroups: Tried,
    /// Joining a pid namespace, which `exec` of runc does.
    pub join_pid_namespace: Tried,
}

/// What the report says of one gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// The gap.
    pub gap: GapId,
    /// Whether the sandbox has it.
    pub present: bool,
    /// What was seen.
    pub evidence: String,
}

impl Report {
    /// What it says of each gap, in the table's order.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        crate::TABLE
            .iter()
            .map(|gap| {
                let evidence = self.evidence(gap.id);
                let present = evidence.is_some();
                Finding { gap: gap.id, present, evidence: evidence.unwrap_or_default() }
            })
            .collect()
    }

    /// Whether the sandbox has the gap.
    #[must_use]
    pub fn has(&self, gap: GapId) -> bool {
        self.evidence(gap).is_some()
    }

    /// What was seen of the gap; nothing where the sandbox does not have it.
    #[must_use]
    pub fn evidence(&self, gap: GapId) -> Option<String> {
        let failure = |tried: &Tried| tried.why().map(str::to_owned);
        let failures = |all: &[(&str, &Tried)]| {
            let all: Vec<_> =
                all.iter().filter_map(|(what, tried)| tried.why().map(|why| format!("{what}: {why}"))).collect();
            (!all.is_empty()).then(|| all.join("; "))
        };
        match gap {
            GapId::Privileges => failure(&self.rights.mount_namespace),
            GapId::MappedIds => (self.rights.place == Place::UserNamespace && self.rights.mappable_ids == 1)
                .then(|| format!("only user {} and group {} can be mapped", self.rights.uid, self.rights.gid)),
            GapId::ProcSys => {
                let all: Vec<_> = self
                    .sysctls
                    .iter()
                    .filter_map(|(path, sysctl)| match sysctl {
                        Sysctl::Writable => None,
                        Sysctl::ReadOnly(_) => Some(format!("{path} is read-only")),
                        Sysctl::Absent => Some(format!("{path} is absent")),
                    })
                    .collect();
                (!all.is_empty()).then(|| all.join(", "))
            }
            GapId::CgroupMounts => match &self.cgroups {
                Cgroups::Unmounted { mountable } => {
                    Some(format!("nothing is mounted; can be mounted: {}", or_none(&mountable.join(", "))))
                }
                Cgroups::V1 { make, .. } | Cgroups::V2(make) => failure(make),
            },
            GapId::CgroupStats => {
                let files: Vec<_> = self.missing_cgroup_files.iter().map(String::as_str).collect();
                (!files.is_empty()).then(|| format!("absent: {}", files.join(", ")))
            }
            GapId::CgroupMagic => failure(&self.openat2),
            GapId::Kmsg => failure(&self.kmsg),
            GapId::CgroupV1 => match &self.cgroups {
                Cgroups::V2(_) => None,
                Cgroups::V1 { hierarchies, .. } => Some(format!("version 1: {}", hierarchies.join(", "))),
                Cgroups::Unmounted { mountable } => Some(format!("version 1: {}", or_none(&mountable.join(", ")))),
            },
            GapId::OverlayOnRoot => {
                failures(&[("overlay on the data directory's file system", &self.overlay_on_data_dir)])
            }
            GapId::UnprivilegedSysctls => {
                failures(&[("ports", &self.unprivileged_ports), ("icmp", &self.unprivileged_icmp)])
            }
            GapId::NodeAddress => failure(&self.network.address),
            GapId::PodLinks => failure(&self.network.veth),
            GapId::LocalPorts => failure(&self.network.local_ports),
            GapId::LinkKind => failure(&self.network.link_kind),
            GapId::DevicelessRoute => failure(&self.network.deviceless_route),
            GapId::Netfilter => failure(&self.network.nftables),
            GapId::OciRuntime => failures(&[
                ("tmpfs with nr_inodes", &self.oci.masking_tmpfs),
                ("procfs", &self.oci.procfs_inodes),
                ("setgroups", &self.oci.setgroups),
                ("joining a pid namespace", &self.oci.join_pid_namespace),
            ]),
            GapId::ResourceLimits => failure(&self.resource_limits),
            GapId::LinkMonitor => failure(&self.network.link_monitor),
            GapId::MachineId => failure(&self.machine_id),
            GapId::HostnameResolution => failure(&self.hostname),
        }
    }
}

fn or_none(list: &str) -> &str {
    if list.is_empty() { "none" } else { list }
}
