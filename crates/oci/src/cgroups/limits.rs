//! `linux.resources` as values of files, by either version's names.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::setting::{Setting, Settings};
use crate::{Error, Result};

/// By version 1's names. Devices are not among them: see [`super::devices`].
pub fn v1(resources: &LinuxResources) -> Result<Vec<Setting>> {
    if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
        return Err(Error::spec("linux.resources.unified", "is of cgroups version 2, and version 1 is mounted"));
    }
    let mut settings = Settings::default();
    if let Some(cpu) = resources.cpu() {
        v1_cpu(cpu, &mut settings);
    }
    if let Some(memory) = resources.memory() {
        v1_memory(memory, &mut settings)?;
    }
    pids(resources, &mut settings);
    if let Some(block_io) = resources.block_io() {
        v1_block_io(block_io, &mut settings);
    }
    huge_pages(resources, "limit_in_bytes", &mut settings);
    if let Some(network) = resources.network() {
        settings.add_some("net_cls", "net_cls.classid", network.class_id(), "network.classID");
        for (index, interface) in network.priorities().iter().flatten().enumerate() {
            let value = format!("{} {}", interface.name(), interface.priority());
            settings.add("net_prio", "net_prio.ifpriomap", value, &format!("network.priorities[{index}]"));
        }
    }
    rdma(resources, &mut settings);
    Ok(settings.0)
}

/// By version 2's names, values converted as runc does.
pub fn v2(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let mut settings = Settings::default();
    if let Some(cpu) = resources.cpu() {
        v2_cpu(cpu, &mut settings);
    }
    if let Some(memory) = resources.memory() {
        v2_memory(memory, &mut settings)?;
    }
    pids(resources, &mut settings);
    if let Some(block_io) = resources.block_io() {
        v2_block_io(block_io, &mut settings);
    }
    huge_pages(resources, "max", &mut settings);
    rdma(resources, &mut settings);
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        let field = format!("unified.{file}");
        if file.contains('/') || !file.contains('.') {
            return Err(Error::spec(format!("linux.resources.{field}"), "must be the name of a cgroup file"));
        }
        settings.add("unified", file, value, &field);
    }
    Ok(settings.0)
}

fn huge_pages(resources: &LinuxResources, limit_file: &str, settings: &mut Settings) {
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let file = format!("hugetlb.{}.{limit_file}", limit.page_size());
        settings.add("hugetlb", file, limit.limit(), &format!("hugepageLimits[{index}]"));
    }
}

