//! What is mounted, by `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// The directory of the file system that is seen at the mount point.
    pub root: PathBuf,
    pub point: PathBuf,
    /// The type of the file system.
    pub kind: &'a str,
    /// The options of the file system, not of the mount.
    pub options: &'a str,
}

/// All lines that can be read.
pub(crate) fn parse(mountinfo: &str) -> impl Iterator<Item = Line<'_>> {
    mountinfo.lines().filter_map(line)
}

fn line(line: &str) -> Option<Line<'_>> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
    let mut fields = file_system.split(' ');
    Some(Line { root, point, kind: fields.next()?, options: fields.nth(1)? })
}

/// Space, tab, newline and backslash are octal there.
fn unescape(field: &str) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        match octal.and_then(|octal| u8::from_str_radix(str::from_utf8(octal).ok()?, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&plain))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_line_is_read_whatever_its_optional_fields() {
        let text = "2 1 0:2 /a\\040b /c\\134d rw shared:1 master:2 - cgroup2 none rw,nsdelegate\nnothing\n";
        let lines: Vec<_> = parse(text).collect();
        let expected =
            Line { root: "/a b".into(), point: Path::new("/c\\d").into(), kind: "cgroup2", options: "rw,nsdelegate" };
        assert_eq!(lines, [expected]);
    }
}
