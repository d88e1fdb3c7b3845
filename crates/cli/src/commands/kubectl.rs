//! `terrarium kubectl`

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Result;
use terrarium_cluster::{Error, Layout, status};

use crate::terminal;

/// Run kubectl against this cluster, with the administrator's rights
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// kubectl's own arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub fn run(layout: &Layout, args: &Args) -> Result<ExitCode> {
    if !status::server_runs(layout) {
        return Err(Error::NotRunning.into());
    }
    let program = layout.component("kubernetes")?;
    let mut command = Command::new(&program);
    command.arg0("kubectl").args(&args.args).env("KUBECONFIG", layout.admin_kubeconfig());
    // ^C typed at a program in a Pod would end kubectl.
    if io::stdin().is_terminal()
        && terminal::signals_unasked()
        && let Some(code) = terminal::stand_before()?
    {
        return Ok(code);
    }
    Err(Error::Io { doing: "run", path: program, source: command.exec() }.into())
}
