//! The supervisor: one background process that brings a cluster up, keeps its components running, and takes it down.
//!
//! It holds a lock, so there is one at a time. Killed, it leaves the components running; the next one finds their mount
//! namespace by the journal, joins it, and goes on with them by their records.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use terrarium_remedies::{Isolation, Journal, NODE_ADDRESS, Plan, namespace};

use crate::component::{self, Component, SUPERVISOR, Spec};
use crate::config;
use crate::dns::{self, Resolvers};
use crate::events::Progress;
use crate::guardian::Ward;
use crate::process::{self, ProcessRef};
use crate::{Error, Event, Layout, Options, exec, forwarder, gate, preflight, preparation, runner, stop};

/// How often is looked whether the lock is free.
const LOCK_INTERVAL: Duration = Duration::from_millis(40);

/// How long to wait for a `down` that goes on where another one was.
const LOCK_LIMIT: Duration = Duration::from_secs(90);

/// Why a supervisor runs.
#[derive(Clone, Debug)]
pub struct Call {
    /// What the user decided; of a cluster that is gone on with, what is kept counts.
    pub options: Options,
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
    // Up to its record nobody else could find it to end it.
    let alone = |errno: nix::Error| Error::io("be told of the end of", "the guardian")(errno.into());
    prctl::set_pdeathsig(Signal::SIGTERM).map_err(alone)?;
    if call.guardian.is_some_and(|guardian| nix::unistd::getppid().as_raw() != guardian) {
        return Ok(());
    }
    let _lock = wait_for_lock(layout)?;
    if call.resume && !layout.data_dir_note().exists() {
        // A `down` that held the lock was quicker.
        return layout.remove_runtime();
    }
    // A `down` that held the lock has removed what `up` had made ready.
    layout.prepare()?;
    let kept = if call.resume { Options::kept(layout)? } else { None };
    let options = kept.unwrap_or(call.options);
    let own = ProcessRef::of(std::process::id().cast_signed()).ok_or(Error::NotRunning)?;
    let progress = Progress::create(layout, call.start)?;
    crate::layout::write(&layout.data_dir_note(), layout.data().as_os_str().as_encoded_bytes())?;
    // A signal that comes before it can be answered waits: dying half-way through the remedies would leave to others
    // what only this mount namespace can undo.
    let masked = |errno: nix::Error| Error::io("block the signals of", "the supervisor")(errno.into());
    end_signals().thread_block().map_err(masked)?;
    // The last one: who finds the record finds what belongs to it.
    process::record(layout, SUPERVISOR, &own)?;
    prctl::set_pdeathsig(None).map_err(masked)?;
    let guardian = Ward::begin(layout, call.guardian);
    let result = bring_up_and_serve(layout, &options, &progress, guardian);
    if let Err(error) = &result {
        progress.report(&Event::Failed { message: crate::error::chain(error), id: error.id() });
    }
    result
}

/// The signals that ask for the end.
fn end_signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM].into_iter().collect()
}

