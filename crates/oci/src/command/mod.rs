//! runc's command line, for whoever calls a runtime by it. Data goes to stdout, errors to stderr and to the log.

mod create;
mod events;
mod exec;
mod log;
mod look;
mod update;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::{ContainerId, Error, Result, Runtime, Signal, features, spec};
use log::{Format, Log};

/// The name by which a program that is called so is the runtime.
pub const NAME: &str = "terrarium-oci";

/// OCI runtime for Linux and gVisor
#[derive(Debug, Parser)]
#[command(name = NAME, disable_version_flag = true, max_term_width = 100)]
struct CommandLine {
    /// Where the state of containers is kept
    #[arg(long, value_name = "DIR", default_value = "/run/terrarium-oci")]
    root: PathBuf,

    /// Also write errors and warnings to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// How they are written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,

    /// Accepted for runc's callers; there is nothing more to tell
    #[arg(long)]
    debug: bool,

    /// Manage cgroups by systemd; refused
    #[arg(long)]
    systemd_cgroup: bool,

    /// Accepted for runc's callers: what may be done is found out by doing it
    #[arg(long, value_name = "BOOL")]
    rootless: Option<String>,

    /// Print the versions of the runtime and of the specification
    #[arg(short, long)]
    version: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a container, whose process waits for the start
    Create(create::Create),
    /// Start the process of a container
    Start(One),
    /// Create and start a container
    Run(create::Run),
    /// Print a container's state
    State(One),
    /// Send a signal to a container's process
    Kill(Kill),
    /// Remove a container
    Delete(Delete),
    /// Start a further process in a container
    Exec(exec::Exec),
    /// List a container's processes
    Ps(look::Ps),
    /// List containers
    List(look::List),
    /// Print what a container uses
    Events(events::Events),
    /// Change what a container may use
    Update(update::Update),
    /// Freeze a container's processes
    Pause(One),
    /// Let a container's processes go on
    Resume(One),
    /// Print what this runtime can do
    Features,
    /// Write a configuration to begin with
    Spec(look::Spec),
    /// Not supported
    Checkpoint(Anything),
    /// Not supported
    Restore(Anything),
}

/// A command that is about one container and has no options.
#[derive(Debug, Args)]
struct One {
    /// The container
    id: ContainerId,
}

#[derive(Debug, Args)]
struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    any: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Kill {
    /// Send it to all of the container's processes
    #[arg(short, long)]
    all: bool,

    /// The container
    id: ContainerId,

    /// The signal, by name or number
    #[arg(default_value = "TERM")]
    signal: Signal,
}

#[derive(Debug, Args)]
struct Delete {
    /// Kill what runs; no container is no error
    #[arg(short, long)]
    force: bool,

    /// The container
    id: ContainerId,
}

/// Runs the command line; the first argument is the name of the program.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let line = match CommandLine::try_parse_from(&args) {
        Ok(line) => line,
        Err(error) => {
            if error.use_stderr() {
                log_of(&args).refused(&error.to_string());
            }
            error.exit()
        }
    };
    if line.version {
        println!("{NAME} version {}\nspec: {}", env!("CARGO_PKG_VERSION"), spec::VERSION);
        return ExitCode::SUCCESS;
    }
    let log = Log::new(line.log, line.log_format);
    let Some(command) = line.command else {
        log.error("no command was given; see --help");
        return ExitCode::FAILURE;
    };
    let result = if line.systemd_cgroup {
        Err(Error::Unsupported("--systemd-cgroup"))
    } else {
        run(command, &Runtime::new(line.root), &log)
    };
    result.unwrap_or_else(|error| {
        log.error(&error.chain());
        ExitCode::FAILURE
    })
}

/// The log that a command line names which is wrong in another place: who called reads what is wrong there.
fn log_of(args: &[OsString]) -> Log {
    let after = |name: &str| {
        args.iter().enumerate().find_map(|(index, arg)| match arg.to_str()? {
            arg if arg == name => args.get(index + 1)?.to_str(),
            arg => arg.strip_prefix(name)?.strip_prefix('='),
        })
    };
    let json = after("--log-format") == Some("json");
    let format = if json { Format::Json } else { Format::Text };
    Log::new(after("--log").map(PathBuf::from), format)
}

