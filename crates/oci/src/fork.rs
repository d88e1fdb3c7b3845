//! Forking a process that does one thing and says over a channel what became of it.

use std::convert::Infallible;

use nix::unistd::Pid;
use terrarium_sys::process::{self, Fork};

use crate::Result;
use crate::channel::{Channel, Message};
use crate::error::Doing as _;
use crate::signal::Signal;

/// Forks a process that does this and nothing else: it ends as a program that was executed, or with what it says of its
/// failure. It starts with no signal blocked or ignored.
pub(crate) fn fork(channel: &mut Channel, body: impl FnOnce(&mut Channel) -> Result<Infallible>) -> Result<Pid> {
    match process::fork().doing("fork")? {
        Fork::Parent(pid) => Ok(Pid::from_raw(pid)),
        Fork::Child => {
            let failed = process::reset_signals().doing("reset the signals").and_then(|()| body(channel));
            let Err(error) = failed;
            // Nobody listens any more once a container is created: then its own stderr is the place.
            if channel.send(&Message::Failed(error.chain())).is_err() {
                eprintln!("error: {}", error.chain());
            }
            std::process::exit(1);
        }
    }
}

/// Kills a process that was forked, and reaps it.
pub(crate) fn end(pid: Pid) {
    let _ = Signal::KILL.send_if_there(pid);
    reap(pid);
}

/// Waits for a process that was forked and reads no status from it.
pub(crate) fn reap(pid: Pid) {
    // It may have been waited for by whoever else waits for any child of this process.
    let _ = rustix::io::retry_on_intr(|| {
        rustix::process::waitpid(rustix::process::Pid::from_raw(pid.as_raw()), rustix::process::WaitOptions::empty())
    });
}
