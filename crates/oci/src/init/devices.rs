//! Device nodes in `/dev`, and its links.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use rustix::io::Errno;

use super::rootfs::NONE;
use super::within::{Missing, Place, Root};
use crate::error::Doing as _;
use crate::{Error, Result};

/// The devices that every container has, beside those of its terminals (runtime specification, "Default Devices").
const DEFAULTS: &[(&str, i64, i64)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Makes the devices that every container has, those that it asks for, and the links.
pub(super) fn make(root: &Root, asked: &[LinuxDevice]) -> Result<()> {
    for (path, major, minor) in
        DEFAULTS.iter().filter(|(path, ..)| asked.iter().all(|one| one.path() != Path::new(path)))
    {
        let device =
            LinuxDeviceBuilder::default().path(*path).typ(LinuxDeviceType::C).major(*major).minor(*minor).build();
        make_one(root, &device.map_err(|error| Error::other("describe a device", error.to_string()))?)?;
    }
    // That one comes with devpts.
    for device in asked.iter().filter(|device| device.path() != Path::new("/dev/ptmx")) {
        make_one(root, device)?;
    }
    link(root, "pts/ptmx", "/dev/ptmx", true)?;
    for (target, path) in LINKS {
        link(root, target, path, false)?;
    }
    if Path::new("/proc/kcore").exists() {
        link(root, "/proc/kcore", "/dev/core", false)?;
    }
    Ok(())
}

fn make_one(root: &Root, device: &LinuxDevice) -> Result<()> {
    let what = || format!("make the device {}", device.path().display());
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(Error::other(what(), "`a` is not a type of a device")),
    };
    let (parent, name) = root.parent(device.path())?;
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
    let number = |number: i64| u32::try_from(number).map_err(|_| Error::other(what(), "its number is out of range"));
    let number = rustix::fs::makedev(number(device.major())?, number(device.minor())?);
    // All others may write to what is made here only where it is asked for.
    let umask = rustix::process::umask(Mode::empty());
    let made = rustix::fs::mknodat(parent.fd(), &name, kind, mode, number);
    rustix::process::umask(umask);
    match made {
        Ok(()) => own(&parent, &name, device).doing_with(what),
        // An image's own, if it is that device: it is used for what only that may be used for.
        Err(Errno::EXIST) => {
            let there = rustix::fs::statat(parent.fd(), &name, AtFlags::SYMLINK_NOFOLLOW).doing_with(what)?;
            if FileType::from_raw_mode(there.st_mode) == kind && (kind == FileType::Fifo || there.st_rdev == number) {
                Ok(())
            } else {
                Err(Error::other(what(), "something else is there"))
            }
        }
        // A user namespace makes none: that of outside is shown.
        Err(Errno::PERM | Errno::ACCESS) if kind != FileType::Fifo => bind(root, device.path()).doing_with(what),
        Err(error) => Err(error).doing_with(what),
    }
}

fn own(parent: &Place, name: &OsStr, device: &LinuxDevice) -> rustix::io::Result<()> {
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(parent.fd().as_fd(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

fn bind(root: &Root, path: &Path) -> std::io::Result<()> {
    let place = root.place(path, Missing::File).map_err(|error| std::io::Error::other(error.chain()))?;
    Ok(mount(Some(path), &place.path(), NONE, MsFlags::MS_BIND, NONE)?)
}

/// Makes a link, if nothing is there or what is there is to go.
fn link(root: &Root, target: &str, path: &str, replace: bool) -> Result<()> {
    let (parent, name) = root.parent(Path::new(path))?;
    if replace {
        match rustix::fs::unlinkat(parent.fd(), &name, AtFlags::empty()) {
            Err(Errno::NOENT) => {}
            other => other.doing_with(|| format!("remove {path}"))?,
        }
    }
    match rustix::fs::symlinkat(target, parent.fd(), &name) {
        Err(Errno::EXIST) => Ok(()),
        other => other.doing_with(|| format!("make the link {path}")),
    }
}
