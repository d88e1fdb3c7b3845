//! A process's standard streams: the fifos that containerd made for them, and the pipes or the terminal that the process has.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process;

use nix::libc::O_NONBLOCK;
use nix::unistd::{Gid, Uid, fchown};
use rustix::io::ioctl_fionbio;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::Error;
use crate::relay::{Input, Output, Streams};

/// What containerd asks for; an empty path is no stream.
#[derive(Clone, Debug, Default)]
pub struct Stdio {
    /// A fifo to read from.
    pub stdin: String,
    /// A fifo to write to, or `file://PATH`.
    pub stdout: String,
    /// As `stdout`; not used with a terminal.
    pub stderr: String,
    /// Whether the process has a terminal instead of pipes.
    pub terminal: bool,
}

/// The process's own ends of its pipes.
pub struct ProcessEnds {
    /// What it reads from.
    pub stdin: process::Stdio,
    /// What it writes to.
    pub stdout: process::Stdio,
    /// Where its errors go.
    pub stderr: process::Stdio,
}

impl ProcessEnds {
    /// No streams.
    pub fn null() -> Self {
        Self { stdin: process::Stdio::null(), stdout: process::Stdio::null(), stderr: process::Stdio::null() }
    }
}

/// Who owns the pipes, so that a process of another user can open /dev/stdout again.
#[derive(Clone, Copy, Default)]
pub struct Owner {
    /// Of the option `IoUid`.
    pub uid: u32,
    /// Of the option `IoGid`.
    pub gid: u32,
}

impl Stdio {
    /// Makes pipes for the streams that there are, and opens what they are copied from and to.
    pub fn pipes(&self, owner: Owner) -> Result<(ProcessEnds, Streams), Error> {
        let mut ends = ProcessEnds::null();
        let mut streams = Streams::default();
        if !self.stdin.is_empty() {
            let (theirs, ours) = pipe(owner)?;
            ioctl_fionbio(&ours, true).map_err(Error::io("make non-blocking", Path::new("pipe")))?;
            ends.stdin = theirs.into();
            streams.input = Some(self.input(ours)?);
        }
        for (path, end) in [(&self.stdout, &mut ends.stdout), (&self.stderr, &mut ends.stderr)] {
            if path.is_empty() {
                continue;
            }
            let (ours, theirs) = pipe(owner)?;
            *end = theirs.into();
            streams.outputs.push(output(ours, path)?);
        }
        Ok((ends, streams))
    }

    /// Opens what is copied from and to a terminal.
    pub fn terminal(&self, master: OwnedFd) -> Result<Streams, Error> {
        let mut streams = Streams::default();
        if !self.stdin.is_empty() {
            let to = master.try_clone().map_err(Error::io("duplicate", Path::new("the terminal")))?;
            streams.input = Some(self.input(to)?);
        }
        if !self.stdout.is_empty() {
            streams.outputs.push(output(master, &self.stdout)?);
        }
        Ok(streams)
    }

    /// Without a writer of our own the fifo would be at its end whenever containerd is not there.
    fn input(&self, to: OwnedFd) -> Result<Input, Error> {
        let path = Path::new(&self.stdin);
        let open = |options: &mut OpenOptions| {
            options.custom_flags(O_NONBLOCK).open(path).map_err(Error::io("open fifo", path))
        };
        let from = open(OpenOptions::new().read(true))?;
        let keeper = open(OpenOptions::new().write(true))?;
        Ok(Input::new(from.into(), to, keeper.into()))
    }
}

/// A pipe: the end to read from and the end to write to.
fn pipe(owner: Owner) -> Result<(OwnedFd, OwnedFd), Error> {
    let named = Path::new("pipe");
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::io("make", named))?;
    if (owner.uid, owner.gid) != (0, 0) {
        let (uid, gid) = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
        fchown(&read, uid, gid).and_then(|()| fchown(&write, uid, gid)).map_err(Error::io("change owner of", named))?;
    }
    Ok((read, write))
}

fn output(from: OwnedFd, path: &str) -> Result<Output, Error> {
    ioctl_fionbio(&from, true).map_err(Error::io("make non-blocking", Path::new("pipe")))?;
    if let Some(path) = path.strip_prefix("file://") {
        let (to, path) = (PathBuf::from(path), Path::new(path));
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
        }
        return Ok(Output::new(from, append(path)?.into(), None));
    }
    if path.contains("://") {
        return Err(Error::Unsupported("a logging program for a process's output"));
    }
    let path = Path::new(path);
    if !fs::metadata(path).map_err(Error::io("open fifo", path))?.file_type().is_fifo() {
        return Ok(Output::new(from, append(path)?.into(), None));
    }
    let open =
        |options: &mut OpenOptions| options.custom_flags(O_NONBLOCK).open(path).map_err(Error::io("open fifo", path));
    // Opened for both ends a fifo never blocks. This one is also the reader that keeps the output while containerd is not
    // there: without any, the copying would end with EPIPE.
    let keeper = open(OpenOptions::new().read(true).write(true))?;
    let to = open(OpenOptions::new().write(true))?;
    Ok(Output::new(from, to.into(), Some(keeper.into())))
}

fn append(path: &Path) -> Result<File, Error> {
    OpenOptions::new().append(true).create(true).open(path).map_err(Error::io::<io::Error>("open", path))
}
