//! The guardian: a small process that starts the supervisor again when that is killed. The supervisor in turn starts the
//! guardian again, so that only who kills both within two seconds leaves the components unwatched; the next command of
//! `terrarium` finds that then.
//!
//! The guardian keeps nothing but what it waits for. Who guards is on record, written by the supervisor under its lock.

use std::fs::File;
use std::io::IsTerminal as _;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;

use crate::component::{GATE, GUARDIAN, SERVICES, SUPERVISOR};
use crate::events::{self, Stage};
use crate::process::{self, ProcessRef};
use crate::{Error, Layout, Options, launch, logs};

/// How often a guardian looks at a supervisor that it did not start.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// The wait before the supervisor is started again; doubled each time, to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// A supervisor that ran for this long is started again after the shortest wait.
const SETTLED: Duration = Duration::from_secs(60);

/// What a Rust program ends with when it panics.
const PANICKED: i32 = 101;

/// What a guardian begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With a new cluster, asked for at this time: milliseconds since 1970.
    Start(u64),
    /// With a cluster that nobody watches.
    Resume,
    /// With a supervisor that runs. On stdin is what leads outside of the cluster's namespaces: the mount namespace to live
    /// in, or the socket on which the API is reached from there.
    Watch,
}

/// Keeps a supervisor alive until it ends in order. Call it before the process has a second thread.
///
/// # Errors
/// The supervisor cannot be started.
pub fn run(layout: &Layout, begin: Begin, options: &Options) -> Result<(), Error> {
    // As for the supervisor: away from the terminal.
    let _ = nix::unistd::setsid();
    if begin == Begin::Watch {
        leave_namespace();
    }
    let mut begin = begin;
    let mut back_off = BACK_OFF.0;
    loop {
        let start = Instant::now();
        let ended_in_order = match begin {
            Begin::Watch => watch(layout),
            Begin::Start(_) | Begin::Resume => {
                let status = supervise(layout, begin, options)?;
                // Another one was first, and has a guardian of its own.
                if process::recorded(layout, SUPERVISOR).is_some() {
                    return Ok(());
                }
                // One that failed while components run leaves them unwatched.
                let is_done = status.success() || !process::any_recorded(layout, SERVICES);
                is_in_order(status) && is_done || is_over(layout)
            }
        };
        if ended_in_order {
            return Ok(());
        }
        eprintln!("guardian: the supervisor is gone; it is started again in {back_off:?}");
        if start.elapsed() >= SETTLED {
            back_off = BACK_OFF.0;
        }
        std::thread::sleep(back_off);
        back_off = (back_off * 2).min(BACK_OFF.1);
        begin = Begin::Resume;
    }
}

/// Runs a supervisor to its end.
fn supervise(layout: &Layout, begin: Begin, options: &Options) -> Result<ExitStatus, Error> {
    let mut command = launch::part(layout, "supervise")?;
    command.args(["--guardian", &std::process::id().to_string()]).args(options.arguments());
    match begin {
        Begin::Start(since) => command.args(["--since", &since.to_string()]),
        Begin::Resume | Begin::Watch => command.arg("--resume"),
    };
    command.status().map_err(Error::io("run", command.get_program()))
}

fn is_in_order(status: ExitStatus) -> bool {
    status.code().is_some_and(|code| code != PANICKED)
}

/// Waits for the end of a supervisor that is not our child: nobody tells how it ended, but for what it left.
fn watch(layout: &Layout) -> bool {
    if let Some(supervisor) = process::recorded(layout, SUPERVISOR) {
        while supervisor.is_alive() {
            std::thread::sleep(WATCH_INTERVAL);
        }
    }
    is_over(layout)
}

/// Whether the cluster is down, or was being taken down.
fn is_over(layout: &Layout) -> bool {
    !layout.data_dir_note().exists() || events::stage(layout).is_ok_and(|stage| stage == Stage::Ending)
}

/// Goes back to where `up` was called, from the cluster's mount namespace. Where that is not allowed, as from a user
/// namespace of the cluster's own, the guardian lives with the cluster.
fn leave_namespace() {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() && nix::sched::setns(stdin.as_fd(), CloneFlags::CLONE_NEWNS).is_ok() {
        let _ = std::env::set_current_dir("/");
    }
}

