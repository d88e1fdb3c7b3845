//! Control groups, of either version.
//!
//! A container has the same path in every hierarchy of version 1, or one in version 2's; where nothing is mounted it has
//! none, and limits are warnings. What Linux has and runc needs is needed here as well. gVisor has some controllers only,
//! and only some of their files: there what cannot be set is a warning.

mod device_program;
mod devices;
mod directory;
mod limits;
pub(crate) mod mounts;
mod setting;
mod v1;
mod v2;

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};
use serde::{Deserialize, Serialize};

use crate::process::has_ended;
use crate::stats::Stats;
use crate::{Error, Result, user_namespace};
use directory::Directory;
use mounts::Mounts;

/// How long the kernel may take to freeze all processes.
const FREEZING: Duration = Duration::from_secs(10);
/// How long killed processes may take to be gone.
const ENDING: Duration = Duration::from_secs(10);

/// The cgroups of a container. Where they are depends on who asks ([`Cgroups::at`]), so they are kept with its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cgroups {
    /// One in each hierarchy of version 1.
    V1(v1::Groups),
    /// One in the hierarchy of version 2.
    V2(v2::Group),
    /// No hierarchy is mounted.
    None,
}

impl Cgroups {
    /// Those for a path (`linux.cgroupsPath`): an absolute one is below each mount point, another below the caller's own
    /// cgroups. None of them has to exist yet.
    ///
    /// # Errors
    /// The path is one for systemd (`slice:prefix:name`), names no cgroup, or one with processes in it; or /proc cannot be
    /// read.
    pub fn at(path: &str) -> Result<Self> {
        mounts::check(path)?;
        Self::among(&Mounts::look()?, path).without_members()
    }

    /// Others' processes and the container's would not be told apart: they would end with it.
    fn without_members(self) -> Result<Self> {
        match self.pids()?.first() {
            None => Ok(self),
            Some(member) => {
                Err(Error::spec("linux.cgroupsPath", format!("process {member} is in that cgroup already")))
            }
        }
    }

    fn among(mounts: &Mounts, path: &str) -> Self {
        match &mounts.v2 {
            _ if !mounts.v1.is_empty() => Self::V1(v1::Groups::new(mounts, path)),
            Some(mount) => Self::V2(v2::Group::new(mounts, mount, path)),
            None => Self::None,
        }
    }

    fn directories(&self) -> Vec<&Directory> {
        match self {
            Self::V1(groups) => groups.directories().collect(),
            Self::V2(group) => vec![group.directory()],
            Self::None => Vec::new(),
        }
    }

