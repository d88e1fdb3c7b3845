//! The component that adds cgroup files to those of the kernel, and sees to limits of memory: a part of this program
//! ([`terrarium_cgroupfs`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use terrarium_remedies::{CGROUP_ROOT, POD_CGROUP_ROOT, Setting};
use tokio::process::{Child, Command};

use crate::component::{CGROUPFS, CommandLine, Component, Readiness, Runs, Spec};
use crate::launch::{self, own_program};
use crate::process::tell;
use crate::{Error, health, logs};

/// The component, if the sandbox needs it.
pub(crate) fn component(spec: &Spec<'_>) -> Result<Option<Component>, Error> {
    // What is counted goes with the cgroups, at the latest with the runtime directory.
    let Some((command, socket)) = command(&spec.settings, spec.layout.runtime())? else { return Ok(None) };
    let runs = Runs::Service { command, env: Vec::new(), ready: Readiness::Greeting(socket) };
    Ok(Some(Component { name: CGROUPFS, label: "cgroup files", needs: &[], objects: Vec::new(), runs }))
}

/// The call of the server, which keeps its files in this directory, and the socket by which it is ready.
fn command(settings: &[Setting], directory: &Path) -> Result<Option<(CommandLine, PathBuf)>, Error> {
    let Some((controllers, backing)) = settings.iter().find_map(files) else { return Ok(None) };
    let socket = directory.join("cgroupfs.sock");
    let mut args = vec![CGROUPFS.to_owned()];
    for (flag, value) in [
        ("--root", Path::new(CGROUP_ROOT)),
        ("--backing", backing),
        ("--ready-socket", &socket),
        ("--state", directory),
    ] {
        args.extend([flag.to_owned(), value.to_string_lossy().into_owned()]);
    }
    if settings.contains(&Setting::MemoryGuard) {
        args.extend(["--guard".to_owned(), format!("/{POD_CGROUP_ROOT}")]);
    }
    args.extend(controllers.iter().cloned());
    Ok(Some((CommandLine { program: own_program()?, args }, socket)))
}

fn files(setting: &Setting) -> Option<(&Vec<String>, &PathBuf)> {
    match setting {
        Setting::CgroupFiles { controllers, backing } => Some((controllers, backing)),
        _ => None,
    }
}

/// The server for a program that runs without a cluster.
pub(crate) struct Server {
    command: CommandLine,
    socket: PathBuf,
    log: PathBuf,
    child: Child,
}

/// How long it may take until it is ready.
const START: Duration = Duration::from_secs(60);
/// How long it may take until it has ended.
const END: Duration = Duration::from_secs(10);
/// Between two starts.
const PAUSE: Duration = Duration::from_secs(1);

impl Server {
    /// Starts it, if the sandbox needs it. It ends with the calling thread, at the latest.
    pub(crate) fn start(settings: &[Setting], directory: &Path) -> Result<Option<Self>, Error> {
        let Some((mut command, socket)) = command(settings, directory)? else { return Ok(None) };
        command.args.extend(["--end-with".to_owned(), std::process::id().to_string()]);
        let log = directory.join("cgroupfs.log");
        let child = spawn(&command, &log)?;
        Ok(Some(Self { command, socket, log, child }))
    }

    /// Waits until its files are there.
    pub(crate) async fn ready(&mut self) -> Result<(), Error> {
        let greeted = async {
            while !health::greets(&self.socket).await {
                tokio::time::sleep(PAUSE / 100).await;
            }
        };
        let why = tokio::select! {
            () = greeted => return Ok(()),
            Ok(status) = self.child.wait() => status.to_string(),
            () = tokio::time::sleep(START) => format!("not ready after {} s", START.as_secs()),
        };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Err(Error::CgroupFiles { why, log })
    }

    /// Starts it again whenever it ends, for as long as that works.
    pub(crate) async fn keep(&mut self) -> Error {
        loop {
            let _ = self.child.wait().await;
            tokio::time::sleep(PAUSE).await;
            // What the log says then is of this start.
            let _ = fs::remove_file(&self.log);
            let again = async {
                self.child = spawn(&self.command, &self.log)?;
                self.ready().await
            };
            if let Err(error) = again.await {
                return error;
            }
        }
    }

    /// Ends it, with what it has mounted.
    pub(crate) async fn end(mut self) {
        tell(&self.child, Signal::SIGTERM);
        if tokio::time::timeout(END, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

fn spawn(command: &CommandLine, log: &Path) -> Result<Child, Error> {
    let mut program = std::process::Command::new(&command.program);
    launch::set_apart(program.args(&command.args), logs::append_to(log)?)?;
    Command::from(program).kill_on_drop(true).spawn().map_err(Error::io("run", &command.program))
}
