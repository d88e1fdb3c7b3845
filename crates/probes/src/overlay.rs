//! overlayfs, with its upper layer on the file systems that a cluster would use.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
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
    dir: File,
}

impl Temporary {
    fn make(parent: &Path) -> Result<Self, Failure> {
        let path = parent.join(format!("{NAME}{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.doing(&format!("make a directory in {}", parent.display()))?;
        let dir = open_own(CWD, &path, OFlags::RDONLY).doing("open a new directory")?;
        // A file system without locks: the worst is that another probe at the same time sweeps the directory away.
        let _ = dir.try_lock();
        Ok(Self { path, dir })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        remove(&self.dir, &self.path);
    }
}

/// Removes what killed probes left. The parent may be a directory where everybody may put links, pipes and directories
/// under the name of ours, such as /tmp: those are left alone.
fn sweep(parent: &Path) {
    for entry in parent.read_dir().into_iter().flatten().flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(NAME.as_bytes()) {
            continue;
        }
        let path = entry.path();
        if let Ok(dir) = open_own(CWD, &path, OFlags::RDONLY)
            && dir.try_lock().is_ok()
        {
            remove(&dir, &path);
        }
    }
}

/// Opens a directory of this user's own, and nothing else: no link to one, and no pipe, which would be waited for.
fn open_own(at: impl AsFd, path: &Path, access: OFlags) -> io::Result<File> {
    let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let dir = File::from(openat(at, path, flags, Mode::empty())?);
    if dir.metadata()?.uid() == nix::unistd::geteuid().as_raw() {
        Ok(dir)
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// Removes what a probe makes in its directory, and then the directory, unless it holds anything else. What is in it is
/// reached through the open directory, whatever its path leads to by now.
fn remove(dir: &File, path: &Path) {
    // overlayfs makes a directory in its work directory that its owner cannot even list, nor open but as a path.
    let made_by_overlayfs = open_own(dir, Path::new("work"), OFlags::RDONLY)
        .and_then(|work| open_own(&work, Path::new("work"), OFlags::PATH));
    if let Ok(made_by_overlayfs) = made_by_overlayfs {
        let _ = fs::set_permissions(by_descriptor(&made_by_overlayfs), Permissions::from_mode(0o700));
    }
    for name in ["lower", "upper", "merged", "work"] {
        let _ = fs::remove_dir_all(by_descriptor(dir).join(name));
    }
    let _ = fs::remove_dir(path);
}

/// The name of what is open, whatever is at the path by which it was opened.
fn by_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_planted_under_the_name_is_followed_or_removed() {
        let root = tempfile::tempdir().unwrap();
        let [parent, theirs] = ["parent", "theirs"].map(|name| root.path().join(name));
        fs::create_dir_all(theirs.join("work/work")).unwrap();
        let victim = theirs.join("work/file");
        fs::write(&victim, "kept").unwrap();
        fs::set_permissions(&victim, Permissions::from_mode(0o644)).unwrap();
        let planted = |number: u32| parent.join(format!("{NAME}{number}"));

        fs::create_dir_all(planted(1).join("work")).unwrap();
        symlink(&victim, planted(1).join("work/work")).unwrap();
        fs::create_dir_all(planted(2)).unwrap();
        symlink(theirs.join("work"), planted(2).join("work")).unwrap();
        symlink(&theirs, planted(3)).unwrap();
        nix::unistd::mkfifo(&planted(4), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::create_dir_all(planted(5).join("what/no/probe/makes")).unwrap();
        fs::create_dir_all(planted(6).join("work")).unwrap();
        // Only root can give a directory away.
        let has_foreign = chown(planted(6), Some(65534), None).is_ok();

        let (done, is_done) = mpsc::channel();
        let swept = parent.clone();
        thread::spawn(move || {
            sweep(&swept);
            let _ = done.send(());
        });
        is_done.recv_timeout(Duration::from_secs(10)).expect("a pipe is not waited for");

        assert_eq!(fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        assert!(theirs.join("work/work").exists());
        let left = |number: u32| planted(number).symlink_metadata().is_ok();
        assert_eq!([1, 2, 3, 4, 5, 6].map(left), [false, false, true, true, true, has_foreign]);
        assert_eq!(planted(6).join("work").exists(), has_foreign);
    }

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
