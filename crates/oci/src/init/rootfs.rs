//! The container's root: parted from the mounts outside before anything is mounted in it, and made the root at last.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{Mode, OFlags};

use crate::error::Doing as _;
use crate::spec::Config;
use crate::{Error, Result, mount_options, mountinfo};

/// What mount(2) is given where it reads nothing.
pub(super) const NONE: Option<&str> = None;

/// Makes the root file system a mount of its own, from which nothing comes out and, unless the configuration has it
/// otherwise, into which what is mounted outside later still comes.
pub(super) fn prepare(config: &Config) -> Result<()> {
    let propagation = match propagation(config) {
        // Then not even the root file system could be bound.
        Some(asked) if asked.contains(MsFlags::MS_UNBINDABLE) => MsFlags::MS_PRIVATE | asked & MsFlags::MS_REC,
        Some(asked) => asked,
        None => MsFlags::MS_SLAVE | MsFlags::MS_REC,
    };
    let rootfs = &config.rootfs;
    let bind = || {
        mount(Some(rootfs), rootfs, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
            .doing_with(|| format!("bind {} to itself", rootfs.display()))
    };
    if config.has_own_mounts() {
        mount(NONE, "/", NONE, propagation, NONE).doing("part the mounts from those outside")?;
        part_parent(rootfs, propagation)?;
        return bind();
    }
    // Of others' mounts none is changed.
    bind()?;
    mount(NONE, rootfs, NONE, propagation, NONE).doing("part the mounts from those outside")
}

/// What the configuration asks for.
fn propagation(config: &Config) -> Option<MsFlags> {
    config.linux().and_then(|linux| linux.rootfs_propagation().as_deref()).and_then(mount_options::propagation)
}

/// Gives the root the propagation that it is to have, from inside. Before, it had none: that of the mounts in it is their
/// own.
pub(super) fn propagate(config: &Config) -> Result<()> {
    let Some(asked) = propagation(config) else { return Ok(()) };
    mount(NONE, "/", NONE, asked & !MsFlags::MS_REC, NONE)
        .map_err(|error| Error::spec("linux.rootfsPropagation", format!("cannot be set: {error}")))
}

/// pivot_root(2) wants the mount above the new root not to be shared; and were it, the new root would be seen outside. What
/// is mounted outside later still comes to what is bound from it, unless the container itself is to share its mounts.
fn part_parent(rootfs: &Path, propagation: MsFlags) -> Result<()> {
    let how = if propagation.contains(MsFlags::MS_SHARED) { MsFlags::MS_PRIVATE } else { MsFlags::MS_SLAVE };
    for path in rootfs.ancestors() {
        match mount(NONE, path, NONE, how, NONE) {
            // It is not where something is mounted.
            Err(Errno::EINVAL) if path != Path::new("/") => {}
            other => return other.doing_with(|| format!("part {} from the mounts outside", path.display())),
        }
    }
    Ok(())
}

/// Makes the root file system the root, and lets go of all others, if they are not somebody else's.
pub(super) fn enter(config: &Config, no_pivot: bool) -> Result<()> {
    match config.has_own_mounts() {
        false => change_root(&config.rootfs),
        true if no_pivot => move_root(&config.rootfs),
        true => pivot(&config.rootfs),
    }
}

/// Makes the root file system the root of this process alone.
pub(crate) fn change_root(rootfs: &Path) -> Result<()> {
    rustix::process::chdir(rootfs).doing_with(|| format!("enter {}", rootfs.display()))?;
    rustix::process::chroot(".").doing("change the root")?;
    rustix::process::chdir("/").doing("enter the new root")
}

/// How many mounts there are at a path, one on the other.
pub(crate) fn mounts_at(path: &Path) -> Result<usize> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").doing("read /proc/self/mountinfo")?;
    Ok(mountinfo::parse(&mountinfo).filter(|mount| mount.point == path).count())
}

/// Takes off what [`prepare`] and the mounts after it have put on the root file system of a container that shares its
/// caller's mounts, and nothing that was there `before`, however often it is done.
pub(crate) fn unmount(rootfs: &Path, before: usize) -> Result<()> {
    for _ in before..mounts_at(rootfs)? {
        umount2(rootfs, MntFlags::MNT_DETACH).doing_with(|| format!("unmount {}", rootfs.display()))?;
    }
    Ok(())
}

/// Both arguments of pivot_root(2) may be the same directory: the old root is then mounted over the new one, and comes
/// off without a directory having been made for it.
fn pivot(rootfs: &Path) -> Result<()> {
    let open = |path: &Path| {
        rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .doing_with(|| format!("open {}", path.display()))
    };
    let old = open(Path::new("/"))?;
    let new = open(rootfs)?;
    rustix::process::fchdir(&new).doing("enter the new root")?;
    nix::unistd::pivot_root(".", ".").doing_with(|| format!("make {} the root", rootfs.display()))?;
    rustix::process::fchdir(&old).doing("enter the old root")?;
    mount(NONE, ".", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE).doing("part the old root")?;
    umount2(".", MntFlags::MNT_DETACH).doing("unmount the old root")?;
    rustix::process::chdir("/").doing("enter the new root")
}

