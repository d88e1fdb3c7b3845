//! Memory of a traced thread.

use std::io::{IoSlice, IoSliceMut};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

/// As long as a path may be, with its end.
pub(crate) const PATH_MAX: usize = 4096;
const PAGE: usize = 4096;

/// Reads a string up to its end; none if it has none within [`PATH_MAX`], or is not to be read.
pub(crate) fn read_string(pid: i32, address: u64) -> Option<Vec<u8>> {
    let mut at = usize::try_from(address).ok().filter(|at| *at != 0)?;
    let mut string = Vec::new();
    let mut page = [0; PAGE];
    while string.len() < PATH_MAX {
        // What is behind the end of a page may not be there.
        let length = PAGE - at % PAGE;
        let read = read_some(pid, at, &mut page[..length]).ok()?;
        if let Some(end) = page[..read].iter().position(|byte| *byte == 0) {
            string.extend_from_slice(&page[..end]);
            return (string.len() < PATH_MAX).then_some(string);
        }
        if read < length {
            return None;
        }
        string.extend_from_slice(&page[..read]);
        at += read;
    }
    None
}

/// Reads as many bytes as the array has.
pub(crate) fn read<const N: usize>(pid: i32, address: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let read = read_some(pid, usize::try_from(address).ok()?, &mut bytes).ok()?;
    (read == N).then_some(bytes)
}

fn read_some(pid: i32, base: usize, bytes: &mut [u8]) -> Result<usize, Errno> {
    let remote = [RemoteIoVec { base, len: bytes.len() }];
    process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(bytes)], &remote)
}

/// Writes these bytes where the thread itself may write; says whether that went well.
pub(crate) fn write(pid: i32, address: u64, bytes: &[u8]) -> bool {
    let Ok(base) = usize::try_from(address) else { return false };
    let remote = [RemoteIoVec { base, len: bytes.len() }];
    process_vm_writev(Pid::from_raw(pid), &[IoSlice::new(bytes)], &remote) == Ok(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_here(bytes: &[u8]) -> Option<Vec<u8>> {
        read_string(std::process::id().cast_signed(), bytes.as_ptr().addr() as u64)
    }

    #[test]
    fn strings_are_read_over_the_ends_of_pages() {
        let memory = vec![b'x'; 3 * PAGE];
        for length in [0, 1, 100, PAGE - 1] {
            let mut memory = memory.clone();
            memory[PAGE / 2 + length] = 0;
            assert_eq!(read_here(&memory[PAGE / 2..]), Some(vec![b'x'; length]), "{length}");
        }
        assert_eq!(read_here(&memory), None, "too long");
        assert_eq!(read_string(std::process::id().cast_signed(), 0), None);
        assert_eq!(read_string(std::process::id().cast_signed(), 8), None);
    }
}
