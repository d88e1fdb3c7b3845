//! The caller's side: starts the probe, waits for its report, and ends it when it takes too long.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use terrarium_gaps::{Place, Report};

use crate::helper::Part;

/// How long the probe may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The child cannot be started.
    #[error("cannot start the probe of this sandbox (/proc/self/exe)")]
    Start(#[source] io::Error),
    /// The child had to be killed.
    #[error("the probe of this sandbox did not end within {} s and was stopped", LIMIT.as_secs())]
    TimeLimit,
    /// The child failed.
    #[error("the probe of this sandbox failed: {status}{}{said}", if said.is_empty() { "" } else { ": " })]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to its standard error.
        said: String,
    },
    /// What the child wrote is no report.
    #[error("the probe of this sandbox gave no report")]
    Report(#[from] serde_json::Error),
}

pub(crate) fn probe(data_dir: &Path, place: Option<Place>) -> Result<Report, Error> {
    let mut command = Part::Main.command(data_dir);
    if let Some(place) = place {
        command.args(["--place", place_name(place)]);
    }
    // A process group of its own, so that its children can be ended with it.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group(command.spawn().map_err(Error::Start)?);
    let stdout = group.0.stdout.take().expect("it is piped").into();
    let stderr = group.0.stderr.take().expect("it is piped").into();
    let Some([report, said]) = hear([stdout, stderr], LIMIT).map_err(Error::Start)? else {
        return Err(Error::TimeLimit);
    };
    let status = group.0.wait().map_err(Error::Start)?;
    if !status.success() {
        return Err(Error::Failed { status, said: String::from_utf8_lossy(&said).trim().to_owned() });
    }
    Ok(serde_json::from_slice(&report)?)
}

/// What is written to pipes until all are closed; `None` if that takes longer than this. No thread reads them: the caller
/// may go on to make a user namespace, which Linux refuses to a process with a thread that is ending, even one that was
/// joined (unshare(2)).
fn hear(pipes: [OwnedFd; 2], limit: Duration) -> io::Result<Option<[Vec<u8>; 2]>> {
    let until = Instant::now() + limit;
    let mut heard = [Vec::new(), Vec::new()];
    let mut open: Vec<(File, &mut Vec<u8>)> = pipes.map(File::from).into_iter().zip(&mut heard).collect();
    let mut buffer = [0; 4096];
    while !open.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let mut asked: Vec<_> = open.iter().map(|(pipe, _)| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)).collect();
        // Part of a millisecond would be none.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut asked, timeout) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let ready: Vec<_> = asked.iter().map(|asked| asked.any().unwrap_or(true)).collect();
        let mut still_open = Vec::new();
        for ((mut pipe, heard), is_ready) in open.into_iter().zip(ready) {
            if is_ready {
                let length = pipe.read(&mut buffer)?;
                heard.extend_from_slice(&buffer[..length]);
                if length == 0 {
                    continue;
                }
            }
            still_open.push((pipe, heard));
        }
        open = still_open;
    }
    Ok(Some(heard))
}

/// As the command line takes it.
fn place_name(place: Place) -> &'static str {
    match place {
        Place::MountNamespace => "mount-namespace",
        Place::UserNamespace => "user-namespace",
        Place::Nowhere => "nowhere",
    }
}

/// The probe's processes, ended when this goes out of scope.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // The child's ID is its group's. It cannot be another's by now: the child was not waited for, or was the last
        // to end, and then the group is gone.
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn two_pipes_are_heard_to_their_end_or_until_the_time_is_up() {
        let [(first, mut to_first), (second, mut to_second)] = [io::pipe().unwrap(), io::pipe().unwrap()];
        to_first.write_all(&[b'x'; 10_000]).unwrap();
        to_second.write_all(b"y").unwrap();
        drop((to_first, to_second));
        let heard = hear([first.into(), second.into()], Duration::from_secs(10)).unwrap();
        assert_eq!(heard, Some([vec![b'x'; 10_000], b"y".to_vec()]));

        let [(first, to_first), (second, _open)] = [io::pipe().unwrap(), io::pipe().unwrap()];
        drop(to_first);
        assert_eq!(hear([first.into(), second.into()], Duration::from_millis(20)).unwrap(), None);
    }
}