/// For root file systems that cannot be pivoted away from, such as an initramfs. The old mounts stay below, so those of
/// procfs and sysfs are taken off first: the kernel lets a process mount them anew only as it sees them already.
fn move_root(rootfs: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").doing("read /proc/self/mountinfo")?;
    let outside =
        mountinfo::parse(&mounts).filter(is_pseudo_file_system).filter(|line| !line.point.starts_with(rootfs));
    for path in outside.map(|line| line.point) {
        match mount(NONE, &path, NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE) {
            // What it was mounted in is gone already.
            Err(Errno::ENOENT) => continue,
            other => other.doing_with(|| format!("part {}", path.display()))?,
        }
        match umount2(&path, MntFlags::MNT_DETACH) {
            Err(Errno::EINVAL | Errno::EPERM) => mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), NONE)
                .doing_with(|| format!("cover {}", path.display()))?,
            other => other.doing_with(|| format!("unmount {}", path.display()))?,
        }
    }
    rustix::process::chdir(rootfs).doing_with(|| format!("enter {}", rootfs.display()))?;
    mount(Some(rootfs), "/", NONE, MsFlags::MS_MOVE, NONE).doing_with(|| format!("move {} to /", rootfs.display()))?;
    change_root(Path::new("."))
}

/// Whether it is a whole procfs or sysfs.
fn is_pseudo_file_system(line: &mountinfo::Line<'_>) -> bool {
    line.root == Path::new("/") && matches!(line.kind, "proc" | "sysfs")
}

/// Makes the root read-only, from inside.
pub(super) fn make_read_only() -> Result<()> {
    remount("/", MsFlags::MS_RDONLY).doing("make the root read-only")
}

/// Sets flags of what is mounted there. In a user namespace, flags that came from outside must not go: they are kept where
/// the kernel insists.
pub(super) fn remount(path: &(impl nix::NixPath + ?Sized), flags: MsFlags) -> nix::Result<()> {
    let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    match mount(NONE, path, NONE, flags, NONE) {
        Err(Errno::EPERM) => mount(NONE, path, NONE, flags | flags_of(path)?, NONE),
        other => other,
    }
}

/// The flags that forbid what files could do.
pub(super) const FORBIDDING: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// The flags of what is mounted there, as far as a user namespace may not take them away (mount_namespaces(7)).
pub(super) fn flags_of(path: &(impl nix::NixPath + ?Sized)) -> nix::Result<MsFlags> {
    use nix::sys::statvfs::FsFlags;
    let now = nix::sys::statvfs::statvfs(path)?.flags();
    let pairs = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    Ok(pairs.into_iter().filter(|(set, _)| now.contains(*set)).map(|(_, flag)| flag).collect())
}

/// Whether a path, already without symbolic links, is one that nothing may be mounted on: procfs is what privileges are
/// read from and set by. A few files in it are for such as lxcfs to replace.
pub(super) fn check_proc(inside: &Path, is_procfs: bool) -> Result<()> {
    const REPLACEABLE: &[&str] = &[
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "net/dev",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    ];
    match inside.strip_prefix("/proc") {
        Err(_) => Ok(()),
        Ok(rest) if rest.as_os_str().is_empty() && is_procfs => Ok(()),
        Ok(rest) if REPLACEABLE.iter().any(|name| Path::new(name) == rest) => Ok(()),
        Ok(_) => Err(Error::other(format!("mount on {}", inside.display()), "it is inside /proc, or would replace it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pseudo_file_systems_are_taken_off() {
        let is = |root: &str, kind: &str| {
            let line = format!("22 28 0:21 {root} /proc rw,nosuid shared:13 - {kind} proc rw");
            mountinfo::parse(&line).any(|line| is_pseudo_file_system(&line))
        };
        assert!(is("/", "proc") && is("/", "sysfs") && !is("/sys", "proc") && !is("/", "tmpfs"));
    }

    #[test]
    fn nothing_is_mounted_inside_proc() {
        for (path, is_procfs, allowed) in [
            ("/proc", true, true),
            ("/proc", false, false),
            ("/proc/self/attr", false, false),
            ("/proc/sys", true, false),
            ("/proc/meminfo", false, true),
            ("/process", false, true),
        ] {
            assert_eq!(check_proc(Path::new(path), is_procfs).is_ok(), allowed, "{path}");
        }
    }
}
