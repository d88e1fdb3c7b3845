//! A container's view of its cgroups, at a mount of type `cgroup`.

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::mounts::{Planned, make_one};
use super::rootfs::{NONE, remount};
use super::within::{Missing, Root};
use crate::Result;
use crate::error::Doing as _;
use crate::mount_options::MountOptions;

/// Where a hierarchy of cgroup v1 is mounted, and the part of it that this process is in.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mount_point: PathBuf,
    own: PathBuf,
}

/// Mounts what this process's kernel has: a directory with the own cgroup of each hierarchy, or the unified one.
pub(super) fn make(root: &Root, planned: &Planned<'_>) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").doing("read /proc/self/mountinfo")?;
    let cgroups = fs::read_to_string("/proc/self/cgroup").doing("read /proc/self/cgroup")?;
    let hierarchies = hierarchies(&mounts, &cgroups);
    if hierarchies.is_empty() && mounts.lines().any(|line| line.contains(" - cgroup2 ")) {
        return unified(root, planned);
    }
    let place = root.place(planned.destination, Missing::Directory)?;
    let attributes = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let what = || format!("mount cgroups on {}", planned.destination.display());
    mount(Some("tmpfs"), &place.path(), Some("tmpfs"), attributes, Some("mode=755")).doing_with(what)?;
    for hierarchy in &hierarchies {
        let name = hierarchy.mount_point.file_name().unwrap_or_default();
        show(root, planned, &hierarchy.own, &planned.destination.join(name))?;
        link_each(root, planned.destination, &name.to_string_lossy())?;
    }
    if planned.options.flags.contains(MsFlags::MS_RDONLY) {
        let place = root.find(planned.destination)?;
        remount(&place.path(), attributes | MsFlags::MS_RDONLY).doing_with(what)?;
    }
    Ok(())
}

/// The unified hierarchy. Where it cannot be mounted, in a user namespace without a cgroup namespace, the one from outside
/// is shown.
fn unified(root: &Root, planned: &Planned<'_>) -> Result<()> {
    let place = root.place(planned.destination, Missing::Directory)?;
    match mount(Some("cgroup"), &place.path(), Some("cgroup2"), planned.options.flags, NONE) {
        Err(Errno::EPERM | Errno::EBUSY) => show(root, planned, Path::new("/sys/fs/cgroup"), planned.destination),
        other => other.doing_with(|| format!("mount cgroup2 on {}", planned.destination.display())),
    }
}

fn show(root: &Root, planned: &Planned<'_>, source: &Path, destination: &Path) -> Result<()> {
    let options = MountOptions {
        flags: planned.options.flags | MsFlags::MS_BIND | MsFlags::MS_REC,
        cleared: MsFlags::empty(),
        propagation: planned.options.propagation.clone(),
        data: Vec::new(),
    };
    make_one(root, &Planned { destination, kind: "bind", source: source.to_owned(), options })
}

/// Controllers that share a hierarchy, such as `cpu,cpuacct`, are found by each of their names.
fn link_each(root: &Root, directory: &Path, name: &str) -> Result<()> {
    if !name.contains(',') {
        return Ok(());
    }
    let place = root.find(directory)?;
    for controller in name.split(',') {
        match rustix::fs::symlinkat(name, place.fd(), controller) {
            Err(rustix::io::Errno::EXIST) => {}
            other => other.doing_with(|| format!("make the link {controller} in {}", directory.display()))?,
        }
    }
    Ok(())
}

/// The hierarchies of cgroup v1 by mountinfo, with this process's cgroup in them by `/proc/self/cgroup`.
fn hierarchies(mounts: &str, cgroups: &str) -> Vec<Hierarchy> {
    mounts
        .lines()
        .filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(3);
            let (root, mount_point) = (fields.next()?, fields.next()?);
            let mut file_system = file_system.split(' ');
            if file_system.next()? != "cgroup" {
                return None;
            }
            let options = file_system.nth(1)?;
            let own = own_cgroup(cgroups, options)?;
            let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
            Some(Hierarchy { mount_point: mount_point.into(), own: Path::new(mount_point).join(below) })
        })
        .collect()
}

/// The cgroup of the hierarchy that has one of these controllers, or this name.
fn own_cgroup<'a>(cgroups: &'a str, options: &str) -> Option<&'a str> {
    cgroups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        controllers.split(',').any(|controller| options.split(',').any(|option| option == controller)).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_below_the_mount() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 30 0:28 /pods /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,name=systemd\n\
                      34 30 0:30 / /sys/fs/cgroup/pids rw - cgroup none rw,pids\n";
        let cgroups = "5:cpuacct,cpu:/pods/a\n4:memory:/pods/a\n1:name=systemd:/\n0::/unified\n";
        let expected = [
            ("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/pods/a"),
            ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/a"),
            ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/systemd/"),
        ]
        .map(|(mount_point, own)| Hierarchy { mount_point: mount_point.into(), own: own.into() });
        assert_eq!(hierarchies(mounts, cgroups), expected);
    }
}
