//! Who the process is: its groups and user, and its standard streams, which it must be able to open again.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid};
use oci_spec::runtime::Process;

use super::hiding::check_null;
use crate::error::Doing as _;
use crate::user_namespace::is_mapped;
use crate::{Error, Result};

/// Takes on the process's groups and user.
pub(super) fn take_on(process: &Process) -> Result<()> {
    let user = process.user();
    for (field, id, map) in [("uid", user.uid(), "uid_map"), ("gid", user.gid(), "gid_map")] {
        let map = fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default();
        // Without procfs there is nothing to look at, and the kernel decides.
        if !map.is_empty() && !is_mapped(&map, id.into()) {
            return Err(Error::spec(
                format!("process.user.{field}"),
                format!("{id} is not an ID of the user namespace"),
            ));
        }
    }
    own_standard_streams(user.uid())?;
    set_groups(user.additional_gids().as_deref().unwrap_or_default())?;
    let (gid, uid) = (Gid::from_raw(user.gid()), Uid::from_raw(user.uid()));
    nix::unistd::setresgid(gid, gid, gid).doing_with(|| format!("become group {gid}"))?;
    nix::unistd::setresuid(uid, uid, uid).doing_with(|| format!("become user {uid}"))
}

/// A user namespace may forbid it (user_namespaces(7), `/proc/PID/setgroups`): then no groups can be had, and none are
/// lost either. In ascending order, as Linux keeps them: gVisor keeps the caller's order, and containerd's is by chance.
fn set_groups(groups: &[u32]) -> Result<()> {
    let mut ids: Vec<_> = groups.iter().copied().map(Gid::from_raw).collect();
    ids.sort_unstable_by_key(|id| id.as_raw());
    match nix::unistd::setgroups(&ids) {
        Err(Errno::EPERM) if groups.is_empty() => Ok(()),
        other => other.doing_with(|| format!("take on the groups {groups:?}")),
    }
}

/// What the process writes to was opened by another user; programs open `/dev/stdout` again. The null device is the
/// machine's, whatever the container has at its path.
fn own_standard_streams(uid: u32) -> Result<()> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let streams = [
        (rustix::fs::fstat(&stdin), rustix::fd::AsFd::as_fd(&stdin)),
        (rustix::fs::fstat(&stdout), rustix::fd::AsFd::as_fd(&stdout)),
        (rustix::fs::fstat(&stderr), rustix::fd::AsFd::as_fd(&stderr)),
    ];
    for (stat, stream) in streams {
        // A closed one has none.
        let Ok(stat) = stat else { continue };
        if stat.st_uid == uid || check_null(&stat).is_ok() {
            continue;
        }
        use rustix::io::Errno;
        match rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(uid)), None) {
            // Its owner or group is none of this user namespace, or it is on a read-only file system.
            Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            other => other.doing("give the standard streams to the process's user")?,
        }
    }
    Ok(())
}

/// The home directory of a user by `/etc/passwd` (passwd(5)), else `/`.
pub(super) fn home(uid: u32) -> String {
    home_in(&fs::read_to_string("/etc/passwd").unwrap_or_default(), uid)
}

fn home_in(passwd: &str, uid: u32) -> String {
    let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = lines.find(|fields| fields.get(2).and_then(|id| id.parse().ok()) == Some(uid));
    line.and_then(|fields| fields.get(5).copied()).filter(|home| !home.is_empty()).unwrap_or("/").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_that_of_the_user() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nnone:x:7:7:::\nuser:x:1000:1000::/home/user:/bin/sh\n";
        assert_eq!(home_in(passwd, 0), "/root");
        assert_eq!(home_in(passwd, 1000), "/home/user");
        assert_eq!(home_in(passwd, 7), "/");
        assert_eq!(home_in(passwd, 9), "/");
    }
}
