//! The rights that programs inside have, and those that they have not.
//!
//! | | by |
//! |---|---|
//! | [`Privilege`] | user and capabilities, in the OCI configuration |
//! | [`Deny::Mount`], [`Deny::Ptrace`], [`Deny::NetRaw`] | capabilities, too |
//! | [`Deny::Mount`], [`Deny::Userns`], [`Deny::Ptrace`], [`Deny::Fuse`] | [system calls that are refused](crate::filter) |
//! | [`Deny::Fuse`] | `/dev/fuse`, removed from /dev and from devtmpfs once the sandbox runs |
//! | [`Deny::NetRaw`] | runsc without `--net-raw` |
//! | [`Deny::Links`] | runsc with `--network=host` |

use std::{collections::HashSet, fmt};

use clap::ValueEnum;
use oci_spec::runtime::Capability;
use serde::{Deserialize, Serialize};

use crate::gvisor::name;

/// Who programs inside are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Privilege {
    /// Root with every capability
    #[default]
    Full,
    /// Root with the capabilities that Docker gives when it is asked for none
    Docker,
    /// The user `user`, uid and gid 1000, without any capability
    Uid1000,
}

/// A right that a sandbox can be made without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Deny {
    /// Mounting, in user namespaces too: no CAP_SYS_ADMIN; calls that mount or unmount fail with EPERM
    Mount,
    /// Making user namespaces: unshare and clone fail with EPERM, clone3 with ENOSYS
    Userns,
    /// Tracing: no CAP_SYS_PTRACE; ptrace and process_vm_readv, process_vm_writev fail with EPERM
    Ptrace,
    /// FUSE: no /dev/fuse, on a devtmpfs neither; making it fails with EPERM
    Fuse,
    /// Raw and packet sockets, hence iptables: no CAP_NET_RAW, no runsc --net-raw. A user namespace with a network
    /// namespace of its own has them again in there; deny userns as well to prevent it
    NetRaw,
    /// Network namespaces with links of their own: runsc --network=host, by which the sandbox has the network of the
    /// namespace that it was started in, and one made inside has none
    Links,
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&name(*self))
    }
}

impl fmt::Display for Deny {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&name(*self))
    }
}

/// The user that [`Privilege::Uid1000`] runs as; every root has it.
pub(crate) const USER: &str = "user";
pub(crate) const USER_ID: u32 = 1000;
pub(crate) const USER_HOME: &str = "/home/user";

impl Privilege {
    /// The user and the group.
    pub(crate) fn id(self) -> u32 {
        match self {
            Self::Full | Self::Docker => 0,
            Self::Uid1000 => USER_ID,
        }
    }

    pub(crate) fn home(self) -> &'static str {
        match self {
            Self::Full | Self::Docker => "/root",
            Self::Uid1000 => USER_HOME,
        }
    }

    /// Where programs start: Docker's default for root, and where a login would lead the user.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Full | Self::Docker => "/",
            Self::Uid1000 => USER_HOME,
        }
    }

    /// What is left of these rights without those denied.
    pub(crate) fn capabilities(self, deny: &[Deny]) -> HashSet<Capability> {
        let mut capabilities = match self {
            Self::Full => HashSet::from(EVERY),
            Self::Docker => HashSet::from(DOCKER),
            Self::Uid1000 => HashSet::new(),
        };
        for right in deny {
            match right {
                Deny::Mount => capabilities.remove(&Capability::SysAdmin),
                Deny::Ptrace => capabilities.remove(&Capability::SysPtrace),
                Deny::NetRaw => capabilities.remove(&Capability::NetRaw),
                Deny::Userns | Deny::Fuse | Deny::Links => false,
            };
        }
        capabilities
    }
}

/// What Docker and containerd give a container unless they are told otherwise.
const DOCKER: [Capability; 14] = {
    use Capability::*;
    [
        AuditWrite,
        Chown,
        DacOverride,
        Fowner,
        Fsetid,
        Kill,
        Mknod,
        NetBindService,
        NetRaw,
        Setfcap,
        Setgid,
        Setpcap,
        Setuid,
        SysChroot,
    ]
};

/// All capabilities up to Linux 5.9, whether or not this host's root has them: gVisor's are its own.
const EVERY: [Capability; 41] = {
    use Capability::*;
    [
        AuditControl,
        AuditRead,
        AuditWrite,
        BlockSuspend,
        Bpf,
        CheckpointRestore,
        Chown,
        DacOverride,
        DacReadSearch,
        Fowner,
        Fsetid,
        IpcLock,
        IpcOwner,
        Kill,
        Lease,
        LinuxImmutable,
        MacAdmin,
        MacOverride,
        Mknod,
        NetAdmin,
        NetBindService,
        NetBroadcast,
        NetRaw,
        Perfmon,
        Setfcap,
        Setgid,
        Setpcap,
        Setuid,
        SysAdmin,
        SysBoot,
        SysChroot,
        SysModule,
        SysNice,
        SysPacct,
        SysPtrace,
        SysRawio,
        SysResource,
        SysTime,
        SysTtyConfig,
        Syslog,
        WakeAlarm,
    ]
};