/// Takes down a cluster whose supervisor is gone, under its lock. Call it before the process has a second thread.
///
/// # Errors
/// Something could not be stopped or undone.
pub(crate) fn stop_orphaned(layout: &Layout, _lock: &File) -> Result<(), Error> {
    let journal = Journal::open(&layout.journal())?;
    if let Some(journal) = &journal {
        journal.join()?;
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
        let file = match OpenOptions::new().create(true).append(true).mode(0o600).open(&path) {
            // Another `down` has removed the directory meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file.map_err(Error::io("open", &path))?,
        };
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

fn bring_up_and_serve(layout: &Layout, asked: &Options, progress: &Progress, mut guardian: Ward) -> Result<(), Error> {
    const STEP: &str = "remedies";
    progress.report(&Event::Started { step: STEP.to_owned(), label: STEP.to_owned() });
    let mut ground = Ground::find_or_make(layout, asked)?;
    for message in ground.plan.iter().flat_map(|plan| preparation::warnings(plan, &ground.options)) {
        progress.report(&Event::Warning { message });
    }
    if let Some(listener) = &ground.ways.listener {
        guardian.carry(listener);
    }
    guardian.watch(ground.ways.gate.take());
    let result = components(layout, &mut ground).and_then(|components| {
        progress.report(&Event::Ready { step: STEP.to_owned(), seconds: progress.seconds() });
        runner::run(layout, progress, components, &mut guardian, ground.ways.listener, end_signals())
    });
    progress.report(&Event::Stopping);
    guardian.dismiss();
    let stopped = stop::stop_cluster(layout, Some(ground.journal));
    result.and(stopped)
}

/// What a cluster stands on: its namespaces, which this process is in, and what is written down about them.
struct Ground {
    journal: Journal,
    options: Options,
    /// What is still to be done; nothing for a cluster that is gone on with.
    plan: Option<Plan>,
    ways: Ways,
}

/// What leads to and from a network namespace of the cluster's own; made before that is entered.
#[derive(Default)]
struct Ways {
    /// Where the caller reaches the API server.
    listener: Option<TcpListener>,
    gate: Option<Child>,
}

impl Ways {
    fn open(layout: &Layout, isolation: Isolation) -> Result<Self, Error> {
        let listener = forwarder::listen(isolation, layout.api_port()?)?;
        // One that is started inside leads nowhere.
        let gate = if forwarder::is_inside() { None } else { gate::start(layout, isolation)? };
        Ok(Self { listener, gate })
    }
}

impl Ground {
    /// Goes on with the cluster that is here, or clears up what one left and makes the ground for a new one.
    fn find_or_make(layout: &Layout, asked: &Options) -> Result<Self, Error> {
        let leftover = Journal::open(&layout.journal())?;
        if let Some(journal) = &leftover
            && let Some(ways) = join(layout, journal)?
            && let Some(journal) = leftover
        {
            let options = Options::kept(layout)?.unwrap_or_else(|| asked.clone());
            return Ok(Self { journal, options, plan: None, ways });
        }
        stop::stop_cluster(layout, leftover)?;
        layout.prepare()?;
        exec::sweep(layout)?;
        // Before anything that takes time: whoever must begin anew does so with the same.
        asked.keep(layout)?;
        preflight::check(layout, asked)?;
        let plan = preparation::plan_start(layout, asked)?;
        if plan.isolation == Isolation::Mount {
            preflight::check_dns_port()?;
        }
        let ways = Ways::open(layout, plan.isolation)?;
        namespace::enter_new(plan.isolation)?;
        let journal = Journal::create(&layout.journal(), plan.isolation)?;
        Ok(Self { journal, options: asked.clone(), plan: Some(plan), ways })
    }
}

/// Moves this process into the namespaces of the cluster that is here; `None` if none is.
fn join(layout: &Layout, journal: &Journal) -> Result<Option<Ways>, Error> {
    if journal.isolation() == Isolation::Nothing {
        let lives = process::recorded(layout, component::SERVER).is_some();
        return Ok(lives.then(Ways::default));
    }
    if journal.members().is_ok_and(|members| members.is_empty()) {
        return Ok(None);
    }
    let ways = Ways::open(layout, journal.isolation())?;
    Ok(journal.join()?.then_some(ways))
}

/// The components to run, with the gaps closed and the configuration written. A cluster that is gone on with has both.
fn components(layout: &Layout, ground: &mut Ground) -> Result<Vec<Component>, Error> {
    let Ground { journal, options, plan, .. } = ground;
    if let Some(plan) = plan {
        plan.apply(journal)?;
    }
    // Nobody is ever sent to a control plane without a node.
    let fallback = options.control_plane_only.then_some(NODE_ADDRESS);
    let address = terrarium_cni::node_address().or(fallback).ok_or(Error::NoAddress)?;
    let mut spec = Spec::new(layout, address, journal.isolation(), journal.settings().cloned().collect())?;
    layout.keep_node_name(&spec.node)?;
    if options.control_plane_only {
        spec.network.services = layout.services()?;
    } else {
        layout.keep_services(spec.network.services)?;
    }
    if plan.is_some() {
        let resolvers = Resolvers::of_sandbox(&spec);
        config::write_all(&spec, &resolvers, options.oci_runtime.unwrap_or_default())?;
        dns::have_resolvers_asked_by_tcp(&spec)?;
    }
    component::components(&spec, options)
}
