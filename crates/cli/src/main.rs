//! The `terrarium` command: real, unpatched Kubernetes inside a gVisor sandbox.
//!
//! One program with several parts: called as `terrarium-cni` it is the CNI plugin, otherwise the command line.
//! What is data goes to stdout, what is talk to stderr. Exit status: 0 done, 1 failed (the reason is on stderr), 2 wrong
//! usage, 3 (`status` only) the cluster does not run.

mod commands;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let called_as = std::env::args_os().next().unwrap_or_default();
    if Path::new(&called_as).file_name().is_some_and(|name| name == terrarium_cni::PLUGIN) {
        return terrarium_cni::main();
    }
    match commands::run(commands::Cli::parse()) {
        Ok(code) => code,
        // Whoever read has read enough: `terrarium logs kubelet | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", terrarium_cluster::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
