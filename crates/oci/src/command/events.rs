//! `events`: what a container uses, in runc's form, which its users read (runc's types/events.go).

use std::io;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::look::print_line;
use crate::error::Doing as _;
use crate::stats::{Cpu, Memory, Stats};
use crate::{ContainerId, Result, Runtime, Status};

#[derive(Debug, Args)]
pub(super) struct Events {
    /// How long to wait in between
    #[arg(long, value_name = "TIME", default_value = "5s")]
    interval: humantime::Duration,

    /// Print them once
    #[arg(long)]
    stats: bool,

    /// The container
    id: ContainerId,
}

impl Events {
    pub fn run(self, runtime: &Runtime) -> Result<()> {
        let container = runtime.load(&self.id)?;
        loop {
            let event = json!({"type": "stats", "id": self.id.as_str(), "data": stats(&container.stats()?)});
            let line = serde_json::to_string(&event).map_err(io::Error::from).doing("write an event")?;
            print_line(&line)?;
            if self.stats || container.status() == Status::Stopped {
                return Ok(());
            }
            std::thread::sleep(Duration::from(self.interval).max(Duration::from_millis(10)));
        }
    }
}

fn stats(stats: &Stats) -> Value {
    let Stats { cpu, memory, pids } = stats;
    json!({"cpu": cpu_in(cpu), "memory": memory_in(memory), "pids": {"current": pids.current, "limit": pids.limit}})
}

fn cpu_in(cpu: &Cpu) -> Value {
    json!({
        "usage": {"total": cpu.usage_ns, "percpu": cpu.per_cpu_ns, "kernel": cpu.kernel_ns, "user": cpu.user_ns},
        "throttling": {
            "periods": cpu.periods, "throttledPeriods": cpu.throttled_periods, "throttledTime": cpu.throttled_ns,
        },
    })
}

fn memory_in(memory: &Memory) -> Value {
    let entry = |usage: u64, max: u64, limit: u64, failcnt: u64| json!({"usage": usage, "max": max, "limit": limit, "failcnt": failcnt});
    let cache = ["cache", "file"].iter().find_map(|name| memory.stat.get(*name)).copied();
    json!({
        "cache": cache.unwrap_or_default(),
        "usage": entry(memory.usage, memory.max_usage, memory.limit, memory.failcnt),
        "swap": entry(memory.swap_usage, 0, memory.swap_limit, 0),
        "raw": memory.stat,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Pids;

    #[test]
    fn runcs_users_can_read_it() {
        let memory = Memory { usage: 7, limit: u64::MAX, stat: [("cache".to_owned(), 3)].into(), ..Memory::default() };
        let cpu = Cpu { usage_ns: 5, ..Cpu::default() };
        let shown = stats(&Stats { cpu, memory, pids: Pids { current: 2, limit: 0 } });
        for (field, value) in [
            ("/cpu/usage/total", 5),
            ("/cpu/throttling/throttledTime", 0),
            ("/memory/usage/usage", 7),
            ("/memory/usage/limit", u64::MAX),
            ("/memory/swap/failcnt", 0),
            ("/memory/cache", 3),
            ("/memory/raw/cache", 3),
            ("/pids/current", 2),
        ] {
            assert_eq!(shown.pointer(field), Some(&json!(value)), "{field}");
        }
    }
}
