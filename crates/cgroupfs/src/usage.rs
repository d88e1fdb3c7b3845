//! What is held in cgroups.
//!
//! gVisor charges a page to the cgroup whose task touched it first, as the kernel does: private memory, and what is in
//! tmpfs (pkg/sentry/fsimpl/cgroupfs `memoryUsageInBytesData`). What a process held before it was moved stays with the
//! cgroup that it came from. Files on 9p are the host's to cache, and count only while they are mapped.
//!
//! Where a sandbox keeps no such account, resident sets stand in: of processes that share pages each has them all.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backing::{children, is_gone, members, number};
use crate::process::resident;

/// The sandbox's own figure.
pub(crate) const USAGE: &str = "memory.usage_in_bytes";
/// Who reads the files of a cgroup one after the other gets figures of one moment, which is at most so long ago.
const SHARED: Duration = Duration::from_millis(100);

/// Bytes that are held, of which so many are of processes: the others are in tmpfs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub all: u64,
    pub rss: u64,
}

/// What is held in a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// By itself.
    pub own: Held,
    /// By it and all below.
    pub total: Held,
}

/// Finds that out.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// The sandbox's own figure is true.
    has_account: bool,
    recent: Mutex<HashMap<PathBuf, (Instant, Usage)>>,
}

impl Sampler {
    /// For a hierarchy, with its root cgroup. This very process is in it: it cannot be that nothing is held in all of it.
    pub fn new(root: &Path) -> Self {
        let has_account = number(&root.join(USAGE)).is_ok_and(|usage| usage > 0);
        Self { has_account, recent: Mutex::default() }
    }

    /// How much is held in a cgroup and below, now.
    pub fn total(&self, cgroup: &Path) -> io::Result<u64> {
        if self.has_account {
            return number(&cgroup.join(USAGE));
        }
        Ok(survey(cgroup, resident)?.iter().map(|(_, held)| held).sum())
    }

    /// What is held in a cgroup, in full, now or a moment ago.
    pub fn recent(&self, cgroup: &Path) -> io::Result<Usage> {
        let known = self.table().get(cgroup).copied();
        if let Some((when, usage)) = known
            && when.elapsed() < SHARED
        {
            return Ok(usage);
        }
        let usage = self.usage(cgroup)?;
        let mut table = self.table();
        table.retain(|_, (when, _)| when.elapsed() < SHARED);
        table.insert(cgroup.to_owned(), (Instant::now(), usage));
        Ok(usage)
    }

    fn usage(&self, cgroup: &Path) -> io::Result<Usage> {
        let resident = survey(cgroup, resident)?;
        let own_rss = resident.first().map_or(0, |(_, held)| *held);
        let rss: u64 = resident.iter().map(|(_, held)| held).sum();
        let (own, total) = match self.has_account {
            // gVisor looks at all of its memory for each of its figures: none is asked for that is known to be nothing.
            true if own_rss == 0 => (0, self.total(cgroup)?),
            true => self.own_and_total(cgroup, resident.iter().map(|(below, _)| below.as_path()))?,
            false => (own_rss, rss),
        };
        // Resident sets have pages of programs that are charged elsewhere.
        let held = |all: u64, rss: u64| Held { all, rss: rss.min(all) };
        Ok(Usage { own: held(own, own_rss), total: held(total, rss) })
    }

    /// What a cgroup holds without those right below, which are among others, and with them.
    fn own_and_total<'a>(&self, cgroup: &Path, among: impl Iterator<Item = &'a Path>) -> io::Result<(u64, u64)> {
        let total = self.total(cgroup)?;
        let children = among.filter(|path| path.parent() == Some(cgroup));
        let below: u64 = children.filter_map(|child| self.total(child).ok()).sum();
        Ok((total.saturating_sub(below), total))
    }

    /// A cgroup and all below it, with what each holds by itself.
    pub fn parts(&self, cgroup: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut parts = survey(cgroup, resident)?;
        if self.has_account {
            let cgroups: Vec<PathBuf> = parts.iter().map(|(cgroup, _)| cgroup.clone()).collect();
            for (cgroup, held) in &mut parts {
                let known = self.own_and_total(cgroup, cgroups.iter().map(PathBuf::as_path));
                *held = known.map_or(0, |(own, _)| own);
            }
        }
        Ok(parts)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<PathBuf, (Instant, Usage)>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cgroup and all below it, each with the sum of a figure of its members. A process counts once: its threads may be in
/// several cgroups.
pub(crate) fn survey(cgroup: &Path, figure: impl Fn(i32) -> u64) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut counted = HashSet::new();
    let mut sum = |members: Vec<i32>| members.into_iter().filter(|pid| counted.insert(*pid)).map(&figure).sum();
    let mut parts = vec![(cgroup.to_owned(), sum(members(cgroup)?))];
    let mut open = children(cgroup)?;
    while let Some(below) = open.pop() {
        match members(&below).and_then(|members| Ok((members, children(&below)?))) {
            Ok((members, children)) => {
                parts.push((below, sum(members)));
                open.extend(children);
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_process_is_counted_once() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "cgroup.procs", "7\n8\n");
        write(root.path(), "below/cgroup.procs", "8\n9\n");
        let parts = survey(root.path(), |pid| pid as u64).unwrap();
        assert_eq!(parts, [(root.path().to_owned(), 15), (root.path().join("below"), 9)]);
    }

    #[test]
    fn the_sandboxs_own_figure_counts_where_it_is_true() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), USAGE, "900\n");
        write(root.path(), "pod/memory.usage_in_bytes", "500\n");
        write(root.path(), "pod/cgroup.procs", "");
        write(root.path(), "pod/one/memory.usage_in_bytes", "300\n");
        write(root.path(), "pod/one/cgroup.procs", "");
        let sampler = Sampler::new(root.path());
        let pod = root.path().join("pod");
        let usage = sampler.recent(&pod).unwrap();
        assert_eq!((usage.own, usage.total), (Held::default(), Held { all: 500, rss: 0 }));
        assert_eq!(sampler.parts(&pod).unwrap(), [(pod.clone(), 200), (pod.join("one"), 300)]);
    }

    #[test]
    fn resident_sets_stand_in_for_it() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), USAGE, "0\n");
        write(root.path(), "cgroup.procs", &std::process::id().to_string());
        let sampler = Sampler::new(root.path());
        let usage = sampler.recent(root.path()).unwrap();
        assert!(usage.total.all > 0 && usage.total.all == usage.own.rss, "{usage:?}");
        assert!(sampler.total(root.path()).unwrap() > 0);
    }
}
