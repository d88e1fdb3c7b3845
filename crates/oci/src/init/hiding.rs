//! Masked and read-only paths, from inside.

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::rootfs::{NONE, remount};
use crate::Result;
use crate::error::Doing as _;

/// Puts nothing in the place of what is at a path: an empty read-only directory, or `/dev/null`. The tmpfs has no options:
/// gVisor refuses those that would limit its size.
pub(super) fn mask(path: &str) -> Result<()> {
    let hide = || match mount(Some("/dev/null"), path, NONE, MsFlags::MS_BIND, NONE) {
        Err(Errno::ENOENT) => Ok(()),
        Err(Errno::ENOTDIR) => mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, NONE),
        other => other,
    };
    hide().doing_with(|| format!("mask {path}"))
}

/// Makes what is at a path read-only, with its other flags as they are.
pub(super) fn make_read_only(path: &str) -> Result<()> {
    match mount(Some(path), path, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        other => other.doing_with(|| format!("bind {path} to itself"))?,
    }
    let keep = nix::sys::statvfs::statvfs(path).doing_with(|| format!("look at {path}"))?.flags();
    let keep = MsFlags::from_bits_truncate(keep.bits()) & (MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC);
    remount(path, keep | MsFlags::MS_RDONLY).doing_with(|| format!("make {path} read-only"))
}
