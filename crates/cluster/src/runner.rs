//! The supervisor's event loop: the components in dependency order, what they report, and the chores beside them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use kube::Client;
use nix::sys::signal::SigSet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::{Instant, interval, interval_at, sleep};

use crate::component::{Component, Name, Runs, SERVER, Step};
use crate::events::Progress;
use crate::guardian::Ward;
use crate::history::History;
use crate::service::{self, Running, Service};
use crate::{Addon, Error, Event, Layout, forwarder, known, launch, logs, objects, readiness, renewal};

/// How often logs are looked at for their size.
const ROTATION_INTERVAL: Duration = Duration::from_secs(10);

/// How long to wait before a task's command is tried again.
const STEP_INTERVAL: Duration = Duration::from_secs(2);

/// How often is looked whether the guardian lives.
const GUARDIAN_INTERVAL: Duration = Duration::from_secs(2);

/// What the tasks that run the components share.
pub(crate) struct Shared {
    pub(crate) layout: Layout,
    /// Replaced when the administrator's certificate is.
    client: RefCell<Client>,
    /// Whether each component is ready.
    ready: HashMap<Name, watch::Sender<bool>>,
    /// Why a service is to be started again although it is well; told to whoever runs it.
    restart: HashMap<Name, watch::Sender<String>>,
    failures: mpsc::UnboundedSender<Error>,
    events: mpsc::UnboundedSender<Event>,
}

/// Runs the components until a signal says stop, or one of them turns out not to start. The signals that were `blocked` up
/// to now are taken.
pub(crate) fn run(
    layout: &Layout,
    progress: &Progress,
    components: Vec<Component>,
    guardian: &mut Ward,
    listener: Option<TcpListener>,
    blocked: SigSet,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start the event loop of", "the supervisor"))?;
    LocalSet::new().block_on(&runtime, async {
        let (failures, mut failed) = mpsc::unbounded_channel();
        let (events, mut happened) = mpsc::unbounded_channel();
        let shared = Rc::new(Shared {
            layout: layout.clone(),
            client: RefCell::new(readiness::client(layout).await?),
            ready: components.iter().map(|component| (component.name, watch::Sender::new(false))).collect(),
            restart: components.iter().map(|component| (component.name, watch::Sender::default())).collect(),
            failures,
            events,
        });
        if let Some(listener) = listener {
            tokio::task::spawn_local(forwarder::forward(listener));
        }
        let mut waiting = components.iter().filter(|component| Addon::of(component.name).is_none()).count();
        for addon in Addon::ALL {
            tokio::task::spawn_local(addon.announce(shared.clone()));
        }
        for component in components {
            tokio::task::spawn_local(run_component(shared.clone(), component));
        }

        let signal = |kind| signal(kind).map_err(Error::io("handle the signals of", "the supervisor"));
        let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // What came before goes to the streams now.
        let unmasked = |errno: nix::Error| Error::io("take the signals of", "the supervisor")(errno.into());
        blocked.thread_unblock().map_err(unmasked)?;
        let mut rotation = interval(ROTATION_INTERVAL);
        // Not at once: whoever ends both ends the guardian first.
        let mut watch_over_guardian = interval_at(Instant::now() + GUARDIAN_INTERVAL, GUARDIAN_INTERVAL);
        let mut certificates = interval(renewal::interval());
        loop {
            tokio::select! {
                biased;
                _ = terminated.recv() => return Ok(()),
                _ = interrupted.recv() => return Ok(()),
                Some(error) = failed.recv() => return Err(error),
                Some(event) = happened.recv() => report(layout, progress, event, &mut waiting),
                _ = rotation.tick() => if let Err(error) = logs::rotate_all(layout) {
                    tracing::warn!("{}", crate::error::chain(&error));
                },
                _ = watch_over_guardian.tick() => guardian.look_after(layout),
                _ = certificates.tick() => renew(&shared).await,
            }
        }
    })
}

fn report(layout: &Layout, progress: &Progress, event: Event, waiting: &mut usize) {
    let Event::Ready { step, .. } = event else { return progress.report(&event) };
    let is_addon = Addon::of(&step).is_some();
    progress.report(&Event::Ready { step, seconds: progress.seconds() });
    if is_addon {
        return;
    }
    *waiting -= 1;
    if *waiting == 0 {
        // What it is for can wait for the next start, where the disk is full.
        let _ = layout.set_was_up(true);
        progress.report(&Event::Up { seconds: progress.seconds() });
    }
}

