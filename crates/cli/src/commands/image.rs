//! `terrarium image`

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use terrarium_cluster::Layout;
use terrarium_cluster::image::{self, Step};

/// Manage container images
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Import image archives, so that Pods can use them without a registry
    ///
    /// An archive is a tar file, plain or compressed by gzip, as `docker save` or an OCI image layout make it. It is
    /// checked to be whole and harmless, kept in the data directory and imported again at every `up`.
    Import {
        /// The archives
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

pub fn run(layout: &Layout, command: &Command) -> Result<ExitCode> {
    let Command::Import { files } = command;
    for file in files {
        let mut progress = Progress::of(file);
        let result = image::import(layout, file, |step, part| progress.show(step, part));
        progress.bar.finish_and_clear();
        result?;
        eprintln!("imported {}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// What is quicker needs no words.
const PATIENCE: Duration = Duration::from_secs(2);

/// How far an import has come: a bar on a terminal, a line for each step elsewhere.
struct Progress<'a> {
    file: &'a Path,
    start: Instant,
    bar: ProgressBar,
    said: Option<Step>,
}

impl<'a> Progress<'a> {
    fn of(file: &'a Path) -> Self {
        Self { file, start: Instant::now(), bar: ProgressBar::hidden(), said: None }
    }

    fn show(&mut self, step: Step, part: f64) {
        let doing = match step {
            Step::Copying => "copying",
            Step::Checking => "checking",
            Step::Importing => "importing",
        };
        // containerd does not say how far it is, so its step is told before one knows how long it takes.
        if self.start.elapsed() < PATIENCE && step != Step::Importing {
            return;
        }
        let is_terminal = std::io::stderr().is_terminal();
        if self.bar.is_hidden() && is_terminal {
            let style = ProgressStyle::with_template("  {spinner} {msg} {percent} %");
            self.bar = ProgressBar::new(100).with_style(style.expect("a constant template is valid"));
            self.bar.enable_steady_tick(Duration::from_millis(100));
        }
        if self.said != Some(step) && !is_terminal && self.start.elapsed() >= PATIENCE {
            eprintln!("  {doing} {}", self.file.display());
        }
        self.said = Some(step);
        self.bar.set_message(format!("{doing} {}", self.file.display()));
        self.bar.set_position((part * 100.0) as u64);
    }
}
