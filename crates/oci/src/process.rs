//! Processes that were started earlier, told apart from others that have got their ID since.

use std::fs;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process by its ID and the time when it started, so that an ID that is used again is never taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    pid: i32,
    /// In clock ticks since boot: field 22 of proc_pid_stat(5).
    started: u64,
}

impl ProcessRef {
    /// The process that has this ID now, unless it has ended.
    pub fn of(pid: Pid) -> Option<Self> {
        let (_, started) = look(pid.as_raw())?;
        Some(Self { pid: pid.as_raw(), started })
    }

    /// Its ID.
    pub fn pid(self) -> Pid {
        Pid::from_raw(self.pid)
    }

    /// Whether it has not ended. A zombie has.
    pub fn lives(self) -> bool {
        look(self.pid).is_some_and(|(state, started)| started == self.started && !is_end(state))
    }

    /// Waits until it has ended, or the time is over. Says whether it has.
    pub fn ends_within(self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut pause = Duration::from_millis(1);
        while self.lives() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        true
    }
}

/// Whether the process with this ID is gone, or only waiting for its parent to ask how it ended.
pub(crate) fn has_ended(pid: Pid) -> bool {
    look(pid.as_raw()).is_none_or(|(state, _)| is_end(state))
}

fn is_end(state: char) -> bool {
    matches!(state, 'Z' | 'X')
}

/// State and start time of a process.
fn look(pid: i32) -> Option<(char, u64)> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name is in parentheses and may hold any character, so the fields are counted from its end.
fn parse(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_another_start_is_another_process() {
        let this = ProcessRef::of(Pid::this()).expect("this process");
        assert!(this.lives());
        assert!(!ProcessRef { started: this.started + 1, ..this }.lives());
    }

    #[test]
    fn a_name_may_look_like_fields() {
        let stat = "7 (a) R 1 (b) S 1 7 7 0 -1 4 1 0 0 0 1 2 0 0 20 0 1 0 4242 1 1";
        assert_eq!(parse(stat), Some(('S', 4242)));
        assert_eq!(parse("7 (a"), None);
    }

    #[test]
    fn a_zombie_has_ended() {
        let mut child = std::process::Command::new("true").spawn().expect("start a process");
        let process = ProcessRef::of(Pid::from_raw(child.id().cast_signed())).expect("not waited for yet");
        assert!(process.ends_within(Duration::from_secs(60)));
        child.wait().expect("wait");
    }
}
