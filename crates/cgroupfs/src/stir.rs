//! Ends the waiting of those whom a dead server did not answer.
//!
//! Most builds of gVisor end it themselves when a server's last file is closed. 2024-07 does not: whoever waits for an
//! answer then waits for good, with all who want the same file, until a signal interrupts it. So each process that sees
//! the same mounts is stopped for a moment, which no program notices but a parent that asks for it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long each stays stopped: a signal to go on takes one to stop back that has not arrived.
const STOPPED: Duration = Duration::from_millis(2);

/// That a new server takes over, noted for the next one, should this one be killed meanwhile: whom it has stopped just now, and
/// that not all may have been stirred.
pub(crate) struct Recovery {
    note: Option<PathBuf>,
    was_cut_off: bool,
}

impl Recovery {
    /// Before an earlier server's mounts are taken off. Lets go on whom a server that was killed had stopped.
    pub fn begin(state: Option<&Path>) -> Self {
        let note = state.map(|state| state.join("cgroupfs-stopped"));
        let was_cut_off = note.as_deref().is_some_and(release);
        let recovery = Self { note, was_cut_off };
        recovery.write("");
        recovery
    }

    /// When they are off: if there were any, now or before, there may be somebody who waits.
    pub fn end(self, were_left: bool) {
        if were_left || self.was_cut_off {
            self.stir();
        }
        self.note.map(fs::remove_file);
    }

    /// It is all that is lost where it cannot be noted.
    fn write(&self, stopped: &str) {
        let write = |note: &PathBuf| -> io::Result<()> {
            let mut open = OpenOptions::new();
            open.write(true).create(true).truncate(true).mode(0o600).open(note)?.write_all(stopped.as_bytes())
        };
        self.note.as_ref().map(write);
    }

    /// Interrupts what others in this mount namespace wait for. Those that are stopped already stay so.
    fn stir(&self) {
        let Ok(here) = fs::read_link("/proc/self/ns/mnt") else { return };
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
        let others = names.filter_map(|name| name.to_str()?.parse::<i32>().ok()).filter(|pid| *pid != 1 && *pid != own);
        for pid in others.filter(|pid| namespace(*pid).as_ref() == Some(&here) && !is_stopped(*pid)) {
            self.write(&pid.to_string());
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
            thread::sleep(STOPPED);
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
    }
}

/// Lets go on whom a server that was killed had stopped. Says whether one was killed while it took over.
fn release(note: &Path) -> bool {
    let Ok(noted) = fs::read_to_string(note) else { return false };
    if let Some(pid) = noted.parse().ok().filter(|pid| *pid > 1) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
    true
}

fn namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}

/// A stop for a tracer counts if it lasts: the program is stopped, or debugged.
fn is_stopped(pid: i32) -> bool {
    for _ in 0..5 {
        match state(pid) {
            Some('t') => thread::sleep(STOPPED),
            state => return state.is_none_or(|state| state == 'T'),
        }
    }
    true
}

fn state(pid: i32) -> Option<char> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("State:"))?.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn who_was_left_stopped_goes_on() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let note = directory.path().join("cgroupfs-stopped");
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        while !is_stopped(pid) {
            thread::sleep(STOPPED);
        }
        fs::write(&note, pid.to_string()).unwrap();
        let recovery = Recovery::begin(Some(directory.path()));
        assert!(recovery.was_cut_off && note.exists(), "this one may be killed, too");
        Recovery { was_cut_off: false, ..recovery }.end(false);
        assert!(!note.exists() && !Recovery::begin(Some(directory.path())).was_cut_off);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while is_stopped(pid) && std::time::Instant::now() < deadline {
            thread::sleep(STOPPED);
        }
        assert!(!is_stopped(pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
