//! The supervisor: one background process that brings a cluster up, keeps its components running, and takes it down.
//!
//! It holds a lock, so there is one at a time. Killed, it leaves the components running; the next one finds their mount
//! namespace by the journal, joins it, and goes on with them by their records.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::time::{Duration, Instant};

use terrarium_remedies::{Journal, Site, apply_all, namespace};

use crate::component::{self, Component, SUPERVISOR, Spec};
use crate::config::{self, Network};
use crate::events::Progress;
use crate::guardian::Ward;
use crate::process::{self, ProcessRef};
use crate::{Error, Event, Layout, node, runner, stop};

/// How often is looked whether the lock is free.
const LOCK_INTERVAL: Duration = Duration::from_millis(40);

/// How long to wait for a `down` that goes on where another one was.
const LOCK_LIMIT: Duration = Duration::from_secs(90);

/// Why a supervisor runs.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// When the user asked for the cluster.
    pub start: Instant,
    /// Whether it is to go on with a cluster that lost its supervisor, and with no other.
    pub resume: bool,
    /// The guardian that started it.
    pub guardian: Option<i32>,
}

/// Runs a cluster until SIGTERM or SIGINT, then takes it down. Call it before the process has a second thread.
///
/// # Errors
/// The cluster could not be brought up, or not be taken down. What could be undone is undone.
pub fn run(layout: &Layout, call: Call) -> Result<(), Error> {
    // Away from the terminal of whoever called `up`: neither its Ctrl-C nor its end is for the cluster. It fails for
    // who leads a group of processes already, called by hand from a shell: then that is what was asked for.
    let _ = nix::unistd::setsid();
    let _lock = wait_for_lock(layout)?;
    if call.resume && !layout.data_dir_note().exists() {
        // A `down` that held the lock was quicker.
        return layout.remove_runtime();
    }
    // A `down` that held the lock has removed what `up` had made ready.
    layout.prepare()?;
    let own = ProcessRef::of(std::process::id().cast_signed()).ok_or(Error::NotRunning)?;
    let progress = Progress::create(layout, call.start)?;
    crate::layout::write(&layout.data_dir_note(), layout.data().as_os_str().as_encoded_bytes())?;
    // The last one: who finds the record finds what belongs to it.
    process::record(layout, SUPERVISOR, &own)?;
    let guardian = Ward::begin(layout, call.guardian);
    let result = bring_up_and_serve(layout, &progress, guardian);
    if let Err(error) = &result {
        progress.report(&Event::Failed { message: crate::error::chain(error) });
    }
    result
}

/// Takes down a cluster whose supervisor is gone, under its lock. Call it before the process has a second thread.
///
/// # Errors
/// Something could not be stopped or undone.
pub(crate) fn stop_orphaned(layout: &Layout, _lock: &File) -> Result<(), Error> {
    let journal = Journal::open(&layout.journal())?;
    if let Some(journal) = &journal {
        journal.namespace().join()?;
    }
    stop::stop_cluster(layout, journal)
}

/// Takes the lock; waits while it is held by somebody who is no supervisor, which is a `down` that removes the rest.
fn wait_for_lock(layout: &Layout) -> Result<File, Error> {
    let start = Instant::now();
    loop {
        match lock(layout) {
            Err(Error::AlreadyRunning { .. })
                if process::recorded(layout, SUPERVISOR).is_none() && start.elapsed() < LOCK_LIMIT =>
            {
                std::thread::sleep(LOCK_INTERVAL);
            }
            other => return other,
        }
    }
}

/// Takes the lock that the supervisor holds for as long as it lives, and `down` while it removes what is left.
///
/// # Errors
/// Somebody has it.
pub(crate) fn lock(layout: &Layout) -> Result<File, Error> {
    let path = layout.lock();
    loop {
        layout.make_runtime()?;
        let file =
            OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(Error::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::AlreadyRunning { data_dir: layout.data().to_owned() });
            }
            Err(fs::TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
        }
        // A `down` that held it may have removed it since it was opened: then it keeps nobody out.
        let locked = file.metadata().map_err(Error::io("look at", &path))?;
        if fs::metadata(&path).is_ok_and(|now| (now.dev(), now.ino()) == (locked.dev(), locked.ino())) {
            return Ok(file);
        }
    }
}

fn bring_up_and_serve(layout: &Layout, progress: &Progress, guardian: Ward) -> Result<(), Error> {
    let (mut journal, adopted) = match Journal::open(&layout.journal())? {
        Some(journal) if journal.namespace().join()? => (journal, true),
        leftover => {
            stop::stop_cluster(layout, leftover)?;
            layout.prepare()?;
            namespace::enter_new()?;
            (Journal::create(&layout.journal())?, false)
        }
    };
    let result = components(layout, progress, &mut journal, adopted)
        .and_then(|components| runner::run(layout, progress, components, guardian));
    progress.report(&Event::Stopping);
    let stopped = stop::stop_cluster(layout, Some(journal));
    result.and(stopped)
}

/// The components to run, with the gaps closed and the configuration written. A cluster that is gone on with has both.
fn components(
    layout: &Layout,
    progress: &Progress,
    journal: &mut Journal,
    adopted: bool,
) -> Result<Vec<Component>, Error> {
    const STEP: &str = "remedies";
    progress.report(&Event::Started { step: STEP.to_owned(), label: STEP.to_owned() });
    let settings = if adopted {
        journal.settings().cloned().collect()
    } else {
        apply_all(&Site { runtime_dir: layout.runtime().to_owned() }, journal)?
    };
    let spec = Spec { layout, node: node::name(), address: node::address()?, network: Network::default(), settings };
    if !adopted {
        config::write_all(&spec)?;
    }
    progress.report(&Event::Ready { step: STEP.to_owned(), seconds: progress.seconds() });
    component::components(&spec)
}
