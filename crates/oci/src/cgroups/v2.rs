//! Version 2: one hierarchy with all controllers.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::devices::Rule;
use super::directory::Directory;
use super::mounts::{Mount, Mounts};
use super::setting::write_all;
use super::{FREEZING, device_program, limits, unsupported};
use crate::Result;
use crate::error::Doing as _;
use crate::stats::{Cpu, Memory, Pids, Stats};

/// The cgroup of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    mount: Directory,
    directory: Directory,
}

impl Group {
    pub fn new(mounts: &Mounts, mount: &Mount, path: &str) -> Self {
        Self { mount: Directory::new(mount.point.clone()), directory: Directory::new(mounts.directory(mount, path)) }
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// A cgroup has the controllers that its parent hands down; from the mount point on, each hands down all that it has.
    pub fn create(&self) -> Result<()> {
        let below = self.directory.path().strip_prefix(self.mount.path()).unwrap_or(Path::new(""));
        let mut parent = self.mount.clone();
        for name in below.components() {
            for controller in parent.read("cgroup.controllers").unwrap_or_default().split_whitespace() {
                // One that cannot be handed down is missed where a limit needs it.
                let _ = parent.try_write("cgroup.subtree_control", &format!("+{controller}"));
            }
            parent = Directory::new(parent.path().join(name));
            parent.create()?;
        }
        Ok(())
    }

    /// By a program that the kernel asks.
    pub fn allow_devices(&self, rules: &[Rule]) -> Result<()> {
        let Some(program) = device_program::program(rules) else { return Ok(()) };
        let doing = || format!("restrict the devices of {} (linux.resources.devices)", self.directory.path().display());
        let directory = File::open(self.directory.path()).doing_with(doing)?;
        with_locked_memory(|| terrarium_sys::bpf::restrict_devices(directory.as_fd(), &program)).doing_with(doing)
    }

    pub fn set(&self, resources: &LinuxResources) -> Result<Vec<String>> {
        write_all(&limits::v2(resources)?, |_| Some(&self.directory), false)
    }

    pub fn is_frozen(&self) -> bool {
        self.directory.read("cgroup.freeze").is_ok_and(|frozen| frozen == "1")
    }

    pub fn freeze(&self) -> Result<()> {
        self.freezer()?.write("cgroup.freeze", "1")?;
        let end = Instant::now() + FREEZING;
        while self.directory.entry("cgroup.events", "frozen") != Some(1) {
            if Instant::now() > end {
                self.thaw()?;
                return Err(super::timed_out("freeze", &self.directory));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    pub fn thaw(&self) -> Result<()> {
        self.freezer()?.write("cgroup.freeze", "0")
    }

    fn freezer(&self) -> Result<&Directory> {
        let directory = Some(&self.directory).filter(|directory| directory.has("cgroup.freeze"));
        directory.ok_or_else(|| unsupported("the kernel has no cgroup.freeze"))
    }

    pub fn oom_kills(&self) -> u64 {
        self.directory.entry("memory.events", "oom_kill").unwrap_or_default()
    }

    pub fn stats(&self) -> Result<Stats> {
        let directory = &self.directory;
        let members = directory.members()?;
        let mut memory = self.memory();
        memory.count_processes(&members);
        let current = directory.number("pids.current").unwrap_or(members.len() as u64);
        let limit = directory.number("pids.max").filter(|limit| *limit != u64::MAX).unwrap_or_default();
        Ok(Stats { cpu: self.cpu(), memory, pids: Pids { current, limit } })
    }

    fn cpu(&self) -> Cpu {
        let table = self.directory.table("cpu.stat");
        let number = |name| table.get(name).copied().unwrap_or_default();
        let nanoseconds = |name| number(name) * 1000;
        Cpu {
            usage_ns: nanoseconds("usage_usec"),
            user_ns: nanoseconds("user_usec"),
            kernel_ns: nanoseconds("system_usec"),
            per_cpu_ns: Vec::new(),
            periods: number("nr_periods"),
            throttled_periods: number("nr_throttled"),
            throttled_ns: nanoseconds("throttled_usec"),
        }
    }

    fn memory(&self) -> Memory {
        let directory = &self.directory;
        let number = |file: &str| directory.number(file).unwrap_or_default();
        let (usage, limit) = (number("memory.current"), directory.number("memory.max").unwrap_or(u64::MAX));
        Memory {
            usage,
            max_usage: number("memory.peak"),
            limit,
            failcnt: directory.entry("memory.events", "max").unwrap_or_default(),
            swap_usage: usage + number("memory.swap.current"),
            swap_limit: limit.saturating_add(directory.number("memory.swap.max").unwrap_or(u64::MAX)),
            oom_kills: self.oom_kills(),
            stat: directory.table("memory.stat"),
        }
    }
}

/// Does something with no limit to the memory that may be locked, which a program counts for before Linux 5.11. What is
/// forked later has the limit that was.
fn with_locked_memory<T>(act: impl FnOnce() -> T) -> T {
    let before = getrlimit(Resource::Memlock);
    // Whoever may not raise it may be within it all the same.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    let done = act();
    let _ = setrlimit(Resource::Memlock, before);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_memory_is_limited_again_afterwards() {
        let before = getrlimit(Resource::Memlock);
        let raised = with_locked_memory(|| getrlimit(Resource::Memlock));
        assert_eq!(getrlimit(Resource::Memlock), before);
        if raised == before {
            eprintln!("skipped: this user may not raise limits, or has none");
            return;
        }
        assert_eq!(raised, Rlimit { current: None, maximum: None });
    }
}
