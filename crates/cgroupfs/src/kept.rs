//! What the server keeps of cgroups, since gVisor has no place for it. It goes with the server: counters begin anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cpuacct::Time;

/// Of one cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Values {
    /// The most that was seen, in bytes.
    pub max_usage: u64,
    /// How often its limit was met.
    pub fail_count: u64,
    /// How many of its processes were ended for want of memory.
    pub oom_kills: u64,
    /// The time of cgroups below that were removed.
    pub ended: Time,
    pub clone_children: bool,
    pub notify_on_release: bool,
}

/// Of all.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    cgroups: Mutex<BTreeMap<PathBuf, Values>>,
    release_agent: Mutex<String>,
}

impl Kept {
    /// Those of a cgroup.
    pub fn get(&self, cgroup: &Path) -> Values {
        self.cgroups().get(cgroup).copied().unwrap_or_default()
    }

    /// Changes those of a cgroup.
    pub fn change<T>(&self, cgroup: &Path, change: impl FnOnce(&mut Values) -> T) -> T {
        change(self.cgroups().entry(cgroup.to_owned()).or_default())
    }

    /// So much was seen. Returns the most.
    pub fn saw(&self, cgroup: &Path, usage: u64) -> u64 {
        self.change(cgroup, |values| {
            values.max_usage = values.max_usage.max(usage);
            values.max_usage
        })
    }

    /// A cgroup is new: it has its parent's settings (`cgroup_create` in kernel/cgroup/cgroup.c).
    pub fn created(&self, cgroup: &Path) {
        let parent = cgroup.parent().map(|parent| self.get(parent)).unwrap_or_default();
        self.remove(cgroup);
        if parent.clone_children || parent.notify_on_release {
            self.change(cgroup, |values| {
                values.clone_children = parent.clone_children;
                values.notify_on_release = parent.notify_on_release;
            });
        }
    }

    /// A cgroup that took so much time is removed: those above it go on counting that.
    pub fn ended(&self, cgroup: &Path, time: Time, root: &Path) {
        for above in cgroup.ancestors().skip(1).take_while(|above| above.starts_with(root)) {
            self.change(above, |values| values.ended += time);
        }
    }

    /// A cgroup is removed.
    pub fn remove(&self, cgroup: &Path) {
        self.cgroups().remove(cgroup);
    }

    /// The program that would be run when a cgroup is empty. It is kept, and never run.
    pub fn release_agent(&self) -> MutexGuard<'_, String> {
        self.release_agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cgroups(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Values>> {
        self.cgroups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_cgroup_has_its_parents_settings_and_no_counts() {
        let kept = Kept::default();
        let (parent, child) = (Path::new("/a"), Path::new("/a/b"));
        kept.change(parent, |values| (values.notify_on_release, values.oom_kills) = (true, 3));
        kept.saw(child, 7);
        kept.created(child);
        assert_eq!(kept.get(child), Values { notify_on_release: true, ..Values::default() });
        assert_eq!((kept.saw(child, 5), kept.saw(child, 4)), (5, 5));
        kept.remove(child);
        assert_eq!(kept.get(child), Values::default());
    }
}
