//! Tracing of other threads (ptrace(2)) with whatever signal there is: nix knows no realtime signals, and loses the stop of
//! a thread that one is for.

use std::io;
use std::mem::MaybeUninit;

/// The registers of a stopped thread (`struct user_regs_struct`).
#[cfg(target_arch = "x86_64")]
pub type Registers = libc::user_regs_struct;

/// What a tracer wants to be told, and done: `PTRACE_O_…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options(libc::c_int);

impl Options {
    /// All that comes of the thread is traced, too, and told: threads, processes, programs. Stops at system calls are told
    /// from a SIGTRAP, stops by a filter are told at all, and no thread outlives its tracer.
    pub const TREE: Self = Self(
        libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK
            | libc::PTRACE_O_TRACEEXEC
            | libc::PTRACE_O_TRACESECCOMP
            | libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_EXITKILL,
    );
}

/// How far a stopped thread goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Until something happens to it (`PTRACE_CONT`).
    Freely,
    /// To the next beginning or end of a system call (`PTRACE_SYSCALL`).
    ToCall,
    /// Not at all, but its tracer hears when the stop of its process ends (`PTRACE_LISTEN`).
    Listening,
}

/// Why a thread stopped, besides signals (`PTRACE_EVENT_…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A thread or process was made; the message is its ID.
    Clone,
    /// As above, by fork(2) or what is like it.
    Fork,
    /// As above, by vfork(2) or what is like it.
    Vfork,
    /// A program was executed; the message is what the thread's ID was before.
    Exec,
    /// A filter stopped a system call, before it began.
    Filter,
    /// A new thread's first stop, or the stop of a whole process by a signal.
    Stop,
    /// Another one.
    Other,
}

/// What became of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It ended with this status.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// It stopped where a system call begins or ends.
    AtCall,
    /// It stopped before it gets this signal.
    Signalled(i32),
    /// It stopped for this, with this signal where it is about one.
    Event(Event, i32),
}

/// # Safety
/// What the request makes of `data` is no pointer, or one to memory that it may read or write.
unsafe fn request(request: libc::c_uint, pid: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: as the caller says. An address is in the other thread's memory.
    if unsafe { libc::ptrace(request, pid, address, data) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Traces a thread from now on, without stopping it (`PTRACE_SEIZE`). The calling thread is the tracer: only it may ask
/// anything of the thread, and it alone hears of it.
///
/// # Errors
/// EPERM: it is traced already, or the caller has no right to.
pub fn seize(pid: i32, options: Options) -> io::Result<()> {
    // SAFETY: the data are flags.
    unsafe { request(libc::PTRACE_SEIZE, pid, 0, options.0.cast_unsigned() as usize) }
}

/// Lets a stopped thread go on, with a signal if it is not 0.
///
/// # Errors
/// ESRCH: it is not stopped any more, since it was killed.
pub fn resume(pid: i32, how: Resume, signal: i32) -> io::Result<()> {
    let how = match how {
        Resume::Freely => libc::PTRACE_CONT,
        Resume::ToCall => libc::PTRACE_SYSCALL,
        Resume::Listening => libc::PTRACE_LISTEN,
    };
    // SAFETY: the data is a signal's number.
    unsafe { request(how, pid, 0, signal.cast_unsigned() as usize) }
}

/// What came with the event for which a thread stopped (`PTRACE_GETEVENTMSG`).
///
/// # Errors
/// As for [`resume`].
pub fn event_message(pid: i32) -> io::Result<u64> {
    let mut message: libc::c_ulong = 0;
    // SAFETY: the kernel writes one unsigned long to what `data` points to, which outlives the call.
    unsafe { request(libc::PTRACE_GETEVENTMSG, pid, 0, (&raw mut message).expose_provenance())? };
    Ok(message)
}

/// A word of a stopped thread's memory (`PTRACE_PEEKDATA`).
///
/// # Errors
/// As for [`resume`]; EIO or EFAULT: there is nothing.
pub fn peek(pid: i32, address: usize) -> io::Result<u64> {
    let mut word: libc::c_long = 0;
    // SAFETY: the system call, other than the C library's function, writes one long to what `data` points to, which outlives
    // the call. The address is in the other thread's memory.
    let status = unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_PEEKDATA, pid, address, &raw mut word) };
    if status == -1 { Err(io::Error::last_os_error()) } else { Ok(word.cast_unsigned()) }
}

/// Changes a word of a stopped thread's memory (`PTRACE_POKEDATA`).
///
/// # Errors
/// As for [`peek`].
pub fn poke(pid: i32, address: usize, word: u64) -> io::Result<()> {
    // SAFETY: the data is what is written.
    unsafe { request(libc::PTRACE_POKEDATA, pid, address, usize::try_from(word).map_err(io::Error::other)?) }
}

