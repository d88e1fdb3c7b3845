//! Packs files into an OCI image archive: an [image layout](https://github.com/opencontainers/image-spec/blob/main/image-layout.md)
//! in a tar file, as `ctr images import` takes it. The same input makes the same bytes, and so the same digests.

mod archive;
mod layer;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;

use crate::archive::{Image, Name};
use crate::layer::AddedFile;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Name of the image, with registry and tag
    #[arg(long, value_name = "REGISTRY/PATH:TAG")]
    name: Name,
    /// One word of the program the image runs; say it once for each word
    #[arg(long, value_name = "WORD", required = true, allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// One word of its default arguments
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// User (and group) it runs as, numeric so that runAsNonRoot can be checked; root where not said
    #[arg(long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// An environment variable
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// A file to put into the image; its mode is octal, 755 where not said
    #[arg(long, value_name = "SRC:DST[:MODE]", required_unless_present = "tar")]
    file: Vec<AddedFile>,
    /// A tar whose files, directories and symbolic links go into the image
    #[arg(long, value_name = "FILE")]
    tar: Vec<PathBuf>,
    /// The archive to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

fn main() -> Result<()> {
    let Arguments { name, entrypoint, cmd, user, env, file, tar, output } = Arguments::parse();
    let layer = layer::build(&file, &tar)?;
    let archive = archive::build(&Image { name, entrypoint, cmd, user, env }, layer)?;
    std::fs::write(&output, archive).with_context(|| format!("cannot write {}", output.display()))
}
