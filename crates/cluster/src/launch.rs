//! Starting the components' processes: with an environment that is chosen, output that goes to the component's log, and,
//! for services, a record that is there before the program runs.
//!
//! A service is started by way of `terrarium run-component`, which records its own process and then becomes the program
//! by exec(3). So a supervisor that is killed in between leaves no process that its successor does not know of; and of two
//! that start the same service, the second finds the first's record and lets it be.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::component::{CommandLine, Name};
use crate::layout::RUNTIME_DIR;
use crate::process::{self, ProcessRef};
use crate::{Error, Layout, logs};

/// The subcommand that records itself and becomes a component.
pub const RUN_COMPONENT: &str = "run-component";

/// The variables that components take over from whoever called `up`: where programs and trusted certificates are, which
/// proxy leads outside, and what Go's runtime reads. Nothing else of the caller's environment reaches them.
const INHERITED: &[&str] = &[
    "ALL_PROXY",
    "GODEBUG",
    "GOGC",
    "GOMAXPROCS",
    "GOMEMLIMIT",
    "GOTRACEBACK",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// This program, also after its file was replaced by another version.
pub(crate) fn own_program() -> Result<PathBuf, Error> {
    let path = std::env::current_exe().map_err(Error::io("find this program's path", "/proc/self/exe"))?;
    Ok(path.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map_or_else(|| path.clone(), PathBuf::from))
}

/// A call of one of this program's own parts, for the cluster of this layout: root of a user namespace would look for that
/// of root.
pub(crate) fn part(layout: &Layout, name: &str) -> Result<Command, Error> {
    let mut command = Command::new(own_program()?);
    command.arg(name).arg("--data-dir").arg(layout.data()).env(RUNTIME_DIR, layout.runtime());
    Ok(command)
}

/// Starts a service's program, which records itself.
pub(crate) fn service(
    layout: &Layout,
    name: Name,
    command: &CommandLine,
    env: &[(&'static str, String)],
) -> Result<Child, Error> {
    let mut launcher = part(layout, RUN_COMPONENT)?;
    launcher.arg(name).arg(&command.program).arg("--").args(&command.args);
    spawn(layout, name, launcher, env)
}

/// Starts a task's program.
pub(crate) fn step(layout: &Layout, name: Name, command: &CommandLine) -> Result<Child, Error> {
    let mut program = Command::new(&command.program);
    program.args(&command.args);
    spawn(layout, name, program, &[])
}

/// Starts a program whose output goes to the component's log, in a process group of its own: a terminal's Ctrl-C is
/// not for it.
fn spawn(layout: &Layout, name: Name, mut command: Command, env: &[(&'static str, String)]) -> Result<Child, Error> {
    set_apart(&mut command, logs::open(layout, name)?)?;
    command
        .envs(env.iter().map(|(key, value)| (key, value)))
        .env(RUNTIME_DIR, layout.runtime())
        .spawn()
        .map_err(Error::io("run", command.get_program()))
}

/// Parts a program from whoever starts it: environment, terminal and group of processes are not the caller's, and what it
/// says goes to a log.
pub(crate) fn set_apart(command: &mut Command, log: File) -> Result<(), Error> {
    let error_log = log.try_clone().map_err(Error::io("open the log of", command.get_program()))?;
    command
        .env_clear()
        .envs(inherited(std::env::vars_os()))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(error_log)
        .process_group(0);
    Ok(())
}

fn inherited(all: impl Iterator<Item = (OsString, OsString)>) -> impl Iterator<Item = (OsString, OsString)> {
    all.filter(|(key, _)| INHERITED.iter().any(|name| OsStr::new(name) == key))
}

/// Records this process as the component, and becomes its program; ends quietly if the component runs already.
///
/// # Errors
/// The program cannot be run. That the record cannot be written, on a full disk, is said and no error: the supervisor
/// writes it again.
pub fn run_component(layout: &Layout, name: &str, program: &Path, args: &[OsString]) -> Result<(), Error> {
    let claim = match claim(layout, name) {
        Ok(Claim::Taken(process)) => {
            eprintln!("{name} runs already, as process {}", process.pid);
            return Ok(());
        }
        Ok(Claim::Ours(lock)) => Some(lock),
        Err(error) => {
            eprintln!("{name}: {}", crate::error::chain(&error));
            None
        }
    };
    let error = Command::new(program).args(args).exec();
    drop(claim);
    Err(Error::io("run", program)(error))
}

/// Whose a component's name is.
enum Claim {
    /// This process's, by its record. The lock goes with exec(3), and with this process.
    Ours(#[allow(dead_code)] File),
    /// Another's that lives.
    Taken(ProcessRef),
}

fn claim(layout: &Layout, name: &str) -> Result<Claim, Error> {
    let path = layout.record(name).with_extension("lock");
    let lock =
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(Error::io("open", &path))?;
    lock.lock().map_err(Error::io("lock", &path))?;
    if let Some(process) = process::recorded(layout, name) {
        return Ok(Claim::Taken(process));
    }
    let own = ProcessRef::of(std::process::id().cast_signed()).ok_or(Error::NotRunning)?;
    process::record(layout, name, &own)?;
    Ok(Claim::Ours(lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_callers_environment_only_what_is_listed_reaches_components() {
        let all = [("PATH", "/bin"), ("HTTPS_PROXY", "http://p"), ("AWS_SECRET_ACCESS_KEY", "s"), ("PATHS", "x")];
        let all = all.map(|(key, value)| (OsString::from(key), OsString::from(value)));
        let kept: Vec<_> = inherited(all.into_iter()).map(|(key, _)| key).collect();
        assert_eq!(kept, ["PATH", "HTTPS_PROXY"]);
        assert!(INHERITED.is_sorted());
    }

    #[test]
    fn a_component_is_claimed_by_one_process_at_a_time() {
        let (_root, layout) = Layout::temporary();
        let own = ProcessRef::of(std::process::id().cast_signed()).unwrap();
        assert!(matches!(claim(&layout, "part").unwrap(), Claim::Ours(_)));
        assert_eq!(process::recorded(&layout, "part"), Some(own.clone()));
        assert!(matches!(claim(&layout, "part").unwrap(), Claim::Taken(process) if process == own));
        // The one that was recorded is gone.
        let mut child = Command::new("true").spawn().unwrap();
        let gone = ProcessRef::of(child.id().cast_signed());
        child.wait().unwrap();
        if let Some(gone) = gone {
            process::record(&layout, "part", &gone).unwrap();
            assert!(matches!(claim(&layout, "part").unwrap(), Claim::Ours(_)));
        }
    }
}
