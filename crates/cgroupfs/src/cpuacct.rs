//! Processor time by processor.
//!
//! gVisor counts a cgroup's time exactly, but not on which processor its tasks ran. The sum is divided evenly, what is
//! left over goes to the first ones: sums are true, single figures are not.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use crate::added::Added;
use crate::backing::number;

/// What a file says of a cgroup.
pub(crate) fn tell(file: Added, cgroup: &Path, processors: u64) -> io::Result<String> {
    let read = |name: &str| number(&cgroup.join(name));
    Ok(match file {
        Added::UsagePerCpuUser => row(read("cpuacct.usage_user")?, processors),
        Added::UsagePerCpuSystem => row(read("cpuacct.usage_sys")?, processors),
        Added::UsageAll => table(read("cpuacct.usage_user")?, read("cpuacct.usage_sys")?, processors),
        _ => row(read("cpuacct.usage")?, processors),
    })
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
