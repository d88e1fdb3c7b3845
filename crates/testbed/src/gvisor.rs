//! Which gVisor, how it runs programs, with which rights; and its command line.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A gVisor build, named after its month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Gvisor {
    /// Go module `gvisor.dev/gvisor` v0.0.0-20260701204157: says it is kernel 4.19.0-gvisor.
    #[default]
    #[serde(rename = "2026-07")]
    #[value(name = "2026-07")]
    V2026_07,
}

/// How gVisor catches the system calls of the programs inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// seccomp traps and shared memory: gVisor's default.
    #[default]
    Systrap,
    /// ptrace: slow, and works nearly everywhere.
    Ptrace,
}

/// The rights that programs inside have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Privilege {
    /// Root with every capability.
    #[default]
    Full,
}

impl fmt::Display for Gvisor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::V2026_07 => "2026-07",
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Systrap => "systrap",
            Self::Ptrace => "ptrace",
        })
    }
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
        })
    }
}

impl Gvisor {
    /// This build's `runsc`: in `$TERRARIUM_RUNSC_DIR`, else in the directory `testbed` beside that of this program.
    pub fn runsc(self) -> Result<PathBuf> {
        let directory = match std::env::var_os("TERRARIUM_RUNSC_DIR") {
            Some(directory) => PathBuf::from(directory),
            None => beside_this_program().unwrap_or_default(),
        };
        let path = directory.join(format!("runsc-{self}"));
        fs::canonicalize(&path).map_err(|_| Error::NoRunsc { path })
    }
}

fn beside_this_program() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    Some(program.parent()?.parent()?.join("testbed"))
}

/// `runsc` with the flags that every call for one sandbox shares.
pub(crate) fn runsc(binary: &Path, root: &Path, platform: Platform) -> Command {
    let mut command = Command::new(binary);
    command.arg(root_flag(root)).args([
        "--ignore-cgroups",
        "--network=sandbox",
        "--net-raw",
        &format!("--platform={platform}"),
        // Writes reach the copy of the root on disk, as in users' sandboxes.
        "--overlay2=none",
        "--host-uds=all",
    ]);
    command
}

/// The argument that tells every runsc process of one sandbox from all others.
pub(crate) fn root_flag(root: &Path) -> String {
    format!("--root={}", root.display())
}
