//! `testbed`: real gVisor sandboxes from the command line.
//!
//! stdout carries data only: what the program inside prints, addresses, lists. Everything said to the user goes to stderr.

mod streams;
mod verbs;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use terrarium_testbed::{Bind, Deny, Gvisor, Platform, Privilege, RootKind};

/// Real gVisor sandboxes for tests, benches and a try at home.
///
/// Whatever a killed testbed left behind is removed by the next run, start, stop or list.
#[derive(Parser)]
#[command(name = "testbed", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run one command in a fresh sandbox, then remove the sandbox
    ///
    /// The exit code is the command's own, 128+n when signal n ended it, 125 when testbed failed.
    Run {
        #[command(flatten)]
        options: Options,
        /// The command and its arguments
        #[arg(required = true, last = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Start a sandbox that stays until it is stopped; one that runs already is fine
    Start {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        options: Options,
    },
    /// Run a command in a started sandbox
    ///
    /// The exit code is the command's own, 128+n when signal n ended it, 125 when testbed failed.
    Exec {
        #[command(flatten)]
        named: Named,
        /// Give the command this terminal
        #[arg(short, long)]
        tty: bool,
        /// Set a variable for the command
        #[arg(long, value_name = "K=V", value_parser = variable)]
        env: Vec<(String, String)>,
        /// Start in this directory of the sandbox
        #[arg(long, value_name = "DIR")]
        cwd: Option<PathBuf>,
        /// The command and its arguments
        #[arg(required = true, last = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// End and remove a started sandbox; none to stop is fine
    Stop {
        #[command(flatten)]
        named: Named,
    },
    /// List the sandboxes of this host
    List {
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Print the address of a started sandbox
    Address {
        #[command(flatten)]
        named: Named,
    },
}

#[derive(Args)]
struct Named {
    /// Which sandbox
    #[arg(long, default_value = "terrarium")]
    name: String,
}

#[derive(Args)]
struct Options {
    /// The gVisor build
    #[arg(long, value_enum, default_value_t)]
    gvisor: Gvisor,
    /// How gVisor catches system calls
    #[arg(long, value_enum, default_value_t)]
    platform: Platform,
    /// Who programs inside are
    #[arg(long, value_enum, default_value_t)]
    privilege: Privilege,
    /// Take a right away, also from root; several times, or several with commas between
    #[arg(long, value_enum, value_delimiter = ',', value_name = "RIGHT")]
    deny: Vec<Deny>,
    /// The sandbox's root, which is 9p inside in any case
    #[arg(long, value_enum, default_value_t)]
    root: RootKind,
    /// Show a file or directory of the host in the sandbox
    #[arg(long, value_name = "SRC[:DST[:ro]]")]
    bind: Vec<Bind>,
    /// Set a variable for every command in the sandbox
    #[arg(long, value_name = "K=V", value_parser = variable)]
    env: Vec<(String, String)>,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Format {
    /// A table for people
    #[default]
    Table,
    /// An array of objects
    Json,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    let failure = if matches!(verb, Verb::Run { .. } | Verb::Exec { .. }) { 125 } else { 1 };
    let result = match verb {
        Verb::Run { options, command } => verbs::run(options, command),
        Verb::Start { named, options } => verbs::start(named, options),
        Verb::Exec { named, tty, env, cwd, command } => verbs::exec(&named, tty, env, cwd, command),
        Verb::Stop { named } => verbs::stop(&named),
        Verb::List { output } => verbs::list(output),
        Verb::Address { named } => verbs::address(&named),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            let interrupted = error.downcast_ref().and_then(|error| match error {
                terrarium_testbed::Error::Interrupted { signal } => u8::try_from(128 + signal).ok(),
                _ => None,
            });
            ExitCode::from(interrupted.unwrap_or(failure))
        }
    }
}
