//! Seccomp filters (seccomp(2)), which neither nix nor rustix installs.

use std::io;

/// One instruction of a classic BPF program, as the kernel reads it (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip if the comparison holds.
    pub jump_true: u8,
    /// How many to skip if it does not.
    pub jump_false: u8,
    /// The operand.
    pub operand: u32,
}

/// `SECCOMP_FILTER_FLAG_LOG`: what the filter does not allow is logged.
pub const LOG: u32 = 1 << 1;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`: no mitigation of Speculative Store Bypass for the sake of this filter.
pub const SPEC_ALLOW: u32 = 1 << 2;

/// Gives the calling thread a filter, for good. `flags` are [`LOG`] and [`SPEC_ALLOW`]; without any this is prctl(2),
/// which every kernel with filters has. `no_new_privs` is left as it is: without it the caller needs `CAP_SYS_ADMIN` in
/// its user namespace, otherwise the kernel says EACCES.
pub fn install(program: &[Instruction], flags: u32) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    let done = if flags == 0 {
        // SAFETY: `program` and the instructions it points to outlive the call. The kernel copies and checks them and
        // writes to neither; `Instruction` has the layout of `sock_filter`.
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0).into() }
    } else {
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) }
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_has_the_kernels_layout() {
        assert_eq!(size_of::<Instruction>(), size_of::<libc::sock_filter>());
        assert_eq!(align_of::<Instruction>(), align_of::<libc::sock_filter>());
        assert_eq!(std::mem::offset_of!(Instruction, operand), std::mem::offset_of!(libc::sock_filter, k));
    }

    #[test]
    fn an_empty_program_is_refused_by_the_kernel() {
        let error = install(&[], 0).expect_err("a filter without instructions");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
