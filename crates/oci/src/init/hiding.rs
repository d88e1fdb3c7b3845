//! Masked and read-only paths, from inside.

use nix::mount::{MsFlags, mount};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::rootfs::{FORBIDDING, NONE, flags_of, remount};
use crate::error::Doing as _;
use crate::{Error, Result};

/// Puts nothing in the place of what is at a path: an empty read-only directory, or `/dev/null`. Which of them is looked
/// at first: gVisor before 2026-07 binds a file over a directory, too. The tmpfs has no options: gVisor refuses those that
/// would limit its size.
pub(super) fn mask(path: &str) -> Result<()> {
    let doing = || format!("mask {path}");
    let there = match rustix::fs::stat(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other.doing_with(doing)?,
    };
    if FileType::from_raw_mode(there.st_mode).is_dir() {
        return mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, NONE).doing_with(doing);
    }
    check_null(&rustix::fs::lstat(NULL).doing_with(doing)?)?;
    mount(Some(NULL), path, NONE, MsFlags::MS_BIND, NONE).doing_with(doing)
}

pub(super) const NULL: &str = "/dev/null";

/// An image may have put something else in its place, which would be written to instead (CVE-2025-31133).
pub(super) fn check_null(there: &rustix::fs::Stat) -> Result<()> {
    let is_device = FileType::from_raw_mode(there.st_mode).is_char_device();
    if is_device && there.st_rdev == rustix::fs::makedev(1, 3) {
        Ok(())
    } else {
        Err(Error::other(format!("use {NULL}"), "it is not the null device"))
    }
}

/// Makes what is at a path read-only, with its other flags as they are.
pub(super) fn make_read_only(path: &str) -> Result<()> {
    match mount(Some(path), path, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE) {
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => return Ok(()),
        other => other.doing_with(|| format!("bind {path} to itself"))?,
    }
    let keep = flags_of(path).doing_with(|| format!("look at {path}"))? & FORBIDDING;
    remount(path, keep | MsFlags::MS_RDONLY).doing_with(|| format!("make {path} read-only"))
}
