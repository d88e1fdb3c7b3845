//! What is held in cgroups.
//!
//! gVisor charges a page to the cgroup whose task touched it first, as the kernel does: private memory, and what is in
//! tmpfs (pkg/sentry/fsimpl/cgroupfs `memoryUsageInBytesData`). What a process held before it was moved stays with the
//! cgroup that it came from. Files on 9p are the host's to cache, and count only while they are mapped.
//!
//! Where a sandbox keeps no such account, resident sets stand in: of processes that share pages each has them all.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backing::{children, is_gone, members, number};
use crate::process::resident;
use crate::recent::Recent;

/// The sandbox's own figure.
pub(crate) const USAGE: &str = "memory.usage_in_bytes";

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
    account: Mutex<Account>,
    recent: Recent<Usage>,
}

impl Sampler {
    /// For a hierarchy, with its root cgroup. This very process is in it: it cannot be that nothing is held in all of it.
    pub fn new(root: &Path) -> Self {
        let has_account = number(&root.join(USAGE)).is_ok_and(|usage| usage > 0);
        Self { has_account, account: Mutex::default(), recent: Recent::default() }
    }

    /// How much is held in a cgroup and below, now.
    pub fn total(&self, cgroup: &Path) -> io::Result<u64> {
        if self.has_account {
            return number(&cgroup.join(USAGE));
        }
        Ok(survey(cgroup, resident)?.iter().map(|(_, held)| held).sum())
    }

    /// What is held in a cgroup, in full, a moment ago: see [`Account`].
    pub fn recent(&self, cgroup: &Path) -> io::Result<Usage> {
        self.recent.get_or(cgroup, || self.usage(cgroup))
    }

    /// There is another cgroup by that name, or none.
    pub fn forget(&self, cgroup: &Path) {
        self.recent.forget(cgroup);
        self.account().figures.remove(cgroup);
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether [`Self::recent`] takes no looking at processes.
    pub fn has_recent(&self, cgroup: &Path) -> bool {
        self.recent.get(cgroup).is_some()
    }

    fn usage(&self, cgroup: &Path) -> io::Result<Usage> {
        let resident = survey(cgroup, resident)?;
        let own_rss = resident.first().map_or(0, |(_, held)| *held);
        let rss: u64 = resident.iter().map(|(_, held)| held).sum();
        let (own, total) = if self.has_account {
            let mut account = self.account();
            own_and_total(cgroup, resident.iter().map(|(below, _)| below.as_path()), |cgroup| account.of(cgroup))?
        } else {
            (own_rss, rss)
        };
        // Resident sets have pages of programs that are charged elsewhere.
        let held = |all: u64, rss: u64| Held { all, rss: rss.min(all) };
        Ok(Usage { own: held(own, own_rss), total: held(total, rss) })
    }

    /// A cgroup and all below it, with what each holds by itself.
    pub fn parts(&self, cgroup: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut parts = survey(cgroup, resident)?;
        if self.has_account {
            let cgroups: Vec<PathBuf> = parts.iter().map(|(cgroup, _)| cgroup.clone()).collect();
            for (cgroup, held) in &mut parts {
                let known = own_and_total(cgroup, cgroups.iter().map(PathBuf::as_path), |cgroup| self.total(cgroup));
                *held = known.map_or(0, |(own, _)| own);
            }
        }
        Ok(parts)
    }
}

/// What a cgroup holds without those right below, which are among others, and with them.
fn own_and_total<'a>(
    cgroup: &Path,
    among: impl Iterator<Item = &'a Path>,
    mut total: impl FnMut(&Path) -> io::Result<u64>,
) -> io::Result<(u64, u64)> {
    let all = total(cgroup)?;
    let children = among.filter(|path| path.parent() == Some(cgroup));
    let below: u64 = children.filter_map(|child| total(child).ok()).sum();
    Ok((all.saturating_sub(below), all))
}

/// The sandbox's own figures, of two seconds ago at most.
///
/// For each that is asked for gVisor looks through its memory; but not while it has just done so for /proc/meminfo, which
/// it takes for up to date for a hundredth of a second (pkg/sentry/pgalloc `UpdateUsage`). So those that are asked for again
/// and again are read together.
#[derive(Debug, Default)]
struct Account {
    read: Option<Instant>,
    figures: HashMap<PathBuf, Figure>,
}

#[derive(Debug)]
struct Figure {
    bytes: u64,
    first: Instant,
    asked: Instant,
}

impl Account {
    const FRESH: Duration = Duration::from_secs(2);
    /// What was asked for first so short ago may be a container that is about to start: it is read each time.
    const NEW: Duration = Duration::from_secs(10);
    /// What nobody asks for so long is not read with the others.
    const WANTED: Duration = Duration::from_secs(60);

    fn of(&mut self, cgroup: &Path) -> io::Result<u64> {
        let now = Instant::now();
        if self.read.is_none_or(|read| now - read >= Self::FRESH) {
            self.read_all(now);
        }
        if let Some(figure) = self.figures.get_mut(cgroup)
            && now - figure.first >= Self::NEW
        {
            figure.asked = now;
            return Ok(figure.bytes);
        }
        let bytes = number(&cgroup.join(USAGE))?;
        let figure = self.figures.entry(cgroup.to_owned()).or_insert(Figure { bytes, first: now, asked: now });
        (figure.bytes, figure.asked) = (bytes, now);
        Ok(bytes)
    }

    fn read_all(&mut self, now: Instant) {
        let _ = fs::read("/proc/meminfo");
        self.figures.retain(|cgroup, figure| {
            let bytes = Some(cgroup).filter(|_| now - figure.asked < Self::WANTED);
            let bytes = bytes.and_then(|cgroup| number(&cgroup.join(USAGE)).ok());
            figure.bytes = bytes.unwrap_or_default();
            bytes.is_some()
        });
        self.read = Some(now);
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
        assert_eq!((usage.own, usage.total), (Held { all: 200, rss: 0 }, Held { all: 500, rss: 0 }));
        assert_eq!(sampler.parts(&pod).unwrap(), [(pod.clone(), 200), (pod.join("one"), 300)]);
    }

    #[test]
    fn the_accounts_of_all_are_read_together() {
        let root = tempfile::tempdir().unwrap();
        let (one, other) = (root.path().join("one"), root.path().join("other"));
        let tell = |usage: &str| ["one", "other"].map(|cgroup| write(root.path(), &format!("{cgroup}/{USAGE}"), usage));
        tell("5\n");
        let mut account = Account::default();
        assert_eq!((account.of(&one).unwrap(), account.of(&other).unwrap()), (5, 5));
        tell("6\n");
        assert_eq!((account.of(&one).unwrap(), account.of(&other).unwrap()), (6, 6), "they are new");
        account.figures.values_mut().for_each(|figure| figure.first -= Account::NEW);
        tell("7\n");
        assert_eq!(account.of(&one).unwrap(), 6, "it is a moment ago");
        account.read = account.read.map(|read| read - Account::FRESH);
        assert_eq!((account.of(&other).unwrap(), account.figures[&one].bytes), (7, 7));
        account.figures.get_mut(&one).unwrap().asked -= Account::WANTED;
        account.read_all(Instant::now());
        assert_eq!(account.figures.keys().collect::<Vec<_>>(), [&other]);
        fs::remove_dir_all(&other).unwrap();
        account.read_all(Instant::now());
        assert!(account.of(&other).is_err());
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
