//! The files of cgroups version 1 that gVisor lacks, and limits of memory that are enforced.
//!
//! gVisor has cgroups of version 1 without some of their files, so that cAdvisor, and with it the kubelet, has no figures
//! at all. [`serve`] mounts a FUSE file system on top of a hierarchy's own mount: it passes everything through to that
//! same hierarchy at a second place, and adds what is missing, computed from what gVisor does tell:
//!
//! | hierarchy | added |
//! |---|---|
//! | cpuacct | `cpuacct.usage`, `usage_user`, `usage_sys`, `stat`, with the time of removed cgroups; `cpuacct.usage_percpu`, `_percpu_user`, `_percpu_sys`, `_all` |
//! | memory | `memory.max_usage_in_bytes`, `stat`, `failcnt`, `use_hierarchy`, `oom_control`; `cgroup.event_control`, which takes nothing |
//! | cpu | `cpu.stat` |
//! | each that is served | `cgroup.clone_children`, `notify_on_release`, `release_agent`: kept, also for the next server, and not acted upon |
//!
//! Two files that the sandbox has are replaced: processor time, since that of removed cgroups is forgotten, and
//! `memory.usage_in_bytes`, which leaves things out in the root cgroup, may say 0 of everything, and costs gVisor a walk through
//! all of its memory at each look: this one is up to two seconds old. Those who read the table of mounts still find the
//! hierarchy's own mount, of type `cgroup`, there.
//!
//! A cgroup made through here is its maker's; its files are the server's, as gVisor makes them. Those that are added belong to
//! whom their cgroup belongs, and change neither owner nor mode. Callers are known by the numbers of their threads, which
//! are those of their PID namespaces: who writes 0 to move itself has to share the server's. What is changed behind the
//! mount, in a container that may change cgroups, is seen; but if one is removed there, and nobody looks for it until there
//! is another of its name, that one has the figures kept of it.
//!
//! What gVisor takes and does not do stays undone, but for `memory.limit_in_bytes`, which a guard in this process
//! enforces: shares and quotas of processors are numbers only.

mod added;
mod backing;
mod bell;
mod cpuacct;
mod error;
mod fs;
mod guard;
mod ids;
mod inodes;
mod kept;
mod memory;
mod mounts;
mod pace;
mod pool;
mod process;
mod readers;
mod recent;
mod server;
mod stir;
mod tree;
mod usage;

use std::path::PathBuf;

pub use error::{Error, Result};
pub use mounts::detach_left;
pub use server::serve;

/// The stacks of all threads: gVisor counts the whole of each as memory.
const STACK: usize = 256 << 10;

/// What is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Over which hierarchies.
    pub hierarchies: Vec<Hierarchy>,
    /// Below which cgroup limits of memory are enforced, if the memory hierarchy is among them: a path from its root.
    pub guarded: Option<PathBuf>,
    /// A unix socket, made when all files can be read. Whoever connects to it is told `ok` while they can be read still.
    pub ready_socket: Option<PathBuf>,
    /// A directory for what gVisor has no place for, such as counters, so that the next server goes on with it. Whoever
    /// makes the hierarchies anew empties it.
    pub state: Option<PathBuf>,
}

/// One hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// gVisor's name of its controller, such as `memory`.
    pub controller: String,
    /// Where it is mounted for the server alone.
    pub backing: PathBuf,
    /// Where everybody looks for it, and its own mount is already.
    pub mount_point: PathBuf,
}
