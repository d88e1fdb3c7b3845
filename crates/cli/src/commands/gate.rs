//! `terrarium gate`: makes connections to the outside for a cluster with a network namespace of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

/// Make connections in this network namespace for whoever asks by the socket, until told to end
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen
    socket: PathBuf,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    super::netd::log();
    terrarium_netd::gate::run(&args.socket)?;
    Ok(ExitCode::SUCCESS)
}
