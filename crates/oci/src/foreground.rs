//! Standing for a process: the signals that come are passed on, and its end is waited for.

use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::Pid;
use rustix::process::{WaitOptions, waitpid};

use crate::Result;
use crate::error::Doing as _;

const SIGCHLD: i32 = nix::sys::signal::Signal::SIGCHLD as i32;

/// All signals, to be read instead of acted upon.
pub(crate) fn signals() -> Result<SignalFd> {
    let all = SigSet::all();
    all.thread_block().doing("block the signals")?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).doing("read signals")
}

/// Sends the signals that have come to a process, but for those that tell of children.
pub(crate) fn pass_on(signals: &SignalFd, process: Pid) -> Result<()> {
    each(signals, |signal| pass(signal, process))
}

fn pass(signal: &siginfo, process: Pid) {
    match signal.ssi_signo.cast_signed() {
        SIGCHLD => {}
        // It may have ended.
        signal => drop(terrarium_sys::process::kill(process.as_raw(), signal)),
    }
}

fn each(signals: &SignalFd, act: impl Fn(&siginfo)) -> Result<()> {
    while let Some(signal) = signals.read_signal().doing("read a signal")? {
        act(&signal);
    }
    Ok(())
}

/// Waits for a child, which gets the signals of this process meanwhile. Returns its exit status as a shell has it: a signal
/// is 128 and its number.
///
/// # Errors
/// It is no child of this process.
pub fn wait(pid: Pid) -> Result<u8> {
    wait_acting(pid, |signal| pass(signal, pid))
}

/// The same with something else done about each signal of this process, SIGCHLD among them.
///
/// # Errors
/// As of [`wait`].
pub fn wait_acting(pid: Pid, act: impl Fn(&siginfo)) -> Result<u8> {
    let signals = signals()?;
    loop {
        let status = waitpid(rustix::process::Pid::from_raw(pid.as_raw()), WaitOptions::NOHANG)
            .doing_with(|| format!("wait for process {pid}"))?;
        let status = status.and_then(|(_, status)| {
            status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        });
        if let Some(status) = status {
            return Ok(u8::try_from(status & 0xff).unwrap_or(u8::MAX));
        }
        let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        each(&signals, &act)?;
    }
}
