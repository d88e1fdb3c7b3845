//! The life of one service: taken over or started, waited for, asked whether it is well, and started again when it ends.

use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use tokio::time::{sleep, timeout};

use crate::component::{CommandLine, Name, Readiness};
use crate::health::{self, Change, Health};
use crate::history::History;
use crate::process::{self, ProcessRef};
use crate::restart::{Policy, Verdict};
use crate::runner::Shared;
use crate::{Addon, Error, Event, Layout, launch, logs, readiness};

/// How often readiness is asked for.
const READINESS_INTERVAL: Duration = Duration::from_millis(40);

/// How often is looked whether a process still runs: also for those that are not our children.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(200);

/// How long a service may take to end by itself before it is started again.
const GRACE: Duration = Duration::from_secs(10);

/// One service, as the component's data has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service<'a> {
    pub(crate) name: Name,
    pub(crate) command: &'a CommandLine,
    pub(crate) env: &'a [(&'static str, String)],
    pub(crate) ready: &'a Readiness,
}

/// Runs the service for good.
///
/// # Errors
/// It cannot be started, and was never ready.
pub(crate) async fn run(shared: &Shared, service: &Service<'_>) -> Result<(), Error> {
    let (layout, name) = (&shared.layout, service.name);
    let mut history = History::load(layout, name);
    // An add-on is tried for as long as it takes: the cluster is up without it.
    let mut policy = Policy::new(history.was_ready || Addon::of(name).is_some());
    loop {
        let start = Instant::now();
        let log_start = logs::length(layout, name);
        let why = match Running::obtain(layout, service) {
            Ok(mut process) => live(shared, service, &mut process, &mut policy, &mut history).await,
            // As on a disk that is full by now: what is up stays up, and this is tried again.
            Err(error) if policy.was_ever_ready() => crate::error::chain(&error),
            Err(error) => return Err(error),
        };
        if process::recorded(layout, name).is_some() {
            // Ours found that another supervisor's runs already, and let it be.
            continue;
        }
        match policy.ended(Instant::now(), start.elapsed()) {
            Verdict::GiveUp => return Err(shared.failed(name, why, log_start)),
            Verdict::Again { after, is_new_loop } => {
                history.ended(layout, name, &why, after);
                tell(shared, name, &why, after, is_new_loop);
                sleep(after).await;
            }
        }
    }
}

fn tell(shared: &Shared, name: Name, why: &str, after: Duration, is_new_loop: bool) {
    tracing::warn!("{name}: {why}; it is started again in {after:?}");
    shared.report(Event::Restarting { step: name.to_owned(), why: why.to_owned() });
    if is_new_loop {
        let log = logs::tail(&shared.layout, name, 5);
        shared.warn(format!("{name} ends again and again, the last time because {why}:\n{}", log.trim_end()));
    }
}

/// From the start of its process to the end of it; returns how it ended.
async fn live(
    shared: &Shared,
    service: &Service<'_>,
    process: &mut Running,
    policy: &mut Policy,
    history: &mut History,
) -> String {
    let (layout, name) = (&shared.layout, service.name);
    let mut restart = shared.restart(name);
    history.started(layout, name);
    // Nobody waits for an add-on, so nobody else would tell.
    let is_addon = Addon::of(name).is_some();
    if is_addon {
        history.is_unhealthy(layout, name, Some("it is not ready yet".to_owned()));
    }
    let since = process.since();
    let limit = start_limit(service.ready);
    tokio::select! {
        ended = process.ended() => return ended.to_string(),
        became_ready = timeout(limit, until_ready(shared, service.ready, since)) => if became_ready.is_err() {
            let why = format!("it was not ready within {} s and was stopped", limit.as_secs());
            shared.warn(format!("{name}: {why}"));
            process.stop().await;
            return why;
        }
    }
    policy.is_ready();
    history.ready(layout, name);
    if is_addon {
        history.is_unhealthy(layout, name, None);
    }
    shared.is_ready(name);
    let mut health = Health::default();
    loop {
        tokio::select! {
            ended = process.ended() => return ended.to_string(),
            // The sender lives as long as `shared`.
            _ = restart.changed() => {
                process.stop().await;
                return restart.borrow().clone();
            }
            answered = ask(shared, service) => {
                process.record(layout, name);
                if let Some(why) = look_after(shared, name, &mut health, answered, history) {
                    process.stop().await;
                    return why;
                }
            }
        }
    }
}

