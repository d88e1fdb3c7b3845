//! One hierarchy: what its files say, and what becomes of what is written.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use crate::added::Added;
use crate::backing::{MEMBERS, read_open, write};
use crate::cpuacct::Time;
use crate::guard::unreclaimable;
use crate::inodes::{Kind, Node};
use crate::kept::Kept;
use crate::memory::{LIMIT, NO_LIMIT, SOFT_LIMIT, Sandbox, Stat, least_limit, limit_of, stat};
use crate::recent::Recent;
use crate::usage::{Sampler, Usage};
use crate::{Hierarchy, cpuacct, memory};

/// What the files of a hierarchy are made of.
#[derive(Debug)]
pub(crate) struct Tree {
    pub hierarchy: Hierarchy,
    pub kept: Arc<Kept>,
    sampler: Sampler,
    times: Recent<Time>,
    limits: Recent<u64>,
    processors: u64,
    /// Whether the sandbox tells time by its kinds, from which all files about it are made.
    has_times: bool,
}

impl Tree {
    /// Looks at what backs the hierarchy.
    pub fn new(hierarchy: &Hierarchy, kept: Arc<Kept>) -> io::Result<Self> {
        Ok(Self {
            hierarchy: hierarchy.clone(),
            kept,
            sampler: Sampler::new(&hierarchy.backing),
            times: Recent::default(),
            limits: Recent::default(),
            processors: cpuacct::processors()?,
            has_times: hierarchy.controller == "cpuacct" && Time::of(&hierarchy.backing).is_ok(),
        })
    }

