//! What `terrarium up` and `down` do: start the supervisor and wait for the cluster, end it and wait for that.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;

use crate::component::SUPERVISOR;
use crate::events::Events;
use crate::process::{self, wait_until};
use crate::{Error, Event, Layout, events, logs, supervisor};

/// How often is looked for news of a start.
const NEWS_INTERVAL: Duration = Duration::from_millis(25);

/// How long taking a cluster down may take.
const DOWN_LIMIT: Duration = Duration::from_secs(90);

/// The data directory of the cluster that runs in this sandbox, or that ran and was not taken down.
#[must_use]
pub fn running_data_dir(layout: &Layout) -> Option<PathBuf> {
    let content = fs::read(layout.data_dir_note()).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(&content)))
}

/// What `up` found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cluster came up.
    CameUp,
    /// It was up already.
    WasUp,
}

/// Brings the cluster up, or waits for one that is coming up already, and tells each event of the start.
///
/// # Errors
/// The cluster could not be brought up, or was not up in time; in the latter case it goes on starting.
pub fn up(layout: &Layout, limit: Duration, mut on_event: impl FnMut(&Event)) -> Result<Outcome, Error> {
    let start = Instant::now();
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    if process::recorded(layout, SUPERVISOR).is_some() {
        match running_data_dir(layout) {
            Some(data_dir) if data_dir != layout.data() => return Err(Error::AlreadyRunning { data_dir }),
            _ if events::is_up(layout)? => return Ok(Outcome::WasUp),
            _ => return follow(layout, start, limit, on_event),
        }
    }
    layout.prepare()?;
    remove(&layout.progress())?;
    let log = logs::open(layout, SUPERVISOR)?;
    let error_log = log.try_clone().map_err(Error::io("open", layout.log(SUPERVISOR)))?;
    let program = std::env::current_exe().map_err(Error::io("find this program's path", "/proc/self/exe"))?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut child = Command::new(&program)
        .args(["supervise", "--since", &since.to_string(), "--data-dir"])
        .arg(layout.data())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(error_log)
        .spawn()
        .map_err(Error::io("run", &program))?;
    while !layout.progress().exists() {
        if let Ok(Some(_)) = child.try_wait() {
            return Err(Error::SupervisorDied { log: logs::tail(layout, SUPERVISOR, 10) });
        }
        std::thread::sleep(NEWS_INTERVAL);
    }
    let result = follow(layout, start, limit, &mut on_event);
    if matches!(result, Err(Error::Supervisor(_))) {
        // It is undoing what it did: whoever calls `up` again at once must find it done.
        let _ = child.wait();
    }
    result
}

/// Tells the events of a start until it ends.
fn follow(
    layout: &Layout,
    start: Instant,
    limit: Duration,
    mut on_event: impl FnMut(&Event),
) -> Result<Outcome, Error> {
    let mut events = Events::open(layout)?;
    let mut pending: Vec<String> = Vec::new();
    loop {
        // Looked at before the events: what the supervisor wrote last is read after it ended.
        let supervisor_lives = process::recorded(layout, SUPERVISOR).is_some();
        while let Some(event) = events.next() {
            on_event(&event);
            match event {
                Event::Started { step, .. } => pending.push(step),
                Event::Ready { step, .. } => pending.retain(|waiting| *waiting != step),
                Event::Restarting { .. } => {}
                Event::Up { .. } => return Ok(Outcome::CameUp),
                Event::Failed { message } => return Err(Error::Supervisor(message)),
            }
        }
        if !supervisor_lives {
            return Err(Error::SupervisorDied { log: logs::tail(layout, SUPERVISOR, 10) });
        }
        if start.elapsed() >= limit {
            return Err(Error::Timeout { waiting_for: pending.join(", ") });
        }
        std::thread::sleep(NEWS_INTERVAL);
    }
}

/// Takes the cluster down; `false` if there was none. With `purge`, its data directory goes too. Call it before the
/// process has a second thread.
///
/// # Errors
/// Something could not be stopped or undone; calling it again goes on from there.
pub fn down(layout: &Layout, purge: bool) -> Result<bool, Error> {
    let mut was_running = false;
    if let Some(supervisor) = process::recorded(layout, SUPERVISOR) {
        was_running = true;
        supervisor.signal(Signal::SIGTERM);
        if !wait_until(DOWN_LIMIT, || !supervisor.is_alive()) {
            return Err(Error::Unstoppable { name: SUPERVISOR.to_owned(), pid: supervisor.pid });
        }
    }
    // The supervisor was killed, or could not undo everything: here the errors are seen.
    if layout.journal().exists() {
        was_running = true;
        supervisor::stop_orphaned(layout)?;
    }
    match fs::remove_dir_all(layout.runtime()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("remove", layout.runtime())(error));
        }
        _ => {}
    }
    if purge {
        layout.purge()?;
    }
    Ok(was_running)
}

fn remove(path: &std::path::Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}
