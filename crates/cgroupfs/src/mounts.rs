//! Mounting over a hierarchy, and taking off what an earlier server left there.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};
use nix::unistd::{getgid, getuid};

use crate::Result;
use crate::error::Doing as _;

const DEVICE: &str = "/dev/fuse";
/// More servers than this cannot have died at one place without being noticed.
const MOST_LEFT: usize = 64;

/// Mounts FUSE on a directory, on top of what is there. All requests come through the file that is returned.
pub(crate) fn stack(point: &Path) -> Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE).doing("open", DEVICE)?;
    // The kernel checks modes and owners, by the attributes that the server tells.
    let options = format!(
        "fd={},rootmode=40755,user_id={},group_id={},default_permissions,allow_other",
        device.as_raw_fd(),
        getuid(),
        getgid()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("cgroup"), point, Some("fuse"), flags, Some(options.as_str())).doing("mount FUSE on", point)?;
    Ok(device.into())
}

/// Takes the topmost mount off, whoever uses it.
pub(crate) fn detach(point: &Path) -> Result<()> {
    umount2(point, MntFlags::MNT_DETACH).doing("unmount", point)
}

/// Whether what is there is not FUSE, or nobody serves it.
pub(crate) fn is_gone(point: &Path) -> bool {
    match statfs(point) {
        Ok(system) => system.filesystem_type() != FUSE_SUPER_MAGIC,
        Err(error) => matches!(error, Errno::ENOTCONN | Errno::ECONNABORTED),
    }
}

/// Takes off what servers left: all that is FUSE, down to what is not. Returns how many.
///
/// The table of mounts does not tell: gVisor 2024-07 leaves those out whose server is dead.
///
/// # Errors
/// The place cannot be looked at, or not be unmounted.
pub fn detach_left(point: &Path) -> Result<usize> {
    for taken in 0..MOST_LEFT {
        match statfs(point) {
            Ok(system) if system.filesystem_type() == FUSE_SUPER_MAGIC => {}
            Err(Errno::ENOTCONN | Errno::ECONNABORTED) => {}
            Ok(_) => return Ok(taken),
            Err(error) => return Err(error).doing("look at the file system on", point),
        }
        detach(point)?;
    }
    Ok(MOST_LEFT)
}