/// Starts a guardian, whose words go to the supervisor's log.
pub(crate) fn spawn(layout: &Layout, begin: Begin, options: &Options, stdin: Stdio) -> Result<Child, Error> {
    let log = logs::open(layout, SUPERVISOR)?;
    let error_log = log.try_clone().map_err(Error::io("open", layout.log(SUPERVISOR)))?;
    let mut command = launch::part(layout, "guard")?;
    command.args(options.arguments());
    match begin {
        Begin::Start(since) => command.args(["--since", &since.to_string()]),
        Begin::Resume => &mut command,
        Begin::Watch => command.arg("--watch"),
    };
    command.current_dir("/").stdin(stdin).stdout(log).stderr(error_log);
    command.spawn().map_err(Error::io("run", command.get_program()))
}

/// What the supervisor knows of its guardian.
#[derive(Debug)]
pub struct Ward {
    /// What a guardian of ours gets as its stdin: the mount namespace that the supervisor came from; else, where nobody can
    /// go back there, the socket on which the API is reached from there.
    outside: Option<OwnedFd>,
    child: Option<Child>,
    gate: Option<Child>,
}

impl Ward {
    /// Records the guardian that started this supervisor, if one did. Call it under the lock, and before the process enters
    /// the cluster's mount namespace.
    pub(crate) fn begin(layout: &Layout, guardian: Option<i32>) -> Self {
        if let Some(guardian) = guardian.and_then(ProcessRef::of) {
            record(layout, &guardian);
        }
        Self { outside: File::open(Path::new("/proc/self/ns/mnt")).ok().map(OwnedFd::from), child: None, gate: None }
    }

    /// Lets a guardian, and with it the next supervisor, have the socket too.
    pub(crate) fn carry(&mut self, listener: &TcpListener) {
        self.outside = listener.as_fd().try_clone_to_owned().ok();
    }

    /// Has the gate's end noticed, too.
    pub(crate) fn watch(&mut self, gate: Option<Child>) {
        self.gate = gate;
    }

    /// Ends a guardian that this supervisor started; another one ends when the supervisor does.
    pub(crate) fn dismiss(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a guardian if none lives.
    pub(crate) fn look_after(&mut self, layout: &Layout) {
        if let Some(child) = &mut self.child {
            // Its end is to be noticed by who started it.
            let _ = child.try_wait();
        }
        if let Some(gate) = &mut self.gate
            && let Ok(Some(_)) = gate.try_wait()
        {
            self.gate = None;
            if process::recorded(layout, GATE).is_none() {
                tracing::warn!("the gate ended: nothing leads outside until `terrarium up` is called again");
            }
        }
        if process::recorded(layout, GUARDIAN).is_some() {
            return;
        }
        let outside = self.outside.as_ref().and_then(|file| file.try_clone().ok());
        match spawn(layout, Begin::Watch, &Options::default(), outside.map_or_else(Stdio::null, Stdio::from)) {
            Ok(child) => {
                tracing::info!("the guardian is process {}", child.id());
                if let Some(guardian) = ProcessRef::of(child.id().cast_signed()) {
                    record(layout, &guardian);
                }
                self.child = Some(child);
            }
            Err(error) => tracing::warn!("there is no guardian: {}", crate::error::chain(&error)),
        }
    }
}

fn record(layout: &Layout, guardian: &ProcessRef) {
    if let Err(error) = process::record(layout, GUARDIAN, guardian) {
        tracing::warn!("{}", crate::error::chain(&error));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;
    use crate::Event;
    use crate::events::Progress;

    #[test]
    fn only_a_signal_or_a_panic_is_out_of_order() {
        assert!(is_in_order(ExitStatus::from_raw(0)));
        assert!(is_in_order(ExitStatus::from_raw(1 << 8)));
        assert!(!is_in_order(ExitStatus::from_raw(9)));
        assert!(!is_in_order(ExitStatus::from_raw(PANICKED << 8)));
    }

    #[test]
    fn a_watched_supervisor_ended_in_order_if_it_took_the_cluster_down() {
        let (_root, layout) = Layout::temporary();
        assert!(watch(&layout), "nothing is here any more");
        std::fs::write(layout.data_dir_note(), "/data").unwrap();
        let progress = Progress::create(&layout, Instant::now()).unwrap();
        progress.report(&Event::Up { seconds: 1.0 });
        assert!(!watch(&layout));
        progress.report(&Event::Stopping);
        assert!(watch(&layout));
    }
}
