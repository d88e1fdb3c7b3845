//! overlayfs, with its upper layer on the file systems that a cluster would use.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use terrarium_gaps::Tried;

use crate::failure::{Doing as _, Failure};
use crate::scratch::{Scratch, mount, nearest_existing, unmount};

/// The beginning of the names of what a probe makes on the data directory's file system.
const NAME: &str = ".terrarium-probe-";

/// An upper layer on a tmpfs.
pub(crate) fn on_tmpfs(scratch: &Scratch) -> Tried {
    let try_it = || {
        let dir = scratch.dir("overlay")?;
        works_in(&dir, &dir)
    };
    try_it().into()
}

/// An upper layer on the file system of the data directory, which need not exist yet.
pub(crate) fn on_data_dir(data_dir: &Path, scratch: &Scratch) -> Tried {
    let try_it = || {
        let merged = scratch.dir("overlay-on-data-dir")?;
        let parent = nearest_existing(data_dir);
        sweep(&parent);
        let layers = Temporary::make(&parent)?;
        works_in(&layers.path, &merged)
    };
    try_it().into()
}

/// The directories that an overlay is made of.
pub(crate) struct Layers {
    /// What can be written.
    pub upper: PathBuf,
    /// Where all layers are seen as one.
    pub merged: PathBuf,
    work: PathBuf,
}

impl Layers {
    /// Makes the directories, all in this one.
    pub fn make(dir: &Path) -> Result<Self, Failure> {
        Self::make_in(dir, dir)
    }

    fn make_in(layers: &Path, merged: &Path) -> Result<Self, Failure> {
        let made = Self { upper: layers.join("upper"), merged: merged.join("merged"), work: layers.join("work") };
        for dir in [&made.upper, &made.merged, &made.work] {
            fs::create_dir(dir).doing("make a directory for the overlay")?;
        }
        Ok(made)
    }

    /// Mounts the overlay over this lower layer.
    pub fn mount_over(&self, lower: &Path) -> Result<(), Failure> {
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), self.upper.display(), self.work.display());
        mount("overlay", &self.merged, &options).doing("mount an overlay")
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        unmount(&self.merged);
    }
}

/// What containerd's snapshotter and containers do to an overlay: read, write, and remove what a lower layer has,
/// which leaves a whiteout (a device of its own kind) in the upper one.
fn works_in(layers: &Path, merged: &Path) -> Result<(), Failure> {
    let lower = layers.join("lower");
    fs::create_dir(&lower).doing("make a directory for the overlay")?;
    for file in ["kept", "removed"] {
        fs::write(lower.join(file), "lower").doing("write a file of the lower layer")?;
    }
    let layers = Layers::make_in(layers, merged)?;
    layers.mount_over(&lower)?;
    let merged = &layers.merged;
    fs::write(merged.join("new"), "upper").doing("write a file through the overlay")?;
    fs::write(merged.join("kept"), "upper").doing("write a file of the lower layer through the overlay")?;
    fs::remove_file(merged.join("removed")).doing("remove a file of the lower layer through the overlay")?;
    let seen = fs::read_to_string(merged.join("kept")).doing("read a file through the overlay")?;
    if seen != "upper" || merged.join("removed").exists() {
        return Err(Failure::new("the overlay does not show what was changed through it"));
    }
    Ok(())
}

/// A directory that is removed when it goes out of scope. Whoever made it holds a lock on it, so that others can tell
/// one that is in use from one that a killed probe left.
struct Temporary {
    path: PathBuf,
    _lock: File,
}

impl Temporary {
    fn make(parent: &Path) -> Result<Self, Failure> {
        let path = parent.join(format!("{NAME}{}", std::process::id()));
        fs::create_dir(&path).doing(&format!("make a directory in {}", parent.display()))?;
        let lock = File::open(&path).doing("open a new directory")?;
        // A file system without locks: the worst is that another probe at the same time sweeps the directory away.
        let _ = lock.try_lock();
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes what killed probes left.
fn sweep(parent: &Path) {
    for entry in parent.read_dir().into_iter().flatten().flatten() {
        let is_ours = |name: &OsStr| name.as_encoded_bytes().starts_with(NAME.as_bytes());
        if is_ours(&entry.file_name()) && File::open(entry.path()).is_ok_and(|dir| dir.try_lock().is_ok()) {
            remove(&entry.path());
        }
    }
}

fn remove(path: &Path) {
    // overlayfs makes a directory in its work directory that its owner cannot even list.
    let _ = fs::set_permissions(path.join("work/work"), Permissions::from_mode(0o700));
    let _ = fs::remove_dir_all(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_probe_and_a_leftover_with_the_next() {
        let parent = tempfile::tempdir().unwrap();
        let leftover = parent.path().join(format!("{NAME}1"));
        fs::create_dir_all(leftover.join("work/work")).unwrap();
        fs::set_permissions(leftover.join("work/work"), Permissions::from_mode(0o000)).unwrap();
        fs::write(parent.path().join("theirs"), "").unwrap();

        let ours = Temporary::make(parent.path()).unwrap();
        sweep(parent.path());
        assert!(!leftover.exists());
        assert!(ours.path.exists(), "one in use stays");
        drop(ours);
        let left: Vec<_> = parent.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["theirs"]);
    }
}
