//! `update`.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use super::log::Log;
use crate::error::Doing as _;
use crate::{ContainerId, Result, Runtime, spec};

#[derive(Debug, Args)]
pub(super) struct Update {
    /// What it may use, as the configuration has it; `-` is stdin
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,

    /// Microseconds in which it may have its quota of the CPU
    #[arg(long, value_name = "TIME")]
    cpu_period: Option<u64>,

    /// Microseconds of the CPU that it may have in a period
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,

    /// Its weight beside others
    #[arg(long, value_name = "WEIGHT")]
    cpu_share: Option<u64>,

    /// The CPUs that it may use
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,

    /// The memory nodes that it may use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,

    /// Bytes of memory
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory: Option<i64>,

    /// Bytes of memory that it keeps when there is little
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_reservation: Option<i64>,

    /// Bytes of memory and swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<i64>,

    /// Processes
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    pids_limit: Option<i64>,

    /// The container
    id: ContainerId,
}

impl Update {
    pub fn run(self, runtime: &Runtime, log: &Log) -> Result<()> {
        let mut container = runtime.load(&self.id)?;
        let resources = match &self.resources {
            Some(path) if path.as_os_str() == "-" => {
                let mut text = Vec::new();
                std::io::stdin().read_to_end(&mut text).doing("read stdin")?;
                spec::parse(&text)?
            }
            Some(path) => spec::read(path)?,
            None => LinuxResources::default(),
        };
        container.update(&self.added_to(resources))?;
        log.warnings(container.warnings());
        Ok(())
    }

    fn added_to(&self, mut resources: LinuxResources) -> LinuxResources {
        let mut cpu = resources.cpu().clone().unwrap_or_default();
        self.add_cpu(&mut cpu);
        let mut memory = resources.memory().unwrap_or_default();
        self.add_memory(&mut memory);
        // What was not asked for is not set, rather than set to nothing.
        resources.set_cpu((cpu != LinuxCpu::default()).then_some(cpu));
        resources.set_memory((memory != LinuxMemory::default()).then_some(memory));
        if let Some(limit) = self.pids_limit {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            resources.set_pids(Some(pids));
        }
        // Their default allows nothing.
        resources.set_devices(None);
        resources
    }

    fn add_cpu(&self, cpu: &mut LinuxCpu) {
        if self.cpu_period.is_some() {
            cpu.set_period(self.cpu_period);
        }
        if self.cpu_quota.is_some() {
            cpu.set_quota(self.cpu_quota);
        }
        if self.cpu_share.is_some() {
            cpu.set_shares(self.cpu_share);
        }
        if self.cpuset_cpus.is_some() {
            cpu.set_cpus(self.cpuset_cpus.clone());
        }
        if self.cpuset_mems.is_some() {
            cpu.set_mems(self.cpuset_mems.clone());
        }
    }

    fn add_memory(&self, memory: &mut LinuxMemory) {
        if self.memory.is_some() {
            memory.set_limit(self.memory);
        }
        if self.memory_reservation.is_some() {
            memory.set_reservation(self.memory_reservation);
        }
        if self.memory_swap.is_some() {
            memory.set_swap(self.memory_swap);
        }
    }
}
