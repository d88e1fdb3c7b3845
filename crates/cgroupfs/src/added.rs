//! The files that a cgroup of gVisor lacks, by their names in the kernel's documentation
//! (Documentation/admin-guide/cgroup-v1).

use crate::cpuacct::Told;

/// A file that is computed or kept by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Added {
    /// One that tells processor time.
    Time(Told),
    /// `cpu.stat`
    CpuStat,
    /// `memory.usage_in_bytes`
    MemoryUsage,
    /// `memory.max_usage_in_bytes`
    MemoryMaxUsage,
    /// `memory.stat`
    MemoryStat,
    /// `memory.failcnt`
    FailCount,
    /// `memory.use_hierarchy`
    UseHierarchy,
    /// `memory.oom_control`
    OomControl,
    /// `cgroup.event_control`
    EventControl,
    /// `cgroup.clone_children`
    CloneChildren,
    /// `notify_on_release`
    NotifyOnRelease,
    /// `release_agent`
    ReleaseAgent,
}

/// Which hierarchies have a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// That of a controller.
    Controller(&'static str),
    Every,
    /// Every one, in the root cgroup only.
    EveryRoot,
}

const READ: u16 = 0o444;
const READ_WRITE: u16 = 0o644;
const WRITE: u16 = 0o222;

const FILES: &[(Added, &str, Of, u16)] = &[
    (Added::Time(Told::Ticks), "cpuacct.stat", Of::Controller("cpuacct"), READ),
    (Added::Time(Told::All), "cpuacct.usage", Of::Controller("cpuacct"), READ),
    (Added::Time(Told::User), "cpuacct.usage_user", Of::Controller("cpuacct"), READ),
    (Added::Time(Told::System), "cpuacct.usage_sys", Of::Controller("cpuacct"), READ),
    (Added::Time(Told::AllEach), "cpuacct.usage_percpu", Of::Controller("cpuacct"), READ),
    (Added::Time(Told::UserEach), "cpuacct.usage_percpu_user", Of::Controller("cpuacct"), READ),
    (Added::Time(Told::SystemEach), "cpuacct.usage_percpu_sys", Of::Controller("cpuacct"), READ),
    (Added::Time(Told::Table), "cpuacct.usage_all", Of::Controller("cpuacct"), READ),
    (Added::CpuStat, "cpu.stat", Of::Controller("cpu"), READ),
    (Added::MemoryUsage, "memory.usage_in_bytes", Of::Controller("memory"), READ),
    (Added::MemoryMaxUsage, "memory.max_usage_in_bytes", Of::Controller("memory"), READ_WRITE),
    (Added::MemoryStat, "memory.stat", Of::Controller("memory"), READ),
    (Added::FailCount, "memory.failcnt", Of::Controller("memory"), READ_WRITE),
    (Added::UseHierarchy, "memory.use_hierarchy", Of::Controller("memory"), READ_WRITE),
    (Added::OomControl, "memory.oom_control", Of::Controller("memory"), READ_WRITE),
    (Added::EventControl, "cgroup.event_control", Of::Controller("memory"), WRITE),
    (Added::CloneChildren, "cgroup.clone_children", Of::Every, READ_WRITE),
    (Added::NotifyOnRelease, "notify_on_release", Of::Every, READ_WRITE),
    (Added::ReleaseAgent, "release_agent", Of::EveryRoot, READ_WRITE),
];

impl Added {
    /// The file of that name in a cgroup of a controller's hierarchy.
    pub fn named(name: &str, controller: &str, is_root: bool) -> Option<Self> {
        Self::all(controller, is_root).find(|(_, known)| *known == name).map(|(file, _)| file)
    }

    /// All that a cgroup should have, with their names.
    pub fn all(controller: &str, is_root: bool) -> impl Iterator<Item = (Self, &'static str)> {
        let has = move |of: Of| match of {
            Of::Controller(name) => name == controller,
            Of::Every => true,
            Of::EveryRoot => is_root,
        };
        FILES.iter().filter(move |(_, _, of, _)| has(*of)).map(|(file, name, ..)| (*file, *name))
    }

    /// Its permissions.
    pub fn mode(self) -> u16 {
        FILES.iter().find(|(file, ..)| *file == self).map_or(READ, |(.., mode)| *mode)
    }

    /// Whether it tells what is held.
    pub fn is_usage(self) -> bool {
        matches!(self, Self::MemoryUsage | Self::MemoryMaxUsage | Self::MemoryStat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hierarchy_has_its_own_files_and_those_of_every_one() {
        assert_eq!(Added::named("cpuacct.usage_percpu", "cpuacct", false), Some(Added::Time(Told::AllEach)));
        assert_eq!(Added::named("cpuacct.usage_percpu", "memory", false), None);
        assert_eq!(Added::named("notify_on_release", "pids", false), Some(Added::NotifyOnRelease));
        assert_eq!(Added::named("release_agent", "pids", false), None);
        assert_eq!(Added::named("release_agent", "pids", true), Some(Added::ReleaseAgent));
        assert_eq!(Added::EventControl.mode(), 0o222);
    }
}