fn run(command: Command, runtime: &Runtime, log: &Log) -> Result<ExitCode> {
    match command {
        Command::Create(command) => command.run(runtime, log)?,
        Command::Start(One { id }) => {
            let mut container = runtime.load(&id)?;
            container.start()?;
            log.warnings(container.warnings());
        }
        Command::Run(command) => return command.run(runtime, log),
        Command::State(One { id }) => look::state(&runtime.load(&id)?)?,
        Command::Kill(Kill { all, id, signal }) => runtime.load(&id)?.kill(signal, all)?,
        Command::Delete(Delete { force, id }) => delete(runtime, log, &id, force)?,
        Command::Exec(command) => return command.run(runtime),
        Command::Ps(command) => command.run(runtime)?,
        Command::List(command) => command.run(runtime)?,
        Command::Events(command) => command.run(runtime)?,
        Command::Update(command) => command.run(runtime, log)?,
        Command::Pause(One { id }) => runtime.load(&id)?.pause()?,
        Command::Resume(One { id }) => runtime.load(&id)?.resume()?,
        Command::Features => look::print_json(&features::features()?)?,
        Command::Spec(command) => command.run()?,
        Command::Checkpoint(_) => return Err(Error::Unsupported("checkpoint")),
        Command::Restore(_) => return Err(Error::Unsupported("restore")),
    }
    Ok(ExitCode::SUCCESS)
}

/// That there is nothing to remove is no error if it is forced.
fn delete(runtime: &Runtime, log: &Log, id: &ContainerId, force: bool) -> Result<()> {
    let deleted = runtime.load(id).and_then(|mut container| {
        container.delete(force)?;
        log.warnings(container.warnings());
        Ok(())
    });
    match deleted {
        Err(Error::NoContainer(_)) if force => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As containerd's shim calls it (github.com/containerd/go-runc).
    #[test]
    fn containerds_calls_are_understood() {
        let global = ["runc", "--root", "/run/r", "--log", "/l", "--log-format", "json", "--systemd-cgroup=false"];
        let global = &global[..7];
        let calls: &[&[&str]] = &[
            &["create", "--bundle", "/b", "--pid-file", "/p", "--console-socket", "/s", "--no-pivot", "a"],
            &["start", "a"],
            &["exec", "--process", "/f", "--console-socket", "/s", "--detach", "--pid-file", "/p", "a"],
            &["kill", "--all", "a", "9"],
            &["delete", "--force", "a"],
            &["ps", "--format", "json", "a"],
            &["list", "--format=json"],
            &["events", "--stats", "a"],
            &["update", "--resources=-", "a"],
            &["run", "--bundle", "/b", "--no-new-keyring", "--preserve-fds", "2", "--detach", "a"],
        ];
        for call in calls {
            CommandLine::try_parse_from(global.iter().chain(*call)).unwrap_or_else(|error| panic!("{call:?}: {error}"));
        }
    }

    #[test]
    fn what_is_wrong_with_a_command_line_is_in_its_log() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("log");
        let args = ["runc", "--log-format", "json", "--log", log.to_str().expect("text"), "state", "/"];
        let args: Vec<OsString> = args.map(OsString::from).into();
        let error = CommandLine::try_parse_from(&args).expect_err("that is no ID");
        log_of(&args).refused(&error.to_string());
        let written = std::fs::read_to_string(log).expect("a log");
        assert!(written.starts_with("{\"level\":\"error\",\"msg\":\"invalid value '/'"), "{written}");
    }

    #[test]
    fn a_command_of_a_process_keeps_its_options() {
        let line = CommandLine::try_parse_from(["runc", "exec", "-t", "a", "ls", "-l", "--all"]).expect("understood");
        let Some(Command::Exec(exec)) = line.command else { panic!("another command") };
        assert_eq!(exec.args(), ["ls", "-l", "--all"]);
    }
}
