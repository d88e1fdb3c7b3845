//! Processes: fork without threads, and what a new program inherits.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

/// What came out of [`fork`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// This is the new process.
    Child,
    /// This is the caller; the new process has this ID.
    Parent(i32),
}

/// Makes a copy of this process, which must have one thread: then the copy may do whatever the caller may.
///
/// # Errors
/// The process has more than one thread, or the kernel refuses.
pub fn fork() -> io::Result<Fork> {
    // Refused with EINVAL for more than one thread, else without effect (unshare(2)); needs no /proc.
    // SAFETY: no pointers. The flag changes nothing in a process of one thread.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } != 0 {
        return Err(match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EINVAL) => {
                io::Error::other("a process with several threads cannot fork")
            }
            error => error,
        });
    }
    // SAFETY: the process has this one thread, so no lock is held by another one, and nothing can start one in between.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Gives every signal its default action and blocks none. Rust's runtime ignores SIGPIPE, and a program that is
/// executed would inherit that.
pub fn reset_signals() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is no handler that could run. KILL, STOP and the C library's own signals are refused, which
        // changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset writes the whole set, which sigprocmask then reads.
    let status = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives SIGPIPE its default action. Rust's runtime ignores it, and a program that is executed would inherit that; what else
/// the caller ignores stays so, as a shell has it.
pub fn restore_broken_pipe() {
    // SAFETY: SIG_DFL is no handler that could run.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Sends a signal by its number, since `nix` and `rustix` know no realtime signals. As for kill(2), a `pid` below 1 names
/// groups of processes.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// As [`kill`], for one thread (tkill(2)).
pub fn kill_thread(thread: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::syscall(libc::SYS_tkill, thread, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has every file descriptor from this one on closed when a program is executed.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: no pointers; the flag closes nothing now.
    let status = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if status == 0 {
        return Ok(());
    }
    match io::Error::last_os_error().raw_os_error() {
        // Not there, without the flag, or forbidden by a seccomp profile that does not know the call.
        Some(libc::ENOSYS | libc::EINVAL | libc::EPERM) => close_on_exec_one_by_one(first),
        _ => Err(io::Error::last_os_error()),
    }
}

fn close_on_exec_one_by_one(first: libc::c_uint) -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        if fd.cast_unsigned() >= first {
            // SAFETY: no pointers; the flag closes nothing now.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Gives the calling thread, and what it forks, a new session keyring (keyctl_join_session_keyring(3)).
pub fn join_new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: without a name there is nothing to read.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    if joined < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn a_process_with_threads_does_not_fork() {
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || receive.recv());
        assert!(fork().is_err());
        drop(send);
        assert!(other.join().expect("the thread ends").is_err());
    }

    #[test]
    fn descriptors_are_closed_when_a_program_is_executed() {
        let file = File::open("/dev/null").expect("open /dev/null");
        // SAFETY: no pointers; the descriptor is the file's, which lives.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
        for close in [close_on_exec_from, |first: RawFd| close_on_exec_one_by_one(first.cast_unsigned())] {
            close(file.as_raw_fd()).expect("set the flag");
            // SAFETY: as above.
            assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) }, libc::FD_CLOEXEC);
            // SAFETY: as above.
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
        }
    }

    #[test]
    fn a_session_keyring_is_another_one() {
        if !std::path::Path::new("/proc/keys").exists() {
            eprintln!("skipped: this kernel has no keyrings");
            return;
        }
        // GET_KEYRING_ID of the session keyring, which is not made.
        // SAFETY: no pointers.
        let session = || unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) };
        let other = std::thread::spawn(move || {
            let before = session();
            join_new_session_keyring().expect("a keyring");
            (before, session())
        });
        let (before, after) = other.join().expect("the thread ends");
        assert!(after > 0 && before != after, "{before} {after}");
    }

    #[test]
    fn a_signal_reaches_by_number() {
        kill(std::process::id().cast_signed(), 0).expect("this process is there");
        assert_eq!(kill(0, 4096).expect_err("no such signal").raw_os_error(), Some(libc::EINVAL));
    }
}
