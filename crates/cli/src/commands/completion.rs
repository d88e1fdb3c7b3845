//! `terrarium completion`

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::Shell;

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    clap_complete::generate(args.shell, &mut super::Cli::command(), "terrarium", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
