//! `terrarium exec`

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use terrarium_cluster::{Layout, exec};

use super::Remedies;

/// Run a program with the gaps of this sandbox closed
///
/// It runs where the cluster's components run: with the mounts, files and cgroups that the plan makes for this sandbox, see
/// `terrarium up --dry-run`. Where no cluster runs they are made for the program alone, and undone when it ends. Settings of
/// components are the program's own matter. The exit status is the program's; 128 and the signal's number if one ended it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    remedies: Remedies,

    /// The program
    #[arg(value_name = "CMD")]
    program: OsString,

    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    arguments: Vec<OsString>,
}

pub fn run(layout: &Layout, args: &Args) -> Result<ExitCode> {
    let status = exec(layout, &args.remedies.options(), &args.program, &args.arguments)?;
    Ok(ExitCode::from(status))
}
