//! Memory of the tracer's that traced processes see and cannot write: what a rule puts in the place of a path is there, so
//! that no other thread of the program can change it between the decision and the kernel's look at it.
//!
//! It is one memfd. A process opens it for reading only, through `/proc`, and maps that: then neither it nor mprotect(2) can
//! make the mapping writable.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};

use crate::error::Error;
use crate::memory::PATH_MAX;

/// The size of `struct open_how`, as far as it is known.
pub(crate) const HOW: usize = 24;
/// A path, and behind it what else a call may point to.
const SLOT: usize = 2 * PATH_MAX;
/// As many calls may be under way at once; further ones wait.
const SLOTS: usize = 127;
/// How a process is known to have mapped this memory and no other.
const MARK: usize = 16;

/// A place for one call's path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slot(usize);

impl Slot {
    /// Where its path is, from the window's beginning on.
    pub(crate) fn path(&self) -> u64 {
        ((self.0 + 1) * SLOT) as u64
    }

    /// As above, for a `struct open_how`.
    pub(crate) fn how(&self) -> u64 {
        self.path() + PATH_MAX as u64
    }
}

#[derive(Debug)]
pub(crate) struct Window {
    memory: File,
    free: Vec<Slot>,
    mark: [u8; MARK],
}

impl Window {
    /// Its length in bytes.
    pub(crate) const SIZE: u64 = ((SLOTS + 1) * SLOT) as u64;
    /// As above, for what recognizes it.
    pub(crate) const MARK: usize = MARK;

    pub(crate) fn new() -> Result<Self, Error> {
        let memory = memory(c"terrarium-intercept", MFdFlags::MFD_CLOEXEC)?;
        let failed = |source| Error::Start { doing: "make memory for paths", source };
        memory.set_len(Self::SIZE).map_err(failed)?;
        let mark = std::array::from_fn(|_| fastrand::u8(..));
        memory.write_all_at(&mark, 0).map_err(failed)?;
        Ok(Self { memory, free: (0..SLOTS).rev().map(Slot).collect(), mark })
    }

    /// The path by which a process opens it.
    pub(crate) fn path(&self) -> String {
        path(&self.memory)
    }

    pub(crate) fn is_marked(&self, mark: &[u8; MARK]) -> bool {
        self.mark == *mark
    }

    pub(crate) fn take(&mut self) -> Option<Slot> {
        self.free.pop()
    }

    pub(crate) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    pub(crate) fn give_back(&mut self, slot: Slot) {
        self.free.push(slot);
    }

    /// Puts a path into a slot, and a `struct open_how` if there is one.
    pub(crate) fn fill(&self, slot: &Slot, path: &[u8], how: Option<&[u8; HOW]>) -> io::Result<()> {
        let mut path = path.to_vec();
        path.push(0);
        self.memory.write_all_at(&path, slot.path())?;
        how.map_or(Ok(()), |how| self.memory.write_all_at(how, slot.how()))
    }
}

fn memory(name: &std::ffi::CStr, flags: MFdFlags) -> Result<File, Error> {
    let fd: OwnedFd = memfd_create(name, flags).map_err(Error::start("make a file in memory"))?;
    Ok(File::from(fd))
}

fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// A file that a rule makes. Nobody can change it, so that one is enough for all who open it.
#[derive(Debug)]
pub(crate) struct Made(File);

impl Made {
    pub(crate) fn new(content: &[u8]) -> Result<Self, Error> {
        let file = memory(c"terrarium-file", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let failed = |source| Error::Start { doing: "fill a file in memory", source };
        file.write_all_at(content, 0).map_err(failed)?;
        fchmod(&file, Mode::from_bits_truncate(0o444)).map_err(Error::start("set the mode of a file in memory"))?;
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(Error::start("seal a file in memory"))?;
        Ok(Self(file))
    }

    /// The path by which a process opens it.
    pub(crate) fn path(&self) -> String {
        path(&self.0)
    }
}
