//! Signals to the tracer are meant for the program.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use terrarium_sys::process::kill;

use crate::error::Error;
use crate::nudge::Nudge;
use crate::stats::Counters;

/// Those that are passed on. Those by which a terminal stops a group of processes stop the tracer, too.
const PASSED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];
/// How often the figures are written at most.
const PACE: Duration = Duration::from_secs(1);

/// Signals wait until somebody is there to pass them on.
#[derive(Debug)]
pub(crate) struct Blocked {
    before: SigSet,
}

impl Blocked {
    pub(crate) fn new() -> Result<Self, Error> {
        let mut before = SigSet::empty();
        let passed: SigSet = PASSED.into_iter().collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&passed), Some(&mut before)).map_err(Error::start("block signals"))?;
        Ok(Self { before })
    }

    /// In the process that is to become the program, too.
    pub(crate) fn undo(&self) -> Result<(), Errno> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // Without an error: the set is one that the kernel gave.
        let _ = self.undo();
    }
}

/// A thread that passes signals on to the program, and writes the figures.
#[derive(Debug)]
pub(crate) struct Messenger {
    program: Arc<Mutex<Option<i32>>>,
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl Messenger {
    /// Signals are blocked before.
    pub(crate) fn start(program: i32, counters: Arc<Counters>, nudge: Arc<Nudge>) -> Result<Self, Error> {
        let passed: SigSet = PASSED.into_iter().collect();
        let signals = SignalFd::with_flags(&passed, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(Error::start("read signals"))?;
        let (stopped, stop) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(Error::start("make a pipe"))?;
        let program = Arc::new(Mutex::new(Some(program)));
        let of_thread = Arc::clone(&program);
        let run = move || pass_on(&signals, &stopped, &of_thread, &counters, &nudge);
        let thread = std::thread::Builder::new()
            .name("messenger".to_owned())
            .spawn(run)
            .map_err(|source| Error::Start { doing: "start a thread", source })?;
        Ok(Self { program, stop, thread })
    }

    /// The program has ended: its number may soon be another's.
    pub(crate) fn forget(&self) {
        *self.program.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn end(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

fn pass_on(signals: &SignalFd, stopped: &OwnedFd, program: &Mutex<Option<i32>>, counters: &Counters, nudge: &Nudge) {
    let mut complained = false;
    let mut written = Instant::now();
    loop {
        let pace = nudge.pace().or(counters.are_written().then_some(PACE));
        let timeout = pace.map_or(PollTimeout::NONE, |pace| PollTimeout::try_from(pace).unwrap_or(PollTimeout::MAX));
        let mut fds =
            [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            Err(_) => return,
            Ok(_) if fds[1].any() == Some(true) => return,
            Ok(_) => {}
        }
        nudge.all();
        if written.elapsed() >= PACE {
            written = Instant::now();
            // It is said again at the end, where it is an error.
            if let Err(error) = counters.write()
                && !std::mem::replace(&mut complained, true)
            {
                eprintln!("terrarium: {error}");
            }
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            // What a terminal sends its group has reached the program, too.
            if signal.ssi_code != libc::SI_KERNEL {
                pass(program, signal.ssi_signo);
            }
        }
    }
}

fn pass(program: &Mutex<Option<i32>>, signal: u32) {
    let program = program.lock().unwrap_or_else(PoisonError::into_inner);
    if let (Some(program), Ok(signal)) = (*program, i32::try_from(signal)) {
        let sent: io::Result<()> = kill(program, signal);
        // It may have ended.
        drop(sent);
    }
}
