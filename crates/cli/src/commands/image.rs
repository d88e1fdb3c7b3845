//! `terrarium image`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use terrarium_cluster::{Layout, image};

/// Manage container images
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Import image archives, so that Pods can use them without a registry
    ///
    /// An archive is a tar file, plain or compressed by gzip, as `docker save` or an OCI image layout make it. It is
    /// kept in the data directory and imported again at every `up`.
    Import {
        /// The archives
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

pub fn run(layout: &Layout, command: &Command) -> Result<ExitCode> {
    let Command::Import { files } = command;
    for file in files {
        image::import(layout, file)?;
        eprintln!("imported {}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}
