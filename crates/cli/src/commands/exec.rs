//! `terrarium exec`

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use terrarium_cluster::{Layout, exec};
use terrarium_intercept::Rules;

use super::{Remedies, intercept};

/// Run a program with the gaps of this sandbox closed
///
/// It runs where the cluster's components run: with the mounts, files and cgroups that the plan makes for this sandbox, see
/// `terrarium up --dry-run`. Where no cluster runs they are made for the program alone, and undone when it ends; cgroup files
/// are the kernel's then, as runc takes no others, and `--remedy cgroup-stats=fuse` adds those that are missing. Settings of
/// components are the program's own matter. The exit status is the program's; 128 and the signal's number if one ended it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    remedies: Remedies,

    /// Change what chosen system calls of the program do, and of all that it starts, by the rules in this file. What it has left when it ends is killed. See docs/interception.md
    #[arg(long, value_name = "RULES")]
    intercept: Option<PathBuf>,

    /// Write how often each rule was used to this file, as JSON
    #[arg(long, value_name = "FILE", requires = "intercept")]
    intercept_stats: Option<PathBuf>,

    /// The program
    #[arg(value_name = "CMD")]
    program: OsString,

    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    arguments: Vec<OsString>,
}

pub fn run(layout: &Layout, args: &Args) -> Result<ExitCode> {
    let options = args.remedies.options();
    let status = match &args.intercept {
        None => exec(layout, &options, &args.program, &args.arguments)?,
        Some(rules) => {
            // Before anything is done to the sandbox for the sake of a program that cannot run.
            Rules::read(rules)?;
            let tracer = std::env::current_exe().context("cannot find this program")?.into_os_string();
            let call = intercept::call(rules, args.intercept_stats.as_deref(), &args.program, &args.arguments);
            exec(layout, &options, &tracer, &call)?
        }
    };
    Ok(ExitCode::from(status))
}
