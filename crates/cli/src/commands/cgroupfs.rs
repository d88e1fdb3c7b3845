//! `terrarium cgroupfs`: the files of cgroups that the sandbox lacks.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use nix::sys::signal::Signal;
use terrarium_cgroupfs::{Config, Hierarchy};
use tracing_subscriber::EnvFilter;

/// Add the files that the sandbox's cgroups lack, and enforce limits of memory, until told to end
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the hierarchies are mounted for this alone, each in a directory of its controller's name
    #[arg(long, value_name = "DIR")]
    backing: PathBuf,

    /// Where everybody looks for them
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/cgroup")]
    root: PathBuf,

    /// Enforce limits of memory of this cgroup and those below it
    #[arg(long, value_name = "CGROUP")]
    guard: Option<PathBuf>,

    /// Listen on this unix socket when all files are there
    #[arg(long, value_name = "SOCKET")]
    ready_socket: Option<PathBuf>,

    /// Keep counters in this directory, for the server that comes after this one
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// End with this process, which started it
    #[arg(long, value_name = "PID")]
    end_with: Option<i32>,

    /// The hierarchies, by their controllers
    #[arg(required = true, value_name = "CONTROLLER")]
    controllers: Vec<String>,
}

/// The crate below says what it leaves out of the protocol.
const LOGGED: &str = "info,fuser=error";

pub fn run(args: &Args) -> Result<ExitCode> {
    if let Some(parent) = args.end_with {
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
        if nix::unistd::getppid().as_raw() != parent {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let hierarchy = |controller: &String| Hierarchy {
        controller: controller.clone(),
        backing: args.backing.join(controller),
        mount_point: args.root.join(controller),
    };
    let config = Config {
        hierarchies: args.controllers.iter().map(hierarchy).collect(),
        guarded: args.guard.clone(),
        ready_socket: args.ready_socket.clone(),
        state: args.state.clone(),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED)))
        .init();
    terrarium_cgroupfs::serve(&config)?;
    Ok(ExitCode::SUCCESS)
}
