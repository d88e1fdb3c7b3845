//! Keeping this program's own file from those inside.
//!
//! A container whose program is `/proc/self/exe` executes the runtime, and may then open that file for writing
//! (CVE-2019-5736). So a program whose file can be written to at all executes a sealed copy of itself before it enters a
//! container.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt as _;

use rustix::fs::{MemfdFlags, SealFlags, StatVfsMountFlags};

use crate::Result;
use crate::error::Doing as _;

const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Executes a sealed copy of this program with the same arguments, unless this is one, or its file is on a read-only file
/// system.
pub(crate) fn protect() -> Result<()> {
    let own = File::open("/proc/self/exe").doing("open /proc/self/exe")?;
    let mounted = rustix::fs::fstatvfs(&own).doing("look at the file system of /proc/self/exe")?;
    if mounted.f_flag.contains(StatVfsMountFlags::RDONLY) || is_sealed(&own) {
        return Ok(());
    }
    let copy = sealed_copy(own).doing("make a sealed copy of this program")?;
    let text = |text: std::ffi::OsString| CString::new(text.into_vec()).map_err(io::Error::from);
    let args = std::env::args_os().map(text).collect::<io::Result<Vec<_>>>().doing("read the arguments")?;
    let env = std::env::vars_os()
        .map(|(name, value)| {
            let mut line = name;
            line.push("=");
            line.push(value);
            text(line)
        })
        .collect::<io::Result<Vec<_>>>()
        .doing("read the environment")?;
    let Err(error) = nix::unistd::fexecve(copy, &args, &env);
    Err(error).doing("execute a sealed copy of this program")
}

/// Only memory has seals.
fn is_sealed(file: &File) -> bool {
    rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS))
}

fn sealed_copy(mut own: File) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let create = |flags| rustix::fs::memfd_create("terrarium-oci", flags);
    // Linux since 6.3 wants to be told, and may refuse what is not (vm.memfd_noexec); others do not know the flag.
    let copy = match create(flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => create(flags)?,
        other => other?,
    };
    let mut copy = File::from(copy);
    io::copy(&mut own, &mut copy)?;
    rustix::fs::fcntl_add_seals(&copy, SEALS)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_copy_cannot_be_written_to() {
        let own = File::open("/proc/self/exe").expect("open");
        assert!(!is_sealed(&own));
        let mut copy = sealed_copy(own).expect("copy");
        assert!(is_sealed(&copy));
        assert!(copy.write_all(b"x").is_err());
        assert!(rustix::fs::ftruncate(&copy, 0).is_err());
    }
}
