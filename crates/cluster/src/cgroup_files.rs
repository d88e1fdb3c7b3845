//! The component that adds cgroup files to those of the kernel, and sees to limits of memory: a part of this program
//! ([`terrarium_cgroupfs`]).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use terrarium_remedies::{CGROUP_ROOT, POD_CGROUP_ROOT, Setting};
use tokio::process::{Child, Command};

use crate::component::{CGROUPFS, CommandLine, Component, Readiness, Runs, Spec};
use crate::launch::own_program;
use crate::{Error, health};

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

impl Server {
    /// Starts it, if the sandbox needs it, and waits until it is ready. It ends with this process, whose main thread this
    /// must be.
    pub(crate) async fn start(settings: &[Setting], directory: &Path) -> Result<Option<Self>, Error> {
        let Some((mut command, socket)) = command(settings, directory)? else { return Ok(None) };
        command.args.extend(["--end-with".to_owned(), std::process::id().to_string()]);
        let log = directory.join("cgroupfs.log");
        let child = spawn(&command, &log)?;
        let mut server = Self { command, socket, log, child };
        server.ready().await?;
        Ok(Some(server))
    }

    async fn ready(&mut self) -> Result<(), Error> {
        const PAUSE: Duration = Duration::from_millis(10);
        while !health::greets(&self.socket).await {
            if let Ok(Some(status)) = self.child.try_wait() {
                let (component, why) = (CGROUPFS.to_owned(), status.to_string());
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                return Err(Error::Component { component, why, log });
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Starts it again whenever it ends, for as long as that works.
    pub(crate) async fn keep(&mut self) -> Result<(), Error> {
        loop {
            let _ = self.child.wait().await;
            self.child = spawn(&self.command, &self.log)?;
            self.ready().await?;
        }
    }

    /// Ends it, with what it has mounted.
    pub(crate) async fn end(mut self) {
        if let Some(pid) = self.child.id() {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
        }
        let _ = self.child.wait().await;
    }
}

/// In a process group of its own: a terminal's Ctrl-C is not for it.
fn spawn(command: &CommandLine, log: &Path) -> Result<Child, Error> {
    let open = File::options().create(true).append(true).open(log).map_err(Error::io("open", log))?;
    Command::new(&command.program)
        .args(&command.args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(open)
        .process_group(0)
        .spawn()
        .map_err(Error::io("run", &command.program))
}