/// Asks whether it is well, and returns the answer when it is time for the next question.
async fn ask(shared: &Shared, service: &Service<'_>) -> bool {
    let client = shared.client();
    let (answered, ()) = tokio::join!(health::answers(service.ready, &client), sleep(health::INTERVAL));
    answered
}

/// Notes an answer or that there was none; returns why the service must be started again, if it must.
fn look_after(
    shared: &Shared,
    name: Name,
    health: &mut Health,
    answered: bool,
    history: &mut History,
) -> Option<String> {
    let change = health.asked(answered);
    let why = format!("it has not answered for {} s", health.silence().as_secs());
    match change {
        Change::None => {}
        Change::Unhealthy => {
            shared.warn(format!("{name} lives, but {why}"));
            history.is_unhealthy(&shared.layout, name, Some(why));
        }
        Change::Recovered => {
            tracing::info!("{name} answers again");
            history.is_unhealthy(&shared.layout, name, None);
        }
        Change::Hopeless => return Some(format!("{why} and was stopped")),
    }
    None
}

/// How long a service may take until it is ready; after that it is started again.
fn start_limit(ready: &Readiness) -> Duration {
    Duration::from_secs(match ready {
        Readiness::Greeting(_) | Readiness::Http { .. } | Readiness::Https { .. } | Readiness::Socket(_) => 60,
        Readiness::Api => 180,
        Readiness::Node(_) => 120,
    })
}

async fn until_ready(shared: &Shared, ready: &Readiness, since: SystemTime) {
    loop {
        let client = shared.client();
        if readiness::is_ready(ready, &client, since).await {
            return;
        }
        sleep(READINESS_INTERVAL).await;
    }
}

/// A component's process: our child, or one that an earlier supervisor started.
pub(crate) enum Running {
    Child { child: Child, since: SystemTime },
    Adopted(ProcessRef),
}

/// How a process ended; of an adopted one nobody knows.
pub(crate) enum Ended {
    Known(ExitStatus),
    Unknown,
}

impl Ended {
    pub(crate) fn is_success(&self) -> bool {
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
    fn obtain(layout: &Layout, service: &Service<'_>) -> Result<Self, Error> {
        if let Some(process) = process::recorded(layout, service.name) {
            return Ok(Self::Adopted(process));
        }
        let since = SystemTime::now();
        launch::service(layout, service.name, service.command, service.env).map(|child| Self::Child { child, since })
    }

    pub(crate) fn of(child: Child) -> Self {
        Self::Child { child, since: SystemTime::now() }
    }

    /// Since when its word counts: an adopted kubelet does not say again what it said before.
    fn since(&self) -> SystemTime {
        match self {
            Self::Child { since, .. } => *since,
            Self::Adopted(_) => SystemTime::UNIX_EPOCH,
        }
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) -> Ended {
        loop {
            match self {
                Self::Child { child, .. } => match child.try_wait() {
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

    fn process(&self) -> Option<ProcessRef> {
        match self {
            Self::Child { child, .. } => ProcessRef::of(child.id().cast_signed()),
            Self::Adopted(process) => Some(process.clone()),
        }
    }

    /// Records it if it could not do so itself, as on a disk that was full.
    fn record(&self, layout: &Layout, name: Name) {
        if let Some(process) = self.process()
            && process::recorded(layout, name).is_none()
            && let Err(error) = process::record(layout, name, &process)
        {
            tracing::warn!("{name} is not on record, and is tried again: {}", crate::error::chain(&error));
        }
    }

    /// Asks it to end, and kills it if it does not.
    async fn stop(&mut self) {
        let Some(process) = self.process() else { return };
        process.signal(Signal::SIGTERM);
        if timeout(GRACE, self.ended()).await.is_err() {
            process.signal(Signal::SIGKILL);
            self.ended().await;
        }
    }
}
