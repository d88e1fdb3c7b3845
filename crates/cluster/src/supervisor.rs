//! The supervisor: one background process that brings a cluster up, keeps its components running, and takes it down.
//!
//! It holds a lock, so there is one at a time. Killed, it leaves the components running; the next one finds their mount
//! namespace by the journal, joins it, and goes on with them by their records.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use kube::Client;
use nix::sys::signal::{SigSet, Signal};
use terrarium_remedies::{Journal, Site, apply_all, namespace};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::{interval, sleep};

use crate::component::{self, CommandLine, Component, Name, Readiness, Runs, SUPERVISOR, Spec, Step};
use crate::config::{self, Network};
use crate::events::Progress;
use crate::process::{self, ProcessRef};
use crate::{Error, Event, Layout, logs, node, preflight, readiness, stop};

/// How often readiness is asked for.
const READINESS_INTERVAL: Duration = Duration::from_millis(40);

/// How often is looked whether a process still runs: also for those that are not our children.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(200);

/// How long to wait for a `down` that goes on where another one was.
const LOCK_LIMIT: Duration = Duration::from_secs(90);

/// A component that ends so often without having been ready will not start.
const ATTEMPTS: u32 = 3;

/// The wait before a component is started again; doubled each time, to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A component that ran for this long starts with the shortest wait again.
const SETTLED: Duration = Duration::from_secs(60);

/// Runs a cluster until SIGTERM or SIGINT, then takes it down. Call it before the process has a second thread; `start`
/// is when the user asked for the cluster.
///
/// # Errors
/// The cluster could not be brought up, or not be taken down. What could be undone is undone.
pub fn run(layout: &Layout, start: Instant) -> Result<(), Error> {
    // Away from the terminal of whoever called `up`: neither its Ctrl-C nor its end is for the cluster. It fails for
    // who leads a group of processes already, called by hand from a shell: then that is what was asked for.
    let _ = nix::unistd::setsid();
    let _lock = wait_for_lock(layout)?;
    // A `down` that held the lock has removed what `up` had made ready.
    layout.prepare()?;
    let own = ProcessRef::of(std::process::id().cast_signed()).ok_or(Error::NotRunning)?;
    let progress = Progress::create(layout, start)?;
    crate::layout::write(&layout.data_dir_note(), layout.data().as_os_str().as_encoded_bytes())?;
    // A signal that comes before it can be answered waits: dying half-way through the remedies would leave to others
    // what only this mount namespace can undo.
    let masked = |errno: nix::Error| Error::io("block the signals of", "the supervisor")(errno.into());
    end_signals().thread_block().map_err(masked)?;
    // The last one: who finds the record finds what belongs to it.
    process::record(layout, SUPERVISOR, &own)?;
    let result = bring_up_and_serve(layout, &progress);
    if let Err(error) = &result {
        progress.report(&Event::Failed { message: crate::error::chain(error), id: error.id() });
    }
    result
}

/// The signals that ask for the end.
fn end_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
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
                std::thread::sleep(READINESS_INTERVAL);
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

fn bring_up_and_serve(layout: &Layout, progress: &Progress) -> Result<(), Error> {
    let (mut journal, adopted) = match Journal::open(&layout.journal())? {
        Some(journal) if journal.namespace().join()? => (journal, true),
        leftover => {
            stop::stop_cluster(layout, leftover)?;
            layout.prepare()?;
            preflight::check(layout)?;
            namespace::enter_new()?;
            (Journal::create(&layout.journal())?, false)
        }
    };
    let result =
        components(layout, progress, &mut journal, adopted).and_then(|components| serve(layout, progress, components));
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
    let (node, address, api_port) = (layout.node_name(node::name)?, node::address()?, layout.api_port()?);
    let spec = Spec { layout, node, address, network: Network::default(), settings, api_port };
    if !adopted {
        config::write_all(&spec)?;
    }
    progress.report(&Event::Ready { step: STEP.to_owned(), seconds: progress.seconds() });
    component::components(&spec)
}

/// What the tasks that run the components share.
struct Shared {
    layout: Layout,
    client: Client,
    /// Whether each component is ready.
    ready: HashMap<Name, watch::Sender<bool>>,
    failures: mpsc::UnboundedSender<Error>,
    events: mpsc::UnboundedSender<Event>,
}

/// Runs the components until a signal says stop, or one of them turns out not to start.
fn serve(layout: &Layout, progress: &Progress, components: Vec<Component>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start the event loop of", "the supervisor"))?;
    LocalSet::new().block_on(&runtime, async {
        let (failures, mut failed) = mpsc::unbounded_channel();
        let (events, mut happened) = mpsc::unbounded_channel();
        let ready = components.iter().map(|component| (component.name, watch::Sender::new(false))).collect();
        let client = readiness::client(layout).await?;
        let shared = Rc::new(Shared { layout: layout.clone(), client, ready, failures, events });
        let mut waiting = components.len();
        for component in components {
            tokio::task::spawn_local(run_component(shared.clone(), component));
        }

        let signal = |kind| signal(kind).map_err(Error::io("handle the signals of", "the supervisor"));
        let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // What came before goes to the streams now.
        let unmasked = |errno: nix::Error| Error::io("take the signals of", "the supervisor")(errno.into());
        end_signals().thread_unblock().map_err(unmasked)?;
        let mut rotation = interval(Duration::from_secs(10));
        loop {
            tokio::select! {
                _ = terminated.recv() => return Ok(()),
                _ = interrupted.recv() => return Ok(()),
                Some(error) = failed.recv() => return Err(error),
                Some(event) = happened.recv() => {
                    let event = match event {
                        Event::Ready { step, .. } => Event::Ready { step, seconds: progress.seconds() },
                        other => other,
                    };
                    progress.report(&event);
                    if matches!(event, Event::Ready { .. }) {
                        waiting -= 1;
                        if waiting == 0 {
                            progress.report(&Event::Up { seconds: progress.seconds() });
                        }
                    }
                }
                _ = rotation.tick() => if let Err(error) = logs::rotate_all(layout) {
                    tracing::warn!("{}", crate::error::chain(&error));
                },
            }
        }
    })
}

