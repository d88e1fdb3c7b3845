//! `terrarium support`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Result;
use clap::Subcommand;
use terrarium_cluster::{Layout, support};

/// Collect what helps to find out what is wrong
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write versions, state, logs, configuration and objects to one archive, without secrets
    ///
    /// Works with a cluster, without one, and with half of one; what could not be had is listed in missing.txt inside.
    /// Private keys, tokens, passwords in URLs and values of environment variables are removed; names, addresses and
    /// what your programs wrote to the components' logs are not: look through it before you give it away.
    Bundle {
        /// The file to write; it must not exist [default: terrarium-support-TIME.tar.gz]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

pub fn run(layout: &Layout, command: &Command) -> Result<ExitCode> {
    let Command::Bundle { output } = command;
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let path = output.clone().unwrap_or_else(|| format!("terrarium-support-{seconds}.tar.gz").into());
    support::bundle(layout, &path)?;
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}
