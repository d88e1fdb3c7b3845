//! The socket options of legacy ip_tables: `IPT_SO_GET_INFO`, `IPT_SO_GET_ENTRIES` and `IPT_SO_SET_REPLACE` on a raw
//! IPv4 socket, as laid out in Linux's `include/uapi/linux/netfilter_ipv4/ip_tables.h` and accepted by gVisor's
//! `pkg/sentry/socket/netfilter`.
//!
//! These are wrapped one by one and not as a general `setsockopt`: `struct ipt_replace` carries a pointer that the
//! kernel writes through, so a wrapper that takes any bytes could not be safe.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Hooks of the IP layer, in the kernel's order: prerouting, input, forward, output, postrouting.
pub const HOOKS: usize = 5;

const NAME_LEN: usize = 32; // XT_TABLE_MAXNAMELEN
const IPT_SO_SET_REPLACE: i32 = 64;
const IPT_SO_GET_INFO: i32 = 64;
const IPT_SO_GET_ENTRIES: i32 = 65;

const INFO_LEN: usize = NAME_LEN + 4 * (1 + 2 * HOOKS + 2);
/// `struct ipt_get_entries` up to its entries: name, size, four bytes of padding.
const GET_ENTRIES_HEADER: usize = NAME_LEN + 8;
/// `struct xt_counters`: packets and bytes, eight bytes each.
const COUNTERS_LEN: usize = 16;

/// The name of a table, such as `nat`: shorter than 32 bytes, no NUL inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableName([u8; NAME_LEN]);

impl TableName {
    /// The table for network address translation.
    pub const NAT: Self = Self::constant(b"nat");
    /// The table for filtering.
    pub const FILTER: Self = Self::constant(b"filter");

    const fn constant(name: &[u8]) -> Self {
        let mut bytes = [0; NAME_LEN];
        let mut i = 0;
        while i < name.len() {
            bytes[i] = name[i];
            i += 1;
        }
        Self(bytes)
    }
}

/// Where things are in a table: `struct ipt_getinfo` without the name. All offsets are bytes from the first entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layout {
    /// One bit for each hook that the table has.
    pub valid_hooks: u32,
    /// Offset of each hook's first entry; meaningless for hooks that the table does not have.
    pub hook_entry: [u32; HOOKS],
    /// Offset of each hook's policy; meaningless for hooks that the table does not have.
    pub underflow: [u32; HOOKS],
    /// How many entries there are.
    pub num_entries: u32,
    /// Bytes that all entries take together.
    pub size: u32,
}

/// Asks for the layout of a table. The errors are the kernel's: `EPERM` without CAP_NET_ADMIN, `ENOPROTOOPT` where
/// there is no legacy ip_tables, `ENOENT` (Linux) or `EINVAL` (gVisor) for an unknown table.
pub fn info(socket: BorrowedFd<'_>, table: TableName) -> io::Result<Layout> {
    let mut buffer = [0; INFO_LEN];
    buffer[..NAME_LEN].copy_from_slice(&table.0);
    let written = getsockopt(socket, IPT_SO_GET_INFO, &mut buffer)?;
    if written < INFO_LEN {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "IPT_SO_GET_INFO answered too little"));
    }
    let word = |index: usize| {
        let at = NAME_LEN + 4 * index;
        u32::from_ne_bytes([buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]])
    };
    Ok(Layout {
        valid_hooks: word(0),
        hook_entry: std::array::from_fn(|hook| word(1 + hook)),
        underflow: std::array::from_fn(|hook| word(1 + HOOKS + hook)),
        num_entries: word(1 + 2 * HOOKS),
        size: word(2 + 2 * HOOKS),
    })
}

/// Reads the entries of a table: `size` bytes, as told by [`info`]. If the table has another size by now, the answer is
/// `EAGAIN`, but gVisor's is `EINVAL` if it has grown.
pub fn entries(socket: BorrowedFd<'_>, table: TableName, size: u32) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; GET_ENTRIES_HEADER + size as usize];
    buffer[..NAME_LEN].copy_from_slice(&table.0);
    buffer[NAME_LEN..NAME_LEN + 4].copy_from_slice(&size.to_ne_bytes());
    let written = getsockopt(socket, IPT_SO_GET_ENTRIES, &mut buffer)?;
    buffer.truncate(written);
    if buffer.len() < GET_ENTRIES_HEADER {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "IPT_SO_GET_ENTRIES answered too little"));
    }
    // Of a table that has become smaller gVisor gives what there is.
    if buffer.len() < GET_ENTRIES_HEADER + size as usize {
        return Err(io::Error::from_raw_os_error(libc::EAGAIN));
    }
    Ok(buffer.split_off(GET_ENTRIES_HEADER))
}

/// Replaces a whole table by `entries`, laid out as `layout` says. `replaced_entries` is how many entries the table
/// had: Linux answers `EAGAIN` if that is no longer so. The kernel checks everything it is handed and answers `EINVAL`
/// to what it cannot take; gVisor also does for a table larger than its limit for one option (8 KiB, later 32 KiB).
pub fn replace(
    socket: BorrowedFd<'_>,
    table: TableName,
    layout: &Layout,
    entries: &[u8],
    replaced_entries: u32,
) -> io::Result<()> {
    // The kernel writes the counters of the replaced entries here; Linux refuses a count that is not that of the table.
    let mut counters = vec![0u64; replaced_entries as usize * COUNTERS_LEN / size_of::<u64>()];
    let mut buffer = Vec::with_capacity(96 + entries.len());
    buffer.extend_from_slice(&table.0);
    for word in [layout.valid_hooks, layout.num_entries, layout.size] {
        buffer.extend_from_slice(&word.to_ne_bytes());
    }
    for word in layout.hook_entry.iter().chain(&layout.underflow).chain([&replaced_entries]) {
        buffer.extend_from_slice(&word.to_ne_bytes());
    }
    buffer.extend_from_slice(&counters.as_mut_ptr().expose_provenance().to_ne_bytes());
    buffer.extend_from_slice(entries);
    let length = libc::socklen_t::try_from(buffer.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `buffer` is live and `length` is its length. The only pointer inside is to `counters`, which outlives
    // the call and holds `replaced_entries` records, the number that the kernel is told and writes at most.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            IPT_SO_SET_REPLACE,
            buffer.as_ptr().cast::<c_void>(),
            length,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an ip_tables option into `buffer` and returns how many bytes the kernel wrote.
fn getsockopt(socket: BorrowedFd<'_>, name: i32, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length =
        libc::socklen_t::try_from(buffer.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `buffer` is live and writable for `length` bytes, and neither option of this module has the kernel
    // write anywhere else.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            name,
            buffer.as_mut_ptr().cast::<c_void>(),
            &raw mut length,
        )
    };
    if status == 0 { Ok((length as usize).min(buffer.len())) } else { Err(io::Error::last_os_error()) }
}
