//! One cgroup in one hierarchy: a directory of small files.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::Doing;

/// Names the members, and takes new ones.
const MEMBERS: &str = "cgroup.procs";

/// The directory of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn exists(&self) -> bool {
        self.0.is_dir()
    }

    pub fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }

    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.0).doing_with(|| format!("create the cgroup {}", self.0.display()))
    }

    /// What a file says, without the line's end.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        let text = read(&path).doing_with(|| format!("read {}", path.display()))?;
        Ok(text.trim_end().to_owned())
    }

    /// The number that a file has: `max` is the greatest.
    pub fn number(&self, file: &str) -> Option<u64> {
        let text = self.read(file).ok()?;
        if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
    }

    /// The numbers of a file of lines with a name and a number.
    pub fn table(&self, file: &str) -> BTreeMap<String, u64> {
        let text = self.read(file).unwrap_or_default();
        let row = |line: &str| {
            let (name, number) = line.split_once(' ')?;
            Some((name.to_owned(), number.trim().parse().ok()?))
        };
        text.lines().filter_map(row).collect()
    }

    /// One number of such a file.
    pub fn entry(&self, file: &str, name: &str) -> Option<u64> {
        self.table(file).get(name).copied()
    }

    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        self.try_write(file, text).doing_with(|| format!("write {text} to {}", self.0.join(file).display()))
    }

    /// The same with the kernel's own error. Never creates a file: in a cgroup that would only look like a setting.
    pub fn try_write(&self, file: &str, text: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.0.join(file))?.write_all(text.as_bytes())
    }

    /// Moves a process here. The kernel says EINVAL of one that is only just being made (`TASK_NEW`).
    pub fn add(&self, pid: Pid) -> Result<()> {
        let pid = pid.to_string();
        for _ in 0..4 {
            match self.try_write(MEMBERS, &pid) {
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                    thread::sleep(Duration::from_millis(30))
                }
                done => return done.doing_with(|| format!("move process {pid} into {}", self.0.display())),
            }
        }
        self.write(MEMBERS, &pid)
    }

    /// The processes of this cgroup and those below, sorted. A cgroup that is gone has none.
    pub fn members(&self) -> Result<Vec<Pid>> {
        let mut members = Vec::new();
        for directory in self.tree() {
            // To its end, whatever comes first: these are ended, and half a number is another process.
            let text = match fs::read_to_string(directory.join(MEMBERS)) {
                // A threaded cgroup (v2) has no list of processes: they are above.
                Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::Unsupported => continue,
                text => text.doing_with(|| format!("read the members of {}", directory.display()))?,
            };
            // 0 is a process that the reader's pid namespace does not show.
            members.extend(text.lines().filter_map(|line| i32::from_str(line).ok()).filter(|pid| *pid > 0));
        }
        members.sort_unstable();
        members.dedup();
        Ok(members.into_iter().map(Pid::from_raw).collect())
    }

    /// Removes the cgroup and those below it. It may be busy for a moment after its last process has ended.
    pub fn remove(&self) -> Result<()> {
        let mut pause = Duration::from_millis(5);
        loop {
            match self.try_remove() {
                Err(error) if is_busy(&error) && pause < Duration::from_millis(500) => {
                    thread::sleep(pause);
                    pause *= 2;
                }
                done => return done.doing_with(|| format!("remove the cgroup {}", self.0.display())),
            }
        }
    }

    fn try_remove(&self) -> io::Result<()> {
        for directory in self.tree().iter().rev() {
            match fs::remove_dir(directory) {
                Err(error) if is_gone(&error) => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// This directory and all below it, parents first.
    fn tree(&self) -> Vec<PathBuf> {
        let mut tree = vec![self.0.clone()];
        let mut at = 0;
        while let Some(directory) = tree.get(at) {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let below: Vec<PathBuf> = below.map(|entry| entry.path()).collect();
            tree.extend(below);
            at += 1;
        }
        tree
    }
}

/// What a file says. Where whole lines come, and less than half a page of them, that was all: no line is as long as what is
/// free. To ask once more is dear where the files are served over FUSE; there a file that grows may also be cut anywhere.
fn read(path: &Path) -> io::Result<String> {
    const PAGE: usize = 4096;
    let mut file = File::open(path)?;
    let mut content = vec![0; PAGE];
    let got = file.read(&mut content)?;
    content.truncate(got);
    if got > PAGE / 2 || !content.ends_with(b"\n") {
        file.read_to_end(&mut content)?;
    }
    String::from_utf8(content).map_err(io::Error::other)
}

/// Not there, or removed since it was opened.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// gVisor says that a cgroup with processes is not empty.
fn is_busy(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty)
}
