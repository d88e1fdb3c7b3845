//! Terminals that signal unasked.
//!
//! A program that wants what is typed as it is turns the terminal's ISIG off: then ^C is a byte like others. gVisor's
//! terminals signal all the same, until some time between 2026-02 and 2026-07 (`transform` in its
//! pkg/sentry/fsimpl/devpts/line_discipline.go): ^C ends kubectl, instead of what runs in the Pod.
//!
//! They signal the terminal's foreground group. So another process stands for the program there, which gives it of the
//! signals only what a terminal should, and the program is in a session of its own, in which it may read and write a
//! terminal that is not its own:
//!
//! ```text
//! terminal ── ^C: byte ─────────────▶ program
//!        └─── ^C: SIGINT ──▶ this ──▶     (if ISIG is set)
//! ```

use std::io;
use std::process::ExitCode;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use terrarium_sys::process::{Fork, fork, kill};

/// What is typed for SIGINT.
const INTERRUPT: u8 = 3;

/// Whether the kernel's terminals do so: told by trying, in a child and at a terminal of its own.
pub fn signals_unasked() -> bool {
    match fork() {
        Ok(Fork::Child) => std::process::exit(i32::from(!is_signalled_unasked().unwrap_or(false))),
        Ok(Fork::Parent(pid)) => matches!(waitpid(Pid::from_raw(pid), None), Ok(WaitStatus::Exited(_, 0))),
        Err(_) => false,
    }
}

fn is_signalled_unasked() -> io::Result<bool> {
    setsid()?;
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name.as_c_str(), flags, Mode::empty())?;
    rustix::process::ioctl_tiocsctty(&terminal)?;
    let mut modes = tcgetattr(&terminal)?;
    modes.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &modes)?;
    let interrupt = SigSet::from(Signal::SIGINT);
    interrupt.thread_block()?;
    let signals = SignalFd::with_flags(&interrupt, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // gVisor signals before it returns from this.
    rustix::io::write(&master, &[INTERRUPT])?;
    Ok(signals.read_signal()?.is_some())
}

/// Forks. The child gets `None`, and is to become the program; the parent stands before it at the terminal until it ends, and
/// gets how it ended.
pub fn stand_before() -> Result<Option<ExitCode>> {
    match fork()? {
        Fork::Child => {
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
            setsid()?;
            Ok(None)
        }
        Fork::Parent(pid) => {
            let program = Pid::from_raw(pid);
            Ok(Some(terrarium_oci::wait_acting(program, |signal| act(signal, program))?.into()))
        }
    }
}

fn act(signal: &siginfo, program: Pid) {
    let number = signal.ssi_signo.cast_signed();
    let is_terminals = signal.ssi_code == nix::libc::SI_KERNEL;
    let named = Signal::try_from(number);
    // A terminal signals a group, and the program leads one.
    let target = if is_terminals { -program.as_raw() } else { program.as_raw() };
    // It may have ended.
    let send = |number| drop(kill(target, number));
    match named {
        Ok(Signal::SIGCHLD) => {}
        Ok(Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTSTP) if is_terminals && !signals_are_asked_for() => {}
        // Who leads a session is not stopped by SIGTSTP, and this process only where somebody can let it go on.
        Ok(Signal::SIGTSTP) => {
            send(Signal::SIGSTOP as i32);
            let _ = stop();
            send(Signal::SIGCONT as i32);
        }
        _ => send(number),
    }
}

/// Does what SIGTSTP does to who has not blocked it.
fn stop() -> nix::Result<()> {
    let stop = SigSet::from(Signal::SIGTSTP);
    nix::sys::signal::raise(Signal::SIGTSTP)?;
    stop.thread_unblock()?;
    stop.thread_block()
}

fn signals_are_asked_for() -> bool {
    tcgetattr(io::stdin()).is_ok_and(|modes| modes.local_modes.contains(LocalModes::ISIG))
}
