//! Running programs in a sandbox.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use crate::{
    error::Result,
    filter::Filter,
    gvisor::runsc,
    record::Record,
    tool::{describe, spawn_failed},
};

/// A program to run in a sandbox, with the rights of its init; made by [`Sandbox::command`](crate::Sandbox::command).
///
/// Its exit code is the program's own; 128 + n when signal n ended it; 128 when it could not be started, and
/// another one above 0 when it could not and a right is [denied](crate::Deny).
/// Killing the child that stands for it on the host does not end it: SIGINT and SIGTERM are passed on, SIGKILL is not.
#[derive(Debug)]
pub struct Exec {
    runsc: Command,
    id: String,
    /// Whom runsc starts, and with which capabilities when not with the sandbox's.
    user: u32,
    capabilities: Vec<String>,
    /// What comes before the program.
    launcher: Vec<String>,
    env: Vec<OsString>,
    cwd: Option<OsString>,
    argv: Vec<OsString>,
}

impl Exec {
    pub(crate) fn new(record: &Record, root: &Path, argv: Vec<OsString>) -> Self {
        let runsc = runsc(record, root);
        let filter = Filter::of(&record.deny);
        let (privilege, deny) = (record.privilege, &record.deny);
        let (user, capabilities, launcher) = if filter.is_empty() {
            (privilege.id(), Vec::new(), Vec::new())
        } else {
            (0, Filter::launcher_needs(privilege, deny), filter.launcher(privilege, deny))
        };
        Self { runsc, id: record.id(), user, capabilities, launcher, env: Vec::new(), cwd: None, argv }
    }

    /// A shell script of ours, run by root with the right to mount, whatever the rights of the sandbox are.
    pub(crate) fn as_root(record: &Record, root: &Path, script: &str) -> Command {
        let mut command = runsc(record, root);
        command.args(["exec", "--user", "0:0", "--cap", "CAP_SYS_ADMIN", "--cwd", "/"]);
        command.args([&record.id(), "/bin/sh", "-c", script]);
        command
    }

    /// Adds a variable to the sandbox's environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let mut pair = name.as_ref().to_owned();
        pair.push("=");
        pair.push(value);
        self.env.push(pair);
        self
    }

    /// Starts in this directory instead of `/`, or of the user's home where the sandbox is not root's.
    pub fn cwd(mut self, directory: impl AsRef<OsStr>) -> Self {
        self.cwd = Some(directory.as_ref().to_owned());
        self
    }

    /// The host command that runs it, its streams still to be chosen.
    ///
    /// Streams that are all one terminal make the program's terminal. A regular file must not be among them: gVisor
    /// writes to it at an offset of its own.
    pub fn into_command(self) -> Command {
        let mut command = self.runsc;
        command.arg("exec");
        for pair in &self.env {
            command.arg("--env").arg(pair);
        }
        if let Some(directory) = &self.cwd {
            command.arg("--cwd").arg(directory);
        }
        // Always told: 2024-07 takes root unless it is, whoever the init is.
        command.arg("--user").arg(format!("{0}:{0}", self.user));
        // 2024-07 gives these instead of the init's, the later builds beside them.
        for capability in &self.capabilities {
            command.arg("--cap").arg(capability);
        }
        command.arg(&self.id).args(&self.launcher).args(&self.argv);
        command
    }

    /// Starts it with all three streams as pipes.
    pub fn spawn(self) -> Result<Child> {
        let mut command = self.into_command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(|source| spawn_failed(&describe(&command), source))
    }

    /// Runs it to its end, without input.
    pub fn output(self) -> Result<Output> {
        let mut command = self.into_command();
        command.stdin(Stdio::null()).output().map_err(|source| spawn_failed(&describe(&command), source))
    }
}
