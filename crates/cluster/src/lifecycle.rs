//! What `terrarium up` and `down` do: start the supervisor and wait for the cluster, end it and wait for that.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use terrarium_remedies::Journal;

use crate::component::{GUARDIAN, SERVICES, SUPERVISOR};
use crate::events::{self, Events, Stage};
use crate::guardian::{self, Begin};
use crate::process::{self, ProcessRef, wait_until};
use crate::{Error, Event, Layout, Options, Wishes, exec, gate, logs, supervisor};

/// How often is looked for news of a start.
const NEWS_INTERVAL: Duration = Duration::from_millis(25);

/// How long taking a cluster down may take.
const DOWN_LIMIT: Duration = Duration::from_secs(90);

/// How long the guardian may take to end; it has nothing to finish.
const GUARDIAN_GRACE: Duration = Duration::from_secs(2);

/// How long a supervisor that is started again may take until it is on record.
const REVIVAL_LIMIT: Duration = Duration::from_secs(10);

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
/// The cluster could not be brought up, or was not up in time; in the latter case it goes on starting. When the user
/// interrupts the start that this call began, it is undone.
pub fn up(
    layout: &Layout,
    options: &Options,
    wishes: &Wishes<'_>,
    mut on_event: impl FnMut(&Event),
) -> Result<Outcome, Error> {
    let limit = wishes.wait;
    let start = Instant::now();
    refuse_another(layout)?;
    exec::refuse_running(layout)?;
    if let Some(supervisor) = process::recorded(layout, SUPERVISOR) {
        let stage = events::stage(layout)?;
        if stage != Stage::Ending {
            wishes.refuse_changes(layout)?;
            options.refuse_changes(layout)?;
        }
        match stage {
            Stage::Starting => return follow(layout, &supervisor, start, wishes, on_event),
            Stage::Up => return gate::start_again(layout).map(|()| Outcome::WasUp),
            Stage::Ending if wait_until(limit, || !supervisor.is_alive() || wishes.is_interrupted()) => {
                refuse_interrupted(wishes)?;
            }
            Stage::Ending => {
                return Err(Error::Timeout { waiting_for: "the last cluster to be taken down".to_owned() });
            }
        }
    }
    layout.prepare()?;
    if let Some(aside) = wishes.grant(layout)? {
        on_event(&Event::Warning { message: format!("the store was set aside to {}", aside.display()) });
    }
    // Components that outlived their supervisor go on, whatever becomes of this call.
    let was_there = lives(layout)?;
    if wishes.is_interrupted() && !was_there {
        undo_rest(layout);
    }
    refuse_interrupted(wishes)?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let begin = Begin::Start(u64::try_from(since).unwrap_or_default());
    let mut child = guardian::spawn(layout, begin, options, Stdio::null())?;
    let result = recorded_supervisor(layout, &mut child, start, wishes).and_then(|supervisor| {
        refuse_another(layout)?;
        follow(layout, &supervisor, start, wishes, &mut on_event)
    });
    let guardian = child.id().cast_signed();
    let is_anothers = || process::recorded(layout, GUARDIAN).is_some_and(|other| other.pid != guardian);
    if matches!(result, Err(Error::Interrupted { .. })) && !was_there && !is_anothers() {
        on_event(&Event::Stopping);
        // The guardian first, lest it starts another supervisor.
        let _ = kill(Pid::from_raw(guardian), Signal::SIGTERM);
        let _ = child.wait();
        undo_start(layout, is_anothers)?;
        return Err(Error::Interrupted { what_now: "the start was undone" });
    }
    if matches!(result, Err(Error::Supervisor { .. })) {
        // The guardian ends with its supervisor, which is undoing what it did: whoever calls `up` again at once must find it
        // done. What it could not undo, and the runtime directory, the next `down` would remove; the error to tell is that of
        // the start.
        let _ = child.wait();
        undo_rest(layout);
    }
    result
}

/// Ends the supervisor of a start that lost its guardian, and undoes what it could not undo itself so early.
fn undo_start(layout: &Layout, is_anothers: impl Fn() -> bool) -> Result<(), Error> {
    let lock = lock_once_ended(layout, || {
        let is_ours = !is_anothers();
        if is_ours && let Some(supervisor) = process::recorded(layout, SUPERVISOR) {
            supervisor.stop(SUPERVISOR, DOWN_LIMIT)?;
        }
        Ok(is_ours)
    })?;
    lock.map_or(Ok(()), |lock| remove_rest(layout, lock).map(drop))
}

