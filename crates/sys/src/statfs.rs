//! statfs(2), with the answer as the kernel writes it.

use std::ffi::CStr;
use std::io;

/// `struct statfs`, word by word; the first one is the type of the file system.
pub type Statfs = [u64; size_of::<libc::statfs>() / 8];

/// What the kernel tells of the file system at the path.
pub fn statfs(path: &CStr) -> io::Result<Statfs> {
    let mut told = Statfs::default();
    // SAFETY: the path ends, and the kernel writes as many bytes as `told` has, which outlives the call.
    match unsafe { libc::syscall(libc::SYS_statfs, path.as_ptr(), told.as_mut_ptr()) } {
        0 => Ok(told),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_the_type() {
        assert_eq!(statfs(c"/proc/self/fd").expect("it is there")[0], libc::PROC_SUPER_MAGIC.cast_unsigned());
        assert_eq!(statfs(c"/nowhere/of/this/test").expect_err("it is not there").raw_os_error(), Some(libc::ENOENT));
    }
}
