//! `terrarium supervise`: the background process that brings the cluster up.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use terrarium_cluster::Layout;
use terrarium_cluster::supervisor::{self, Call};
use tracing_subscriber::EnvFilter;

use super::Decisions;

/// Keep the cluster running until SIGTERM, then take it down
#[derive(Debug, clap::Args)]
pub struct Args {
    /// When the user asked for the cluster, in milliseconds since 1970
    #[arg(long, value_name = "MILLISECONDS")]
    since: Option<u64>,

    #[command(flatten)]
    decisions: Decisions,

    /// Go on with a cluster that lost its supervisor, and start no other
    #[arg(long)]
    resume: bool,

    /// The process that started this one to watch over it
    #[arg(long, value_name = "PID")]
    guardian: Option<i32>,
}

/// That the API does not answer while it starts is no news.
const LOGGED: &str = "info,kube_client=off";

pub fn run(layout: &Layout, args: &Args) -> Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED)))
        .init();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ago = args.since.map_or(Duration::ZERO, |since| now.saturating_sub(Duration::from_millis(since)));
    let start = Instant::now().checked_sub(ago).unwrap_or_else(Instant::now);
    let options = args.decisions.options();
    supervisor::run(layout, Call { options, start, resume: args.resume, guardian: args.guardian })?;
    Ok(ExitCode::SUCCESS)
}