/// Waits for what the component needs, then runs it for good.
async fn run_component(shared: Rc<Shared>, component: Component) {
    for need in component.needs {
        // The sender lives as long as `shared`.
        let _ = shared.ready[need].subscribe().wait_for(|ready| *ready).await;
    }
    let (name, label) = (component.name.to_owned(), component.label.to_owned());
    let _ = shared.events.send(Event::Started { step: name, label });
    let result = match &component.runs {
        Runs::Task(steps) => run_task(&shared, component.name, steps).await,
        Runs::Service { command, env, ready } => run_service(&shared, component.name, command, env, ready).await,
    };
    if let Err(error) = result {
        let _ = shared.failures.send(error);
    }
}

impl Shared {
    fn is_ready(&self, name: Name) {
        // Reported the first time only: what comes later is a restart.
        if !self.ready[name].send_replace(true) {
            let _ = self.events.send(Event::Ready { step: name.to_owned(), seconds: 0.0 });
        }
    }

    fn failed(&self, name: Name, why: String) -> Error {
        Error::Component { component: name.to_owned(), why, log: logs::tail(&self.layout, name, 20) }
    }
}

async fn run_task(shared: &Shared, name: Name, steps: &[Step]) -> Result<(), Error> {
    for Step { command, essential } in steps {
        let mut process = Running::Child(spawn(&shared.layout, name, command, &[])?);
        let why = process.ended().await;
        if why.is_success() {
            continue;
        }
        if *essential {
            return Err(shared.failed(name, why.to_string()));
        }
        let subject = command.args.last().map_or(name, String::as_str);
        let message = format!("{subject}: {why}; it is left out, see `terrarium logs {name}`");
        tracing::warn!("{message}");
        let _ = shared.events.send(Event::Warning { message });
    }
    shared.is_ready(name);
    Ok(())
}

async fn run_service(
    shared: &Shared,
    name: Name,
    command: &CommandLine,
    env: &[(&'static str, String)],
    ready: &Readiness,
) -> Result<(), Error> {
    let mut attempts = 0;
    let mut back_off = BACK_OFF.0;
    loop {
        let since = SystemTime::now();
        let start = Instant::now();
        let mut process = match process::recorded(&shared.layout, name) {
            Some(process) => Running::Adopted(process),
            None => {
                let child = spawn(&shared.layout, name, command, env)?;
                if let Some(process) = ProcessRef::of(child.id().cast_signed()) {
                    process::record(&shared.layout, name, &process)?;
                }
                Running::Child(child)
            }
        };
        // An adopted kubelet does not say again what it said before.
        let since = if matches!(process, Running::Adopted(_)) { SystemTime::UNIX_EPOCH } else { since };
        let became_ready = tokio::select! {
            () = until_ready(ready, &shared.client, since) => true,
            _ = process.ended() => false,
        };
        if became_ready {
            shared.is_ready(name);
        }
        let why = process.ended().await;
        attempts += 1;
        if !became_ready && !*shared.ready[name].borrow() && attempts >= ATTEMPTS {
            return Err(shared.failed(name, why.to_string()));
        }
        tracing::warn!("{name}: {why}; it is started again in {back_off:?}");
        let _ = shared.events.send(Event::Restarting { step: name.to_owned(), why: why.to_string() });
        if start.elapsed() >= SETTLED {
            back_off = BACK_OFF.0;
        }
        sleep(back_off).await;
        back_off = (back_off * 2).min(BACK_OFF.1);
    }
}

async fn until_ready(ready: &Readiness, client: &Client, since: SystemTime) {
    while !readiness::is_ready(ready, client, since).await {
        sleep(READINESS_INTERVAL).await;
    }
}

/// Starts a program whose output goes to the component's log, in a process group of its own: a terminal's Ctrl-C is
/// not for it.
fn spawn(layout: &Layout, name: Name, command: &CommandLine, env: &[(&'static str, String)]) -> Result<Child, Error> {
    let log = logs::open(layout, name)?;
    let error_log = log.try_clone().map_err(Error::io("open", layout.log(name)))?;
    Command::new(&command.program)
        .args(&command.args)
        .envs(env.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(error_log)
        .process_group(0)
        .spawn()
        .map_err(Error::io("run", &command.program))
}

/// A component's process: our child, or one that an earlier supervisor started.
enum Running {
    Child(Child),
    Adopted(ProcessRef),
}

/// How a process ended; of an adopted one nobody knows.
enum Ended {
    Known(ExitStatus),
    Unknown,
}

impl Ended {
    fn is_success(&self) -> bool {
        matches!(self, Self::Known(status) if status.success())
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(status) => write!(f, "it ended with {status}"),
            Self::Unknown => write!(f, "it ended"),
        }
    }
}

impl Running {
    async fn ended(&mut self) -> Ended {
        loop {
            match self {
                Self::Child(child) => match child.try_wait() {
                    Ok(Some(status)) => return Ended::Known(status),
                    Ok(None) => {}
                    Err(_) => return Ended::Unknown,
                },
                Self::Adopted(process) if !process.is_alive() => return Ended::Unknown,
                Self::Adopted(_) => {}
            }
            sleep(LIVENESS_INTERVAL).await;
        }
    }
}
