//! What a container uses.

use std::collections::BTreeMap;
use std::fs;

use nix::unistd::Pid;

/// No limit, as both versions of cgroups tell it in the end.
pub const NO_LIMIT: u64 = u64::MAX;

/// What a container has used and may use. 0 where the kernel does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Time on processors.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Processes.
    pub pids: Pids,
}

/// Time on processors, since the cgroup was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it, in nanoseconds.
    pub usage_ns: u64,
    /// In programs.
    pub user_ns: u64,
    /// In the kernel on their behalf.
    pub kernel_ns: u64,
    /// By processor, in nanoseconds; empty where it is not told.
    pub per_cpu_ns: Vec<u64>,
    /// Periods of enforcement (`cpu.cfs_period_us`) that have passed.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled_periods: u64,
    /// How long processes have waited for the next period, in nanoseconds.
    pub throttled_ns: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// What is charged to the cgroup, page cache included; where the kernel charges nothing, what the processes hold.
    pub usage: u64,
    /// The most that it was.
    pub max_usage: u64,
    /// The most that it may be; [`NO_LIMIT`] or a number near 2⁶³ without any.
    pub limit: u64,
    /// How often the limit was met.
    pub failcnt: u64,
    /// Memory and swap together, by version 1's way of counting.
    pub swap_usage: u64,
    /// The most that they may be.
    pub swap_limit: u64,
    /// How many processes the kernel ended for want of memory.
    pub oom_kills: u64,
    /// `memory.stat` as it is, by the names of the cgroup's version. The working set is `usage` less
    /// `total_inactive_file` (version 1) or `inactive_file`. Where there is none, `rss` and `total_rss` are what the
    /// processes hold.
    pub stat: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pids {
    /// How many there are.
    pub current: u64,
    /// How many there may be; 0 is any number.
    pub limit: u64,
}

impl Memory {
    /// Where the kernel charges nothing or does not say for what, as in gVisor, counts what the processes hold: shared
    /// pages several times.
    pub fn count_processes(&mut self, members: &[Pid]) {
        if !self.stat.is_empty() {
            return;
        }
        let held = members.iter().map(|pid| resident(*pid)).sum();
        self.stat = ["rss", "total_rss"].map(|name| (name.to_owned(), held)).into();
        if self.usage == 0 {
            self.usage = held;
            self.max_usage = self.max_usage.max(held);
        }
    }
}

/// The resident memory of a process, in bytes; 0 when it has ended.
fn resident(pid: Pid) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_count_where_the_kernel_does_not() {
        let own = [Pid::this()];
        let charged = Memory { usage: 5, stat: [("rss".to_owned(), 1)].into(), ..Memory::default() };
        let mut counted = charged.clone();
        counted.count_processes(&own);
        assert_eq!(counted, charged);
        let mut uncounted = Memory::default();
        uncounted.count_processes(&own);
        assert!(uncounted.usage > 100_000, "{} bytes", uncounted.usage);
        assert_eq!(uncounted.stat["total_rss"], uncounted.usage);
        let mut unexplained = Memory { usage: 5, ..Memory::default() };
        unexplained.count_processes(&own);
        assert!(unexplained.usage == 5 && unexplained.stat["rss"] > 100_000, "{unexplained:?}");
        let mut empty = Memory::default();
        empty.count_processes(&[Pid::from_raw(i32::MAX)]);
        assert_eq!(empty.usage, 0);
    }
}
