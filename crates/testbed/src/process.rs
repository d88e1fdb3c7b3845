//! Processes of this host, told apart from later ones that get the same number.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// A process: its number, and when it began in clock ticks since boot (field 22 of proc(5) stat).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    started: u64,
}

impl Process {
    /// The process that has this number now; none when it is gone or a zombie.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse_stat(&stat).map(|started| Self { pid, started })
    }

    /// Whether this very process still runs.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// The start time out of a stat line, unless the process is a zombie or dead.
fn parse_stat(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses and may hold anything, parentheses too.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

/// This boot's identity: numbers and network names of another boot mean nothing now.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Every runsc process that has exactly `flag` among its arguments.
pub(crate) fn runsc_with(flag: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_runsc_with(*pid, flag)).collect()
}

fn is_runsc_with(pid: i32, flag: &str) -> bool {
    let directory = Path::new("/proc").join(pid.to_string());
    let Ok(arguments) = fs::read(directory.join("cmdline")) else { return false };
    if !arguments.split(|byte| *byte == 0).any(|argument| argument == flag.as_bytes()) {
        return false;
    }
    let program = fs::read_link(directory.join("exe")).unwrap_or_default();
    program.file_name().unwrap_or(OsStr::new("")).as_bytes().starts_with(b"runsc")
}

/// Kills every runsc process that has `flag`, and those they start meanwhile; the numbers that `patience` did not end.
pub(crate) fn kill_runsc_with(flag: &str, patience: Duration) -> Vec<i32> {
    let deadline = Instant::now() + patience;
    loop {
        let left = runsc_with(flag);
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        for pid in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_gives_the_start_even_with_a_hostile_name() {
        let line = "7 (a) Z (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2";
        assert_eq!(parse_stat(line), Some(4242));
        assert_eq!(parse_stat("7 (a) Z 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2"), None);
    }

    #[test]
    fn this_process_is_alive_and_an_earlier_one_is_not() {
        let own = Process::of(std::process::id().cast_signed()).expect("this process runs");
        assert!(own.is_alive());
        assert!(!Process { started: own.started - 1, ..own }.is_alive());
    }

    #[test]
    fn only_runsc_itself_is_found() {
        let flag = "--root=/nowhere/of/this/test";
        let mut other = std::process::Command::new("sh").args(["-c", "sleep 5", flag]).spawn().expect("sh");
        assert!(runsc_with(flag).is_empty());
        other.kill().expect("kill");
        other.wait().expect("wait");
    }
}
