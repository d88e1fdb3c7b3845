//! Starting a program so that it is traced from its first instruction on.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::unistd::{execvp, pipe2};
use terrarium_sys::process::{self, Fork};
use terrarium_sys::seccomp::{Instruction, SPEC_ALLOW, install};
use terrarium_sys::trace::{self, Change, HAIL, Options};

use crate::decide::status;
use crate::error::Error;
use crate::filter::{self, Action};
use crate::nudge::Nudge;
use crate::rules::Rules;
use crate::signals::{Blocked, Messenger};
use crate::stats::Counters;
use crate::tracer::Tracer;

/// What the process that is to become the program could not do, as it tells it: a byte, and the error's number.
#[derive(Debug, Clone, Copy)]
enum Failed {
    Filter = 1,
    Answer = 2,
    Execute = 3,
}

/// Runs a program by these rules, and all that it starts, until it has ended: what it has left then is killed. Signals to
/// this process are passed on to it. `stats` is a file that has the figures, replaced once a second at most when they have
/// changed, and at the end. The answer is its exit status in the form of a shell: 128 and the signal's number if one ended
/// it.
///
/// Call it before the process has a second thread. The calling thread is the tracer: if it ends, the kernel kills the
/// program and all that it started.
///
/// # Errors
/// The program cannot be traced, or not be executed.
pub fn run(rules: &Rules, program: &OsStr, arguments: &[OsString], stats: Option<&Path>) -> Result<u8, Error> {
    let counters = Arc::new(Counters::new(rules.labels.clone(), stats.map(Path::to_path_buf)));
    counters.write()?;
    let nudge = Arc::new(Nudge::default());
    let mut tracer = Tracer::new(rules, &counters, &nudge)?;
    let filter = filter::program(rules.calls().numbers().chain([HAIL]), Action::Stop);
    let words = words(program, arguments)?;
    let blocked = Blocked::new()?;
    let (go, going) = pipe2(OFlag::O_CLOEXEC).map_err(Error::start("make a pipe"))?;
    let (report, reporting) = pipe2(OFlag::O_CLOEXEC).map_err(Error::start("make a pipe"))?;
    let pid = match process::fork().map_err(|source| Error::Start { doing: "fork", source })? {
        Fork::Child => {
            drop((going, report));
            become_program(&blocked, go, reporting, &filter, &words);
        }
        Fork::Parent(pid) => pid,
    };
    drop((go, reporting));
    let change = follow(pid, going, &mut tracer, Messenger::start(pid, Arc::clone(&counters), Arc::clone(&nudge)));
    let written = counters.write();
    drop(blocked);
    written?;
    let change = change?;
    if !tracer.executed {
        told(report, program)?;
    }
    Ok(match change {
        Change::Exited(status) => u8::try_from(status).unwrap_or(u8::MAX),
        Change::Killed(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        _ => unreachable!("only an end ends the tracing"),
    })
}

fn follow(
    pid: i32,
    going: OwnedFd,
    tracer: &mut Tracer<'_>,
    messenger: Result<Messenger, Error>,
) -> Result<Change, Error> {
    let messenger = messenger?;
    if let Err(error) = trace::seize(pid, Options::TREE) {
        let refusal = refusal(pid, error);
        drop(going);
        let _ = trace::wait();
        return Err(refusal);
    }
    let failed = |source| Error::Start { doing: "trace the program", source };
    // It waits for this, unless it was killed.
    let _ = File::from(going).write_all(b"!");
    let change = tracer.follow(pid, || messenger.forget()).map_err(failed)?;
    messenger.end();
    Ok(change)
}

fn refusal(pid: i32, error: io::Error) -> Error {
    let tracer = |pid| status(pid, "TracerPid:").filter(|tracer| *tracer != 0);
    match tracer(pid).or_else(|| tracer(std::process::id().cast_signed())) {
        Some(tracer) => Error::TracedAlready { tracer },
        None => Error::Refused { source: error },
    }
}

/// What the process said before it ended without having become the program; nothing if it was killed.
fn told(report: OwnedFd, program: &OsStr) -> Result<(), Error> {
    let mut said = [0; 5];
    if File::from(report).read_exact(&mut said).is_err() {
        return Ok(());
    }
    let [what, number @ ..] = said;
    let source = io::Error::from_raw_os_error(i32::from_ne_bytes(number));
    Err(match what {
        what if what == Failed::Filter as u8 => Error::Filter { source },
        what if what == Failed::Answer as u8 => Error::Unanswered,
        _ => Error::Program { path: program.into(), source },
    })
}

fn words(program: &OsStr, arguments: &[OsString]) -> Result<Vec<CString>, Error> {
    let words = std::iter::once(program).chain(arguments.iter().map(OsString::as_os_str));
    let words: Result<_, _> = words.map(|word| CString::new(word.as_bytes())).collect();
    words.map_err(|_| Error::Program { path: program.into(), source: io::ErrorKind::InvalidInput.into() })
}

/// In the new process, with the one thread that it has.
fn become_program(blocked: &Blocked, go: OwnedFd, report: OwnedFd, filter: &[Instruction], words: &[CString]) -> ! {
    let Err((failed, errno)) = try_to_become(blocked, go, filter, words);
    let mut said = vec![failed as u8];
    said.extend_from_slice(&(errno as i32).to_ne_bytes());
    // If nobody listens any more nobody needs it.
    let _ = File::from(report).write_all(&said);
    std::process::exit(1);
}

fn try_to_become(
    blocked: &Blocked,
    go: OwnedFd,
    filter: &[Instruction],
    words: &[CString],
) -> Result<Infallible, (Failed, Errno)> {
    // Until it is traced: with the filter and without a tracer the calls would fail.
    File::from(go).read_exact(&mut [0]).map_err(|_| (Failed::Answer, Errno::ECHILD))?;
    process::restore_broken_pipe();
    blocked.undo().map_err(|errno| (Failed::Execute, errno))?;
    install_filter(filter).map_err(|error| (Failed::Filter, Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
    match trace::hail() {
        Ok(answer) if answer > 0 => {}
        _ => return Err((Failed::Answer, Errno::ENOSYS)),
    }
    execvp(&words[0], words).map_err(|errno| (Failed::Execute, errno))
}

/// Without privileges a filter needs `no_new_privs`, by which programs get no further ones; else that is left alone.
fn install_filter(filter: &[Instruction]) -> io::Result<()> {
    let try_it = || match install(filter, SPEC_ALLOW) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => install(filter, 0),
        other => other,
    };
    match try_it() {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            nix::sys::prctl::set_no_new_privs()?;
            try_it()
        }
        other => other,
    }
}
