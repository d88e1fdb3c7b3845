//! The container's mounts, made from outside of its root. See [`super::within`] for how their targets are found.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use oci_spec::runtime::{LinuxNamespaceType, Mount};
use rustix::fs::Mode;

use super::cgroup_mount;
use super::rootfs::{FORBIDDING, NONE, check_proc, flags_of, remount};
use super::within::{Missing, Place, Root};
use crate::channel::Channel;
use crate::error::Doing as _;
use crate::mount_options::MountOptions;
use crate::spec::Config;
use crate::user_namespace::is_mapped;
use crate::{Error, Result};

const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// One mount, as it is made.
pub(super) struct Planned<'a> {
    pub destination: &'a Path,
    pub kind: &'a str,
    pub source: PathBuf,
    pub options: MountOptions,
}

impl<'a> Planned<'a> {
    fn new(mount: &'a Mount, bundle: &Path) -> Result<Self, String> {
        let options = MountOptions::of(mount)?;
        let kind = mount.typ().as_deref().unwrap_or("none");
        let source = mount.source().clone().unwrap_or_else(|| kind.into());
        let source = if options.is_bind() { bundle.join(source) } else { source };
        Ok(Self { destination: mount.destination(), kind, source, options })
    }

    /// Has the source opened that this process itself may not reach. It has a path as long as it is open.
    fn reach(&mut self, index: usize, channel: &Channel) -> Result<Option<OwnedFd>> {
        if !self.options.is_bind() || rustix::fs::stat(&self.source).err() != Some(rustix::io::Errno::ACCESS) {
            return Ok(None);
        }
        let opened = channel.open(index)?;
        self.source = format!("/proc/self/fd/{}", opened.as_raw_fd()).into();
        Ok(Some(opened))
    }

    /// What is in /dev and in a tmpfs is made after the mount, and so a read-only one is made so at the end.
    fn is_read_only_late(&self) -> bool {
        self.options.flags.contains(MsFlags::MS_RDONLY) && (self.kind == "tmpfs" || is_dev(self.destination))
    }
}

/// Where a bind mount comes from, by its place in the configuration.
pub(crate) fn bind_source(config: &Config, index: usize) -> Result<PathBuf> {
    let mount = config.spec.mounts().iter().flatten().nth(index);
    let planned = mount.and_then(|mount| Planned::new(mount, &config.bundle).ok());
    let bind = planned.filter(|planned| planned.options.is_bind());
    bind.map(|bind| bind.source).ok_or_else(|| Error::spec(format!("mounts[{index}]"), "is no bind mount"))
}

fn is_dev(path: &Path) -> bool {
    path.components().eq(Path::new("/dev").components())
}

/// Whether `/dev` is filled by the runtime: not where the one from outside is shown.
pub(super) fn fills_dev(config: &Config) -> bool {
    let mut mounts = config.spec.mounts().iter().flatten();
    !mounts.any(|mount| is_dev(mount.destination()) && MountOptions::of(mount).is_ok_and(|options| options.is_bind()))
}

/// Makes all of them, in their order.
pub(super) fn make(root: &Root, config: &Config, channel: &Channel) -> Result<()> {
    let has_cgroup_namespace = config.namespaces.has(LinuxNamespaceType::Cgroup);
    for (index, mount) in config.spec.mounts().iter().flatten().enumerate() {
        let mut planned = Planned::new(mount, &config.bundle)
            .map_err(|problem| Error::spec(format!("mounts[{index}].options"), problem))?;
        let _held = planned.reach(index, channel)?;
        match planned.kind {
            "cgroup" | "cgroup2" if !planned.options.is_bind() => {
                cgroup_mount::make(root, &planned, has_cgroup_namespace)?
            }
            _ => make_one(root, &planned)?,
        }
    }
    Ok(())
}

/// Makes one.
pub(super) fn make_one(root: &Root, planned: &Planned<'_>) -> Result<()> {
    let target = target(root, planned)?;
    let what = || match planned.options.is_bind() {
        true => format!("bind {} to {}", planned.source.display(), planned.destination.display()),
        false => format!("mount {} on {}", planned.kind, planned.destination.display()),
    };
    check_proc(target.inside(), is_procfs(planned))?;
    let mut flags = planned.options.flags;
    if planned.is_read_only_late() {
        flags.remove(MsFlags::MS_RDONLY);
    }
    mount_on(&target, planned, flags).doing_with(what)?;
    // What was held is what is now below the mount.
    let target = root.find(target.inside())?;
    if planned.kind == "devpts" && !planned.options.is_bind() {
        open_to_all(&target).doing_with(what)?;
    }
    for propagation in &planned.options.propagation {
        mount(NONE, &target.path(), NONE, *propagation, NONE)
            .doing_with(|| format!("{}: set its propagation", what()))?;
    }
    let attributes = planned.options.attributes();
    if planned.options.is_bind() && !(attributes | planned.options.cleared).is_empty() {
        // What the mount below forbids stays forbidden, unless it is asked for.
        let kept = flags_of(&target.path()).doing_with(what)? & (FORBIDDING | MsFlags::MS_RDONLY);
        let kept = kept.difference(planned.options.cleared);
        remount(&target.path(), attributes | kept).doing_with(|| format!("{}: set its flags", what()))?;
    }
    Ok(())
}