fn v1_cpu(cpu: &LinuxCpu, settings: &mut Settings) {
    settings.add_some("cpu", "cpu.shares", cpu.shares(), "cpu.shares");
    settings.add_some("cpu", "cpu.cfs_period_us", cpu.period(), "cpu.period");
    settings.add_some("cpu", "cpu.cfs_quota_us", cpu.quota(), "cpu.quota");
    settings.add_some("cpu", "cpu.cfs_burst_us", cpu.burst(), "cpu.burst");
    settings.add_some("cpu", "cpu.rt_period_us", cpu.realtime_period(), "cpu.realtimePeriod");
    settings.add_some("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime(), "cpu.realtimeRuntime");
    settings.add_some("cpu", "cpu.idle", cpu.idle(), "cpu.idle");
    cpuset(cpu, settings);
}

fn v2_cpu(cpu: &LinuxCpu, settings: &mut Settings) {
    // 2 to 262144 become 1 to 10000.
    let shares = cpu.shares().filter(|shares| *shares != 0);
    let weight = shares.map(|shares| 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142);
    settings.add_some("cpu", "cpu.weight", weight, "cpu.shares");
    let (quota, period) = (cpu.quota().unwrap_or_default(), cpu.period().unwrap_or_default());
    if quota != 0 || period != 0 {
        let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
        let period = if period != 0 { period } else { 100_000 };
        settings.add("cpu", "cpu.max", format!("{quota} {period}"), "cpu.quota");
    }
    settings.add_some("cpu", "cpu.max.burst", cpu.burst(), "cpu.burst");
    settings.add_some("cpu", "cpu.idle", cpu.idle(), "cpu.idle");
    cpuset(cpu, settings);
}

fn cpuset(cpu: &LinuxCpu, settings: &mut Settings) {
    settings.add_some("cpuset", "cpuset.cpus", cpu.cpus().clone(), "cpu.cpus");
    settings.add_some("cpuset", "cpuset.mems", cpu.mems().clone(), "cpu.mems");
}

fn v1_memory(memory: &LinuxMemory, settings: &mut Settings) -> Result<()> {
    settings.add_some("memory", "memory.limit_in_bytes", memory.limit(), "memory.limit");
    settings.add_some("memory", "memory.memsw.limit_in_bytes", memory.swap(), "memory.swap");
    settings.add_some("memory", "memory.soft_limit_in_bytes", memory.reservation(), "memory.reservation");
    if memory.disable_oom_killer() == Some(true) {
        settings.add("memory", "memory.oom_control", 1, "memory.disableOOMKiller");
    }
    match memory.swappiness() {
        // -1, as an unsigned number
        None | Some(u64::MAX) => {}
        Some(swappiness @ 0..=100) => settings.add("memory", "memory.swappiness", swappiness, "memory.swappiness"),
        Some(_) => return Err(Error::spec("linux.resources.memory.swappiness", "must be 0 to 100")),
    }
    Ok(())
}

fn v2_memory(memory: &LinuxMemory, settings: &mut Settings) -> Result<()> {
    let limit = memory.limit().unwrap_or_default();
    let swap = memory.swap().unwrap_or_default();
    // Version 1 counts memory and swap together, version 2 swap alone.
    match (swap, limit) {
        (0, -1) => settings.add("memory", "memory.swap.max", "max", "memory.limit"),
        (0, _) => {}
        (-1, _) => settings.add("memory", "memory.swap.max", "max", "memory.swap"),
        (_, ..=0) => {
            return Err(Error::spec(
                "linux.resources.memory.swap",
                "has a limit, so linux.resources.memory.limit must",
            ));
        }
        (swap, limit) if swap < limit => {
            return Err(Error::spec("linux.resources.memory.swap", "must be at least linux.resources.memory.limit"));
        }
        (swap, limit) => settings.add("memory", "memory.swap.max", swap - limit, "memory.swap"),
    }
    let or_max = |value: i64| if value == -1 { "max".to_owned() } else { value.to_string() };
    if limit != 0 {
        settings.add("memory", "memory.max", or_max(limit), "memory.limit");
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        settings.add("memory", "memory.low", or_max(reservation), "memory.reservation");
    }
    Ok(())
}

fn pids(resources: &LinuxResources, settings: &mut Settings) {
    let limit = resources.pids().as_ref().map_or(0, |pids| pids.limit());
    if limit != 0 {
        let value = if limit > 0 { limit.to_string() } else { "max".to_owned() };
        settings.add("pids", "pids.max", value, "pids.limit");
    }
}

fn v1_block_io(block_io: &LinuxBlockIo, settings: &mut Settings) {
    settings.add_some("blkio", "blkio.weight", block_io.weight(), "blockIO.weight");
    settings.add_some("blkio", "blkio.leaf_weight", block_io.leaf_weight(), "blockIO.leafWeight");
    for (index, device) in block_io.weight_device().iter().flatten().enumerate() {
        let field = format!("blockIO.weightDevice[{index}]");
        let number = format!("{}:{}", device.major(), device.minor());
        for (file, weight) in
            [("blkio.weight_device", device.weight()), ("blkio.leaf_weight_device", device.leaf_weight())]
        {
            let value = weight.filter(|weight| *weight != 0).map(|weight| format!("{number} {weight}"));
            settings.add_some("blkio", file, value, &field);
        }
    }
    for (devices, file, _, field) in throttles(block_io) {
        for (index, device) in devices.iter().flatten().enumerate() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            settings.add("blkio", file, value, &format!("{field}[{index}]"));
        }
    }
}

fn v2_block_io(block_io: &LinuxBlockIo, settings: &mut Settings) {
    // 10 to 1000 become 1 to 10000.
    let weight = block_io.weight().filter(|weight| *weight != 0);
    let weight = weight.map(|weight| 1 + (u64::from(weight.max(10)) - 10) * 9999 / 990);
    settings.add_some("io", "io.weight", weight, "blockIO.weight");
    for (devices, _, key, field) in throttles(block_io) {
        for (index, device) in devices.iter().flatten().enumerate() {
            let value = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
            settings.add("io", "io.max", value, &format!("{field}[{index}]"));
        }
    }
}

/// The devices with version 1's file, version 2's key in `io.max`, and the field.
type Throttle<'a> = (&'a Option<Vec<LinuxThrottleDevice>>, &'static str, &'static str, &'static str);

fn throttles(block_io: &LinuxBlockIo) -> [Throttle<'_>; 4] {
    let (read_bps, write_bps) = (block_io.throttle_read_bps_device(), block_io.throttle_write_bps_device());
    let (read_iops, write_iops) = (block_io.throttle_read_iops_device(), block_io.throttle_write_iops_device());
    [
        (read_bps, "blkio.throttle.read_bps_device", "rbps", "blockIO.throttleReadBpsDevice"),
        (write_bps, "blkio.throttle.write_bps_device", "wbps", "blockIO.throttleWriteBpsDevice"),
        (read_iops, "blkio.throttle.read_iops_device", "riops", "blockIO.throttleReadIOPSDevice"),
        (write_iops, "blkio.throttle.write_iops_device", "wiops", "blockIO.throttleWriteIOPSDevice"),
    ]
}

fn rdma(resources: &LinuxResources, settings: &mut Settings) {
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    for (name, limits) in devices {
        let handles = limits.hca_handles().map(|handles| format!(" hca_handle={handles}")).unwrap_or_default();
        let objects = limits.hca_objects().map(|objects| format!(" hca_object={objects}")).unwrap_or_default();
        settings.add("rdma", "rdma.max", format!("{name}{handles}{objects}"), &format!("rdma.{name}"));
    }
}
