//! What is printed: state, lists, processes; and a configuration to begin with.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::error::Doing as _;
use crate::spec::CONFIG;
use crate::{Container, ContainerId, Result, Runtime, Status};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// Only the names
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct Ps {
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,

    /// The container
    id: ContainerId,
}

#[derive(Debug, Args)]
pub(super) struct Spec {
    /// Where it is written
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
}

/// A container as runc prints it: what the specification has, and more.
#[derive(Serialize)]
struct Shown {
    #[serde(rename = "ociVersion")]
    version: &'static str,
    id: String,
    /// 0 if its process has ended.
    pid: i32,
    status: Status,
    bundle: PathBuf,
    rootfs: PathBuf,
    #[serde(skip_serializing_if = "String::is_empty")]
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<std::collections::HashMap<String, String>>,
    owner: &'static str,
}

impl Shown {
    fn of(container: &Container) -> Result<Self> {
        let state = container.state()?;
        let saved = container.saved();
        Ok(Self {
            version: crate::spec::VERSION,
            id: container.id().to_string(),
            pid: state.pid().unwrap_or(0),
            status: container.status(),
            bundle: state.bundle().clone(),
            rootfs: saved.map(|saved| saved.rootfs.clone()).unwrap_or_default(),
            created: saved.map(|saved| saved.created.clone()).unwrap_or_default(),
            annotations: state.annotations().clone(),
            owner: "",
        })
    }
}

pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)
        .map_err(io::Error::from)
        .and_then(|()| writeln!(out))
        .doing("write to stdout")
}

pub(super) fn print_line(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").doing("write to stdout")
}

pub(super) fn state(container: &Container) -> Result<()> {
    print_json(&Shown::of(container)?)
}

impl List {
    pub fn run(self, runtime: &Runtime) -> Result<()> {
        let containers = runtime.list()?;
        if self.quiet {
            return containers.iter().try_for_each(|container| print_line(container.id().as_str()));
        }
        let shown = containers.iter().map(|one| (one, Shown::of(one)));
        // One that was removed meanwhile is left out.
        let shown = shown.filter(|(one, shown)| shown.is_ok() || !one.is_gone());
        let shown = shown.map(|(_, shown)| shown).collect::<Result<Vec<_>>>()?;
        if self.format == Format::Json {
            return print_json(&shown);
        }
        print_line(&format!("{:<20} {:<8} {:<9} {:<30} BUNDLE", "ID", "PID", "STATUS", "CREATED"))?;
        shown.iter().try_for_each(|one| {
            let (id, pid, status, created) = (&one.id, one.pid, one.status.to_string(), &one.created);
            print_line(&format!("{id:<20} {pid:<8} {status:<9} {created:<30} {}", one.bundle.display()))
        })
    }
}

impl Ps {
    pub fn run(self, runtime: &Runtime) -> Result<()> {
        let pids: Vec<i32> = runtime.load(&self.id)?.pids()?.into_iter().map(nix::unistd::Pid::as_raw).collect();
        if self.format == Format::Json {
            return print_json(&pids);
        }
        print_line(&format!("{:<8} COMMAND", "PID"))?;
        pids.into_iter().try_for_each(|pid| print_line(&format!("{pid:<8} {}", command_of(pid))))
    }
}

fn command_of(pid: i32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ")
}

impl Spec {
    pub fn run(self) -> Result<()> {
        write_spec(&self.bundle.join(CONFIG))
    }
}

/// A shell in a root file system beside it. What is there is not overwritten.
fn write_spec(path: &Path) -> Result<()> {
    let mut spec = oci_spec::runtime::Spec::default();
    spec.set_version(crate::spec::VERSION.to_owned()).set_hostname(Some("terrarium".to_owned()));
    let write = || {
        let mut file = File::create_new(path)?;
        serde_json::to_writer_pretty(&mut file, &spec)?;
        writeln!(file)
    };
    write().doing_with(|| format!("write {}", path.display()))
}