/// In gVisor the mode for terminals is that of the root of devpts, too, and so nobody but its owner would find one.
fn open_to_all(terminals: &Place) -> std::io::Result<()> {
    let stat = terminals.stat()?;
    if stat.st_mode & 0o001 != 0 {
        return Ok(());
    }
    Ok(rustix::fs::chmod(terminals.path(), Mode::from_raw_mode(0o755))?)
}

/// The mount itself. The mode of a directory that a tmpfs hides is that of the tmpfs, unless it is given one.
fn mount_on(target: &Place, planned: &Planned<'_>, flags: MsFlags) -> nix::Result<()> {
    let mut data = planned.options.data.clone();
    if planned.options.is_bind() {
        data.clear();
    } else if planned.kind == "tmpfs"
        && let Ok(stat) = target.stat()
    {
        data.insert(0, format!("mode={:04o}", stat.st_mode & 0o7777));
    }
    match mount_with(target, planned, flags, &data) {
        // A group of devpts that the user namespace does not have.
        Err(Errno::EINVAL) if without_unmapped_group(&mut data) => mount_with(target, planned, flags, &data),
        other => other,
    }
}

fn mount_with(target: &Place, planned: &Planned<'_>, flags: MsFlags, data: &[String]) -> nix::Result<()> {
    let text = data.join(",");
    let text = (!text.is_empty()).then_some(text.as_str());
    mount(Some(&planned.source), &target.path(), Some(planned.kind), flags, text)
}

/// Takes away a group that has no number in this user namespace; says whether there was one.
fn without_unmapped_group(data: &mut Vec<String>) -> bool {
    let map = fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    let before = data.len();
    data.retain(|option| {
        let group = option.strip_prefix("gid=").and_then(|group| group.parse().ok());
        group.is_none_or(|group| is_mapped(&map, group))
    });
    data.len() < before
}

/// Where it is mounted, made if it is not there: a file for what is one, else a directory.
fn target(root: &Root, planned: &Planned<'_>) -> Result<Place> {
    if matches!(planned.kind, "proc" | "sysfs") && !planned.options.is_bind() {
        return ordinary_directory(root, planned.destination);
    }
    let missing = if planned.options.is_bind() {
        let source = fs::metadata(&planned.source);
        match source.doing_with(|| format!("find {}, to be bound", planned.source.display()))?.is_dir() {
            true => Missing::Directory,
            false => Missing::File,
        }
    } else {
        Missing::Directory
    };
    let place = root.place(planned.destination, missing)?;
    if place.inside() == Path::new("/") && missing == Missing::File {
        return Err(Error::other(format!("bind {}", planned.source.display()), "a file cannot be the root"));
    }
    Ok(place)
}

/// Kernel interfaces are mounted where they are asked for, not where a link of the image leads.
fn ordinary_directory(root: &Root, path: &Path) -> Result<Place> {
    let place = root.place(path, Missing::Directory)?;
    let asked: PathBuf = Path::new("/").join(path).components().collect();
    if place.inside() != asked {
        return Err(Error::other(format!("mount on {}", path.display()), "it is not an ordinary directory"));
    }
    Ok(place)
}

/// Whether what comes there is procfs: a new one, or another's shown.
fn is_procfs(planned: &Planned<'_>) -> bool {
    if planned.options.is_bind() {
        let statfs = rustix::fs::statfs(&planned.source);
        return statfs.is_ok_and(|statfs| statfs.f_type.cast_unsigned() == PROC_SUPER_MAGIC);
    }
    planned.kind == "proc"
}

/// Makes read-only what had to be written to first, from inside.
pub(super) fn finish(config: &Config) -> Result<()> {
    for mount in config.spec.mounts().iter().flatten() {
        let planned = Planned::new(mount, &config.bundle).map_err(|problem| Error::spec("mounts", problem))?;
        if planned.is_read_only_late() && !planned.options.is_bind() {
            let path = Path::new("/").join(planned.destination);
            remount(&path, planned.options.attributes()).doing_with(|| format!("make {} read-only", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bind_mounts_of_the_configuration_have_a_source_to_open() {
        let spec = serde_json::json!({"ociVersion": "1.2.0", "mounts": [
            {"destination": "/proc", "type": "proc", "source": "/etc/shadow"},
            {"destination": "/volume", "type": "bind", "source": "volume", "options": ["rbind"]},
        ]});
        let spec = serde_json::from_value(spec).expect("a configuration");
        let config = Config::of_created(spec, "/bundle".into(), "/bundle/rootfs".into()).expect("it is valid");
        assert_eq!(bind_source(&config, 1).expect("a bind mount"), Path::new("/bundle/volume"));
        let refused = |index| bind_source(&config, index).expect_err("no bind mount").to_string();
        assert_eq!([refused(0), refused(2)], ["mounts[0]: is no bind mount", "mounts[2]: is no bind mount"]);
    }

    #[test]
    fn dev_is_told_however_it_is_written() {
        assert!(is_dev(Path::new("/dev/")) && is_dev(Path::new("/dev/.")) && !is_dev(Path::new("/dev/pts")));
    }
}
