//! The system calls that can be intercepted, and where their arguments are.

use nix::libc;
use terrarium_sys::trace::Registers;

/// A system call by what is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Takes a path; rules of paths are about it.
    Path(PathCall),
    /// statfs(2).
    Statfs,
    /// fstatfs(2).
    Fstatfs,
    /// uname(2).
    Uname,
    /// Changes what an absolute path means to the process.
    Root,
}

/// What a call does with the file at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Open,
    Stat,
    Access,
    ReadLink,
}

/// Where a call says how it treats a link at the path's end, and more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flags {
    /// Nowhere: these always hold.
    Always(i32),
    /// In this argument.
    Argument(usize),
    /// In the `struct open_how` that this argument points to.
    How(usize),
}

/// A call with a path: which argument is what, from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PathCall {
    pub(crate) deed: Deed,
    pub(crate) directory: Option<usize>,
    pub(crate) path: usize,
    pub(crate) flags: Flags,
    /// Of access(2) and its like: what is asked for.
    pub(crate) mode: Option<usize>,
    /// The call that does the same, but follows a link at the path's end, if that is not in the flags.
    pub(crate) following: Option<i64>,
}

/// A row of [`CALLS`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) number: i64,
    pub(crate) kind: Kind,
}

const fn path(deed: Deed, path: usize, flags: Flags) -> PathCall {
    let directory = if path == 0 { None } else { Some(path - 1) };
    PathCall { deed, directory, path, flags, mode: None, following: None }
}

const fn access(path_at: usize, flags: Flags) -> Kind {
    Kind::Path(PathCall { mode: Some(path_at + 1), ..path(Deed::Access, path_at, flags) })
}

const LSTAT: PathCall =
    PathCall { following: Some(libc::SYS_stat), ..path(Deed::Stat, 0, Flags::Always(libc::AT_SYMLINK_NOFOLLOW)) };
const CREAT: i32 = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
const NO_FOLLOW: Flags = Flags::Always(libc::AT_SYMLINK_NOFOLLOW);

#[rustfmt::skip]
pub(crate) const CALLS: &[Call] = &[
    Call { name: "open", number: libc::SYS_open, kind: Kind::Path(path(Deed::Open, 0, Flags::Argument(1))) },
    Call { name: "stat", number: libc::SYS_stat, kind: Kind::Path(path(Deed::Stat, 0, Flags::Always(0))) },
    Call { name: "lstat", number: libc::SYS_lstat, kind: Kind::Path(LSTAT) },
    Call { name: "access", number: libc::SYS_access, kind: access(0, Flags::Always(0)) },
    Call { name: "uname", number: libc::SYS_uname, kind: Kind::Uname },
    Call { name: "creat", number: libc::SYS_creat, kind: Kind::Path(path(Deed::Open, 0, Flags::Always(CREAT))) },
    Call { name: "readlink", number: libc::SYS_readlink, kind: Kind::Path(path(Deed::ReadLink, 0, NO_FOLLOW)) },
    Call { name: "statfs", number: libc::SYS_statfs, kind: Kind::Statfs },
    Call { name: "fstatfs", number: libc::SYS_fstatfs, kind: Kind::Fstatfs },
    Call { name: "pivot_root", number: libc::SYS_pivot_root, kind: Kind::Root },
    Call { name: "chroot", number: libc::SYS_chroot, kind: Kind::Root },
    Call { name: "openat", number: libc::SYS_openat, kind: Kind::Path(path(Deed::Open, 1, Flags::Argument(2))) },
    Call { name: "newfstatat", number: libc::SYS_newfstatat, kind: Kind::Path(path(Deed::Stat, 1, Flags::Argument(3))) },
    Call { name: "readlinkat", number: libc::SYS_readlinkat, kind: Kind::Path(path(Deed::ReadLink, 1, NO_FOLLOW)) },
    Call { name: "faccessat", number: libc::SYS_faccessat, kind: access(1, Flags::Always(0)) },
    Call { name: "statx", number: libc::SYS_statx, kind: Kind::Path(path(Deed::Stat, 1, Flags::Argument(2))) },
    Call { name: "openat2", number: libc::SYS_openat2, kind: Kind::Path(path(Deed::Open, 1, Flags::How(2))) },
    Call { name: "faccessat2", number: libc::SYS_faccessat2, kind: access(1, Flags::Argument(3)) },
];

/// The call of this number.
pub(crate) fn by_number(number: i64) -> Option<(usize, &'static Call)> {
    CALLS.iter().enumerate().find(|(_, call)| call.number == number)
}

/// A set of [`CALLS`], by their places there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Set(u32);

impl Set {
    /// Those for which this holds.
    pub(crate) fn of(holds: impl Fn(&Call) -> bool) -> Self {
        let mut set = Self::default();
        for (index, _) in CALLS.iter().enumerate().filter(|(_, call)| holds(call)) {
            set.0 |= 1 << index;
        }
        set
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn has(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }

    /// The numbers of the calls.
    pub(crate) fn numbers(self) -> impl Iterator<Item = i64> {
        CALLS.iter().enumerate().filter(move |(index, _)| self.has(*index)).map(|(_, call)| call.number)
    }
}

/// An argument of the call at which a thread has stopped.
pub(crate) fn argument(registers: &Registers, index: usize) -> u64 {
    match index {
        0 => registers.rdi,
        1 => registers.rsi,
        2 => registers.rdx,
        3 => registers.r10,
        4 => registers.r8,
        _ => registers.r9,
    }
}

/// Changes it.
pub(crate) fn set_argument(registers: &mut Registers, index: usize, value: u64) {
    *match index {
        0 => &mut registers.rdi,
        1 => &mut registers.rsi,
        2 => &mut registers.rdx,
        3 => &mut registers.r10,
        4 => &mut registers.r8,
        _ => &mut registers.r9,
    } = value;
}

/// Gives them their values of before.
pub(crate) fn restore_arguments(registers: &mut Registers, before: &Registers) {
    for index in 0..6 {
        set_argument(registers, index, argument(before, index));
    }
    registers.orig_rax = before.orig_rax;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_there_once_and_in_the_order_of_numbers_but_for_new_ones() {
        let mut numbers: Vec<i64> = CALLS.iter().map(|call| call.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), CALLS.len());
        assert!(CALLS.len() <= 32, "a set has 32 places");
    }

    #[test]
    fn a_set_has_the_numbers_of_its_calls() {
        let set = Set::of(|call| call.name.starts_with("statfs")).union(Set::of(|call| call.name == "uname"));
        assert_eq!(set.numbers().collect::<Vec<_>>(), [libc::SYS_uname, libc::SYS_statfs]);
    }
}
