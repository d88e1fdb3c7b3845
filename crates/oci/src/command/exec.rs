//! `exec`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process, User};

use crate::{ContainerId, Error, ExecOptions, Result, Runtime, own_exe, spec, wait};

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// Send the process's terminal to whoever listens at this socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,

    /// Its working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,

    /// A variable of its environment
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,

    /// Its user and group, by their numbers
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,

    /// A further group, by its number
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,

    /// The process, as the configuration has it
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["cwd", "env", "tty", "user", "additional_gids", "no_new_privs", "cap"])]
    process: Option<PathBuf>,

    /// Do not wait for the end
    #[arg(short, long)]
    detach: bool,

    /// Write the ID of the process to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Forbid new privileges
    #[arg(long)]
    no_new_privs: bool,

    /// A capability beside those of the container
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,

    /// Pass on so many open files after the standard streams
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    preserve_fds: u32,

    /// The container
    id: ContainerId,

    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Exec {
    pub fn run(self, runtime: &Runtime) -> Result<ExitCode> {
        own_exe::protect()?;
        let container = runtime.load(&self.id)?;
        let process = match &self.process {
            Some(path) => spec::read(path)?,
            None => self.changed(container.own_process()?)?,
        };
        let options = ExecOptions {
            console_socket: self.console_socket,
            pid_file: self.pid_file,
            preserve_fds: self.preserve_fds,
        };
        let pid = container.exec(&process, &options)?;
        if self.detach { Ok(ExitCode::SUCCESS) } else { wait(pid).map(ExitCode::from) }
    }

    /// The container's own process, with what was asked for in another way.
    fn changed(&self, mut process: Process) -> Result<Process> {
        process.set_args(Some(self.args.clone())).set_terminal(Some(self.tty)).set_console_size(None);
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if let Some(user) = &self.user {
            process.set_user(parse_user(user)?);
        }
        if !self.additional_gids.is_empty() {
            process.user_mut().set_additional_gids(Some(self.additional_gids.clone()));
        }
        if self.no_new_privs {
            process.set_no_new_privileges(Some(true));
        }
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(self.env.iter().cloned());
        process.set_env(Some(env));
        if !self.cap.is_empty() {
            let more = self.cap.iter().map(|name| parse_capability(name)).collect::<Result<_>>()?;
            let sets = process.capabilities().clone().unwrap_or_default();
            process.set_capabilities(Some(with(sets, &more)));
        }
        Ok(process)
    }

    #[cfg(test)]
    pub fn args(&self) -> &[String] {
        &self.args
    }
}

/// Names of users are for images; runc knows none either.
fn parse_user(text: &str) -> Result<User> {
    let number = |text: &str| text.parse().map_err(|_| Error::spec("--user", format!("{text:?} is not a number")));
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    let mut user = User::default();
    user.set_uid(number(uid)?).set_gid(number(gid)?);
    Ok(user)
}

fn parse_capability(name: &str) -> Result<Capability> {
    // By the names that the configuration has.
    let known = serde_json::from_value(name.to_ascii_uppercase().into());
    known.map_err(|_| Error::spec("--cap", format!("{name:?} is not known")))
}

/// In the sets in which runc adds them.
fn with(mut sets: LinuxCapabilities, more: &Capabilities) -> LinuxCapabilities {
    let added = |set: &Option<Capabilities>| Some(set.iter().flatten().chain(more).copied().collect::<Capabilities>());
    let (bounding, effective, permitted) = (added(sets.bounding()), added(sets.effective()), added(sets.permitted()));
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_numbers() {
        let user = parse_user("1000:50").expect("numbers");
        assert_eq!((user.uid(), user.gid()), (1000, 50));
        assert_eq!(parse_user("7").expect("a number").gid(), 0);
        assert_eq!(parse_user("root").expect_err("a name").to_string(), "--user: \"root\" is not a number");
    }

    #[test]
    fn capabilities_are_added() {
        let kill = parse_capability("cap_kill").expect("known");
        let sets = with(LinuxCapabilities::default(), &[kill].into());
        assert!(sets.effective().as_ref().is_some_and(|set| set.contains(&kill)));
        assert!(parse_capability("CAP_NONE").is_err());
    }
}
