//! System calls by name and architecture.
//!
//! `syscalls.csv` has the numbers of the kernel's tables (`arch/x86/entry/syscalls`), up to number 471; x32's without the
//! bit that marks them.

use std::collections::HashMap;

/// x32 calls come under the architecture of x86-64, with this bit in the number.
pub const X32_BIT: u32 = 1 << 30;

/// An architecture that processes on an x86-64 kernel can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    X86,
    X32,
}

impl Arch {
    /// What the kernel calls it (`AUDIT_ARCH_*`, linux/audit.h): x32 and x86-64 are one to it.
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
        }
    }

    /// Whether libseccomp compares whole arguments, or only their lower halves.
    pub fn has_wide_arguments(self) -> bool {
        self == Self::X86_64
    }
}

/// Where a call of some name arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The number, x32's with [`X32_BIT`].
    pub number: u32,
    /// The first argument that makes a multiplexer (socketcall(2), ipc(2)) do this.
    pub multiplexed: Option<u32>,
}

/// The numbers of all calls, by name.
pub struct Table(HashMap<&'static str, [Option<u32>; 3]>);

impl Table {
    /// Reads the table, which is part of the program.
    pub fn read() -> Self {
        let rows = include_str!("syscalls.csv").lines().skip(1).filter_map(|row| {
            let (name, numbers) = row.split_once(',')?;
            let mut numbers = numbers.split(',').map(|number| number.parse().ok());
            Some((name, std::array::from_fn(|_| numbers.next().flatten())))
        });
        Self(rows.collect())
    }

    /// Whether any architecture has a call of this name.
    pub fn knows(&self, name: &str) -> bool {
        self.0.contains_key(name) || multiplexed(name).is_some()
    }

    /// Where a call arrives on an architecture: nowhere, or at up to two places on x86, where some calls have a number of
    /// their own and are also reached through a multiplexer.
    pub fn entries(&self, name: &str, arch: Arch) -> impl Iterator<Item = Entry> {
        let numbers = self.0.get(name).copied().unwrap_or_default();
        let direct = match arch {
            Arch::X86_64 => numbers[0],
            Arch::X86 => numbers[1],
            Arch::X32 => numbers[2].map(|number| number | X32_BIT),
        };
        let through = multiplexed(name).filter(|_| arch == Arch::X86).and_then(|(multiplexer, operation)| {
            Some(Entry { number: self.0.get(multiplexer)?[1]?, multiplexed: Some(operation) })
        });
        direct.map(|number| Entry { number, multiplexed: None }).into_iter().chain(through)
    }
}

/// The multiplexer that does a call on x86, and the operation's number (linux/net.h, linux/ipc.h).
fn multiplexed(name: &str) -> Option<(&'static str, u32)> {
    const SOCKETCALL: &[&str] = &[
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC: &[(&str, u32)] = &[
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ];
    let socketcall = (1..).zip(SOCKETCALL).find(|(_, call)| **call == name);
    if let Some((operation, _)) = socketcall {
        return Some(("socketcall", operation));
    }
    IPC.iter().find(|(call, _)| *call == name).map(|(_, operation)| ("ipc", *operation))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(name: &str, arch: Arch) -> Vec<(u32, Option<u32>)> {
        Table::read().entries(name, arch).map(|entry| (entry.number, entry.multiplexed)).collect()
    }

    #[test]
    fn a_call_has_its_architectures_number() {
        assert_eq!(numbers("openat", Arch::X86_64), [(257, None)]);
        assert_eq!(numbers("openat", Arch::X86), [(295, None)]);
        assert_eq!(numbers("ioctl", Arch::X32), [(X32_BIT | 514, None)]);
        assert_eq!(numbers("waitpid", Arch::X86_64), []);
    }

    #[test]
    fn sockets_and_ipc_have_two_doors_on_x86() {
        assert_eq!(numbers("socket", Arch::X86), [(359, None), (102, Some(1))]);
        assert_eq!(numbers("accept", Arch::X86), [(102, Some(5))]);
        assert_eq!(numbers("sendmmsg", Arch::X86), [(345, None), (102, Some(20))]);
        assert_eq!(numbers("semop", Arch::X86), [(117, Some(1))]);
        assert_eq!(numbers("socket", Arch::X86_64), [(41, None)]);
    }

    #[test]
    fn a_name_is_known_where_any_architecture_has_it() {
        let table = Table::read();
        assert!(table.knows("waitpid") && table.knows("send") && table.knows("clone3"));
        assert!(!table.knows("arm_fadvise64_64") && !table.knows("name"));
    }

    #[test]
    fn every_row_has_a_number() {
        let table = Table::read();
        assert!(table.0.len() > 450);
        assert!(table.0.values().all(|numbers| numbers.iter().any(Option::is_some)));
    }
}
