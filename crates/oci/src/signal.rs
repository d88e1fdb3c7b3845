//! Signals by name or number, realtime ones included.

use std::fmt;
use std::str::FromStr;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::error::Doing as _;
use crate::{Error, Result};

/// The number of the first and of the last realtime signal that a C library leaves to programs (signal(7)).
const REALTIME: (i32, i32) = (34, 64);

/// A signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

impl Signal {
    /// It ends a process in any case.
    pub const KILL: Self = Self(nix::sys::signal::Signal::SIGKILL as i32);
    /// It asks a process to end.
    pub const TERM: Self = Self(nix::sys::signal::Signal::SIGTERM as i32);

    /// The signal of a number, if there is one.
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=REALTIME.1).contains(&number).then_some(Self(number))
    }

    /// Sends it.
    pub(crate) fn send(self, pid: Pid) -> Result<()> {
        terrarium_sys::process::kill(pid.as_raw(), self.0).doing_with(|| format!("send {self} to process {pid}"))
    }

    /// Sends it, unless the process has ended meanwhile.
    pub(crate) fn send_if_there(self, pid: Pid) -> Result<()> {
        match terrarium_sys::process::kill(pid.as_raw(), self.0) {
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(()),
            other => other.doing_with(|| format!("send {self} to process {pid}")),
        }
    }
}

impl FromStr for Signal {
    type Err = Error;

    /// As kill(1) takes it: `9`, `KILL`, `SIGKILL`, `RTMIN+3`.
    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::spec("signal", format!("{text:?} is not known"));
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let number = |text: &str| text.parse::<i32>().ok();
        let found = if let Some(number) = number(name) {
            Some(number)
        } else if let Some(above) = name.strip_prefix("RTMIN") {
            if above.is_empty() {
                Some(REALTIME.0)
            } else {
                above.strip_prefix('+').and_then(number).and_then(|above| REALTIME.0.checked_add(above))
            }
        } else if let Some(below) = name.strip_prefix("RTMAX") {
            if below.is_empty() {
                Some(REALTIME.1)
            } else {
                below.strip_prefix('-').and_then(number).and_then(|below| REALTIME.1.checked_sub(below))
            }
        } else {
            format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
        };
        found.and_then(Self::from_number).ok_or_else(unknown)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(signal) => out.write_str(signal.as_str()),
            Err(_) => write!(out, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_known_by_name_and_number() {
        for (text, number) in
            [("9", 9), ("KILL", 9), ("sigterm", 15), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("64", 64)]
        {
            assert_eq!(text.parse::<Signal>().expect(text), Signal(number));
        }
        for text in ["", "0", "65", "-1", "SIG", "RTMIN-1", "RTMAX-64", "RTMIN+99999999999", "NONE"] {
            assert!(text.parse::<Signal>().is_err(), "{text:?}");
        }
    }
}
