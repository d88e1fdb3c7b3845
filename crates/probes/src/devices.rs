//! Devices and single system calls.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use nix::fcntl::OFlag;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use terrarium_gaps::Tried;

use crate::failure::{Doing as _, Failure};
use crate::scratch::{Scratch, mount, unmount};

/// openat2(2).
pub(crate) fn openat2() -> Tried {
    rustix::fs::openat2(CWD, "/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS)
        .doing("openat2")
        .into()
}

/// Reading the kernel's log.
pub(crate) fn kmsg() -> Tried {
    let try_it = || -> Result<(), Failure> {
        let mut log = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open("/dev/kmsg")
            .doing("open /dev/kmsg")?;
        match log.read(&mut [0; 8192]) {
            // Nothing to read now; or records that were overwritten since (proc(5) of the log: EPIPE).
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::BrokenPipe) => Ok(()),
            other => other.map(drop).doing("read /dev/kmsg"),
        }
    };
    try_it().into()
}

/// A FUSE file system that nobody serves, mounted and unmounted.
pub(crate) fn fuse(scratch: &Scratch) -> Tried {
    let try_it = || -> Result<(), Failure> {
        let target = scratch.dir("fuse")?;
        let device = File::options().read(true).write(true).open("/dev/fuse").doing("open /dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40000,user_id={},group_id={}",
            device.as_raw_fd(),
            nix::unistd::geteuid(),
            nix::unistd::getegid()
        );
        let mounted = mount("fuse", &target, &options).doing("mount a FUSE file system");
        // The connection ends with the device, so that nothing can wait for an answer.
        drop(device);
        if mounted.is_ok() {
            unmount(&target);
        }
        mounted
    };
    try_it().into()
}