/// The supervisor's lock, had once `end` has ended who has it; `None` once that says to leave it. Up to its record the lock
/// alone tells of a supervisor: it may be about to write that, or to end.
fn lock_once_ended(layout: &Layout, mut end: impl FnMut() -> Result<bool, Error>) -> Result<Option<File>, Error> {
    let start = Instant::now();
    while end()? {
        match supervisor::lock(layout) {
            Err(Error::AlreadyRunning { .. }) if start.elapsed() < DOWN_LIMIT => std::thread::sleep(NEWS_INTERVAL),
            lock => return lock.map(Some),
        }
    }
    Ok(None)
}

/// Undoes what a supervisor that ended could not.
fn undo_rest(layout: &Layout) {
    // Not by `down` itself: that would end the supervisor of another `up` that came in between.
    if let Ok(lock) = supervisor::lock(layout) {
        let _ = remove_rest(layout, lock);
    }
}

fn refuse_interrupted(wishes: &Wishes<'_>) -> Result<(), Error> {
    let interrupted = Error::Interrupted { what_now: "the cluster goes on with what it was doing" };
    if wishes.is_interrupted() { Err(interrupted) } else { Ok(()) }
}

/// Waits for the supervisor's record. Where another `up` was quicker, it is of that one's supervisor, and `child` ends when
/// it finds it.
fn recorded_supervisor(
    layout: &Layout,
    child: &mut Child,
    start: Instant,
    wishes: &Wishes<'_>,
) -> Result<ProcessRef, Error> {
    loop {
        refuse_interrupted(wishes)?;
        let has_ended = matches!(child.try_wait(), Ok(Some(_)));
        if let Some(supervisor) = process::recorded(layout, SUPERVISOR) {
            return Ok(supervisor);
        }
        if has_ended {
            // It failed at once, and has said why.
            let guardian = process::last_recorded(layout, GUARDIAN);
            if guardian.is_some_and(|guardian| guardian.pid == child.id().cast_signed())
                && let Some(supervisor) = process::last_recorded(layout, SUPERVISOR)
            {
                return Ok(supervisor);
            }
            return Err(Error::SupervisorDied { log: logs::tail(layout, SUPERVISOR, 10) });
        }
        if start.elapsed() >= wishes.wait {
            return Err(Error::Timeout { waiting_for: SUPERVISOR.to_owned() });
        }
        std::thread::sleep(NEWS_INTERVAL);
    }
}

/// One cluster has a sandbox: that of another data directory is not to be taken for this one.
///
/// # Errors
/// One runs with another data directory than the layout's, or what there is cannot be read.
pub fn refuse_another(layout: &Layout) -> Result<(), Error> {
    let Some(data_dir) = running_data_dir(layout).filter(|data_dir| data_dir != layout.data()) else { return Ok(()) };
    if lives(layout)? { Err(Error::AlreadyRunning { data_dir }) } else { Ok(()) }
}

/// Whether anything of a cluster runs.
fn lives(layout: &Layout) -> Result<bool, Error> {
    let is_inhabited = |journal: Journal| journal.members().is_ok_and(|members| !members.is_empty());
    Ok(process::any_recorded(layout, &[SUPERVISOR])
        || process::any_recorded(layout, SERVICES)
        || Journal::open(&layout.journal())?.is_some_and(is_inhabited))
}

/// Tells the events of a start until it ends. A supervisor that is killed meanwhile is followed by the one that its guardian
/// starts.
fn follow(
    layout: &Layout,
    supervisor: &ProcessRef,
    start: Instant,
    wishes: &Wishes<'_>,
    mut on_event: impl FnMut(&Event),
) -> Result<Outcome, Error> {
    let mut supervisor = supervisor.clone();
    loop {
        match follow_one(layout, &supervisor, start, wishes, &mut on_event) {
            Err(Error::SupervisorDied { log }) => {
                let limit = wishes.wait.saturating_sub(start.elapsed());
                supervisor = successor(layout, limit).ok_or(Error::SupervisorDied { log })?;
            }
            other => return other,
        }
    }
}

/// The supervisor that the guardian starts in the place of one that is gone, if there is a guardian.
fn successor(layout: &Layout, limit: Duration) -> Option<ProcessRef> {
    let mut found = None;
    wait_until(limit, || {
        let has_guardian = process::recorded(layout, GUARDIAN).is_some();
        found = process::recorded(layout, SUPERVISOR);
        found.is_some() || !has_guardian
    });
    found
}

