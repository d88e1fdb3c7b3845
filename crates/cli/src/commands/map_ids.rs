//! `terrarium map-ids`: maps IDs for a process that has entered a user namespace, from outside of it.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use terrarium_remedies::namespace;

/// Map user and group IDs for a process that has entered a user namespace, once a line comes on stdin
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The process
    pid: u32,

    /// How many IDs, counted from 0
    ids: u32,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    namespace::map_ids(args.pid, args.ids).with_context(|| format!("cannot map IDs for process {}", args.pid))?;
    Ok(ExitCode::SUCCESS)
}
