//! `terrarium guard`: the process that keeps the supervisor alive.

use std::process::ExitCode;

use anyhow::Result;
use terrarium_cluster::Layout;
use terrarium_cluster::guardian::{self, Begin};

use super::Decisions;

/// Start the supervisor again whenever it is killed, until it ends in order
///
/// Without --since and --watch it goes on with a cluster that nobody watches.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Start a cluster, asked for at this time: milliseconds since 1970
    #[arg(long, value_name = "MILLISECONDS")]
    since: Option<u64>,

    /// Watch over a supervisor that runs
    #[arg(long)]
    watch: bool,

    #[command(flatten)]
    decisions: Decisions,
}

pub fn run(layout: &Layout, args: &Args) -> Result<ExitCode> {
    let begin = match (args.since, args.watch) {
        (Some(since), _) => Begin::Start(since),
        (None, true) => Begin::Watch,
        (None, false) => Begin::Resume,
    };
    guardian::run(layout, begin, &args.decisions.options())?;
    Ok(ExitCode::SUCCESS)
}
