//! Ends the waiting of those whom a dead server did not answer.
//!
//! Most builds of gVisor end it themselves when a server's last file is closed. 2024-07 does not: whoever waits for an
//! answer then waits for good, with all who want the same file, until a signal interrupts it. So each process that sees
//! the same mounts is stopped for a moment, which no program notices but a parent that asks for it.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long each stays stopped: a signal to go on takes one to stop back that has not arrived.
const STOPPED: Duration = Duration::from_millis(2);

/// Interrupts what others in this mount namespace wait for. Those that are stopped already stay so.
pub(crate) fn waiting() {
    let Ok(here) = fs::read_link("/proc/self/ns/mnt") else { return };
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let others = names.filter_map(|name| name.to_str()?.parse::<i32>().ok()).filter(|pid| *pid != 1 && *pid != own);
    // One after the other: were this process killed meanwhile, it would leave one of them stopped, and not all.
    for pid in others.filter(|pid| namespace(*pid).as_ref() == Some(&here) && !is_stopped(*pid)).map(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill(pid, Signal::SIGSTOP);
        thread::sleep(STOPPED);
        let _ = kill(pid, Signal::SIGCONT);
    }
}

fn namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}

fn is_stopped(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_none_or(|state| state.trim_start().starts_with(['T', 't', 'Z']))
}
