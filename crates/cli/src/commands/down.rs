//! `terrarium down`

use std::process::ExitCode;

use anyhow::Result;
use terrarium_cluster::{Layout, down, kubeconfig};

use super::user_kubeconfig;

/// Take the cluster down: stop every Pod and component and undo every change to the sandbox
///
/// The cluster's state stays in the data directory for the next `up`, unless --purge is given. Also takes down what is
/// left of a cluster whose supervisor was killed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also remove the data directory and the context in the kubeconfig
    #[arg(long)]
    purge: bool,
}

pub fn run(layout: &Layout, args: &Args) -> Result<ExitCode> {
    let was_running = down(layout, args.purge)?;
    eprintln!("{}", if was_running { "the cluster is down" } else { "no cluster was running" });
    if args.purge {
        if let Some(path) = user_kubeconfig() {
            kubeconfig::unmerge(&path)?;
        }
        eprintln!("{} is removed", layout.data().display());
    }
    Ok(ExitCode::SUCCESS)
}
