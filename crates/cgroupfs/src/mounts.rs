//! Mounting over a hierarchy, and taking off what an earlier server left there.

use std::fs;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{getgid, getuid};

use crate::Result;
use crate::error::Doing as _;

const DEVICE: &str = "/dev/fuse";
/// More servers than this cannot have died at one place without being noticed.
const MOST_LEFT: usize = 64;

/// Mounts FUSE on a directory, on top of what is there. All requests come through the file that is returned.
pub(crate) fn stack(point: &Path) -> Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE).doing("open", DEVICE)?;
    // The kernel checks modes and owners, by the attributes that the server tells.
    let options = format!(
        "fd={},rootmode=40755,user_id={},group_id={},default_permissions,allow_other",
        device.as_raw_fd(),
        getuid(),
        getgid()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("cgroup"), point, Some("fuse"), flags, Some(options.as_str())).doing("mount FUSE on", point)?;
    Ok(device.into())
}

/// Takes the topmost mount off, whoever uses it.
pub(crate) fn detach(point: &Path) -> Result<()> {
    umount2(point, MntFlags::MNT_DETACH).doing("unmount", point)
}

/// Takes off what earlier servers left: all that is FUSE, down to what is not. Returns how many.
pub(crate) fn detach_left(point: &Path) -> Result<usize> {
    const TABLE: &str = "/proc/self/mountinfo";
    for taken in 0..MOST_LEFT {
        let table = fs::read_to_string(TABLE).doing("read", TABLE)?;
        if topmost_kind(&table, point) != Some("fuse") {
            return Ok(taken);
        }
        detach(point)?;
    }
    Ok(MOST_LEFT)
}

/// The type of the file system that a path leads to, if it is a mount point: of several the last one that is listed.
fn topmost_kind<'a>(table: &'a str, point: &Path) -> Option<&'a str> {
    let kinds = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let at = unescape(left.split(' ').nth(4)?);
        (at == point).then(|| right.split(' ').next()).flatten()
    });
    kinds.last()
}

/// A path as the table has it: `\040` stands for a blank (proc_pid_mountinfo(5)).
fn unescape(field: &str) -> PathBuf {
    let mut path = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        path.push_str(before);
        let octal = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal.filter(u8::is_ascii) {
            Some(byte) => {
                path.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                path.push('\\');
                rest = after;
            }
        }
    }
    path.push_str(rest);
    path.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "\
31 20 0:28 / /sys/fs/cgroup rw - tmpfs none rw,mode=755
32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup none rw,memory
33 32 0:30 / /sys/fs/cgroup/memory rw shared:7 - fuse cgroup rw,fd=3
34 31 0:31 / /sys/fs/cgroup/cpu\\040set rw - cgroup none rw,cpu";

    #[test]
    fn the_topmost_mount_is_the_last_one() {
        assert_eq!(topmost_kind(TABLE, Path::new("/sys/fs/cgroup/memory")), Some("fuse"));
        assert_eq!(topmost_kind(TABLE, Path::new("/sys/fs/cgroup/cpu set")), Some("cgroup"));
        assert_eq!(topmost_kind(TABLE, Path::new("/sys/fs/cgroup/pids")), None);
    }

    proptest! {
        #[test]
        fn any_table_can_be_read(table in "[ -~\\n]*", point in "/[ -~]*") {
            topmost_kind(&table, Path::new(&point));
        }

        #[test]
        fn escaped_paths_come_back(path in "/[ -~]{0,20}") {
            let escaped: String = path.bytes().map(|byte| format!("\\{byte:03o}")).collect();
            prop_assert_eq!(unescape(&escaped), PathBuf::from(path));
        }
    }
}
