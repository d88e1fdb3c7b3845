//! Programs that say which devices the processes of a cgroup may use (bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// One instruction, as the kernel reads it (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u8,
    /// The register that is written in its lower half, the one that is read in its upper.
    pub registers: u8,
    /// How many instructions to skip, or where to read.
    pub offset: i16,
    /// The operand.
    pub operand: i32,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
/// Cgroups below may have programs of their own: a device is usable if all of them allow it.
const ALLOW_MULTI: u32 = 2;

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Asks a program about every device that a process of this cgroup (version 2) or of those below it wants to use. It stays
/// as long as the cgroup.
///
/// # Errors
/// The kernel refuses the program, has no such programs, or the caller has no `CAP_BPF` and `CAP_NET_ADMIN`.
pub fn restrict_devices(cgroup: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let license = c"Apache-2.0";
    let mut load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        instructions: program.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `load` has the layout of the call's attributes and its size is given. The instructions and the license that
    // it points to outlive the call, which copies and checks them and writes to none of it.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut load, size_of::<Load>()) };
    let loaded = i32::try_from(loaded).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor, for this process, and nobody else knows it.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let mut attach = Attach {
        target: cgroup.as_raw_fd().cast_unsigned(),
        program: loaded.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: as above; no pointers in it, and both descriptors are open.
    let attached = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw mut attach, size_of::<Attach>()) };
    if attached == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn attributes_have_the_kernels_layout() {
        assert_eq!((size_of::<Instruction>(), size_of::<Load>(), size_of::<Attach>()), (8, 48, 16));
        assert_eq!(std::mem::offset_of!(Load, kernel_version), 40);
    }

    #[test]
    fn an_empty_program_is_refused_by_the_kernel() {
        let not_a_cgroup = std::fs::File::open("/").expect("open the root");
        let error = restrict_devices(not_a_cgroup.as_fd(), &[]).expect_err("a program without instructions");
        match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EPERM) => {
                eprintln!("skipped: this kernel takes no programs of this user: {error}")
            }
            // Anything else would be wrong with the attributes.
            told => assert_eq!(told, Some(libc::E2BIG), "{error}"),
        }
    }
}
