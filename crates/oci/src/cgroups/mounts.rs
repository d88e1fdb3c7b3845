//! Where the hierarchies are mounted, and where in them a container's cgroup goes.

use std::fs;
use std::path::{Component, Path, PathBuf};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, statfs};

use crate::error::Doing;
use crate::{Error, Result, mountinfo};

/// The controllers of version 1 that containers use, as with runc. Others, such as gVisor's `job`, are left alone: who
/// manages the cgroups above a container's does not know them, and would leave them behind.
const CONTROLLERS: &[&str] = &[
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "misc",
    "name=systemd",
];

/// A hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its controllers; version 2 has none here.
    pub controllers: Vec<String>,
    /// The cgroup that is seen at the mount point.
    pub root: PathBuf,
    pub point: PathBuf,
}

impl Mount {
    fn of(line: &mountinfo::Line<'_>) -> Self {
        let known = line.options.split(',').filter(|option| CONTROLLERS.contains(option));
        let controllers = known.map(str::to_owned).collect();
        Self { controllers, root: line.root.clone(), point: line.point.clone() }
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mounts {
    pub v1: Vec<Mount>,
    /// Hierarchies of version 1 at further places.
    again: Vec<Mount>,
    pub v2: Option<Mount>,
    /// The caller's own cgroups: controllers, none for version 2, and the path.
    own: Vec<(Vec<String>, PathBuf)>,
}

impl Mounts {
    /// Looks what is mounted here.
    pub fn look() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).doing_with(|| format!("read {path}"));
        Ok(Self::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?))
    }

    /// `mountinfo` and `cgroup` as in proc(5).
    pub fn parse(mountinfo: &str, cgroup: &str) -> Self {
        let mut mounts = Self::default();
        for line in mountinfo::parse(mountinfo) {
            let mount = Mount::of(&line);
            match line.kind {
                "cgroup2" if mounts.v2.is_none() => mounts.v2 = Some(mount),
                // A hierarchy can be mounted at several places: the first is the usual one.
                "cgroup" if mounts.v1.iter().any(|other| other.controllers == mount.controllers) => {
                    mounts.again.push(mount);
                }
                "cgroup" => mounts.v1.push(mount),
                _ => {}
            }
        }
        mounts.v1.retain(|mount| !mount.controllers.is_empty());
        mounts.own = cgroup.lines().filter_map(own).collect();
        mounts
    }

    /// The directory in a hierarchy for `linux.cgroupsPath`: below the mount point if absolute, else below the caller's own
    /// cgroup. `..` never leads out.
    pub fn directory(&self, mount: &Mount, path: &str) -> PathBuf {
        let inner = normal(Path::new(path));
        if path.starts_with('/') {
            return mount.point.join(inner);
        }
        let own = self.own(mount).unwrap_or(Path::new("/"));
        // Where only a part of the hierarchy is mounted, as in a container, the own path is told in full.
        let own = own.strip_prefix(&mount.root).unwrap_or(own);
        let own = match mount.controllers.is_empty() {
            // In version 2 a cgroup with processes has no children with controllers, so its parent is taken.
            true => own.parent().unwrap_or(own),
            false => own,
        };
        mount.point.join(normal(own)).join(inner)
    }

    /// The same as it is to be shown to others: at the first place where the kernel's own file system is seen. Another one
    /// may be stacked on a mount, whose server is not everybody's to use, and knows other process IDs than they do.
    pub fn shown_directory(&self, mount: &Mount) -> Option<PathBuf> {
        let again = self.again.iter().filter(|other| other.controllers == mount.controllers);
        let places = || std::iter::once(mount).chain(again.clone()).filter_map(|mount| self.own_directory(mount));
        let is_kernels = |place: &PathBuf| statfs(place).is_ok_and(|seen| seen.filesystem_type() == CGROUP_SUPER_MAGIC);
        places().find(is_kernels).or_else(|| places().next())
    }

    /// The caller's own cgroup in a hierarchy, by its path from the hierarchy's root.
    fn own(&self, mount: &Mount) -> Option<&Path> {
        let own = self.own.iter().find(|(controllers, _)| match mount.controllers.first() {
            Some(controller) => controllers.contains(controller),
            None => controllers.is_empty(),
        });
        own.map(|(_, path)| path.as_path())
    }

    /// The directory of the caller's own cgroup, if it is below what is mounted. It is not where a cgroup namespace was
    /// made after the mount: the caller's cgroup is then the root, and that of the mount is above it.
    pub fn own_directory(&self, mount: &Mount) -> Option<PathBuf> {
        let below = self.own(mount)?.strip_prefix(&mount.root).ok()?;
        Some(mount.point.join(below))
    }
}

/// Refuses what is no place for a container's cgroup. systemd makes its cgroups itself, when asked over D-Bus; and at the
/// top, or in the caller's own, the container's processes would not be told from all others.
pub fn check(path: &str) -> Result<()> {
    let refuse = |problem| Err(Error::spec("linux.cgroupsPath", problem));
    if !path.starts_with('/') && path.split(':').count() == 3 {
        return refuse(format!("{path} is for systemd (slice:prefix:name), which does not run here: give a path"));
    }
    if normal(Path::new(path)).as_os_str().is_empty() {
        return refuse(format!("{path:?} names no cgroup of its own"));
    }
    Ok(())
}