    /// The directories that are the container's, in all hierarchies.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.directories().into_iter().map(Directory::path)
    }

    /// Makes them. What was made before a failure is removed by [`Cgroups::delete`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn create(&self) -> Result<()> {
        match self {
            Self::V1(groups) => groups.create(),
            Self::V2(group) => group.create(),
            Self::None => Ok(()),
        }
    }

    /// Allows only these devices and those that every container has. For a cgroup without processes. In a user namespace
    /// this is left out: device nodes cannot be made there, and its root may not change it.
    ///
    /// # Errors
    /// A rule is wrong; or nothing restricts devices, and the machine has some.
    pub fn allow_devices(&self, asked: &[LinuxDeviceCgroup]) -> Result<()> {
        let rules = devices::rules(asked)?;
        if user_namespace::is_inside() {
            return Ok(());
        }
        match self {
            Self::V1(groups) => groups.allow_devices(&rules),
            Self::V2(group) => group.allow_devices(&rules),
            // gVisor has no devices but its own, and no such list.
            Self::None if devices::allow_all(&rules) || !Path::new("/proc/partitions").exists() => Ok(()),
            Self::None => {
                Err(Error::spec("linux.resources.devices", "no cgroups are mounted, which would restrict them"))
            }
        }
    }

    /// Sets limits; those that are not named stay. Returns warnings. Devices are left as they are.
    ///
    /// # Errors
    /// The kernel refuses one, or does not have it.
    pub fn set(&self, resources: &LinuxResources) -> Result<Vec<String>> {
        match self {
            Self::V1(groups) => groups.set(resources),
            Self::V2(group) => group.set(resources),
            Self::None => {
                let asked = limits::v2(resources)?;
                Ok(asked.iter().map(|limit| format!("{}: no cgroups are mounted; not set", limit.field)).collect())
            }
        }
    }

    /// Moves a process into all of them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add(&self, pid: Pid) -> Result<()> {
        self.directories().into_iter().try_for_each(|directory| directory.add(pid))
    }

    /// The processes in them and in those below, sorted, as they are numbered for the caller.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        match self {
            Self::V1(groups) => groups.members(),
            Self::V2(group) => group.directory().members(),
            Self::None => Ok(Vec::new()),
        }
    }

    /// Whether the processes are frozen, or about to be; never where there is no freezer.
    ///
    /// # Errors
    /// None so far.
    pub fn is_frozen(&self) -> Result<bool> {
        Ok(match self {
            Self::V1(groups) => groups.is_frozen(),
            Self::V2(group) => group.is_frozen(),
            Self::None => false,
        })
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// There is no freezer, as in gVisor; or not all froze in time, and they go on.
    pub fn freeze(&self) -> Result<()> {
        match self {
            Self::V1(groups) => groups.freeze(),
            Self::V2(group) => group.freeze(),
            Self::None => Err(unsupported("no cgroups are mounted")),
        }
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// There is no freezer.
    pub fn thaw(&self) -> Result<()> {
        match self {
            Self::V1(groups) => groups.thaw(),
            Self::V2(group) => group.thaw(),
            Self::None => Err(unsupported("no cgroups are mounted")),
        }
    }

    /// Ends all processes and waits until they are gone. New ones may appear meanwhile where nothing can freeze them, so
    /// it is done again until none is left.
    ///
    /// # Errors
    /// Some do not end.
    pub fn kill(&self) -> Result<()> {
        let end = Instant::now() + ENDING;
        let mut pause = Duration::from_micros(200);
        loop {
            let living: Vec<Pid> = self.pids()?.into_iter().filter(|pid| !has_ended(*pid)).collect();
            if living.is_empty() {
                return Ok(());
            }
            // A file of version 2, which may be mounted beside version 1.
            for directory in self.directories() {
                let _ = directory.try_write("cgroup.kill", "1");
            }
            for pid in &living {
                // It may have ended by itself.
                let _ = kill(*pid, Signal::SIGKILL);
            }
            if self.is_frozen()? {
                self.thaw()?;
            }
            if Instant::now() > end {
                let operation = format!("end the processes {living:?}");
                return Err(Error::System { operation, source: io::ErrorKind::TimedOut.into() });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Removes them, all that can be, and says the first failure. Those that do not exist are fine.
    ///
    /// # Errors
    /// One has processes still.
    pub fn delete(&self) -> Result<()> {
        let existing = self.directories().into_iter().filter(|directory| directory.exists());
        existing.map(Directory::remove).fold(Ok(()), Result::and)
    }

    /// What the processes have used.
    ///
    /// # Errors
    /// The members cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        match self {
            Self::V1(groups) => groups.stats(),
            Self::V2(group) => group.stats(),
            Self::None => Ok(Stats::default()),
        }
    }

    /// How many processes the kernel has ended for want of memory; 0 where it does not count them.
    pub fn oom_kills(&self) -> u64 {
        match self {
            Self::V1(groups) => groups.oom_kills(),
            Self::V2(group) => group.oom_kills(),
            Self::None => 0,
        }
    }
}

fn unsupported(why: &str) -> Error {
    let source = io::Error::new(io::ErrorKind::Unsupported, why);
    Error::System { operation: "pause or resume the container".to_owned(), source }
}

fn timed_out(what: &str, directory: &Directory) -> Error {
    let operation = format!("{what} the cgroup {}", directory.path().display());
    Error::System { operation, source: io::ErrorKind::TimedOut.into() }
}

#[cfg(test)]
mod tests;
