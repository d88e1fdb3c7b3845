//! `create` and `run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::log::Log;
use crate::{Container, ContainerId, CreateOptions, Result, Runtime, own_exe, wait};

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Where the configuration and the root file system are
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,

    /// Send the process's terminal to whoever listens at this socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,

    /// Write the ID of the process to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Change the root by chroot(2)
    #[arg(long)]
    no_pivot: bool,

    /// Leave its processes the session keyring of whoever starts them
    #[arg(long)]
    no_new_keyring: bool,

    /// Pass on so many open files after the standard streams
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    preserve_fds: u32,

    /// The container
    id: ContainerId,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    create: Create,

    /// Do not wait for the end
    #[arg(short, long)]
    detach: bool,

    /// Do not remove the container at its end
    #[arg(long)]
    keep: bool,

    /// Accepted for runc's callers
    #[arg(long)]
    no_subreaper: bool,
}

impl Create {
    pub fn run(self, runtime: &Runtime, log: &Log) -> Result<()> {
        self.container(runtime, log).map(|_| ())
    }

    fn container(self, runtime: &Runtime, log: &Log) -> Result<Container> {
        own_exe::protect()?;
        let options = CreateOptions {
            console_socket: self.console_socket,
            pid_file: self.pid_file,
            preserve_fds: self.preserve_fds,
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
        };
        let container = runtime.create(&self.id, &self.bundle, &options)?;
        log.warnings(container.warnings());
        Ok(container)
    }
}

impl Run {
    pub fn run(self, runtime: &Runtime, log: &Log) -> Result<ExitCode> {
        let mut container = self.create.container(runtime, log)?;
        let started = container.start();
        let status = match (&started, container.waited_for()) {
            (Ok(()), _) if self.detach => return Ok(ExitCode::SUCCESS),
            (Ok(()), Some(process)) => wait(process),
            _ => Ok(0),
        };
        if !self.keep || started.is_err() {
            container.delete(true)?;
            log.warnings(container.warnings());
        }
        started?;
        status.map(ExitCode::from)
    }
}
