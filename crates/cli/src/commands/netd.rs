//! `terrarium netd`: the Service proxy.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use terrarium_netd::Config;
use tracing_subscriber::EnvFilter;

/// Carry connections to Services to their endpoints, until told to end
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration, a JSON file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// That the API does not answer at times is told by who asks.
const LOGGED: &str = "info,kube_client=off,kube_runtime=off";

pub fn run(args: &Args) -> Result<ExitCode> {
    let read = || format!("read the configuration {}", args.config.display());
    let config: Config = serde_json::from_slice(&std::fs::read(&args.config).with_context(read)?).with_context(read)?;
    log();
    terrarium_netd::run(config)?;
    Ok(ExitCode::SUCCESS)
}

pub fn log() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED)))
        .init();
}
