//! Removing a sandbox: processes first, then the network, then files.
//!
//! Files go last and only when no process of the sandbox is left and nothing is mounted below them. testbed itself mounts
//! nothing there (runsc's binds live in its own mount namespace and die with it), so a mount means that somebody else is
//! at work, and removing through it could destroy what it leads to.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    error::{Error, IoContext, Result},
    gvisor::root_flag,
    process::kill_runsc_with,
    record::{Files, Record},
};

/// Longer than a busy host needs to end a killed process.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends and removes all of a sandbox but its record's directory.
pub(crate) fn remove(directory: &Path, record: Option<&Record>, disk: &Path) -> Result<()> {
    let mut problems = Vec::new();
    let left = kill_runsc_with(&root_flag(&Files(directory).root()), PATIENCE);
    if !left.is_empty() {
        problems.push(format!("runsc processes {left:?} do not end"));
    }
    // Another boot's links are gone, and their names may be someone else's now.
    if let Some(record) = record.filter(|record| record.is_of_this_boot()) {
        problems.extend(record.slot.delete());
    }
    if problems.is_empty()
        && let Err(error) = remove_tree(disk)
    {
        problems.push(error.to_string());
    }
    if problems.is_empty() {
        return Ok(());
    }
    let id = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Err(Error::Leftovers { id, problems })
}

/// Removes a directory tree unless something is mounted in it; one that is not there is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").io("read", "/proc/self/mountinfo")?;
    if let Some(mount) = mount_below(&mounts, path) {
        let busy = io::Error::new(io::ErrorKind::ResourceBusy, format!("{} is mounted there", mount.display()));
        return Err(busy).io("remove", path);
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.io("remove", path),
    }
}

/// The first mount point at or below `path`. `mountinfo` is as in proc(5): the fifth field, space as `\040`.
fn mount_below(mountinfo: &str, path: &Path) -> Option<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(|point| PathBuf::from(point.replace("\\040", " "))).find(|point| point.starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_below_is_seen() {
        let table = "22 1 8:1 / / rw - ext4 /dev/vda rw\n30 22 0:5 / /a/b\\040c/proc rw - proc proc rw\n";
        assert_eq!(mount_below(table, Path::new("/a/b c")), Some("/a/b c/proc".into()));
        assert_eq!(mount_below(table, Path::new("/a/b")), None);
    }

    #[test]
    fn nothing_to_remove_is_fine() {
        assert!(remove_tree(Path::new("/nowhere/of/this/test")).is_ok());
    }
}