/// Tells what one supervisor reports.
fn follow_one(
    layout: &Layout,
    supervisor: &ProcessRef,
    start: Instant,
    wishes: &Wishes<'_>,
    mut on_event: impl FnMut(&Event),
) -> Result<Outcome, Error> {
    let mut events = Events::open(layout)?.ok_or(Error::TakenDown)?;
    let mut pending: Vec<String> = Vec::new();
    let mut is_stopping = false;
    loop {
        // Looked at before the events: what the supervisor wrote last is read after it ended.
        let supervisor_lives = supervisor.is_alive();
        while let Some(event) = events.next() {
            on_event(&event);
            match event {
                Event::Started { step, .. } => pending.push(step),
                Event::Ready { step, .. } => pending.retain(|waiting| *waiting != step),
                Event::Restarting { .. } | Event::Warning { .. } => {}
                Event::Up { .. } => return Ok(Outcome::CameUp),
                Event::Stopping => is_stopping = true,
                Event::Failed { message, id } => return Err(Error::Supervisor { message, id }),
            }
        }
        if !supervisor_lives && is_stopping {
            return Err(Error::TakenDown);
        }
        if !supervisor_lives {
            return Err(Error::SupervisorDied { log: logs::tail(layout, SUPERVISOR, 10) });
        }
        refuse_interrupted(wishes)?;
        if start.elapsed() >= wishes.wait {
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
    refuse_another(layout)?;
    exec::refuse_running(layout)?;
    let mut was_running = false;
    if layout.runtime().exists() {
        let mut stopped = None;
        let lock = lock_once_ended(layout, || {
            // First, lest it starts the supervisor again that is stopped next.
            stop_guardian(layout)?;
            if let Some(supervisor) = process::recorded(layout, SUPERVISOR) {
                // An `up` that waited for the end has begun another cluster since: that one nobody asked to end.
                if stopped.as_ref().is_some_and(|stopped| *stopped != supervisor) {
                    return Ok(false);
                }
                supervisor.stop(SUPERVISOR, DOWN_LIMIT)?;
                stopped = Some(supervisor);
            }
            Ok(true)
        })?;
        was_running = stopped.is_some();
        let Some(lock) = lock else {
            let data_dir = layout.data().to_owned();
            return if purge { Err(Error::AlreadyRunning { data_dir }) } else { Ok(true) };
        };
        // One that the supervisor started in its last moment.
        stop_guardian(layout)?;
        was_running |= remove_rest(layout, lock)?;
    }
    if purge {
        layout.purge()?;
    }
    Ok(was_running)
}

fn stop_guardian(layout: &Layout) -> Result<(), Error> {
    process::recorded(layout, GUARDIAN).map_or(Ok(()), |guardian| guardian.stop(GUARDIAN, GUARDIAN_GRACE))
}

/// Starts guardian and supervisor again where both are gone and the components are not; `false` if there was no need. They
/// are on record when it returns.
///
/// # Errors
/// They cannot be started.
pub fn revive(layout: &Layout) -> Result<bool, Error> {
    if process::any_recorded(layout, &[SUPERVISOR, GUARDIAN]) || !process::any_recorded(layout, SERVICES) {
        return Ok(false);
    }
    let mut child = guardian::spawn(layout, Begin::Resume, &Options::default(), Stdio::null())?;
    let never = AtomicBool::new(false);
    let wishes = Wishes { wait: REVIVAL_LIMIT, api_port: None, reset_store: false, interrupted: &never };
    recorded_supervisor(layout, &mut child, Instant::now(), &wishes)?;
    Ok(true)
}

/// Undoes what a supervisor left behind that was killed or could not undo everything, and removes the runtime directory;
/// `false` if there was nothing to undo.
fn remove_rest(layout: &Layout, lock: File) -> Result<bool, Error> {
    let is_left = layout.journal().exists();
    if is_left {
        supervisor::stop_orphaned(layout, &lock)?;
    }
    exec::sweep(layout)?;
    layout.remove_runtime()?;
    drop(lock);
    Ok(is_left)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use terrarium_remedies::Isolation;

    use super::*;
    use crate::ErrorId;
    use crate::events::Progress;

    fn sleeper() -> (Child, ProcessRef) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = ProcessRef::of(child.id().cast_signed()).unwrap();
        (child, process)
    }

    fn dead() -> ProcessRef {
        let (mut child, process) = sleeper();
        child.kill().unwrap();
        child.wait().unwrap();
        process
    }

    /// What `follow` says of a start that wrote these events, at once.
    fn followed(
        supervisor: &ProcessRef,
        events: &[Event],
        interrupted: &AtomicBool,
    ) -> (Result<Outcome, Error>, Vec<Event>) {
        let (_root, layout) = Layout::temporary();
        let progress = Progress::create(&layout, Instant::now()).unwrap();
        events.iter().for_each(|event| progress.report(event));
        fs::write(layout.log(SUPERVISOR), "last words\n").unwrap();
        let mut told = Vec::new();
        let wishes = Wishes { wait: Duration::ZERO, api_port: None, reset_store: false, interrupted };
        let result = follow(&layout, supervisor, Instant::now(), &wishes, |event| told.push(event.clone()));
        (result, told)
    }

    #[test]
    fn a_supervisor_that_has_no_record_yet_is_waited_for() {
        let (_root, layout) = Layout::temporary();
        let lock = supervisor::lock(&layout).unwrap();
        let (mut child, late) = sleeper();
        std::thread::scope(|scope| {
            let undone = scope.spawn(|| undo_start(&layout, || false));
            std::thread::sleep(Duration::from_millis(50));
            assert!(layout.runtime().exists());
            process::record(&layout, SUPERVISOR, &late).unwrap();
            assert!(!child.wait().unwrap().success(), "it is ended");
            drop(lock);
            undone.join().unwrap().unwrap();
        });
        assert!(!layout.runtime().exists());

        // That of another `up` is none of ours.
        let _lock = supervisor::lock(&layout).unwrap();
        undo_start(&layout, || true).unwrap();
        assert!(layout.runtime().exists());
    }

    #[test]
    fn each_end_of_a_start_is_told_from_the_others() {
        let started = |step: &str| Event::Started { step: step.to_owned(), label: String::new() };
        let ready = Event::Ready { step: "containerd".to_owned(), seconds: 1.0 };
        let begun = [started("containerd"), ready, started("kubelet"), started("images")];
        let own = ProcessRef::of(std::process::id().cast_signed()).unwrap();

        let never = AtomicBool::new(false);
        let (result, told) = followed(&own, &begun, &never);
        assert!(matches!(result, Err(Error::Timeout { waiting_for }) if waiting_for == "kubelet, images"));
        assert_eq!(told, begun);

        let (result, _) = followed(&own, &begun, &AtomicBool::new(true));
        assert!(matches!(result, Err(Error::Interrupted { .. })));

        let (result, _) = followed(&dead(), &begun, &never);
        assert!(matches!(result, Err(Error::SupervisorDied { log }) if log.contains("last words")));

        let (result, _) = followed(&dead(), &[Event::Stopping], &never);
        assert!(matches!(result, Err(Error::TakenDown)));

        let failed = Event::Failed { message: "no disk".to_owned(), id: ErrorId::NoSpace };
        let (result, _) = followed(&dead(), &[Event::Stopping, failed], &never);
        let error = result.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.id()), ("no disk", ErrorId::NoSpace));

        // That it ended since is the next command's business.
        let (result, _) = followed(&dead(), &[Event::Up { seconds: 9.0 }], &never);
        assert!(result.is_ok());
    }

    #[test]
    fn another_clusters_sandbox_is_left_alone() {
        let (_root, layout) = Layout::temporary();
        fs::write(layout.data_dir_note(), "/other").unwrap();
        process::record(&layout, SUPERVISOR, &dead()).unwrap();
        refuse_another(&layout).unwrap();

        let own = ProcessRef::of(std::process::id().cast_signed()).unwrap();
        process::record(&layout, SUPERVISOR, &own).unwrap();
        let error = refuse_another(&layout).unwrap_err().to_string();
        assert!(error.contains("/other"), "{error}");

        // Its supervisor was killed; what it mounted and started is still there.
        fs::remove_file(layout.record(SUPERVISOR)).unwrap();
        drop(Journal::create(&layout.journal(), Isolation::Mount).unwrap());
        assert!(matches!(refuse_another(&layout), Err(Error::AlreadyRunning { .. })));

        fs::write(layout.data_dir_note(), layout.data().as_os_str().as_encoded_bytes()).unwrap();
        refuse_another(&layout).unwrap();
    }

    #[test]
    fn down_ends_the_supervisor_and_keeps_the_data_unless_it_is_to_go() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: `down` is for root");
            return;
        }
        let (_root, layout) = Layout::temporary();
        let (mut child, process) = sleeper();
        process::record(&layout, SUPERVISOR, &process).unwrap();
        assert!(down(&layout, false).unwrap());
        assert!(child.try_wait().unwrap().is_some());
        assert!(!layout.runtime().exists() && layout.data().join("terrarium.json").exists());
        assert!(!down(&layout, true).unwrap());
        assert!(!layout.data().exists());
        assert!(!down(&layout, true).unwrap(), "what is gone already is fine");
    }

    #[test]
    fn the_lock_holds_although_its_file_is_removed_under_it() {
        let (_root, layout) = Layout::temporary();
        let holders = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let Ok(_lock) = supervisor::lock(&layout) else { continue };
                        let others = holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        std::thread::yield_now();
                        // What must be done by one alone is done: once the file is gone, another makes the next.
                        holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        fs::remove_file(layout.lock()).unwrap();
                        assert_eq!(others, 0, "two hold it");
                    }
                });
            }
        });
    }
}
