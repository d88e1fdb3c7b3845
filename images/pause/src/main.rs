//! The pause container's only process: it holds a Pod's namespaces open, and reaps the orphans where the Pod's containers
//! share its pid namespace. It does what upstream's build/pause does.

use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "-v") {
        println!("pause {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if std::process::id() != 1 {
        eprintln!("Warning: pause should be the first process");
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pause: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for SIGINT or SIGTERM. The signals are blocked and fetched, so that none is lost between two of them, and an
/// init process, which has no default actions, sees them at all.
fn run() -> nix::Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD]);
    signals.thread_block()?;
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => reap()?,
            Ok(signal) => {
                eprintln!("Shutting down, got signal: {signal}");
                return Ok(());
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes all children that have ended: one SIGCHLD may stand for many.
fn reap() -> nix::Result<()> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}