/// The registers of a stopped thread.
///
/// # Errors
/// As for [`resume`].
#[cfg(target_arch = "x86_64")]
pub fn registers(pid: i32) -> io::Result<Registers> {
    let mut registers = MaybeUninit::<Registers>::uninit();
    // SAFETY: the kernel writes the whole structure, which is of its own layout and outlives the call.
    unsafe {
        request(libc::PTRACE_GETREGS, pid, 0, registers.as_mut_ptr().expose_provenance())?;
        Ok(registers.assume_init())
    }
}

/// Sets the registers of a stopped thread.
///
/// # Errors
/// As for [`resume`].
#[cfg(target_arch = "x86_64")]
pub fn set_registers(pid: i32, registers: &Registers) -> io::Result<()> {
    // SAFETY: the kernel reads the whole structure, which is of its own layout and outlives the call.
    unsafe { request(libc::PTRACE_SETREGS, pid, 0, std::ptr::from_ref(registers).expose_provenance()) }
}

/// Waits until something happens to any thread that is traced, or to a child. None: there is neither.
pub fn wait() -> io::Result<Option<(i32, Change)>> {
    wait_with(0)
}

/// As [`wait`], but does not wait: `Some(None)` if nothing has happened yet.
pub fn look() -> io::Result<Option<Option<(i32, Change)>>> {
    Ok(match wait_with(libc::WNOHANG)? {
        None => None,
        Some((0, _)) => Some(None),
        some => Some(some),
    })
}

fn wait_with(flags: i32) -> io::Result<Option<(i32, Change)>> {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes one int to `status`, which outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | flags) };
        if pid >= 0 {
            return Ok(Some((pid, change(status))));
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            error if error.raw_os_error() == Some(libc::EINTR) => {}
            error => return Err(error),
        }
    }
}

fn change(status: i32) -> Change {
    if libc::WIFEXITED(status) {
        return Change::Exited(libc::WEXITSTATUS(status));
    }
    if libc::WIFSIGNALED(status) {
        return Change::Killed(libc::WTERMSIG(status));
    }
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Change::AtCall,
        0 => Change::Signalled(signal),
        libc::PTRACE_EVENT_CLONE => Change::Event(Event::Clone, signal),
        libc::PTRACE_EVENT_FORK => Change::Event(Event::Fork, signal),
        libc::PTRACE_EVENT_VFORK => Change::Event(Event::Vfork, signal),
        libc::PTRACE_EVENT_EXEC => Change::Event(Event::Exec, signal),
        libc::PTRACE_EVENT_SECCOMP => Change::Event(Event::Filter, signal),
        libc::PTRACE_EVENT_STOP => Change::Event(Event::Stop, signal),
        _ => Change::Event(Event::Other, signal),
    }
}

/// The number of a system call that no kernel has, by which a program can speak to its tracer (`tuxcall`).
#[cfg(target_arch = "x86_64")]
pub const HAIL: i64 = libc::SYS_tuxcall;

/// Makes that call, and has what was answered: a tracer's word, else an error, mostly ENOSYS.
#[cfg(target_arch = "x86_64")]
pub fn hail() -> io::Result<i64> {
    // SAFETY: no arguments, and no kernel does anything about it.
    match unsafe { libc::syscall(HAIL) } {
        -1 => Err(io::Error::last_os_error()),
        answer => Ok(answer),
    }
}

/// Opens a file and says whether the call left its arguments in their registers, as the kernel does: for tests of tracers.
#[cfg(target_arch = "x86_64")]
pub fn open_keeps_registers(path: &std::ffi::CStr) -> io::Result<bool> {
    let before = [libc::AT_FDCWD as usize, path.as_ptr().addr(), libc::O_CLOEXEC as usize, 0, 5, 6];
    let mut after = before;
    let result: isize;
    // SAFETY: the kernel reads the path, which lives, and writes to no memory. All registers that it may change are named.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") libc::SYS_openat as isize => result,
            inlateout("rdi") before[0] => after[0], inlateout("rsi") path.as_ptr() => after[1],
            inlateout("rdx") before[2] => after[2], inlateout("r10") before[3] => after[3],
            inlateout("r8") before[4] => after[4], inlateout("r9") before[5] => after[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    let fd = i32::try_from(result).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    unsafe { libc::close(fd) };
    Ok(before == after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_as_waitpid_means_them() {
        assert_eq!(change(7 << 8), Change::Exited(7));
        assert_eq!(change(libc::SIGKILL), Change::Killed(9));
        assert_eq!(change(40 << 8 | 0x7f), Change::Signalled(40));
        assert_eq!(change((libc::SIGTRAP | 0x80) << 8 | 0x7f), Change::AtCall);
        let stop = libc::PTRACE_EVENT_STOP << 16 | libc::SIGTSTP << 8 | 0x7f;
        assert_eq!(change(stop), Change::Event(Event::Stop, libc::SIGTSTP));
    }

    #[test]
    fn nobody_is_traced_who_is_not_there() {
        let error = seize(i32::MAX, Options::TREE).expect_err("no such process");
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
        assert!(hail().is_err(), "nobody traces this test");
    }
}
