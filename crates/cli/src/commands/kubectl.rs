//! `terrarium kubectl`

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Result;
use terrarium_cluster::{Error, Layout, status};

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
    let source =
        Command::new(&program).arg0("kubectl").args(&args.args).env("KUBECONFIG", layout.admin_kubeconfig()).exec();
    Err(Error::Io { doing: "run", path: program, source }.into())
}
