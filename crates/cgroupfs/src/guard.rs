//! Enforces limits of memory: gVisor takes them and does nothing.
//!
//! Every cgroup with a limit is looked at again and again, the sooner the less is left of it. When more is held in it and
//! below than its limit allows, the cgroup with the largest part is ended as a whole, as with `memory.oom.group`. That is
//! counted first, so that who sees the end of a process also sees why.
//!
//! Pages of mapped files are not held against a cgroup, since the kernel would take those back first.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::warn;

use crate::backing::{children, is_gone, members};
use crate::bell::Bell;
use crate::kept::Kept;
use crate::memory::{NO_LIMIT, limit};
use crate::pace::Pace;
use crate::process::Pages;
use crate::usage::{Sampler, survey};

/// How long new limits may go unseen that somebody sets behind the mount. Those set through it are seen at once.
const RESCAN: Duration = Duration::from_secs(15);
/// How long it may take until what ended processes held is free.
const FREEING: Duration = Duration::from_secs(2);
/// The least time between two rounds, whatever happens.
const SHORTEST: Duration = Duration::from_millis(50);

/// Watches the cgroups of a hierarchy.
#[derive(Debug)]
pub(crate) struct Guard {
    root: PathBuf,
    /// It and those below are watched: others are not ours.
    guarded: PathBuf,
    kept: Arc<Kept>,
    sampler: Sampler,
    watched: BTreeMap<PathBuf, Watched>,
    /// Processes that were ended and may not be gone yet.
    ended: HashSet<i32>,
}

#[derive(Debug)]
struct Watched {
    limit: u64,
    pace: Pace,
    due: Instant,
    /// Processes were ended below, and what they held may not be free yet: nobody else has to end for it until then.
    freeing: Option<Instant>,
}

impl Guard {
    /// For a part of a memory hierarchy: a path from its root.
    pub fn new(root: &Path, guarded: &Path, kept: Arc<Kept>) -> Self {
        Self {
            root: root.to_owned(),
            guarded: root.join(guarded.strip_prefix("/").unwrap_or(guarded)),
            kept,
            sampler: Sampler::new(root),
            watched: BTreeMap::new(),
            ended: HashSet::new(),
        }
    }

    /// Watches for good, in a thread of its own.
    pub fn start(mut self, bell: Bell) -> io::Result<()> {
        thread::Builder::new().name("guard".to_owned()).stack_size(crate::STACK).spawn(move || self.watch(&bell))?;
        Ok(())
    }

    fn watch(&mut self, bell: &Bell) {
        let mut scanned = None::<Instant>;
        let mut rings = true;
        loop {
            if rings || scanned.is_none_or(|scanned| scanned.elapsed() >= RESCAN) {
                self.find_limits();
                scanned = Some(Instant::now());
            }
            self.round();
            thread::sleep(SHORTEST);
            let next = self.watched.values().map(|watched| watched.due).min();
            let pause = next.map_or(RESCAN, |due| due.saturating_duration_since(Instant::now())).min(RESCAN);
            rings = bell.wait(pause);
        }
    }

