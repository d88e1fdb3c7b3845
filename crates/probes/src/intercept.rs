//! Interception of chosen system calls: a seccomp filter in a child stops it at getppid(2) alone, and its tracer
//! changes what that call answers.

use std::io::{self, BufRead as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use terrarium_gaps::Tried;

use crate::failure::{Doing as _, Failure};
use crate::helper::{Helper, Part};

/// What the tracer has getppid(2) answer: no process has this ID.
const ANSWER: u64 = 1_234_567_890;
/// Less than a theme may take: what failed is told then.
const LIMIT: Duration = Duration::from_secs(12);

/// Tries it with a child.
pub(crate) fn works() -> Tried {
    let try_it = || -> Result<(), Failure> {
        let mut child = Helper::start(Part::Traced)?;
        let pid = child.pid();
        let options = Options::PTRACE_O_TRACESECCOMP | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options).doing("trace a child")?;
        child.say("go")?;
        trace(pid)?;
        match child.hear()?.as_str() {
            said if said == ANSWER.to_string() => Ok(()),
            refused if refused.starts_with("install") => Err(Failure::new(refused)),
            _ => Err(Failure::new("the answer of a traced system call could not be changed")),
        }
    };
    try_it().into()
}

/// Follows the child until the filter's call was answered, or the child has ended.
fn trace(pid: Pid) -> Result<(), Failure> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let status = match waitpid(pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Err(Errno::EINTR) => continue,
            other => other.doing("wait for a traced child")?,
        };
        match status {
            WaitStatus::StillAlive => std::thread::sleep(Duration::from_micros(500)),
            WaitStatus::PtraceEvent(_, _, event) if event == Event::PTRACE_EVENT_SECCOMP as i32 => {
                ptrace::syscall(pid, None).doing("go on to the end of a system call")?;
            }
            WaitStatus::PtraceSyscall(_) => {
                if answer(pid)? {
                    return ptrace::cont(pid, None).doing("let a traced child go on");
                }
                ptrace::syscall(pid, None).doing("go on to the end of a system call")?;
            }
            WaitStatus::PtraceEvent(..) => ptrace::cont(pid, None).doing("let a traced child go on")?,
            WaitStatus::Stopped(_, signal) => ptrace::cont(pid, signal).doing("let a traced child go on")?,
            _ => return Ok(()),
        }
    }
    Err(Failure::new("a traced child did not answer in time"))
}

/// Changes the answer of the call that the child is in, if it has one: before the call, kernels show ENOSYS.
#[cfg(target_arch = "x86_64")]
fn answer(pid: Pid) -> Result<bool, Failure> {
    let mut registers = ptrace::getregs(pid).doing("read the registers of a traced child")?;
    if i64::from_ne_bytes(registers.rax.to_ne_bytes()) < 0 {
        return Ok(false);
    }
    registers.rax = ANSWER;
    ptrace::setregs(pid, registers).doing("change the registers of a traced child")?;
    Ok(true)
}

#[cfg(not(target_arch = "x86_64"))]
fn answer(_: Pid) -> Result<bool, Failure> {
    Err(Failure::new("only x86-64 is known"))
}

/// The child: waits for its tracer, installs the filter and says whose child it is told to be.
pub(crate) fn traced() -> ExitCode {
    let mut line = String::new();
    let heard = io::stdin().lock().read_line(&mut line).is_ok_and(|length| length > 0);
    if !heard {
        return ExitCode::FAILURE;
    }
    let said = match install_filter() {
        Ok(()) => std::os::unix::process::parent_id().to_string(),
        Err(error) => format!("install a seccomp filter: {error}"),
    };
    match writeln!(io::stdout(), "{said}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn install_filter() -> Result<(), Box<dyn std::error::Error>> {
    let target: TargetArch = std::env::consts::ARCH.try_into()?;
    let rules = [(libc::SYS_getppid, Vec::new())].into_iter().collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trace(0), target)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}
