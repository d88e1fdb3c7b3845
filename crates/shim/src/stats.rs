//! What a container uses, as containerd has it.

use std::path::Path;

use containerd_shim::protos::cgroups::metrics::{
    CPUStat, CPUUsage, MemoryEntry, MemoryStat, Metrics, PidsStat, Throttle,
};
use serde::Deserialize;
use terrarium_oci::cgroups::Cgroups;
use terrarium_oci::stats::{Cpu, Memory, Pids, Stats};

#[derive(Default, Deserialize)]
struct Config {
    #[serde(default)]
    linux: Linux,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    #[serde(default)]
    cgroups_path: String,
}

/// The cgroups of a container by its configuration. None if it does not name them; containerd's always does.
pub fn cgroups(bundle: &Path) -> Option<Cgroups> {
    let config = std::fs::read(bundle.join("config.json")).ok()?;
    let config: Config = serde_json::from_slice(&config).ok()?;
    let path = config.linux.cgroups_path;
    if path.starts_with('/') { Cgroups::at(&path).ok() } else { None }
}

/// As version 1 of cgroups counts, which containerd understands on every kernel.
pub fn metrics(stats: Stats) -> Metrics {
    Metrics {
        cpu: Some(cpu(stats.cpu)).into(),
        memory: Some(memory(&stats.memory)).into(),
        pids: Some(pids(&stats.pids)).into(),
        ..Metrics::default()
    }
}

fn cpu(cpu: Cpu) -> CPUStat {
    let usage = CPUUsage {
        total: cpu.usage_ns,
        kernel: cpu.kernel_ns,
        user: cpu.user_ns,
        per_cpu: cpu.per_cpu_ns,
        ..CPUUsage::default()
    };
    let throttling = Throttle {
        periods: cpu.periods,
        throttled_periods: cpu.throttled_periods,
        throttled_time: cpu.throttled_ns,
        ..Throttle::default()
    };
    CPUStat { usage: Some(usage).into(), throttling: Some(throttling).into(), ..CPUStat::default() }
}

fn memory(memory: &Memory) -> MemoryStat {
    // Version 2 has no totals: what it counts includes the cgroups below.
    let stat = |name: &str| memory.stat.get(name).copied();
    let either = |v1: &str, v2: &str| stat(v1).or_else(|| stat(v2)).unwrap_or_default();
    let entry =
        |usage, max, limit| MemoryEntry { usage, max, limit, failcnt: memory.failcnt, ..MemoryEntry::default() };
    MemoryStat {
        usage: Some(entry(memory.usage, memory.max_usage, memory.limit)).into(),
        swap: Some(entry(memory.swap_usage, 0, memory.swap_limit)).into(),
        rss: either("rss", "anon"),
        cache: either("cache", "file"),
        mapped_file: either("mapped_file", "file_mapped"),
        inactive_file: either("inactive_file", "inactive_file"),
        active_file: either("active_file", "active_file"),
        total_rss: either("total_rss", "anon"),
        total_cache: either("total_cache", "file"),
        total_mapped_file: either("total_mapped_file", "file_mapped"),
        total_inactive_file: either("total_inactive_file", "inactive_file"),
        total_active_file: either("total_active_file", "active_file"),
        pg_fault: either("pgfault", "pgfault"),
        pg_maj_fault: either("pgmajfault", "pgmajfault"),
        total_pg_fault: either("total_pgfault", "pgfault"),
        total_pg_maj_fault: either("total_pgmajfault", "pgmajfault"),
        ..MemoryStat::default()
    }
}

fn pids(pids: &Pids) -> PidsStat {
    PidsStat { current: pids.current, limit: pids.limit, ..PidsStat::default() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn both_versions_give_a_working_set() {
        let told = |stat: &[(&str, u64)]| {
            let stat = stat.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
            let told = memory(&Memory { usage: 100, stat, ..Memory::default() });
            (told.usage.usage, told.total_rss, told.total_inactive_file)
        };
        assert_eq!(told(&[("rss", 1), ("total_rss", 40), ("total_inactive_file", 10)]), (100, 40, 10));
        assert_eq!(told(&[("anon", 40), ("inactive_file", 10)]), (100, 40, 10));
        assert_eq!(told(&[]), (100, 0, 0));
    }

    #[test]
    fn only_an_absolute_path_names_cgroups() {
        let bundle = tempfile::tempdir().unwrap();
        let config = |path: &str| {
            let config = format!(r#"{{"ociVersion": "1.2.0", "linux": {{"cgroupsPath": "{path}"}}}}"#);
            fs::write(bundle.path().join("config.json"), config).unwrap();
            cgroups(bundle.path())
        };
        assert!(config("/k8s.io/one").is_some());
        assert!(config("kubepods.slice:cri:one").is_none());
        assert!(config("").is_none());
    }
}
