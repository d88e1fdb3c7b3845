//! One file per command.

mod completion;
mod down;
mod image;
mod kubectl;
mod logs;
mod status;
mod supervise;
mod up;
mod version;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use terrarium_cluster::{CLASSES, DEFAULT_DATA_DIR, Layout, refuse_another, resolved, running_data_dir};

/// Real, unpatched Kubernetes inside a gVisor sandbox.
#[derive(Debug, Parser)]
#[command(name = "terrarium", version, max_term_width = 100, after_help = exit_statuses())]
pub struct Cli {
    /// Where the cluster's state, keys, images and logs are kept [default: that of the running cluster, else /var/lib/terrarium]
    #[arg(long, global = true, value_name = "DIR", env = "TERRARIUM_DATA_DIR", hide_env_values = true)]
    data_dir: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Args),
    Down(down::Args),
    Status(status::Args),
    Logs(logs::Args),
    Kubectl(kubectl::Args),
    #[command(subcommand)]
    Image(image::Command),
    /// Print the versions of terrarium and its components
    Version,
    Completion(completion::Args),
}

/// The parts of the program that only the program itself calls. Apart from the commands, so that neither completion nor
/// the guess at what a user meant ever names them.
#[derive(Debug, Parser)]
#[command(name = "terrarium")]
pub struct Internal {
    /// The data directory.
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,

    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    Supervise(supervise::Args),
}

impl Internal {
    /// Whether the arguments of a call are for one of these parts.
    pub fn is_called(mut args: impl Iterator<Item = OsString>) -> bool {
        args.nth(1).is_some_and(|word| Part::has_subcommand(&word.to_string_lossy()))
    }

    /// Runs the part that was asked for.
    pub fn run(self) -> Result<ExitCode> {
        let layout = layout(self.data_dir)?;
        match self.part {
            Part::Supervise(args) => supervise::run(&layout, &args),
        }
    }
}

/// The part of the help that scripts are written by.
fn exit_statuses() -> String {
    let classes = CLASSES.iter().map(|(class, means)| format!("  {:<4} {means}\n", class.exit_code()));
    format!(
        "Exit status:\n  0    done\n{}\nAn error names itself in brackets, such as [no-space]; docs/errors.md lists them all. \
         `terrarium kubectl` ends with kubectl's own status.",
        classes.collect::<String>()
    )
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Runs the command that was asked for.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let layout = layout(cli.data_dir)?;
    match cli.command {
        Command::Up(args) => up::run(&layout, &args),
        Command::Down(args) => down::run(&layout, &args),
        Command::Status(args) => status::run(&layout, &args),
        Command::Logs(args) => logs::run(&layout, &args),
        Command::Kubectl(args) => kubectl::run(&layout, &args),
        Command::Image(command) => image::run(&layout, &command),
        Command::Version => version::run(&layout),
        Command::Completion(args) => completion::run(&args),
    }
}

/// The layout for the data directory that was asked for: that of the cluster which is here, if there is one.
fn layout(data_dir: Option<PathBuf>) -> Result<Layout> {
    let default = Layout::new(DEFAULT_DATA_DIR)?;
    let Some(asked) = data_dir else {
        return Ok(running_data_dir(&default).map(Layout::new).transpose()?.unwrap_or(default));
    };
    let layout = Layout::new(resolved(&asked)?)?;
    refuse_another(&layout)?;
    Ok(layout)
}

/// The user's kubeconfig: the first file of $KUBECONFIG, as kubectl writes to, else ~/.kube/config.
fn user_kubeconfig() -> Option<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
    std::env::split_paths(&listed)
        .find(|path| !path.as_os_str().is_empty())
        .or_else(|| std::env::home_dir().map(|home| home.join(".kube/config")))
}
