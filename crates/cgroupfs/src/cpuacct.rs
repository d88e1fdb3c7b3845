//! Processor time.
//!
//! gVisor counts a cgroup's time exactly, but not on which processor its tasks ran. The sum is divided evenly, what is
//! left over goes to the first ones: sums are true, single figures are not. And gVisor forgets the time of a cgroup that is
//! removed, which with the kernel goes on counting for those above it: so it is kept here.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::ops::{Add, AddAssign};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::backing::number;

/// What gVisor counts, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Time {
    pub user: u64,
    pub system: u64,
}

impl Time {
    /// That of a cgroup and of those below it that are there.
    pub fn of(cgroup: &Path) -> io::Result<Self> {
        let read = |name: &str| number(&cgroup.join(name));
        Ok(Self { user: read("cpuacct.usage_user")?, system: read("cpuacct.usage_sys")? })
    }
}

impl Add for Time {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user.saturating_add(other.user), system: self.system.saturating_add(other.system) }
    }
}

impl AddAssign for Time {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// A tick of `cpuacct.stat`, of which there are 100 a second (USER_HZ), in nanoseconds.
const TICK: u64 = 10_000_000;

/// The files that tell time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    /// `cpuacct.stat`
    Ticks,
    /// `cpuacct.usage`
    All,
    /// `cpuacct.usage_user`
    User,
    /// `cpuacct.usage_sys`
    System,
    /// `cpuacct.usage_percpu`
    AllEach,
    /// `cpuacct.usage_percpu_user`
    UserEach,
    /// `cpuacct.usage_percpu_sys`
    SystemEach,
    /// `cpuacct.usage_all`
    Table,
}

/// What a file says of a cgroup with this time.
pub(crate) fn tell(file: Told, time: Time, processors: u64) -> String {
    let Time { user, system } = time;
    let all = user.saturating_add(system);
    match file {
        Told::Ticks => format!("user {}\nsystem {}\n", user / TICK, system / TICK),
        Told::All => format!("{all}\n"),
        Told::User => format!("{user}\n"),
        Told::System => format!("{system}\n"),
        Told::AllEach => row(all, processors),
        Told::UserEach => row(user, processors),
        Told::SystemEach => row(system, processors),
        Told::Table => table(user, system, processors),
    }
}

/// How many processors there are.
pub(crate) fn processors() -> io::Result<u64> {
    fs::read_to_string("/proc/cpuinfo").map(|text| listed(&text))
}

fn listed(cpuinfo: &str) -> u64 {
    (cpuinfo.lines().filter(|line| line.starts_with("processor")).count() as u64).max(1)
}

fn share(time: u64, processor: u64, processors: u64) -> u64 {
    time / processors + u64::from(processor < time % processors)
}

fn row(time: u64, processors: u64) -> String {
    let mut row = String::new();
    for processor in 0..processors {
        let _ = write!(row, "{} ", share(time, processor, processors));
    }
    row.push('\n');
    row
}

fn table(user: u64, system: u64, processors: u64) -> String {
    let mut table = "cpu user system\n".to_owned();
    for processor in 0..processors {
        let (user, system) = (share(user, processor, processors), share(system, processor, processors));
        let _ = writeln!(table, "{processor} {user} {system}");
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn files_are_as_the_kernel_writes_them() {
        assert_eq!(row(7, 2), "4 3 \n");
        assert_eq!(table(7, 2, 2), "cpu user system\n0 4 1\n1 3 1\n");
        let time = Time { user: 30_000_000, system: 20_000_001 };
        assert_eq!(tell(Told::Ticks, time, 2), "user 3\nsystem 2\n");
        assert_eq!(tell(Told::All, time, 2), "50000001\n");
        assert_eq!(tell(Told::AllEach, time, 2), "25000001 25000000 \n");
        assert_eq!(listed("processor\t: 0\nmodel name\t: processor\n\nprocessor\t: 1\n"), 2);
        assert_eq!(listed(""), 1);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_by_dividing(time: u64, processors in 1_u64..200) {
            let sum: u128 = (0..processors).map(|processor| u128::from(share(time, processor, processors))).sum();
            prop_assert_eq!(sum, u128::from(time));
        }
    }
}
