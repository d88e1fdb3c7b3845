//! Resource limits of a container's process.

use nix::unistd::Pid;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rustix::process::{Resource, Rlimit};

use crate::error::Doing as _;
use crate::{Error, Result};

/// Sets them for a process, from outside: within its user namespace it must not raise them.
pub(crate) fn set(pid: Pid, limits: &[PosixRlimit]) -> Result<()> {
    let process = rustix::process::Pid::from_raw(pid.as_raw());
    for (index, limit) in limits.iter().enumerate() {
        let field = || format!("process.rlimits[{index}]");
        if limit.soft() > limit.hard() {
            return Err(Error::spec(field(), "the soft limit is above the hard one"));
        }
        // The highest number is RLIM_INFINITY.
        let bound = |value: u64| (value != u64::MAX).then_some(value);
        let new = Rlimit { current: bound(limit.soft()), maximum: bound(limit.hard()) };
        rustix::process::prlimit(process, resource(limit.typ()), new)
            .doing_with(|| format!("set {} of process {pid}", limit.typ()))?;
    }
    Ok(())
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}
