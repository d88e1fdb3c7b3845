//! The `terrarium` command: real, unpatched Kubernetes inside a gVisor sandbox.
//!
//! One program with several parts: called as `terrarium-cni` it is the CNI plugin, called as `terrarium-oci` or as
//! `terrarium oci` the OCI runtime, with runc's command line, otherwise the command line.
//! What is data goes to stdout, what is talk to stderr. The exit status is that of the error's [`ErrorId`], which is
//! printed with it.

mod commands;
mod terminal;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use terrarium_cluster::ErrorId;

/// The word by which the OCI runtime is called. Its command line is not this program's.
const OCI: &str = "oci";

fn main() -> ExitCode {
    let called_as = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called_as).file_name().unwrap_or_default();
    if name == terrarium_cni::PLUGIN {
        return terrarium_cni::main();
    }
    if name == terrarium_oci::command::NAME {
        return terrarium_oci::command::main(std::env::args_os());
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == OCI) {
        return terrarium_oci::command::main(std::env::args_os().skip(1));
    }
    let result = if commands::Internal::is_called(std::env::args_os()) {
        commands::Internal::parse().run()
    } else {
        match commands::Cli::try_parse() {
            Ok(cli) => commands::run(cli),
            Err(error) if error.use_stderr() => return tell_usage(&error),
            // Help and version are asked for, not errors.
            Err(error) => error.exit(),
        }
    };
    match result {
        Ok(code) => code,
        // Whoever read has read enough: `terrarium logs kubelet | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => tell(&error),
    }
}

/// Says what failed and why, under its name, and what to do.
fn tell(error: &anyhow::Error) -> ExitCode {
    let id = ErrorId::of(error.as_ref());
    let text = terrarium_cluster::chain(error.as_ref());
    eprintln!("error: {}", named(text.trim_end(), id));
    if !id.hint().is_empty() {
        eprintln!("hint: {}", id.hint());
    }
    ExitCode::from(id.class().exit_code())
}

/// Says what is wrong with the command line, and the nearest word that would be right.
fn tell_usage(error: &clap::Error) -> ExitCode {
    let text = error.render();
    let text = if io::stderr().is_terminal() { text.ansi().to_string() } else { text.to_string() };
    // What `terrarium` prints when it is called without anything is its help, not an error.
    let is_help = error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    eprint!("{}", if is_help { text } else { named(&text, ErrorId::Usage) });
    ExitCode::from(ErrorId::Usage.class().exit_code())
}

/// The text with the name at the end of its first line: what follows is an excerpt of a log, or a usage.
fn named(text: &str, id: ErrorId) -> String {
    let (first, rest) = text.split_at(text.find('\n').unwrap_or(text.len()));
    format!("{first} [{id}]{rest}")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
