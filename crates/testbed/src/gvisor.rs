//! Which gVisor, how it runs programs; and its command line.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    filter::Filter,
    record::Record,
    rights::Deny,
};

/// A gVisor build, named after its month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Gvisor {
    /// Debian's package runsc 0.0~20240729.0: says it is kernel 4.4.0.
    #[serde(rename = "2024-07")]
    #[value(name = "2024-07")]
    V2024_07,
    /// Go module `gvisor.dev/gvisor` v0.0.0-20260224225140: says it is kernel 4.4.0.
    #[serde(rename = "2026-02")]
    #[value(name = "2026-02")]
    V2026_02,
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

impl fmt::Display for Gvisor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&name(*self))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&name(*self))
    }
}

/// The name that the command line has for `choice`.
pub(crate) fn name(choice: impl ValueEnum) -> String {
    choice.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

impl Gvisor {
    /// Every build.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// This build's `runsc`: in `$TERRARIUM_RUNSC_DIR`, else in the directory `testbed` beside that of this program.
    pub fn runsc(self) -> Result<PathBuf> {
        let directory = match std::env::var_os("TERRARIUM_RUNSC_DIR") {
            Some(directory) => PathBuf::from(directory),
            None => beside_this_program().unwrap_or_default(),
        };
        let path = directory.join(format!("runsc-{self}"));
        fs::canonicalize(&path).map_err(|_| Error::NoRunsc { path })
    }

    /// Whether this build takes every network namespace of newer hosts for the root one, and refuses to serve it.
    ///
    /// It looks for `/proc/sys/net/core/rmem_default`, which only the root one had once; on Linux 6.18 all have it. Later
    /// builds look for another file. Nothing else that it reads below `/proc/sys/net` matters to a stack of its own.
    pub(crate) fn mistakes_namespaces(self) -> bool {
        self == Self::V2024_07
    }
}

fn beside_this_program() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    Some(program.parent()?.parent()?.join("testbed"))
}

/// `runsc` with the flags that every call for one sandbox shares; `root` is its `--root`.
pub(crate) fn runsc(record: &Record, root: &Path) -> Command {
    let mut command = Command::new(&record.runsc);
    command.arg(root_flag(root)).args([
        "--ignore-cgroups",
        if record.deny.contains(&Deny::Links) { "--network=host" } else { "--network=sandbox" },
        &format!("--platform={}", record.platform),
        // Writes reach the copy of the root on disk, as in users' sandboxes.
        "--overlay2=none",
        "--host-uds=all",
    ]);
    if !record.deny.contains(&Deny::NetRaw) {
        command.arg("--net-raw");
    }
    if !Filter::of(&record.deny).is_empty() {
        command.arg("--oci-seccomp");
    }
    command
}

/// The argument that tells every runsc process of one sandbox from all others.
pub(crate) fn root_flag(root: &Path) -> String {
    format!("--root={}", root.display())
}
