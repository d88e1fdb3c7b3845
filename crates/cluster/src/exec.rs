//! `terrarium exec`: a program under the remedies of this sandbox.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use terrarium_remedies::{Journal, namespace};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::layout::make_private;
use crate::{Error, Layout, Options, preparation};

/// Runs a program where a cluster's components would run: in the namespaces of the cluster that is here, else in new ones,
/// with the remedies applied for as long as it runs. Call it before the process has a second thread. `Ok` has its exit
/// status, in the form of a shell.
///
/// # Errors
/// A remedy does not work here, the program cannot be run, or not everything could be undone.
pub fn exec(layout: &Layout, options: &Options, program: &OsString, arguments: &[OsString]) -> Result<u8, Error> {
    if let Some(journal) = Journal::open(&layout.journal())? {
        if journal.join()? {
            let error = std::process::Command::new(program).args(arguments).exec();
            return Err(Error::io("run", Path::new(program))(error));
        }
        // A second set of remedies beside the cluster's would share its cgroups.
        if !journal.members().map_err(Error::io("read", "/proc"))?.is_empty() {
            return Err(Error::Unjoinable);
        }
    }
    sweep(layout)?;
    let directory = layout.exec().join(std::process::id().to_string());
    make_private(&directory)?;
    let result = run_in_new_namespaces(&directory, layout, options, program, arguments);
    let undone = undo(&directory);
    let status = result?;
    undone?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)).try_into().unwrap_or(u8::MAX))
}

fn run_in_new_namespaces(
    directory: &Path,
    layout: &Layout,
    options: &Options,
    program: &OsString,
    arguments: &[OsString],
) -> Result<ExitStatus, Error> {
    let (_, plan) = preparation::look_and_plan(layout, options, directory)?;
    preparation::refuse_obstacles(&plan)?;
    namespace::enter_new(plan.isolation)?;
    plan.apply(&mut Journal::create(&directory.join(JOURNAL), plan.isolation)?)?;
    let failed = || Error::io("run", Path::new(program));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed())?;
    runtime.block_on(async {
        let signal = |kind| signal(kind).map_err(failed());
        let (mut terminated, mut hung_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        // A terminal's Ctrl-C reaches the program itself: this process stays to undo what it did.
        let (mut interrupted, mut quit) = (signal(SignalKind::interrupt())?, signal(SignalKind::quit())?);
        let mut child = Command::new(program).args(arguments).spawn().map_err(failed())?;
        let pass_on = |signal: Signal, child: &tokio::process::Child| {
            if let Some(pid) = child.id() {
                let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
            }
        };
        loop {
            tokio::select! {
                status = child.wait() => return status.map_err(failed()),
                _ = terminated.recv() => pass_on(Signal::SIGTERM, &child),
                _ = hung_up.recv() => pass_on(Signal::SIGHUP, &child),
                _ = interrupted.recv() => {}
                _ = quit.recv() => {}
            }
        }
    })
}

const JOURNAL: &str = "journal";

/// Undoes what was done for one program, and removes its directory.
fn undo(directory: &Path) -> Result<(), Error> {
    if let Some(journal) = Journal::open(&directory.join(JOURNAL))? {
        journal.revert()?;
    }
    fs::remove_dir_all(directory).map_err(Error::io("remove", directory))?;
    // The last one takes the directory of all with it.
    let _ = directory.parent().map(fs::remove_dir);
    Ok(())
}

/// Undoes what was done for programs whose `terrarium exec` was killed, and of which no process is left.
fn sweep(layout: &Layout) -> Result<(), Error> {
    let entries = fs::read_dir(layout.exec()).into_iter().flatten();
    let directories: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    for directory in directories {
        let lives = directory.file_name().is_some_and(|pid| Path::new("/proc").join(pid).exists())
            || Journal::open(&directory.join(JOURNAL))?
                .is_some_and(|journal| journal.members().is_ok_and(|members| !members.is_empty()));
        if !lives {
            undo(&directory)?;
        }
    }
    Ok(())
}
