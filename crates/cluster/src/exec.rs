//! `terrarium exec`: a program under the remedies of this sandbox.

use std::ffi::OsString;
use std::fs;
use std::future::pending;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::ExitStatus;

use nix::sys::signal::{SigSet, Signal};
use terrarium_remedies::{Journal, namespace};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::cgroup_files::Server;
use crate::error::chain;
use crate::layout::make_private;
use crate::process::tell;
use crate::{Error, Layout, OciRuntime, Options, preparation, supervisor};

/// Runs a program where a cluster's components would run: in the namespaces of the cluster, or of another such program,
/// that is here; else in new ones, with the remedies applied for as long as it runs, and the lock held, so that no cluster
/// starts meanwhile. Call it before the process has a second thread. `Ok` has its exit status, in the form of a shell.
///
/// # Errors
/// A remedy does not work here, the program cannot be run, or not everything could be undone.
pub fn exec(layout: &Layout, options: &Options, program: &OsString, arguments: &[OsString]) -> Result<u8, Error> {
    for path in [layout.journal(), journal_of(layout)] {
        if let Some(journal) = Journal::open(&path)?.filter(lives) {
            if !journal.join()? {
                return Err(Error::Unjoinable);
            }
            let source = std::process::Command::new(program).args(arguments).exec();
            return Err(Error::Program { path: program.into(), source });
        }
    }
    let lock = supervisor::lock(layout)?;
    if layout.journal().exists() {
        return Err(Error::LeftOver);
    }
    sweep(layout)?;
    // Half-way through the remedies nobody else could undo them: a signal waits until it can be answered.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().map_err(|errno| Error::io("block signals for", program)(errno.into()))?;
    make_private(&directory(layout))?;
    let result = run_in_new_namespaces(layout, options, program, arguments, &signals);
    let undone = sweep(layout).and_then(|()| layout.remove_runtime());
    drop(lock);
    let status = result?;
    undone?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)).try_into().unwrap_or(u8::MAX))
}

fn run_in_new_namespaces(
    layout: &Layout,
    options: &Options,
    program: &OsString,
    arguments: &[OsString],
    blocked: &SigSet,
) -> Result<ExitStatus, Error> {
    // As for runc: programs of others take no cgroup files but the kernel's, so the plan has no more unless that is asked for.
    let options = Options { oci_runtime: Some(OciRuntime::Runc), ..options.clone() };
    let (_, plan) = preparation::look_and_plan(layout, &options, &directory(layout))?;
    preparation::refuse_obstacles(&plan)?;
    if plan.has_no_pods() {
        return Err(Error::WithoutMounts);
    }
    namespace::enter_new(plan.isolation)?;
    plan.apply(&mut Journal::create(&journal_of(layout), plan.isolation)?)?;
    let failed = || |source| Error::Program { path: program.into(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed())?;
    let (settings, directory) = (plan.settings().cloned().collect::<Vec<_>>(), directory(layout));
    runtime.block_on(async {
        let signal = |kind| signal(kind).map_err(failed());
        let (mut terminated, mut hung_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        // A terminal's Ctrl-C reaches the program itself: this process stays to undo what it did.
        let (mut interrupted, mut quit) = (signal(SignalKind::interrupt())?, signal(SignalKind::quit())?);
        blocked.thread_unblock().map_err(|errno| failed()(errno.into()))?;
        let mut files = Server::start(&settings, &directory)?;
        let attended = async {
            // A signal that came before there is a program is for this process.
            tokio::select! {
                biased;
                _ = terminated.recv() => return Ok(ended_by(Signal::SIGTERM)),
                _ = hung_up.recv() => return Ok(ended_by(Signal::SIGHUP)),
                _ = interrupted.recv() => return Ok(ended_by(Signal::SIGINT)),
                _ = quit.recv() => return Ok(ended_by(Signal::SIGQUIT)),
                ready = ready(&mut files) => ready?,
            }
            let mut child = Command::new(program).args(arguments).spawn().map_err(failed())?;
            loop {
                tokio::select! {
                    status = child.wait() => return status.map_err(failed()),
                    error = keep(&mut files) => {
                        if let Some(files) = files.take() {
                            files.end().await;
                        }
                        eprintln!("warning: {}", chain(&error));
                    }
                    _ = terminated.recv() => tell(&child, Signal::SIGTERM),
                    _ = hung_up.recv() => tell(&child, Signal::SIGHUP),
                    _ = interrupted.recv() => {}
                    _ = quit.recv() => {}
                }
            }
        };
        let status = attended.await;
        if let Some(files) = files {
            files.end().await;
        }
        status
    })
}

fn ended_by(signal: Signal) -> ExitStatus {
    ExitStatus::from_raw(signal as i32)
}

async fn ready(files: &mut Option<Server>) -> Result<(), Error> {
    // Signals that came while they were blocked are told first.
    tokio::task::yield_now().await;
    match files {
        Some(files) => files.ready().await,
        None => Ok(()),
    }
}

async fn keep(files: &mut Option<Server>) -> Error {
    match files {
        Some(files) => files.keep().await,
        None => pending().await,
    }
}

fn directory(layout: &Layout) -> PathBuf {
    layout.runtime().join("exec")
}

fn journal_of(layout: &Layout) -> PathBuf {
    directory(layout).join("journal")
}

fn lives(journal: &Journal) -> bool {
    journal.members().is_ok_and(|members| !members.is_empty())
}

/// Fails while a program runs under remedies of its own.
pub(crate) fn refuse_running(layout: &Layout) -> Result<(), Error> {
    if Journal::open(&journal_of(layout))?.is_some_and(|journal| lives(&journal)) {
        Err(Error::ExecRuns)
    } else {
        Ok(())
    }
}

/// Undoes what was done for a program. Call it with the lock held: then the program has ended, or its `terrarium exec` was
/// killed.
pub(crate) fn sweep(layout: &Layout) -> Result<(), Error> {
    let directory = directory(layout);
    if !directory.exists() {
        return Ok(());
    }
    if let Some(journal) = Journal::open(&journal_of(layout))? {
        journal.revert()?;
    }
    fs::remove_dir_all(&directory).map_err(Error::io("remove", &directory))
}
