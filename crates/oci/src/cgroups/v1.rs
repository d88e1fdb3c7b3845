//! Version 1: a hierarchy per controller, or for some together.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::devices::Rule;
use super::directory::Directory;
use super::mounts::Mounts;
use super::setting::{Setting, write_all};
use super::{FREEZING, devices, limits, unsupported};
use crate::stats::{Cpu, Memory, Pids, Stats};
use crate::{Error, Result};

/// The cgroup of one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// None is version 2's hierarchy, which may be mounted beside the others, without controllers.
    controllers: Vec<String>,
    mount: Directory,
    directory: Directory,
}

/// The cgroups of a container in all hierarchies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    groups: Vec<Group>,
    /// The kernel has controllers and files for only a part of what there is, as gVisor: what cannot be set is no mistake
    /// of the configuration. Linux has `notify_on_release` in every cgroup.
    is_partial: bool,
}

impl Groups {
    pub fn new(mounts: &Mounts, path: &str) -> Self {
        let beside = mounts.v2.iter().filter(|mount| mount.root == Path::new("/"));
        let group = |mount: &super::mounts::Mount| Group {
            controllers: mount.controllers.clone(),
            mount: Directory::new(mount.point.clone()),
            directory: Directory::new(mounts.directory(mount, path)),
        };
        let groups: Vec<Group> = mounts.v1.iter().chain(beside).map(group).collect();
        let is_partial =
            groups.iter().any(|group| !group.controllers.is_empty() && !group.mount.has("notify_on_release"));
        Self { groups, is_partial }
    }

    pub fn directories(&self) -> impl Iterator<Item = &Directory> {
        self.groups.iter().map(|group| &group.directory)
    }

    fn with(&self, controller: &str) -> Option<&Directory> {
        let group = self.groups.iter().find(|group| group.controllers.iter().any(|name| name == controller));
        group.map(|group| &group.directory)
    }

    /// The members are the same in all hierarchies; one is asked.
    pub fn members(&self) -> Result<Vec<Pid>> {
        let asked = ["devices", "memory", "pids", "cpu"].iter().find_map(|controller| self.with(controller));
        asked.or_else(|| self.directories().next()).map_or(Ok(Vec::new()), Directory::members)
    }

    pub fn create(&self) -> Result<()> {
        for group in &self.groups {
            match group.controllers.iter().any(|controller| controller == "cpuset") {
                true => create_cpuset(group)?,
                false => group.directory.create()?,
            }
        }
        Ok(())
    }

    pub fn allow_devices(&self, rules: &[Rule]) -> Result<()> {
        match self.with("devices") {
            Some(directory) => devices::set(directory, rules),
            None if self.is_partial => Ok(()),
            None => Err(Error::spec("linux.resources.devices", "there is no devices controller")),
        }
    }

    pub fn set(&self, resources: &LinuxResources) -> Result<Vec<String>> {
        let mut settings = limits::v1(resources)?;
        if let Some(memory) = self.with("memory") {
            settings.extend(swap_without_limit(resources, memory));
        }
        let warnings = write_all(&settings, |setting| self.with(setting.controller), self.is_partial)?;
        self.check_shares(resources)?;
        Ok(warnings)
    }

    /// The kernel takes any number of shares, and makes of it what is possible.
    fn check_shares(&self, resources: &LinuxResources) -> Result<()> {
        let asked = resources.cpu().as_ref().and_then(|cpu| cpu.shares()).filter(|shares| *shares != 0);
        let set = self.with("cpu").and_then(|directory| directory.number("cpu.shares"));
        match asked.zip(set) {
            Some((asked, set)) if asked > set => {
                Err(Error::spec("linux.resources.cpu.shares", format!("can be at most {set}")))
            }
            Some((asked, set)) if asked < set => {
                Err(Error::spec("linux.resources.cpu.shares", format!("must be at least {set}")))
            }
            _ => Ok(()),
        }
    }

    pub fn is_frozen(&self) -> bool {
        let state = self.with("freezer").and_then(|directory| directory.read("freezer.state").ok());
        state.is_some_and(|state| state != "THAWED")
    }

    /// The kernel may be at it for good while new processes appear: to thaw in between helps, as runc found.
    pub fn freeze(&self) -> Result<()> {
        let directory = self.freezer()?;
        let end = Instant::now() + FREEZING;
        for attempt in 1.. {
            directory.write("freezer.state", "FROZEN")?;
            if directory.read("freezer.state")? == "FROZEN" {
                return Ok(());
            }
            if attempt % 50 == 0 {
                directory.write("freezer.state", "THAWED")?;
            }
            if Instant::now() > end {
                break;
            }
            thread::sleep(Duration::from_micros(100));
        }
        directory.write("freezer.state", "THAWED")?;
        Err(super::timed_out("freeze", directory))
    }

    pub fn thaw(&self) -> Result<()> {
        self.freezer()?.write("freezer.state", "THAWED")
    }