/// Issues the certificates anew if it is time. Components read them again by themselves within minutes. The server is
/// started again all the same: the certificate that it makes for its own use lasts as long and is made at its start.
async fn renew(shared: &Shared) {
    match renewal::renew_if_due(&shared.layout) {
        Ok(false) => return,
        Ok(true) => {}
        Err(error) => return tracing::warn!("{}; it is tried again", crate::error::chain(&error)),
    }
    match readiness::client(&shared.layout).await {
        Ok(client) => drop(shared.client.replace(client)),
        Err(error) => tracing::warn!("{}", crate::error::chain(&error)),
    }
    shared.warn("the certificates were renewed; `terrarium up` puts the new one into your kubeconfig".to_owned());
    if let Some(server) = shared.restart.get(SERVER) {
        server.send_replace("its certificates were renewed".to_owned());
    }
}

/// Waits for what the component needs, makes sure of its objects, then runs it for good.
async fn run_component(shared: Rc<Shared>, component: Component) {
    for need in component.needs {
        shared.until_ready(need).await;
    }
    objects::ensure(&shared, &component.objects).await;
    let (name, label) = (component.name, component.label.to_owned());
    if let Some(addon) = Addon::of(name) {
        addon.prepare(&shared).await;
    }
    shared.report(Event::Started { step: name.to_owned(), label });
    let result = match &component.runs {
        Runs::Task(steps) => run_task(&shared, name, steps).await,
        Runs::Service { command, env, ready } => service::run(&shared, &Service { name, command, env, ready }).await,
    };
    if let Err(error) = result {
        let _ = shared.failures.send(error);
    }
}

/// Runs the commands of a task, unless they ran already since the cluster started: under an earlier supervisor, then.
async fn run_task(shared: &Shared, name: Name, steps: &[Step]) -> Result<(), Error> {
    let mut history = History::load(&shared.layout, name);
    if !history.was_ready {
        for step in steps {
            run_step(shared, name, step).await?;
        }
        history.ready(&shared.layout, name);
    }
    shared.is_ready(name);
    Ok(())
}

/// Runs a command to its end; one that the cluster cannot do without is tried again, since what it talks to may have been
/// started again meanwhile.
async fn run_step(shared: &Shared, name: Name, step: &Step) -> Result<(), Error> {
    const ATTEMPTS: u32 = 3;
    let log_start = logs::length(&shared.layout, name);
    for attempt in 1.. {
        let why = Running::of(launch::step(&shared.layout, name, &step.command)?).ended().await;
        if why.is_success() {
            break;
        }
        if !step.essential {
            let subject = step.command.args.last().map_or(name, String::as_str);
            shared.warn(format!("{subject}: {why}; it is left out, see `terrarium logs {name}`"));
            break;
        }
        if attempt == ATTEMPTS {
            return Err(shared.failed(name, why.to_string(), log_start));
        }
        tracing::warn!("{name}: {why}; it is tried again");
        sleep(STEP_INTERVAL).await;
    }
    Ok(())
}

impl Shared {
    pub(crate) fn client(&self) -> Client {
        self.client.borrow().clone()
    }

    pub(crate) fn report(&self, event: Event) {
        // The receiver lives as long as the event loop.
        let _ = self.events.send(event);
    }

    pub(crate) fn warn(&self, message: String) {
        tracing::warn!("{message}");
        self.report(Event::Warning { message });
    }

    /// Reported the first time only: what comes later is a restart.
    pub(crate) fn is_ready(&self, name: Name) {
        if !self.ready[name].send_replace(true) {
            self.report(Event::Ready { step: name.to_owned(), seconds: 0.0 });
        }
    }

    /// Whether the component is one of this cluster.
    pub(crate) fn knows(&self, name: Name) -> bool {
        self.ready.contains_key(name)
    }

    /// Waits until the component, which is one of this cluster, is ready for the first time.
    pub(crate) async fn until_ready(&self, name: Name) {
        // The sender lives as long as `self`.
        let _ = self.ready[name].subscribe().wait_for(|ready| *ready).await;
    }

    /// Where it is told that, and why, the service is to be started again.
    pub(crate) fn restart(&self, name: Name) -> watch::Receiver<String> {
        self.restart[name].subscribe()
    }

    /// The error for a component that does not start: what its log says since then that is known to keep it from that,
    /// and its last lines.
    pub(crate) fn failed(&self, name: Name, why: String, log_start: u64) -> Error {
        let explained = known::explain(name, &logs::since(&self.layout, name, log_start));
        let log = format!("{explained}{}", logs::tail(&self.layout, name, 20));
        Error::Component { component: name.to_owned(), why, log }
    }
}
