//! The sandbox's own cgroups.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// The members of a cgroup, by their thread groups.
pub(crate) const MEMBERS: &str = "cgroup.procs";

/// All that an open file says. Such files say all at once: what is shorter than what was asked for is the whole, and no
/// call is spent on asking once more.
pub(crate) fn read_open(file: &File) -> io::Result<Vec<u8>> {
    let mut content = vec![0; 4096];
    let mut length = 0;
    loop {
        let asked = content.len() - length;
        let got = file.read_at(&mut content[length..], length as u64)?;
        length += got;
        if got < asked {
            content.truncate(length);
            return Ok(content);
        }
        content.resize(length * 2, 0);
    }
}

/// All that a file says.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    String::from_utf8(read_open(&File::open(path)?)?).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The number in a file; -1, by which gVisor and users say "no limit", is the greatest.
pub(crate) fn number(path: &Path) -> io::Result<u64> {
    parse(&read(path)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.starts_with('-') { text.parse::<i64>().ok().map(|_| u64::MAX) } else { text.parse().ok() }
}

/// The processes of a cgroup, without those below. They are sorted. Those that this one cannot see have no number.
pub(crate) fn members(cgroup: &Path) -> io::Result<Vec<i32>> {
    let text = read(&cgroup.join(MEMBERS))?;
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
    fn long_files_are_read_in_full() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("procs");
        for length in [0, 1, 4095, 4096, 4097, 20_000] {
            fs::write(&path, "7".repeat(length)).unwrap();
            assert_eq!(read(&path).unwrap().len(), length);
        }
    }

    #[test]
    fn less_than_nothing_is_no_limit() {
        assert_eq!(parse("9223372036854775807\n"), Some(9_223_372_036_854_775_807));
        assert_eq!(parse("-1\n"), Some(u64::MAX));
        assert_eq!(parse("max\n"), None);
    }
}
