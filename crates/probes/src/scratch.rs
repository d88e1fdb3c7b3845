//! A mount namespace of this process's own, and a tmpfs in it on which the probes mount and write what they like.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

use crate::failure::{Doing as _, Failure};

/// Directories that every machine has and no probe looks into, over one of which the tmpfs is mounted.
const COVERED: &[&str] = &["/mnt", "/media", "/srv", "/opt", "/home", "/tmp", "/var/tmp", "/run"];

/// Where probes may mount and write; they fail with the reason where no place can be had.
#[derive(Debug)]
pub(crate) struct Scratch(Result<PathBuf, Failure>);

impl Scratch {
    /// None, for this reason.
    pub fn none(why: Failure) -> Self {
        Self(Err(why))
    }

    /// Moves this process into a mount namespace of its own and mounts a tmpfs that is seen only there, not over
    /// `spared`. Call it before the process has a second thread.
    pub fn in_new_namespace(spared: &Path) -> Result<Self, Failure> {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).doing("make a mount namespace")?;
        Self::in_this_namespace(spared)
    }

    /// The same in a mount namespace that is this process's own already.
    pub fn in_this_namespace(spared: &Path) -> Result<Self, Failure> {
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).doing("make the mounts private")?;
        let spared = nearest_existing(spared);
        let covered = covered(&spared).ok_or_else(|| Failure::new("no directory to mount a tmpfs on"))?;
        mount("tmpfs", covered, "mode=0700,size=16m").doing("mount a tmpfs")?;
        Ok(Self(Ok(covered.to_owned())))
    }

    /// A new empty directory.
    pub fn dir(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.0.clone()?.join(name);
        fs::create_dir(&path).doing("make a directory on a tmpfs")?;
        Ok(path)
    }
}

fn covered(spared: &Path) -> Option<&'static Path> {
    COVERED.iter().map(Path::new).find(|path| path.is_dir() && !spared.starts_with(path))
}

/// The path itself or the nearest of its parents that exists, without symbolic links.
pub(crate) fn nearest_existing(path: &Path) -> PathBuf {
    path.ancestors().find_map(|ancestor| ancestor.canonicalize().ok()).unwrap_or_else(|| PathBuf::from("/"))
}

/// Mounts a file system that is no device's.
pub(crate) fn mount(fstype: &str, target: &Path, options: &str) -> nix::Result<()> {
    nix::mount::mount(Some("terrarium-probe"), target, Some(fstype), MsFlags::empty(), Some(options))
}

/// Undoes [`mount`]; what is still mounted when the probe ends goes with the namespace.
pub(crate) fn unmount(target: &Path) {
    let _ = nix::mount::umount2(target, MntFlags::MNT_DETACH);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_directory_is_never_covered() {
        for spared in COVERED.iter().map(|path| Path::new(path).join("data")) {
            let covered = covered(&spared).unwrap();
            assert!(!spared.starts_with(covered), "{} covers {}", covered.display(), spared.display());
        }
    }

    #[test]
    fn the_nearest_existing_directory() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        assert_eq!(nearest_existing(&dir.path().join("a/b/c")), real);
        assert_eq!(nearest_existing(dir.path()), real);
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        assert_eq!(nearest_existing(&dir.path().join("link/a")), real);
        assert_eq!(nearest_existing(Path::new("")), Path::new("/"));
    }
}
