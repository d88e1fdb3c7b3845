//! A container's view of its cgroups, at a mount of type `cgroup`.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::mounts::{Planned, make_one};
use super::rootfs::{NONE, remount};
use super::within::{Missing, Root};
use crate::Result;
use crate::cgroups::mounts::{Mount, Mounts};
use crate::error::Doing as _;
use crate::mount_options::MountOptions;

const ATTRIBUTES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// Mounts what this process's kernel has: a directory with the own cgroup of each hierarchy, or the unified one.
pub(super) fn make(root: &Root, planned: &Planned<'_>, has_namespace: bool) -> Result<()> {
    let mounts = Mounts::look()?;
    if let (Some(hierarchy), true) = (&mounts.v2, mounts.v1.is_empty()) {
        return unified(root, planned, mounts.own_directory(hierarchy));
    }
    let place = root.place(planned.destination, Missing::Directory)?;
    let what = || format!("mount cgroups on {}", planned.destination.display());
    mount(Some("tmpfs"), &place.path(), Some("tmpfs"), ATTRIBUTES, Some("mode=755")).doing_with(what)?;
    for hierarchy in &mounts.v1 {
        let name = hierarchy.point.file_name().unwrap_or_default();
        let destination = planned.destination.join(name);
        if has_namespace {
            mount_again(root, planned, hierarchy, &destination)?;
        } else if let Some(own) = mounts.shown_directory(hierarchy) {
            show(root, planned, &own, &destination)?;
        } else {
            continue;
        }
        link_each(root, planned.destination, &name.to_string_lossy())?;
    }
    if planned.options.flags.contains(MsFlags::MS_RDONLY) {
        let place = root.find(planned.destination)?;
        remount(&place.path(), ATTRIBUTES | MsFlags::MS_RDONLY).doing_with(what)?;
    }
    Ok(())
}

/// A hierarchy, of which a mount that is made in a cgroup namespace shows only the part of that.
fn mount_again(root: &Root, planned: &Planned<'_>, hierarchy: &Mount, destination: &Path) -> Result<()> {
    let options = MountOptions {
        flags: ATTRIBUTES | (planned.options.flags & MsFlags::MS_RDONLY),
        cleared: MsFlags::empty(),
        propagation: planned.options.propagation.clone(),
        data: hierarchy.controllers.clone(),
    };
    make_one(root, &Planned { destination, kind: "cgroup", source: "cgroup".into(), options })
}

/// The unified hierarchy. Where it cannot be mounted, in a user namespace without a cgroup namespace, the own cgroup is
/// shown.
fn unified(root: &Root, planned: &Planned<'_>, own: Option<PathBuf>) -> Result<()> {
    let place = root.place(planned.destination, Missing::Directory)?;
    match (mount(Some("cgroup"), &place.path(), Some("cgroup2"), planned.options.flags, NONE), own) {
        (Err(Errno::EPERM | Errno::EBUSY), Some(own)) => show(root, planned, &own, planned.destination),
        (other, _) => other.doing_with(|| format!("mount cgroup2 on {}", planned.destination.display())),
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
