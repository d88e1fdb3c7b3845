//! The caller's side: starts the probe, waits for its report, and ends it when it takes too long.

use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use terrarium_gaps::{Place, Report};

use crate::helper::Part;

/// How long the probe may take.
const LIMIT: Duration = Duration::from_secs(5);

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
    let (stdout, stderr) = (group.0.stdout.take(), group.0.stderr.take());
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        let (mut report, mut said) = (String::new(), String::new());
        let _ = stdout.map(|mut stdout| stdout.read_to_string(&mut report));
        let _ = stderr.map(|mut stderr| stderr.read_to_string(&mut said));
        let _ = sender.send((report, said));
    });
    let Ok((report, said)) = receiver.recv_timeout(LIMIT) else { return Err(Error::TimeLimit) };
    // The caller may want to enter a user namespace, which takes a process of one thread.
    let _ = reader.join();
    let status = group.0.wait().map_err(Error::Start)?;
    if !status.success() {
        return Err(Error::Failed { status, said: said.trim().to_owned() });
    }
    Ok(serde_json::from_str(&report)?)
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
