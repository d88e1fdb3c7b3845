//! The sandbox's own cgroups.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The members of a cgroup, by their thread groups.
pub(crate) const MEMBERS: &str = "cgroup.procs";

/// The number in a file; -1, by which gVisor and users say "no limit", is the greatest.
pub(crate) fn number(path: &Path) -> io::Result<u64> {
    parse(&fs::read_to_string(path)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.starts_with('-') { text.parse::<i64>().ok().map(|_| u64::MAX) } else { text.parse().ok() }
}

/// The processes of a cgroup, without those below. They are sorted. Those that this one cannot see have no number.
pub(crate) fn members(cgroup: &Path) -> io::Result<Vec<i32>> {
    let text = fs::read_to_string(cgroup.join(MEMBERS))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect())
}

/// The cgroups right below one.
pub(crate) fn children(cgroup: &Path) -> io::Result<Vec<PathBuf>> {
    let mut children = Vec::new();
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

/// Writes all at once, as files of cgroups want it, into a file that exists.
pub(crate) fn write(path: &Path, data: &[u8]) -> io::Result<usize> {
    OpenOptions::new().write(true).open(path)?.write(data)
}

/// It was removed meanwhile.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_nothing_is_no_limit() {
        assert_eq!(parse("9223372036854775807\n"), Some(9_223_372_036_854_775_807));
        assert_eq!(parse("-1\n"), Some(u64::MAX));
        assert_eq!(parse("max\n"), None);
    }
}