    /// Learns which cgroups have limits.
    fn find_limits(&mut self) {
        let mut known = std::mem::take(&mut self.watched);
        let mut open = vec![self.guarded.clone()];
        while let Some(cgroup) = open.pop() {
            match children(&cgroup) {
                Ok(below) => open.extend(below),
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    warn!("cgroups below {} cannot be listed: {error}", self.name(&cgroup));
                    // What was known there still holds.
                    self.watched.extend(known.extract_if(.., |known, _| known.starts_with(&cgroup)));
                }
            }
            let Some(limit) = limit(&cgroup).ok().filter(|limit| *limit < NO_LIMIT) else { continue };
            let watched = known.remove(&cgroup).filter(|watched| watched.limit == limit);
            let new = || Watched { limit, pace: Pace::default(), due: Instant::now(), freeing: None };
            self.watched.insert(cgroup, watched.unwrap_or_else(new));
        }
    }

    /// Looks at those whose time has come, inner ones first: once something is ended, those above are looked at later.
    fn round(&mut self) {
        let now = Instant::now();
        // Before another process can have its number.
        self.ended.retain(|pid| Path::new("/proc").join(pid.to_string()).exists());
        let due = self.watched.iter().filter(|(_, watched)| watched.due <= now);
        let mut due: Vec<PathBuf> = due.map(|(cgroup, _)| cgroup.clone()).collect();
        due.sort_by_key(|cgroup| std::cmp::Reverse(cgroup.components().count()));
        for cgroup in due {
            let Some(watched) = self.watched.get(&cgroup) else { continue };
            let (limit, waits) = (watched.limit, watched.freeing.is_some_and(|until| now < until));
            let looked = self.look(&cgroup, limit, waits);
            let Some(watched) = self.watched.get_mut(&cgroup) else { continue };
            match looked {
                Ok(Seen::Held(usage)) => {
                    watched.due = now + watched.pace.next(usage, limit);
                    watched.freeing = watched.freeing.filter(|_| usage > limit);
                }
                Ok(Seen::Nobody) => watched.due = now + FREEING,
                Ok(Seen::Ended(victim)) => {
                    for (_, above) in self.watched.iter_mut().filter(|(above, _)| victim.starts_with(above)) {
                        above.freeing = Some(now + FREEING);
                    }
                }
                Err(error) => {
                    if is_gone(&error) {
                        self.watched.remove(&cgroup);
                        continue;
                    }
                    watched.due = now + FREEING;
                    warn!("cannot look at {}: {error}", self.name(&cgroup));
                }
            }
        }
    }

    fn look(&mut self, cgroup: &Path, limit: u64, waits: bool) -> io::Result<Seen> {
        let usage = self.sampler.total(cgroup)?;
        self.kept.saw(cgroup, usage);
        if usage <= limit || waits {
            return Ok(Seen::Held(usage));
        }
        // It may be for mapped files: look closer.
        let kept = unreclaimable(cgroup, usage)?;
        if kept <= limit {
            return Ok(Seen::Held(kept));
        }
        let mut parts = self.sampler.parts(cgroup)?;
        parts.sort_by_key(|(_, held)| std::cmp::Reverse(*held));
        for (victim, _) in parts {
            if self.end(&victim, cgroup, limit, usage)? {
                return Ok(Seen::Ended(victim));
            }
        }
        Ok(Seen::Nobody)
    }

    /// Ends all members of a cgroup, which are asked for now, so that no number stands for another process. Says whether
    /// there were any that may be ended.
    fn end(&mut self, victim: &Path, exceeded: &Path, limit: u64, usage: u64) -> io::Result<bool> {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let members = match members(victim) {
            // The other parts are still there.
            Err(error) if is_gone(&error) => return Ok(false),
            members => members?,
        };
        let members: Vec<i32> = members.into_iter().filter(|pid| *pid != 1 && *pid != own).collect();
        let new = members.iter().filter(|pid| !self.ended.contains(pid)).count();
        if new > 0 {
            self.kept.count(victim, |values| values.oom_kills += new as u64);
            self.kept.count(exceeded, |values| values.fail_count += 1);
            warn!(
                cgroup = %self.name(exceeded), limit, usage, victim = %self.name(victim), processes = ?members,
                "out of memory: the processes are killed"
            );
        }
        for pid in &members {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if new > 0 {
            self.kept.write_down();
        }
        self.ended.extend(&members);
        Ok(!members.is_empty())
    }

    fn name(&self, cgroup: &Path) -> String {
        format!("/{}", cgroup.strip_prefix(&self.root).unwrap_or(cgroup).display())
    }
}

/// What of a cgroup's usage the kernel could not take back: all but mapped files, or its processes' own pages if that is
/// more, since files may be charged elsewhere.
pub(crate) fn unreclaimable(cgroup: &Path, usage: u64) -> io::Result<u64> {
    let mut pages = Pages::default();
    for (below, _) in survey(cgroup, |_| 0)? {
        members(&below).unwrap_or_default().into_iter().for_each(|pid| pages.add(pid));
    }
    Ok(usage.saturating_sub(pages.files()).max(pages.private()).min(usage))
}

/// What came of a look at a cgroup.
enum Seen {
    /// It may go on with what it holds.
    Held(u64),
    /// It holds too much, and has nobody who could be ended: what processes left in tmpfs stays.
    Nobody,
    /// The processes of a cgroup were ended.
    Ended(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_gone_ends_nobody() {
        let root = tempfile::tempdir().unwrap();
        let mut guard = Guard::new(root.path(), Path::new("/"), Arc::default());
        assert!(!guard.end(&root.path().join("gone"), root.path(), 1, 2).unwrap());
    }
}
