//! Cgroups: mounted where everyone looks for them, with a place for the Pods, and with the files and the enforcement that
//! gVisor's own lack.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use terrarium_gaps::{Cgroups, GapId, Rung};

use crate::catalogue::{about, gap, intercept, kubelet, preparation};
use crate::without_mounts::with_mounts;
use crate::{Action, Choice, Input, Preparation, Purpose, Remedy, Setting};

/// gVisor's own cgroup v1 controllers, mounted where everyone looks for them.
pub(crate) struct CgroupMounts;

/// Where everyone looks for cgroups.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Without these the kubelet does not start.
const REQUIRED_CONTROLLERS: &[&str] = &["cpu", "cpuacct", "cpuset", "memory"];

/// The cgroup below which the kubelet keeps its Pods: what runs in it is ours.
pub const POD_CGROUP_ROOT: &str = "terrarium";

impl Remedy for CgroupMounts {
    fn purpose(&self) -> Purpose {
        gap(GapId::CgroupMounts, Rung::Mount)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_mounts(input)?;
        let mountable = match &input.report.cgroups {
            Cgroups::Unmounted { mountable } => mountable,
            Cgroups::V1 { .. } | Cgroups::V2(_) => {
                return Err("the hierarchies are mounted and not ours to change".to_owned());
            }
        };
        if let Some(missing) = REQUIRED_CONTROLLERS.iter().find(|name| !mountable.iter().any(|other| other == *name)) {
            return Err(format!("the controller {missing} cannot be mounted"));
        }
        let root = Path::new(CGROUP_ROOT);
        let mut actions = vec![Action::create_dir(root), Action::mount("tmpfs", root, "mode=0755,size=1m")];
        for controller in mountable {
            let path = root.join(controller);
            actions.extend([Action::create_dir(&path), Action::mount("cgroup", path, controller)]);
        }
        Ok(actions)
    }

    fn verify(&self) -> io::Result<()> {
        REQUIRED_CONTROLLERS
            .iter()
            .map(|name| Path::new(CGROUP_ROOT).join(name).join("cgroup.procs"))
            .try_for_each(|file| fs::read(&file).map(drop).map_err(|error| about(&file, &error)))
    }
}

/// A cgroup for the Pods in each hierarchy.
pub(crate) struct PodCgroups;

impl Remedy for PodCgroups {
    fn purpose(&self) -> Purpose {
        preparation(Preparation::PodCgroups)
    }

    fn does(&self) -> String {
        format!("the cgroup /{POD_CGROUP_ROOT} in each hierarchy, with all Pods below it")
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_mounts(input)?;
        let root = Path::new(CGROUP_ROOT);
        let hierarchies: Vec<PathBuf> = match &input.report.cgroups {
            Cgroups::V2(_) => vec![root.to_owned()],
            Cgroups::V1 { hierarchies: names, .. } => names.iter().map(|name| root.join(name)).collect(),
            Cgroups::Unmounted { .. } if input.choices.of(GapId::CgroupMounts) == Some(Choice::Nothing) => Vec::new(),
            Cgroups::Unmounted { mountable } => mountable.iter().map(|name| root.join(name)).collect(),
        };
        let make = hierarchies.into_iter().map(|hierarchy| Action::Cgroup { path: hierarchy.join(POD_CGROUP_ROOT) });
        Ok(make.chain([kubelet("cgroupRoot", json!(format!("/{POD_CGROUP_ROOT}")))]).collect())
    }
}

/// A file system of a component's, stacked over the mounts whose files do not suffice: readers of mountinfo(5) still find
/// the kernel's there.
pub(crate) struct CgroupFiles;

/// The controllers that lack files in gVisor.
const STACKED: &[&str] = &["cpu", "cpuacct", "memory"];

impl Remedy for CgroupFiles {
    fn purpose(&self) -> Purpose {
        gap(GapId::CgroupStats, Rung::Fuse)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_mounts(input)?;
        if let Some(why) = input.report.fuse.why() {
            return Err(format!("FUSE is refused: {why}"));
        }
        let there = match &input.report.cgroups {
            Cgroups::V2(_) => return Err("version 2 lacks no files".to_owned()),
            Cgroups::V1 { hierarchies, .. } => hierarchies,
            Cgroups::Unmounted { .. } if input.choices.of(GapId::CgroupMounts) == Some(Choice::Nothing) => {
                return Err("no hierarchies are mounted".to_owned());
            }
            Cgroups::Unmounted { mountable } => mountable,
        };
        let backing = input.site.runtime_dir.join("cgroup");
        let controllers: Vec<String> = STACKED
            .iter()
            .filter(|name| there.iter().any(|other| other == *name))
            .map(|name| (*name).to_owned())
            .collect();
        let mut actions = vec![Action::create_dir(&backing)];
        for controller in &controllers {
            let again = backing.join(controller);
            actions.extend([Action::create_dir(&again), Action::mount("cgroup", again, controller)]);
        }
        actions.extend(
            controllers.iter().map(|controller| Action::Stack { target: Path::new(CGROUP_ROOT).join(controller) }),
        );
        actions.push(Action::Configure(Setting::CgroupFiles { controllers, backing }));
        Ok(actions)
    }
}

/// Fails, with the reason, where cgroup files come from the kernel alone.
fn with_cgroup_files(input: &Input<'_>) -> Result<(), String> {
    let wanted = match input.choices.of(GapId::CgroupStats) {
        None => input.report.has(GapId::CgroupStats),
        Some(choice) => choice == Choice::Rung(Rung::Fuse),
    };
    if wanted && CgroupFiles.plan(input).is_ok() {
        Ok(())
    } else {
        Err("no file system adds cgroup files here (cgroup-stats=fuse)".to_owned())
    }
}

/// The kubelet's cgroup library wants each file to be of the kernel's file system, where openat2(2) does not see to that.
pub(crate) struct UncheckedCgroupFiles;

impl Remedy for UncheckedCgroupFiles {
    fn purpose(&self) -> Purpose {
        gap(GapId::CgroupMagic, Rung::Flag)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_cgroup_files(input)?;
        Ok(vec![Action::Configure(Setting::UncheckedCgroupFiles)])
    }
}

/// The same for a kubelet that is not ours: what statfs(2) and fstatfs(2) answer is changed.
pub(crate) struct RewrittenMagic;

impl Remedy for RewrittenMagic {
    fn purpose(&self) -> Purpose {
        gap(GapId::CgroupMagic, Rung::Intercept)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_cgroup_files(input)?;
        // FUSE_SUPER_MAGIC and CGROUP_SUPER_MAGIC of linux/magic.h.
        intercept(input, "statfs", json!({"from": "0x65735546", "to": "0x27e0eb", "below": [CGROUP_ROOT]}))
            .map(|one| vec![one])
    }
}

/// A limit of memory that holds.
pub(crate) struct MemoryGuard;

impl Remedy for MemoryGuard {
    fn purpose(&self) -> Purpose {
        gap(GapId::ResourceLimits, Rung::Fuse)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_cgroup_files(input)?;
        Ok(vec![Action::Configure(Setting::MemoryGuard)])
    }
}