    fn freezer(&self) -> Result<&Directory> {
        let directory = self.with("freezer").filter(|directory| directory.has("freezer.state"));
        directory.ok_or_else(|| unsupported("there is no freezer controller"))
    }

    pub fn oom_kills(&self) -> u64 {
        self.with("memory").and_then(|memory| memory.entry("memory.oom_control", "oom_kill")).unwrap_or_default()
    }

    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        if let Some(cpuacct) = self.with("cpuacct") {
            stats.cpu = usage(cpuacct);
        }
        if let Some(cpu) = self.with("cpu") {
            let table = cpu.table("cpu.stat");
            let number = |name| table.get(name).copied().unwrap_or_default();
            stats.cpu.periods = number("nr_periods");
            stats.cpu.throttled_periods = number("nr_throttled");
            stats.cpu.throttled_ns = number("throttled_time");
        }
        if let Some(memory) = self.with("memory") {
            stats.memory = charged(memory);
            stats.memory.oom_kills = self.oom_kills();
        }
        let counted = self.with("pids").and_then(|pids| Some((pids.number("pids.current")?, pids.number("pids.max"))));
        let (current, limit) = match counted {
            Some(counted) if !stats.memory.stat.is_empty() => counted,
            _ => {
                let members = self.members()?;
                stats.memory.count_processes(&members);
                counted.unwrap_or((members.len() as u64, None))
            }
        };
        stats.pids = Pids { current, limit: limit.filter(|limit| *limit != u64::MAX).unwrap_or_default() };
        Ok(stats)
    }
}

/// Without a limit for memory there can be none for memory and swap, but not every kernel has that file.
fn swap_without_limit(resources: &LinuxResources, memory: &Directory) -> Option<Setting> {
    const FILE: &str = "memory.memsw.limit_in_bytes";
    let asked = resources.memory().as_ref()?;
    let wanted = asked.limit() == Some(-1) && asked.swap().unwrap_or_default() == 0 && memory.has(FILE);
    wanted.then(|| Setting {
        controller: "memory",
        file: FILE.to_owned(),
        value: "-1".to_owned(),
        field: "linux.resources.memory.limit".to_owned(),
    })
}

/// A cpuset takes processes only when it has processors and memory nodes, which a new one on Linux has not: from the mount
/// point down, each gets its parent's.
fn create_cpuset(group: &Group) -> Result<()> {
    let below = group.directory.path().strip_prefix(group.mount.path()).unwrap_or(Path::new(""));
    let mut parent = group.mount.clone();
    for name in below.components() {
        let child = Directory::new(parent.path().join(name));
        child.create()?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if child.read(file).is_ok_and(|set| set.is_empty()) {
                child.write(file, &parent.read(file)?)?;
            }
        }
        parent = child;
    }
    Ok(())
}

fn usage(cpuacct: &Directory) -> Cpu {
    let (user_ns, kernel_ns) = parts(&cpuacct.read("cpuacct.usage_all").unwrap_or_default()).unwrap_or_else(|| {
        // gVisor by itself has these; older kernels tell the parts in ticks, of which there are 100 a second.
        let ticks = |name| cpuacct.entry("cpuacct.stat", name).unwrap_or_default() * 10_000_000;
        let either = |file, name| cpuacct.number(file).unwrap_or_else(|| ticks(name));
        (either("cpuacct.usage_user", "user"), either("cpuacct.usage_sys", "system"))
    });
    let per_cpu = cpuacct.read("cpuacct.usage_percpu").unwrap_or_default();
    Cpu {
        usage_ns: cpuacct.number("cpuacct.usage").unwrap_or_default(),
        user_ns,
        kernel_ns,
        per_cpu_ns: per_cpu.split_whitespace().filter_map(|time| time.parse().ok()).collect(),
        ..Cpu::default()
    }
}

/// Time in programs and in the kernel by `cpuacct.usage_all`: a title, and for each processor its number and the two.
fn parts(all: &str) -> Option<(u64, u64)> {
    let of_one = |line: &str| {
        let mut parts = line.split(' ').skip(1).map(|part| part.parse::<u64>().ok());
        Some((parts.next()??, parts.next()??))
    };
    let each: Vec<(u64, u64)> = all.lines().skip(1).map(of_one).collect::<Option<_>>()?;
    let sum = |(user, system), (more_user, more_system)| (user + more_user, system + more_system);
    each.into_iter().reduce(sum)
}

fn charged(memory: &Directory) -> Memory {
    let number = |file: &str| memory.number(file).unwrap_or_default();
    let swap = memory.number("memory.memsw.usage_in_bytes");
    Memory {
        usage: number("memory.usage_in_bytes"),
        max_usage: number("memory.max_usage_in_bytes"),
        limit: number("memory.limit_in_bytes"),
        failcnt: number("memory.failcnt"),
        swap_usage: swap.unwrap_or_default(),
        swap_limit: swap.map_or(0, |_| number("memory.memsw.limit_in_bytes")),
        oom_kills: 0,
        stat: memory.table("memory.stat"),
    }
}