    /// What is at a path: the sandbox's own, else what is added. The sandbox's own forgets the time of what was removed; what
    /// is held in its root cgroup is not all that is held in the sandbox, there may be no account at all, and where there is
    /// one each look at it is dear: who reads several files gets them from one.
    pub fn find(&self, path: &Path) -> io::Result<(Kind, Option<fs::Metadata>)> {
        let added = self.added(path);
        if let Some(added) = added
            && (self.has_times && matches!(added, Added::Time(_)) || added == Added::MemoryUsage)
            && path.parent().is_some_and(Path::is_dir)
        {
            return Ok((Kind::Added(added), None));
        }
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => Ok((Kind::Cgroup, Some(metadata))),
            Ok(metadata) => Ok((Kind::Own, Some(metadata))),
            Err(error) => match added.filter(|_| error.kind() == io::ErrorKind::NotFound) {
                Some(added) if path.parent().is_some_and(Path::is_dir) => Ok((Kind::Added(added), None)),
                _ => Err(error),
            },
        }
    }

    fn added(&self, path: &Path) -> Option<Added> {
        Added::named(path.file_name()?.to_str()?, &self.hierarchy.controller, self.is_in_root(path))
    }

    fn is_in_root(&self, path: &Path) -> bool {
        path.parent() == Some(&self.hierarchy.backing)
    }

    /// The names of files that a cgroup lacks.
    pub fn lacking(&self, cgroup: &Path, has: impl Fn(&str) -> bool) -> Vec<(Added, &'static str)> {
        let is_root = cgroup == self.hierarchy.backing;
        Added::all(&self.hierarchy.controller, is_root).filter(|(_, name)| !has(name)).collect()
    }

    /// What a file says.
    pub fn read(&self, node: &Node) -> io::Result<Vec<u8>> {
        match node.kind {
            Kind::Cgroup => Err(Errno::ISDIR.into()),
            Kind::Own => read_open(&fs::File::open(&node.path)?),
            Kind::Added(added) => self.tell(added, &node.path).map(String::into_bytes),
        }
    }

    fn tell(&self, added: Added, path: &Path) -> io::Result<String> {
        let cgroup = path.parent().ok_or(Errno::NODEV)?;
        let flag = |value: bool| format!("{}\n", u8::from(value));
        Ok(match added {
            Added::Time(told) => cpuacct::tell(told, self.time(cgroup)?, self.processors),
            // gVisor never holds a task back.
            Added::CpuStat => "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n".to_owned(),
            Added::MemoryUsage => format!("{}\n", self.usage(cgroup)?),
            Added::MemoryMaxUsage => format!("{}\n", self.kept.saw(cgroup, self.usage(cgroup)?)),
            Added::MemoryStat => self.memory_stat(cgroup)?,
            Added::FailCount => format!("{}\n", self.kept.get(cgroup).fail_count),
            Added::UseHierarchy => "1\n".to_owned(),
            Added::OomControl => {
                format!("oom_kill_disable 0\nunder_oom 0\noom_kill {}\n", self.kept.get(cgroup).oom_kills)
            }
            Added::EventControl => return Err(Errno::INVAL.into()),
            Added::CloneChildren => flag(self.kept.get(cgroup).clone_children),
            Added::NotifyOnRelease => flag(self.kept.get(cgroup).notify_on_release),
            Added::ReleaseAgent => format!("{}\n", self.kept.release_agent()),
        })
    }

    /// Whether it takes looking at processes, of which there may be many, to say what a file says.
    pub fn is_slow(&self, node: &Node) -> bool {
        let at_hand = |cgroup| self.sampler.has_recent(cgroup);
        matches!(node.kind, Kind::Added(added) if added.is_usage()) && !node.path.parent().is_some_and(at_hand)
    }

    /// Whether it may, to write into a file.
    pub fn is_slow_to_write(&self, node: &Node) -> bool {
        node.path.ends_with(LIMIT) || node.kind == Kind::Added(Added::MemoryMaxUsage)
    }

    /// Of a cgroup and all that are or were below it.
    fn time(&self, cgroup: &Path) -> io::Result<Time> {
        self.times.get_or(cgroup, || Ok(Time::of(cgroup)? + self.kept.get(cgroup).ended))
    }

    /// Bytes that are held in a cgroup and below; in the root one, in the whole sandbox.
    fn usage(&self, cgroup: &Path) -> io::Result<u64> {
        if cgroup == self.hierarchy.backing {
            return Ok(Sandbox::look()?.usage);
        }
        let usage = self.sampler.recent(cgroup)?.total.all;
        self.kept.saw(cgroup, usage);
        Ok(usage)
    }

    fn memory_stat(&self, cgroup: &Path) -> io::Result<String> {
        let limit = self.limits.get_or(cgroup, || Ok(least_limit(cgroup, &self.hierarchy.backing)))?;
        if cgroup == self.hierarchy.backing {
            let all = Sandbox::look()?.stat;
            return Ok(stat(&all, limit, &all));
        }
        let Usage { own, total } = self.sampler.recent(cgroup)?;
        Ok(stat(&Stat::held(own), limit, &Stat::held(total)))
    }

    /// Writes into a file for a process. Returns how much was taken.
    pub fn write(&self, node: &Node, data: &[u8], writer: u32) -> io::Result<usize> {
        match node.kind {
            Kind::Cgroup => Err(Errno::ISDIR.into()),
            Kind::Own if is_list_of_members(&node.path) && data.trim_ascii() == b"0" => {
                // 0 is whoever writes, and to the sandbox that would be this process.
                let whole = node.path.ends_with(MEMBERS).then(|| thread_group(writer)).flatten();
                write(&node.path, whole.unwrap_or(writer).to_string().as_bytes()).map(|_| data.len())
            }
            Kind::Own if node.path.ends_with(LIMIT) || node.path.ends_with(SOFT_LIMIT) => {
                self.limit(&node.path, data).map(|()| data.len())
            }
            Kind::Own => write(&node.path, data).map_err(|error| nobody(error, &node.path, data)),
            Kind::Added(added) => self.set(added, &node.path, data).map(|()| data.len()),
        }
    }

    /// gVisor takes any number. With the kernel no limit sinks below what is held, where somebody would have to end for it.
    fn limit(&self, file: &Path, data: &[u8]) -> io::Result<()> {
        let limit = std::str::from_utf8(data).ok().and_then(limit_of).ok_or(Errno::INVAL)?;
        let cgroup = file.parent().ok_or(Errno::NODEV)?;
        if file.ends_with(LIMIT) && limit < memory::limit(cgroup)? {
            let usage = self.sampler.total(cgroup)?;
            if usage > limit && unreclaimable(cgroup, usage)? > limit {
                return Err(Errno::BUSY.into());
            }
        }
        write(file, limit.to_string().as_bytes())?;
        self.limits.clear();
        Ok(())
    }

    fn set(&self, added: Added, path: &Path, data: &[u8]) -> io::Result<()> {
        let cgroup = path.parent().ok_or(Errno::NODEV)?;
        let text = std::str::from_utf8(data).map_err(|_| Errno::INVAL)?.trim();
        let number = || text.parse::<u64>().map_err(|_| Errno::INVAL);
        match added {
            // `mem_cgroup_reset`: any write does.
            Added::MemoryMaxUsage => {
                self.sampler.forget(cgroup);
                let usage = self.usage(cgroup)?;
                self.kept.change(cgroup, |values| values.max_usage = usage);
            }
            Added::FailCount => self.kept.change(cgroup, |values| values.fail_count = 0),
            Added::UseHierarchy if number()? != 1 => return Err(Errno::INVAL.into()),
            Added::UseHierarchy => {}
            // Nothing can be held back instead of being ended.
            Added::OomControl if number()? != 0 => return Err(Errno::OPNOTSUPP.into()),
            Added::OomControl => {}
            // Whoever registers names an eventfd of its own, at which the server cannot get.
            Added::EventControl => return Err(Errno::OPNOTSUPP.into()),
            Added::CloneChildren => {
                let set = number()? != 0;
                self.kept.change(cgroup, |values| values.clone_children = set);
            }
            Added::NotifyOnRelease => {
                let set = number()? != 0;
                self.kept.change(cgroup, |values| values.notify_on_release = set);
            }
            Added::ReleaseAgent => self.kept.set_release_agent(text),
            _ => return Err(Errno::INVAL.into()),
        }
        Ok(())
    }

    /// A cgroup was made. gVisor gives it its parent's limits, as they are then; with the kernel it has none of its own.
    pub fn created(&self, cgroup: &Path) {
        self.forget(cgroup);
        self.kept.created(cgroup);
        let unlimited = NO_LIMIT.to_string();
        let limits: &[(&str, &str)] = match self.hierarchy.controller.as_str() {
            "memory" => &[(LIMIT, &unlimited), (SOFT_LIMIT, &unlimited)],
            "cpu" => &[("cpu.cfs_quota_us", "-1"), ("cpu.cfs_period_us", "100000"), ("cpu.shares", "1024")],
            _ => &[],
        };
        for (file, value) in limits {
            let _ = write(&cgroup.join(file), value.as_bytes());
        }
        self.limits.clear();
    }

    /// A cgroup is gone, or another one is there.
    pub fn forget(&self, cgroup: &Path) {
        self.kept.remove(cgroup);
        self.sampler.forget(cgroup);
        self.times.forget(cgroup);
    }

    /// Removes a cgroup.
    pub fn remove(&self, cgroup: &Path) -> io::Result<()> {
        // Nobody is in it any more who could add to that; if somebody is, it stays. Who reads of those above it meanwhile is
        // answered after this, by the same thread.
        let time = if self.has_times { Time::of(cgroup).unwrap_or_default() } else { Time::default() };
        match fs::remove_dir(cgroup) {
            // The kernel says that it is busy.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Err(Errno::BUSY.into()),
            Err(error) => Err(error),
            Ok(()) => {
                self.forget(cgroup);
                self.kept.ended(cgroup, time, &self.hierarchy.backing);
                Ok(())
            }
        }
    }
}

