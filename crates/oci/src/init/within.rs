//! Paths inside a root file system that is not this process's root, and must not lead out of it.
//!
//! There is no openat2(2) to ask: gVisor has none. A path is walked part by part; a symbolic link is read and its text
//! walked in turn, from the root if it is absolute, and `..` goes back to the directory that the walk came from. So the
//! kernel never follows a link or a `..` itself, and whoever moves things about meanwhile cannot lead the walk out.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::Doing as _;
use crate::{Error, Result};

/// As many symbolic links as Linux follows (path_resolution(7)).
const LINKS: usize = 40;
const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// What is made where a path ends in nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Nothing: it is an error.
    Fail,
    /// Directories, the last one included.
    Directory,
    /// Directories, and an empty file at the end.
    File,
}

/// A root file system.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    root: OwnedFd,
}

/// Something inside a root, held by a descriptor that gives no access to it but its place.
#[derive(Debug)]
pub(crate) struct Place {
    fd: OwnedFd,
    inside: PathBuf,
}

impl Place {
    /// A path that names it for mount(2), whatever has become of the path that it was found by.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// Where it is inside the root, without symbolic links: absolute, as it was when it was found.
    pub fn inside(&self) -> &Path {
        &self.inside
    }

    pub fn stat(&self) -> io::Result<rustix::fs::Stat> {
        Ok(rustix::fs::fstat(&self.fd)?)
    }

    #[cfg(test)]
    fn is_dir(&self) -> bool {
        self.stat().is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

impl Root {
    pub fn open(path: &Path) -> Result<Self> {
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .doing_with(|| format!("open {}", path.display()))?;
        Ok(Self { path: path.to_owned(), root })
    }

    /// What is at a path inside.
    pub fn find(&self, path: &Path) -> Result<Place> {
        self.place(path, Missing::Fail)
    }

    /// What is at a path inside, made if it is not there.
    pub fn place(&self, path: &Path, missing: Missing) -> Result<Place> {
        self.walk(path, missing).doing_with(|| format!("find {} in {}", path.display(), self.path.display()))
    }

    /// The directory that something is to be in, made if it is not there, and the last part of the path.
    pub fn parent(&self, path: &Path) -> Result<(Place, OsString)> {
        let Some(name) = path.file_name() else {
            return Err(Error::other(format!("find the parent of {}", path.display()), "it ends in no name"));
        };
        let parent = self.place(path.parent().unwrap_or(Path::new("/")), Missing::Directory)?;
        Ok((parent, name.to_owned()))
    }

    fn walk(&self, path: &Path, missing: Missing) -> io::Result<Place> {
        let mut inside = PathBuf::from("/");
        let mut above: Vec<OwnedFd> = Vec::new();
        let mut here = self.root.try_clone()?;
        let mut left = parts(path.as_os_str());
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                here = above.pop().map_or_else(|| self.root.try_clone(), Ok)?;
                inside.pop();
                continue;
            }
            let next = self.step(&here, &part, if left.is_empty() { missing } else { directories(missing) })?;
            if !is_link(&next)? {
                above.push(std::mem::replace(&mut here, next));
                inside.push(&part);
                continue;
            }
            links += 1;
            if links > LINKS {
                return Err(Errno::LOOP.into());
            }
            let target = rustix::fs::readlinkat(&next, "", Vec::new())?;
            let target = OsStr::from_bytes(target.as_bytes());
            if target.as_bytes().first() == Some(&b'/') {
                above.clear();
                here = self.root.try_clone()?;
                inside = PathBuf::from("/");
            }
            left.extend(parts(target));
        }
        Ok(Place { fd: here, inside })
    }

    /// One part of a path, not followed if it is a link. Made if it is not there: whether somebody else made it at the
    /// same time makes no difference.
    fn step(&self, here: &OwnedFd, part: &OsStr, missing: Missing) -> io::Result<OwnedFd> {
        let open = || rustix::fs::openat(here, part, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        match open() {
            Err(Errno::NOENT) if missing != Missing::Fail => {}
            other => return Ok(other?),
        }
        let made = match missing {
            Missing::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
                rustix::fs::openat(here, part, flags, Mode::from_raw_mode(FILE_MODE)).map(drop)
            }
            _ => rustix::fs::mkdirat(here, part, Mode::from_raw_mode(DIRECTORY_MODE)),
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => Ok(open()?),
            Err(error) => Err(error.into()),
        }
    }
}

/// What is made on the way.
fn directories(missing: Missing) -> Missing {
    if missing == Missing::Fail { Missing::Fail } else { Missing::Directory }
}

/// The parts of a path, the last one first.
fn parts(path: &OsStr) -> Vec<OsString> {
    path.as_bytes()
        .rsplit(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect()
}

fn is_link(place: &OwnedFd) -> io::Result<bool> {
    let stat = rustix::fs::statat(place.as_fd(), "", AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode).is_symlink())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use proptest::prelude::*;

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let outside = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(outside.path().join("root/etc")).expect("directories");
        fs::write(outside.path().join("secret"), "s").expect("a file");
        let root = Root::open(&outside.path().join("root")).expect("a root");
        (outside, root)
    }

    fn inode(place: &Place) -> u64 {
        place.stat().expect("stat").st_ino
    }

    #[test]
    fn links_and_dots_stay_inside() {
        let (outside, root) = root();
        let at = |path: &str| outside.path().join("root").join(path);
        symlink("../../../../secret", at("etc/up")).expect("a link");
        symlink("/etc", at("absolute")).expect("a link");
        symlink("loop", at("loop")).expect("a link");
        assert!(root.find(Path::new("etc/up")).is_err());
        assert!(root.find(Path::new("../secret")).is_err());
        assert!(root.find(Path::new("loop")).is_err());
        let etc = fs::metadata(at("etc")).expect("there").ino();
        let found = root.find(Path::new("/absolute/../absolute")).expect("etc");
        assert_eq!((inode(&found), found.inside()), (etc, Path::new("/etc")));
        assert_eq!(inode(&root.find(Path::new("/../../etc/.")).expect("etc")), etc);
    }

    #[test]
    fn what_is_missing_is_made_inside() {
        let (outside, root) = root();
        symlink("/../../made", outside.path().join("root/link")).expect("a link");
        assert!(root.place(Path::new("/link/a"), Missing::Directory).expect("made").is_dir());
        assert!(outside.path().join("root/made/a").is_dir());
        assert!(!root.place(Path::new("/link/b/file"), Missing::File).expect("made").is_dir());
        assert!(outside.path().join("root/made/b/file").is_file());
        let (parent, name) = root.parent(Path::new("/dev/null")).expect("made");
        assert!(parent.is_dir() && name == "null" && !outside.path().join("made").exists());
    }

    proptest! {
        /// Whatever the links say, what is found is in the tree.
        #[test]
        fn nothing_outside_is_found(links in prop::collection::vec(("[ab]", "(/|\\.\\./|\\./|a/|b/|secret/){0,4}(a|b|secret)"), 0..4), path in "(/|\\.\\./|a/|b/){0,5}(a|b|secret|\\.\\.)") {
            let (outside, root) = root();
            for (name, target) in links {
                let _ = symlink(target, outside.path().join("root").join(name));
            }
            let secret = fs::metadata(outside.path().join("secret")).expect("there").ino();
            let above = fs::metadata(outside.path()).expect("there").ino();
            if let Ok(found) = root.place(Path::new(&path), Missing::Directory) {
                prop_assert!(inode(&found) != secret && inode(&found) != above);
            }
            prop_assert_eq!(fs::read_dir(outside.path()).expect("listed").count(), 2);
        }
    }
}
