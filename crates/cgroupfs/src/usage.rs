//! What the processes of cgroups hold: the sum of their resident sets.
//!
//! gVisor tells one figure of a process (pkg/sentry/fsimpl/proc `statmData`): all pages that are mapped, private ones,
//! shared ones and those of files together. A page that two processes map counts twice.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backing::{children, is_gone, members};

/// Who reads the files of a cgroup one after the other gets figures of one moment, which is at most so long ago.
const SHARED: Duration = Duration::from_millis(100);

/// Bytes that are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// By the members of the cgroup.
    pub own: u64,
    /// By them and those of all cgroups below.
    pub total: u64,
}

/// Looks at processes.
#[derive(Debug)]
pub(crate) struct Sampler {
    page: u64,
    recent: Mutex<HashMap<PathBuf, (Instant, Usage)>>,
}

impl Sampler {
    pub fn new() -> Self {
        Self { page: rustix::param::page_size() as u64, recent: Mutex::default() }
    }

    /// What is held in a cgroup, or was a moment ago.
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

    /// What is held now.
    fn usage(&self, cgroup: &Path) -> io::Result<Usage> {
        let parts = self.parts(cgroup, |pid, sampler| sampler.resident(pid))?;
        let own = parts.first().map_or(0, |(_, held)| *held);
        Ok(Usage { own, total: parts.iter().map(|(_, held)| held).sum() })
    }

    /// What the members of a cgroup hold, and those of each below it, by what a process does. The cgroup is the first;
    /// each process counts once: the threads of one may be in several cgroups.
    pub fn parts(&self, cgroup: &Path, held: impl Fn(i32, &Self) -> u64) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut counted = HashSet::new();
        let mut sum = |members: Vec<i32>| {
            let new = members.into_iter().filter(|pid| counted.insert(*pid));
            new.map(|pid| held(pid, self)).sum()
        };
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

    /// What a process has in memory, in bytes; nothing when it has ended.
    pub fn resident(&self, pid: i32) -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        resident_pages(&text).unwrap_or_default().saturating_mul(self.page)
    }

    /// What of that is not of files, in bytes, which takes longer to find out.
    pub fn private(&self, pid: i32) -> u64 {
        fs::read_to_string(format!("/proc/{pid}/smaps")).map_or(0, |text| private_bytes(&text))
    }

    fn table(&self) -> MutexGuard<'_, HashMap<PathBuf, (Instant, Usage)>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The second number (proc_pid_statm(5)).
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split(' ').nth(1)?.parse().ok()
}

/// Private pages, and those of shared memory: it has names of its own (proc_pid_smaps(5); gVisor's
/// pkg/sentry/mm/procfs.go).
fn private_bytes(smaps: &str) -> u64 {
    let mut sum = 0_u64;
    let mut is_shared_memory = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if first.ends_with(':') {
            let wanted = if is_shared_memory { "Rss:" } else { "Anonymous:" };
            let kilobytes = words.next().filter(|_| first == wanted).and_then(|word| word.parse::<u64>().ok());
            sum = sum.saturating_add(kilobytes.unwrap_or_default().saturating_mul(1024));
        } else {
            let name = words.nth(4).unwrap_or_default();
            is_shared_memory = ["/dev/zero", "/memfd:", "/SYSV"].iter().any(|memory| name.starts_with(memory));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_second_number_is_what_is_resident() {
        assert_eq!(resident_pages("3000 1200 0 0 0 0 0\n"), Some(1200));
        assert_eq!(resident_pages(""), None);
    }

    #[test]
    fn a_process_is_counted_once() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("below");
        fs::create_dir(&below).unwrap();
        fs::write(root.path().join("cgroup.procs"), "7\n8\n").unwrap();
        fs::write(below.join("cgroup.procs"), "8\n9\n").unwrap();
        let parts = Sampler::new().parts(root.path(), |pid, _| pid as u64).unwrap();
        assert_eq!(parts, [(root.path().to_owned(), 15), (below, 9)]);
    }

    #[test]
    fn pages_of_files_are_not_private() {
        let smaps = "\
00400000-00500000 r-xp 00000000 00:0a 7                                  /bin/program
Rss:                1024 kB
Anonymous:             4 kB
00700000-00800000 rw-p 00000000 00:00 0                                  [heap]
Rss:                  96 kB
Anonymous:            96 kB
00900000-00a00000 rw-s 00000000 00:05 9                                  /memfd:cache (deleted)
Rss:                 512 kB
Anonymous:             0 kB
";
        assert_eq!(private_bytes(smaps), (4 + 96 + 512) << 10);
    }

    proptest! {
        #[test]
        fn any_statm_can_be_read(text in "\\PC*") {
            resident_pages(&text);
            private_bytes(&text);
        }
    }
}
