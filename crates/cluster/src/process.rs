//! Processes that outlive who started them: told again by boot, process ID and start time, so that a reused ID is never
//! taken for one of ours.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::Process;
use serde::{Deserialize, Serialize};

use crate::layout::write;
use crate::{Error, Layout};

/// A process, as it is recorded on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRef {
    pub(crate) pid: i32,
    /// Clock ticks between boot and the process's start (proc_pid_stat(5), field 22).
    started: u64,
    /// The boot's ID.
    boot: String,
}

impl ProcessRef {
    /// The process with this ID, if there is one that has not ended.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let process = Process::new(pid).ok()?;
        let stat = process.stat().ok()?;
        if matches!(stat.state, 'Z' | 'X') {
            return None;
        }
        let boot = procfs::sys::kernel::random::boot_id().unwrap_or_default();
        Some(Self { pid, started: stat.starttime, boot })
    }

    pub(crate) fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now == *self)
    }

    /// Its resident set, in bytes; 0 once it has ended.
    pub(crate) fn resident_bytes(&self) -> u64 {
        resident_bytes(self.pid)
    }

    /// Sends the signal if the process is still there.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.is_alive() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Asks the process to end, waits for as long as `grace`, then kills it and waits again.
    pub(crate) fn stop(&self, name: &str, grace: Duration) -> Result<(), Error> {
        self.signal(Signal::SIGTERM);
        if wait_until(grace, || !self.is_alive()) {
            return Ok(());
        }
        self.signal(Signal::SIGKILL);
        if wait_until(Duration::from_secs(5), || !self.is_alive()) {
            return Ok(());
        }
        Err(Error::Unstoppable { name: name.to_owned(), pid: self.pid })
    }
}

/// Sends a signal to a child, unless that was waited for already.
pub(crate) fn tell(child: &tokio::process::Child, signal: Signal) {
    if let Some(pid) = child.id() {
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal); // it may have ended
    }
}

/// The resident set of a process, in bytes; 0 once it has ended.
pub(crate) fn resident_bytes(pid: i32) -> u64 {
    let pages = Process::new(pid).and_then(|process| process.statm()).map_or(0, |statm| statm.resident);
    pages * procfs::page_size()
}

/// Looks every 20 ms whether it is so; `false` when the time is up.
pub(crate) fn wait_until(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Notes which process a component is.
pub(crate) fn record(layout: &Layout, name: &str, process: &ProcessRef) -> Result<(), Error> {
    write(&layout.record(name), &serde_json::to_vec(process).expect("a record becomes JSON"))
}

/// Whether any of these components runs.
pub(crate) fn any_recorded(layout: &Layout, names: &[&str]) -> bool {
    names.iter().any(|name| recorded(layout, name).is_some())
}

/// The process that a component was last noted to be, if it still runs.
pub(crate) fn recorded(layout: &Layout, name: &str) -> Option<ProcessRef> {
    last_recorded(layout, name).filter(ProcessRef::is_alive)
}

/// The process that a component was last noted to be, whether it still runs or not.
pub(crate) fn last_recorded(layout: &Layout, name: &str) -> Option<ProcessRef> {
    serde_json::from_slice(&fs::read(layout.record(name)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_record_names_one_process_of_one_boot() {
        let own = ProcessRef::of(std::process::id().cast_signed()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessRef { started: own.started + 1, ..own.clone() }.is_alive(), "its ID was used again");
        assert!(!ProcessRef { boot: "another".to_owned(), ..own.clone() }.is_alive(), "it is of another boot");
        assert!(own.resident_bytes() > 0);
    }

    #[test]
    fn a_process_that_ended_is_dead_before_its_parent_takes_notice() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = ProcessRef::of(child.id().cast_signed()).unwrap();
        process.stop("sleep", Duration::from_secs(10)).unwrap();
        // Still a zombie here.
        assert!(!process.is_alive());
        assert_eq!(ProcessRef::of(process.pid), None);
        child.wait().unwrap();
        process.stop("sleep", Duration::ZERO).unwrap();
    }

    #[test]
    fn a_process_that_will_not_end_is_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo; sleep 600 & wait; wait"]);
        let mut child = command.stdout(std::process::Stdio::piped()).process_group(0).spawn().unwrap();
        // It has set its trap once it says something.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let process = ProcessRef::of(child.id().cast_signed()).unwrap();
        process.stop("sh", Duration::from_millis(50)).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
        let _ = kill(Pid::from_raw(-process.pid), Signal::SIGKILL);
    }

    #[test]
    fn only_a_living_process_is_found_by_its_record() {
        let (_root, layout) = Layout::temporary();
        assert_eq!(recorded(&layout, "part"), None);
        let own = ProcessRef::of(std::process::id().cast_signed()).unwrap();
        record(&layout, "part", &own).unwrap();
        assert_eq!(recorded(&layout, "part"), Some(own.clone()));
        record(&layout, "part", &ProcessRef { started: 0, ..own }).unwrap();
        assert_eq!(recorded(&layout, "part"), None);
        fs::write(layout.record("part"), "{\"pid\":").unwrap();
        assert_eq!(recorded(&layout, "part"), None);
    }
}
