//! The mount namespace of terrarium's own: made once, joined again by a later process through any of its members.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Names a mount namespace: the boot's ID, and what /proc/PID/ns/mnt reads as, `mnt:[INODE]`. gVisor counts its inodes
/// from one, so that the same number comes again in the next sandbox on the same disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MountNamespace(String);

impl MountNamespace {
    /// The one of this thread.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn current() -> io::Result<Self> {
        Self::read(Path::new("/proc/thread-self/ns/mnt"))
    }

    fn read(link: &Path) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Self(format!("{} {}", boot.trim(), fs::read_link(link)?.display())))
    }

    /// The processes that live in it.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn members(&self) -> io::Result<Vec<i32>> {
        let mut members = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process may end between the listing and this look.
            if Self::read(Path::new(&format!("/proc/{pid}/ns/mnt"))).is_ok_and(|namespace| namespace == *self) {
                members.push(pid);
            }
        }
        Ok(members)
    }

    /// Moves this process into it, through one of its members. Call it before the process has a second thread.
    ///
    /// # Errors
    /// No member is left (`false` is returned then, not an error), or the kernel refuses.
    pub fn join(&self) -> Result<bool, Error> {
        let join = || {
            let Some(member) = self.members()?.into_iter().next() else { return Ok(false) };
            let directory = std::env::current_dir();
            nix::sched::setns(File::open(format!("/proc/{member}/ns/mnt"))?, CloneFlags::CLONE_NEWNS)?;
            // setns(2) moves the working directory to the namespace's root.
            if let Ok(directory) = directory {
                let _ = std::env::set_current_dir(directory);
            }
            Ok(true)
        };
        join().map_err(|source| Error::Namespace { doing: format!("join the mount namespace {}", self.0), source })
    }
}

/// Moves this process into a new mount namespace. Nothing mounted in it is seen outside; inside, mounts are shared, so
/// that containers that ask for propagation get it. Call it before the process has a second thread.
///
/// # Errors
/// The kernel refuses: CAP_SYS_ADMIN is missing, most likely.
pub fn enter_new() -> Result<(), Error> {
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |errno: nix::Error| Error::Namespace { doing, source: errno.into() }
    };
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace"))?;
    for (flags, doing) in [
        (MsFlags::MS_SLAVE | MsFlags::MS_REC, "part the mounts from those outside"),
        (MsFlags::MS_SHARED | MsFlags::MS_REC, "make the mounts shared"),
    ] {
        nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).map_err(failed(doing))?;
    }
    Ok(())
}

/// Whether something is mounted exactly at `path`, in this mount namespace.
pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
    Ok(mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|target| Path::new(&unescape(target)) == path))
}

/// Undoes mountinfo's octal escapes of space, tab, newline and backslash (proc_pid_mountinfo(5)).
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the kernel's mangle() does, escaping every character that the fields are told apart by.
    fn escape(path: &str) -> String {
        path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
    }

    proptest! {
        #[test]
        fn a_mount_point_is_told_by_its_escaped_path(path in "/([a-z0-9/ \t\n\\\\é])*") {
            prop_assert_eq!(unescape(&escape(&path)), path);
        }
    }
}
