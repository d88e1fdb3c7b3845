//! `terrarium run-component`: the step between the supervisor and a component.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use terrarium_cluster::{Layout, run_component};

/// Record this process as a component, and become its program
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The component
    name: String,

    /// Its program
    program: PathBuf,

    /// The program's arguments
    #[arg(last = true)]
    args: Vec<OsString>,
}

pub fn run(layout: &Layout, args: &Args) -> Result<ExitCode> {
    run_component(layout, &args.name, &args.program, &args.args)?;
    Ok(ExitCode::SUCCESS)
}