/// Relative, without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}

fn own(line: &str) -> Option<(Vec<String>, PathBuf)> {
    let mut fields = line.splitn(3, ':').skip(1);
    let controllers = fields.next()?.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Some((controllers, PathBuf::from(fields.next()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GVISOR: &str = "\
20 1 0:20 / / rw - 9p none rw
31 20 0:28 / /sys/fs/cgroup rw - tmpfs none rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup none rw,cpu
33 31 0:30 / /sys/fs/cgroup/job rw - cgroup none rw,job
34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup none rw,memory
35 20 0:31 / /tmp/again rw - cgroup none rw,memory";

    fn directory(mounts: &Mounts, index: usize, path: &str) -> String {
        mounts.directory(&mounts.v1[index], path).display().to_string()
    }

    #[test]
    fn hierarchies_are_found_once_and_unknown_ones_left_alone() {
        let mounts = Mounts::parse(GVISOR, "");
        let points: Vec<_> = mounts.v1.iter().map(|mount| mount.point.to_str().expect("text")).collect();
        assert_eq!(points, ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory"]);
        assert_eq!(mounts.v2, None);
    }

    #[test]
    fn controllers_can_be_mounted_together_and_version_2_beside_them() {
        let mounts = Mounts::parse(
            "1 0 0:1 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             2 0 0:2 / /sys/fs/cgroup/unified\\040here rw - cgroup2 cgroup2 rw,nsdelegate\n\
             3 0 0:3 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd",
            "",
        );
        assert_eq!(mounts.v1[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(mounts.v1[1].controllers, ["name=systemd"]);
        assert_eq!(mounts.v2.expect("it is mounted").point, Path::new("/sys/fs/cgroup/unified here"));
    }

    #[test]
    fn an_absolute_path_is_below_the_mount_point() {
        let mounts = Mounts::parse(GVISOR, "2:memory:/pod");
        assert_eq!(directory(&mounts, 1, "/k8s.io/one"), "/sys/fs/cgroup/memory/k8s.io/one");
        assert_eq!(directory(&mounts, 1, "/../../etc/../one/."), "/sys/fs/cgroup/memory/one");
    }

    #[test]
    fn a_relative_path_is_below_the_callers_own_cgroup() {
        let mounts = Mounts::parse(GVISOR, "3:cpu:/\n2:memory:/pod/shim");
        assert_eq!(directory(&mounts, 1, "one"), "/sys/fs/cgroup/memory/pod/shim/one");
        assert_eq!(directory(&mounts, 1, "../../../one"), "/sys/fs/cgroup/memory/pod/shim/one");
        assert_eq!(directory(&mounts, 0, "one"), "/sys/fs/cgroup/cpu/one");
    }

    #[test]
    fn in_a_container_the_own_path_starts_at_what_is_mounted() {
        let mounts = Mounts::parse("1 0 0:1 /docker/7 /cg rw - cgroup none rw,pids", "1:pids:/docker/7/sub");
        assert_eq!(directory(&mounts, 0, "one"), "/cg/sub/one");
    }

    #[test]
    fn in_version_2_a_relative_path_is_beside_the_callers_own_cgroup() {
        let mounts = Mounts::parse("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 none rw", "0::/user/session");
        let mount = mounts.v2.clone().expect("it is mounted");
        assert_eq!(mounts.directory(&mount, "one"), Path::new("/sys/fs/cgroup/user/one"));
    }

    #[test]
    fn the_own_cgroup_is_below_the_mount_or_not_shown() {
        let mounts = Mounts::parse(
            "31 30 0:27 / /cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             32 30 0:28 /pods /cg/memory rw - cgroup cgroup rw,memory\n\
             33 30 0:29 /../.. /cg/pids rw - cgroup cgroup rw,pids\n\
             34 30 0:30 / /cg/freezer rw - cgroup none rw,freezer",
            "5:cpuacct,cpu:/pods/a\n4:memory:/pods/a\n3:pids:/\n0::/unified",
        );
        let shown: Vec<_> = mounts.v1.iter().map(|mount| mounts.own_directory(mount)).collect();
        assert_eq!(shown, [Some("/cg/cpu,cpuacct/pods/a".into()), Some("/cg/memory/a".into()), None, None]);
    }

    #[test]
    fn systemds_form_is_refused() {
        let error = check("system.slice:terrarium:one").expect_err("there is no systemd");
        assert!(
            error.to_string().starts_with("linux.cgroupsPath: system.slice:terrarium:one is for systemd"),
            "{error}"
        );
        check("/a:b:c").expect("a path");
        check("pods/one").expect("a path");
    }

    #[test]
    fn a_path_without_a_name_is_refused() {
        for path in ["", "/", ".", "/..", "one/.."] {
            let error = check(path).expect_err("it would be everybody's");
            assert_eq!(error.to_string(), format!("linux.cgroupsPath: {path:?} names no cgroup of its own"));
        }
    }
}
