//! Delegation to the IPAM plugin (CNI specification 1.1, section 4): its program is looked up on `CNI_PATH` and run
//! with our environment and our whole configuration on stdin.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;

use serde::Deserialize;

use crate::attachment::Attachment;
use crate::result::CniResult;

/// Why there is no address, or why one was not given back.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// No such program.
    #[error("IPAM plugin {plugin} is not in CNI_PATH {path}")]
    Missing {
        /// Its name.
        plugin: String,
        /// Where it was looked for.
        path: String,
    },
    /// The program cannot be run.
    #[error("cannot run IPAM plugin {}", program.display())]
    Run {
        /// Where it is.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ran and said no, in CNI's own terms.
    #[error("IPAM plugin {plugin}: {message}")]
    Refused {
        /// Its name.
        plugin: String,
        /// Its code.
        code: u32,
        /// Its message and details.
        message: String,
    },
    /// It ended badly and did not say why.
    #[error("IPAM plugin {plugin} failed with {status}: {printed}")]
    Failed {
        /// Its name.
        plugin: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The beginning of what it printed.
        printed: String,
    },
    /// Its result makes no sense.
    #[error("cannot understand the result of IPAM plugin {plugin}")]
    Result {
        /// Its name.
        plugin: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
struct Refusal {
    code: u32,
    msg: String,
    #[serde(default)]
    details: String,
}

/// An IPAM plugin with the configuration that it is asked about.
#[derive(Debug, Clone, Copy)]
pub struct IpamPlugin<'a> {
    /// `ipam.type`
    pub plugin: &'a str,
    /// `CNI_PATH`
    pub path: &'a str,
    /// The configuration, byte for byte as the runtime gave it.
    pub stdin: &'a [u8],
}

impl IpamPlugin<'_> {
    /// Takes an address.
    pub fn add(&self) -> Result<CniResult, IpamError> {
        let output = self.run("ADD", None)?;
        serde_json::from_slice(&output).map_err(|source| IpamError::Result { plugin: self.plugin.into(), source })
    }

    /// Runs a command that returns nothing: `DEL`, `CHECK`, `GC` or `STATUS`. `DEL` is also the way back from ADD.
    pub fn command(&self, command: &str) -> Result<(), IpamError> {
        self.run(command, None).map(drop)
    }

    /// Gives back what an attachment has, another one than that which this call is about.
    pub fn release(&self, attachment: &Attachment) -> Result<(), IpamError> {
        self.run("DEL", Some(attachment)).map(drop)
    }

    fn run(&self, command: &str, attachment: Option<&Attachment>) -> Result<Vec<u8>, IpamError> {
        let program = self.find()?;
        let output =
            self.execute(&program, command, attachment).map_err(|source| IpamError::Run { program, source })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let plugin = self.plugin.to_owned();
        Err(match serde_json::from_slice::<Refusal>(&output.stdout) {
            Ok(refusal) => {
                let texts = [refusal.msg, refusal.details];
                let message = texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ");
                IpamError::Refused { plugin, code: refusal.code, message }
            }
            Err(_) => {
                let printed = String::from_utf8_lossy(&output.stdout).trim().chars().take(500).collect();
                IpamError::Failed { plugin, status: output.status, printed }
            }
        })
    }

    fn find(&self) -> Result<PathBuf, IpamError> {
        let missing = || IpamError::Missing { plugin: self.plugin.into(), path: self.path.into() };
        std::env::split_paths(self.path)
            .filter(|folder| !folder.as_os_str().is_empty())
            .map(|folder| folder.join(self.plugin))
            .find(|program| program.is_file())
            .ok_or_else(missing)
    }

    fn execute(&self, program: &PathBuf, command: &str, attachment: Option<&Attachment>) -> io::Result<Output> {
        let attachment = attachment
            .map(|attachment| [("CNI_CONTAINERID", &attachment.container_id), ("CNI_IFNAME", &attachment.if_name)]);
        let mut child = Command::new(program)
            .env("CNI_COMMAND", command)
            .envs(attachment.into_iter().flatten())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let stdin = child.stdin.take();
        thread::scope(|scope| {
            // A plugin may end without reading all of its input; that is not our failure.
            scope.spawn(|| stdin.map(|mut pipe| pipe.write_all(self.stdin)));
            child.wait_with_output()
        })
    }
}