fn is_list_of_members(path: &Path) -> bool {
    path.ends_with(MEMBERS) || path.ends_with("tasks")
}

/// gVisor says EINVAL also where the kernel says ESRCH: that there is no such process.
fn nobody(error: io::Error, list: &Path, data: &[u8]) -> io::Error {
    let named = || std::str::from_utf8(data).ok()?.trim().parse::<u32>().ok();
    let is_missing = |pid: u32| !Path::new("/proc").join(pid.to_string()).exists();
    if error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
        && is_list_of_members(list)
        && named().is_some_and(is_missing)
    {
        return Errno::SRCH.into();
    }
    error
}

/// The process of a thread.
fn thread_group(thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuacct::Told;

    fn tree_of(controller: &str) -> (tempfile::TempDir, Tree) {
        let backing = tempfile::tempdir().unwrap();
        fs::create_dir(backing.path().join("a")).unwrap();
        fs::write(backing.path().join("memory.usage_in_bytes"), "0\n").unwrap();
        fs::write(backing.path().join("a/cpuacct.usage"), "7\n").unwrap();
        let tree = tree_at(backing.path(), controller);
        (backing, tree)
    }

    fn tree_at(backing: &Path, controller: &str) -> Tree {
        let hierarchy = Hierarchy {
            controller: controller.to_owned(),
            backing: backing.to_owned(),
            mount_point: "/nowhere".into(),
        };
        Tree::new(&hierarchy, Arc::default()).unwrap()
    }

    fn node(tree: &Tree, path: &str) -> Node {
        let path = tree.hierarchy.backing.join(path);
        Node { kind: tree.find(&path).unwrap().0, path }
    }

    fn says(tree: &Tree, path: &str) -> String {
        String::from_utf8(tree.read(&node(tree, path)).unwrap()).unwrap()
    }

    #[test]
    fn what_the_sandbox_has_is_its_own_unless_it_is_false() {
        let (_backing, tree) = tree_of("cpuacct");
        assert_eq!(node(&tree, "a").kind, Kind::Cgroup);
        assert_eq!(node(&tree, "a/cpuacct.usage").kind, Kind::Own);
        assert_eq!(node(&tree, "a/cpuacct.usage_percpu").kind, Kind::Added(Added::Time(Told::AllEach)));
        assert!(tree.find(&tree.hierarchy.backing.join("a/memory.stat")).is_err());
        assert!(tree.find(&tree.hierarchy.backing.join("b/cpuacct.usage_percpu")).is_err());
        let (_backing, tree) = tree_of("memory");
        assert_eq!(node(&tree, "memory.usage_in_bytes").kind, Kind::Added(Added::MemoryUsage));
        assert!(tree.usage(&tree.hierarchy.backing).unwrap() > 0);
    }

    #[test]
    fn settings_are_kept_and_counters_reset() {
        let (_backing, tree) = tree_of("memory");
        let cgroup = tree.hierarchy.backing.join("a");
        tree.kept.change(&cgroup, |values| (values.fail_count, values.oom_kills) = (2, 3));
        assert_eq!(says(&tree, "a/memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
        assert_eq!(says(&tree, "a/memory.failcnt"), "2\n");
        for (file, value, refused) in [
            ("a/memory.failcnt", "0", None),
            ("a/memory.use_hierarchy", "0", Some(Errno::INVAL)),
            ("a/memory.use_hierarchy", "1\n", None),
            ("a/memory.oom_control", "1", Some(Errno::OPNOTSUPP)),
            ("a/cgroup.event_control", "3 4 100", Some(Errno::OPNOTSUPP)),
            ("a/notify_on_release", "1", None),
            ("a/notify_on_release", "yes", Some(Errno::INVAL)),
            ("release_agent", "/bin/agent\n", None),
            ("a/memory.stat", "0", Some(Errno::INVAL)),
        ] {
            let answer = tree.write(&node(&tree, file), value.as_bytes(), 1);
            let refusal = answer.as_ref().err().and_then(Errno::from_io_error);
            assert_eq!(refusal, refused, "{file}");
        }
        assert_eq!(says(&tree, "a/memory.failcnt"), "0\n");
        assert_eq!(says(&tree, "a/notify_on_release"), "1\n");
        assert_eq!(says(&tree, "release_agent"), "/bin/agent\n");
    }

    #[test]
    fn the_time_of_removed_cgroups_goes_on_counting_above_them() {
        let (backing, _) = tree_of("cpuacct");
        for (file, time) in [("cpuacct.usage_user", 50), ("cpuacct.usage_sys", 7)] {
            for cgroup in [backing.path().to_owned(), backing.path().join("a")] {
                fs::write(cgroup.join(file), format!("{time}\n")).unwrap();
            }
        }
        let tree = tree_at(backing.path(), "cpuacct");
        assert_eq!((says(&tree, "a/cpuacct.usage"), says(&tree, "cpuacct.usage")), ("57\n".into(), "57\n".into()));
        let tree = tree_at(backing.path(), "cpuacct");
        tree.kept.ended(&backing.path().join("a/gone"), Time { user: 3, system: 40 }, backing.path());
        assert_eq!(
            (says(&tree, "a/cpuacct.usage"), says(&tree, "cpuacct.usage_user")),
            ("100\n".into(), "53\n".into())
        );
    }

    #[test]
    fn what_is_held_no_more_does_not_raise_a_maximum_again() {
        let (backing, _) = tree_of("memory");
        fs::write(backing.path().join("memory.usage_in_bytes"), "1\n").unwrap();
        let tree = tree_at(backing.path(), "memory");
        let holds = |bytes: &str| {
            fs::write(backing.path().join("a/memory.usage_in_bytes"), bytes).unwrap();
            fs::write(backing.path().join("a/cgroup.procs"), "").unwrap();
        };
        holds("200\n");
        assert_eq!(says(&tree, "a/memory.max_usage_in_bytes"), "200\n");
        holds("5\n");
        tree.write(&node(&tree, "a/memory.max_usage_in_bytes"), b"0", 1).unwrap();
        assert_eq!(says(&tree, "a/memory.max_usage_in_bytes"), "5\n");
    }

    #[test]
    fn a_busy_cgroup_says_so() {
        let (_backing, tree) = tree_of("cpuacct");
        let cgroup = tree.hierarchy.backing.join("a");
        let refusal = tree.remove(&cgroup).unwrap_err();
        assert_eq!(Errno::from_io_error(&refusal), Some(Errno::BUSY));
    }
}
